//! Memory for direct I/O: aligned, passed by ownership, shared without copying once written.
//!
//! ```text
//! arena (a few of them, each registered with the ring where that is allowed)
//! [ entry | entry | entry |        rest         ]
//!     |       |       '- Buf: being built, or owned by the kernel until its completion
//!     '-------'--------- Bytes: durable, shared with readers, freed with the last of them
//! ```
//!
//! An arena is used again from its start once nothing refers to any part of it. A `Buf` always
//! begins at a multiple of the block size, and its memory never moves while it exists: it is only
//! ever filled within its capacity.
//!
//! Large arenas ask for huge pages: the kernel pins, maps and sends 2 MiB as one piece instead of
//! 512, which a batch of 1 MiB notices (docs/perf.md).
//!
//! Not here: who may touch the memory when (ownership says so).
#![expect(
    unsafe_code,
    reason = "the kernel is given the address of an arena; the block has a proof"
)]

use bytes::{BufMut, Bytes, BytesMut};
use rustix::mm::{Advice, madvise};

use crate::limits::BLOCK_SIZE;

const ALIGN: usize = BLOCK_SIZE as usize;

/// Which arena a buffer is cut from, so that the ring can use its registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// Number of the arena in its pool, dense from 0.
    pub index: u16,
    /// Address of the arena's first aligned byte.
    pub base: usize,
    /// Bytes from there to the arena's end.
    pub len: usize,
}

/// Block-aligned memory with one owner.
#[derive(Debug)]
pub struct Buf {
    bytes: BytesMut,
    home: Option<Home>,
}

impl Buf {
    /// `len` zero bytes outside any arena, for reading into.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut bytes = aligned(len);
        bytes.resize(len, 0);
        Self { bytes, home: None }
    }

    /// The bytes, shared from now on.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        self.bytes.freeze()
    }

    /// The arena it is cut from.
    #[must_use]
    pub fn home(&self) -> Option<Home> {
        self.home
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, for writing.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives the first `count` bytes up: they were transferred. The rest stays where it is.
    pub fn advance(&mut self, count: usize) {
        drop(self.bytes.split_to(count));
    }
}

/// Empty, with room for `len` bytes from an aligned address.
fn aligned(len: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(len + ALIGN);
    align(&mut bytes);
    bytes
}

fn align(bytes: &mut BytesMut) {
    assert!(bytes.is_empty());
    let skip = bytes.as_ptr().align_offset(ALIGN);
    bytes.put_bytes(0, skip);
    drop(bytes.split());
    assert!(bytes.as_ptr().addr().is_multiple_of(ALIGN));
}

/// Asks for huge pages, where the memory is large enough for any. Without them all is the same, but
/// slower.
fn advise_huge(memory: &mut BytesMut) {
    const HUGE: usize = 2 << 20;
    let (begin, len) = (memory.as_mut_ptr(), memory.capacity());
    if len < HUGE {
        return;
    }
    // SAFETY: `begin..begin + len` is the part of one allocation that `memory` alone owns, so it is
    // mapped and nobody unmaps it during the call. The advice changes neither the content nor the
    // protection of any page, also not of the last one, which may be shared with another
    // allocation (madvise(2), MADV_HUGEPAGE).
    let advised = unsafe { madvise(begin.cast(), len, Advice::LinuxHugepage) };
    if let Err(error) = advised {
        tracing::debug!(%error, "no huge pages for write buffers");
    }
}

struct Arena {
    /// The part that is not handed out. It keeps the whole allocation alive.
    rest: BytesMut,
    home: Home,
}

impl Arena {
    /// Bytes up to the arena's end. The allocation may reach further; what is registered does not.
    fn room(&self) -> usize {
        self.home.base + self.home.len - self.rest.as_ptr().addr()
    }
}

/// The arenas of one shard.
///
/// The pool must outlive the ring that its arenas are registered with; it never frees one before.
pub struct Pool {
    arenas: Vec<Arena>,
    current: usize,
    arena_size: usize,
    arenas_max: usize,
}

