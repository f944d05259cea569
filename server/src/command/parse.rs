//! From words to a [`Command`]; numbers and names have one form (P-5).
//!
//! Not here: what a command is (`command`).

use std::collections::BTreeSet;

use bytes::Bytes;
use oncelog::{Dlsn, Epoch, From, NewRecord, Sequence, TxId};

use super::table::{self, COMMANDS};
use super::{By, Command, Setting, State, Talk, WriterCommand, name_of};
use crate::error::{Refusal, shown};

/// Bytes of records that a `READ` gives at most, unless it says so.
const READ_BYTES: u64 = 1 << 20;
/// What a `READ` may say.
const READ_BYTES_MAX: u64 = 16 << 20;
/// Records that a `READ` may ask for.
const READ_COUNT_MAX: u64 = 10_000;
/// Records, or names, that are given at most, unless more are asked for.
const COUNT: u64 = 1000;

/// Arguments that were not looked at yet.
struct Args {
    spec: usize,
    args: std::vec::IntoIter<Bytes>,
}

impl Args {
    fn usage(&self) -> Refusal {
        let spec = &COMMANDS[self.spec];
        Refusal::new("ERR", format!("usage: {} {}", spec.name, spec.usage))
    }

    fn bytes(&mut self) -> Result<Bytes, Refusal> {
        self.args.next().ok_or_else(|| self.usage())
    }

    fn name(&mut self) -> Result<String, Refusal> {
        name_of(&self.bytes()?)
    }

    fn number(&mut self) -> Result<u64, Refusal> {
        let bytes = self.bytes()?;
        let digits = Some(&bytes).filter(|bytes| bytes.iter().all(u8::is_ascii_digit));
        let text = digits.and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.and_then(|text| text.parse().ok()).ok_or_else(|| {
            Refusal::new("ERR", format!("{} is no number; {}", shown(&bytes), self.usage().text))
        })
    }

    /// A number of things that must still be there.
    fn count(&mut self) -> Result<usize, Refusal> {
        let count = self.number()?;
        let count = usize::try_from(count).ok().filter(|count| *count <= self.args.len());
        count.ok_or_else(|| self.usage())
    }

    fn names(&mut self) -> Result<Vec<String>, Refusal> {
        let count = self.count()?;
        (0..count).map(|_| self.name()).collect()
    }

    fn sequence(&mut self) -> Result<Sequence, Refusal> {
        self.number().map(Sequence::new)
    }

    fn epoch(&mut self) -> Result<Epoch, Refusal> {
        self.number().map(Epoch::new)
    }

    /// Takes the next word if it is this one.
    fn word(&mut self, word: &str) -> bool {
        let next = self.args.as_slice().first();
        let is = next.is_some_and(|next| next.eq_ignore_ascii_case(word.as_bytes()));
        if is {
            self.args.next();
        }
        is
    }

    fn is_empty(&self) -> bool {
        self.args.len() == 0
    }

    /// An optional argument at the end.
    fn last(&mut self) -> Option<Bytes> {
        self.args.next()
    }
}

/// The command that arguments say, and its place in the table.
///
/// # Errors
/// There is no such command, or its arguments are not those of its usage.
pub fn parse(args: Vec<Bytes>) -> Result<(usize, Command), Refusal> {
    let name = args.first().expect("a request has an argument at least");
    let Some(spec) = table::find(name) else {
        let name = shown(name);
        return Err(Refusal::new("ERR", format!("unknown command '{name}'; try HELP")));
    };
    let mut args = Args { spec, args: args.into_iter() };
    args.args.next();
    let command = command(COMMANDS[spec].name, &mut args)?;
    if args.is_empty() { Ok((spec, command)) } else { Err(args.usage()) }
}

