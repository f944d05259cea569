//! What a connection answers by itself: greetings, lists of commands, its own name. Much of it is
//! there because clients of Redis ask (P-34).
//!
//! Not here: what needs the engine (`session`).

use crate::command::Talk;
use crate::command::table::{COMMANDS, Spec};
use crate::connection::Connection;
use crate::error::Refusal;
use crate::reply::{Protocol, Reply};

/// The answer, with its effect on the connection.
pub(crate) fn answer(connection: &mut Connection, talk: Talk) -> Reply {
    match talk {
        Talk::Ping(None) if connection.follows.is_empty() => Reply::Simple("PONG"),
        // As clients expect of one that also gets what it did not ask for.
        Talk::Ping(message) if connection.protocol == Protocol::Resp2 && following(connection) => {
            let message = message.map_or(Reply::word(""), Reply::Bulk);
            Reply::Array(vec![Reply::word("pong"), message])
        }
        Talk::Ping(None) => Reply::Simple("PONG"),
        Talk::Ping(Some(message)) | Talk::Echo(message) => Reply::Bulk(message),
        Talk::Hello { protocol, name } => hello(connection, protocol, name),
        Talk::ClientId => Reply::Number(connection.id),
        Talk::ClientName if connection.name.is_empty() => Reply::Null,
        Talk::ClientName => Reply::text(connection.name.clone()),
        Talk::ClientSetName(name) => rename(connection, name),
        Talk::ClientInfo => {
            let user = connection.user().map_or("", |user| user.name.as_str());
            let resp = if connection.protocol == Protocol::Resp3 { 3 } else { 2 };
            let (id, name) = (connection.id, &connection.name);
            Reply::text(format!("id={id} name={name} user={user} resp={resp}\n"))
        }
        Talk::Nothing | Talk::Quit | Talk::Reset => Reply::OK,
        Talk::CommandCount => Reply::Number(COMMANDS.len() as u64),
        Talk::CommandList => Reply::Array(
            COMMANDS.iter().map(|spec| Reply::text(spec.name.to_lowercase())).collect(),
        ),
        Talk::CommandDocs(places) => {
            let doc = |place: usize| {
                let spec = &COMMANDS[place];
                (Reply::text(spec.name.to_lowercase()), documentation(spec))
            };
            Reply::Map(places.into_iter().map(doc).collect())
        }
        Talk::CommandInfo(places) => {
            Reply::Array(places.into_iter().map(|place| about(&COMMANDS[place])).collect())
        }
        Talk::Help(None) => Reply::Array(COMMANDS.iter().map(line).collect()),
        Talk::Help(Some(place)) => Reply::Array(vec![line(&COMMANDS[place])]),
        Talk::Unfollow(log) => unfollow(connection, log),
    }
}

fn following(connection: &Connection) -> bool {
    !connection.follows.is_empty()
}

fn rename(connection: &mut Connection, name: String) -> Reply {
    if name.len() > 64 || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let text = "a connection's name has at most 64 bytes, without spaces";
        return Reply::Error(Refusal::new("ERR", text));
    }
    connection.name = name;
    Reply::OK
}

fn hello(connection: &mut Connection, protocol: Option<u64>, name: Option<String>) -> Reply {
    let wanted = match protocol {
        None => connection.protocol,
        Some(2) => Protocol::Resp2,
        Some(3) => Protocol::Resp3,
        Some(_) => return Reply::Error(Refusal::new("NOPROTO", "unsupported protocol version")),
    };
    if wanted != connection.protocol && following(connection) {
        // In RESP2 nobody could tell pushes from the answers that are under way.
        let text = "it follows, and RESP2 has no pushes: UNFOLLOW before HELLO 2";
        return Reply::Error(Refusal::new("ERR", text));
    }
    if let Some(name) = name
        && let refused @ Reply::Error(_) = rename(connection, name)
    {
        return refused;
    }
    connection.protocol = wanted;
    Reply::map([
        ("server", Reply::word("oncelog")),
        ("version", Reply::word(env!("CARGO_PKG_VERSION"))),
        ("proto", Reply::Number(if wanted == Protocol::Resp3 { 3 } else { 2 })),
        ("id", Reply::Number(connection.id)),
        ("mode", Reply::word("standalone")),
        ("role", Reply::word("master")),
        ("modules", Reply::Array(Vec::new())),
    ])
}

/// One push for each log that is no longer followed, as `UNSUBSCRIBE` has it; the last is the
/// answer.
fn unfollow(connection: &mut Connection, log: Option<String>) -> Reply {
    let told = |log: Reply| vec![Reply::word("unfollow"), log];
    let mut ended = match log {
        None => std::mem::take(&mut connection.follows),
        Some(log) => {
            connection.follows.retain(|followed| *followed != log);
            vec![log]
        }
    };
    let last = ended.pop();
    for log in ended {
        // In the order of requests, also where one before it is not answered.
        connection.answer_next(Reply::Push(told(Reply::text(log))));
    }
    Reply::Push(told(last.map_or(Reply::Null, Reply::text)))
}

fn line(spec: &Spec) -> Reply {
    let Spec { name, usage, summary, .. } = spec;
    let space = if usage.is_empty() { "" } else { " " };
    Reply::text(format!("{name}{space}{usage} -- {summary}"))
}

/// As `COMMAND DOCS` of Redis 7, so that `redis-cli` can help with it.
fn documentation(spec: &Spec) -> Reply {
    let arguments = Reply::map([
        ("name", Reply::word(spec.usage)),
        ("type", Reply::word("string")),
        ("display_text", Reply::word(spec.usage)),
    ]);
    let mut fields = vec![
        (Reply::word("summary"), Reply::word(spec.summary)),
        (Reply::word("since"), Reply::word("0.1.0")),
        (Reply::word("group"), Reply::word(spec.group)),
    ];
    if !spec.usage.is_empty() {
        fields.push((Reply::word("arguments"), Reply::Array(vec![arguments])));
    }
    Reply::Map(fields)
}

/// As `COMMAND INFO` of Redis 7: name, arity, flags, first key, last key, step, then categories,
/// tips, key specifications and subcommands. What it calls keys are logs; nothing here is placed by
/// them.
fn about(spec: &Spec) -> Reply {
    let is_write = ["APPEND", "BATCH", "COMMIT", "MAPPEND", "CREATE", "DROP"].contains(&spec.name);
    let flag = if is_write { "write" } else { "readonly" };
    let arity = 1 + spec.usage.split(' ').take_while(|word| is_needed(word)).count() as u64;
    let has_more = spec.usage.split(' ').count() as u64 >= arity && !spec.usage.is_empty();
    Reply::Array(vec![
        Reply::text(spec.name.to_lowercase()),
        if has_more { Reply::Arity(arity) } else { Reply::Number(arity) },
        Reply::Array(vec![Reply::Simple(flag)]),
        Reply::Number(0),
        Reply::Number(0),
        Reply::Number(0),
        // Clients look for each of these without asking whether it is there.
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}

/// Whether a word of a usage is an argument that must be there.
fn is_needed(word: &str) -> bool {
    !word.is_empty() && !word.starts_with('[')
}
