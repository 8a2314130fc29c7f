//! How fast this machine multiplies each type of weights, beside a plain loop in the same run.
//!
//! One thread: memory bandwidth is shared, kernels are not. The plain loop decodes a row and adds its
//! products one by one, as a program without these kernels would.

use std::time::Duration;

use crate::backend::{Backend, Cpu, Projection};
use crate::clock::Clock;
use crate::quant::dequantise_row;
use crate::tensor::{AlignedBytes, DType, Matrix, MatrixShape};

/// What to multiply.
#[derive(Clone, Copy, Debug)]
pub struct SpeedOptions {
    /// Weight rows.
    pub rows: usize,
    /// Weights in a row, a multiple of 256.
    pub cols: usize,
    /// Input rows that meet the weights at once: 1 is decoding, many are a prompt.
    pub inputs: usize,
    /// How long to measure each type.
    pub duration: Duration,
}

/// One type's speed.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Name of the type.
    pub weight_type: &'static str,
    /// Weights multiplied in a second by the engine.
    pub weights_per_second: f64,
    /// Bytes of weights read in a second by the engine; each meets all inputs.
    pub bytes_per_second: f64,
    /// Weights multiplied in a second by the plain loop.
    pub plain_weights_per_second: f64,
}

/// Measures every type. Panics if `cols` is no multiple of 256.
pub fn measure(options: &SpeedOptions) -> Vec<Speed> {
    DType::ALL.into_iter().map(|dtype| one(dtype, options)).collect()
}

fn one(dtype: DType, options: &SpeedOptions) -> Speed {
    let SpeedOptions { rows, cols, inputs, duration } = *options;
    let shape = MatrixShape { dtype, rows, cols };
    let mut bytes = AlignedBytes::zeroed(shape.bytes().expect("cols is a multiple of 256"));
    // Every type reads these bytes as finite numbers; time does not depend on which.
    bytes.as_mut_slice().fill(0x3c);
    let size = bytes.len() as f64;
    let w = Matrix::new(shape, bytes);
    let x: Vec<f32> = (0..inputs * cols).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let mut out = vec![0.0; inputs * rows];
    let mut cpu = Cpu::new(1);
    let engine = seconds(duration, || {
        cpu.project(&x, cols, &mut [Projection { w: w.view(), out: &mut out }]);
    });
    let plain = seconds(duration, || plain(&w, &x, &mut out));
    let products = (rows * cols * inputs) as f64;
    Speed {
        weight_type: dtype.name(),
        weights_per_second: products / engine,
        bytes_per_second: size / engine,
        plain_weights_per_second: products / plain,
    }
}

fn plain(w: &Matrix, x: &[f32], out: &mut [f32]) {
    let MatrixShape { dtype, rows, cols } = w.shape();
    let mut row = vec![0.0; cols];
    for r in 0..rows {
        dequantise_row(dtype, w.view().row(r), &mut row);
        for (t, x) in x.chunks_exact(cols).enumerate() {
            out[t * rows + r] = row.iter().zip(x).map(|(w, x)| w * x).sum();
        }
    }
}

/// Seconds of the fastest call among those that fit into `duration`; other programs only slow it down.
fn seconds(duration: Duration, mut call: impl FnMut()) -> f64 {
    let clock = Clock::System;
    let start = clock.now();
    let mut best = f64::INFINITY;
    while clock.since(start) < duration {
        let begin = clock.now();
        call();
        best = best.min(clock.since(begin).as_secs_f64());
    }
    best
}
