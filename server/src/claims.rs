//! Processors that clients have claimed, and their commits.
//!
//! ```text
//! CLAIM  -> Engine::processor(..).open() -> kept here under the reader's name, with its epoch
//! COMMIT -> the one that is kept, if the epoch is its; by whichever connection it comes
//! ```
//!
//! Invariants:
//! - The one that is kept has the highest epoch of all that were claimed here.
//! - One that failed is kept no longer: its owner claims again, and gets what was committed
//!   (P-22).
//! - After a restart nothing is kept: every owner claims again.
//!
//! Not here: fencing and atomicity, which the engine does.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use oncelog::{
    Commit, CommitError, Committed, Engine, Epoch, Log, Processor, Response, Restored, Sequence,
};

use crate::command::State;
use crate::error::Refusal;

struct Claimed {
    processor: Processor,
    /// Each source, and the position that the last commit said.
    positions: Vec<(Log, Sequence)>,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Claims(Mutex<HashMap<String, Claimed>>);

/// What a commit makes durable.
pub(crate) struct Change {
    pub(crate) positions: Vec<(String, Sequence)>,
    pub(crate) state: State,
    pub(crate) outputs: Vec<(Log, bytes::Bytes)>,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Claimed>> {
        // Changes are single calls of the map, so a poisoned map is a whole map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Owns a processor. Answers its state, and the names of its sources with their positions
    /// (P-20).
    pub(crate) async fn claim(
        &self,
        engine: &Engine,
        reader: String,
        (sources, owns, change): (Vec<String>, Vec<String>, bool),
    ) -> Result<(Restored, Vec<(String, Sequence)>), Refusal> {
        let mut options = engine.processor(&*reader);
        if change {
            options = options.change_sources();
        }
        let options = sources.into_iter().fold(options, |options, log| options.source(log));
        let options = owns.into_iter().fold(options, |options, log| options.owns(log));
        let (processor, restored) = options.open().await?;
        let next = restored.positions.iter().map(|position| position.next);
        let positions: Vec<_> = processor.sources().cloned().zip(next).collect();
        let named = positions.iter().map(|(log, next)| (log.name().to_owned(), *next)).collect();
        let mut claims = self.lock();
        let newer = |claimed: &Claimed| claimed.processor.epoch() > processor.epoch();
        // Of two that claim at once the later one stays.
        if !claims.get(&reader).is_some_and(newer) {
            claims.insert(reader, Claimed { processor, positions });
        }
        Ok((restored, named))
    }

    /// Commits, after all commits that came before (P-21).
    pub(crate) fn commit(
        &self,
        reader: &str,
        epoch: Epoch,
        change: Change,
    ) -> Result<Response<Committed, CommitError>, Refusal> {
        let mut claims = self.lock();
        let Some(claimed) = claims.get_mut(reader) else {
            let text = format!(
                "nobody owns processor {reader:?}: a commit failed, or the server was started \
                 again; nothing was committed, CLAIM it"
            );
            return Err(Refusal::new("UNCLAIMED", text));
        };
        let newest = claimed.processor.epoch();
        if newest != epoch {
            let text = format!(
                "epoch {newest} owns processor {reader:?}, this is epoch {epoch}; nothing was \
                 committed, stop"
            );
            return Err(Refusal::new("FENCED", text));
        }
        let mut positions = claimed.positions.clone();
        for (log, next) in change.positions {
            let source = positions.iter_mut().find(|(source, _)| source.name() == log);
            let Some(source) = source else {
                let text = format!("log {log:?} is no source of {reader:?}; nothing was committed");
                return Err(Refusal::new("ERR", text));
            };
            source.1 = next;
        }
        let mut commit = match change.state {
            State::None => Commit::new(),
            State::Delta(delta) => Commit::new().delta(delta),
            State::Snapshot(snapshot) => Commit::new().snapshot(snapshot),
        };
        for (log, next) in &positions {
            commit = commit.position(log.id(), *next);
        }
        for (log, record) in change.outputs {
            commit = commit.output(&log, record);
        }
        claimed.positions = positions;
        Ok(claimed.processor.commit(commit))
    }

    /// Its owner has failed, or it was dropped.
    pub(crate) fn forget(&self, reader: &str, epoch: Option<Epoch>) {
        let mut claims = self.lock();
        let is_it = |claimed: &Claimed| epoch.is_none_or(|own| claimed.processor.epoch() == own);
        if claims.get(reader).is_some_and(is_it) {
            claims.remove(reader);
        }
    }
}
