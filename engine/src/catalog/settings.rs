//! What control records about writers and about what a log is change in a catalog.
//!
//! Not here: all others (`catalog`).

use std::sync::Arc;

use super::manifest::manifest_log;
use super::{Catalog, Misfit, counted};
use crate::format::control::{Control, Link, WriterBatch, writer_row_size_max};
use crate::position::Dlsn;

impl Catalog {
    pub(super) fn apply_writer(&mut self, control: &Control, at: Link) -> Result<(), Misfit> {
        match control {
            Control::WriterOpened { log, epoch, increasing, name } => {
                if !self.logs.contains_key(log) {
                    return Err("a writer of a log that is not there");
                }
                self.use_epoch(*epoch)?;
                if self.writers.named(*log, name).is_none() {
                    self.manifest_size += writer_row_size_max(name);
                }
                self.writers.open(*log, *epoch, *increasing, name);
            }
            Control::WriterAppended { epoch, number, first, count, entry, slot } => {
                counted(&[first.0])?;
                let dlsn = Dlsn::new(at.segment, *entry, *slot);
                let batch = WriterBatch { number: *number, first: *first, count: *count, dlsn };
                if !self.writers.appended(*epoch, batch) {
                    return Err("a batch does not follow the one of its writer before it");
                }
            }
            Control::WriterForgotten { epoch } => {
                let size = self.writers.remove(*epoch).ok_or("a writer is forgotten twice")?;
                self.manifest_size -= size;
            }
            _ => unreachable!("the caller chose these"),
        }
        Ok(())
    }

    /// What changes a row of a log, and so its size.
    pub(super) fn apply_setting(&mut self, control: &Control) -> Result<(), Misfit> {
        let (Control::LogOwned { log, .. }
        | Control::LogSealed { log, .. }
        | Control::LogOptionsSet { log, .. }
        | Control::LogRenamed { log, .. }) = control
        else {
            unreachable!("the caller chose these")
        };
        if !self.logs.contains_key(log) {
            return Err("a log is changed that is not there");
        }
        if let Control::LogOwned { epoch, .. } = control
            && *epoch >= self.next_epoch
        {
            self.use_epoch(*epoch)?;
        }
        let state = self.logs.get_mut(log).expect("it was just looked for");
        let before = Control::ManifestLog(manifest_log(*log, state)).size();
        match control {
            Control::LogOwned { epoch, .. } => state.owner = *epoch,
            Control::LogSealed { next, .. } => {
                if state.sealed || *next < state.next {
                    return Err("a log is sealed twice, or before its end");
                }
                counted(&[next.0])?;
                (state.sealed, state.end) = (true, *next);
            }
            Control::LogOptionsSet { options, .. } => {
                state.options_version = state.options_version.saturating_add(1);
                state.options = Some(Arc::clone(options));
            }
            Control::LogRenamed { name, .. } => {
                if self.log_names.contains_key(name) {
                    return Err("two logs have one name");
                }
                self.log_names.remove(&state.name);
                self.log_names.insert(name.clone(), *log);
                state.name.clone_from(name);
            }
            _ => unreachable!("matched above"),
        }
        self.manifest_size += Control::ManifestLog(manifest_log(*log, state)).size();
        self.manifest_size -= before;
        self.note_options(*log);
        Ok(())
    }
}
