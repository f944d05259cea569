//! No bytes make a parser panic, hang or accept what the format does not know.
//!
//! `FUZZ_SECONDS=60 cargo test -p oncelog-tests --test parsers` looks longer. A failure prints the
//! command that shows it again.
//!
//! Not here: the targets (`oncelog_tests::parse::parsers`), and the search with coverage (`fuzz/`).

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oncelog::format::VERSION;
use oncelog::format::entry::Entry;
use oncelog_tests::parse::mangle::mutate;
use oncelog_tests::parse::parsers::TARGETS;
use oncelog_tests::rng::{Rng, mix};

/// Mutations of each target, and the time that they may take if no other is asked for.
const SEEDS: u64 = 20_000;
const SECONDS: u64 = 1;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(root().join("golden").join(name)).unwrap()
}

/// The entries of a segment.
fn entries(file: &[u8]) -> Vec<(Entry, &[u8])> {
    let (mut found, mut rest) = (Vec::new(), &file[4096..]);
    while let Some(entry) = Entry::parse(rest) {
        let (bytes, after) = rest.split_at(entry.length as usize);
        found.push((entry, bytes));
        rest = after;
    }
    found
}

fn counted(count: u32, section: &[u8]) -> Vec<u8> {
    [&u16::try_from(count).unwrap().to_le_bytes()[..], section].concat()
}

/// What stands in the golden files, in the form that each target takes.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    (1..=VERSION).flat_map(|version| seeds_of(target, version)).collect()
}

fn golden_of(version: u32) -> [Vec<u8>; 3] {
    ["segment", "segment-next", "seal"].map(|name| golden(&format!("{name}-v{version}.bin")))
}

fn seeds_of(target: &str, version: u32) -> Vec<Vec<u8>> {
    let files = golden_of(version);
    let [first, next, seal] = &files;
    let all: Vec<_> = [entries(first), entries(next)].concat();
    let section =
        |bytes: &[u8], offset: u32, len: u32| bytes[offset as usize..][..len as usize].to_vec();
    match target {
        "headers" => {
            let meta = golden(&format!("engine-meta-v{version}.bin"));
            vec![meta[..4096].to_vec(), first[..4096].to_vec()]
        }
        "entry" => all.iter().map(|(_, bytes)| bytes.to_vec()).chain([seal.clone()]).collect(),
        "control" => all
            .iter()
            .filter_map(|(entry, bytes)| {
                let head = entry.control()?;
                Some(counted(head.count, &section(bytes, head.offset, head.len)))
            })
            .collect(),
        "records" => all
            .iter()
            .flat_map(|(entry, bytes)| entry.records().map(move |head| (head, bytes)))
            .map(|(head, bytes)| {
                let stored = section(bytes, head.offset, head.len).into();
                counted(head.count, &head.codec.unpack(&stored, head.raw_len).unwrap())
            })
            .collect(),
        "catalog" | "journal" => [first, next].map(|file| catalog_of(file)).to_vec(),
        "index" => vec![golden(&format!("index-v{version}.bin"))],
        "segment" => {
            let blocks = u8::try_from(first.len() / 4096).unwrap();
            let one = [&[0][..], next].concat();
            vec![[&[blocks][..], first, next].concat(), [&[0][..], first].concat(), one]
        }
        "text" => ["0000000000000007-0000001f-00000002", "payments/eu/orders", "a//b", ".a", "é"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec(),
        other => panic!("{other} has no seeds"),
    }
}

/// All control records of a segment: its manifest, and what came after it.
fn catalog_of(file: &[u8]) -> Vec<u8> {
    let (mut count, mut all) = (0, Vec::new());
    for (entry, bytes) in entries(file) {
        if let Some(head) = entry.control() {
            count += head.count;
            all.extend_from_slice(&bytes[head.offset as usize..][..head.len as usize]);
        }
    }
    counted(count, &all)
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(files) = fs::read_dir(root().join("corpus").join(target)) else { return Vec::new() };
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn seconds() -> u64 {
    std::env::var("FUZZ_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number"))
}

/// Says what failed before it fails.
fn attempt(what: impl Fn() -> String, case: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(case)) {
        eprintln!("{}", what());
        resume_unwind(panic);
    }
}

#[test]
fn what_was_found_once_is_not_found_again() {
    for (name, target) in TARGETS {
        let found = corpus(name);
        assert!(!found.is_empty(), "tests/corpus/{name} is empty");
        for (path, bytes) in found {
            attempt(|| format!("the target {name} fails on {}", path.display()), || target(&bytes));
        }
    }
}

#[test]
fn what_the_engine_wrote_is_accepted() {
    for (name, target) in TARGETS {
        seeds(name).iter().for_each(|seed| target(seed));
    }
    // The seeds of the deepest target reach its end.
    for version in 1..=VERSION {
        let [first, next, _] = golden_of(version);
        assert!(oncelog_tests::parse::parsers::opens(&first, &next), "version {version}");
    }
}

/// Method: the golden files and the corpus, a few bytes changed, all checksums made right again.
#[test]
fn no_change_of_a_few_bytes_makes_a_parser_panic() {
    let only: Option<u64> = std::env::var("SEED").ok().map(|text| text.parse().expect("a number"));
    let wanted = std::env::var("TARGET").ok();
    for (name, target) in TARGETS {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let mut inputs = seeds(name);
        inputs.extend(corpus(name).into_iter().map(|(_, bytes)| bytes));
        let end = Instant::now() + Duration::from_secs(seconds());
        let numbers = only.map_or(0..SEEDS * seconds(), |seed| seed..seed + 1);
        for seed in numbers.take_while(|_| Instant::now() < end) {
            let mut rng = Rng::new(mix(seed));
            let mut bytes = rng.pick(&inputs).expect("there are seeds").clone();
            mutate(&mut bytes, &mut rng);
            let again =
                || format!("TARGET={name} SEED={seed} cargo test -p oncelog-tests --test parsers");
            attempt(again, || target(&bytes));
        }
    }
}

/// Writes the seeds where a fuzzer finds them: see `fuzz/README.md`.
#[test]
fn seeds_are_written_for_the_fuzzer() {
    let scratch = tempfile::tempdir().unwrap();
    let to = std::env::var("SEEDS_TO").map_or(scratch.path().to_owned(), PathBuf::from);
    for (name, _) in TARGETS {
        fs::create_dir_all(to.join(name)).unwrap();
        for (number, seed) in seeds(name).iter().enumerate() {
            fs::write(to.join(name).join(format!("seed-{number:02}")), seed).unwrap();
        }
        assert!(fs::read_dir(to.join(name)).unwrap().count() > 0);
    }
}
