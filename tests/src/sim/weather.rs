//! What a world is like, beside its seed.
//!
//! Not here: what the faults do (`disk`), and when (`world`).

use crate::rng::Rng;

/// See the module's head. Numbers are the chance "one in so many", 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Episodes, each ended by a crash or a clean close.
    pub episodes: u32,
    /// Steps of an episode, at most.
    pub steps_max: u64,
    /// Writes and syncs fail, or reads do.
    pub failing: u64,
    /// Writes take fewer bytes than they are given.
    pub short: u64,
    /// Operations on files fail.
    pub files: u64,
    /// The disk is full from time to time.
    pub full: bool,
    /// What was acknowledged is damaged, before opening and while running.
    pub rot: bool,
    /// Reads bring other bytes, once.
    pub misread: u64,
    /// So many logs that the manifest is full.
    pub crowded: bool,
    /// The seed draws all of the above.
    pub mixed: bool,
}

/// Names of all weathers.
pub const NAMES: [&str; 5] = ["everything", "crashes", "failing", "full", "rot"];

const NONE: Weather = Weather {
    episodes: 6,
    steps_max: 400,
    failing: 0,
    short: 0,
    files: 0,
    full: false,
    rot: false,
    misread: 0,
    crowded: false,
    mixed: false,
};

impl Weather {
    /// Crashes, and nothing else.
    pub const CRASHES: Self = NONE;
    /// Operations that fail, too.
    pub const FAILING: Self = Self { failing: 150, short: 400, files: 15, ..NONE };
    /// A disk that is full from time to time, too.
    pub const FULL: Self = Self { full: true, ..NONE };
    /// Damage, too.
    pub const ROT: Self = Self { rot: true, misread: 200, ..NONE };
    /// A mix that the seed draws.
    pub const EVERYTHING: Self = Self { mixed: true, ..NONE };

    /// The weather of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "everything" => Some(Self::EVERYTHING),
            "crashes" => Some(Self::CRASHES),
            "failing" => Some(Self::FAILING),
            "full" => Some(Self::FULL),
            "rot" => Some(Self::ROT),
            _ => None,
        }
    }

    /// The weather of one seed.
    #[must_use]
    pub fn of_seed(self, rng: &mut Rng) -> Self {
        if !self.mixed {
            return self;
        }
        let mut often = |all: [u64; 4]| all[rng.index(4)];
        Self {
            failing: often([0, 0, 100, 400]),
            short: often([0, 0, 200, 1_000]),
            files: often([0, 0, 20, 100]),
            misread: often([0, 0, 100, 1_000]),
            full: rng.one_in(3),
            rot: rng.one_in(2),
            crowded: rng.one_in(40),
            mixed: false,
            ..self
        }
    }

    /// Whether a shard may stop.
    #[must_use]
    pub fn may_stop(&self) -> bool {
        self.failing > 0 || self.short > 0 || self.files > 0
    }

    /// Whether reads may bring other bytes than were written.
    #[must_use]
    pub fn damages(&self) -> bool {
        self.rot || self.misread > 0
    }
}
