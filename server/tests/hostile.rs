//! Peers that want too much, give too little, never listen or go away: what the server holds stays
//! inside the bounds of docs/protocol.md (P-28, P-29), and others are served.
//!
//! Each server is a process of its own with small limits; its memory is what the kernel says.
//!
//! Not here: a stop with requests under way (`stopping`).

mod peer;

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use oncelog_server::config::Io;
use peer::process::{EACH, Process, command, many_files, refusal};
use peer::{PATIENCE, Peer};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A request of these arguments.
fn request(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// Sends the same bytes until the server closes the connection, and never reads; bytes that went.
fn send_until_cut(peer: &Peer, bytes: &[u8]) -> u64 {
    let mut stream = peer.stream();
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut at) = (0, 0);
    let begin = Instant::now();
    loop {
        match stream.write(&bytes[at..]) {
            Ok(count) => (sent, at) = (sent + count as u64, (at + count) % bytes.len()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(_) => return sent,
        }
        assert!(begin.elapsed() < PATIENCE, "{sent} bytes went, and it was never cut");
    }
}

/// Waits until the server has cut a connection on which nothing is read.
fn wait_until_cut(peer: &Peer) {
    send_until_cut(peer, b"\n");
}

#[test]
fn a_thousand_connections_cost_what_they_may() {
    many_files();
    let server = Process::start(&[]);
    server.connect().ask("CREATE a");
    let mut peers: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    for peer in &mut peers {
        assert_eq!(peer.ask("PING"), "+PONG");
    }
    let each = (server.memory("VmRSS") - server.base) / 1000;
    println!("{} bytes for each idle connection", each);
    assert!(each <= 32 << 10, "{each} bytes for each connection that does nothing");
    let append = request(&[b"APPEND", b"a", &[b'x'; 10 * KIB]]).repeat(4);
    peers.iter_mut().for_each(|peer| peer.send(&append));
    for peer in &mut peers {
        assert!((0..4).all(|_| peer.line().starts_with(':')));
    }
    server.check_memory(1000);
    let most = server.memory("VmRSS");
    for peer in &mut peers {
        assert_eq!(peer.ask("PING"), "+PONG");
    }
    println!("{} KiB, {} before", server.memory("VmRSS") >> 10, most >> 10);
}

#[test]
fn what_is_too_large_is_never_held() {
    let server = Process::start(&[]);
    let chunk = vec![b'x'; MIB];
    let mut peer = server.connect();
    (0..1024).for_each(|_| peer.send(&chunk));
    assert!(peer.ask("").starts_with("-TOOLARGE a line of 65536 bytes or more"));
    peer.send(b"*2\r\n$4\r\nECHO\r\n$1073741824\r\n");
    assert!(peer.line().starts_with("-TOOLARGE a request of 1073741"), "known from its length");
    (0..1024).for_each(|_| peer.send(&chunk));
    assert_eq!(peer.ask("\r\nPING"), "+PONG");
    peer.send(b"*1000000\r\n");
    let args = b"$1\r\nx\r\n".repeat(1000);
    (0..1000).for_each(|_| peer.send(&args));
    assert!(peer.line().starts_with("-TOOLARGE a request of 1000000 arguments"));
    assert_eq!(peer.ask("PING"), "+PONG");
    for _ in 0..200 {
        let mut peer = server.connect();
        peer.send(&b"*1\r\n".repeat(1000));
        assert!(peer.line().starts_with("-ERR Protocol error"));
        assert!(peer.rest().is_empty());
    }
    let mut peers: Vec<_> = (0..200).map(|_| server.connect()).collect();
    peers.iter_mut().for_each(|peer| peer.send(b"*1000000\r\n"));
    peers.iter_mut().for_each(|peer| peer.send(&args));
    server.check_memory(201);
}

#[test]
fn many_small_things_are_counted_as_what_they_take() {
    let server = Process::start(&[]);
    let mut peer = server.connect();
    peer.ask("CREATE a");
    // Records without bytes, as many as a request may have, and as many requests as may be there.
    let mut args: Vec<&[u8]> = vec![b"MAPPEND", b"a", b"5000"];
    args.extend(std::iter::repeat_n(&b""[..], 5000));
    let many = request(&args);
    for round in 0..40 {
        peer.send(&many.repeat(5));
        for part in 0..5 {
            assert_eq!(peer.line(), format!(":{}", (round * 5 + part) * 5000));
        }
    }
    peer.send(b"READ a FROM 0 COUNT 1000000 BYTES 16777216\r\n");
    assert_eq!(peer.line(), "*10000", "a stated number of records at most");
    (0..10_000 * 6).for_each(|_| drop(peer.line()));
    // The answers wait behind an append, and are large.
    let echo = request(&[b"ECHO", &vec![b'x'; 256 * KIB]]);
    for _ in 0..20 {
        peer.send(&[request(&[b"APPEND", b"a", b"x"]), echo.repeat(4)].concat());
        assert!(peer.line().starts_with(':'));
        (0..8).for_each(|_| drop(peer.line()));
    }
    server.check_memory(1);
}

#[test]
fn who_never_reads_is_cut_and_holds_no_more_than_it_may() {
    check_who_never_reads("--transport=auto");
}

#[test]
fn who_never_reads_is_cut_on_epoll_too() {
    check_who_never_reads("--transport=plain");
}

fn check_who_never_reads(transport: &str) {
    let server = Process::start(&["--write-timeout=1s", transport]);
    let mut writer = server.connect();
    writer.ask("CREATE a");
    let record = request(&[b"APPEND", b"a", &[b'x'; 100 * KIB]]);
    (0..100).for_each(|_| writer.send(&record));
    assert!((0..100).all(|_| writer.line().starts_with(':')));
    let reads = b"READ a FROM 0\r\n".repeat(100);
    let echo = request(&[b"ECHO", &vec![b'x'; 100 * KIB]]);
    let pings = b"PING\r\n".repeat(1000);
    let mut cut = Vec::new();
    for bytes in [&reads, &echo, &pings, &b"HELP\r\n".repeat(100)] {
        for _ in 0..2 {
            let (peer, bytes) = (server.connect(), bytes.clone());
            cut.push(std::thread::spawn(move || send_until_cut(&peer, &bytes)));
        }
    }
    let mut followers: Vec<_> = (0..8).map(|_| server.connect()).collect();
    followers.iter_mut().for_each(|peer| peer.send(b"FOLLOW a FROM 0\r\n"));
    let mut other = server.connect();
    let record = request(&[b"APPEND", b"a", &[b'x'; 10 * KIB]]);
    for _ in 0..100 {
        assert_eq!(other.ask("PING"), "+PONG", "others are served meanwhile");
        writer.send(&record);
        let told = writer.line();
        assert!(told.starts_with(':'), "{told}");
    }
    for cut in cut {
        cut.join().unwrap();
    }
    followers.iter().for_each(wait_until_cut);
    // Reads and followers read ahead beside.
    server.check_memory(18 + 10 * 2 * MIB as u64 / EACH);
}

#[test]
fn who_feeds_and_never_reads_counts_loses_nothing() {
    let server = Process::start(&["--write-timeout=1s"]);
    let mut peer = server.connect();
    peer.ask("CREATE a");
    peer.ask("INGEST a");
    let lines = b"0123456789abcdef\n".repeat(4096);
    (0..100).for_each(|_| peer.send(&lines));
    peer.end();
    let told = String::from_utf8(peer.rest()).unwrap();
    assert!(told.ends_with(":409600\r\n"), "the last count: {told:.100}");
    server.check_memory(1);
}

#[test]
fn who_trickles_bytes_is_cut() {
    let idle = Process::start(&["--idle-timeout=1s"]);
    let peers: Vec<_> = (0..20).map(|_| idle.connect()).collect();
    let begin = Instant::now();
    let mut open: Vec<_> = peers.iter().collect();
    while !open.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "{} are there for ever", open.len());
        open.retain(|peer| peer.stream().write(b"x").is_ok());
        std::thread::sleep(Duration::from_millis(50));
    }
    // One that asks stays, also after one that came later and said nothing was cut.
    let (mut peer, silent) = (idle.connect(), idle.connect());
    silent.stream().set_nonblocking(true).unwrap();
    let is_open = || {
        let read = silent.stream().read(&mut [0]);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    let begin = Instant::now();
    while is_open() {
        assert_eq!(peer.ask("PING"), "+PONG");
        assert!(begin.elapsed() < PATIENCE, "who says nothing is there for ever");
    }
    assert_eq!(peer.ask("PING"), "+PONG");
}

