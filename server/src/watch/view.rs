//! Everything that the page shows, as it was at one time.
//!
//! Not here: how it looks (`page`).

use std::rc::Rc;
use std::time::Duration;

use oncelog::{EngineInfo, EngineMetrics, ProcessorInfo};

use super::Stage;
use super::sample::{Answer, LogPage, Pace, Pulse, Sampler, SpaceSeen};
use crate::front::Figures;

/// What the page shows.
pub(super) struct View {
    /// What the names of the logs begin with.
    pub(super) prefix: String,
    /// The logs are those behind this name.
    pub(super) after: String,
    pub(super) stage: Stage,
    pub(super) uptime: Duration,
    pub(super) pulse: Answer<Pulse>,
    pub(super) info: Answer<EngineInfo>,
    pub(super) metrics: Answer<EngineMetrics>,
    /// From look to look, the newest last.
    pub(super) paces: Vec<Pace>,
    pub(super) logs: Answer<LogPage>,
    pub(super) processors: Answer<Vec<ProcessorInfo>>,
    pub(super) space: Option<SpaceSeen>,
    pub(super) front: Figures,
}

impl View {
    /// Asks for all of it, or takes what was asked a moment ago.
    pub(super) async fn take(sampler: &Rc<Sampler>, prefix: String, after: String) -> Self {
        let metrics = sampler.metrics().await;
        Self {
            stage: sampler.stage(),
            uptime: sampler.uptime(),
            pulse: sampler.pulse().await,
            info: sampler.info().await,
            metrics,
            paces: sampler.paces(),
            logs: sampler.page(&prefix, &after).await,
            processors: sampler.processors().await,
            space: sampler.space().await,
            front: sampler.watched.front.figures(),
            prefix,
            after,
        }
    }

    /// The newest pace; none where the engine tells nothing any more.
    pub(super) fn pace(&self) -> Pace {
        let last = self.paces.last().filter(|_| self.metrics.is_ok());
        last.copied().unwrap_or_default()
    }
}
