use bytes::Bytes;
use oncelog::NewRecord;

use super::*;
use crate::rights::{Grant, Right};

const LIMITS: Limits = Limits {
    request: RequestLimits { bytes: 4096, args: 64, line: 1024 },
    in_flight: 4,
    in_flight_bytes: 1000,
    output: 2000,
    follows: 2,
    line: 16,
    lines: 200,
};

fn open() -> Connection {
    Connection::new(7, LIMITS, Some(Arc::new(User::everyone())))
}

fn sent(connection: &mut Connection) -> String {
    let mut all = String::new();
    while let Some(bytes) = connection.poll_output() {
        all += std::str::from_utf8(&bytes).unwrap();
    }
    all
}

/// Payloads of the appends that start now, and their tickets.
fn appends(connection: &mut Connection) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    while let Some(work) = connection.poll_work() {
        let Command::Append { records, .. } = work.command else { panic!("{:?}", work.command) };
        let tickets = std::iter::once(work.ticket).chain(work.more);
        let text = |record: NewRecord| String::from_utf8_lossy(&record.payload).into_owned();
        found.extend(tickets.zip(records.into_iter().map(text)));
    }
    found
}

#[test]
fn appends_are_under_way_together_and_answered_in_order() {
    let mut connection = open();
    connection.handle_input(b"APPEND a 1\nPING\nAPPEND a 2\nPING x\n");
    let work = appends(&mut connection);
    assert_eq!(work, [(0, "1".to_owned()), (2, "2".to_owned())]);
    connection.handle_reply(2, Reply::Number(11));
    assert_eq!(sent(&mut connection), "");
    connection.handle_reply(0, Reply::Number(10));
    assert_eq!(sent(&mut connection), ":10\r\n+PONG\r\n:11\r\n$1\r\nx\r\n");
    assert!(connection.is_idle());
}

#[test]
fn appends_to_one_log_that_came_together_are_one_piece_of_work() {
    let mut connection = open();
    connection.handle_input(b"APPEND a 1\nAPPEND a 2\nFOO\nAPPEND a 3\nAPPEND b 4\n");
    let work = connection.poll_work().unwrap();
    assert_eq!((work.ticket, work.more), (0, vec![1, 3]), "what is refused stands between");
    for (ticket, number) in [(0, 10), (1, 11), (3, 12)] {
        connection.handle_reply(ticket, Reply::Number(number));
    }
    let told = sent(&mut connection);
    assert!(told.starts_with(":10\r\n:11\r\n-ERR") && told.ends_with(":12\r\n"), "{told}");
    assert_eq!(appends(&mut connection), [(4, "4".to_owned())]);
    for line in ["MAPPEND a 2 x y", "APPEND a x OWNER 1", "MAPPEND a 1 x WRITER w 1 1"] {
        let mut connection = open();
        connection.handle_input(format!("APPEND a 1\n{line}\nAPPEND a 2\n").as_bytes());
        let work = connection.poll_work().unwrap();
        assert!(work.more.is_empty(), "{line} is whole, or by somebody");
    }
}

#[test]
fn what_is_no_append_waits_for_those_before_it_and_is_waited_for() {
    let mut connection = open();
    connection.handle_input(b"APPEND a 1\nDESCRIBE a\nAPPEND a 2\n");
    assert_eq!(appends(&mut connection).len(), 1);
    connection.handle_reply(0, Reply::Number(0));
    let work = connection.poll_work().unwrap();
    assert!(matches!(work.command, Command::Describe { .. }));
    assert!(connection.poll_work().is_none(), "the append waits");
    connection.handle_reply(work.ticket, Reply::Null);
    assert_eq!(appends(&mut connection), [(2, "2".to_owned())]);
}

#[test]
fn requests_and_bytes_under_way_are_bounded() {
    let mut connection = open();
    for _ in 0..9 {
        connection.handle_input(b"APPEND a x\n");
    }
    assert_eq!(appends(&mut connection).len(), LIMITS.in_flight);
    let mut connection = open();
    for _ in 0..3 {
        connection.handle_input(format!("APPEND a {}\n", "x".repeat(600)).as_bytes());
    }
    assert_eq!(appends(&mut connection).len(), 1, "two of them are more than 1000 bytes");
    connection.handle_input(&vec![b'\n'; READ_AHEAD]);
    assert!(!connection.wants_input(), "enough was read beside what waits");
}

