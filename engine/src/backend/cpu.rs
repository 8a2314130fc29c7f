//! The fast backend: quantised kernels on all threads.
//!
//! Work is split by output rows, heads and tokens, never along a sum, so that a result has the same
//! bits on any number of threads. Rows of activations are quantised once per region, in 8 bits with a
//! scale for 32 values; weights are never decoded to memory.

mod attention;
mod inputs;

#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::kernels::{DeltaToken, Kernels, Portable};
use super::pool::{Pool, Scattered};
use super::{AttentionJob, AttentionShape, Backend, DeltaJob, DeltaShape, ExpertJob, Projection};
use crate::tensor::MatrixRef;
use inputs::{Inputs, Quantised};

/// Output rows in one task: 16 to 70 KB of 4-bit weights at the widths of current models, which stay
/// in the second-level cache while several tokens pass over them.
const TILE_ROWS: usize = 32;
/// All threads of the machine, with the best kernels that its processor has.
pub(crate) struct Cpu {
    pool: Pool,
    isa: Isa,
    input: Box<Quantised>,
    hidden: Box<Quantised>,
    h: Vec<f32>,
    scratch: Vec<f32>,
}

#[derive(Clone, Copy)]
enum Isa {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Isa {
    #[cfg(target_arch = "x86_64")]
    fn best() -> Isa {
        let avx2 = || Avx2::new().map(Isa::Avx2);
        Avx512::new().map(Isa::Avx512).or_else(avx2).unwrap_or(Isa::Portable(Portable))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn best() -> Isa {
        Isa::Portable(Portable)
    }
}

/// Runs the same generic code with the kernels of the processor at hand.
macro_rules! with_kernels {
    ($isa:expr, $k:ident => $body:expr) => {
        match $isa {
            Isa::Portable($k) => $body,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2($k) => $body,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512($k) => $body,
        }
    };
}

impl Cpu {
    /// Uses `threads` threads and the fastest kernels of this processor.
    pub(crate) fn new(threads: usize) -> Self {
        Cpu::with_isa(threads, Isa::best())
    }

    /// Uses the kernels that every processor has; their bits are those of the fast ones.
    #[cfg(test)]
    pub(crate) fn portable(threads: usize) -> Self {
        Cpu::with_isa(threads, Isa::Portable(Portable))
    }

    fn with_isa(threads: usize, isa: Isa) -> Self {
        Cpu {
            pool: Pool::new(threads.max(1)),
            isa,
            input: Box::default(),
            hidden: Box::default(),
            h: Vec::new(),
            scratch: Vec::new(),
        }
    }
}

/// Tasks of a region over several matrices: each is [`TILE_ROWS`] rows of one of them.
struct Tiles {
    /// First task of each matrix, and the end.
    starts: Vec<usize>,
}

impl Tiles {
    fn over(rows: impl Iterator<Item = usize>) -> Self {
        let mut starts = vec![0];
        for rows in rows {
            starts.push(starts[starts.len() - 1] + rows.div_ceil(TILE_ROWS));
        }
        Tiles { starts }
    }

