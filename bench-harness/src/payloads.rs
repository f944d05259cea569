//! The payloads of a spec: the same sizes in the same order for every target.
//!
//! ```text
//! Spec { payload, seed } -> sizes, drawn once, used again and again
//!                        -> pools of random bytes; a payload is a slice of one, nothing is copied
//! ```
//!
//! Invariant: a payload by itself does not compress. Batches do, since pools come in turn: stores
//! that compress whole batches are told not to.
//!
//! Not here: how they are appended.

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::spec::{Payload, Spec};

/// So many sizes are drawn before they repeat.
const SIZES: usize = 8192;
/// Pools of bytes in turn: neighbours do not share one reference count.
const POOLS: usize = 16;

/// Payloads by number.
#[derive(Clone, Debug)]
pub struct Payloads {
    sizes: Vec<u32>,
    pools: Vec<Bytes>,
}

impl Payloads {
    /// Those of a spec.
    #[must_use]
    pub fn of(spec: &Spec) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(spec.seed);
        let sizes = match &spec.payload {
            Payload::Fixed(size) => vec![*size],
            Payload::Mix(mix) => (0..SIZES).map(|_| draw(mix, &mut random)).collect(),
        };
        let size_max = sizes.iter().copied().max().unwrap_or(0) as usize;
        let pool = |_| {
            let mut bytes = vec![0; size_max];
            random.fill_bytes(&mut bytes);
            Bytes::from(bytes)
        };
        let pools = (0..POOLS).map(pool).collect();
        Self { sizes, pools }
    }

    /// Bytes of payload `number`.
    #[must_use]
    pub fn size(&self, number: u64) -> u32 {
        self.sizes[(number % self.sizes.len() as u64) as usize]
    }

    /// Payload `number`.
    #[must_use]
    pub fn get(&self, number: u64) -> Bytes {
        let pool = &self.pools[(number % POOLS as u64) as usize];
        pool.slice(..self.size(number) as usize)
    }

    /// Bytes of a payload in the mean.
    #[must_use]
    pub fn size_mean(&self) -> f64 {
        let sum: u64 = self.sizes.iter().map(|size| u64::from(*size)).sum();
        sum as f64 / self.sizes.len() as f64
    }
}

fn draw(mix: &[(u32, u32)], random: &mut ChaCha8Rng) -> u32 {
    let weights: u32 = mix.iter().map(|(_, weight)| weight).sum();
    let mut left = random.random_range(0..weights.max(1));
    for (size, weight) in mix {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return *size,
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Work;

    fn spec(seed: u64) -> Spec {
        let payload = Payload::Mix(vec![(100, 9), (10_000, 1)]);
        Spec { work: Work::Append { in_flight: 1 }, logs: 1, payload, seconds: 1.0, seed }
    }

    #[test]
    fn one_seed_gives_the_same_sizes_and_another_one_others() {
        let sizes = |seed| {
            let payloads = Payloads::of(&spec(seed));
            (0..1000).map(|number| payloads.size(number)).collect::<Vec<_>>()
        };
        assert_eq!(sizes(1), sizes(1));
        assert_ne!(sizes(1), sizes(2));
    }

    #[test]
    fn sizes_come_by_their_weights_and_bytes_are_as_long_as_their_size() {
        let payloads = Payloads::of(&spec(7));
        let large = (0..8000).filter(|number| payloads.size(*number) == 10_000).count();
        assert!((600..1000).contains(&large), "{large} of 8000 are large, a tenth should be");
        assert!(
            (0..100).all(|number| payloads.get(number).len() == payloads.size(number) as usize)
        );
        assert_ne!(payloads.get(0)[..50], payloads.get(1)[..50]);
    }
}
