//! What everyone writes first: one file, appended to, with fdatasync under a mutex.
//!
//! ```text
//! frame: crc u32 | length u32 | items: kind u8, id u32, length u32, bytes
//! ```
//!
//! Invariant: a frame is one write; opening drops what is behind the last whole one.
//!
//! Not here: the front of `naive-group`, which any store can have (`Grouped`).

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};
use bench_harness::blocking::{Store, Write};

use crate::items::{Kind, each_item};

const FRAME_HEADER_LEN: usize = 8;
const ITEM_HEADER_LEN: usize = 9;
/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 20;

pub(crate) struct Naive {
    path: PathBuf,
    /// Bytes of whole frames when the file was opened.
    len: u64,
    file: Mutex<File>,
}

impl Naive {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("log");
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let len = each_frame(&path, file.metadata()?.len(), &mut |_| ())?;
        file.set_len(len)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(Self { path, len, file: Mutex::new(file) })
    }
}

impl Store for Naive {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let mut frame = vec![0; FRAME_HEADER_LEN];
        each_item(writes, |kind, id, bytes| {
            frame.push(kind as u8);
            frame.extend(id.to_le_bytes());
            frame.extend(u32::try_from(bytes.len())?.to_le_bytes());
            frame.extend(bytes);
            anyhow::Ok(())
        })?;
        let len = u32::try_from(frame.len() - FRAME_HEADER_LEN)?;
        frame[4..8].copy_from_slice(&len.to_le_bytes());
        let crc = crc32fast::hash(&frame[4..]);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
        let mut file = self.file.lock().expect("no panic");
        file.write_all(&frame)?;
        file.sync_data()?;
        Ok(())
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        each_frame(&self.path, self.len, &mut |frame| {
            let mut rest = frame;
            while let Some((header, behind)) = rest.split_at_checked(ITEM_HEADER_LEN) {
                let Some((bytes, next)) = behind.split_at_checked(u32_at(header, 5) as usize)
                else {
                    break;
                };
                if header[0] == Kind::Record as u8 && u32_at(header, 1) == log {
                    each(bytes);
                }
                rest = next;
            }
        })?;
        Ok(())
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

/// Calls `each` with the body of every whole frame in the first `len` bytes; returns where the last
/// one ends.
fn each_frame(path: &Path, len: u64, each: &mut dyn FnMut(&[u8])) -> Result<u64> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    let (mut end, mut frame) = (0, Vec::new());
    while end + FRAME_HEADER_LEN as u64 <= len {
        let mut header = [0; FRAME_HEADER_LEN];
        reader.read_exact(&mut header)?;
        let next = end + (FRAME_HEADER_LEN as u64) + u64::from(u32_at(&header, 4));
        if next > len {
            break;
        }
        frame.clear();
        frame.extend(&header[4..]);
        frame.resize(4 + u32_at(&header, 4) as usize, 0);
        reader.read_exact(&mut frame[4..])?;
        if crc32fast::hash(&frame) != u32_at(&header, 0) {
            break;
        }
        each(&frame[4..]);
        end = next;
    }
    Ok(end)
}
