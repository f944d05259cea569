//! docs/protocol.md is what the server does: its exchanges are replayed, its tables compared.
//!
//! ```text
//! > PING              a line that is sent; >> bytes as they are, with \r \n \xHH
//! < +PONG             one line of the answer, without its end; <~ with * for anything
//! < (...)             any lines up to the one that comes next on the page
//! A> B<               connections of other names
//! > (end)  < (end)    no more bytes from here on
//! ```
//!
//! Not here: what no exchange can show (`hostile`, `splits`).

mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use oncelog_server::command::table::COMMANDS;
use oncelog_server::config::{Config, Ingest, Io, Size};
use oncelog_server::error::WORDS;
use peer::Peer;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

fn page() -> String {
    fs::read_to_string(root().join("docs/protocol.md")).expect("docs/protocol.md")
}

/// One worked exchange of the page.
struct Exchange {
    /// The line where it begins.
    line: usize,
    /// What the server is given beside the usual, from the line of the fence.
    server: String,
    steps: Vec<(usize, String)>,
}

fn exchanges(page: &str) -> Vec<Exchange> {
    let (mut found, mut open) = (Vec::new(), None::<Exchange>);
    for (index, line) in page.lines().enumerate() {
        let line_number = index + 1;
        match &mut open {
            Some(_) if line == "```" => found.extend(open.take()),
            Some(_) if line.starts_with('#') || line.is_empty() => {}
            Some(exchange) => exchange.steps.push((line_number, line.to_owned())),
            None => {
                if let Some(server) = line.strip_prefix("```exchange") {
                    let server = server.trim().to_owned();
                    open = Some(Exchange { line: line_number, server, steps: Vec::new() });
                }
            }
        }
    }
    found
}

/// The bytes that a text with `\r`, `\n` and `\xHH` says.
fn unescape(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (byte, len) = match rest {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', ..] => (u8::from_str_radix(&text_of(&rest[1..3]), 16).unwrap(), 3),
            _ => panic!("an escape of {text}"),
        };
        bytes.push(byte);
        rest = &rest[len..];
    }
    bytes
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a text is of a pattern whose stars stand for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A server as the line of a fence asks for.
fn configured(dir: &Path, transport: Io, asked: &str) -> Config {
    let mut config = peer::config(dir, transport);
    for word in asked.split_whitespace() {
        match word {
            "create-logs" => config.create_logs = true,
            "small" => {
                config.request_size_max = Some(Size::kib(4));
                config.args_max = 16;
                config.follows_max = 1;
            }
            "ingest" => {
                let addr = ([127, 0, 0, 1], 0).into();
                config.ingest = vec![Ingest { addr, log: "lines".to_owned() }];
            }
            "users" => config.users = Some(peer::users(dir)),
            word => panic!("no server with {word}"),
        }
    }
    config
}

fn replay(exchange: &Exchange, transport: Io, bytewise: bool) {
    let dir = tempfile::tempdir().unwrap();
    let server = peer::serve(&configured(dir.path(), transport, &exchange.server));
    let mut peers = BTreeMap::<String, Peer>::new();
    let mut unsent = BTreeMap::<String, Vec<u8>>::new();
    let mut skips = false;
    let ways = format!("{transport:?}, {}", if bytewise { "byte by byte" } else { "at once" });
    for (line, step) in &exchange.steps {
        let mark = step.find(['<', '>']).unwrap_or_else(|| panic!("line {line}: < or >"));
        let (name, step) = step.split_at(mark);
        for (other, bytes) in unsent.iter_mut().filter(|(other, _)| *other != name) {
            send(peers.get_mut(other).expect("it sends"), &std::mem::take(bytes), bytewise);
        }
        let peer = peers.entry(name.to_owned()).or_insert_with(|| {
            let feeds = name == "LINES";
            let lines = server.ingest_addresses();
            Peer::connect(if feeds { lines[0] } else { server.addresses()[0] })
        });
        let kind = step.trim_start_matches(['<', '>', '~']).len();
        let (kind, said) = step.split_at(step.len() - kind);
        let said = said.strip_prefix(' ').unwrap_or(said);
        let waiting = unsent.entry(name.to_owned()).or_default();
        match (kind, said) {
            (">", "(end)") => {
                send(peer, &std::mem::take(waiting), bytewise);
                peer.end();
            }
            (">", said) => waiting.extend([said.as_bytes(), b"\r\n"].concat()),
            (">>", said) => waiting.extend(unescape(said)),
            ("<", "(...)") => skips = true,
            ("<" | "<~", said) => {
                send(peer, &std::mem::take(waiting), bytewise);
                let wanted = if said == "(end)" { "" } else { said };
                let is_it = |got: &str| if kind == "<" { got == wanted } else { fits(wanted, got) };
                let mut got = peer.try_line().unwrap_or_else(|error| {
                    panic!("line {line} ({ways}): {said}\n but nothing came: {error}")
                });
                while std::mem::take(&mut skips) && !is_it(&got) && !got.is_empty() {
                    (got, skips) = (peer.line(), true);
                }
                skips = false;
                let end = if got.is_empty() { " (nothing, or the end)" } else { "" };
                assert!(is_it(&got), "line {line} ({ways}): {said}\n but there was: {got}{end}");
            }
            _ => panic!("line {line}: {step}"),
        }
    }
    for (name, mut peer) in peers {
        send(&mut peer, &unsent.remove(&name).unwrap_or_default(), bytewise);
        peer.end();
        let rest = text_of(&peer.rest());
        assert_eq!(rest, "", "behind the exchange of line {} ({ways})", exchange.line);
    }
    server.stop().unwrap();
}

