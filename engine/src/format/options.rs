//! What can be set for a log while it is used: compression, sizes, retention, rates, metadata.
//!
//! Options are durable and have a version: they are replaced as a whole, and whoever says which
//! version is to be replaced never undoes another's change.
//!
//! Not here: which of them are allowed (`settings`), and who acts on them (`serve`, `retention`,
//! `rates`, `stage`).

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::codec::Codec;
use crate::limits::{METADATA_SIZE_MAX, NAME_SIZE_MAX, RETENTION_READERS_MAX};

/// Options of a log.
///
/// ```
/// use oncelog::{Codec, LogOptions};
/// use std::time::Duration;
/// let week = Duration::from_secs(7 * 24 * 3600);
/// let options = LogOptions::default().compression(Codec::Zstd).keep_for(week).keep_bytes(1 << 30);
/// assert_eq!(options.retention.age_us.unwrap().get(), 7 * 24 * 3600 * 1_000_000);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogOptions {
    /// How its records are stored, section by section, where that makes them smaller. Default:
    /// as they are.
    pub compression: Codec,
    /// The largest payload of a record, in bytes. `None`: what fits an entry.
    pub record_size_max: Option<NonZeroU32>,
    /// Which records may go by themselves. Default: none.
    pub retention: Retention,
    /// How fast it may be appended to. Default: as fast as it goes.
    pub rates: Rates,
    /// Bytes of the application, at most [`METADATA_SIZE_MAX`]: nothing here looks at them.
    pub metadata: Bytes,
}

/// Which records of a log go by themselves.
///
/// A record goes once it is older than `age_us` **or** more than `bytes` of newer ones are there;
/// with neither, as soon as all `readers` have passed it. It never goes before each of `readers`,
/// and each processor that reads the log, has passed it. A named processor that does not exist yet
/// holds everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Microseconds that a record stays at least.
    pub age_us: Option<NonZeroU64>,
    /// Bytes of the newest records that stay at least, payloads and 16 bytes for each record.
    pub bytes: Option<NonZeroU64>,
    /// Names of processors, of the log's group.
    pub readers: Vec<String>,
}

impl Retention {
    /// Whether any record ever goes by itself.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.age_us.is_some() || self.bytes.is_some() || !self.readers.is_empty()
    }
}

/// How fast records may come: for one second's worth at once, then evenly.
///
/// Beyond a soft rate it is counted and warned of. Beyond a hard one appends are refused with
/// `OverCapacity`, which says when to come back. Outputs of processors count, and are never
/// refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rates {
    /// Bytes of payload a second, before it is warned of.
    pub bytes_soft: Option<NonZeroU64>,
    /// Bytes of payload a second, before it is refused.
    pub bytes_hard: Option<NonZeroU64>,
    /// Records a second, before it is warned of.
    pub records_soft: Option<NonZeroU64>,
    /// Records a second, before it is refused.
    pub records_hard: Option<NonZeroU64>,
}

impl Rates {
    /// An even share of each, at least 1.
    #[must_use]
    pub fn split(self, parts: u16) -> Self {
        let share = |rate: Option<NonZeroU64>| {
            rate.and_then(|rate| NonZeroU64::new((rate.get() / u64::from(parts)).max(1)))
        };
        Self {
            bytes_soft: share(self.bytes_soft),
            bytes_hard: share(self.bytes_hard),
            records_soft: share(self.records_soft),
            records_hard: share(self.records_hard),
        }
    }

    /// Whether any is set.
    #[must_use]
    pub fn is_some(&self) -> bool {
        *self != Self::default()
    }

    /// No more than so many bytes of payload a second.
    ///
    /// # Panics
    /// With 0: leave it out for no limit.
    #[must_use]
    pub fn bytes_hard(self, bytes: u64) -> Self {
        Self { bytes_hard: Some(not_zero(bytes)), ..self }
    }

    /// A warning beyond so many bytes of payload a second.
    ///
    /// # Panics
    /// With 0: leave it out for no limit.
    #[must_use]
    pub fn bytes_soft(self, bytes: u64) -> Self {
        Self { bytes_soft: Some(not_zero(bytes)), ..self }
    }

    /// No more than so many records a second.
    ///
    /// # Panics
    /// With 0: leave it out for no limit.
    #[must_use]
    pub fn records_hard(self, records: u64) -> Self {
        Self { records_hard: Some(not_zero(records)), ..self }
    }

    /// A warning beyond so many records a second.
    ///
    /// # Panics
    /// With 0: leave it out for no limit.
    #[must_use]
    pub fn records_soft(self, records: u64) -> Self {
        Self { records_soft: Some(not_zero(records)), ..self }
    }
}

fn not_zero(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).expect("0 is no limit; leave it out for none")
}

impl LogOptions {
    /// Stores records so, where that makes them smaller.
    #[must_use]
    pub fn compression(self, codec: Codec) -> Self {
        Self { compression: codec, ..self }
    }