#[test]
fn nothing_starts_while_replies_pile_up() {
    let mut connection = open();
    let mut fed = 0;
    while connection.wants_input() && fed < 1 << 20 {
        connection
            .handle_input(b"ECHO 0123456789012345678901234567890123456789\n".repeat(99).as_slice());
        fed += 46 * 99;
        assert!(connection.poll_work().is_none());
        assert!(connection.output.len() <= LIMITS.output + 100);
        if connection.input_len() > 3 * READ_AHEAD {
            break;
        }
    }
    assert!(!connection.wants_push());
    assert!(!connection.wants_input(), "a peer that never reads is not read from");
    let before = connection.input_len();
    assert!(!sent(&mut connection).is_empty());
    assert!(connection.poll_work().is_none());
    assert!(connection.input_len() < before, "it goes on once the replies were taken");
}

#[test]
fn what_was_whole_before_the_end_of_the_input_is_carried_out() {
    let mut connection = open();
    connection.handle_input(b"APPEND a 1\nAPPEND a 2");
    connection.handle_input_end();
    assert_eq!(appends(&mut connection).len(), 1);
    assert!(!connection.is_done());
    connection.handle_reply(0, Reply::Number(0));
    assert!(connection.poll_work().is_none());
    assert!(!connection.is_done(), "the reply was not sent");
    assert_eq!(sent(&mut connection), ":0\r\n");
    assert!(connection.is_done());
}

#[test]
fn who_has_not_logged_in_may_do_nothing_else() {
    let mut connection = Connection::new(1, LIMITS, None);
    connection.handle_input(b"PING\nAPPEND a b\nHELLO 3\nAUTH ann secret\nPING\n");
    let work = connection.poll_work().unwrap();
    assert_eq!(sent(&mut connection).matches("-NOAUTH").count(), 3);
    assert!(connection.poll_work().is_none(), "the rest waits for the login");
    connection.handle_login(work.ticket, Err(Refusal::new("WRONGPASS", "no")));
    assert!(connection.poll_work().is_none());
    assert_eq!(
        sent(&mut connection),
        "-WRONGPASS no\r\n-NOAUTH say who you are first: AUTH user password\r\n"
    );

    connection.handle_input(b"HELLO 3 AUTH ann secret SETNAME me\nAPPEND a b\nAPPEND b b\n");
    let work = connection.poll_work().unwrap();
    let grants = vec![Grant { prefix: "b".to_owned(), allow: vec![Right::Append] }];
    connection.handle_login(work.ticket, Ok(Arc::new(User { name: "ann".to_owned(), grants })));
    assert_eq!(appends(&mut connection).len(), 1, "one of the two is not allowed");
    let told = sent(&mut connection);
    assert!(told.starts_with("%7\r\n") && told.contains("-NOPERM"), "{told}");
    connection.handle_input(b"CLIENT GETNAME\nRESET\nPING\n");
    connection.handle_reply(work.ticket + 2, Reply::Number(0));
    assert!(connection.poll_work().is_none());
    assert!(
        sent(&mut connection).ends_with(
            "$2\r\nme\r\n+RESET\r\n-NOAUTH say who you are first: AUTH user password\r\n"
        )
    );
}

#[test]
fn replies_are_in_the_protocol_that_was_spoken_when_they_were_asked_for() {
    let mut connection = open();
    connection.handle_input(b"APPEND a 1\nHELLO 3\nCLIENT GETNAME\n");
    assert_eq!(appends(&mut connection).len(), 1);
    connection.handle_reply(0, Reply::Null);
    let told = sent(&mut connection);
    assert!(told.starts_with("$-1\r\n%7\r\n") && told.ends_with("_\r\n"), "{told}");
}

