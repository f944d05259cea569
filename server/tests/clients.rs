//! Clients that other people wrote, against the server as a process: each does here what
//! docs/clients.md says that it does.
//!
//! Not here: what an answer is to the byte (`connection`, `reply`), hostile clients.

mod common;
#[path = "clients/openssl.rs"]
mod openssl;
#[path = "clients/shippers.rs"]
mod shippers;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Server, node, program, redis_py, run, run_well};

/// The command, to be run to its end.
fn oncelog() -> Command {
    Command::new(env!("CARGO_BIN_EXE_oncelog"))
}

/// A file with one user, who may do everything with names that begin so.
fn users_file(dir: &Path, name: &str, password: &str, prefix: &str) -> PathBuf {
    let path = dir.join("users.toml");
    let mut add = oncelog();
    add.args(["user", "add"]).arg(&path).args([name, "--prefix", prefix]);
    run_well(add.args(["--allow", "read,append,process,admin"]), password.as_bytes());
    path
}

fn redis_cli(server: &Server) -> Option<Command> {
    let mut command = Command::new(program("redis-cli")?);
    command.args(["-h", "127.0.0.1", "-p", &server.port.to_string()]);
    Some(command)
}

#[test]
fn redis_cli_learns_the_commands_and_does_them() {
    let server = Server::start(&[]);
    for protocol in ["-2", "-3"] {
        let Some(mut cli) = redis_cli(&server) else { return };
        let log = format!("cli{protocol}");
        // Without a command it is the prompt: it asks for COMMAND DOCS first, and HELLO with -3.
        let input = format!(
            "help APPEND\nPING\nCREATE {log}\nAPPEND {log} \"a b\\x00\\r\\n\" TXID 5\n\
             READ {log} FROM txid 5\nREAD {log} FROM latest\nAPPEND none x\nDESCRIBE {log}\n"
        );
        let told = run_well(cli.arg(protocol).arg("--no-raw"), input.as_bytes());
        let usage = "log payload [TXID n] [WRITER name epoch number [EXCLUSIVE] | OWNER epoch]";
        assert!(told.contains(usage), "{told}");
        assert!(told.contains("Appends a record; the answer, its sequence, means durable."));
        assert!(told.contains("\"a b\\x00\\r\\n\""), "{told}");
        let words = ["PONG", "(empty array)", "(error) NOLOG there is no log"];
        for word in words.into_iter().chain(["(integer) 5"]) {
            assert!(told.contains(word), "{word} in {told}");
        }
        // Only RESP3 has maps.
        let map = told.contains(&format!("\"name\" => \"{log}\""));
        assert_eq!(map, protocol == "-3", "{told}");
    }
    // One command, its arguments as they are, for scripts; the last one from standard input.
    let Some(mut cli) = redis_cli(&server) else { return };
    let payload = b"from\r\nstandard\0input".as_slice();
    assert_eq!(run_well(cli.args(["-x", "APPEND", "cli-3"]), payload), "1\n");
    assert_eq!(server.records("cli-3")[1], payload);
    let mut cli = redis_cli(&server).expect("it was there");
    let (told, is_well) = run(cli.args(["-e", "APPEND", "none", "x"]), b"");
    assert!(!is_well && told.starts_with("NOLOG"), "{told}");
}

#[test]
fn redis_cli_sends_many_requests_by_its_pipe_mode() {
    let server = Server::start(&[]);
    server.ask(&["CREATE", "many"]);
    let Some(mut cli) = redis_cli(&server) else { return };
    let mut requests = Vec::new();
    for number in 0..20_000 {
        let payload = format!("record\r\n{number}");
        let length = payload.len();
        let request = format!("*3\r\n$6\r\nAPPEND\r\n$4\r\nmany\r\n${length}\r\n{payload}\r\n");
        requests.extend(request.bytes());
    }
    let told = run_well(cli.arg("--pipe"), &requests);
    assert!(told.contains("errors: 0, replies: 20000"), "{told}");
    let records = server.records("many");
    assert_eq!(records.len(), 20_000);
    for (number, record) in records.iter().enumerate() {
        assert_eq!(*record, format!("record\r\n{number}").into_bytes());
    }
}

#[test]
fn redis_py_does_all_in_both_protocols() {
    let server = Server::start(&[]);
    let Some(mut python) = redis_py("redis_py.py") else { return };
    let facts = [
        "essentials",
        "texts",
        "bytes_stay_as_they_are",
        "pipelines",
        "processors",
        "writers",
        "errors",
        "following",
    ];
    let told = run_well(python.arg(server.port.to_string()).args(facts), b"");
    assert_eq!(told.matches("holds in RESP").count(), 2 * facts.len(), "{told}");
}

#[test]
fn redis_py_logs_in_and_may_do_what_its_user_may() {
    let dir = tempfile::tempdir().expect("a directory");
    let users = users_file(dir.path(), "billing", "secret of billing", "billing/");
    let server = Server::start_in(dir, &["--users", users.to_str().expect("UTF-8")]);
    let Some(mut python) = redis_py("redis_py.py") else { return };
    let told = run_well(python.args([&server.port.to_string(), "login"]), b"");
    assert_eq!(told.matches("holds in RESP").count(), 2, "{told}");
    let Some(mut cli) = redis_cli(&server) else { return };
    cli.args(["--no-auth-warning", "--user", "billing", "--pass", "secret of billing"]);
    let told = run_well(&mut cli, b"LOGS\nCREATE others\n");
    assert!(told.contains("billing/l2\nbilling/l3") && told.contains("NOPERM"), "{told}");
}

#[test]
fn node_clients_do_all_that_a_client_needs() {
    let server = Server::start(&[]);
    let Some(mut node) = node("node_clients.mjs") else { return };
    let told = run_well(node.arg(server.port.to_string()), b"");
    assert_eq!(told.matches("all holds").count(), 3, "{told}");
}

#[test]
fn nc_sends_lines_that_are_commands() {
    let server = Server::start(&[]);
    let Some(nc) = program("nc") else { return };
    let port = server.port.to_string();
    let ask = |input: &str| {
        run_well(Command::new(&nc).args(["-N", "127.0.0.1", &port]), input.as_bytes())
    };
    assert_eq!(ask("CREATE notes\r\n"), ":1\r\n");
    let told = ask("APPEND notes 'from a shell'\r\nAPPEND notes \"\\x00\"\nAPPEND none x\nPING\n");
    let (done, rest) = told.split_at(":0\r\n:1\r\n".len());
    assert_eq!(done, ":0\r\n:1\r\n");
    assert!(rest.starts_with("-NOLOG ") && rest.ends_with("\r\n+PONG\r\n"), "{rest}");
    assert_eq!(server.records("notes"), [b"from a shell".as_slice(), b"\0"]);

    // What follows goes on until somebody ends it.
    let mut follow = Command::new(&nc);
    follow.args(["127.0.0.1", &port]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut follow = follow.spawn().expect("nc starts");
    let mut to = follow.stdin.take().expect("it is piped");
    to.write_all(b"FOLLOW notes FROM 1\n").expect("nc takes it");
    drop(to);
    let from = BufReader::new(follow.stdout.take().expect("it is piped"));
    let mut lines = from.lines().map(|line| line.expect("UTF-8"));
    assert!(lines.any(|line| line == "\0"));
    server.ask(&["APPEND", "notes", "a new note"]);
    assert!(lines.any(|line| line == "a new note"));
    follow.kill().expect("it can be killed");
    follow.wait().expect("it ends");
}
