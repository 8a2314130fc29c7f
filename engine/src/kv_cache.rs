//! Keys and values of one sequence in one attention layer, all positions so far.

/// Grows by whole rows; f32, so that the same prompt gives the same bits however it was chunked.
#[derive(Clone, Default)]
pub(crate) struct KvCache {
    /// [positions, kv_heads, head_dim]
    keys: Vec<f32>,
    /// [positions, kv_heads, head_dim]
    values: Vec<f32>,
}

impl KvCache {
    /// Appends new rows, each [n, kv_heads, head_dim].
    pub(crate) fn append(&mut self, keys: &[f32], values: &[f32]) {
        assert_eq!(keys.len(), values.len(), "a position has a key and a value");
        grow(&mut self.keys, keys);
        grow(&mut self.values, values);
    }

    /// All keys and all values.
    pub(crate) fn rows(&self) -> (&[f32], &[f32]) {
        (&self.keys, &self.values)
    }
}

/// Appends, with little room to spare: doubling would break a memory budget that is nearly full.
fn grow(all: &mut Vec<f32>, new: &[f32]) {
    if all.capacity() - all.len() < new.len() {
        all.reserve_exact(new.len() + all.len() / 16);
    }
    all.extend_from_slice(new);
}