#[test]
fn in_resp2_a_follower_only_follows_and_in_resp3_it_does_anything() {
    let mut connection = open();
    connection.handle_input(b"FOLLOW a FROM earliest\n");
    let work = connection.poll_work().unwrap();
    connection.handle_followed(work.ticket, "a".to_owned());
    connection.handle_push(vec![Reply::word("records")]);
    assert_eq!(sent(&mut connection), "*2\r\n$6\r\nfollow\r\n$1\r\na\r\n*1\r\n$7\r\nrecords\r\n");
    connection.handle_input(b"APPEND a b\nFOLLOW a FROM 0\nUNFOLLOW\nAPPEND a b\n");
    assert_eq!(appends(&mut connection).len(), 1);
    let told = sent(&mut connection);
    assert!(told.starts_with("-ERR while it follows") && told.contains("-EXISTS"), "{told}");
    assert!(told.ends_with("*2\r\n$8\r\nunfollow\r\n$1\r\na\r\n"), "{told}");

    let mut connection = open();
    connection.handle_input(b"HELLO 3\nFOLLOW a FROM earliest\n");
    let work = connection.poll_work().unwrap();
    connection.handle_followed(work.ticket, "a".to_owned());
    connection.handle_input(b"APPEND a b\n");
    assert_eq!(appends(&mut connection).len(), 1);
    assert!(sent(&mut connection).ends_with(">2\r\n$6\r\nfollow\r\n$1\r\na\r\n"));
}

fn lines(connection: &mut Connection) -> Option<(u64, Vec<Bytes>)> {
    let work = connection.poll_work()?;
    let Command::Lines { lines, .. } = work.command else { panic!("{:?}", work.command) };
    Some((work.ticket, lines))
}

#[test]
fn lines_that_feed_a_log_are_counted_as_they_become_durable() {
    let mut connection = open();
    connection.handle_input(b"INGEST a\none\r\ntwo\nthr");
    let work = connection.poll_work().unwrap();
    connection.handle_feeding(work.ticket, "a".to_owned());
    assert_eq!(sent(&mut connection), "+OK\r\n");
    let (ticket, group) = lines(&mut connection).unwrap();
    assert_eq!(group, ["one", "two"]);
    connection.handle_input(b"ee\n");
    assert!(lines(&mut connection).is_none(), "one group at a time");
    connection.handle_lines(ticket, (2, None));
    let (ticket, group) = lines(&mut connection).unwrap();
    assert_eq!(group, ["three"]);
    connection.handle_lines(ticket, (1, None));
    // Nobody has read ":2" yet: the newer count waits until it was sent.
    assert_eq!(sent(&mut connection), ":2\r\n:3\r\n");
    connection.handle_input(b"half");
    connection.handle_input_end();
    assert!(lines(&mut connection).is_none());
    let told = sent(&mut connection);
    assert!(told.starts_with("-ERR the last 4 bytes have no line end"), "{told}");
    assert!(told.contains("3 lines are durable") && connection.is_done(), "{told}");
}

#[test]
fn a_line_that_is_too_long_or_refused_ends_feeding_with_the_count_that_is_durable() {
    for refused in [false, true] {
        let mut connection = Connection::feeding(1, LIMITS, "a".to_owned());
        connection.handle_input(b"one\n12345678901234567890\nthree\n");
        let (ticket, group) = lines(&mut connection).unwrap();
        assert_eq!(group, ["one"]);
        let sealed = || (0, Some(Refusal::new("SEALED", "it is")));
        let answer = if refused { sealed() } else { (1, None) };
        connection.handle_lines(ticket, answer);
        assert!(lines(&mut connection).is_none());
        let told = sent(&mut connection);
        let wanted = if refused { "-SEALED it is; 0 lines" } else { "-TOOLARGE" };
        assert!(told.starts_with(wanted) && told.ends_with("lines are durable\r\n"), "{told}");
        assert!(connection.is_done());
    }
}

