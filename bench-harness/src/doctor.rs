//! `doctor`: what the host is, and what stands in the way of figures that can be believed.
//!
//! Not here: how the facts are found (`host`).

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::host;
use crate::outcome::{Fact, SCHEMA};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ends with 1 if figures from there would be worthless (memory or network instead of a device, no
direct I/O, no io_uring). Advice alone is no failure.

Examples:
  bench-harness doctor --dir /mnt/nvme
  bench-harness doctor --dir /mnt/nvme --json > host.json")]
pub struct Args {
    /// Where measurements would have their data.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Diagnosis {
    schema: u32,
    commit: String,
    host: Vec<Fact>,
    /// What makes figures worthless.
    worthless: Vec<String>,
}

/// Does it.
///
/// # Errors
/// Figures from there would be worthless, or there is no such directory.
pub fn run(args: &Args) -> Result<()> {
    let dir = &args.dir;
    let stat = dir.metadata().with_context(|| format!("cannot look at {}", dir.display()))?;
    if !stat.is_dir() {
        bail!("{} is no directory", dir.display());
    }
    let diagnosis = Diagnosis {
        schema: SCHEMA,
        commit: host::commit(),
        host: host::facts(dir),
        worthless: host::worthless(dir),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&diagnosis).context("cannot make JSON")?);
    } else {
        print!("{}", table(&diagnosis.host));
    }
    if !diagnosis.worthless.is_empty() {
        bail!("figures from {} say nothing: {}", dir.display(), diagnosis.worthless.join("; "));
    }
    Ok(())
}

/// The facts, then the advice; a star marks a fact that has some.
fn table(facts: &[Fact]) -> String {
    let width = facts.iter().map(|fact| fact.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for fact in facts {
        let star = if fact.advice.is_some() { "*" } else { " " };
        text += &format!("{star} {:width$}  {}\n", fact.name, fact.value);
    }
    let advice = facts.iter().filter_map(|fact| Some((&fact.name, fact.advice.as_ref()?)));
    for (index, (name, advice)) in advice.enumerate() {
        let head = if index == 0 { "\nadvice\n" } else { "" };
        text += &format!("{head}* {name}: {advice}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_below_the_table_and_is_marked_in_it() {
        let fact = |name: &str, value: &str, advice: Option<&str>| Fact {
            name: name.to_owned(),
            value: value.to_owned(),
            advice: advice.map(str::to_owned),
        };
        let facts =
            [fact("kernel", "Linux 6.18", None), fact("cpu governor", "powersave", Some("set it"))];
        let expected = "  kernel        Linux 6.18\n\
                        * cpu governor  powersave\n\
                        \nadvice\n* cpu governor: set it\n";
        assert_eq!(table(&facts), expected);
        assert!(!table(&facts[..1]).contains("advice"));
    }
}
