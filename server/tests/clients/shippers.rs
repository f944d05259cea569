//! Programs that ship lines into a feed: `nc`, `tail -F`, rsyslog, and whatever writes and closes.
//!
//! None of them waits for an answer, so after a crash of the server what was under way may be gone;
//! what comes is whole and in order.
//!
//! Not here: lines and their bounds (`frame`, `connection`).

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{Server, free_port, program, run_well, until};

/// A server with a feed of the log `lines`, and the feed's port.
fn with_feed() -> (Server, u16) {
    let port = free_port();
    let server = Server::start(&["--ingest", &format!("127.0.0.1:{port}=lines")]);
    (server, port)
}

fn line(number: usize) -> String {
    format!("line {number} with some words, as programs write them")
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|number| line(number) + "\n").collect()
}

/// The records once there are so many.
fn records(server: &Server, count: usize) -> Vec<String> {
    let next = || {
        let about = server.ask(&["DESCRIBE", "lines"]).array();
        usize::try_from(about[7].number()).expect("a count")
    };
    until("all lines are records", || (next() >= count).then_some(()));
    let text = |record| String::from_utf8(record).expect("UTF-8");
    server.records("lines").into_iter().map(text).collect()
}

fn assert_all(server: &Server, count: usize) {
    let records = records(server, count);
    assert_eq!(records.len(), count);
    for (number, record) in records.iter().enumerate() {
        assert_eq!(*record, line(number));
    }
}

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn whoever_writes_lines_and_closes_the_socket_loses_none() {
    let (server, port) = with_feed();
    for begin in [0, 50_000] {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        // Nothing is read: what would lie unread at the close would undo what was written.
        socket.write_all(lines(begin..begin + 50_000).as_bytes()).expect("they are taken");
        drop(socket);
        assert_all(&server, begin + 50_000);
    }
}

#[test]
fn nc_ships_lines_and_is_told_how_many_are_durable() {
    let (server, port) = with_feed();
    let Some(nc) = program("nc") else { return };
    let ship = |port: u16, input: &str| {
        let mut nc = Command::new(&nc);
        run_well(nc.args(["-N", "127.0.0.1", &port.to_string()]), input.as_bytes())
    };
    assert_eq!(ship(port, &lines(0..10_000)), ":10000\r\n");
    // The same by a command, which may come behind a login; counts come as lines become durable.
    let told = ship(server.port, &format!("INGEST lines\n{}", lines(10_000..20_000)));
    assert!(told.starts_with("+OK\r\n:") && told.ends_with(":10000\r\n"), "{told}");
    assert_all(&server, 20_000);
    let told = ship(port, "whole\nno end");
    assert!(told.starts_with("-ERR the last 6 bytes have no line end"), "{told}");
    assert_eq!(records(&server, 20_001)[20_000], "whole");
}

#[test]
fn tail_ships_a_file_that_grows_and_is_rotated() {
    let (server, port) = with_feed();
    let (Some(nc), Some(tail)) = (program("nc"), program("tail")) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.log");
    fs::write(&path, lines(0..100)).expect("a file");
    let mut tail = Command::new(tail);
    tail.args(["-n", "+1", "-F", "-s", "0.05"]).arg(&path).stderr(Stdio::null());
    let mut tail = Running(tail.stdout(Stdio::piped()).spawn().expect("tail starts"));
    let from = tail.0.stdout.take().expect("it was piped");
    let nc = Command::new(nc).args(["127.0.0.1", &port.to_string()]).stdin(from).spawn();
    let _nc = Running(nc.expect("nc starts"));
    assert_all(&server, 100);
    let mut file = File::options().append(true).open(&path).expect("it is there");
    file.write_all(lines(100..200).as_bytes()).expect("it grows");
    assert_all(&server, 200);
    fs::rename(&path, dir.path().join("app.log.1")).expect("it is rotated");
    fs::write(&path, lines(200..300)).expect("a new file");
    assert_all(&server, 300);
}

/// rsyslog with its own configuration: it follows `app.log` in a directory, and forwards its lines.
fn rsyslog(dir: &Path, port: u16) -> Option<Running> {
    let rsyslogd = program("rsyslogd")?;
    let here = dir.to_str().expect("UTF-8");
    let config = format!(
        r#"global(workDirectory="{here}" maxMessageSize="64k")
module(load="imfile")
template(name="line" type="string" string="%msg%\n")
input(type="imfile" File="{here}/app.log" Tag="app" ruleset="ship")
ruleset(name="ship") {{
  action(type="omfwd" target="127.0.0.1" port="{port}" protocol="tcp" template="line"
         queue.type="LinkedList" queue.workerThreads="1"
         action.resumeRetryCount="-1" action.resumeInterval="1")
}}
"#
    );
    let path = dir.join("rsyslog.conf");
    fs::write(&path, config).expect("a file");
    let log = File::create(dir.join("rsyslog.log")).expect("a file");
    let mut command = Command::new(rsyslogd);
    command.arg("-n").arg("-f").arg(path).arg("-i").arg(dir.join("rsyslog.pid"));
    let out = log.try_clone().expect("a file");
    Some(Running(command.stdout(out).stderr(log).spawn().expect("rsyslogd starts")))
}

#[test]
fn rsyslog_ships_all_lines_and_goes_on_after_a_crash_of_the_server() {
    let (mut server, port) = with_feed();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.log");
    fs::write(&path, lines(0..5_000)).expect("a file");
    let Some(_rsyslog) = rsyslog(dir.path(), port) else { return };
    assert_all(&server, 5_000);
    let mut file = File::options().append(true).open(&path).expect("it is there");
    file.write_all(lines(5_000..10_000).as_bytes()).expect("it grows");
    assert_all(&server, 10_000);

    server.kill();
    server.start_again();
    // What rsyslog had sent when the server went is gone: TCP told it that it was taken. It notices
    // when it sends more, and goes on.
    let mut number = 10_000;
    until("lines come again", || {
        file.write_all(lines(number..number + 1).as_bytes()).expect("it grows");
        number += 1;
        (server.records("lines").len() > 10_000).then_some(())
    });
    file.write_all(lines(number..number + 1_000).as_bytes()).expect("it grows");
    let last = line(number + 999);
    until("the last line comes", || {
        let records = server.records("lines");
        (records.last().is_some_and(|record| record == last.as_bytes())).then_some(())
    });
    let records = records(&server, 10_001);
    let numbers: Vec<usize> = records
        .iter()
        .map(|record| {
            let number = record.split(' ').nth(1).and_then(|word| word.parse().ok());
            let number = number.unwrap_or_else(|| panic!("no line was sent as {record:?}"));
            assert_eq!(*record, line(number), "lines are whole");
            number
        })
        .collect();
    assert!(numbers[..10_000].iter().copied().eq(0..10_000));
    assert!(numbers.is_sorted(), "what comes is in order");
    let lost = number + 1_000 - numbers.len();
    println!("rsyslog lost {lost} of {} lines when the server was killed", number + 1_000);
}
