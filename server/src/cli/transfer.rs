//! Exported records as bytes: JSON lines, or binary.
//!
//! ```text
//! JSON lines   {"sequence":..,"txid":..,"time_us":..,"payload":".."}    one object a line
//! binary       "oncelog export 1\n" | record .. | end
//!              record: length u32 | txid u64 | sequence u64 | time_us u64 | payload
//!              end:    0xffffffff | how many records u64                       little endian
//! ```
//!
//! Invariant: a binary export that was cut off anywhere is seen to be cut off; so is a line of
//! JSON without its end.
//!
//! Not here: where the bytes come from and go to (`export`, `import`).

use std::io::{self, BufRead, ErrorKind, Read};

use clap::ValueEnum;
use oncelog::{NewRecord, TxId};
use serde_json::Value;

use super::fail::Fail;
use super::source::Got;
use super::values::take_bytes;

const MAGIC: &[u8; 17] = b"oncelog export 1\n";
const END: u32 = u32::MAX;
/// No record is larger.
const PAYLOAD_MAX: u32 = 2 << 20;
/// No line is longer: base64, and what stands around it.
const LINE_MAX: u64 = 16 << 20;

/// How exported records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// An object a line: for people and programs
    Json,
    /// Length and payload: smaller and quicker, and a missing end is seen
    Binary,
}

/// Makes the bytes of an export.
#[derive(Debug)]
pub(super) struct Encoder {
    format: Format,
    records: u64,
}

impl Encoder {
    pub(super) fn new(format: Format) -> Self {
        Self { format, records: 0 }
    }

    /// What stands before the first record.
    pub(super) fn begin(&self) -> &'static [u8] {
        match self.format {
            Format::Json => b"",
            Format::Binary => MAGIC,
        }
    }

    /// Adds a record to `bytes`.
    pub(super) fn put(&mut self, record: &Got, bytes: &mut Vec<u8>) -> Result<(), Fail> {
        self.records += 1;
        match self.format {
            Format::Json => {
                bytes.extend_from_slice(record.json().to_string().as_bytes());
                bytes.push(b'\n');
            }
            Format::Binary => {
                let len = u32::try_from(record.payload.len()).ok().filter(|len| *len < END);
                let len = len.ok_or_else(|| Fail::Failed("a record is too large".to_owned()))?;
                bytes.extend_from_slice(&len.to_le_bytes());
                for number in [record.txid, record.sequence, record.time_us] {
                    bytes.extend_from_slice(&number.to_le_bytes());
                }
                bytes.extend_from_slice(&record.payload);
            }
        }
        Ok(())
    }

    /// What stands behind the last record.
    pub(super) fn end(&self) -> Vec<u8> {
        match self.format {
            Format::Json => Vec::new(),
            Format::Binary => [END.to_le_bytes().as_slice(), &self.records.to_le_bytes()].concat(),
        }
    }
}

/// Takes the records out of an export, whichever format it has.
pub(super) struct Decoder<R> {
    input: R,
    binary: bool,
    records: u64,
    ended: bool,
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(mut input: R) -> Result<Self, Fail> {
        let first = input.fill_buf().map_err(broken)?;
        // A line of JSON begins with a brace.
        let binary = first.first() == Some(&MAGIC[0]);
        if binary {
            let mut magic = [0; MAGIC.len()];
            input.read_exact(&mut magic).map_err(broken)?;
            if magic != *MAGIC {
                let why = "this is no export that this version knows: it begins otherwise";
                return Err(Fail::Usage(why.to_owned()));
            }
        }
        Ok(Self { input, binary, records: 0, ended: false })
    }

