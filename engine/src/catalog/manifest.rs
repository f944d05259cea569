//! A catalog as a manifest holds it, and back (F-12).
//!
//! Not here: what changes it (`catalog`), and writing the entries (`commit`).

use bytes::BytesMut;

use super::{Catalog, LogState, Misfit, ReaderState, counted};
use crate::format::control::{
    Control, ManifestHead, ManifestLog, ManifestReader, ManifestWriter, writer_row_size_max,
};
use crate::position::{Epoch, LogId, ReaderId};

impl Catalog {
    pub(super) fn insert_log(&mut self, row: ManifestLog) {
        self.log_names.insert(row.name.clone(), row.log);
        self.manifest_size += Control::ManifestLog(row.clone()).size();
        let state = LogState {
            name: row.name,
            created_us: row.created_us,
            first: row.first,
            first_ordinal: 0,
            next: row.next,
            durable_next: row.next,
            last_txid: row.last_txid,
            bytes: row.bytes,
            sealed: row.sealed,
            sealed_ordinal: 0,
            end: row.next,
            owner: row.owner,
            options_version: row.options_version,
            options: row.options,
        };
        assert!(self.logs.insert(row.log, state).is_none());
        self.note_options(row.log);
    }

    pub(super) fn insert_reader(&mut self, row: ManifestReader) {
        self.reader_names.insert(row.name.clone(), row.reader);
        self.manifest_size += Control::ManifestReader(row.clone()).size();
        let id = row.reader;
        let state =
            ReaderState { stored: row, chains: 0, ended: false, parts: Vec::new(), parts_for: 0 };
        assert!(self.readers.insert(id, state).is_none());
    }

    /// The manifest: everything that opening needs, in groups of records that fit `size_max` bytes
    /// (F-12).
    #[must_use]
    pub fn manifest(&self, time_us: u64, size_max: u64) -> Vec<(BytesMut, u32)> {
        let count = |len: usize| u32::try_from(len).expect("a manifest is bounded");
        let head = Control::ManifestHead(ManifestHead {
            next_log: self.next_log,
            next_reader: self.next_reader,
            next_epoch: self.next_epoch,
            time_us,
            logs: count(self.logs.len()),
            readers: count(self.readers.len()),
            segments: count(self.segments.len()),
            writers: count(self.writers.len()),
            rates: self.rates,
        });
        let mut groups = vec![(BytesMut::new(), 0)];
        for row in std::iter::once(head).chain(self.rows()) {
            let (bytes, _) = groups.last().expect("there is always one");
            if bytes.len() as u64 + row.size() > size_max {
                groups.push((BytesMut::new(), 0));
            }
            let (bytes, count) = groups.last_mut().expect("there is always one");
            row.put(bytes);
            *count += 1;
        }
        groups
    }

    /// The rows of a manifest: segments, logs, processors, writers, each sorted, so the same
    /// catalog always gives the same bytes.
    #[must_use]
    pub fn rows(&self) -> Vec<Control> {
        let mut rows: Vec<_> =
            self.segments.values().map(|row| Control::ManifestSegment(*row)).collect();
        let mut logs: Vec<_> = self.logs.iter().collect();
        logs.sort_unstable_by_key(|(log, _)| **log);
        rows.extend(logs.into_iter().map(|(l, s)| Control::ManifestLog(manifest_log(*l, s))));
        let mut readers: Vec<_> = self.readers.values().collect();
        readers.sort_unstable_by_key(|state| state.stored.reader);
        rows.extend(readers.into_iter().map(|s| Control::ManifestReader(s.stored.clone())));
        rows.extend(self.writers.rows().map(|row| Control::ManifestWriter(row.clone())));
        rows
    }

    /// The catalog that a whole manifest describes, and the commit time in it (F-12).
    ///
    /// # Errors
    /// [`Misfit`] if the rows are not one whole manifest.
    pub fn from_manifest(rows: Vec<Control>) -> Result<(Self, u64), Misfit> {
        let mut catalog = Self::default();
        let mut rows = rows.into_iter();
        let Some(Control::ManifestHead(head)) = rows.next() else {
            return Err("a manifest without a head");
        };
        let numbers = [head.next_log.0, head.next_reader.0, head.next_epoch.0];
        if numbers.contains(&0) {
            return Err("a manifest whose numbers begin at 0");
        }
        counted(&numbers)?;
        catalog.next_log = head.next_log;
        catalog.next_reader = head.next_reader;
        catalog.next_epoch = head.next_epoch;
        catalog.rates = head.rates;
        for row in rows {
            match row {
                Control::ManifestLog(row) => {
                    let twice = catalog.logs.contains_key(&row.log)
                        || catalog.log_names.contains_key(&row.name);
                    if twice || row.log == LogId(0) || row.log >= head.next_log {
                        return Err("a manifest names a log twice, or one that never was");
                    }
                    counted(&[row.next.0])?;
                    if row.owner >= head.next_epoch {
                        return Err("a log is owned by an epoch that never was");
                    }
                    catalog.insert_log(row);
                }
                Control::ManifestReader(row) => {
                    let twice = catalog.readers.contains_key(&row.reader)
                        || catalog.reader_names.contains_key(&row.name);
                    if twice || row.reader == ReaderId(0) || row.reader >= head.next_reader {
                        return Err("a manifest names a processor twice, or one that never was");
                    }
                    counted(&[row.number])?;
                    if row.sources.iter().any(|source| !catalog.logs.contains_key(&source.log)) {
                        return Err("a processor reads a log that is not there");
                    }
                    catalog.insert_reader(row);
                }
                Control::ManifestWriter(row) => catalog.insert_writer(row, head.next_epoch)?,
                Control::ManifestSegment(row) => {
                    if catalog.segments.contains_key(&row.segment) {
                        return Err("a manifest names a segment twice");
                    }
                    counted(&[row.segment.0])?;
                    catalog.add_segment(row);
                }
                _ => return Err("a record in the manifest that does not belong there"),
            }
        }
        let counts = [
            (catalog.logs.len(), head.logs),
            (catalog.readers.len(), head.readers),
            (catalog.segments.len(), head.segments),
            (catalog.writers.len(), head.writers),
        ];
        if counts.iter().any(|(len, said)| *len != *said as usize) {
            return Err("a manifest that is not whole");
        }
        Ok((catalog, head.time_us))
    }

    fn insert_writer(&mut self, row: ManifestWriter, next_epoch: Epoch) -> Result<(), Misfit> {
        let numbers = row.window.iter().map(|batch| batch.number);
        let rises = numbers.clone().zip(numbers.clone().skip(1)).all(|(a, b)| a < b);
        if !rises || row.window.back().map_or(0, |batch| batch.number) != row.last {
            return Err("a writer whose batches do not follow each other");
        }
        row.window.iter().try_for_each(|batch| counted(&[batch.first.0]))?;
        if row.epoch == Epoch(0) || row.epoch >= next_epoch || !self.logs.contains_key(&row.log) {
            return Err("a manifest names a writer of no log, or an owner that never was");
        }
        self.manifest_size += writer_row_size_max(&row.name);
        self.writers.insert(row).then_some(()).ok_or("a manifest names a writer twice")
    }
}

pub(super) fn manifest_log(log: LogId, state: &LogState) -> ManifestLog {
    ManifestLog {
        log,
        created_us: state.created_us,
        next: state.next,
        last_txid: state.last_txid,
        first: state.first,
        bytes: state.bytes,
        sealed: state.sealed,
        owner: state.owner,
        options_version: state.options_version,
        options: state.options.clone(),
        name: state.name.clone(),
    }
}
