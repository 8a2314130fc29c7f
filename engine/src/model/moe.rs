//! The Mixture-of-Experts half of a layer: gate, chosen experts, shared expert.
//!
//! y = Σ over the k chosen of weight · expert(x) + sigmoid(s·x) · shared(x), the second term in
//! families that have a shared expert. The gate's softmax runs over all experts in f32. Rows that chose the same expert are computed together; each row keeps its
//! k results apart and adds them in the order of its gate, so that neither the cache nor the batch
//! changes the sum.
//! Reads hide behind the shared expert and the experts that are here: see `expert::reader`. While they
//! run the next layer's gate, given the residual stream with what is computed of this layer so far, may
//! guess what it will choose.

use super::mlp::Mlp;
use super::ops::{rms_norm_in_place, sigmoid, sized, softmax_top_k};
use crate::backend::{Backend, ExpertJob, Projection};
use crate::error::EngineError;
use crate::expert::{Event, ExpertId, Experts, Guess, Visit};
use crate::tensor::Matrix;

/// Weights of one layer that stay in memory.
pub(crate) struct Moe {
    /// [experts, hidden]
    pub(crate) gate: Matrix,
    /// Experts for each row.
    pub(crate) chosen: usize,
    /// Scale the chosen probabilities to sum 1.
    pub(crate) normalise: bool,
    /// See [`MoePlan`](super::blueprint::MoePlan).
    pub(crate) drop_below: f32,
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

/// The next layer's gate, and what it would see as far as this layer is computed.
pub(super) struct Next<'a> {
    pub(super) layer: usize,
    pub(super) moe: &'a Moe,
    /// The norm before that gate.
    pub(super) norm: &'a [f32],
    pub(super) norm_eps: f32,
    /// The residual stream so far, [n, hidden].
    pub(super) x: &'a mut [f32],
}

impl Next<'_> {
    /// Adds what an expert of this layer gave: a row for each of `rows`, with its weight.
    fn add(&mut self, rows: &[u32], results: &[f32], weight_of: impl Fn(u32) -> f32) {
        let hidden = self.norm.len();
        for (row, result) in rows.iter().zip(results.chunks_exact(hidden)) {
            add_scaled(&mut self.x[*row as usize * hidden..][..hidden], result, weight_of(*row));
        }
    }
}

/// `y += weight · x`.
fn add_scaled(y: &mut [f32], x: &[f32], weight: f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
}

/// What an expert weighs among a row's choices; 0 if it is none of them.
fn weight_of(choices: &[Choice], expert: u32) -> f32 {
    choices.iter().find(|choice| choice.expert == expert).map_or(0.0, |choice| choice.weight)
}

