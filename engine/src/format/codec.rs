//! How the bytes of a section are stored: as they are, or compressed (F-9).
//!
//! ```text
//! records -> pack -> stored bytes, if an eighth is saved; else the section is stored as it is
//! stored bytes -> unpack -> records, exactly as long as the section's row says
//! ```
//!
//! Both formats are the plain blocks of their libraries: an LZ4 block, one Zstandard frame. Nothing
//! that was read is trusted: never more than `raw_len` bytes are made, which is bounded by the
//! largest entry.
//!
//! Not here: which log uses which (`LogOptions`), and the checksum, which covers the stored bytes.

use bytes::Bytes;

/// Zstandard's fastest ordinary level: it is the shard's thread that packs (docs/perf.md).
const ZSTD_LEVEL: i32 = 1;

/// What saves less than this share of a section is stored as it is.
const SAVED_MIN: usize = 8;

/// How the bytes of a section are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As they are.
    #[default]
    None,
    /// An LZ4 block.
    Lz4,
    /// A Zstandard frame.
    Zstd,
}

impl Codec {
    /// All of them, in the order of their numbers on disk.
    pub const ALL: [Self; 3] = [Self::None, Self::Lz4, Self::Zstd];

    /// Its number on disk.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    /// The codec with this number on disk.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The records of a section that was stored so; `None` if it is not one of `raw_len` bytes.
    #[must_use]
    pub fn unpack(self, stored: &Bytes, raw_len: u32) -> Option<Bytes> {
        let raw_len = usize::try_from(raw_len).expect("64-bit platforms only");
        if self == Self::None {
            return (stored.len() == raw_len).then(|| stored.clone());
        }
        let mut raw = vec![0; raw_len];
        let len = match self {
            Self::None => unreachable!("answered above"),
            Self::Lz4 => lz4_flex::block::decompress_into(stored, &mut raw).ok()?,
            Self::Zstd => zstd::bulk::decompress_to_buffer(stored, &mut raw).ok()?,
        };
        (len == raw_len).then(|| raw.into())
    }
}

/// Compresses sections; keeps its working memory.
#[derive(Default)]
pub struct Packer {
    /// The last section that was packed.
    packed: Vec<u8>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Packer {
    /// The bytes to store instead of `raw`, or `None` if it is better stored as it is.
    pub fn pack(&mut self, codec: Codec, raw: &[u8]) -> Option<&[u8]> {
        let len_max = raw.len() - raw.len() / SAVED_MIN;
        let bound = match codec {
            Codec::None => return None,
            Codec::Lz4 => lz4_flex::block::get_maximum_output_size(raw.len()),
            Codec::Zstd => zstd::zstd_safe::compress_bound(raw.len()),
        };
        if self.packed.len() < bound {
            self.packed.resize(bound, 0);
        }
        let out = &mut self.packed[..bound];
        let len = if codec == Codec::Lz4 {
            lz4_flex::block::compress_into(raw, out).ok()?
        } else {
            // Without memory for it the section is stored as it is.
            let zstd = match &mut self.zstd {
                Some(zstd) => zstd,
                none => none.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL).ok()?),
            };
            zstd.compress_to_buffer(raw, out).ok()?
        };
        (len < len_max).then(|| &self.packed[..len])
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Codec, Packer};
    use bytes::Bytes;

    #[test]
    fn what_is_packed_unpacks_to_the_same_bytes_and_never_to_more() {
        let text = "one record after the other ".repeat(200).into_bytes();
        let mut packer = Packer::default();
        for codec in [Codec::Lz4, Codec::Zstd] {
            let packed = Bytes::copy_from_slice(packer.pack(codec, &text).expect("it repeats"));
            assert!(packed.len() * 4 < text.len(), "{codec:?}: {}", packed.len());
            let raw_len = u32::try_from(text.len()).unwrap();
            assert_eq!(codec.unpack(&packed, raw_len).as_deref(), Some(&text[..]));
            assert_eq!(codec.unpack(&packed, raw_len - 1), None, "longer than its row says");
            assert_eq!(codec.unpack(&packed, raw_len + 1), None, "shorter than its row says");
            assert_eq!(codec.unpack(&packed.slice(..packed.len() / 2), raw_len), None);
            assert_eq!(codec.unpack(&Bytes::new(), raw_len), None);
        }
    }

    #[test]
    fn what_does_not_get_smaller_is_stored_as_it_is() {
        let mut number = 1_u64;
        let mut next = || {
            number = number.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            (number >> 56) as u8
        };
        let noise: Vec<u8> = (0..5_000).map(|_| next()).collect();
        let mut packer = Packer::default();
        for codec in Codec::ALL {
            assert_eq!(packer.pack(codec, &noise), None, "{codec:?}");
            assert_eq!(packer.pack(codec, b""), None, "{codec:?}");
        }
    }
}