#[test]
fn who_did_not_ask_to_feed_is_told_one_count_at_the_end() {
    let mut connection = Connection::feeding(1, LIMITS, "a".to_owned());
    for line in [&b"one\n"[..], b"two\n"] {
        connection.handle_input(line);
        let (ticket, _) = lines(&mut connection).unwrap();
        connection.handle_lines(ticket, (1, None));
        assert_eq!(sent(&mut connection), "");
    }
    connection.handle_input(b"three\n");
    connection.handle_input_end();
    let (ticket, _) = lines(&mut connection).unwrap();
    assert_eq!(sent(&mut connection), "", "the last line is not durable yet");
    connection.handle_lines(ticket, (1, None));
    assert!(lines(&mut connection).is_none());
    assert_eq!(sent(&mut connection), ":3\r\n");
    assert!(connection.is_done());
}

#[test]
fn a_stop_answers_what_was_taken_and_refuses_the_rest() {
    let mut connection = open();
    connection.handle_input(b"APPEND a 1\nDESCRIBE a\nPING\n");
    assert_eq!(appends(&mut connection).len(), 1);
    connection.handle_stop();
    assert!(connection.poll_work().is_none() && !connection.is_done());
    connection.handle_reply(0, Reply::Number(0));
    assert!(sent(&mut connection).starts_with(":0\r\n-STOPPED"));
    assert!(connection.is_done());
}

#[test]
fn answers_that_wait_for_one_before_them_are_counted_and_bounded() {
    let mut connection = open();
    connection.handle_input(b"APPEND a 1\n");
    assert_eq!(appends(&mut connection).len(), 1);
    for _ in 0..3 {
        connection.handle_input(format!("ECHO {}\n", "x".repeat(900)).as_bytes());
    }
    connection.handle_input(b"APPEND a 2\n");
    assert!(connection.poll_work().is_none(), "2000 bytes of answers wait");
    assert!(connection.memory() >= 2700, "and are counted");
    connection.handle_reply(0, Reply::Number(0));
    assert!(sent(&mut connection).starts_with(":0\r\n$900"));
    assert_eq!(appends(&mut connection).len(), 1);
}

#[test]
fn memory_of_a_large_request_and_of_its_answer_is_given_back() {
    let limits = Limits {
        request: RequestLimits { bytes: 1 << 20, ..LIMITS.request },
        output: 1 << 20,
        ..LIMITS
    };
    let mut connection = Connection::new(1, limits, Some(Arc::new(User::everyone())));
    connection.handle_input(b"*2\r\n$4\r\nECHO\r\n$600000\r\n");
    connection.handle_input(&[b'x'; 600_000]);
    assert!(connection.memory() >= 600_000);
    connection.handle_input(b"\r\nPING\nPIN");
    assert!(connection.poll_work().is_none());
    assert_eq!(sent(&mut connection).len(), 600_000 + 11 + 7);
    assert!(connection.memory() < 64 << 10, "{} bytes", connection.memory());
    connection.handle_input(b"G\n");
    assert!(connection.poll_work().is_none());
    assert_eq!(sent(&mut connection), "+PONG\r\n");
}

#[test]
fn a_large_request_that_gives_way_is_answered_and_the_next_one_understood() {
    let mut connection = open();
    connection.handle_input(b"*3\r\n$6\r\nAPPEND\r\n$1\r\na\r\n$3000\r\nxxx");
    assert!(connection.poll_work().is_none() && connection.only_waits_for_more());
    connection.give_way();
    assert!(connection.poll_work().is_none());
    assert!(sent(&mut connection).starts_with("-BUSY"));
    assert!(connection.input_len() == 0, "what came of it is gone");
    connection.handle_input(&[b'x'; 2997]);
    connection.handle_input(b"\r\nPING\n");
    assert!(connection.poll_work().is_none());
    assert_eq!(sent(&mut connection), "+PONG\r\n");
}

#[test]
fn feeding_that_is_refused_while_lines_are_under_way_tells_what_became_of_them() {
    for sealed in [false, true] {
        let mut connection = Connection::feeding(1, LIMITS, "a".to_owned());
        connection.handle_input(b"one\ntwo\n");
        let (ticket, _) = lines(&mut connection).unwrap();
        connection.give_way();
        assert!(!connection.is_done());
        let refusal = || Some(Refusal::new("SEALED", "it is"));
        let answer = if sealed { (0, refusal()) } else { (2, None) };
        connection.handle_lines(ticket, answer);
        let told = sent(&mut connection);
        let (word, count) = if sealed { ("-SEALED", 0) } else { ("-BUSY", 2) };
        assert!(told.starts_with(word), "{told}");
        assert!(told.ends_with(&format!("; {count} lines are durable\r\n")), "{told}");
        assert!(connection.is_done());
    }
}