fn command(name: &str, args: &mut Args) -> Result<Command, Refusal> {
    Ok(match name {
        "PING" => Command::Talk(Talk::Ping(args.last())),
        "ECHO" => Command::Talk(Talk::Echo(args.bytes()?)),
        "QUIT" => Command::Talk(Talk::Quit),
        "RESET" => Command::Talk(Talk::Reset),
        "SELECT" => match args.number()? {
            0 => Command::Talk(Talk::Nothing),
            _ => return Err(Refusal::new("ERR", "there is one database: 0")),
        },
        "HELLO" => hello(args)?,
        "AUTH" => auth(args)?,
        "CLIENT" => Command::Talk(client(args)?),
        "COMMAND" => Command::Talk(about_commands(args)?),
        "HELP" => Command::Talk(Talk::Help(match args.last() {
            None => None,
            Some(name) => Some(table::find(&name).ok_or_else(|| unknown(&name))?),
        })),
        "UNFOLLOW" => {
            Command::Talk(Talk::Unfollow(args.last().map(|name| name_of(&name)).transpose()?))
        }
        "INFO" => {
            // Sections are all given; clients ask for one and take what they know.
            drop(args.last());
            Command::Info
        }
        "STATS" => Command::Stats,
        "APPEND" => append(args)?,
        "MAPPEND" => append_many(args)?,
        "BATCH" => batch(args)?,
        "READ" => read(args)?,
        "FOLLOW" => {
            let (log, from) = (args.name()?, position(args)?);
            Command::Follow { log, from, dlsn: args.word("DLSN") }
        }
        "CLAIM" => claim(args)?,
        "COMMIT" => commit(args)?,
        "WRITER" => writer(args)?,
        name => about_logs(name, args)?,
    })
}

fn about_logs(name: &str, args: &mut Args) -> Result<Command, Refusal> {
    Ok(match name {
        "READERS" => {
            let prefix = args.last().map(|prefix| name_of(&prefix)).transpose()?;
            Command::Readers { prefix: prefix.unwrap_or_default() }
        }
        "FORGET" => Command::Forget { reader: args.name()? },
        "LOGS" => logs(args)?,
        "CREATE" => {
            let (log, if_absent) = (args.name()?, args.word("IFABSENT"));
            Command::Create { log, if_absent, settings: settings(args)? }
        }
        "CONFIGURE" => {
            let log = args.name()?;
            let version = args.word("VERSION").then(|| args.number()).transpose()?;
            let version =
                version.map(|v| u32::try_from(v).map_err(|_| args.usage())).transpose()?;
            let settings = settings(args)?;
            if settings.is_empty() {
                return Err(args.usage());
            }
            Command::Configure { log, version, settings }
        }
        "DESCRIBE" => Command::Describe { log: args.name()? },
        "DROP" => Command::Drop { log: args.name()? },
        "RENAME" => Command::Rename { log: args.name()?, name: args.name()? },
        "SEAL" => {
            let log = args.name()?;
            let owner = args.word("OWNER").then(|| args.epoch()).transpose()?;
            Command::Seal { log, owner }
        }
        "OWN" => Command::Own { log: args.name()? },
        "SHARE" => Command::Share { log: args.name()? },
        "INGEST" => Command::Ingest { log: args.name()? },
        "TRUNCATE" => {
            let log = args.name()?;
            if !args.word("BEFORE") {
                return Err(args.usage());
            }
            Command::Truncate { log, before: args.sequence()? }
        }
        name => unreachable!("{name} is in the table, so it is understood"),
    })
}

fn unknown(name: &[u8]) -> Refusal {
    Refusal::new("ERR", format!("there is no command {}; try HELP", shown(name)))
}

fn hello(args: &mut Args) -> Result<Command, Refusal> {
    let protocol = if args.is_empty() { None } else { Some(args.number()?) };
    let (mut login, mut name) = (None, None);
    while !args.is_empty() {
        if args.word("AUTH") {
            login = Some((args.name()?, args.bytes()?));
        } else if args.word("SETNAME") {
            name = Some(args.name()?);
        } else {
            return Err(args.usage());
        }
    }
    Ok(match login {
        Some((user, password)) => Command::Auth { user, password, hello: Some((protocol, name)) },
        None => Command::Talk(Talk::Hello { protocol, name }),
    })
}

fn auth(args: &mut Args) -> Result<Command, Refusal> {
    let first = args.bytes()?;
    Ok(match args.last() {
        Some(password) => Command::Auth { user: name_of(&first)?, password, hello: None },
        None => Command::Auth { user: "default".to_owned(), password: first, hello: None },
    })
}