impl Pool {
    /// Arenas of `arena_size` bytes, at most `arenas_max`, made when they are first needed.
    #[must_use]
    pub fn new(arena_size: usize, arenas_max: usize) -> Self {
        assert!(arena_size.is_multiple_of(ALIGN));
        Self { arenas: Vec::new(), current: 0, arena_size, arenas_max }
    }

    /// A buffer of at most `len` bytes (multiples of the block size), filled by `fill`.
    pub fn build(&mut self, len: usize, fill: impl FnOnce(&mut BytesMut)) -> Buf {
        assert!(len.is_multiple_of(ALIGN));
        let Some(index) = self.arena_with_room(len) else {
            // Readers hold on to every arena: memory of its own, freed with its last reader.
            let mut bytes = aligned(len);
            let place = bytes.as_ptr();
            fill(&mut bytes);
            assert!(bytes.len() <= len && bytes.len().is_multiple_of(ALIGN));
            assert_eq!(bytes.as_ptr(), place, "a buffer moved while it was filled");
            return Buf { bytes, home: None };
        };
        let Arena { rest, home } = &mut self.arenas[index];
        assert!(rest.is_empty());
        let place = rest.as_ptr();
        fill(rest);
        assert!(rest.len() <= len && rest.len().is_multiple_of(ALIGN));
        assert_eq!(rest.as_ptr(), place, "an arena moved while it was filled");
        Buf { bytes: rest.split(), home: Some(*home) }
    }

    fn arena_with_room(&mut self, len: usize) -> Option<usize> {
        if len > self.arena_size {
            return None;
        }
        if self.arenas.get(self.current).is_some_and(|arena| arena.room() >= len) {
            return Some(self.current);
        }
        // The arena after the current one was handed out longest ago.
        let count = self.arenas.len();
        for step in 1..=count {
            let index = (self.current + step) % count;
            let rest = &mut self.arenas[index].rest;
            if rest.try_reclaim(self.arena_size + ALIGN) {
                align(rest);
                assert_eq!(rest.as_ptr().addr(), self.arenas[index].home.base);
                self.current = index;
                return Some(index);
            }
        }
        if count == self.arenas_max {
            return None;
        }
        let mut rest = aligned(self.arena_size);
        advise_huge(&mut rest);
        let index = u16::try_from(count).expect("a pool has few arenas");
        let home = Home { index, base: rest.as_ptr().addr(), len: self.arena_size };
        self.arenas.push(Arena { rest, home });
        self.current = count;
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pool: &mut Pool, byte: u8, len: usize) -> Buf {
        pool.build(len, |bytes| bytes.put_bytes(byte, len))
    }

    #[test]
    fn buffers_are_aligned_and_an_arena_is_reused_only_when_nothing_refers_to_it() {
        let mut pool = Pool::new(4 * ALIGN, 2);
        let first = filled(&mut pool, 1, 3 * ALIGN).freeze();
        let second = filled(&mut pool, 2, 3 * ALIGN).freeze();
        let third = filled(&mut pool, 3, 3 * ALIGN);
        assert!(third.home().is_none(), "both arenas are still referred to");
        assert!(third.as_slice().as_ptr().addr().is_multiple_of(ALIGN));
        assert!(first.iter().all(|b| *b == 1));

        let address = first.as_ptr().addr();
        drop(first);
        let fourth = filled(&mut pool, 4, 2 * ALIGN);
        assert_eq!(fourth.as_slice().as_ptr().addr(), address);
        assert!(second.iter().all(|b| *b == 2));
        assert!(fourth.as_slice().iter().all(|b| *b == 4));
    }

    #[test]
    fn no_buffer_reaches_beyond_its_home() {
        let mut pool = Pool::new(4 * ALIGN, 8);
        for byte in 0..32 {
            let buf = filled(&mut pool, byte, ALIGN);
            let home = buf.home().expect("nothing is held");
            let begin = buf.as_slice().as_ptr().addr();
            assert!(home.base <= begin && begin + buf.len() <= home.base + home.len);
        }
    }

    #[test]
    fn what_was_transferred_can_be_given_up_in_front() {
        let mut buf = Buf::zeroed(2 * ALIGN);
        buf.as_mut_slice()[ALIGN] = 7;
        buf.advance(ALIGN);
        assert_eq!((buf.len(), buf.as_slice()[0]), (ALIGN, 7));
    }
}