    /// Refuses larger payloads, in bytes.
    ///
    /// # Panics
    /// With 0.
    #[must_use]
    pub fn record_size_max(self, bytes: u32) -> Self {
        let max = NonZeroU32::new(bytes).expect("records of 0 bytes at most are no log");
        Self { record_size_max: Some(max), ..self }
    }

    /// Records may go once they are so old.
    ///
    /// # Panics
    /// With less than a microsecond.
    #[must_use]
    pub fn keep_for(mut self, age: Duration) -> Self {
        let age = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        self.retention.age_us = Some(not_zero(age));
        self
    }

    /// Records may go once so many bytes of newer ones are there.
    ///
    /// # Panics
    /// With 0.
    #[must_use]
    pub fn keep_bytes(mut self, bytes: u64) -> Self {
        self.retention.bytes = Some(not_zero(bytes));
        self
    }

    /// No record goes by itself before this processor has passed it.
    #[must_use]
    pub fn keep_until(mut self, processor: impl Into<String>) -> Self {
        self.retention.readers.push(processor.into());
        self
    }

    /// How fast it may be appended to.
    #[must_use]
    pub fn rates(self, rates: Rates) -> Self {
        Self { rates, ..self }
    }

    /// Bytes of the application.
    #[must_use]
    pub fn metadata(self, metadata: impl Into<Bytes>) -> Self {
        Self { metadata: metadata.into(), ..self }
    }

    /// Bytes that they take in a control record (F-17).
    #[must_use]
    pub fn size(&self) -> usize {
        let readers = self.retention.readers.iter().map(|name| 2 + name.len());
        FIXED_SIZE + readers.sum::<usize>() + self.metadata.len()
    }

    /// Appends them to a control record (F-17).
    pub fn put(&self, out: &mut BytesMut) {
        let number = |value: Option<NonZeroU64>| value.map_or(0, NonZeroU64::get);
        out.put_u64_le(number(self.retention.age_us));
        out.put_u64_le(number(self.retention.bytes));
        self.rates.put(out);
        out.put_u32_le(self.record_size_max.map_or(0, NonZeroU32::get));
        out.put_u16_le(u16::try_from(self.metadata.len()).expect("metadata is small"));
        out.put_u8(self.compression.number());
        out.put_u8(u8::try_from(self.retention.readers.len()).expect("it waits for few"));
        for name in &self.retention.readers {
            out.put_u16_le(u16::try_from(name.len()).expect("names are short"));
            out.put_slice(name.as_bytes());
        }
        out.put_slice(&self.metadata);
    }

    /// Takes them off a control record; `None` if they are not valid (F-17).
    #[must_use]
    pub fn take(body: &mut Bytes) -> Option<Self> {
        let age_us = NonZeroU64::new(body.try_get_u64_le().ok()?);
        let bytes = NonZeroU64::new(body.try_get_u64_le().ok()?);
        let rates = Rates::take(body)?;
        let record_size_max = NonZeroU32::new(body.try_get_u32_le().ok()?);
        let metadata = usize::from(body.try_get_u16_le().ok()?);
        let compression = Codec::from_number(body.try_get_u8().ok()?)?;
        let mut readers = Vec::new();
        let count = usize::from(body.try_get_u8().ok()?);
        if count > RETENTION_READERS_MAX || metadata > METADATA_SIZE_MAX {
            return None;
        }
        for _ in 0..count {
            let len = usize::from(body.try_get_u16_le().ok()?);
            if len > NAME_SIZE_MAX || body.len() < len {
                return None;
            }
            readers.push(String::from_utf8(body.split_to(len).to_vec()).ok()?);
        }
        if body.len() < metadata {
            return None;
        }
        // A copy: the catalog keeps it, and must not keep the memory of a whole entry.
        let metadata = Bytes::copy_from_slice(&body.split_to(metadata));
        let retention = Retention { age_us, bytes, readers };
        Some(Self { compression, record_size_max, retention, rates, metadata })
    }
}

/// Bytes of options without names and metadata.
const FIXED_SIZE: usize = 16 + Rates::SIZE + 4 + 2 + 1 + 1;

impl Rates {
    /// Bytes that they take in a control record.
    pub const SIZE: usize = 32;

    /// Appends them to a control record (F-17).
    pub fn put(&self, out: &mut BytesMut) {
        for rate in [self.bytes_soft, self.bytes_hard, self.records_soft, self.records_hard] {
            out.put_u64_le(rate.map_or(0, NonZeroU64::get));
        }
    }

    /// Takes them off a control record; `None` if it ends before (F-17).
    #[must_use]
    pub fn take(body: &mut Bytes) -> Option<Self> {
        let mut next = || body.try_get_u64_le().ok().map(NonZeroU64::new);
        Some(Self {
            bytes_soft: next()?,
            bytes_hard: next()?,
            records_soft: next()?,
            records_hard: next()?,
        })
    }
}
