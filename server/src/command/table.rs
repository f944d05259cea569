//! The table of commands: name, how it is called, what it does.
//!
//! Not here: how arguments are understood (`command`).

/// One command.
#[derive(Debug)]
pub struct Spec {
    /// Its name, in capitals.
    pub name: &'static str,
    /// Its arguments.
    pub usage: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// How it is listed: connection, log, processor or server.
    pub group: &'static str,
}

const fn spec(
    group: &'static str,
    name: &'static str,
    usage: &'static str,
    summary: &'static str,
) -> Spec {
    Spec { name, usage, summary, group }
}

/// All commands, sorted by name.
pub const COMMANDS: &[Spec] = &[
    spec(
        "log",
        "APPEND",
        "log payload [TXID n] [WRITER name epoch number [EXCLUSIVE] | OWNER epoch]",
        "Appends a record; the answer, its sequence, means durable.",
    ),
    spec("connection", "AUTH", "[user] password", "Says who you are."),
    spec(
        "log",
        "BATCH",
        "count log payload [log payload ...] [OWNER log epoch ...]",
        "Appends records to several logs of a group: all of them, or none.",
    ),
    spec(
        "processor",
        "CLAIM",
        "reader [SOURCES n log ...] [OWNS n log ...] [CHANGE]",
        "Owns a processor: a new epoch that fences older ones, its positions and its state.",
    ),
    spec(
        "connection",
        "CLIENT",
        "ID | GETNAME | SETNAME name | SETINFO attribute value | INFO",
        "About this connection.",
    ),
    spec("connection", "COMMAND", "[COUNT | LIST | DOCS [name ...] | INFO]", "Lists commands."),
    spec(
        "processor",
        "COMMIT",
        "reader epoch [POSITION log next ...] [DELTA bytes | SNAPSHOT bytes] \
         [OUTPUT log payload ...]",
        "Makes positions, a change of state and outputs durable together, or none of them.",
    ),
    spec(
        "log",
        "CONFIGURE",
        "log [VERSION v] option value [option value ...]",
        "Changes options of a log; with VERSION only if they are of that version.",
    ),
    spec(
        "log",
        "CREATE",
        "log [IFABSENT] [option value ...]",
        "Makes a log. Options: COMPRESSION RECORDMAX KEEPFOR KEEPBYTES KEEPUNTIL BYTESHARD \
         BYTESSOFT RECORDSHARD RECORDSSOFT METADATA.",
    ),
    spec("log", "DESCRIBE", "log", "What a log is like: first and next sequence, options, owner."),
    spec("log", "DROP", "log", "Drops a log and its records."),
    spec("connection", "ECHO", "message", "Says it back."),
    spec(
        "log",
        "FOLLOW",
        "log FROM position [DLSN]",
        "Sends records as they become durable, until UNFOLLOW.",
    ),
    spec("processor", "FORGET", "reader", "Drops a processor with its positions and state."),
    spec(
        "connection",
        "HELLO",
        "[protocol [AUTH user password] [SETNAME name]]",
        "Says which protocol to speak, 2 or 3, and tells about the server.",
    ),
    spec("connection", "HELP", "[command]", "Lists commands, or explains one."),
    spec("server", "INFO", "[section]", "About the server, as text."),
    spec(
        "log",
        "INGEST",
        "log",
        "From here on each line is a record; answered by counts as they become durable.",
    ),
    spec("log", "LOGS", "[prefix] [AFTER name] [COUNT n]", "Names of logs, sorted."),
    spec(
        "log",
        "MAPPEND",
        "log count payload [payload ...] [TXID n | TXIDS n ...] \
         [WRITER name epoch number [EXCLUSIVE] | OWNER epoch]",
        "Appends records next to each other: all of them, or none.",
    ),
    spec("log", "OWN", "log", "Owns a log: nobody else may append; answers the owner's epoch."),
    spec("connection", "PING", "[message]", "Asks whether anyone is there."),
    spec("connection", "QUIT", "", "Ends the connection once all before it is answered."),
    spec(
        "log",
        "READ",
        "log FROM earliest|latest|sequence n|dlsn d|txid n|time t [COUNT n] [BYTES n] [BLOCK ms] \
         [DLSN]",
        "Records: sequence, transaction id, time in microseconds, payload.",
    ),
    spec("processor", "READERS", "[prefix]", "Processors, where they stand, and their lag."),
    spec("log", "RENAME", "log name", "Gives a log another name in its group."),
    spec("connection", "RESET", "", "As if the connection were new."),
    spec("log", "SEAL", "log [OWNER epoch]", "Ends a log for ever: nothing is appended any more."),
    spec("connection", "SELECT", "0", "There is one database: 0."),
    spec("log", "SHARE", "log", "Gives up owning a log: everyone may append again."),
    spec("server", "STATS", "", "What the engine has counted since it was opened."),
    spec("log", "TRUNCATE", "log BEFORE sequence", "Lets records before a sequence go."),
    spec("log", "UNFOLLOW", "[log]", "Ends following a log, or all."),
    spec(
        "log",
        "WRITER",
        "OPEN log name [INCREASING] [EXCLUSIVE] | LIST log | FORGET log name",
        "Idempotent writers: what one sends again is there once.",
    ),
];

/// The names of all commands, in their order.
pub const NAMES: &[&str] = &{
    let mut names = [""; COMMANDS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = COMMANDS[index].name;
        index += 1;
    }
    names
};

/// The place of a command in [`COMMANDS`], whatever the case of its name.
#[must_use]
pub fn find(name: &[u8]) -> Option<usize> {
    // Lengths tell most of them apart: faster than searching among sorted names.
    let is_it =
        |known: &&str| known.len() == name.len() && known.as_bytes().eq_ignore_ascii_case(name);
    NAMES.iter().position(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sorted_and_found_in_any_case() {
        assert!(NAMES.is_sorted());
        for (index, name) in NAMES.iter().enumerate() {
            assert_eq!(find(name.to_lowercase().as_bytes()), Some(index));
        }
        assert_eq!(find(b"GET"), None);
        assert_eq!(find(b"A NAME LONGER THAN ANY"), None);
    }
}