#[test]
fn places_are_limited_and_given_back() {
    let server = Process::start(&["--connections-max=4", "--connections-per-address-max=3"]);
    let mut peers: Vec<_> = (0..3).map(|_| server.connect()).collect();
    peers.iter_mut().for_each(|peer| assert_eq!(peer.ask("PING"), "+PONG"));
    let told = server.connect().line();
    assert_eq!(
        told,
        "-LIMIT 3 connections from this address are open, which is the limit; come back"
    );
    drop(peers.pop());
    let begin = Instant::now();
    while !server.connect().try_line_of("PING").is_ok_and(|line| line == "+PONG") {
        assert!(begin.elapsed() < PATIENCE, "a place was given back");
    }
}

#[test]
fn parts_of_large_requests_give_way_and_others_go_on() {
    let server = Process::start(&[]);
    let mut other = server.connect();
    other.ask("CREATE a");
    let head = format!("*3\r\n$6\r\nAPPEND\r\n$1\r\na\r\n${}\r\n", 1000 * KIB);
    let part = [head.as_bytes(), &vec![b'x'; 900 * KIB]].concat();
    let mut peers: Vec<_> = (0..60).map(|_| server.connect()).collect();
    for peer in &mut peers {
        let _ = peer.try_send(&part);
    }
    for _ in 0..20 {
        let told = other.ask("APPEND a x");
        assert!(told.starts_with(':'), "{told}");
        assert_eq!(other.ask("PING"), "+PONG");
        assert!(other.ask("READ a FROM 0 COUNT 1").starts_with("*1"));
        (0..6).for_each(|_| drop(other.line()));
    }
    let (mut told, rest) = (0, [&vec![b'x'; 100 * KIB], &b"\r\nPING\r\n"[..]].concat());
    for peer in &mut peers {
        peer.send(&rest);
        let line = peer.line();
        told += u32::from(line.starts_with("-BUSY"));
        assert!(line.starts_with("-BUSY") || line.starts_with("-TOOLARGE"), "{line}");
        assert_eq!(peer.line(), "+PONG", "it goes on");
    }
    println!("{told} of 60 were told BUSY");
    assert!(told >= 20, "{told} were told, and 60 want more than there is");
    server.check_memory(61);
}

