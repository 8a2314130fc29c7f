//! How a model's memory is divided: what must be there, and how much is left for the cache of experts.
//!
//! The budget is that of the whole process. Everything with a known size is subtracted first: dense
//! weights, keys and values and states of the generations that may run, buffers of a pass, experts under
//! way. The rest is the cache's. Where the parts that serve several long conversations would take more
//! than a third of what the weights leave, fewer generations run together, and then shorter ones,
//! unless the caller said how many and how long. States that are kept for the next turns of
//! conversations take little from experts that must be read, and more where all fit anyway. What does not fit at all is refused, with the least
//! that would.
//!
//! Without a budget it is what the machine has: see `machine`. `sluice model plan` shows a plan with
//! the speed that it promises (`outlook`); loading a model makes the same plan from what the process
//! has taken already.

pub(crate) mod machine;
mod outlook;

use serde::Serialize;

use crate::error::EngineError;
use crate::expert::{ExpertStore, Experts};
use crate::kv_cache::BLOCK_POSITIONS;
use crate::model::{Blueprint, Footprint};
use crate::tensor::DType;
use crate::weights::Weights;

pub use outlook::{Outlook, PlanOptions, plan};

/// Longest prompt plus reply unless the caller asks for more: keys and values of it are kept in f32.
const CONTEXT_DEFAULT: usize = 8192;
/// The shortest context that a plan comes down to by itself.
const CONTEXT_MIN: usize = 1024;
/// Generations decoded together when nobody says how many.
const RUNNING_DEFAULT: usize = 4;
/// Prompt tokens of a pass when experts need not be read.
const PREFILL_TOKENS: usize = 256;
/// Prompt tokens of a pass at most: each expert is read once for all of them.
const PREFILL_TOKENS_MAX: usize = 4096;
/// Share of the budget that buffers of a pass may take beyond what the shortest pass needs.
const SCRATCH_SHARE: u64 = 16;
/// Share of the budget, and of what the floor leaves, that kept states may take where experts are
/// streamed: a state saves a prompt, an expert in memory saves a read at every token.
const CHECKPOINT_SHARE: u64 = 16;
const CHECKPOINT_REST_SHARE: u64 = 8;
/// Share of the budget that they may take where all experts fit.
const CHECKPOINT_SHARE_RESIDENT: u64 = 4;
/// Conversations at their longest whose states are kept at most.
const CHECKPOINT_CONVERSATIONS: u64 = 16;
/// A share that does not hold the state of so many tokens is left to the experts.
const CHECKPOINT_TOKENS_MIN: usize = 1024;
/// The process before anything is loaded, when it cannot be asked.
pub(crate) const PROCESS_BYTES: u64 = 40 << 20;
/// Bytes that a tokenizer takes for each byte of its file: tables in both directions, merges.
const TOKENIZER_FACTOR: u64 = 12;

/// Sizes of a model that a plan follows from.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) dense_bytes: u64,
    /// Of all experts in a cache that holds all.
    pub(crate) expert_bytes: u64,
    pub(crate) experts: u64,
    /// Of one expert in the cache.
    pub(crate) slot_bytes: u64,
    /// Experts that one token uses in all layers.
    pub(crate) experts_per_token: u64,
    pub(crate) footprint: Footprint,
    /// Longest sequence that the model was made for.
    pub(crate) context_tokens: usize,
    /// Bytes of `tokenizer.json`.
    pub(crate) tokenizer_bytes: u64,
}

/// What the caller asked for; `None` leaves it to the plan.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    /// Bytes of the whole process.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) cache_bytes: Option<u64>,
    pub(crate) context_tokens: Option<usize>,
    pub(crate) running_max: Option<usize>,
    pub(crate) io_depth: Option<usize>,
    /// Bytes for kept states; 0: none are kept.
    pub(crate) checkpoint_bytes: Option<u64>,
}