    fn count(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Matrix and first row of a task.
    fn at(&self, task: usize) -> (usize, usize) {
        let matrix = self.starts.partition_point(|s| *s <= task) - 1;
        (matrix, (task - self.starts[matrix]) * TILE_ROWS)
    }
}

/// First row of each job among the rows of all, and the end. Panics if the shapes disagree.
fn first_rows(cols: usize, jobs: &[ExpertJob<'_>]) -> Vec<usize> {
    let inner = jobs[0].weights.gate.shape.rows;
    let mut starts = vec![0];
    for job in jobs {
        let w = job.weights;
        assert!(w.gate.shape.cols == cols && w.up.shape.cols == cols, "expert inputs disagree");
        assert!(w.gate.shape.rows == inner && w.up.shape.rows == inner, "expert sizes differ");
        assert!(w.down.shape.cols == inner, "expert's down matrix disagrees with its gate");
        assert_eq!(job.out.len(), job.rows.len() * w.down.shape.rows, "expert output length");
        starts.push(starts[starts.len() - 1] + job.rows.len());
    }
    starts
}

fn is_quantised(w: MatrixRef<'_>) -> bool {
    w.shape.dtype.is_quantised()
}

fn tile_range(from: usize, rows: usize) -> std::ops::Range<usize> {
    from..(from + TILE_ROWS).min(rows)
}

impl Backend for Cpu {
    fn name(&self) -> String {
        let isa = match self.isa {
            Isa::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
        };
        format!("cpu ({isa}, {} threads)", self.pool.threads())
    }

    fn project(&mut self, x: &[f32], cols: usize, outputs: &mut [Projection<'_>]) {
        with_kernels!(self.isa, k => self.project_with(k, x, cols, outputs));
    }

    fn experts(&mut self, x: &[f32], cols: usize, jobs: &mut [ExpertJob<'_>]) {
        with_kernels!(self.isa, k => self.experts_with(k, x, cols, jobs));
    }

    fn attention(&mut self, shape: AttentionShape, jobs: &mut [AttentionJob<'_>]) {
        with_kernels!(self.isa, k => attention::run(&mut self.pool, k, shape, jobs));
    }

    fn delta_rule(&mut self, shape: DeltaShape, jobs: &mut [DeltaJob<'_>]) {
        with_kernels!(self.isa, k => self.delta_rule_with(k, shape, jobs));
    }
}

impl Cpu {
    fn project_with<K: Kernels>(
        &mut self,
        k: K,
        x: &[f32],
        cols: usize,
        outputs: &mut [Projection<'_>],
    ) {
        let n = x.len() / cols;
        for o in outputs.iter() {
            assert_eq!(o.w.shape.cols, cols, "input features disagree with the matrix");
            assert_eq!(o.out.len(), n * o.w.shape.rows, "output length disagrees with the matrix");
        }
        let quantised = outputs.iter().any(|o| o.w.shape.dtype.is_quantised());
        self.input.fill(&mut self.pool, k, x, cols, quantised);
        let inputs = Inputs::new(x, cols, &self.input);
        let tiles = Tiles::over(outputs.iter().map(|o| o.w.shape.rows));
        let outputs: Vec<_> =
            outputs.iter_mut().map(|o| (o.w, Scattered::new(&mut *o.out))).collect();
        self.pool.run(tiles.count(), |task| {
            let (matrix, from) = tiles.at(task);
            let (w, out) = &outputs[matrix];
            let rows = w.shape.rows;
            inputs.tile(k, *w, tile_range(from, rows), 0..n, |r, t, v| {
                // SAFETY: a task owns its weight rows, hence these elements of every output row.
                #[expect(unsafe_code, reason = "disjoint outputs, see above")]
                unsafe {
                    out.write(t * rows + r, v);
                }
            });
        });
    }

    fn experts_with<K: Kernels>(
        &mut self,
        k: K,
        x: &[f32],
        cols: usize,
        jobs: &mut [ExpertJob<'_>],
    ) {
        if jobs.is_empty() {
            return;
        }
        let starts = first_rows(cols, jobs);
        self.gate_and_up(k, x, cols, jobs, &starts);
        self.down(k, jobs, &starts);
    }

    /// Fills `h = silu(gate · x) ⊙ (up · x)`, [rows of all jobs, inner].
    fn gate_and_up<K: Kernels>(
        &mut self,
        k: K,
        x: &[f32],
        cols: usize,
        jobs: &[ExpertJob<'_>],
        starts: &[usize],
    ) {
        let inner = jobs[0].weights.gate.shape.rows;
        let quantised =
            |j: &ExpertJob<'_>| is_quantised(j.weights.gate) || is_quantised(j.weights.up);
        self.input.fill(&mut self.pool, k, x, cols, jobs.iter().any(quantised));
        let inputs = Inputs::new(x, cols, &self.input);
        self.h.resize(starts[jobs.len()] * inner, 0.0);
        let tiles = Tiles::over(jobs.iter().map(|_| inner));
        let h = Scattered::new(&mut self.h);
        self.pool.run(tiles.count(), |task| {
            let (job, from) = tiles.at(task);
            let ExpertJob { weights, rows, .. } = &jobs[job];
            let rows = rows.iter().map(|t| *t as usize);
            let range = tile_range(from, inner);
            inputs.gated(k, weights.gate, weights.up, range, rows, |r, i, v| {
                // SAFETY: a task owns its rows of gate and up, hence these columns of its job's h.
                #[expect(unsafe_code, reason = "disjoint columns, see above")]
                unsafe {
                    h.write((starts[job] + i) * inner + r, v);
                }
            });
        });
    }

    /// Multiplies each job's rows of `h` by its down matrix.
    fn down<K: Kernels>(&mut self, k: K, jobs: &mut [ExpertJob<'_>], starts: &[usize]) {
        let inner = jobs[0].weights.gate.shape.rows;
        let quantised = jobs.iter().any(|j| is_quantised(j.weights.down));
        self.hidden.fill(&mut self.pool, k, &self.h, inner, quantised);
        let inputs = Inputs::new(&self.h, inner, &self.hidden);
        let tiles = Tiles::over(jobs.iter().map(|j| j.weights.down.shape.rows));
        let outs: Vec<_> =
            jobs.iter_mut().map(|j| (j.weights.down, Scattered::new(&mut *j.out))).collect();
        self.pool.run(tiles.count(), |task| {
            let (job, from) = tiles.at(task);
            let (down, out) = &outs[job];
            let rows = down.shape.rows;
            let members = starts[job]..starts[job + 1];
            inputs.tile(k, *down, tile_range(from, rows), members, |r, i, v| {
                // SAFETY: a task owns its rows of down, hence these columns of its job's output.
                #[expect(unsafe_code, reason = "disjoint columns, see above")]
                unsafe {
                    out.write(i * rows + r, v);
                }
            });
        });
    }

    fn delta_rule_with<K: Kernels>(&mut self, k: K, shape: DeltaShape, jobs: &mut [DeltaJob<'_>]) {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim, .. } = shape;
        let tasks = jobs.len() * value_heads;
        self.scratch.resize(tasks * 2 * value_dim, 0.0);
        let scratch = Scattered::new(&mut self.scratch);
        let jobs: Vec<_> = jobs
            .iter_mut()
            .map(|j| {
                let input = (j.q, j.k, j.v, j.decay, j.beta);
                (input, Scattered::new(&mut *j.state), Scattered::new(&mut *j.out))
            })
            .collect();
        self.pool.run(tasks, |task| {
            let ((q, keys, v, decay, beta), state, out) = &jobs[task / value_heads];
            let h = task % value_heads;
            // SAFETY: each task owns one head of one job: its state, scratch and output columns.
            #[expect(unsafe_code, reason = "disjoint heads, see above")]
            let (state, u) = unsafe {
                let len = key_dim * value_dim;
                (state.slice(h * len, len), scratch.slice(task * 2 * value_dim, 2 * value_dim))
            };
            for t in 0..v.len() / (value_heads * value_dim) {
                let at_k = (t * key_heads + shape.key_head(h)) * key_dim;
                let at_v = (t * value_heads + h) * value_dim;
                let token = DeltaToken {
                    q: &q[at_k..at_k + key_dim],
                    k: &keys[at_k..at_k + key_dim],
                    v: &v[at_v..at_v + value_dim],
                    decay: decay[t * value_heads + h],
                    beta: beta[t * value_heads + h],
                };
                // SAFETY: as above.
                #[expect(unsafe_code, reason = "disjoint heads, see above")]
                let out = unsafe { out.slice(at_v, value_dim) };
                k.delta_step(out, state, token, u);
            }
        });
    }
}

#[cfg(test)]
mod tests;