#[derive(Clone, Copy)]
struct Choice {
    expert: u32,
    weight: f32,
    /// Row in `results`; `None` if the expert is left out.
    slot: Option<usize>,
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
        mut next: Option<Next<'_>>,
        buffers: &mut Buffers,
    ) -> Result<(), EngineError> {
        let shape = self.gate.shape();
        let (hidden, n) = (shape.cols, h.len() / shape.cols);
        self.score(backend, h, n, buffers);
        self.choose(n, shape.rows, buffers);
        if self.drop_below > 0.0 {
            self.leave_out_cold(experts, layer, shape.rows, &mut buffers.choices);
        }
        let (wanted, starts) = self.group(shape.rows, buffers);

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
                    if let Some(next) = next.take() {
                        next.moe.guess(backend, next, guess, top, guessed);
                    }
                    return;
                }
                Event::Compute(batch) => batch,
            };
            if let Some(expert) = shared_job.take() {
                let shared = sized(shared, n * hidden);
                expert.mlp.forward(backend, h, shared, all_rows);
                if let Some(next) = &mut next {
                    next.add(all_rows, shared, |row| sigmoid(shared_scale[row as usize]));
                }
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
            if let Some(next) = &mut next {
                for (job, (index, _)) in jobs.iter().zip(batch) {
                    let chosen = |row| &choices[row as usize * self.chosen..][..self.chosen];
                    next.add(job.rows, job.out, |row| weight_of(chosen(row), wanted[*index]));
                }
            }
        })?;

        for (t, y) in y.chunks_exact_mut(hidden).enumerate() {
            y.fill(0.0);
            for choice in &choices[t * self.chosen..(t + 1) * self.chosen] {
                let Some(slot) = choice.slot else { continue };
                add_scaled(y, &results[slot * hidden..][..hidden], choice.weight);
            }
            if self.shared.is_some() {
                add_scaled(y, &shared[t * hidden..][..hidden], sigmoid(shared_scale[t]));
            }
        }
        Ok(())
    }

    /// The experts that a layer's gate would choose, likeliest first, those of all rows in turn.
    fn guess<B: Backend>(
        &self,
        backend: &mut B,
        next: Next<'_>,
        scores: &mut Vec<f32>,
        top: &mut Vec<(u32, f32)>,
        guessed: &mut Vec<Guess>,
    ) {
        let shape = self.gate.shape();
        rms_norm_in_place(next.x, next.norm, next.norm_eps);
        let scores = sized(scores, next.x.len() / shape.cols * shape.rows);
        let mut outputs = [Projection { w: self.gate.view(), out: &mut *scores }];
        backend.project(next.x, shape.cols, &mut outputs);
        for scores in scores.chunks_exact(shape.rows) {
            softmax_top_k(scores, self.chosen, top);
            let total: f32 = top.iter().map(|(_, p)| p).sum();
            // What would be left out if it were not here is not worth reading ahead.
            let heavy = top.iter().filter(|(_, p)| p / total >= self.drop_below);
            let guess = |(place, (expert, _)): (usize, &(u32, f32))| {
                let id = ExpertId { layer: next.layer as u32, expert: *expert };
                Guess { id, place }
            };
            guessed.extend(heavy.enumerate().map(guess));
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

    /// Fills `choices`: the experts of each row in its gate's order, [n, chosen].
    fn choose(&self, n: usize, experts: usize, buffers: &mut Buffers) {
        let Buffers { scores, top, choices, .. } = buffers;
        choices.clear();
        for scores in scores[..n * experts].chunks_exact(experts) {
            softmax_top_k(scores, self.chosen, top);
            // NaN scores choose nothing above; expert 0 with weight NaN keeps the NaN visible.
            top.resize(self.chosen, (0, f32::NAN));
            let total: f32 = if self.normalise { top.iter().map(|(_, p)| p).sum() } else { 1.0 };
            let choice = |(expert, p): &(u32, f32)| Choice {
                expert: *expert,
                weight: p / total,
                slot: Some(0),
            };
            choices.extend(top.iter().map(choice));
        }
    }

    /// Leaves out experts that are not in memory and weigh little in every row that chose them; what a
    /// row keeps is scaled up to the weight that it had in all. One reading serves all rows, so that
    /// one row that wants an expert brings it for the others too.
    fn leave_out_cold(
        &self,
        reader: &mut Experts,
        layer: usize,
        experts: usize,
        choices: &mut [Choice],
    ) {
        let mut heaviest = vec![0.0_f32; experts];
        let mut rows = vec![0; experts];
        for row in choices.chunks_exact(self.chosen) {
            let total: f32 = row.iter().map(|choice| choice.weight).sum();
            for choice in row {
                let share = &mut heaviest[choice.expert as usize];
                // A weight that is not a number leaves nothing out.
                let own = choice.weight / total;
                *share = if own.is_nan() { f32::INFINITY } else { share.max(own) };
                rows[choice.expert as usize] += 1;
            }
        }
        let mut out = vec![false; experts];
        for expert in 0..experts {
            let id = ExpertId { layer: layer as u32, expert: expert as u32 };
            if rows[expert] > 0 && heaviest[expert] < self.drop_below && !reader.is_near(id) {
                reader.leave_out(id, rows[expert]);
                out[expert] = true;
            }
        }
        for row in choices.chunks_exact_mut(self.chosen) {
            let total: f32 = row.iter().map(|choice| choice.weight).sum();
            row.iter_mut().filter(|c| out[c.expert as usize]).for_each(|c| c.slot = None);
            let kept: f32 = row.iter().filter(|c| c.slot.is_some()).map(|c| c.weight).sum();
            if row.iter().any(|choice| choice.slot.is_none()) {
                row.iter_mut().for_each(|choice| choice.weight *= total / kept);
            }
        }
    }

    /// Gives the choices their places in `results`, and fills `members`; returns the distinct experts
    /// in index order, which is file order, and the first member of each, and the end.
    fn group(&self, experts: usize, buffers: &mut Buffers) -> (Vec<u32>, Vec<usize>) {
        let Buffers { choices, members, .. } = buffers;
        let mut counts = vec![0_usize; experts];
        for choice in choices.iter().filter(|choice| choice.slot.is_some()) {
            counts[choice.expert as usize] += 1;
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
            let Some(slot) = &mut choice.slot else { continue };
            let free = &mut next[choice.expert as usize];
            *slot = *free;
            members[*free] = (i / self.chosen) as u32;
            *free += 1;
        }
        (wanted, starts)
    }
}