/// How memory is divided; the parts add up to no more than the whole, unless the caller set the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// The budget of the process.
    pub memory_bytes: u64,
    /// The program itself and its tokenizer.
    pub process_bytes: u64,
    /// Weights that every token uses.
    pub dense_bytes: u64,
    /// Recurrent states of the generations that run together.
    pub state_bytes: u64,
    /// Their keys and values at their longest.
    pub kv_bytes: u64,
    /// Buffers of a pass.
    pub scratch_bytes: u64,
    /// Experts under way beside the cache.
    pub staging_bytes: u64,
    /// States that are kept for the next turns of conversations.
    pub checkpoint_bytes: u64,
    /// The cache of experts.
    pub cache_bytes: u64,
    /// All of these but the cache and what is kept, with the shortest pass: the least that works.
    pub floor_bytes: u64,
    /// Bytes of all experts.
    pub expert_bytes: u64,
    /// Experts, and how many of them the cache holds.
    pub experts: u64,
    /// See `experts`.
    pub experts_cached: u64,
    /// Bytes of experts that one token uses.
    pub expert_bytes_per_token: u64,
    /// Longest prompt plus reply.
    pub context_tokens: usize,
    /// Generations decoded together.
    pub running_max: usize,
    /// Prompt tokens of a pass.
    pub prefill_tokens: usize,
}

impl Sizes {
    pub(crate) fn of(
        blueprint: &Blueprint,
        weights: &Weights,
        store: &ExpertStore,
        tokenizer_bytes: u64,
    ) -> Sizes {
        let matrix = |dtype: DType, shape: &[usize]| {
            let (values, bytes) = dtype.block();
            (shape.iter().product::<usize>() / values * bytes) as u64
        };
        let slot_bytes = store.slot_bytes() as u64;
        let experts = store.expert_count() as u64;
        Sizes {
            dense_bytes: weights.dense().map(|(_, dtype, shape)| matrix(dtype, shape)).sum(),
            expert_bytes: experts * slot_bytes,
            experts,
            slot_bytes,
            experts_per_token: (store.layouts().count() * blueprint.experts_per_token()) as u64,
            footprint: blueprint.footprint(),
            context_tokens: blueprint.config().context,
            tokenizer_bytes,
        }
    }

    /// Keys and values of a generation at its longest: whole blocks.
    fn kv_bytes(&self, context_tokens: usize) -> u64 {
        let blocks = context_tokens.div_ceil(BLOCK_POSITIONS) as u64;
        let positions = blocks.saturating_mul(BLOCK_POSITIONS as u64);
        positions.saturating_mul(self.footprint.kv_bytes_per_token)
    }

    /// One generation with so many tokens.
    fn conversation_bytes(&self, tokens: usize) -> u64 {
        sum(&[self.footprint.sequence_bytes, self.kv_bytes(tokens)])
    }

    /// What a tokenizer takes beside the weights.
    fn tokenizer_memory(&self) -> u64 {
        self.tokenizer_bytes * TOKENIZER_FACTOR
    }
}

/// Divides memory. `process_bytes` is what the process takes without this model; `available` what it
/// may take in all if no budget is given.
pub(crate) fn fit(
    sizes: &Sizes,
    wishes: &Wishes,
    process_bytes: u64,
    available: u64,
) -> Result<MemoryPlan, EngineError> {
    let memory_bytes = wishes.memory_bytes.unwrap_or(available);
    let process_bytes = process_bytes + sizes.tokenizer_memory();
    let depth = wishes.io_depth.unwrap_or(8);
    let staging_bytes = Experts::slots_beside(depth) as u64 * sizes.slot_bytes;
    let fixed = process_bytes + sizes.dense_bytes + staging_bytes;
    let scratch = |rows: usize| (rows as u64).saturating_mul(sizes.footprint.scratch_bytes_per_row);
    let left = memory_bytes.saturating_sub(sum(&[fixed, scratch(PREFILL_TOKENS)]));
    let (context_tokens, running_max) = conversations(sizes, wishes, left / 3);
    let sequences = running_max as u64;
    let state_bytes = sequences.saturating_mul(sizes.footprint.sequence_bytes);
    let kv_bytes = sequences.saturating_mul(sizes.kv_bytes(context_tokens));
    let floor_bytes = sum(&[fixed, state_bytes, kv_bytes, scratch(PREFILL_TOKENS)]);
    if wishes.memory_bytes.is_some_and(|bytes| bytes < floor_bytes) {
        return Err(EngineError::MemoryTooSmall { memory_bytes, floor_bytes });
    }
    let rest = memory_bytes.saturating_sub(floor_bytes);
    let checkpoint_bytes = checkpoints(sizes, wishes, memory_bytes, rest, context_tokens);
    let rest = rest.saturating_sub(checkpoint_bytes);
    let streams = wishes.cache_bytes.unwrap_or(rest) < sizes.expert_bytes;
    let spare = sum(&[scratch(PREFILL_TOKENS), (memory_bytes / SCRATCH_SHARE).min(rest / 4)]);
    let rows = spare / sizes.footprint.scratch_bytes_per_row.max(1);
    let prefill_tokens = match streams {
        true => (rows as usize).clamp(PREFILL_TOKENS, PREFILL_TOKENS_MAX),
        false => PREFILL_TOKENS,
    };
    let scratch_bytes = scratch(prefill_tokens);
    let more = scratch_bytes - scratch(PREFILL_TOKENS);
    let cache_bytes =
        wishes.cache_bytes.unwrap_or(rest.saturating_sub(more)).min(sizes.expert_bytes);
    Ok(MemoryPlan {
        memory_bytes,
        process_bytes,
        dense_bytes: sizes.dense_bytes,
        state_bytes,
        kv_bytes,
        scratch_bytes,
        staging_bytes,
        checkpoint_bytes,
        cache_bytes,
        floor_bytes,
        expert_bytes: sizes.expert_bytes,
        experts: sizes.experts,
        experts_cached: cache_bytes / sizes.slot_bytes.max(1),
        expert_bytes_per_token: sizes.experts_per_token * sizes.slot_bytes,
        context_tokens,
        running_max,
        prefill_tokens,
    })
}

