//! Keys and values of one sequence in one attention layer, all positions so far.
//!
//! They lie in blocks of some positions, and caches that begin alike share blocks: a copy, or the part
//! up to an earlier position, costs a list of pointers. Whoever goes on from a shared block copies the
//! rows of that one first.
//!
//! Invariants: all blocks but the last are full; a block that someone else holds is never written to;
//! f32, so that the same prompt gives the same bits however it was chunked.

use std::io::{self, Read};
use std::sync::Arc;

/// Positions of a block: few enough that a copied one costs little, many enough that a long
/// conversation is a short list.
pub(crate) const BLOCK_POSITIONS: usize = 64;

/// Grows by whole rows.
#[derive(Clone)]
pub(crate) struct KvCache {
    /// kv_heads · head_dim
    stride: usize,
    positions: usize,
    blocks: Vec<Arc<Block>>,
}

/// Rows of up to [`BLOCK_POSITIONS`] positions; room for all is taken at once.
struct Block {
    /// [positions, kv_heads, head_dim]
    keys: Vec<f32>,
    /// [positions, kv_heads, head_dim]
    values: Vec<f32>,
}

impl Block {
    fn empty(stride: usize) -> Block {
        let room = || Vec::with_capacity(BLOCK_POSITIONS * stride);
        Block { keys: room(), values: room() }
    }

    fn bytes(&self) -> u64 {
        ((self.keys.capacity() + self.values.capacity()) * size_of::<f32>()) as u64
    }
}

impl KvCache {
    /// No positions, of rows this long.
    pub(crate) fn new(stride: usize) -> KvCache {
        KvCache { stride, positions: 0, blocks: Vec::new() }
    }

    /// Positions so far.
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// Features of a position.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Appends new rows, each [n, kv_heads, head_dim].
    pub(crate) fn append(&mut self, keys: &[f32], values: &[f32]) {
        assert_eq!(keys.len(), values.len(), "a position has a key and a value");
        let (mut keys, mut values) = (keys, values);
        while !keys.is_empty() {
            let left = BLOCK_POSITIONS - self.positions % BLOCK_POSITIONS;
            let floats = keys.len().min(left * self.stride);
            let block = self.open_block();
            block.keys.extend_from_slice(&keys[..floats]);
            block.values.extend_from_slice(&values[..floats]);
            (keys, values) = (&keys[floats..], &values[floats..]);
            self.positions += floats / self.stride;
        }
    }

    /// The last block, ours alone and with room for a row.
    fn open_block(&mut self) -> &mut Block {
        let used = self.positions % BLOCK_POSITIONS * self.stride;
        if used == 0 {
            self.blocks.push(Arc::new(Block::empty(self.stride)));
        }
        let last = self.blocks.last_mut().expect("one was pushed if there was none");
        if Arc::get_mut(last).is_none() {
            let mut own = Block::empty(self.stride);
            own.keys.extend_from_slice(&last.keys[..used]);
            own.values.extend_from_slice(&last.values[..used]);
            *last = Arc::new(own);
        }
        let last = Arc::get_mut(last).expect("it is ours alone");
        last.keys.truncate(used);
        last.values.truncate(used);
        last
    }

    /// The same cache as it was after fewer positions.
    pub(crate) fn first(&self, positions: usize) -> KvCache {
        assert!(positions <= self.positions, "a cache has no later positions");
        let blocks = self.blocks[..positions.div_ceil(BLOCK_POSITIONS)].to_vec();
        KvCache { stride: self.stride, positions, blocks }
    }

    /// All keys and all values, block by block, each [positions, kv_heads, head_dim].
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        let mut left = self.positions * self.stride;
        self.blocks.iter().map(move |block| {
            let floats = left.min(BLOCK_POSITIONS * self.stride);
            left -= floats;
            (&block.keys[..floats], &block.values[..floats])
        })
    }

    /// The key and the value of a position.
    pub(crate) fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let block = &self.blocks[position / BLOCK_POSITIONS];
        let at = position % BLOCK_POSITIONS * self.stride;
        (&block.keys[at..at + self.stride], &block.values[at..at + self.stride])
    }

    /// Fills an empty cache with positions that were written block by block.
    pub(crate) fn read(&mut self, positions: usize, input: &mut dyn Read) -> io::Result<()> {
        let block = BLOCK_POSITIONS.min(positions) * self.stride;
        let (mut keys, mut values) = (vec![0.0; block], vec![0.0; block]);
        while self.positions < positions {
            let floats = (positions - self.positions).min(BLOCK_POSITIONS) * self.stride;
            input.read_exact(bytemuck::cast_slice_mut(&mut keys[..floats]))?;
            input.read_exact(bytemuck::cast_slice_mut(&mut values[..floats]))?;
            self.append(&keys[..floats], &values[..floats]);
        }
        Ok(())
    }

    /// Tells address and bytes of each block, which other caches may share, and returns the bytes of
    /// what is its own.
    pub(crate) fn pieces(&self, piece: &mut dyn FnMut(usize, u64)) -> u64 {
        for block in &self.blocks {
            piece(Arc::as_ptr(block).addr(), block.bytes());
        }
        (self.blocks.capacity() * size_of::<Arc<Block>>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRIDE: usize = 2;

    fn rows(from: usize, to: usize) -> Vec<f32> {
        (from * STRIDE..to * STRIDE).map(|i| i as f32).collect()
    }

    fn append(cache: &mut KvCache, to: usize) {
        let keys = rows(cache.positions(), to);
        let values: Vec<f32> = keys.iter().map(|k| -k).collect();
        cache.append(&keys, &values);
    }

    fn keys(cache: &KvCache) -> Vec<f32> {
        assert!(cache.blocks().all(|(k, v)| k.iter().zip(v).all(|(k, v)| *v == -k)));
        cache.blocks().flat_map(|(keys, _)| keys).copied().collect()
    }

    fn pieces(cache: &KvCache) -> Vec<usize> {
        let mut all = Vec::new();
        cache.pieces(&mut |address, bytes| {
            assert_eq!(bytes, 2 * 4 * (BLOCK_POSITIONS * STRIDE) as u64);
            all.push(address);
        });
        all
    }

    #[test]
    fn rows_are_the_same_however_they_were_appended() {
        for sizes in [&[200][..], &[1, 63, 64, 72], &[65, 135], &[64, 64, 72]] {
            let mut cache = KvCache::new(STRIDE);
            sizes.iter().for_each(|n| {
                let to = cache.positions() + n;
                append(&mut cache, to);
            });
            assert_eq!(keys(&cache), rows(0, 200), "{sizes:?}");
            assert_eq!(cache.row(130).0, rows(130, 131));
        }
    }

    #[test]
    fn an_earlier_part_stays_as_it_was_and_shares_all_but_the_block_that_was_written() {
        let mut cache = KvCache::new(STRIDE);
        append(&mut cache, 150);
        for at in [1, 63, 64, 65, 128, 150] {
            let part = cache.first(at);
            let mut other = part.clone();
            other.append(&[7.5, 7.5], &[-7.5, -7.5]);
            let next = cache.positions() + 1;
            append(&mut cache, next);
            assert_eq!(keys(&part), rows(0, at));
            assert_eq!(keys(&other)[at * STRIDE..], [7.5, 7.5]);
            assert_eq!(keys(&cache), rows(0, cache.positions()));
            let whole = at / BLOCK_POSITIONS;
            assert_eq!(pieces(&part)[..whole], pieces(&other)[..whole]);
            assert_ne!(pieces(&part).get(whole), pieces(&other).get(whole));
        }
    }
}
