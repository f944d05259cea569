//! The fault model, on runs made by hand.

use std::collections::BTreeSet;

use super::*;
use crate::power_cut::sectors::SECTOR;

const DIR: Node = 0;
const FILE: Node = 1;

/// A run: changes with their begins and ends.
fn replay(ops: Vec<(Instant, Instant, Change)>) -> Replay {
    let op = |(begin, end, change)| Op { begin, end, change };
    let ops = ops.into_iter().map(op).collect();
    Replay::new(&Arc::new(Recording { ops, end: 100, ..Recording::default() }))
}

fn make(node: Node, name: &str) -> Change {
    Change::Make { dir: DIR, name: name.to_owned(), node, is_dir: false }
}

fn rename(node: Node, from: &str, to: &str) -> Change {
    Change::Rename { dir: DIR, from: from.to_owned(), to: to.to_owned(), node }
}

fn bytes(offset: u64, data: &[u8], through: bool) -> Change {
    Change::Write { node: FILE, offset, data: data.to_vec(), through }
}

fn sync(node: Node) -> Change {
    Change::Sync { node, data_only: false }
}

/// The files of the root and their content.
fn left(replay: &Replay, at: Instant, left: Left) -> BTreeMap<String, Vec<u8>> {
    let Found::Dir(names) = replay.cut(Cut { at, left }).root(&mut Built::default()) else {
        panic!("the root is a directory")
    };
    let file = |(name, found)| match found {
        Found::File(content) => (name, content.to_vec()),
        Found::Dir(_) => panic!("there is no other directory"),
    };
    names.into_iter().map(file).collect()
}

fn content(replay: &Replay, at: Instant, kept: Left) -> Vec<u8> {
    left(replay, at, kept).remove("f").expect("the file is there")
}

/// A file `f` that is there durably, and what happens to it from instant 10 on.
fn with_file(ops: Vec<(Instant, Instant, Change)>) -> Replay {
    let before = vec![(1, 2, make(FILE, "f")), (3, 4, sync(DIR)), (5, 6, sync(FILE))];
    replay(before.into_iter().chain(ops).collect())
}

#[test]
fn a_write_is_durable_only_after_a_sync_that_began_behind_its_end() {
    let late = with_file(vec![(10, 13, bytes(0, b"x", false)), (12, 15, sync(FILE))]);
    assert_eq!(content(&late, 50, Left::Nothing), b"", "the sync began before the write ended");
    let synced = with_file(vec![(10, 11, bytes(0, b"x", false)), (12, 15, sync(FILE))]);
    assert_eq!(content(&synced, 14, Left::Nothing), b"", "the sync has not returned");
    assert_eq!(content(&synced, 15, Left::Nothing), b"x");
    assert_eq!(content(&synced, 9, Left::Everything), b"", "not begun");
    assert_eq!(content(&synced, 10, Left::Everything), b"x", "begun, and carried out");
    let other = with_file(vec![(10, 11, bytes(0, b"x", false)), (12, 15, sync(DIR))]);
    assert_eq!(content(&other, 50, Left::Nothing), b"", "the sync of another file");
}

#[test]
fn a_write_that_writes_through_makes_its_own_bytes_durable_and_no_others() {
    let before = bytes(0, b"a", false);
    let through = with_file(vec![(10, 11, before), (12, 14, bytes(1, b"b", true))]);
    assert_eq!(content(&through, 13, Left::Nothing), b"");
    assert_eq!(content(&through, 14, Left::Nothing), b"\0b");
}

#[test]
fn sizes_are_durable_only_after_a_sync_too() {
    let grown = Change::Reserve { node: FILE, len: 5 };
    let cut = Change::SetLen { node: FILE, len: 2 };
    let sizes = with_file(vec![(10, 11, grown), (12, 13, sync(FILE)), (14, 15, cut)]);
    assert_eq!(content(&sizes, 11, Left::Nothing).len(), 0);
    assert_eq!(content(&sizes, 20, Left::Nothing).len(), 5);
    assert_eq!(content(&sizes, 20, Left::Everything).len(), 2);
}

/// All outcomes of many samples.
fn outcomes<T: Ord>(look: impl Fn(Left) -> T) -> BTreeSet<T> {
    (0..400).map(|seed| look(Left::Some(seed))).collect()
}

#[test]
fn a_write_under_way_is_torn_at_sectors_and_nowhere_else() {
    let data: Vec<u8> = [1, 2, 3].into_iter().flat_map(|byte| [byte; SECTOR]).collect();
    let torn = with_file(vec![(10, 20, bytes(0, &data, true))]);
    let found = outcomes(|kept| content(&torn, 15, kept));
    let mut sectors = BTreeSet::new();
    for content in &found {
        let all_same = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
        assert!(content.chunks(SECTOR).all(all_same));
        sectors.insert(content.chunks(SECTOR).map(|sector| sector[0]).collect::<Vec<_>>());
    }
    for expected in [&[][..], &[1, 2, 3], &[0, 0, 0], &[1], &[0, 2], &[0, 2, 3], &[1, 0, 3]] {
        assert!(sectors.contains(expected), "{expected:?} is not in {sectors:?}");
    }
    assert!(outcomes(|kept| content(&torn, 20, kept)).into_iter().eq([data]), "durable is whole");
}

#[test]
fn names_change_each_for_itself_until_their_directory_is_synced() {
    let changes = vec![
        (1, 2, make(1, "a.tmp")),
        (3, 4, make(2, "b")),
        (5, 6, rename(1, "a.tmp", "a")),
        (7, 8, Change::Remove { dir: DIR, name: "b".to_owned() }),
        (20, 21, sync(DIR)),
    ];
    let names = replay(changes);
    let look = |at| {
        outcomes(|kept| {
            let names = left(&names, at, kept).into_keys();
            names.collect::<Vec<_>>().join(" ")
        })
    };
    let all = ["", "a", "a b", "a.tmp", "a.tmp b", "b"];
    assert!(look(10).iter().eq(all), "{:?}", look(10));
    assert!(look(21).iter().eq(["a"]), "{:?}", look(21));
}