fn client(args: &mut Args) -> Result<Talk, Refusal> {
    let what = args.bytes()?.to_ascii_uppercase();
    Ok(match what.as_slice() {
        b"ID" => Talk::ClientId,
        b"GETNAME" => Talk::ClientName,
        b"SETNAME" => Talk::ClientSetName(args.name()?),
        b"INFO" => Talk::ClientInfo,
        b"SETINFO" => {
            // Which library it is: nothing here depends on it.
            args.bytes()?;
            args.bytes()?;
            Talk::Nothing
        }
        _ => return Err(args.usage()),
    })
}

fn about_commands(args: &mut Args) -> Result<Talk, Refusal> {
    let what = args.last().map(|what| what.to_ascii_uppercase());
    let named = |args: &mut Args| {
        let places: BTreeSet<_> = args.args.by_ref().filter_map(|n| table::find(&n)).collect();
        places.into_iter().collect()
    };
    Ok(match what.as_deref() {
        None => Talk::CommandInfo((0..COMMANDS.len()).collect()),
        Some(b"COUNT") => Talk::CommandCount,
        Some(b"LIST") => Talk::CommandList,
        Some(b"DOCS") if args.is_empty() => Talk::CommandDocs((0..COMMANDS.len()).collect()),
        Some(b"DOCS") => Talk::CommandDocs(named(args)),
        Some(b"INFO") if args.is_empty() => Talk::CommandInfo((0..COMMANDS.len()).collect()),
        Some(b"INFO") => Talk::CommandInfo(named(args)),
        Some(_) => return Err(args.usage()),
    })
}

fn logs(args: &mut Args) -> Result<Command, Refusal> {
    let (mut prefix, mut after, mut count) = (None, String::new(), COUNT);
    while !args.is_empty() {
        if args.word("AFTER") {
            after = args.name()?;
        } else if args.word("COUNT") {
            count = args.number()?;
        } else if prefix.is_none() {
            prefix = Some(args.name()?);
        } else {
            return Err(args.usage());
        }
    }
    let count = usize::try_from(count.min(100_000)).expect("it is small");
    Ok(Command::Logs { prefix: prefix.unwrap_or_default(), after, count })
}

fn settings(args: &mut Args) -> Result<Vec<Setting>, Refusal> {
    let mut settings = Vec::new();
    while !args.is_empty() {
        let option = args.bytes()?;
        settings.push(Setting::parse(&option, &args.bytes()?)?);
    }
    Ok(settings)
}

