//! A model and its forward pass: rows of tokens in, logits out.
//!
//! One pass takes any mix of prompt chunks and single tokens of several sequences; their rows lie one
//! after another, so every dense matrix and every expert is read once for all of them. A row's result
//! never depends on the other rows.
//!
//! The parts: [`attention`], [`delta_net`], [`moe`] and [`mlp`] are the layers' halves, shared by all
//! families. A family (`qwen3_5_moe`) makes a [`blueprint`] of its config; [`layers`] builds that from
//! weights. The MoE router is called *gate* here; *router* is the gateway.

mod attention;
mod blueprint;
mod config;
mod delta_net;
#[cfg(test)]
mod families;
mod footprint;
mod layers;
mod loaded;
#[cfg(test)]
mod marks;
mod mlp;
mod moe;
mod ops;
#[cfg(test)]
mod parity;
mod qwen2_moe;
mod qwen3_5_moe;
mod qwen3_moe;
mod qwen3_next;
mod sequence;
mod shapes;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tiny;
#[cfg(test)]
pub(crate) mod wide;

use crate::backend::{Backend, Projection};
use crate::checkpoint::Mark;
use crate::error::EngineError;
use crate::expert::{Experts, Recorder};
use crate::io::Reading;
use crate::plan::MemoryPlan;
use crate::quant::dequantise_row;
use crate::tensor::Matrix;
use crate::tokenizer::TokenId;

use attention::Attention;
use delta_net::DeltaNet;
use mlp::Mlp;
use moe::Moe;
use ops::Rows;

use sequence::LayerState;

pub(crate) use blueprint::{Blueprint, GgufFamily, gguf_families};
pub(crate) use config::ModelConfig;
pub(crate) use footprint::Footprint;
pub(crate) use loaded::{LoadedModel, ModelFiles, default_threads, folder_name};
pub(crate) use sequence::Sequence;

/// One sequence's part of a pass.
pub(crate) struct Step<'a> {
    /// Its state, advanced by the tokens. After an error it is unusable.
    pub(crate) sequence: &'a mut Sequence,
    /// Tokens to append, at least one.
    pub(crate) tokens: &'a [TokenId],
    /// Filled with the logits after the last token, [vocab], if wanted.
    pub(crate) logits: Option<&'a mut Vec<f32>>,
    /// Where the state is wanted as it is on the way, in order.
    pub(crate) marks: &'a mut [Mark<Sequence>],
}

impl<'a> Step<'a> {
    /// A step whose states on the way are not wanted.
    pub(crate) fn new(
        sequence: &'a mut Sequence,
        tokens: &'a [TokenId],
        logits: Option<&'a mut Vec<f32>>,
    ) -> Step<'a> {
        Step { sequence, tokens, logits, marks: &mut [] }
    }
}

