//! Attention of many queries on all threads.
//!
//! A task is some tokens' queries of a few heads that look at the same keys and values: while a block of
//! these is in the core's cache, all queries of the task pass over it.

use super::super::attend::{QUERIES, Softmax, Step};
use super::super::kernels::Kernels;
use super::super::pool::{Pool, Scattered};
use super::super::{AttentionJob, AttentionShape};
use crate::kv_cache::{BLOCK_POSITIONS, KvCache};

/// Tokens of a task: enough that fetching a block costs little beside passing over it.
const TOKENS: usize = 16;

/// One job's inputs, and the outputs that tasks share.
struct Job<'a> {
    /// [tokens, heads, head_dim]
    q: &'a [f32],
    cache: &'a KvCache,
    out: Scattered<'a, f32>,
}

/// Computes all jobs. Panics if their shapes disagree with `shape`.
pub(super) fn run<K: Kernels>(
    pool: &mut Pool,
    k: K,
    shape: AttentionShape,
    jobs: &mut [AttentionJob<'_>],
) {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    // Heads that look at the same keys, a few at a time.
    let parts = kv_heads * (heads / kv_heads).div_ceil(QUERIES);
    let mut starts = vec![0];
    for job in jobs.iter() {
        assert_eq!(job.q.len(), job.out.len(), "attention output length");
        assert_eq!(job.kv.stride(), kv_heads * head_dim, "keys of another shape");
        let tokens = job.q.len() / (heads * head_dim);
        starts.push(starts[starts.len() - 1] + tokens.div_ceil(TOKENS) * parts);
    }
    let total = starts[jobs.len()];
    let jobs: Vec<_> = jobs
        .iter_mut()
        .map(|job| Job { q: job.q, cache: job.kv, out: Scattered::new(&mut *job.out) })
        .collect();
    pool.run(total, |task| {
        let job = starts.partition_point(|s| *s <= task) - 1;
        let task = task - starts[job];
        some_tokens(k, shape, &jobs[job], task / parts * TOKENS, task % parts);
    });
}

/// The queries of up to [`TOKENS`] tokens from `first` on and of the heads of `part`.
fn some_tokens<K: Kernels>(k: K, shape: AttentionShape, job: &Job<'_>, first: usize, part: usize) {
    let AttentionShape { heads, kv_heads, head_dim: dim } = shape;
    let group = heads / kv_heads;
    let (kv_head, few) = (part / group.div_ceil(QUERIES), part % group.div_ceil(QUERIES));
    let head = kv_head * group + few * QUERIES;
    let queries = QUERIES.min(group - few * QUERIES);
    let new = job.q.len() / (heads * dim);
    let before = job.cache.positions() - new;
    let tokens = first..(first + TOKENS).min(new);
    let range = |token: usize| (token * heads + head) * dim..(token * heads + head + queries) * dim;
    let mut states = [Softmax::new(); TOKENS];
    // SAFETY: a task writes the outputs of its own tokens and heads.
    #[expect(unsafe_code, reason = "disjoint outputs, see above")]
    let out = |token: usize| unsafe { job.out.slice(range(token).start, queries * dim) };
    tokens.clone().for_each(|token| out(token).fill(0.0));
    for (block, (keys, values)) in job.cache.blocks().enumerate() {
        let earlier = block * BLOCK_POSITIONS;
        for token in tokens.clone() {
            let positions = (before + token + 1).saturating_sub(earlier).min(BLOCK_POSITIONS);
            if positions > 0 {
                let (q, at) = (&job.q[range(token)], kv_head * dim);
                let stride = job.cache.stride();
                let step = Step { q, dim, keys, values, stride, at, positions };
                k.attend(out(token), step, &mut states[token - first]);
            }
        }
    }
    for token in tokens {
        states[token - first].finish(out(token), dim);
    }
}
