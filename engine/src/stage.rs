//! The open entry: takes what is staged, until it is encoded and written as one.
//!
//! ```text
//! put_control, put_records -> sections, one for each log -> encode -> bytes of one entry
//! ```
//!
//! Control records come first, in the order staged; a log has one section, its records dense.
//!
//! Not here: when an entry is written, and what it means (`commit`, `catalog`).

use bytes::BytesMut;
use rustc_hash::FxHashMap;

use crate::buf::{Buf, Pool};
use crate::format::codec::{Codec, Packer};
use crate::format::control::Control;
use crate::format::entry::{EntryHead, RecordsIn, SectionHead, entry_size, put_entry};
use crate::format::record::RECORD_HEADER_SIZE;
use crate::limits::SECTIONS_MAX;
use crate::position::{LogId, Sequence};
use crate::request::StagedRecord;

struct OpenSection {
    log: LogId,
    codec: Codec,
    first: Sequence,
    records: Vec<StagedRecord>,
}

/// See the module's head.
#[derive(Default)]
pub struct OpenEntry {
    control: BytesMut,
    controls: u32,
    sections: Vec<OpenSection>,
    by_log: FxHashMap<LogId, usize>,
    section_bytes: u64,
    parts: u32,
}

/// What a request adds to an entry, for finding out whether it fits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Need {
    /// Bytes of control records.
    pub control: u64,
    /// Sections that may be new.
    pub sections: usize,
    /// Bytes of records, headers included.
    pub records: u64,
}

impl Need {
    /// Bytes of an entry that holds only this.
    #[must_use]
    pub fn alone(&self) -> u64 {
        entry_size(self.sections + usize::from(self.control > 0), self.control + self.records)
    }
}

impl OpenEntry {
    /// Whether nothing is staged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.controls == 0 && self.sections.is_empty()
    }

    /// Bytes of the entry as it is now.
    #[must_use]
    pub fn size(&self) -> u64 {
        entry_size(self.sections.len() + usize::from(self.controls > 0), self.section_bytes)
    }

    /// Control records in it.
    #[must_use]
    pub fn controls(&self) -> u32 {
        self.controls
    }

    /// Control records and runs of records in it: at least one for each request.
    #[must_use]
    pub fn parts(&self) -> u32 {
        self.parts
    }

    /// Records in it.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.sections.iter().map(|section| section.records.len() as u64).sum()
    }

    /// Whether it stays within `size_max` bytes with this as well.
    #[must_use]
    pub fn fits(&self, need: Need, size_max: u32) -> bool {
        self.sections_with(need) <= SECTIONS_MAX as usize && self.size_with(need) <= size_max.into()
    }

    /// Bytes of the entry with this as well, at most.
    #[must_use]
    pub fn size_with(&self, need: Need) -> u64 {
        entry_size(self.sections_with(need), self.section_bytes + need.control + need.records)
    }

    fn sections_with(&self, need: Need) -> usize {
        let control = self.controls > 0 || need.control > 0;
        self.sections.len() + need.sections + usize::from(control)
    }

    /// Adds a control record.
    pub fn put_control(&mut self, control: &Control) {
        control.put(&mut self.control);
        self.controls += 1;
        self.parts += 1;
        self.section_bytes += control.size();
    }

    /// The index that the next record of a log gets in its section.
    #[must_use]
    pub fn next_slot(&self, log: LogId) -> u32 {
        let records = self.by_log.get(&log).map_or(0, |index| self.sections[*index].records.len());
        u32::try_from(records).expect("an entry holds few records")
    }

    /// Adds records of a log; the index of the first one in the log's section. How that is stored
    /// is settled by the first who adds to it.
    pub fn put_records(
        &mut self,
        log: LogId,
        codec: Codec,
        first: Sequence,
        records: impl Iterator<Item = StagedRecord>,
    ) -> u32 {
        let index = *self.by_log.entry(log).or_insert_with(|| {
            self.sections.push(OpenSection { log, codec, first, records: Vec::new() });
            self.sections.len() - 1
        });
        self.parts += 1;
        let section = &mut self.sections[index];
        let slot = u32::try_from(section.records.len()).expect("an entry holds few records");
        assert_eq!(section.first.after(slot.into()), first, "records of a log are dense");
        for record in records {
            self.section_bytes += (RECORD_HEADER_SIZE + record.payload.len()) as u64;
            section.records.push(record);
        }
        slot
    }

    /// The entry's bytes, its sections and its digest.
    #[must_use]
    pub fn encode(
        &self,
        pool: &mut Pool,
        packer: &mut Packer,
        head: &EntryHead,
    ) -> (Buf, Vec<SectionHead>, u64) {
        let sections = self.sections.iter().map(|section| RecordsIn {
            log: section.log,
            codec: section.codec,
            first_sequence: section.first,
            records: &section.records,
        });
        let sections: Vec<_> = sections.collect();
        let size = usize::try_from(self.size()).expect("64-bit platforms only");
        let mut written = (Vec::new(), 0);
        let control = (&self.control[..], self.controls);
        let buf =
            pool.build(size, |out| written = put_entry(out, head, control, &sections, packer));
        (buf, written.0, written.1)
    }
}