/// Weights and the means to compute with them.
pub(crate) struct Model<B> {
    config: ModelConfig,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None`: the embedding serves as the output matrix.
    head: Option<Matrix>,
    experts: Experts,
    backend: B,
    scratch: Scratch,
}

/// One layer: `x += mixer(norm x); x += feed_forward(norm x)`.
pub(crate) struct Layer {
    input_norm: Vec<f32>,
    mixer: Mixer,
    post_norm: Vec<f32>,
    feed_forward: FeedForward,
}

/// What mixes positions in a layer.
pub(crate) enum Mixer {
    /// Softmax attention over a KV cache.
    Attention(Attention),
    /// Gated delta net over a recurrent state.
    DeltaNet(DeltaNet),
}

/// What works on each position alone.
pub(crate) enum FeedForward {
    /// Experts that a gate chooses.
    Moe(Moe),
    /// One network for all rows.
    Mlp(Mlp),
}

/// What is loaded from files, before a backend is chosen.
pub(crate) struct Parts {
    pub(crate) config: ModelConfig,
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Vec<f32>,
    pub(crate) head: Option<Matrix>,
    pub(crate) experts: Experts,
    /// How experts are read.
    pub(crate) reading: Reading,
    /// What the test at start found, if there was one.
    pub(crate) read_bytes_per_second: Option<f64>,
    /// How memory is divided.
    pub(crate) plan: MemoryPlan,
    /// Experts that a token uses in a layer.
    pub(crate) experts_per_token: usize,
    /// See [`Blueprint::lossy`].
    pub(crate) lossy: Vec<String>,
}

/// Buffers that live from pass to pass.
#[derive(Default)]
struct Scratch {
    /// Residual stream [n, hidden].
    x: Vec<f32>,
    /// Normalised input of a half layer [n, hidden].
    h: Vec<f32>,
    /// Output of a half layer [n, hidden].
    y: Vec<f32>,
    /// The residual stream by which the next layer's gate guesses [n, hidden].
    ahead: Vec<f32>,
    mixer: attention::Buffers,
    delta: delta_net::Buffers,
    moe: moe::Buffers,
    all_rows: Vec<u32>,
}

impl<B: Backend> Model<B> {
    /// Joins loaded weights with a backend.
    pub(crate) fn new(parts: Parts, backend: B) -> Self {
        let Parts { config, embedding, layers, norm, head, experts, .. } = parts;
        Model {
            config,
            embedding,
            layers,
            norm,
            head,
            experts,
            backend,
            scratch: Scratch::default(),
        }
    }

    /// Name of the backend.
    pub(crate) fn backend_name(&self) -> String {
        self.backend.name()
    }

    /// The experts and their cache.
    pub(crate) fn experts(&self) -> &Experts {
        &self.experts
    }

    /// The experts and their cache, to change.
    #[cfg(test)]
    pub(crate) fn experts_mut(&mut self) -> &mut Experts {
        &mut self.experts
    }

    /// See [`Experts::record`].
    pub(crate) fn record(&mut self, recorder: Recorder) {
        self.experts.record(recorder);
    }

    /// A fresh sequence.
    pub(crate) fn new_sequence(&self) -> Sequence {
        let state = |layer: &Layer| match &layer.mixer {
            Mixer::Attention(attention) => LayerState::Attention(attention.new_cache()),
            Mixer::DeltaNet(net) => LayerState::DeltaNet(net.new_state()),
        };
        Sequence::new(self.layers.iter().map(state).collect())
    }

    /// Appends each step's tokens to its sequence; logits after the last token where wanted.
    ///
    /// Errors if an expert cannot be read; the sequences of the pass are then unusable. Panics on an
    /// empty step or a token outside the vocabulary (callers check both).
    pub(crate) fn forward(&mut self, batch: &mut [Step<'_>]) -> Result<(), EngineError> {
        let starts = self.run_layers(batch)?;
        for (i, step) in batch.iter_mut().enumerate() {
            if let Some(logits) = step.logits.as_deref_mut() {
                logits.resize(self.config.vocab, 0.0);
                self.project_logits(starts[i + 1] - 1..starts[i + 1], logits);
            }
        }
        Ok(())
    }

    /// Appends tokens to one sequence and gives the logits after each, [n, vocab].
    pub(crate) fn forward_all(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[TokenId],
    ) -> Result<Vec<f32>, EngineError> {
        self.run_layers(&mut [Step::new(sequence, tokens, None)])?;
        let mut logits = vec![0.0; tokens.len() * self.config.vocab];
        self.project_logits(0..tokens.len(), &mut logits);
        Ok(logits)
    }

    /// Runs all layers; the residual stream is left in `scratch.x`. Returns the first row of each
    /// step, and the end.
    fn run_layers(&mut self, batch: &mut [Step<'_>]) -> Result<Vec<usize>, EngineError> {
        let rows = Rows::new(&self.config, batch);
        let hidden = self.config.hidden;
        let Scratch { x, h, y, ahead, mixer, delta, moe, all_rows } = &mut self.scratch;
        for v in [&mut *x, h, y] {
            v.resize(rows.count() * hidden, 0.0);
        }
        let tokens = batch.iter().flat_map(|s| s.tokens);
        for (token, x) in tokens.zip(x.chunks_exact_mut(hidden)) {
            let w = self.embedding.view();
            dequantise_row(w.shape.dtype, w.row(*token as usize), x);
        }
        let eps = self.config.norm_eps;
        for (index, layer) in self.layers.iter().enumerate() {
            ops::rms_norm(h, x, &layer.input_norm, eps);
            match &layer.mixer {
                Mixer::Attention(attention) => {
                    attention.forward(&mut self.backend, &rows, h, y, batch, index, mixer);
                }
                Mixer::DeltaNet(net) => {
                    net.forward(&mut self.backend, &rows, h, y, batch, index, delta);
                }
            }
            ops::add(x, y);
            ops::rms_norm(h, x, &layer.post_norm, eps);
            match &layer.feed_forward {
                FeedForward::Moe(layer) => {
                    let guesses = self.experts.guesses(rows.count());
                    let next = self.layers.get(index + 1).filter(|_| guesses);
                    let next = next.and_then(|next| next.as_next(index + 1, x, ahead, eps));
                    let experts = &mut self.experts;
                    layer.forward(&mut self.backend, experts, index, h, y, next, moe)?;
                }
                FeedForward::Mlp(mlp) => mlp.forward(&mut self.backend, h, y, all_rows),
            }
            ops::add(x, y);
        }
        for step in batch.iter_mut() {
            step.sequence.advance(step.tokens.len());
        }
        Ok(rows.starts)
    }

    /// Final norm and output matrix over some rows of the residual stream.
    fn project_logits(&mut self, rows: std::ops::Range<usize>, logits: &mut [f32]) {
        let hidden = self.config.hidden;
        let h = &mut self.scratch.h[..rows.len() * hidden];
        let x = &self.scratch.x[rows.start * hidden..rows.end * hidden];
        ops::rms_norm(h, x, &self.norm, self.config.norm_eps);
        let w = self.head.as_ref().unwrap_or(&self.embedding).view();
        self.backend.project(h, hidden, &mut [Projection { w, out: logits }]);
    }
}

/// Bytes of weights that stay in memory.
impl Parts {
    pub(crate) fn dense_bytes(&self) -> u64 {
        let matrices = self.layers.iter().flat_map(Layer::matrices);
        let all = matrices.chain([&self.embedding]).chain(&self.head);
        all.map(|m| m.view().bytes.len() as u64).sum()
    }

    /// Parameters of the matrices that stay in memory.
    pub(crate) fn dense_parameters(&self) -> u64 {
        let matrices = self.layers.iter().flat_map(Layer::matrices);
        let all = matrices.chain([&self.embedding]).chain(&self.head);
        all.map(|m| (m.shape().rows * m.shape().cols) as u64).sum()
    }
}

impl Layer {
    /// This layer as the one before sees it; `x` [n, hidden] is the residual stream there, copied to a buffer.
    fn as_next<'a>(
        &'a self,
        layer: usize,
        x: &[f32],
        buffer: &'a mut Vec<f32>,
        norm_eps: f32,
    ) -> Option<moe::Next<'a>> {
        let FeedForward::Moe(moe) = &self.feed_forward else { return None };
        let copy = ops::sized(buffer, x.len());
        copy.copy_from_slice(x);
        Some(moe::Next { layer, moe, norm: &self.post_norm, norm_eps, x: copy })
    }

    fn matrices(&self) -> Vec<&Matrix> {
        let mut all = match &self.mixer {
            Mixer::Attention(attention) => attention.matrices(),
            Mixer::DeltaNet(net) => net.matrices(),
        };
        match &self.feed_forward {
            FeedForward::Moe(moe) => all.extend(moe.matrices()),
            FeedForward::Mlp(mlp) => all.extend(mlp.matrices()),
        }
        all
    }
}
