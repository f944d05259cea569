//! Opening a shard: runs the recovery, then becomes what it found.
//!
//! Nothing is acted on that is not durable: a segment that was not closed is followed by a fresh
//! one (`roll`) before anything is written, and files that a seal names stay until that one is
//! durable.
//!
//! Not here: what the files mean (`recover`).

use crate::commit::Active;
use crate::error::Stopped;
use crate::io::{Completion, OpKind};
use crate::recover::{Progress, Recovered};
use crate::roll::{SPARES_MAX, Spares};
use crate::shard::{Purpose, Shard};

impl Shard {
    pub(crate) fn recover(&mut self, done: Option<Completion>) {
        let recovery = self.recovery.as_mut().expect("the shard is being opened");
        let progress = recovery.step(done);
        self.recovery_facts = recovery.facts();
        match progress {
            Progress::Run(kind) => self.queue.push_back((Purpose::Recovery, kind)),
            Progress::Failed(error) => {
                self.recovery = None;
                self.stopped = Some(Stopped::closed());
                self.finished = true;
                self.opened = Some(Err(error));
            }
            Progress::Done(recovered) => {
                self.recovery = None;
                self.recovered(*recovered);
                self.opened = Some(Ok(()));
            }
        }
    }

    fn recovered(&mut self, found: Recovered) {
        self.catalog = found.catalog;
        self.index = found.index;
        let mut spares = found.spares;
        // Those with the highest numbers stay, so that no number of a file that went comes back.
        let surplus: Vec<_> = spares.drain(..spares.len().saturating_sub(SPARES_MAX)).collect();
        self.spares = Spares::new(spares, found.highest);
        for spare in found.bad_spares.into_iter().chain(surplus) {
            let purpose = Purpose::Background("removing a spare");
            self.queue.push_back((purpose, OpKind::RemoveSpare { spare }));
        }
        let keep_unused = found.ended.as_ref().is_some_and(|ended| ended.sealed);
        for (segment, full_size) in found.unused {
            if keep_unused || !full_size {
                // Until a segment with a higher number is durable.
                self.unused.push((segment, full_size));
            } else {
                let work = self.spares.reuse(segment);
                self.queue.push_back(work);
            }
        }
        for segment in self.catalog.segments().filter(|s| s.freed).map(|s| s.segment) {
            self.queue
                .push_back((Purpose::Recycle(segment, None), OpKind::RemoveSegment { segment }));
        }
        self.journal.set_time(found.time_us);
        match found.ended {
            Some(ended) if ended.goes_on => {
                let active = Active {
                    segment: ended.segment,
                    end: ended.end,
                    entries: ended.entries,
                    digest: ended.digest,
                    durable: ended.entries,
                    covered: true,
                    closed: true,
                };
                self.journal.set_active(active);
            }
            ended => self.ended = ended,
        }
        self.begin_retention();
        self.expiry.set_due();
    }
}