fn send(peer: &mut Peer, bytes: &[u8], bytewise: bool) {
    if bytewise {
        bytes.iter().for_each(|byte| peer.send(&[*byte]));
    } else if !bytes.is_empty() {
        peer.send(bytes);
    }
}

fn replay_all(transport: Io) {
    let exchanges = exchanges(&page());
    assert!(exchanges.len() > 20, "the page has exchanges");
    for exchange in &exchanges {
        for bytewise in [false, true] {
            replay(exchange, transport, bytewise);
        }
    }
}

#[test]
fn every_exchange_of_the_page_is_what_happens_on_epoll() {
    replay_all(Io::Plain);
}

#[test]
fn every_exchange_of_the_page_is_what_happens_on_io_uring() {
    // Where the kernel refuses io_uring this is epoll again, as for everyone.
    replay_all(Io::Auto);
}

/// The rows of the tables whose first cell is one word in backquotes, without the backquotes.
fn rows(section: &str) -> Vec<Vec<String>> {
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = |row: &str| {
        let row = row.replace("\\|", "\u{1}");
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.replace('\u{1}', "|").trim().replace('`', "")).collect()
    };
    rows.map(cells).collect()
}

fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let from = page.find(&format!("\n{title}")).unwrap_or_else(|| panic!("no {title}"));
    let behind = &page[from + 1..];
    behind.find("\n## ").map_or(behind, |to| &behind[..to])
}

#[test]
fn the_page_has_every_word_of_an_error_and_no_other() {
    let page = page();
    let rows = rows(section(&page, "## Errors"));
    let told = rows.iter().map(|row| (row[0].as_str(), row[1].as_str()));
    assert!(told.eq(WORDS.iter().copied()), "docs/protocol.md and error.rs differ: {rows:#?}");
}

#[test]
fn the_page_has_every_command_and_no_other() {
    let page = page();
    let mut told: Vec<_> =
        rows(section(&page, "## Commands")).into_iter().map(|row| row[0].clone()).collect();
    told.sort();
    let space = |usage: &str| if usage.is_empty() { "" } else { " " };
    let known = COMMANDS.iter().map(|spec| [spec.name, space(spec.usage), spec.usage].concat());
    assert_eq!(told, known.collect::<Vec<_>>(), "docs/protocol.md and command/table.rs differ");
}

/// The rules that a text names.
fn cited(text: &str) -> BTreeSet<u32> {
    let rest = text.split("(P-").skip(1).filter_map(|rest| rest.split(')').next());
    let numbers = rest.flat_map(|rules| rules.split(", P-").map(str::parse));
    numbers.filter_map(Result::ok).collect()
}

fn sources(dir: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            texts.push(fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_rule_of_the_page_is_named_where_it_is_kept_or_tested() {
    let page = page();
    let stated: Vec<u32> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### P-")?.split('.').next()?.parse().ok())
        .collect();
    assert!(stated.iter().copied().eq(1..=stated.len() as u32), "number them from 1: {stated:?}");
    let mut texts = Vec::new();
    sources(&root().join("server/src"), &mut texts);
    sources(&root().join("server/tests"), &mut texts);
    let cited: BTreeSet<u32> = texts.iter().flat_map(|text| cited(text)).collect();
    let missing: Vec<_> = stated.iter().filter(|rule| !cited.contains(rule)).collect();
    assert!(missing.is_empty(), "name these as (P-n) in server/src or server/tests: {missing:?}");
    let unknown: Vec<_> = cited.iter().filter(|rule| !stated.contains(rule)).collect();
    assert!(unknown.is_empty(), "docs/protocol.md has no rules {unknown:?}");
}