    /// The next record and the bytes that it took; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(NewRecord, u64)>, Fail> {
        if self.ended {
            return Ok(None);
        }
        let next = if self.binary { self.next_binary() } else { self.next_line() };
        let next = next.map_err(|fail| fail.and(format!("record {}", self.records + 1)))?;
        match next {
            Some(_) => self.records += 1,
            None => self.ended = true,
        }
        Ok(next)
    }

    fn next_binary(&mut self) -> Result<Option<(NewRecord, u64)>, Fail> {
        let len = u32::from_le_bytes(self.take()?);
        if len == END {
            let count = u64::from_le_bytes(self.take()?);
            if count != self.records {
                let why = format!("the export says that it has {count} records: it is damaged");
                return Err(Fail::Usage(why));
            }
            if !self.input.fill_buf().map_err(broken)?.is_empty() {
                return Err(Fail::Usage("something stands behind the export's end".to_owned()));
            }
            return Ok(None);
        }
        if len > PAYLOAD_MAX {
            return Err(Fail::Usage(format!("a record of {len} bytes: the export is damaged")));
        }
        let txid = u64::from_le_bytes(self.take()?);
        let _sequence_and_time: [u8; 16] = self.take()?;
        let mut payload = vec![0; len as usize];
        self.input.read_exact(&mut payload).map_err(broken)?;
        let record = NewRecord { txid: Some(TxId::new(txid)), payload: payload.into() };
        Ok(Some((record, 28 + u64::from(len))))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fail> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(broken)?;
        Ok(bytes)
    }

    fn next_line(&mut self) -> Result<Option<(NewRecord, u64)>, Fail> {
        let mut line = Vec::new();
        self.input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_err(broken)?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Err(Fail::Usage("a line without its end: the export was cut off".to_owned()));
        }
        let value: Value = serde_json::from_slice(&line)
            .map_err(|error| Fail::Usage(format!("a line that is no JSON: {error}")))?;
        let Value::Object(object) = value else {
            return Err(Fail::Usage("a line that is no object".to_owned()));
        };
        let txid = match object.get("txid") {
            None => None,
            Some(txid) => Some(txid.as_u64().ok_or_else(|| {
                Fail::Usage(format!("txid {txid} is none: it is a whole number from 0"))
            })?),
        };
        let payload = take_bytes(&object, "payload")?;
        let record = NewRecord { txid: txid.map(TxId::new), payload: payload.into() };
        Ok(Some((record, line.len() as u64)))
    }
}

fn broken(error: io::Error) -> Fail {
    if error.kind() == ErrorKind::UnexpectedEof {
        return Fail::Usage("the export ends too early: it was cut off".to_owned());
    }
    Fail::Failed(format!("cannot read the export: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Got> {
        let payloads: [&[u8]; 4] = [b"text \"\n", b"", b"\xff\x00\n", "\u{e9}".as_bytes()];
        let got = |(at, payload): (u64, &[u8])| Got {
            sequence: 7 + at,
            txid: u64::MAX - 4 + at,
            time_us: 5,
            dlsn: None,
            payload: payload.to_vec().into(),
        };
        (0..).zip(payloads).map(got).collect()
    }

    fn encode(format: Format) -> Vec<u8> {
        let mut encoder = Encoder::new(format);
        let mut bytes = encoder.begin().to_vec();
        for record in records() {
            encoder.put(&record, &mut bytes).unwrap();
        }
        bytes.extend(encoder.end());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, Fail> {
        let mut decoder = Decoder::new(bytes)?;
        let mut found = Vec::new();
        while let Some((record, _)) = decoder.next()? {
            found.push((record.txid.map_or(0, TxId::get), record.payload.to_vec()));
        }
        Ok(found)
    }

    #[test]
    fn records_come_back_from_both_formats_and_a_cut_is_seen() {
        for format in [Format::Json, Format::Binary] {
            let bytes = encode(format);
            let expected: Vec<_> =
                records().iter().map(|got| (got.txid, got.payload.to_vec())).collect();
            assert_eq!(decode(&bytes).unwrap(), expected);
            for cut in 1..bytes.len() {
                let at_line = format == Format::Json && bytes[cut - 1] == b'\n';
                assert_eq!(decode(&bytes[..cut]).is_ok(), at_line, "{format:?} cut at {cut}");
            }
            assert!(decode(&[&bytes[..], b"x"].concat()).is_err());
        }
        assert!(decode(b"").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_export_is_refused_with_the_number_of_the_record() {
        for bad in [
            "{}\n",
            "[]\n",
            "x\n",
            "{\"payload\":1}\n",
            "{\"payload\":\"\",\"txid\":-1}\n",
            "{\"payload\":\"\",\"payload_base64\":\"\"}\n",
            "{\"payload_base64\":\"?\"}\n",
        ] {
            let text = format!("{{\"payload\":\"good\"}}\n{bad}");
            let error = decode(text.as_bytes()).unwrap_err();
            assert!(matches!(error, Fail::Usage(_)), "{bad}");
            assert!(error.to_string().contains("record 2"), "{error}");
        }
        let mut bytes = encode(Format::Binary);
        let at = bytes.len() - 8;
        bytes[at] += 1;
        assert!(decode(&bytes).unwrap_err().to_string().contains("5 records"));
    }
}
