//! Activation rows as tiles of weight rows read them: as they came and in 8 bits.
//!
//! Rows are quantised once per region. A tile passes over its weights with several activation rows at
//! once, and with several weight rows at once; neither changes a bit of any product.

use super::super::kernels::{Kernels, RowQ8};
use super::super::pool::{Pool, Scattered};
use super::super::silu;
use crate::tensor::{DType, MatrixRef};

/// Values that share a scale in 8-bit activations.
const GROUP: usize = 32;
/// Activation rows that one pass over a weight row serves.
const ROWS_AT_ONCE: usize = 4;

/// Rows of activations in 8 bits, reused from call to call.
#[derive(Default)]
pub(super) struct Quantised {
    scales: Vec<f32>,
    qs: Vec<i8>,
    sums: Vec<i16>,
}

impl Quantised {
    /// Quantises `x` [n, cols] if any of the weights that will meet it is quantised.
    pub(super) fn fill<K: Kernels>(
        &mut self,
        pool: &mut Pool,
        k: K,
        x: &[f32],
        cols: usize,
        wanted: bool,
    ) {
        if !wanted {
            return;
        }
        assert!(cols.is_multiple_of(GROUP), "quantised matrices have whole blocks");
        let groups = cols / GROUP;
        self.scales.resize(x.len() / GROUP, 0.0);
        self.qs.resize(x.len(), 0);
        self.sums.resize(2 * x.len() / GROUP, 0);
        let (scales, qs) = (Scattered::new(&mut self.scales), Scattered::new(&mut self.qs));
        let sums = Scattered::new(&mut self.sums);
        let one = |t: usize| {
            // SAFETY: each task writes the scales, values and sums of its own row.
            #[expect(unsafe_code, reason = "disjoint rows, see above")]
            let (scales, qs, sums) = unsafe {
                (
                    scales.slice(t * groups, groups),
                    qs.slice(t * cols, cols),
                    sums.slice(t * 2 * groups, 2 * groups),
                )
            };
            k.quantise(&x[t * cols..(t + 1) * cols], scales, qs, sums);
        };
        let n = x.len() / cols;
        // A region costs about as much as quantising a few rows.
        if n < 2 * ROWS_AT_ONCE { (0..n).for_each(one) } else { pool.run(n, one) }
    }
}

