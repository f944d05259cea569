//! Writes that a power cut tore: which of their sectors are there.
//!
//! ```text
//! write      |######|######|######|######|
//! left       |######|      |######|      |      and the file has grown, or not
//! ```
//!
//! Invariant: a sector is there whole or not at all.
//!
//! Not here: which writes are torn (`power_cut`).

use crate::rng::Rng;

/// What a disk writes whole or not at all.
pub const SECTOR: usize = 512;

/// Writes into a file, which may grow: all of the bytes, or the sectors that a seed says.
pub fn write(content: &mut Vec<u8>, offset: usize, data: &[u8], torn: Option<u64>) {
    let first = offset / SECTOR;
    let sectors = (offset + data.len()).div_ceil(SECTOR) - first;
    let mut rng = Rng::new(torn.unwrap_or_default());
    let torn = match torn {
        Some(_) if sectors > 0 => Torn::draw(&mut rng, sectors),
        _ => Torn::No,
    };
    // The new size may be there without the bytes.
    if matches!(torn, Torn::No | Torn::Grown) || rng.one_in(2) {
        content.resize(content.len().max(offset + data.len()), 0);
    }
    for sector in 0..sectors {
        let begin = offset.max((first + sector) * SECTOR);
        let end = (offset + data.len()).min((first + sector + 1) * SECTOR);
        if torn.keeps(sector, &mut rng) {
            content.resize(content.len().max(end), 0);
            content[begin..end].copy_from_slice(&data[begin - offset..end - offset]);
        }
    }
}

/// Which sectors of a write are there.
enum Torn {
    /// All of them.
    No,
    /// Those before, or behind, this one.
    Before(usize),
    Behind(usize),
    /// All but this one, or this one alone.
    Without(usize),
    Only(usize),
    /// One in so many.
    OneIn(u64),
    /// None, but the file has grown.
    Grown,
}

impl Torn {
    fn draw(rng: &mut Rng, sectors: usize) -> Self {
        let sector = rng.index(sectors);
        match rng.below(7) {
            0 => Self::Before(sector),
            1 => Self::Behind(sector),
            2 => Self::Without(sector),
            3 => Self::Only(sector),
            4 => Self::OneIn(8),
            5 => Self::OneIn(2),
            _ => Self::Grown,
        }
    }

    fn keeps(&self, sector: usize, rng: &mut Rng) -> bool {
        match self {
            Self::No => true,
            Self::Before(end) => sector < *end,
            Self::Behind(begin) => sector > *begin,
            Self::Without(lost) => sector != *lost,
            Self::Only(kept) => sector == *kept,
            Self::OneIn(n) => rng.one_in(*n),
            Self::Grown => false,
        }
    }
}