/// Who appends, if it is said next.
fn by(args: &mut Args, by: &mut By) -> Result<bool, Refusal> {
    if *by != By::Anyone {
        return Ok(false);
    }
    if args.word("OWNER") {
        *by = By::Owner(args.epoch()?);
    } else if args.word("WRITER") {
        let (name, epoch, number) = (args.name()?, args.epoch()?, args.number()?);
        *by = By::Writer { name, epoch, number, exclusive: args.word("EXCLUSIVE") };
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn append(args: &mut Args) -> Result<Command, Refusal> {
    let (log, mut record) = (args.name()?, NewRecord::new(args.bytes()?));
    let mut author = By::Anyone;
    while !args.is_empty() {
        if args.word("TXID") {
            record = record.with_txid(TxId::new(args.number()?));
        } else if !by(args, &mut author)? {
            return Err(args.usage());
        }
    }
    Ok(Command::Append { log, records: vec![record], by: author })
}

fn append_many(args: &mut Args) -> Result<Command, Refusal> {
    let (log, count) = (args.name()?, args.count()?);
    let mut records: Vec<_> = args.args.by_ref().take(count).map(NewRecord::new).collect();
    if records.is_empty() {
        return Err(args.usage());
    }
    let mut author = By::Anyone;
    while !args.is_empty() {
        if args.word("TXID") {
            let txid = Some(TxId::new(args.number()?));
            records.iter_mut().for_each(|record| record.txid = txid);
        } else if args.word("TXIDS") {
            for record in &mut records {
                record.txid = Some(TxId::new(args.number()?));
            }
        } else if !by(args, &mut author)? {
            return Err(args.usage());
        }
    }
    Ok(Command::Append { log, records, by: author })
}

fn batch(args: &mut Args) -> Result<Command, Refusal> {
    let count = args.count()?;
    let record = |args: &mut Args| Ok((args.name()?, args.bytes()?));
    let records: Vec<_> = (0..count).map(|_| record(args)).collect::<Result<_, Refusal>>()?;
    let mut owners = Vec::new();
    while !args.is_empty() {
        if !args.word("OWNER") {
            return Err(args.usage());
        }
        owners.push((args.name()?, args.epoch()?));
    }
    if records.is_empty() {
        return Err(args.usage());
    }
    Ok(Command::Batch { records, owners })
}

/// Where to begin (P-15).
fn position(args: &mut Args) -> Result<From, Refusal> {
    if !args.word("FROM") {
        return Err(args.usage());
    }
    let text = |args: &mut Args| args.name();
    Ok(if args.word("EARLIEST") {
        From::Earliest
    } else if args.word("LATEST") {
        From::Latest
    } else if args.word("SEQUENCE") {
        From::Sequence(args.sequence()?)
    } else if args.word("DLSN") {
        let dlsn: Dlsn =
            text(args)?.parse().map_err(|error| Refusal::new("ERR", format!("{error}")))?;
        From::Dlsn(dlsn)
    } else if args.word("TXID") {
        From::TxId(TxId::new(args.number()?))
    } else if args.word("TIME") {
        From::Time(time(&text(args)?)?)
    } else {
        From::Sequence(args.sequence()?)
    })
}

/// Microseconds since 1970, or RFC 3339.
fn time(text: &str) -> Result<u64, Refusal> {
    if let Ok(micros) = text.parse() {
        return Ok(micros);
    }
    let time = humantime::parse_rfc3339_weak(text).ok();
    let since = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let micros = since.and_then(|since| u64::try_from(since.as_micros()).ok());
    micros.ok_or_else(|| {
        let text = shown(text.as_bytes());
        Refusal::new("ERR", format!("{text} is no time: microseconds since 1970, or RFC 3339"))
    })
}

fn read(args: &mut Args) -> Result<Command, Refusal> {
    let (log, from) = (args.name()?, position(args)?);
    let (mut count, mut bytes, mut block_ms, mut dlsn) = (COUNT, READ_BYTES, None, false);
    while !args.is_empty() {
        if args.word("COUNT") {
            count = args.number()?.clamp(1, READ_COUNT_MAX);
        } else if args.word("BYTES") {
            bytes = args.number()?.clamp(1, READ_BYTES_MAX);
        } else if args.word("BLOCK") {
            block_ms = Some(args.number()?);
        } else if args.word("DLSN") {
            dlsn = true;
        } else {
            return Err(args.usage());
        }
    }
    let bytes = u32::try_from(bytes).expect("it was clamped");
    Ok(Command::Read { log, from, count, bytes, block_ms, dlsn })
}

fn writer(args: &mut Args) -> Result<Command, Refusal> {
    let what = args.bytes()?.to_ascii_uppercase();
    let log = args.name()?;
    let what = match what.as_slice() {
        b"OPEN" => {
            let (name, mut increasing, mut exclusive) = (args.name()?, false, false);
            while !args.is_empty() {
                if args.word("INCREASING") {
                    increasing = true;
                } else if args.word("EXCLUSIVE") {
                    exclusive = true;
                } else {
                    return Err(args.usage());
                }
            }
            WriterCommand::Open { name, increasing, exclusive }
        }
        b"LIST" => WriterCommand::List,
        b"FORGET" => WriterCommand::Forget { name: args.name()? },
        _ => return Err(args.usage()),
    };
    Ok(Command::Writer { log, what })
}

fn claim(args: &mut Args) -> Result<Command, Refusal> {
    let (reader, mut sources, mut owns) = (args.name()?, Vec::new(), Vec::new());
    let mut change = false;
    while !args.is_empty() {
        if args.word("SOURCES") {
            sources.append(&mut args.names()?);
        } else if args.word("OWNS") {
            owns.append(&mut args.names()?);
        } else if args.word("CHANGE") {
            change = true;
        } else {
            return Err(args.usage());
        }
    }
    Ok(Command::Claim { reader, sources, owns, change })
}

fn commit(args: &mut Args) -> Result<Command, Refusal> {
    let (reader, epoch) = (args.name()?, args.epoch()?);
    let (mut positions, mut outputs) = (Vec::new(), Vec::new());
    let mut state = State::None;
    while !args.is_empty() {
        if args.word("POSITION") {
            positions.push((args.name()?, args.sequence()?));
        } else if args.word("OUTPUT") {
            outputs.push((args.name()?, args.bytes()?));
        } else if state == State::None && args.word("DELTA") {
            state = State::Delta(args.bytes()?);
        } else if state == State::None && args.word("SNAPSHOT") {
            state = State::Snapshot(args.bytes()?);
        } else {
            return Err(args.usage());
        }
    }
    Ok(Command::Commit { reader, epoch, positions, state, outputs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &'static str) -> Result<Command, Refusal> {
        let args = crate::inline::split(&Bytes::from_static(line.as_bytes())).unwrap();
        parse(args).map(|(_, command)| command)
    }

    #[test]
    fn every_command_of_the_table_is_understood_or_tells_its_usage() {
        for spec in COMMANDS {
            let alone = parse(vec![Bytes::from_static(spec.name.as_bytes())]);
            if let Err(refusal) = alone {
                assert!(refusal.text.contains(spec.usage), "{}: {refusal}", spec.name);
            }
            let mut many = vec![Bytes::from_static(spec.name.as_bytes())];
            many.extend(std::iter::repeat_n(Bytes::from_static(b"\xff"), 9));
            if !["COMMAND"].contains(&spec.name) {
                assert!(parse(many).is_err(), "{} takes anything", spec.name);
            }
        }
    }

    #[test]
    fn commands_are_understood_with_all_their_options() {
        let Command::Append { log, records, by } =
            parsed("append orders hi TXID 7 WRITER w 3 4 exclusive").unwrap()
        else {
            panic!("an append")
        };
        assert_eq!((&*log, &records[0].payload[..]), ("orders", &b"hi"[..]));
        assert_eq!(records[0].txid, Some(TxId::new(7)));
        let writer =
            By::Writer { name: "w".into(), epoch: Epoch::new(3), number: 4, exclusive: true };
        assert_eq!(by, writer);

        let Command::Append { records, .. } = parsed("mappend l 2 a b TXIDS 1 2").unwrap() else {
            panic!("an append")
        };
        assert_eq!(records[1].txid, Some(TxId::new(2)));

        let read = parsed("read l from time 2026-01-01T00:00:00Z block 0 count 5").unwrap();
        let Command::Read { from, block_ms, count, .. } = read else { panic!("a read") };
        assert_eq!(from, From::Time(1_767_225_600_000_000));
        assert_eq!((block_ms, count), (Some(0), 5));

        let commit = parsed("commit r 2 position a 5 delta x output o p").unwrap();
        let Command::Commit { positions, state, outputs, .. } = commit else { panic!("a commit") };
        assert_eq!(positions, [("a".to_owned(), Sequence::new(5))]);
        assert_eq!(state, State::Delta("x".into()));
        assert_eq!(outputs, [("o".to_owned(), "p".into())]);
    }

    #[test]
    fn what_does_not_fit_the_usage_is_refused() {
        for line in [
            "GET x",
            "APPEND a",
            "APPEND a b c",
            "APPEND a b OWNER 1 OWNER 2",
            "MAPPEND a 3 b c",
            "MAPPEND a 0",
            "BATCH 2 a b",
            "READ a",
            "READ a FROM",
            "READ a FROM time soon",
            "COMMIT r 1 DELTA a SNAPSHOT b",
            "TRUNCATE a 5",
            "SELECT 1",
            "CLAIM r SOURCES 2 a",
            "CONFIGURE a",
            "READ a FROM -1",
            "READ a FROM +1",
            "MAPPEND a 99999999999999999999 b",
        ] {
            assert_eq!(parsed(line).unwrap_err().word, "ERR", "{line}");
        }
    }
}
