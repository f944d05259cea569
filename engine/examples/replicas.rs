//! State machines that read the same log and so are the same: docs/tutorials/replicas.md
//!
//! ```text
//! kv/commands -> replica 1, 2: each command, from the first on
//!             -> replica 3:    the last snapshot of kv/snapshots, then the commands behind it
//! ```
//!
//! ```text
//! cargo run --release --example replicas
//! ```

use std::collections::BTreeMap;
use std::thread;

use oncelog::{Engine, From, Log, Options, Sequence};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const COMMANDS: u64 = 3000;
const SNAPSHOT_AT: u64 = 2000;

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
    let commands = engine.create_log("kv/commands").wait()?;
    let snapshots = engine.create_log("kv/snapshots").wait()?;

    // Both follow from the beginning, in steps of different sizes, while commands come.
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| Replica::default().follow(&commands, 7, Some(&snapshots)));
        let second = scope.spawn(|| Replica::default().follow(&commands, 1000, None));
        let pending: Vec<_> = (0..COMMANDS).map(|n| commands.append(command(n))).collect();
        for append in pending {
            append.wait()?;
        }
        let join = "it does not panic";
        Result::Ok((first.join().expect(join)?, second.join().expect(join)?))
    })?;
    println!("replica 1: {} commands, digest {:016x}", first.applied, first.digest());
    println!("replica 2: {} commands, digest {:016x}", second.applied, second.digest());

    // What the snapshot holds need not be kept as commands.
    commands.truncate(Sequence::new(SNAPSHOT_AT)).wait()?;
    let mut third = Replica::from_snapshot(&engine)?;
    println!("replica 3 begins with a snapshot of {} commands", third.applied);
    assert_eq!(third.applied, SNAPSHOT_AT);
    third = third.follow(&commands, 100, None)?;
    println!("replica 3: {} commands, digest {:016x}", third.applied, third.digest());
    assert_eq!(first.values, second.values);
    assert_eq!(first.values, third.values);

    // One command more changes the digest: it does tell states apart.
    let digest = third.digest();
    third.apply("set key-1 other")?;
    assert_ne!(third.digest(), digest);
    engine.close().wait()?;
    Ok(())
}

/// Some command: made from its number alone, so each run writes the same.
fn command(n: u64) -> String {
    let key = n * 7919 % 101;
    match n % 5 {
        0 => format!("set key-{key} {n}"),
        1 => format!("del key-{key}"),
        _ => format!("add key-{key} {}", n % 17),
    }
}

#[derive(Default)]
struct Replica {
    /// How many commands, and so the sequence of the next one.
    applied: u64,
    values: BTreeMap<String, String>,
}

impl Replica {
    /// What a command does may depend on the state and on the command, on nothing else: no clock,
    /// no random number, no hash map's order.
    fn apply(&mut self, command: &str) -> Result<()> {
        match command.split(' ').collect::<Vec<_>>()[..] {
            ["set", key, value] => drop(self.values.insert(key.to_owned(), value.to_owned())),
            ["add", key, value] => {
                let old = self.values.get(key).map_or(Ok(0), |old| old.parse::<u64>())?;
                let new = old + value.parse::<u64>()?;
                self.values.insert(key.to_owned(), new.to_string());
            }
            ["del", key] => drop(self.values.remove(key)),
            _ => return Err(format!("{command:?} is no command").into()),
        }
        self.applied += 1;
        Ok(())
    }

    /// Applies all commands that are still to come.
    fn follow(mut self, commands: &Log, step: u64, snapshots: Option<&Log>) -> Result<Self> {
        let from = From::Sequence(Sequence::new(self.applied));
        let mut reader = commands.reader(from).max_records(step);
        while self.applied < COMMANDS {
            for record in reader.next().wait()? {
                assert_eq!(record.sequence.get(), self.applied, "none twice, none left out");
                self.apply(std::str::from_utf8(&record.payload)?)?;
                if let (Some(snapshots), SNAPSHOT_AT) = (snapshots, self.applied) {
                    // State and position in one record: they cannot come apart.
                    snapshots.append(self.encode()).wait()?;
                }
            }
        }
        Ok(self)
    }

    fn from_snapshot(engine: &Engine) -> Result<Self> {
        let snapshots = engine.open_log("kv/snapshots").wait()?;
        let count = snapshots.describe().wait()?.next.get();
        let Some(last) = count.checked_sub(1) else { return Ok(Self::default()) };
        let record = snapshots.get(Sequence::new(last)).wait()?.ok_or("it was truncated")?;
        let mut lines = std::str::from_utf8(&record.payload)?.lines();
        let applied = lines.next().ok_or("the position is missing")?.parse()?;
        let pair = |line| str::split_once(line, ' ').ok_or("a line has two words");
        let values = lines.map(|line| pair(line).map(|(k, v)| (k.to_owned(), v.to_owned())));
        Ok(Self { applied, values: values.collect::<std::result::Result<_, _>>()? })
    }

    fn encode(&self) -> String {
        let values = self.values.iter().map(|(key, value)| format!("{key} {value}\n"));
        format!("{}\n{}", self.applied, values.collect::<String>())
    }

    /// FNV-1a of the state: the same in every build and on every machine.
    fn digest(&self) -> u64 {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        self.encode().bytes().fold(0xcbf2_9ce4_8422_2325, step)
    }
}
