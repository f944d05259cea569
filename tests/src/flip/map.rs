//! What each byte of a closed directory's files is: a map from the format's rules (F-4 to F-11).
//!
//! Not here: what becomes of a byte that is flipped (`check`).

use std::ops::Range;

use oncelog::SegmentId;
use oncelog::format::entry::{Entry, Flags, HEADER_SIZE, SECTION_SIZE};
use oncelog::format::header::SegmentHeader;
use oncelog::limits::BLOCK_SIZE;
use oncelog::{LogId, Sequence};

use crate::flip::disk::{FlatFile, Image};

const BLOCK: usize = BLOCK_SIZE as usize;
/// Bytes of a segment header that have a meaning (F-4).
const SEGMENT_HEADER_SIZE: usize = 128;

/// What a byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// Of a segment's header.
    SegmentHeader,
    /// Of an entry's header.
    EntryHeader,
    /// Of the header of a close mark: an entry that holds nothing.
    CloseMark,
    /// Of an entry's section table.
    Table,
    /// Of control records: manifest, checkpoints and so on.
    Control,
    /// Of records that can be read.
    Records,
    /// Of records whose log was dropped, or that were truncated.
    DeadRecords,
    /// Behind a header or the last section, up to the block's end.
    Padding,
    /// Behind the last entry.
    Unused,
    /// Of a side file.
    Index,
    /// Of a file that is not used yet.
    Prepared,
}

/// Bytes that are alike.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// Which.
    pub range: Range<usize>,
    /// What they are.
    pub region: Region,
}

/// What stands in the file. `lives` says whether a section with records up to that sequence can
/// still be read.
#[must_use]
pub fn map(image: &Image, file: FlatFile, lives: impl Fn(LogId, Sequence) -> bool) -> Vec<Stretch> {
    let bytes = &image.files[&file];
    let whole = |region| vec![Stretch { range: 0..bytes.len(), region }];
    let segment = match file {
        FlatFile::Index(_) => return whole(Region::Index),
        FlatFile::Spare(_) => return whole(Region::Prepared),
        FlatFile::Segment(segment) => segment,
    };
    let mut found = Vec::new();
    let mut add = |range: Range<usize>, region| {
        if !range.is_empty() {
            found.push(Stretch { range, region });
        }
    };
    if !is_written(bytes, segment) {
        return whole(Region::Prepared);
    }
    add(0..SEGMENT_HEADER_SIZE, Region::SegmentHeader);
    add(SEGMENT_HEADER_SIZE..BLOCK, Region::Padding);
    let mut at = BLOCK;
    let mut number = 0;
    while let Some(entry) = entry_at(bytes, at, segment, number) {
        let mut behind = at + HEADER_SIZE;
        let close = entry.head.flags == Flags::CLOSE;
        add(at..behind, if close { Region::CloseMark } else { Region::EntryHeader });
        let table = behind;
        behind += entry.sections.len() * SECTION_SIZE;
        add(table..behind, Region::Table);
        for section in &entry.sections {
            let end = section.first_sequence.after(section.count.into());
            let region = match section.is_control() {
                true => Region::Control,
                false if lives(section.log, end) => Region::Records,
                false => Region::DeadRecords,
            };
            let begin = at + section.offset as usize;
            behind = begin + section.len as usize;
            add(begin..behind, region);
        }
        at += entry.length as usize;
        number += 1;
        add(behind..at, Region::Padding);
    }
    add(at..bytes.len(), Region::Unused);
    found
}

fn is_written(bytes: &[u8], segment: SegmentId) -> bool {
    SegmentHeader::decode(bytes).is_ok_and(|(header, _)| header.segment == segment)
}

fn entry_at(bytes: &[u8], at: usize, segment: SegmentId, number: u32) -> Option<Entry> {
    let entry = Entry::parse(bytes.get(at..)?)?;
    let place = &entry.head.place;
    let here = place.segment == segment && place.offset as usize == at && place.entry == number;
    here.then_some(entry)
}

/// The newest segment that was written to.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn newest(image: &Image) -> SegmentId {
    let mut files = image.files.iter().rev();
    let newest = files.find_map(|(file, bytes)| match *file {
        FlatFile::Segment(segment) => is_written(bytes, segment).then_some(segment),
        FlatFile::Index(_) | FlatFile::Spare(_) => None,
    });
    newest.expect("a segment was written")
}

/// The bytes of a stretch to flip: all, or those that the engine wrote for itself and one of 256
/// of the others, with the first and the last.
#[must_use]
pub fn offsets(stretch: &Stretch, all: bool) -> Vec<usize> {
    const HEAD: usize = 512;
    let Range { start, end } = stretch.range.clone();
    let step = match stretch.region {
        _ if all => return (start..end).collect(),
        Region::SegmentHeader
        | Region::EntryHeader
        | Region::CloseMark
        | Region::Table
        | Region::Index => return (start..end).collect(),
        // The bytes of a snapshot are a payload.
        Region::Control => (start + HEAD).min(end),
        Region::Records
        | Region::DeadRecords
        | Region::Padding
        | Region::Unused
        | Region::Prepared => start,
    };
    let every = (step..end).step_by(256).enumerate().map(|(n, at)| (at + n % 256).min(end - 1));
    let mut chosen: Vec<usize> = (start..step).chain(every).chain([start, end - 1]).collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}