/// Bytes for kept states: what the caller said, as far as it is there.
fn checkpoints(
    sizes: &Sizes,
    wishes: &Wishes,
    memory_bytes: u64,
    rest: u64,
    context_tokens: usize,
) -> u64 {
    if let Some(bytes) = wishes.checkpoint_bytes {
        return bytes.min(rest);
    }
    let spare = rest.saturating_sub(wishes.cache_bytes.unwrap_or(sizes.expert_bytes));
    let streaming = (memory_bytes / CHECKPOINT_SHARE).min(rest / CHECKPOINT_REST_SHARE);
    let resident = spare.min(memory_bytes / CHECKPOINT_SHARE_RESIDENT);
    let longest = sizes.conversation_bytes(context_tokens);
    let useful = longest.saturating_mul(CHECKPOINT_CONVERSATIONS);
    let bytes = streaming.max(resident).min(useful);
    match bytes < sizes.conversation_bytes(CHECKPOINT_TOKENS_MIN.min(context_tokens)) {
        true => 0,
        false => bytes,
    }
}

/// A sum that stops at the largest number: what a caller asked for may be absurd.
fn sum(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |sum, part| sum.saturating_add(*part))
}

/// Longest context and number of generations whose states fit in some bytes, as far as the caller
/// leaves that open. How long a conversation may be does not depend on what is free by chance.
fn conversations(sizes: &Sizes, wishes: &Wishes, bytes: u64) -> (usize, usize) {
    let wanted = wishes.context_tokens.unwrap_or(CONTEXT_DEFAULT);
    let mut context = wanted.min(sizes.context_tokens);
    let mut running = wishes.running_max.unwrap_or(RUNNING_DEFAULT).max(1);
    while (running as u64).saturating_mul(sizes.conversation_bytes(context)) > bytes {
        if wishes.running_max.is_none() && running > 1 {
            running -= 1;
        } else if wishes.context_tokens.is_none()
            && wishes.memory_bytes.is_some()
            && context / 2 >= CONTEXT_MIN
        {
            context /= 2;
        } else {
            break;
        }
    }
    (context, running)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// About the sizes of Qwen3-30B-A3B in q4_0.
    fn sizes() -> Sizes {
        Sizes {
            dense_bytes: 900 * MIB,
            expert_bytes: 6144 * 2_654_208,
            experts: 6144,
            slot_bytes: 2_654_208,
            experts_per_token: 48 * 8,
            footprint: Footprint {
                kv_bytes_per_token: 196_608,
                sequence_bytes: 600_000,
                scratch_bytes_per_row: 150_000,
            },
            context_tokens: 32_768,
            tokenizer_bytes: 4 * MIB,
        }
    }

    fn planned(memory: u64, wishes: Wishes) -> Result<MemoryPlan, EngineError> {
        let wishes = Wishes { memory_bytes: Some(memory), ..wishes };
        fit(&sizes(), &wishes, 40 * MIB, 1 << 40)
    }

    #[test]
    fn little_memory_serves_fewer_and_shorter_conversations() {
        let big = planned(32_768 * MIB, Wishes::default()).expect("fits");
        assert_eq!((big.context_tokens, big.running_max), (8192, 4));
        assert_eq!(big.experts_cached, 6144, "all experts fit");
        assert_eq!(big.prefill_tokens, 256, "nothing is read again and again");
        let small = planned(3072 * MIB, Wishes::default()).expect("fits");
        assert!(small.running_max == 1 && small.context_tokens < 8192, "{small:?}");
        assert!(small.experts_cached > 100 && small.prefill_tokens > 256, "{small:?}");
    }

    #[test]
    fn what_the_caller_says_is_kept_or_refused() {
        let wishes =
            Wishes { context_tokens: Some(8192), running_max: Some(1), ..Wishes::default() };
        let plan = planned(4096 * MIB, wishes).expect("fits");
        assert_eq!((plan.context_tokens, plan.running_max), (8192, 1));
        let error = planned(2048 * MIB, wishes).expect_err("refused");
        let EngineError::MemoryTooSmall { floor_bytes, .. } = error else { panic!("{error}") };
        assert_eq!(planned(floor_bytes, wishes).expect("the floor works").experts_cached, 0);
        assert!(planned(floor_bytes - 1, wishes).is_err());
    }

    #[test]
    fn kept_states_take_little_from_experts_and_more_where_all_fit() {
        let shares = |memory: u64, wishes: Wishes| {
            let plan = planned(memory * MIB, wishes).expect("fits");
            (plan.checkpoint_bytes / MIB, plan.experts_cached)
        };
        let (streaming, cached) = shares(8192, Wishes::default());
        assert!((200..=512).contains(&streaming), "{streaming}");
        let none = Wishes { checkpoint_bytes: Some(0), ..Wishes::default() };
        let (off, without) = shares(8192, none);
        assert!(
            off == 0 && without > cached && without - cached < without / 8,
            "{without} {cached}"
        );
        let (resident, cached) = shares(32_768, Wishes::default());
        assert!(resident > 4096 && cached == 6144, "{resident} {cached}");
        let asked = Wishes { checkpoint_bytes: Some(700 * MIB), ..Wishes::default() };
        assert_eq!(shares(8192, asked).0, 700);
        assert_eq!(shares(3072, Wishes::default()).0, 0, "too little for one conversation");
    }

    #[test]
    fn absurd_wishes_and_sizes_are_refused_without_overflow() {
        let wishes = Wishes {
            context_tokens: Some(usize::MAX),
            running_max: Some(usize::MAX),
            ..Wishes::default()
        };
        let most = u64::MAX;
        let footprint = Footprint {
            kv_bytes_per_token: most,
            sequence_bytes: most,
            scratch_bytes_per_row: most,
        };
        let sizes = Sizes { footprint, context_tokens: usize::MAX, ..sizes() };
        let wishes = Wishes { memory_bytes: Some(1 << 40), ..wishes };
        let error = fit(&sizes, &wishes, 40 * MIB, 0).expect_err("refused");
        let EngineError::MemoryTooSmall { floor_bytes, .. } = error else { panic!("{error}") };
        assert_eq!(floor_bytes, most);
    }

    #[test]
    fn a_cache_that_the_caller_chose_is_taken_as_it_is() {
        let wishes = Wishes { cache_bytes: Some(100 * MIB), ..Wishes::default() };
        let plan = fit(&sizes(), &wishes, 0, 1 << 40).expect("fits");
        assert_eq!(plan.cache_bytes, 100 * MIB);
        let all = Wishes { cache_bytes: Some(u64::MAX), ..Wishes::default() };
        assert_eq!(fit(&sizes(), &all, 0, 0).expect("fits").cache_bytes, sizes().expert_bytes);
    }

    proptest! {
        #[test]
        fn the_parts_never_exceed_the_whole(memory_mib in 0_u64..40_000) {
            if let Ok(plan) = planned(memory_mib * MIB, Wishes::default()) {
                let parts = plan.process_bytes + plan.dense_bytes + plan.state_bytes + plan.kv_bytes
                    + plan.scratch_bytes + plan.staging_bytes + plan.checkpoint_bytes
                    + plan.cache_bytes;
                prop_assert!(parts <= plan.memory_bytes, "{plan:?}");
                prop_assert!(plan.floor_bytes <= plan.memory_bytes);
                prop_assert!(plan.cache_bytes <= plan.expert_bytes);
            }
        }
    }
}