#[test]
fn the_last_count_is_owed_also_after_the_end() {
    for (asked, stopped) in [(true, false), (false, false), (false, true)] {
        let mut connection = match asked {
            false => Connection::feeding(1, LIMITS, "a".to_owned()),
            true => open(),
        };
        if asked {
            connection.handle_input(b"INGEST a\n");
            let work = connection.poll_work().unwrap();
            connection.handle_feeding(work.ticket, "a".to_owned());
            assert_eq!(connection.poll_output().unwrap(), "+OK\r\n");
        }
        for line in [&b"one\n"[..], b"two\n"] {
            connection.handle_input(line);
            let (ticket, _) = lines(&mut connection).unwrap();
            connection.handle_lines(ticket, (1, None));
        }
        if stopped {
            connection.handle_stop();
        } else {
            connection.handle_input_end();
        }
        assert!(lines(&mut connection).is_none());
        if asked {
            assert_eq!(connection.poll_output().unwrap(), ":1\r\n");
        }
        // Who ships lines and reads nothing sees that the server stops: nothing but the end comes.
        if !stopped {
            assert!(!connection.is_done());
            assert_eq!(connection.poll_output().unwrap(), ":2\r\n");
        }
        assert!(connection.poll_output().is_none() && connection.is_done());
    }
}

#[test]
fn strangers_may_send_little() {
    let limits = Limits { request: RequestLimits { bytes: 1 << 20, ..LIMITS.request }, ..LIMITS };
    let mut connection = Connection::new(1, limits, None);
    connection.handle_input(b"*2\r\n$4\r\nAUTH\r\n$20000\r\n");
    assert!(connection.poll_work().is_none());
    assert!(sent(&mut connection).starts_with("-TOOLARGE"));
}

#[test]
fn a_commit_behind_one_that_was_refused_is_refused_until_the_processor_is_claimed() {
    let too_large = format!("*2\r\n$6\r\nCOMMIT\r\n$9999\r\n{}\r\n", "x".repeat(9999));
    let multi = "MULTI\nCOMMIT r 1 DELTA first\nEXEC\n";
    for refused in ["COMMIT r\n", "COMMIT r 1 DELTA a SNAPSHOT b\n", multi, &too_large] {
        let mut connection = open();
        connection.handle_input(refused.as_bytes());
        connection.handle_input(b"COMMIT r 1 DELTA second\nCLAIM other\n");
        let work = connection.poll_work().unwrap();
        connection.handle_reply(work.ticket, Reply::Error(Refusal::new("NOREADER", "none")));
        connection.handle_input(b"COMMIT r 1 DELTA second\nCLAIM r\nCOMMIT r 2 DELTA third\n");
        let work = connection.poll_work().unwrap();
        assert!(matches!(work.command, Command::Claim { .. }), "{:?}", work.command);
        assert!(sent(&mut connection).contains("-UNCLAIMED a request before it was refused"));
        connection.handle_reply(work.ticket, Reply::Null);
        let work = connection.poll_work().unwrap();
        assert!(matches!(work.command, Command::Commit { .. }));
    }
}

#[test]
fn a_browser_that_was_sent_here_is_not_listened_to() {
    let mut connection = open();
    connection.handle_input(b"*3\r\n$6\r\nAPPEND\r\n$1\r\na\r\n$8\r\nHTTP/1.1\r\n");
    assert_eq!(appends(&mut connection).len(), 1, "a record may say anything");
    for head in ["POST / HTTP/1.1\r\n", "Host: localhost:6380\r\n"] {
        let mut connection = open();
        connection.handle_input(format!("{head}Accept: */*\r\n\r\nDROP a\r\n").as_bytes());
        assert!(connection.poll_work().is_none());
        assert!(sent(&mut connection).starts_with("-ERR this is not HTTP"));
        assert!(connection.is_done());
    }
}

