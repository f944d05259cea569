//! The model's settings of logs: where they end, what they are called, their options; and lists.
//!
//! Not here: who may write to them (`writers`).

use std::sync::Arc;

use oncelog::change::Author;
use oncelog::{LogId, LogOptions};

use crate::sim::effect::{Effect, Outcome};
use crate::sim::model::State;

/// The group of every name in a world.
pub const GROUP: &str = "g/";

/// Whether a log may have these options.
#[must_use]
pub fn is_valid(options: &LogOptions) -> bool {
    let readers = &options.retention.readers;
    let in_group = readers.iter().all(|name| name.starts_with(GROUP));
    options.metadata.len() <= 4096 && readers.len() <= 16 && in_group
}

impl State {
    pub(crate) fn seal(&mut self, log: LogId, author: Author) -> Outcome {
        let Some(log) = self.logs.get_mut(&log) else { return Outcome::Refused("dropped") };
        if !log.sealed && !log.takes_from(author) {
            return Outcome::Refused("owned");
        }
        log.sealed = true;
        Outcome::SealedAt(log.next())
    }

    pub(crate) fn set_options(
        &mut self,
        id: LogId,
        options: &Arc<LogOptions>,
        replaces: Option<u32>,
    ) -> Outcome {
        let Some(log) = self.logs.get_mut(&id) else { return Outcome::Refused("dropped") };
        if !is_valid(options) {
            return Outcome::Refused("options");
        }
        if replaces.is_some_and(|replaces| replaces != log.version) {
            return Outcome::Refused("options changed");
        }
        log.version += 1;
        log.options = Arc::clone(options);
        Outcome::Logs(vec![self.info(id)])
    }

    pub(crate) fn rename(&mut self, id: LogId, name: &str) -> Outcome {
        let Some(log) = self.logs.get(&id) else { return Outcome::Refused("dropped") };
        if log.name != name {
            if !name.starts_with(GROUP) {
                return Outcome::Refused("other group");
            }
            if self.log_named(name).is_some() {
                return Outcome::Refused("exists");
            }
            name.clone_into(&mut self.log_mut(id).name);
        }
        Outcome::Logs(vec![self.info(id)])
    }

    pub(crate) fn list_logs(&self, prefix: &str, after: &str, limit: usize) -> Outcome {
        let named =
            self.logs.iter().filter(|(_, l)| l.name.starts_with(prefix) && l.name.as_str() > after);
        let mut infos: Vec<_> = named.map(|(id, _)| self.info(*id)).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos.truncate(limit);
        Outcome::Logs(infos)
    }

    /// Whether a hard rate may refuse what would otherwise be appended.
    #[must_use]
    pub fn may_be_over_capacity(&self, effect: &Effect) -> bool {
        let logs: Vec<_> = match effect {
            Effect::Append { parts, .. } => parts.iter().map(|(log, _)| *log).collect(),
            Effect::Write(write) => vec![write.log],
            _ => return false,
        };
        let is_hard =
            |rates: &oncelog::Rates| rates.bytes_hard.is_some() || rates.records_hard.is_some();
        let own = |log: &LogId| self.logs.get(log).is_some_and(|l| is_hard(&l.options.rates));
        if !is_hard(&self.rates) && !logs.iter().any(own) {
            return false;
        }
        let outcome = self.clone().apply(effect);
        matches!(outcome, Outcome::Appended(..) | Outcome::Written { repeated: false, .. })
    }
}
