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
        self.keys.extend_from_slice(keys);
        self.values.extend_from_slice(values);
    }

    /// All keys and all values.
    pub(crate) fn rows(&self) -> (&[f32], &[f32]) {
        (&self.keys, &self.values)
    }
}
