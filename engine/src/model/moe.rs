//! The Mixture-of-Experts half of a layer: gate, chosen experts, shared expert.
//!
//! y = Σ over the k chosen of weight · expert(x) + sigmoid(s·x) · shared(x), the second term in
//! families that have a shared expert. The gate's softmax runs over all experts in f32. Rows that chose the same expert are computed together; each row keeps its
//! k results apart and adds them in the order of its gate, so that neither the cache nor the batch
//! changes the sum.
//! Reads hide behind the shared expert and the experts that are here: see `expert::reader`. While they
//! run the next layer's gate, given this layer's residual stream, may guess what it will choose.

use super::mlp::Mlp;
use super::ops::{sigmoid, sized, softmax_top_k};
use crate::backend::{Backend, ExpertJob, Projection};
use crate::error::EngineError;
use crate::expert::{Event, ExpertId, Experts, Visit};
use crate::tensor::Matrix;

/// Weights of one layer that stay in memory.
pub(crate) struct Moe {
    /// [experts, hidden]
    pub(crate) gate: Matrix,
    /// Experts for each row.
    pub(crate) chosen: usize,
    /// Scale the chosen probabilities to sum 1.
    pub(crate) normalise: bool,
    /// An expert for every row.
    pub(crate) shared: Option<SharedExpert>,
}

/// The expert that every row uses.
pub(crate) struct SharedExpert {
    pub(crate) mlp: Mlp,
    /// [1, hidden]: its weight is sigmoid(scale · x).
    pub(crate) scale: Matrix,
}

/// Buffers reused by all layers.
#[derive(Default)]
pub(super) struct Buffers {
    scores: Vec<f32>,
    shared_scale: Vec<f32>,
    top: Vec<(u32, f32)>,
    /// Each row's choices, [n, chosen], in the gate's order.
    choices: Vec<Choice>,
    shared: Vec<f32>,
    /// Results of all choices, grouped by expert: [n · chosen, hidden].
    results: Vec<f32>,
    /// Rows grouped by expert, as `results`.
    members: Vec<u32>,
    all_rows: Vec<u32>,
    /// Scores of the next layer's gate.
    guess: Vec<f32>,
}

/// The next layer's gate, and what it would see if this layer added nothing.
pub(super) struct Next<'a> {
    pub(super) layer: usize,
    pub(super) moe: &'a Moe,
    /// The residual stream in that layer's norm, [n, hidden].
    pub(super) h: &'a [f32],
}

#[derive(Clone, Copy)]
struct Choice {
    expert: u32,
    weight: f32,
    /// Row in `results`.
    slot: usize,
}

impl Moe {
    pub(super) fn matrices(&self) -> Vec<&Matrix> {
        let mut all = vec![&self.gate];
        if let Some(shared) = &self.shared {
            all.push(&shared.scale);
            all.extend(shared.mlp.matrices());
        }
        all
    }

    /// `y = moe(h)` for all rows [n, hidden].
    #[expect(clippy::too_many_arguments, reason = "weights, inputs and buffers of one layer")]
    pub(super) fn forward<B: Backend>(
        &self,
        backend: &mut B,
        experts: &mut Experts,
        layer: usize,
        h: &[f32],
        y: &mut [f32],
        next: Option<Next<'_>>,
        buffers: &mut Buffers,
    ) -> Result<(), EngineError> {
        let shape = self.gate.shape();
        let (hidden, n) = (shape.cols, h.len() / shape.cols);
        self.score(backend, h, n, buffers);
        let (wanted, starts) = self.choose(n, shape.rows, buffers);

        let Buffers {
            choices, shared, shared_scale, results, members, all_rows, guess, top, ..
        } = buffers;
        let mut slots = Vec::with_capacity(wanted.len());
        let mut rest = sized(results, n * self.chosen * hidden);
        for range in starts.windows(2) {
            let (slot, later) = rest.split_at_mut((range[1] - range[0]) * hidden);
            slots.push(Some(slot));
            rest = later;
        }
        let mut shared_job = self.shared.as_ref();
        let visit = Visit { layer: layer as u32, wanted: &wanted, starts: &starts, rows: n };
        experts.visit(visit, |event| {
            let batch = match event {
                Event::Guess(guessed) => {
                    if let Some(next) = &next {
                        next.moe.guess(backend, next, guess, top, guessed);
                    }
                    return;
                }
                Event::Compute(batch) => batch,
            };
            if let Some(expert) = shared_job.take() {
                expert.mlp.forward(backend, h, sized(shared, n * hidden), all_rows);
            }
            let mut jobs: Vec<_> = batch
                .iter()
                .map(|(index, expert)| ExpertJob {
                    weights: expert.weights(),
                    rows: &members[starts[*index]..starts[*index + 1]],
                    out: slots[*index].take().expect("each expert is visited once"),
                })
                .collect();
            backend.experts(h, hidden, &mut jobs);
        })?;

        for (t, y) in y.chunks_exact_mut(hidden).enumerate() {
            y.fill(0.0);
            for choice in &choices[t * self.chosen..(t + 1) * self.chosen] {
                let result = &results[choice.slot * hidden..][..hidden];
                y.iter_mut().zip(result).for_each(|(y, r)| *y += choice.weight * r);
            }
            if self.shared.is_some() {
                let scale = sigmoid(shared_scale[t]);
                let result = &shared[t * hidden..][..hidden];
                y.iter_mut().zip(result).for_each(|(y, r)| *y += scale * r);
            }
        }
        Ok(())
    }