#[test]
fn rights_that_were_taken_away_are_gone_for_what_waits_and_what_is_followed_and_fed() {
    let with = |rights: &[Right]| {
        let grants = vec![Grant { prefix: String::new(), allow: rights.to_vec() }];
        Arc::new(User { name: "ann".to_owned(), grants })
    };
    let mut connection = open();
    connection.handle_input(b"APPEND a 1\nDROP a\n");
    assert_eq!(appends(&mut connection).len(), 1);
    connection.handle_user(with(&[Right::Append]));
    connection.handle_reply(0, Reply::Number(0));
    assert!(connection.poll_work().is_none());
    assert!(sent(&mut connection).contains("-NOPERM"));

    connection.handle_user(with(&[Right::Read]));
    connection.handle_input(b"FOLLOW a FROM 0\nFOLLOW b FROM 0\n");
    let work = connection.poll_work().unwrap();
    connection.handle_followed(work.ticket, "a".to_owned());
    let work = connection.poll_work().unwrap();
    connection.handle_user(with(&[]));
    connection.handle_followed(work.ticket, "b".to_owned());
    assert!(!connection.follows("a") && !connection.follows("b"));

    connection.handle_user(with(&[Right::Append]));
    connection.handle_input(b"INGEST a\none\n");
    let work = connection.poll_work().unwrap();
    connection.handle_feeding(work.ticket, "a".to_owned());
    let (ticket, _) = lines(&mut connection).unwrap();
    connection.handle_user(with(&[Right::Read]));
    connection.handle_input(b"two\n");
    connection.handle_lines(ticket, (1, None));
    assert!(lines(&mut connection).is_none());
    let told = sent(&mut connection);
    assert!(told.ends_with("you may not append to it any more; 1 lines are durable\r\n"), "{told}");
    assert!(connection.is_done());
}

#[test]
fn appends_that_are_too_large_together_are_carried_out_one_after_the_other() {
    let limits = Limits { in_flight_bytes: 1 << 20, ..LIMITS };
    let request = RequestLimits { bytes: 1 << 20, line: 1 << 20, ..LIMITS.request };
    let user = Some(Arc::new(User::everyone()));
    let mut connection = Connection::new(1, Limits { request, ..limits }, user);
    for size in [60_000, 80_000, 10] {
        connection.handle_input(format!("APPEND a {}\n", "x".repeat(size)).as_bytes());
    }
    let work = connection.poll_work().unwrap();
    assert!(work.more.is_empty(), "with the next one it may be more than an entry takes");
    assert!(connection.poll_work().unwrap().more.is_empty());
}

#[test]
fn nothing_of_a_transaction_of_redis_is_carried_out() {
    let mut connection = open();
    connection.handle_input(b"MULTI\nAPPEND a 1\nAPPEND a 2\nEXEC\nAPPEND a 3\n");
    assert_eq!(appends(&mut connection), [(4, "3".to_owned())]);
    assert_eq!(sent(&mut connection).matches("-ERR there are no transactions").count(), 4);
    connection.handle_input(b"MULTI\nRESET\nPING\nEXEC\n");
    connection.handle_reply(4, Reply::Number(0));
    assert!(connection.poll_work().is_none());
    assert!(sent(&mut connection).contains("+RESET\r\n+PONG\r\n-ERR unknown command 'EXEC'"));
}

#[test]
fn lines_before_one_that_the_log_refuses_are_durable_and_counted() {
    let mut connection = open();
    connection.handle_input(b"INGEST a\none\ntwo\nlarge\n");
    let work = connection.poll_work().unwrap();
    connection.handle_feeding(work.ticket, "a".to_owned());
    let (ticket, group) = lines(&mut connection).unwrap();
    assert_eq!(group.len(), 3);
    connection.handle_lines(ticket, (2, Some(Refusal::new("TOOLARGE", "it is"))));
    assert_eq!(sent(&mut connection), "+OK\r\n-TOOLARGE it is; 2 lines are durable\r\n");
    assert!(connection.is_done());
}
