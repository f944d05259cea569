//! The same commands against a server: the same answers, logins, encryption.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use oncelog::{Commit, Sequence};
use oncelog_server::config::{Addr, Config, MaybeAddr, Size};
use oncelog_server::serve::Server;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Data, Ran, command, finish, run_with};

/// A server in this process.
struct Served {
    server: Option<Server>,
    address: String,
    dir: TempDir,
}

impl Served {
    fn start(change: impl FnOnce(&mut Config, &Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data: dir.path().join("data"),
            shards: Some(1),
            segment_size: Some(Size::mib(1)),
            listen: vec![Addr(([127, 0, 0, 1], 0).into())],
            watch_listen: MaybeAddr(None),
            ..Config::default()
        };
        change(&mut config, dir.path());
        let server = Server::start(&config).unwrap();
        let address = server.addresses()[0].to_string();
        Self { server: Some(server), address, dir }
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"")
    }

    fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        run_with(&[args, &["--server", &self.address]].concat(), input)
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().unwrap();
        }
    }
}

/// A processor `g/p` that has passed the first two records of `g/log`.
fn process(engine: &oncelog::Engine) {
    let log = engine.open_log("g/log").wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/log").open().wait().unwrap();
    let commit = Commit::new().position(log.id(), Sequence::new(2));
    processor.commit(commit).wait().unwrap();
}

/// Each line as JSON, without what differs from engine to engine.
fn comparable(out: &[u8]) -> Vec<Value> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(object) => {
                for key in ["time_us", "created_us", "dlsn", "file"] {
                    object.remove(key);
                }
                object.values_mut().for_each(strip);
            }
            Value::Array(all) => all.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let lines = std::str::from_utf8(out).unwrap().lines();
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| line.into());
    let mut values: Vec<Value> = lines.map(parse).collect();
    values.iter_mut().for_each(strip);
    values
}

const CONVERSATION: &[(&[&str], &[u8])] = &[
    (&["create", "g/log"], b""),
    (&["create", "g/log", "--if-absent"], b""),
    (&["create", "no name"], b""),
    (
        &[
            "create",
            "g/all",
            "--compression",
            "lz4",
            "--record-max",
            "1KiB",
            "--keep-for",
            "7d",
            "--keep-bytes",
            "1GiB",
            "--keep-until",
            "g/p",
            "--keep-until",
            "g/q",
            "--bytes-hard",
            "1MiB",
            "--bytes-soft",
            "1MB",
            "--records-hard",
            "9",
            "--records-soft",
            "8",
            "--metadata",
            "mine",
        ],
        b"",
    ),
    (&["append", "g/log", "--txid", "7"], b"\xff\x00\r\n"),
    (&["append", "g/log", "--lines", "--writer", "w"], b"1\n2\n3\n"),
    (&["append", "g/log", "--lines", "--writer", "w"], b"1\n2\n3\n4"),
    (&["append", "g/log", "x", "--writer", "w", "--number", "40"], b""),
    (&["append", "g/log", "x", "--writer", "w", "--number", "40"], b""),
    (&["append", "g/log", "x", "--txid", "1"], b""),
    (&["append", "g/none", "x"], b""),
    (&["append", "g/all", "x"], b""),
    (&["logs", "--long"], b""),
    (&["logs", "g/a"], b""),
    (&["describe", "g/log"], b""),
    (&["describe", "g/all"], b""),
    (&["describe", "g/none"], b""),
    (&["writers", "g/log"], b""),
    (&["read", "g/log"], b""),
    (&["read", "g/log", "--from", "2", "--count", "2"], b""),
    (&["read", "g/log", "--from", "txid:8"], b""),
    (&["read", "g/log", "--from", "time:0", "--bytes", "5"], b""),
    (&["read", "g/none"], b""),
    (&["tail", "g/log", "-n", "2"], b""),
    (&["count", "g/log"], b""),
    (&["count", "g/log", "--from", "time:0", "--to", "3"], b""),
    (&["follow", "g/log", "--from", "earliest", "-n", "3"], b""),
    (&["readers"], b""),
    (&["import", "g/copy", "--create", "--writer", "i"], b"{\"payload\":\"a\",\"txid\":5}\n"),
    (&["import", "g/copy", "--create", "--writer", "i"], b"{\"payload\":\"a\",\"txid\":5}\n{"),
    (
        &["import", "g/copy", "--writer", "mixed"],
        b"{\"payload\":\"none\"}\n{\"payload\":\"6\",\"txid\":6}\n{\"payload\":\"none\"}\n",
    ),
    (&["export", "g/copy"], b""),
    (&["rename", "g/copy", "g/new"], b""),
    (&["rename", "g/new", "h/new"], b""),
    (&["seal", "g/new"], b""),
    (&["append", "g/new", "x"], b""),
    (&["follow", "g/new", "--from", "earliest"], b""),
    (&["drop", "g/new"], b""),
    (&["drop", "g/new", "--yes"], b""),
    (&["drop", "g/new", "--yes"], b""),
    (&["forget", "w", "--log", "g/log", "--yes"], b""),
    (&["forget", "w", "--log", "g/log", "--yes"], b""),
];