#[test]
fn those_that_wait_for_records_hold_nothing() {
    let server = Process::start(&[]);
    let mut other = server.connect();
    other.ask("CREATE a");
    let mut peers: Vec<_> = (0..200).map(|_| server.connect()).collect();
    peers.iter_mut().for_each(|peer| peer.send(b"READ a FROM 0 BLOCK 0\r\n"));
    for _ in 0..100 {
        assert_eq!(other.ask("CONFIGURE a METADATA x").chars().next(), Some(':'));
    }
    let large = request(&[b"APPEND", b"a", &[b'x'; 100 * KIB]]);
    other.send(&large);
    assert_eq!(other.line(), ":0");
    for peer in &mut peers {
        assert_eq!(peer.line(), "*1");
    }
    server.check_memory(201);
}

#[test]
fn a_peer_that_goes_without_a_word_is_looked_for() {
    let server = Process::start(&[]);
    let mut peer = server.connect();
    assert_eq!(peer.ask("PING"), "+PONG");
    let own = peer.stream().local_addr().unwrap().port();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = format!(":{:04X} 0100007F:{own:04X} 01 ", server.address.port());
    let line = table.lines().find(|line| line.contains(&ends)).expect("its socket");
    let timer = line.split_whitespace().nth(5).unwrap();
    assert!(timer.starts_with("02:"), "the timer of keepalive runs: {timer}");
}

#[test]
fn what_is_taken_already_is_refused_with_a_reason() {
    let server = Process::start(&[]);
    let told = refusal(command(&server.dir.path().join("data"), "127.0.0.1:0", &[]));
    assert!(told.contains("cannot open the engine"), "{told}");
    let free = tempfile::tempdir().unwrap();
    let told = refusal(command(&free.path().join("data"), &server.address.to_string(), &[]));
    let wanted = format!("cannot listen on {}", server.address);
    assert!(told.contains(&wanted) && told.contains("in use"), "{told}");
}

#[test]
fn strangers_have_little_room_and_little_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = peer::config(dir.path(), Io::Plain);
    config.users = Some(peer::users(dir.path()));
    config.handshake_timeout = "1s".parse().unwrap();
    let server = peer::serve(&config);
    let mut peer = Peer::connect(server.addresses()[0]);
    peer.send(&request(&[b"APPEND", b"a", &[b'x'; 20 * KIB]]));
    assert!(peer.line().starts_with("-TOOLARGE"), "16 KiB for those who have not logged in");
    let begin = Instant::now();
    let mut byte = [0];
    while (&mut peer.stream()).write(b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
        assert!(begin.elapsed() < PATIENCE, "it may trickle for ever");
    }
    let _ = (&mut peer.stream()).read(&mut byte);
    // Who logs in has time, also after `RESET`.
    let mut peer = Peer::connect(server.addresses()[0]);
    assert_eq!(peer.ask("AUTH ann secret"), "+OK");
    let mut stranger = Peer::connect(server.addresses()[0]);
    assert_eq!(stranger.line(), "", "one that came later had all its time, and was cut");
    assert_eq!(peer.ask("RESET"), "+RESET");
    assert_eq!(peer.ask("AUTH ann secret"), "+OK");
    drop(peer);
    server.stop().unwrap();
}

#[test]
fn a_line_that_the_log_does_not_take_keeps_none_before_it_from_being_stored() {
    for transport in [Io::Plain, Io::Auto] {
        let dir = tempfile::tempdir().unwrap();
        let server = peer::serve(&peer::config(dir.path(), transport));
        let mut peer = Peer::connect(server.addresses()[0]);
        assert_eq!(peer.ask("CREATE a RECORDMAX 4"), ":1");
        assert_eq!(peer.ask("INGEST a"), "+OK");
        peer.send(b"one\ntwo\nlarge\nfour\n");
        let told = String::from_utf8(peer.rest()).unwrap();
        assert!(
            told.contains("-TOOLARGE") && told.ends_with("; 2 lines are durable\r\n"),
            "{told}"
        );
        let mut peer = Peer::connect(server.addresses()[0]);
        assert_eq!(peer.ask("READ a FROM earliest"), "*2", "what is told is what is there");
        drop(peer);
        server.stop().unwrap();
    }
}