    /// The experts that a layer's gate would choose, likeliest first, those of all rows in turn.
    fn guess<B: Backend>(
        &self,
        backend: &mut B,
        next: &Next<'_>,
        scores: &mut Vec<f32>,
        top: &mut Vec<(u32, f32)>,
        guessed: &mut Vec<ExpertId>,
    ) {
        let shape = self.gate.shape();
        let scores = sized(scores, next.h.len() / shape.cols * shape.rows);
        let mut outputs = [Projection { w: self.gate.view(), out: &mut *scores }];
        backend.project(next.h, shape.cols, &mut outputs);
        for scores in scores.chunks_exact(shape.rows) {
            softmax_top_k(scores, self.chosen, top);
            let id =
                |(expert, _): &(u32, f32)| ExpertId { layer: next.layer as u32, expert: *expert };
            guessed.extend(top.iter().map(id));
        }
    }

    /// Scores of all experts and of the shared expert's gate.
    fn score<B: Backend>(&self, backend: &mut B, h: &[f32], n: usize, buffers: &mut Buffers) {
        let shape = self.gate.shape();
        let scores = sized(&mut buffers.scores, n * shape.rows);
        let mut outputs = vec![Projection { w: self.gate.view(), out: scores }];
        if let Some(shared) = &self.shared {
            let out = sized(&mut buffers.shared_scale, n);
            outputs.push(Projection { w: shared.scale.view(), out });
        }
        backend.project(h, shape.cols, &mut outputs);
    }

    /// Fills `choices` and `members`; returns the distinct experts in index order, which is file
    /// order, and the first member of each, and the end.
    fn choose(&self, n: usize, experts: usize, buffers: &mut Buffers) -> (Vec<u32>, Vec<usize>) {
        let Buffers { scores, top, choices, members, .. } = buffers;
        choices.clear();
        let mut counts = vec![0_usize; experts];
        for scores in scores[..n * experts].chunks_exact(experts) {
            softmax_top_k(scores, self.chosen, top);
            // NaN scores choose nothing above; expert 0 with weight NaN keeps the NaN visible.
            top.resize(self.chosen, (0, f32::NAN));
            let total: f32 = if self.normalise { top.iter().map(|(_, p)| p).sum() } else { 1.0 };
            for (expert, p) in top.iter() {
                counts[*expert as usize] += 1;
                choices.push(Choice { expert: *expert, weight: p / total, slot: 0 });
            }
        }
        let wanted: Vec<u32> = (0..experts as u32).filter(|e| counts[*e as usize] > 0).collect();
        let mut starts = vec![0];
        let mut next = vec![0; experts];
        for e in &wanted {
            let start = starts[starts.len() - 1];
            next[*e as usize] = start;
            starts.push(start + counts[*e as usize]);
        }
        members.resize(choices.len(), 0);
        for (i, choice) in choices.iter_mut().enumerate() {
            choice.slot = next[choice.expert as usize];
            members[choice.slot] = (i / self.chosen) as u32;
            next[choice.expert as usize] += 1;
        }
        (wanted, starts)
    }
}