/// Once `g/p` has passed two records.
const ABOUT_A_PROCESSOR: &[&[&str]] = &[
    &["readers"],
    &["checkpoint", "g/p"],
    &["checkpoint", "g/none"],
    &["truncate", "g/log", "--before", "3"],
    &["drop", "g/log", "--yes"],
    &["checkpoint", "g/p", "--set", "g/log=1", "--yes"],
    &["checkpoint", "g/p", "--set", "g/log=4", "--yes"],
    &["truncate", "g/log", "--before", "3"],
    &["truncate", "g/log", "--before", "99"],
    &["read", "g/log", "--from", "1"],
    &["read", "g/log", "--from", "1", "--or-earliest"],
    &["count", "g/log", "--from", "time:0"],
    &["export", "g/log", "--from", "txid:0"],
    &["forget", "g/p"],
    &["forget", "g/p", "--yes"],
    &["drop", "g/log", "--yes"],
];

#[test]
fn a_server_answers_as_a_directory_does() {
    let (served, data) = (Served::start(|_, _| {}), Data::new());
    data.run(&["drop", "g/log", "--yes"]).ok();
    served.run(&["create", "g/log"]).ok();
    served.run(&["drop", "g/log", "--yes"]).ok();
    let same = |args: &[&str], input: &[u8]| {
        let (here, there) = (data.run_with(args, input), served.run_with(args, input));
        assert_eq!(here.code, there.code, "{args:?}: {}{}", here.err, there.err);
        assert_eq!(here.err, there.err, "{args:?}");
        let (here, there) = (comparable(&here.out), comparable(&there.out));
        assert_eq!(here, there, "{args:?}");
    };
    for (args, input) in CONVERSATION {
        same(&[args, &["--json"][..]].concat(), input);
    }
    let engine = oncelog::Options::new(data.path()).create(false).open().unwrap();
    process(&engine);
    engine.close().wait().unwrap();
    drop(engine);
    process(served.server.as_ref().unwrap().engine());
    for args in ABOUT_A_PROCESSOR {
        same(&[args, &["--json"][..]].concat(), b"");
    }
}

