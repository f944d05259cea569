//! However bytes are split, and in whatever order requests are answered, a connection says the
//! same, holds no more than it may, and ends (P-6).
//!
//! Not here: what is said to what (`protocol`).

#[path = "splits/feed.rs"]
mod feed;

use std::path::Path;

/// Numbers that are the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).expect("64 bits") % below
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

const LINES: &[&str] = &[
    "APPEND a x",
    "APPEND a 'y z' TXID 3",
    "APPEND b 1234567890123",
    "APPEND a x OWNER 3",
    "APPEND a x WRITER w 1 2",
    "MAPPEND a 3 x y z",
    "MAPPEND a 2 x",
    "BATCH 2 a x b y",
    "COMMIT r 1 POSITION a 2 DELTA d OUTPUT b o",
    "READ a FROM 0",
    "READ a FROM earliest COUNT 5",
    "READ a",
    "FOLLOW a FROM latest",
    "FOLLOW b FROM 0",
    "FOLLOW c FROM 0",
    "UNFOLLOW",
    "UNFOLLOW a",
    "HELLO 3",
    "HELLO 2",
    "HELLO",
    "HELLO 4",
    "HELLO 3 AUTH ann secret SETNAME me",
    "AUTH ann secret",
    "AUTH ann wrong",
    "PING",
    "PING x",
    "ECHO x",
    "RESET",
    "CLIENT GETNAME",
    "CLIENT INFO",
    "COMMAND",
    "COMMAND DOCS APPEND",
    "HELP",
    "HELP READ",
    "CREATE a KEEPFOR 7d",
    "CREATE a KEEPFOR soon",
    "DESCRIBE a",
    "LOGS",
    "GET x",
    "ECHO 'open",
    "\"",
    "",
    " \t ",
    "SELECT 1",
    "CLAIM r SOURCES 1 a",
];
/// Those that end the connection, or turn it to lines.
const ENDS: &[&str] = &[
    "QUIT\r\n",
    "*1\r\n:1\r\n",
    "*x\r\n",
    "*2\r\n$4\r\nECHO\r\n$1\r\nxyz",
    "*1\r\n*1\r\n",
    "$1\r\nx\r\n",
    "INGEST a\r\n",
    "INGEST a\r\n",
    "INGEST a\r\n",
    "*-1\r\n",
    "\x00\x01\r",
];

/// Requests in all forms, with some that are none.
fn generate(numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..numbers.below(60) {
        match numbers.below(100) {
            0..=49 => {
                bytes.extend(numbers.of(LINES).as_bytes());
                bytes.extend(numbers.of(&["\r\n", "\n"]).as_bytes());
            }
            50..=79 => {
                let words: Vec<_> = numbers.of(LINES).split(' ').collect();
                bytes.extend(format!("*{}\r\n", words.len()).as_bytes());
                for word in words {
                    bytes.extend(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
                }
            }
            80..=89 => {
                let len = [10, 500, 1900, 5000, 70_000][numbers.below(5)];
                let head = format!("*3\r\n$6\r\nAPPEND\r\n$1\r\na\r\n${len}\r\n");
                bytes.extend([head.as_bytes(), &vec![b'\n'; len], b"\r\n"].concat());
            }
            90..=92 => {
                bytes.extend(format!("*{}\r\n", 100).as_bytes());
                bytes.extend(b"$1\r\nx\r\n".repeat(100));
            }
            93..=95 => bytes.extend([vec![b'y'; numbers.below(3000)], b"\n".to_vec()].concat()),
            96..=97 => bytes.extend(b"*0\r\n\r\n"),
            _ => bytes.extend(numbers.of(ENDS).as_bytes()),
        }
    }
    bytes.truncate(bytes.len() - numbers.below(10).min(bytes.len()));
    bytes
}

#[test]
fn what_is_said_does_not_depend_on_splits_or_on_the_order_of_answers() {
    for seed in 1..=1000_u64 {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (bytes, logged_in) = (generate(&mut numbers), numbers.below(4) > 0);
        let wanted = feed::at_once(&bytes, logged_in);
        for way in 0..3 {
            let mut pick = |below: usize| match way {
                // Byte by byte.
                0 => below - 1,
                1 => numbers.below(below),
                // Mostly large pieces.
                _ => numbers.below(below).min(numbers.below(8)) % below,
            };
            let found = feed::run(&bytes, logged_in, &mut pick);
            assert_eq!(found.started, wanted.started, "seed {seed}, way {way}");
            let pairs = found.output.iter().zip(&wanted.output);
            let same = pairs.take_while(|(a, b)| a == b).count();
            let text = |bytes: &[u8]| {
                let end = bytes.len().min(same + 200);
                bytes[same.saturating_sub(100)..end].escape_ascii().to_string()
            };
            let is_same = found.output == wanted.output;
            let (found, wanted) = (text(&found.output), text(&wanted.output));
            assert!(is_same, "seed {seed}, way {way}: {found}\nbut at once: {wanted}");
        }
    }
}

#[test]
fn what_fuzzing_has_found_stays_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let corpus = root.join("tests/corpus/connection");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus") {
        feed::fuzz(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "the corpus has inputs");
}
