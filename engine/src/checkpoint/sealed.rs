//! What stands in a checkpoint's file: pieces of ciphertext and nothing else.
//!
//! AES-256-GCM under one random key that only this process has. A piece's nonce is its number among all
//! pieces that were ever sealed, so none comes twice and pieces of other files or other places do not
//! open; how many pieces a file has is kept in memory, so a shortened file is noticed.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// Plain bytes of a piece.
const PIECE: usize = 1 << 20;

/// The key of this process.
pub(super) struct Key {
    key: LessSafeKey,
    sealed: AtomicU64,
}

impl Key {
    /// A fresh key; `None` if the system gives no randomness.
    pub(super) fn random() -> Option<Key> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).expect("the key has the cipher's length");
        Some(Key { key: LessSafeKey::new(key), sealed: AtomicU64::new(0) })
    }

    fn nonce(number: u64) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// What must be known to open a file again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    /// Number of its first piece; the others follow.
    first: u64,
    /// Plain bytes.
    length: u64,
}

impl Seal {
    /// Bytes of a file with so many plain bytes.
    pub(super) fn file_bytes(plain: u64) -> u64 {
        plain + plain.div_ceil(PIECE as u64) * AES_256_GCM.tag_len() as u64
    }
}

/// Seals what is written to it. At most `plain_max` bytes are taken.
pub(super) struct Sealer<'a, W> {
    key: &'a Key,
    out: W,
    buffer: Vec<u8>,
    first: u64,
    pieces: u64,
    length: u64,
    plain_max: u64,
}

impl<'a, W: Write> Sealer<'a, W> {
    pub(super) fn new(key: &'a Key, out: W, plain_max: u64) -> Sealer<'a, W> {
        // Numbers for all pieces that it may become: no two writers may meet.
        let pieces = plain_max.div_ceil(PIECE as u64);
        let first = key.sealed.fetch_add(pieces, Ordering::Relaxed);
        let buffer = Vec::with_capacity(PIECE + AES_256_GCM.tag_len());
        Sealer { key, out, buffer, first, pieces: 0, length: 0, plain_max }
    }

    /// Writes the last piece.
    pub(super) fn finish(mut self) -> io::Result<Seal> {
        if !self.buffer.is_empty() {
            self.seal()?;
        }
        self.out.flush()?;
        Ok(Seal { first: self.first, length: self.length })
    }

    fn seal(&mut self) -> io::Result<()> {
        let nonce = Key::nonce(self.first + self.pieces);
        self.key
            .key
            .seal_in_place_append_tag(nonce, Aad::empty(), &mut self.buffer)
            .map_err(|_| io::Error::other("the piece could not be encrypted"))?;
        self.pieces += 1;
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sealer<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.buffer.len());
        if self.length + count as u64 > self.plain_max {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "more than was set aside"));
        }
        self.buffer.extend_from_slice(&bytes[..count]);
        self.length += count as u64;
        if self.buffer.len() == PIECE {
            self.seal()?;
        }
        Ok(count)
    }

    /// Pieces go out when they are full, and at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what a [`Sealer`] wrote. Nothing of a piece is given out before all of it proved genuine.
pub(super) struct Opener<'a, R> {
    key: &'a Key,
    input: R,
    buffer: Vec<u8>,
    /// Plain bytes of the buffer that were given out, and how many there are.
    given: usize,
    plain: usize,
    number: u64,
    left: u64,
}

impl<'a, R: Read> Opener<'a, R> {
    pub(super) fn new(key: &'a Key, input: R, seal: Seal) -> Opener<'a, R> {
        let Seal { first, length } = seal;
        Opener { key, input, buffer: Vec::new(), given: 0, plain: 0, number: first, left: length }
    }

    fn open(&mut self) -> io::Result<()> {
        let plain = self.left.min(PIECE as u64) as usize;
        self.buffer.resize(plain + AES_256_GCM.tag_len(), 0);
        self.input.read_exact(&mut self.buffer)?;
        self.key
            .key
            .open_in_place(Key::nonce(self.number), Aad::empty(), &mut self.buffer)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it was changed"))?;
        self.number += 1;
        self.left -= plain as u64;
        (self.given, self.plain) = (0, plain);
        Ok(())
    }
}

impl<R: Read> Read for Opener<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.given == self.plain && self.left > 0 {
            self.open()?;
        }
        let count = out.len().min(self.plain - self.given);
        out[..count].copy_from_slice(&self.buffer[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}