#[test]
fn following_gives_records_as_they_come_and_ends_with_the_log() {
    let served = Served::start(|_, _| {});
    served.run(&["create", "g/log"]).ok();
    served.run(&["append", "g/log", "before"]).ok();
    let from = ["follow", "g/log", "--from", "earliest", "--server", &served.address];
    let mut child = command(&from).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().map(|line| line.unwrap());
    // Each is there before the next is appended.
    assert_eq!(next().as_deref(), Some("before"));
    for payload in ["one", "two"] {
        served.run(&["append", "g/log", payload]).ok();
        assert_eq!(next().as_deref(), Some(payload));
    }
    // So are lines, while the input goes on.
    let lines = ["append", "g/log", "--lines", "--server", &served.address];
    let mut lines = command(&lines).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = lines.stdin.take().unwrap();
    for payload in ["three", "four"] {
        writeln!(input, "{payload}").unwrap();
        assert_eq!(next().as_deref(), Some(payload));
    }
    drop(input);
    assert_eq!(lines.wait().unwrap().code(), Some(0));
    served.run(&["seal", "g/log"]).ok();
    assert_eq!(next(), None);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn large_logs_go_over_the_wire_both_ways() {
    let (served, data) = (Served::start(|_, _| {}), Data::new());
    data.fill("g/log", 5000, 700);
    for format in ["json", "binary"] {
        let export = data.run(&["export", "g/log", "--format", format]).out;
        let import = ["import", format, "--create", "--writer", "w"];
        // Cut off on the way, then whole.
        served.run_with(&import, &export[..export.len() / 2]).fails(2);
        served.run_with(&import, &export).ok();
        let back = served.run(&["export", format, "--format", format]);
        assert_eq!(comparable_export(&back.out), comparable_export(&export));
        assert_eq!(served.run(&["read", format]).out, data.payloads("g/log"));
    }
}

/// An export without times and positions on the disk.
fn comparable_export(bytes: &[u8]) -> Vec<Value> {
    if bytes.starts_with(b"oncelog export") {
        return vec![bytes.len().into()];
    }
    comparable(bytes)
}

#[test]
fn users_say_who_they_are_by_a_file_or_the_environment_and_never_on_the_command_line() {
    let served = Served::start(|config, dir| {
        let users = dir.join("users.toml");
        let file = users.to_str().unwrap();
        let add = |name, allow: &str| {
            let args = ["user", "add", file, name, "--allow", allow, "--prefix", "g/"];
            run_with(&args, b"secret\n").ok();
        };
        add("reader", "read");
        add("chief", "read,append,admin,process");
        config.users = Some(users);
    });
    let [password, wrong, none] = ["password", "wrong", "none"].map(|name| served.file(name));
    fs::write(&password, "secret\nand a comment\n").unwrap();
    fs::write(&wrong, "guess\n").unwrap();
    let as_user = |name, file, args: &[&str]| {
        served.run(&[args, &["--user", name, "--password-file", file]].concat())
    };
    as_user("chief", &password, &["create", "g/log"]).ok();
    assert!(served.run(&["logs"]).fails(3).contains("AUTH"));
    assert!(as_user("chief", &wrong, &["logs"]).fails(3).contains("password"));
    as_user("nobody", &password, &["logs"]).fails(3);
    as_user("chief", &none, &["logs"]).fails(3);
    assert_eq!(as_user("reader", &password, &["read", "g/log"]).ok(), "");
    as_user("reader", &password, &["append", "g/log", "x"]).fails(3);
    let mut environment = command(&["logs", "--server", &served.address, "--user", "chief"]);
    environment.env("ONCELOG_PASSWORD", "secret");
    assert_eq!(finish(environment, b"").ok(), "g/log\n");
    assert_eq!(served.run(&["logs", "--user", "chief", "--password", "secret"]).code, 2);
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuer() -> Issuer {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate and its key.
fn sign(issuer: &Issuer, dir: &Path, name: &str) -> (String, String) {
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let paths = [format!("{name}.pem"), format!("{name}.key")].map(|file| dir.join(file));
    fs::write(&paths[0], certificate.pem()).unwrap();
    fs::write(&paths[1], key.serialize_pem()).unwrap();
    fs::set_permissions(&paths[1], PermissionsExt::from_mode(0o600)).unwrap();
    let [certificate, key] = paths.map(|path| path.to_str().unwrap().to_owned());
    (certificate, key)
}

#[test]
fn a_server_is_believed_by_its_certificate_and_a_client_by_its_own() {
    let (ours, others) = (issuer(), issuer());
    let served = Served::start(|config, dir| {
        fs::write(dir.join("ours.pem"), ours.pem()).unwrap();
        fs::write(dir.join("others.pem"), others.pem()).unwrap();
        let (certificate, key) = sign(&ours, dir, "server");
        (config.tls_cert, config.tls_key) = (Some(certificate.into()), Some(key.into()));
        config.tls_client_ca = Some(dir.join("ours.pem"));
        config.tls_client_required = true;
    });
    let (certificate, key) = sign(&ours, served.dir.path(), "client");
    let (foreign, foreign_key) = sign(&others, served.dir.path(), "foreign");
    let port = served.address.rsplit_once(':').unwrap().1;
    let server = format!("localhost:{port}");
    let logs = |args: &[&str]| run_with(&[&["logs", "--server", &server][..], args].concat(), b"");
    let (ca, other_ca) = (served.file("ours.pem"), served.file("others.pem"));
    let own = ["--tls-cert", &certificate, "--tls-key", &key];
    assert_eq!(logs(&[&["--tls", "--tls-ca", &ca][..], &own].concat()).ok(), "");
    // Another authority, no certificate, one of another authority, no encryption.
    logs(&[&["--tls", "--tls-ca", &other_ca][..], &own].concat()).fails(3);
    logs(&["--tls", "--tls-ca", &ca]).fails(3);
    let foreign = ["--tls-cert", &foreign, "--tls-key", &foreign_key];
    logs(&[&["--tls", "--tls-ca", &ca][..], &foreign].concat()).fails(3);
    assert!(logs(&[]).fails(2).contains("TLS"));
    assert!(logs(&["--tls", "--tls-ca", &key]).fails(3).contains("certificate"));
    assert_eq!(logs(&["--tls-ca", &ca]).code, 2);
    assert_eq!(logs(&["--tls", "--tls-cert", &certificate]).code, 2);
}
