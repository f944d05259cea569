//! Prints a run that nobody measured, for working on reports: `[rounds [slower]]`.

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let rounds = words.next().map_or(Ok(5), |word| word.parse()).context("rounds: a number")?;
    let slower = words.next().map_or(Ok(1.0), |word| word.parse()).context("slower: a number")?;
    let run = bench_harness::synthetic::run(rounds, slower);
    println!("{}", serde_json::to_string_pretty(&run)?);
    Ok(())
}
