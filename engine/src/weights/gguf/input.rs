//! Reads numbers and strings from the front of an untrusted file, with every length checked.
//!
//! A count or length in a file is a claim. It is believed only as far as the file has bytes for it,
//! and nothing is allocated by a claim alone.

use std::io;
use std::sync::Arc;

use crate::io::ReadAt;

/// Bytes fetched at once. Headers are read front to back once.
const CHUNK_BYTES: usize = 1 << 16;
/// Longest header: a vocabulary of a quarter million tokens takes 12 MB.
const HEADER_BYTES_MAX: u64 = 128 << 20;
/// Longest string: chat templates are the longest, with some 10 kB.
const STRING_BYTES_MAX: u64 = 8 << 20;

/// What is wrong with a header.
#[derive(Debug)]
pub(super) enum Broken {
    /// The file could not be read.
    Read(io::Error),
    /// The file does not follow its format.
    Format(String),
}

impl From<String> for Broken {
    fn from(what: String) -> Self {
        Broken::Format(what)
    }
}

/// The front of a file.
pub(super) struct Input {
    file: Arc<dyn ReadAt>,
    /// Offset of the next byte.
    at: u64,
    /// No byte from here on is read: the end of the file, or the longest header.
    end: u64,
    chunk: Vec<u8>,
    /// Offset of the chunk's first byte.
    chunk_at: u64,
}

impl Input {
    pub(super) fn new(file: Arc<dyn ReadAt>) -> Self {
        let end = file.len().min(HEADER_BYTES_MAX);
        Input { file, at: 0, end, chunk: Vec::new(), chunk_at: 0 }
    }

    /// Offset of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Checks that `count` items of at least `bytes` each can follow.
    pub(super) fn expect(&self, count: u64, bytes: u64, what: &str) -> Result<(), Broken> {
        let left = self.end - self.at;
        if count.checked_mul(bytes).is_some_and(|needed| needed <= left) {
            return Ok(());
        }
        Err(self.error(format!("claims {count} {what}, but {left} bytes follow")))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Broken> {
        Ok(self.bytes::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Broken> {
        Ok(u16::from_le_bytes(self.bytes()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Broken> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Broken> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    pub(super) fn f32(&mut self) -> Result<f32, Broken> {
        Ok(f32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn f64(&mut self) -> Result<f64, Broken> {
        Ok(f64::from_le_bytes(self.bytes()?))
    }

    /// A length and so many bytes of UTF-8; bytes that are none become U+FFFD, as old vocabularies
    /// have such tokens.
    pub(super) fn string(&mut self) -> Result<String, Broken> {
        let len = self.u64()?;
        if len > STRING_BYTES_MAX {
            return Err(self.error(format!(
                "claims a string of {len} bytes; at most {STRING_BYTES_MAX} are read"
            )));
        }
        self.expect(len, 1, "bytes of a string")?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// Passes over bytes.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), Broken> {
        self.expect(count, 1, "bytes")?;
        self.at += count;
        Ok(())
    }

    pub(super) fn error(&self, what: impl Into<String>) -> Broken {
        Broken::Format(format!("at byte {}: {}", self.at, what.into()))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), Broken> {
        let mut done = 0;
        while done < out.len() {
            if self.at >= self.end {
                return Err(self.cut());
            }
            let skip = self.at.wrapping_sub(self.chunk_at);
            if skip >= self.chunk.len() as u64 {
                self.fetch(out.len() - done)?;
                continue;
            }
            let rest = &self.chunk[skip as usize..];
            let n = rest.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&rest[..n]);
            done += n;
            self.at += n as u64;
        }
        Ok(())
    }

    /// Fetches a chunk, or only the bytes that are wanted now where the file has no more at hand: it
    /// may still be arriving, or what lies behind its header may be packed and gone.
    fn fetch(&mut self, wanted: usize) -> Result<(), Broken> {
        let left = (self.end - self.at).min(CHUNK_BYTES as u64) as usize;
        self.chunk_at = self.at;
        self.chunk.resize(left, 0);
        let ahead = self.file.read_exact_at(&mut self.chunk, self.at);
        let read = ahead.or_else(|_| {
            self.chunk.truncate(wanted);
            self.file.read_exact_at(&mut self.chunk, self.at)
        });
        read.map_err(|error| {
            self.chunk.clear();
            Broken::Read(error)
        })
    }

    fn cut(&self) -> Broken {
        if self.end < self.file.len() {
            return self.error(format!("its header is longer than {HEADER_BYTES_MAX} bytes"));
        }
        self.error("the file ends within its header; is the download complete?")
    }
}
