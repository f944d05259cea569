//! SIGTERM under load: what was answered is durable, nobody keeps the server from ending (P-33).
//!
//! Not here: peers that do harm while it runs (`hostile`).

mod peer;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use oncelog::{From, Options};
use peer::Peer;
use peer::process::Process;

/// Appends numbers without waiting for answers until the connection ends; how many were answered.
fn append_until_the_end(mut peer: Peer, log: &str) -> u64 {
    let mut answered = 0;
    let mut sent = 0_u64;
    loop {
        while sent < answered + 100 {
            if peer.try_send(format!("APPEND {log} {sent}\r\n").as_bytes()).is_err() {
                break;
            }
            sent += 1;
        }
        match peer.try_line() {
            Ok(line) if line == format!(":{answered}") => answered += 1,
            Ok(line) => {
                assert!(line.is_empty() || line.starts_with("-STOPPED"), "{line}");
                return answered;
            }
            Err(_) => return answered,
        }
    }
}

#[test]
fn sigterm_under_load_keeps_what_was_answered_and_waits_for_nobody_for_ever() {
    check_sigterm("--transport=auto");
}

#[test]
fn sigterm_under_load_is_the_same_on_epoll() {
    check_sigterm("--transport=plain");
}

fn check_sigterm(transport: &str) {
    let mut server = Process::start(&["--stop-timeout=2s", transport]);
    let mut writers = Vec::new();
    for writer in 0..8 {
        let mut peer = server.connect();
        assert_eq!(peer.ask(&format!("CREATE log{writer}")), ":1");
        let log = format!("log{writer}");
        writers.push(std::thread::spawn(move || append_until_the_end(peer, &log)));
    }
    let mut waits = server.connect();
    waits.ask("CREATE silent");
    waits.send(b"READ silent FROM 0 BLOCK 0\r\n");
    let mut follows = server.connect();
    assert_eq!(follows.ask("FOLLOW silent FROM 0"), "*2");
    (0..4).for_each(|_| drop(follows.line()));
    let mut deaf = server.connect();
    deaf.stream().set_nonblocking(true).unwrap();
    while deaf.try_send(&b"HELP\r\n".repeat(100)).is_ok() {}
    let mut half = server.connect();
    half.send(b"*2\r\n$4\r\nECHO\r\n$100\r\nhalf");
    let mut quiet: Vec<_> = (0..50).map(|_| server.connect()).collect();
    quiet.iter_mut().for_each(|peer| assert_eq!(peer.ask("PING"), "+PONG"));

    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(waits.line(), "*0", "who waits is told that there is nothing");
    assert!(waits.rest().is_empty());
    assert!(follows.rest().is_empty());
    assert!(quiet.iter_mut().all(|peer| peer.rest().is_empty()));
    let status = server.wait(Duration::from_secs(20));
    println!("it ended after {:?}", begin.elapsed());
    assert_eq!(status.code(), Some(0));

    let answered: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    println!("answered: {answered:?}");
    let engine = Options::new(server.dir.path().join("data")).pin(false).open().unwrap();
    for (writer, answered) in answered.into_iter().enumerate() {
        let log = engine.open_log(format!("log{writer}")).wait().unwrap();
        let durable = log.describe().wait().unwrap().next.get();
        assert!(durable >= answered && answered > 0, "{answered} answered, {durable} durable");
        let mut reader = log.reader(From::Earliest);
        for record in (0..answered).scan(None, |left: &mut Option<oncelog::Records>, _| {
            loop {
                match left.as_mut().and_then(Iterator::next) {
                    Some(record) => return Some(record),
                    None => *left = reader.try_next().wait().unwrap(),
                }
            }
        }) {
            assert_eq!(record.payload, record.sequence.get().to_string());
        }
    }
}
