//! Exactly once, over the wire: programs in another language, and the server, are killed at random
//! moments, and nothing is missing or there twice.
//!
//! `ONCELOG_KILLS=200` kills more often than the short runs here; `ONCELOG_SEED=7` repeats choices
//! (not the moments at which they meet the programs).
//!
//! Not here: the same against a simulated disk with power cuts (`sim_crash`).

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Server, Value, program, script, until};

/// Kills of a short run.
const KILLS: u64 = 30;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Choices, the same for a seed.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").subsec_nanos();
        let seed = setting("ONCELOG_SEED").unwrap_or(now.into());
        println!("ONCELOG_SEED={seed}");
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A program that runs until it is killed, and may end by itself.
struct Program {
    python: PathBuf,
    args: Vec<String>,
    running: Option<Child>,
    /// Those before it that were not killed: they think that they are still the one.
    old: Vec<Child>,
    starts: u64,
}

impl Program {
    fn new(python: &std::path::Path, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (python, running, old, starts) = (python.to_owned(), None, Vec::new(), 0);
        Self { python, args, running, old, starts }
    }

    /// Lets it run, if it does not.
    fn ensure(&mut self, seed: u64) {
        if let Some(child) = &mut self.running {
            let Some(status) = child.try_wait().expect("a child") else { return };
            // Who was fenced, or was told that the server stops, says so and ends with 1.
            let told = std::io::read_to_string(child.stderr.take().expect("it is piped"));
            let told = told.expect("UTF-8");
            let is_told = !told.contains("Traceback") && status.code() == Some(1);
            assert!(is_told, "{:?} failed: {told}", self.args);
        }
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(script(&self.args[0])).arg(&self.args[1]).arg(seed.to_string());
        command.args(&self.args[2..]).stdin(Stdio::null()).stderr(Stdio::piped());
        self.running = Some(command.spawn().expect("it starts"));
        self.starts += 1;
    }

    /// Another one beside it, which is the one from now on.
    fn replace(&mut self, seed: u64) {
        self.old.extend(self.running.take());
        self.ensure(seed);
    }

