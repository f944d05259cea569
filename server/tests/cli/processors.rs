//! Processors: seen, moved on and forgotten.

use oncelog::{Commit, Options};
use serde_json::json;

use crate::support::Data;

/// A processor `g/p` that has passed `g/log` up to 2 of 5, and nothing of `g/other`.
fn processed() -> Data {
    let data = Data::new();
    data.run(&["create", "g/other"]).ok();
    data.fill("g/log", 5, 1);
    let engine = Options::new(data.path()).create(false).open().unwrap();
    let log = engine.open_log("g/log").wait().unwrap();
    let options = engine.processor("g/p").source("g/log").source("g/other");
    let (mut processor, _) = options.open().wait().unwrap();
    let commit = Commit::new().position(log.id(), oncelog::Sequence::new(2)).delta("state");
    processor.commit(commit).wait().unwrap();
    engine.close().wait().unwrap();
    data
}

#[test]
fn processors_are_listed_with_their_positions_and_lag() {
    let data = processed();
    let expected = json!({ "name": "g/p", "epoch": 2, "commits": 1, "lag": 3,
                           "positions": { "g/log": 2, "g/other": 0 } });
    assert_eq!(data.run(&["readers", "--json"]).json(), json!([expected]));
    assert_eq!(data.run(&["readers", "h/", "--json"]).json(), json!([]));
    assert_eq!(data.run(&["checkpoint", "g/p", "--json"]).json(), expected);
    let text = "g/p  g/log at 2, g/other at 0, 3 behind, 1 commit, epoch 2\n";
    assert_eq!(data.run(&["readers"]).ok(), text);
    assert!(data.run(&["checkpoint", "g"]).fails(1).contains("no processor"));
}

#[test]
fn a_checkpoint_is_moved_on_only_forward_and_only_if_that_is_meant() {
    let data = processed();
    let set = |args: &[&str]| data.run(&[&["checkpoint", "g/p", "--set"], args].concat());
    assert!(set(&["g/log=4"]).fails(2).contains("say --yes"));
    assert!(set(&["g/log=1", "--yes"]).fails(2).contains("from 2 to 5"));
    assert!(set(&["g/log=6", "--yes"]).fails(2).contains("from 2 to 5"));
    assert!(set(&["g/none=1", "--yes"]).fails(2).contains("is no source"));
    assert_eq!(set(&["g/log", "--yes"]).code, 2);
    // Nothing of that claimed it.
    assert_eq!(data.run(&["checkpoint", "g/p", "--json"]).json()["epoch"], 2);
    let moved = set(&["g/log=4", "--yes", "--json"]).json();
    assert_eq!(moved["positions"], json!({ "g/log": 4, "g/other": 0 }));
    assert_eq!((&moved["commits"], &moved["lag"]), (&json!(2), &json!(1)));
    // Its state is what it was.
    let engine = Options::new(data.path()).create(false).open().unwrap();
    let (_, restored) = engine.processor("g/p").open().wait().unwrap();
    assert_eq!(restored.deltas, ["state"]);
    engine.close().wait().unwrap();
}

#[test]
fn a_processor_that_is_forgotten_holds_nothing_any_more() {
    let data = processed();
    assert!(data.run(&["truncate", "g/log", "--before", "3"]).fails(3).contains("g/p"));
    assert!(data.run(&["drop", "g/log", "--yes"]).fails(3).contains("g/p"));
    assert!(data.run(&["forget", "g/p"]).fails(2).contains("g/log at 2"));
    assert_eq!(data.run(&["forget", "g/p", "--yes"]).ok(), "g/p: forgotten\n");
    assert!(data.run(&["forget", "g/p", "--yes"]).fails(1).contains("no processor"));
    data.run(&["truncate", "g/log", "--before", "3"]).ok();
    data.run(&["drop", "g/log", "--yes"]).ok();
}
