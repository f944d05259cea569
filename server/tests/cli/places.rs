//! The doctor, and positions as text.

use std::fs;

use serde_json::json;

use crate::support::{Data, files, run};

#[test]
fn the_doctor_leaves_no_file_where_no_engine_is_and_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let below = format!("{path}/not/there/yet");
    for place in [path, &below] {
        let ran = run(&["doctor", "--dir", place, "--json"]);
        assert!([0, 1].contains(&ran.code), "{}", ran.err);
        let told: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
        assert_eq!(told["fit"], json!(ran.code == 0));
        assert_eq!(told["looked_at"], path);
        let names: Vec<_> = told["facts"].as_array().unwrap().iter().map(|f| &f["name"]).collect();
        for name in [
            "kernel",
            "io_uring",
            "locked memory",
            "file system",
            "direct I/O",
            "write cache",
            "free space",
            "engine",
        ] {
            assert!(names.contains(&&json!(name)), "{name} is not among {names:?}");
        }
        assert!(!told["engine_will"].as_array().unwrap().is_empty());
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}

#[test]
fn the_doctor_knows_an_engine_by_its_superblock_and_leaves_it_as_it_is() {
    let data = Data::new();
    let before: Vec<_> = files(&data.path()).iter().map(|path| fs::read(path).unwrap()).collect();
    let text = String::from_utf8(run(&["doctor", "--dir", data.path().to_str().unwrap()]).out);
    let text = text.unwrap();
    assert!(text.contains("1 shards, segments of 1.0 MiB"), "{text}");
    let after: Vec<_> = files(&data.path()).iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(before, after);
    let file = data.file("file");
    fs::write(&file, "").unwrap();
    assert!(run(&["doctor", "--dir", &file]).fails(2).contains("no directory"));
}

#[test]
fn memory_is_no_place_for_what_must_survive_a_power_cut() {
    let shm = std::path::Path::new("/dev/shm");
    if oncelog::Host::probe(shm).file_system != "tmpfs" {
        eprintln!("skipped: /dev/shm is no tmpfs here");
        return;
    }
    let ran = run(&["doctor", "--dir", "/dev/shm"]);
    assert!(String::from_utf8_lossy(&ran.out).ends_with("NOT FIT\n"));
    assert!(ran.fails(1).contains("lives in memory"));
}

#[test]
fn positions_on_the_disk_are_written_and_read_as_text_and_bytes() {
    let text = "0000000000000001-0000002a-00000003";
    let bytes = "00000000000000010000002a00000003";
    let expected = json!({ "dlsn": text, "hex": bytes, "segment": 1, "entry": 42, "slot": 3 });
    for args in [&["encode", "1", "42", "3"][..], &["decode", text], &["decode", bytes]] {
        assert_eq!(run(&[&["dlsn"], args, &["--json"]].concat()).json(), expected, "{args:?}");
    }
    let plain = run(&["dlsn", "encode", "1", "42", "3"]).ok();
    assert!(plain.starts_with(&format!("{text}\n")), "{plain}");
    for bad in ["1-2-3", "", &bytes[1..], "zz000000000000010000002a00000003"] {
        assert!(run(&["dlsn", "decode", bad]).fails(2).contains("is no DLSN"), "{bad}");
    }
}
