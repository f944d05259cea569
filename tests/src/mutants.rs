//! Classic bugs of storage engines, one line each, that the tests must catch.
//!
//! ```text
//! Mutant: file, text, other text -> a copy of the tree -> its check must fail
//! ```
//!
//! A text stands exactly once in its file; a test sees to that, so that the list stays true to the
//! code.
//!
//! Not here: planting them (`bin/mutants`).

/// What must fail.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// `simulate --weather W --seeds 0..N`
    Simulate(&'static str, u32),
    /// `cargo test` with these words.
    Test(&'static [&'static str]),
}

/// One bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// The file, from the root of the tree.
    pub file: &'static str,
    /// What stands there.
    pub text: &'static str,
    /// What the bug makes of it.
    pub bug: &'static str,
    /// What catches it.
    pub check: Check,
}

impl Mutant {
    /// The file with the bug in it.
    ///
    /// # Errors
    /// The text stands there not exactly once.
    pub fn plant(&self, good: &str) -> Result<String, String> {
        match good.matches(self.text).count() {
            1 => Ok(good.replace(self.text, self.bug)),
            count => Err(format!("{}: {:?} stands there {count} times", self.file, self.text)),
        }
    }
}

const POWER_CUT: Check = Check::Test(&["-p", "oncelog-tests", "--test", "power_cut"]);
const SCAN: Check = Check::Test(&["-p", "oncelog", "--lib", "scan"]);

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "an acknowledgement before the sync",
        file: "engine/src/commit.rs",
        text: "SyncMethod::Fdatasync => State::Written,",
        bug: "SyncMethod::Fdatasync => State::Durable,",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a durable write that is not",
        file: "engine/src/commit.rs",
        text: "(Work::Entry(ordinal), OpKind::Write { segment, offset, buf, durable })",
        bug: "(Work::Entry(ordinal), OpKind::Write { segment, offset, buf, durable: false })",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a watermark that runs ahead of what is durable",
        file: "engine/src/commit.rs",
        text: "durable: active.durable,\n        };\n        let (buf",
        bug: "durable: active.entries,\n        };\n        let (buf",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "the chain of digests is not looked at",
        file: "engine/src/scan.rs",
        text: "entry.head.place == self.place && entry.head.previous_digest == digest;",
        bug: "entry.head.place == self.place && (digest == 0 || digest != 0);",
        check: SCAN,
    },
    Mutant {
        name: "the journal is cut at the first bad checksum, whatever later entries prove",
        file: "engine/src/judge.rs",
        text: "Verdict::Refuse(\"an entry is damaged that a later one proves to have been \
               durable\")",
        bug: "Verdict::EndHere",
        check: Check::Simulate("rot", 300),
    },
    Mutant {
        name: "a new name is used before its directory is synced",
        file: "engine/src/files.rs",
        text: "rename_new(&self.spare(spare), &self.segment(segment))?;\n        \
               sync_dir(&self.path)",
        bug: "rename_new(&self.spare(spare), &self.segment(segment))",
        check: POWER_CUT,
    },
    Mutant {
        name: "a sync that does nothing",
        file: "engine/src/blocking.rs",
        text: "retry_on_intr(|| rustix::fs::fdatasync(file))?;\n    Ok(0)",
        bug: "let _ = file;\n    Ok(0)",
        check: POWER_CUT,
    },
    Mutant {
        name: "a short write is taken for a whole one",
        file: "engine/src/shard.rs",
        text: "if count as usize != buf.len() {",
        bug: "if count as usize > buf.len() {",
        check: Check::Simulate("failing", 300),
    },
    Mutant {
        name: "the old header of a recycled file is taken for damage",
        file: "engine/src/replay.rs",
        text: "if header.shard == self.shard && header.segment < segment {",
        bug: "if header.shard != self.shard && header.segment < segment {",
        check: Check::Simulate("crashes", 300),
    },
    Mutant {
        name: "a segment's number is used twice",
        file: "engine/src/roll.rs",
        text: "let segment = SegmentId(self.number().0);",
        bug: "let segment = SegmentId(self.highest.max(1));",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "an entry of another segment is taken for one of this",
        file: "engine/src/format/entry.rs",
        text: "Place { entry: self.head.place.entry, ..*place } == self.head.place",
        bug: "place.offset == self.head.place.offset",
        check: Check::Simulate("crashes", 300),
    },
    Mutant {
        name: "the epoch of a commit is not looked at",
        file: "engine/src/owner.rs",
        text: "if state.stored.epoch != own {",
        bug: "if state.stored.epoch < own {",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a position is stored as the last record, not the next",
        file: "engine/src/catalog.rs",
        text: "source.expect(\"`from` was found among the sources\").next = to.next;",
        bug: "source.expect(\"it is\").next = Sequence(to.next.0.saturating_sub(1));",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "records go to a new segment before its manifest is durable",
        file: "engine/src/roll.rs",
        text: "        if roll.waits_for > 0 {\n            return;\n        }",
        bug: "        if roll.waits_for > 1 {\n            return;\n        }",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a failed sync is tried again",
        file: "engine/src/shard.rs",
        text: "Err(error) => self.stop(\"a sync\", error),",
        bug: "Err(_) => {\nlet durable = self.journal.synced();\n\
              self.became_durable(durable, now);\n}",
        check: Check::Simulate("failing", 300),
    },
    Mutant {
        name: "the checksum of a section is not looked at when it is read",
        file: "engine/src/read.rs",
        text: "if records_match(&place, log, row, &bytes) {",
        bug: "if records_match(&place, log, row, &bytes) || !bytes.is_empty() {",
        check: Check::Simulate("rot", 300),
    },
    Mutant {
        name: "opening does not sync what a killed process left",
        file: "engine/src/open.rs",
        text: "Progress::Run(kind) => self.queue",
        bug: "Progress::Run(OpKind::Sync { .. }) => {\nlet id = crate::io::OpId(0);\n\
              let (buf, side) = (None, None);\n\
              self.recover(Some(Completion { id, result: Ok(0), buf, side }));\n}\n\
              Progress::Run(kind) => self.queue",
        check: Check::Simulate("crashes", 1_000),
    },
    Mutant {
        name: "a file is used again before the record that frees it is durable",
        file: "engine/src/retention.rs",
        text: "self.defer(Deferred::Freed(segment));",
        bug: "self.segment_freed(segment);",
        check: Check::Simulate("crashes", 300),
    },
    Mutant {
        name: "a carried chain's old segment may go before the copies are there",
        file: "engine/src/carry.rs",
        text: "let oldest = walk.active;",
        bug: "let oldest = SegmentId(walk.active.0 + 2);",
        check: Check::Simulate("crashes", 1_000),
    },
    Mutant {
        name: "readers see records that are not durable",
        file: "engine/src/catalog.rs",
        text: "        state.next = first.after(count);\n",
        bug: "        state.next = first.after(count);\n        state.durable_next = state.next;\n",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a new owner restores before its epoch is durable",
        file: "engine/src/owner.rs",
        text: "self.defer(Deferred::Restore(id));",
        bug: "self.begin_walk(id);",
        check: Check::Simulate("crashes", 300),
    },
    Mutant {
        name: "a writer that is opened anew does not know its last batches",
        file: "engine/src/writers.rs",
        text: "Some(row) => ManifestWriter { epoch, increasing, ..row },",
        bug: "Some(row) => ManifestWriter { epoch, increasing, window: VecDeque::new(), ..row },",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a writer's numbers begin anew behind a manifest: a batch sent again is there twice",
        file: "engine/src/writers.rs",
        text: "self.by_epoch.insert(row.epoch, row);\n        true",
        bug: "let window = VecDeque::new();\n\
              let row = ManifestWriter { window, last: 0, ..row };\n\
              self.by_epoch.insert(row.epoch, row);\n        true",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a writer's last batches are not in the manifest",
        file: "engine/src/writers.rs",
        text: "self.by_epoch.insert(row.epoch, row);\n        true",
        bug: "let window = VecDeque::new();\n\
              self.by_epoch.insert(row.epoch, ManifestWriter { window, ..row });\n        true",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a repeated batch is answered before the first one is durable",
        file: "engine/src/ownership.rs",
        text: "let answer = Ok(Written { appended, repeated: true });\n            \
               self.answer(",
        bug: "let answer = Ok(Written { appended, repeated: true });\n            \
              self.answer_now(",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a writer that was fenced goes on",
        file: "engine/src/ownership.rs",
        text: "if newest.epoch != own {",
        bug: "if newest.epoch < own {",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a number whose batch is forgotten is taken for the next",
        file: "engine/src/writers.rs",
        text: "Some(next) if writer.increasing => number >= next,",
        bug: "Some(_) if writer.increasing => number > 0,",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a gap in numbers that have none is taken",
        file: "engine/src/writers.rs",
        text: "Some(next) => number == next,",
        bug: "Some(next) => number >= next,",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "processors append to logs that others own",
        file: "engine/src/change.rs",
        text: "Self::Processor(epoch) => owner == Epoch(0) || owner == epoch,",
        bug: "Self::Processor(epoch) => owner == Epoch(0) || epoch > Epoch(0),",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "an owner of before goes on",
        file: "engine/src/change.rs",
        text: "Self::Owner(epoch) => owner == epoch,",
        bug: "Self::Owner(epoch) => owner >= epoch,",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a processor does not own its outputs",
        file: "engine/src/owner.rs",
        text: "for control in std::iter::once(&control).chain(&owned) {",
        bug: "for control in std::iter::once(&control).chain(&owned[..0]) {",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "an owner is not in the manifest",
        file: "engine/src/catalog/manifest.rs",
        text: "owner: state.owner,",
        bug: "owner: Epoch(0),",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "the end of a log is not in the manifest",
        file: "engine/src/catalog/manifest.rs",
        text: "sealed: state.sealed,",
        bug: "sealed: false,",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "records go behind the end of a log",
        file: "engine/src/serve.rs",
        text: "        if state.sealed {\n            return Err(AppendError::Sealed",
        bug: "        if state.sealed && records.is_empty() {\n            \
              return Err(AppendError::Sealed",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "options are not in the manifest",
        file: "engine/src/catalog/manifest.rs",
        text: "options: state.options.clone(),",
        bug: "options: None,",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "options replace others than those that they were to",
        file: "engine/src/settings.rs",
        text: "replaces.filter(|replaces| *replaces != version)",
        bug: "replaces.filter(|replaces| *replaces > version)",
        check: Check::Simulate("crashes", 300),
    },
    Mutant {
        name: "a log keeps the name that it had",
        file: "engine/src/catalog/settings.rs",
        text: "                self.log_names.remove(&state.name);\n                \
               self.log_names.insert(",
        bug: "                self.log_names.insert(",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "records go although retention was taken away meanwhile",
        file: "engine/src/expiry.rs",
        text: "if !policy.is_some() {",
        bug: "if false {",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a hard rate refuses nothing",
        file: "engine/src/rates.rs",
        text: ".zip(limits(rates)).skip(2);",
        bug: ".zip(limits(rates)).skip(4);",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a refusal for a rate says too early a time",
        file: "engine/src/rates.rs",
        text: "u64::try_from(wait).unwrap_or(u64::MAX)",
        bug: "u64::try_from(wait - wait / 2).unwrap_or(u64::MAX)",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "the shard's rates are not in the manifest",
        file: "engine/src/catalog/manifest.rs",
        text: "catalog.rates = head.rates;",
        bug: "catalog.rates = Default::default();",
        check: Check::Simulate("crashes", 300),
    },
    Mutant {
        name: "a page of logs begins with the last one of the page before",
        file: "engine/src/catalog.rs",
        text: "Bound::Excluded(after)",
        bug: "Bound::Included(after)",
        check: Check::Simulate("crashes", 100),
    },
    Mutant {
        name: "a section that is shorter than its row says is taken",
        file: "engine/src/format/codec.rs",
        text: "(len == raw_len).then(|| raw.into())",
        bug: "(len <= raw_len).then(|| raw.into())",
        check: Check::Test(&["-p", "oncelog", "--lib", "codec"]),
    },
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_bug_can_still_be_planted() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        for mutant in MUTANTS {
            let good = std::fs::read_to_string(root.join(mutant.file)).expect(mutant.file);
            let bad = mutant.plant(&good).unwrap_or_else(|why| panic!("{}: {why}", mutant.name));
            assert_ne!(bad, good, "{}", mutant.name);
        }
    }
}