/// Rows that a tile reads: as they came and, where a weight is quantised, in 8 bits.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    x: &'a [f32],
    cols: usize,
    quantised: &'a Quantised,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(x: &'a [f32], cols: usize, quantised: &'a Quantised) -> Self {
        Inputs { x, cols, quantised }
    }

    fn float(&self, t: usize) -> &'a [f32] {
        &self.x[t * self.cols..(t + 1) * self.cols]
    }

    fn q8(&self, t: usize) -> RowQ8<'a> {
        let groups = self.cols / GROUP;
        let Quantised { scales, qs, sums } = self.quantised;
        RowQ8 {
            scales: &scales[t * groups..(t + 1) * groups],
            qs: &qs[t * self.cols..(t + 1) * self.cols],
            sums: &sums[t * 2 * groups..(t + 1) * 2 * groups],
        }
    }

    /// Dot products of `R` weight rows with `N` input rows.
    #[inline(always)]
    fn dot<K: Kernels, const R: usize, const N: usize>(
        &self,
        k: K,
        dtype: DType,
        w: [&[u8]; R],
        rows: [usize; N],
    ) -> [[f32; N]; R] {
        if dtype.is_quantised() {
            k.dot_q8(dtype, w, rows.map(|t| self.q8(t)))
        } else {
            w.map(|w| k.dot_float(dtype, w, rows.map(|t| self.float(t))))
        }
    }

    /// Dot products of weight rows `tile` with all of `rows`, handed to `write(r, i, value)` with i
    /// the index into `rows`.
    pub(super) fn tile<K: Kernels>(
        &self,
        k: K,
        w: MatrixRef<'_>,
        tile: std::ops::Range<usize>,
        rows: impl ExactSizeIterator<Item = usize>,
        write: impl Fn(usize, usize, f32),
    ) {
        in_fours(
            rows,
            |i, four| match K::WIDE {
                true => self.strip::<K, 4, ROWS_AT_ONCE>(k, w, tile.clone(), i, four, &write),
                false => self.strip::<K, 2, ROWS_AT_ONCE>(k, w, tile.clone(), i, four, &write),
            },
            |i, one| self.strip::<K, 4, 1>(k, w, tile.clone(), i, one, &write),
        );
    }

    /// [`Inputs::tile`] for `N` input rows, `R` weight rows at once.
    fn strip<K: Kernels, const R: usize, const N: usize>(
        &self,
        k: K,
        w: MatrixRef<'_>,
        tile: std::ops::Range<usize>,
        i: usize,
        rows: [usize; N],
        write: &impl Fn(usize, usize, f32),
    ) {
        let dtype = w.shape.dtype;
        let put = |r: usize, values: [f32; N]| {
            for (n, v) in values.into_iter().enumerate() {
                write(r, i + n, v);
            }
        };
        let whole = tile.start + tile.len() / R * R;
        for r in (tile.start..whole).step_by(R) {
            let w = std::array::from_fn(|j| w.row(r + j));
            for (j, values) in self.dot::<K, R, N>(k, dtype, w, rows).into_iter().enumerate() {
                put(r + j, values);
            }
        }
        for r in whole..tile.end {
            let [values] = self.dot(k, dtype, [w.row(r)], rows);
            put(r, values);
        }
    }

    /// `silu(gate · x) · (up · x)` for weight rows `tile` and all of `rows`, handed on as by
    /// [`Inputs::tile`]: both matrices meet the inputs in one pass.
    pub(super) fn gated<K: Kernels>(
        &self,
        k: K,
        gate: MatrixRef<'_>,
        up: MatrixRef<'_>,
        tile: std::ops::Range<usize>,
        rows: impl ExactSizeIterator<Item = usize>,
        write: impl Fn(usize, usize, f32),
    ) {
        in_fours(
            rows,
            |i, four| self.gated_strip(k, gate, up, tile.clone(), i, four, &write),
            |i, one| self.gated_strip(k, gate, up, tile.clone(), i, one, &write),
        );
    }

    #[expect(clippy::too_many_arguments, reason = "two matrices, and the rest as in `strip`")]
    fn gated_strip<K: Kernels, const N: usize>(
        &self,
        k: K,
        gate: MatrixRef<'_>,
        up: MatrixRef<'_>,
        tile: std::ops::Range<usize>,
        i: usize,
        rows: [usize; N],
        write: &impl Fn(usize, usize, f32),
    ) {
        let (gate_type, up_type) = (gate.shape.dtype, up.shape.dtype);
        let put = |r: usize, g: [f32; N], u: [f32; N]| {
            for (n, (g, u)) in g.into_iter().zip(u).enumerate() {
                write(r, i + n, silu(g) * u);
            }
        };
        let mut single = tile.clone();
        if K::WIDE && gate_type == up_type {
            single.start = tile.start + tile.len() / 2 * 2;
            for r in (tile.start..single.start).step_by(2) {
                let w = [gate.row(r), gate.row(r + 1), up.row(r), up.row(r + 1)];
                let [g0, g1, u0, u1] = self.dot(k, gate_type, w, rows);
                put(r, g0, u0);
                put(r + 1, g1, u1);
            }
        }
        for r in single {
            let [g, u] = if gate_type == up_type {
                self.dot(k, gate_type, [gate.row(r), up.row(r)], rows)
            } else {
                let [g] = self.dot(k, gate_type, [gate.row(r)], rows);
                let [u] = self.dot(k, up_type, [up.row(r)], rows);
                [g, u]
            };
            put(r, g, u);
        }
    }
}

/// Hands on rows [`ROWS_AT_ONCE`] at a time with the index of their first, and the rest one by one.
#[inline(always)]
fn in_fours(
    mut rows: impl ExactSizeIterator<Item = usize>,
    four: impl Fn(usize, [usize; ROWS_AT_ONCE]),
    one: impl Fn(usize, [usize; 1]),
) {
    let count = rows.len();
    let whole = count / ROWS_AT_ONCE * ROWS_AT_ONCE;
    let mut next = || rows.next().expect("an exact iterator has as many as it says");
    for i in (0..whole).step_by(ROWS_AT_ONCE) {
        four(i, std::array::from_fn(|_| next()));
    }
    for i in whole..count {
        one(i, [next()]);
    }
}