    fn kill(&mut self) {
        for mut child in self.running.take().into_iter().chain(self.old.drain(..)) {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A moment in which the programs get on.
fn a_while(chance: &mut Chance) {
    thread::sleep(Duration::from_millis(20 + chance.below(400)));
}

fn transfers(server: &Server, log: &str) -> Vec<(u64, String, i64)> {
    let transfer = |record: Vec<u8>| {
        let text = String::from_utf8(record).expect("UTF-8");
        let words: Vec<&str> = text.split(' ').collect();
        let [number, account, amount] = words[..] else { panic!("{text:?} is no transfer") };
        let amount = amount.parse().expect("an amount");
        (number.parse().expect("a number"), account.to_owned(), amount)
    };
    server.records(log).into_iter().map(transfer).collect()
}

/// The log holds number 1, 2, 3, ... once each, and all that were answered.
fn assert_once(transfers: &[(u64, String, i64)], told: &std::path::Path) {
    for (place, (number, ..)) in transfers.iter().enumerate() {
        assert_eq!(*number, place as u64 + 1, "at {place}");
    }
    let told = fs::read_to_string(told).expect("the last number that was answered");
    let told: usize = told.parse().expect("a number");
    assert!(told <= transfers.len(), "{told} was answered, {} are there", transfers.len());
}

#[test]
fn an_append_that_is_sent_again_after_a_lost_answer_is_there_once() {
    let Some(python) = program("python3") else { return };
    let mut chance = Chance::new();
    let mut server = Server::start(&[]);
    server.ask(&["CREATE", "bank/in"]);
    let told = server.dir().join("told");
    let port = server.port.to_string();
    let told_text = told.to_str().expect("UTF-8");
    let args = ["producer.py", &port, "bank/in", told_text, "0.3"];
    let mut producer = Program::new(&python, &args);
    let begin = Instant::now();
    for _ in 0..setting("ONCELOG_KILLS").unwrap_or(KILLS / 2) {
        producer.ensure(chance.0);
        a_while(&mut chance);
        server.kill();
        server.start_again();
    }
    let before = server.records("bank/in").len();
    until("the producer goes on", || {
        producer.ensure(chance.0);
        (server.records("bank/in").len() > before + 100).then_some(())
    });
    producer.kill();
    let transfers = transfers(&server, "bank/in");
    assert_once(&transfers, &told);
    println!("{} appends in {:?}, each once", transfers.len(), begin.elapsed());
}

/// The balances that a processor has committed.
fn balances(server: &Server, reader: &str) -> BTreeMap<String, i64> {
    let claim = server.ask(&["CLAIM", reader]).array();
    let json = |bytes: Vec<u8>| -> BTreeMap<String, i64> {
        serde_json::from_slice(&bytes).expect("a state")
    };
    let mut balances = match &claim[7] {
        Value::Null => BTreeMap::new(),
        snapshot => json(snapshot.clone().bytes()),
    };
    for delta in claim[9].clone().array() {
        for (account, amount) in json(delta.bytes()) {
            *balances.entry(account).or_default() += amount;
        }
    }
    balances
}

/// How many records a processor has not committed yet.
fn lag(server: &Server, reader: &str) -> Option<i64> {
    let all = server.ask(&["READERS", reader]).array();
    Some(all.into_iter().next()?.array()[9].number())
}

#[test]
fn a_processor_counts_each_record_once_whoever_is_killed() {
    let Some(python) = program("python3") else { return };
    let mut chance = Chance::new();
    let mut server = Server::start(&[]);
    for log in ["bank/in", "bank/out"] {
        server.ask(&["CREATE", log]);
    }
    let told = server.dir().join("told");
    let port = server.port.to_string();
    let args = ["producer.py", &port, "bank/in", told.to_str().expect("UTF-8"), "0.02"];
    let mut producer = Program::new(&python, &args);
    let args = ["processor.py", &port, "bank/in", "bank/out", "bank/sums"];
    let mut processor = Program::new(&python, &args);
    let (begin, mut server_kills) = (Instant::now(), 0);
    for _ in 0..setting("ONCELOG_KILLS").unwrap_or(KILLS) {
        producer.ensure(chance.below(u64::MAX));
        processor.ensure(chance.below(u64::MAX));
        a_while(&mut chance);
        match chance.below(10) {
            0..4 => processor.kill(),
            4 => processor.replace(chance.below(u64::MAX)),
            5 => producer.kill(),
            _ => {
                server_kills += 1;
                server.kill();
                server.start_again();
            }
        }
    }
    // The producer may have been killed last, so it goes on until something is there.
    until("there are transfers", || {
        producer.ensure(chance.below(u64::MAX));
        processor.ensure(chance.below(u64::MAX));
        (server.records("bank/in").len() > 100).then_some(())
    });
    producer.kill();
    until("the processor has caught up", || {
        processor.ensure(chance.below(u64::MAX));
        (lag(&server, "bank/sums") == Some(0)).then_some(())
    });
    processor.kill();
    server.kill();
    server.start_again();

    let transfers = transfers(&server, "bank/in");
    assert_once(&transfers, &told);
    let (mut wanted, mut outputs) = (BTreeMap::new(), Vec::new());
    for (number, account, amount) in &transfers {
        let balance: &mut i64 = wanted.entry(account.clone()).or_default();
        *balance += amount;
        outputs.push(format!("{number} {account} {balance}").into_bytes());
    }
    assert_eq!(balances(&server, "bank/sums"), wanted);
    assert!(server.records("bank/out") == outputs, "outputs are not those of a straight count");
    println!(
        "{} transfers in {:?}: the server was killed {server_kills} times, the processor started \
         {} times, the producer {} times",
        transfers.len(),
        begin.elapsed(),
        processor.starts,
        producer.starts
    );
}
