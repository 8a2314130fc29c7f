//! What a model would do on this machine with so much memory, before it is loaded.
//!
//! The disk is really read and an expert really computed; hits come from a trace, or are those of gates
//! that choose evenly, the worst case. A token takes as long as the longer of the two if reading and
//! computing overlap fully, and as long as both if not at all: both are told.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::machine::Machine;
use super::{MemoryPlan, PROCESS_BYTES, Sizes, Wishes, fit};
use crate::backend::{Backend, Cpu, ExpertJob};
use crate::clock::Clock;
use crate::error::EngineError;
use crate::expert::{ExpertStore, probe, spread};
use crate::io::IoChoice;
use crate::model::Blueprint;
use crate::trace::{self, Trace};
use crate::weights::{Weights, side_files};

/// Experts that are computed in turn: more bytes than the processor's caches hold.
const COMPUTED: usize = 24;
/// How long computing is measured.
const TIME: Duration = Duration::from_millis(300);

/// What to plan.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// A pack, a Hugging Face directory or GGUF files.
    pub model: PathBuf,
    /// Bytes of the whole process; default: what the machine has.
    pub memory_bytes: Option<u64>,
    /// Longest prompt plus reply; default: as memory allows.
    pub context_tokens: Option<usize>,
    /// Generations decoded together; default: as memory allows.
    pub running_max: Option<usize>,
    /// Compute threads; default: the cores this process may use.
    pub threads: Option<usize>,
    /// A trace of the same model's gates, from which hits are counted.
    pub trace: Option<PathBuf>,
    /// How experts are read.
    pub io: IoChoice,
}

/// A plan and what it promises.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outlook {
    /// How memory is divided.
    pub plan: MemoryPlan,
    /// How experts would be read: `uring`, and how many at once.
    pub io: String,
    /// See `io`.
    pub io_depth: usize,
    /// Bytes of experts that were read in a second; `None` where all stay in memory or the model is
    /// too small to test.
    pub read_bytes_per_second: Option<f64>,
    /// Bytes of weights that were multiplied in a second.
    pub compute_bytes_per_second: f64,
    /// Share of look-ups that hit: of the trace, or of gates that choose evenly.
    pub hit_rate: f64,
    /// Whether the hits were counted in a trace.
    pub from_trace: bool,
    /// Bytes that a token reads.
    pub read_bytes_per_token: f64,
    /// Tokens a second of one reply if nothing overlaps, and if everything does.
    pub tokens_per_second: [f64; 2],
}

/// Plans a model and measures what the plan would give. Errors if the model cannot be opened or memory
/// is below its floor.
pub fn plan(options: &PlanOptions) -> Result<Outlook, EngineError> {
    let weights = Weights::open(&options.model)?;
    let config = weights.side().config()?;
    let blueprint = Blueprint::of(&weights, &config)?;
    let store = weights.experts(&blueprint.expert_layers(), true)?;
    let tokenizer_bytes = weights.side().required(side_files::TOKENIZER)?.len() as u64;
    let sizes = Sizes::of(&blueprint, &weights, &store, tokenizer_bytes);
    let wishes = Wishes {
        memory_bytes: options.memory_bytes,
        context_tokens: options.context_tokens,
        running_max: options.running_max,
        ..Wishes::default()
    };
    let plan = fit(&sizes, &wishes, PROCESS_BYTES, Machine::measure().budget())?;
    let fits = plan.experts_cached >= plan.experts;
    let (store, probed) = probe(store, options.io, fits)?;
    let threads = options.threads.unwrap_or_else(crate::model::default_threads);
    let compute = compute_rate(&store, threads)?;
    let slots = plan.experts_cached as usize;
    let hit_rate = match &options.trace {
        Some(path) => trace::reply_hit_rate(&Trace::read(path)?, slots),
        None => plan.experts_cached as f64 / plan.experts.max(1) as f64,
    };
    let read_bytes_per_token = (1.0 - hit_rate) * plan.expert_bytes_per_token as f64;
    let computing = (plan.dense_bytes + plan.expert_bytes_per_token) as f64 / compute;
    let reading = probed.bytes_per_second.map_or(0.0, |rate| read_bytes_per_token / rate);
    Ok(Outlook {
        plan,
        io: probed.reading.choice.to_string(),
        io_depth: probed.reading.depth,
        read_bytes_per_second: probed.bytes_per_second,
        compute_bytes_per_second: compute,
        hit_rate,
        from_trace: options.trace.is_some(),
        read_bytes_per_token,
        tokens_per_second: [1.0 / (computing + reading), 1.0 / computing.max(reading)],
    })
}

/// Bytes of experts that are multiplied by one row in a second.
fn compute_rate(store: &ExpertStore, threads: usize) -> Result<f64, EngineError> {
    let ids: Vec<_> = spread(store).take(COMPUTED.min(store.expert_count())).collect();
    let experts = ids.into_iter().map(|id| store.read(id, None)).collect::<Result<Vec<_>, _>>()?;
    let hidden = experts[0].weights().gate.shape.cols;
    let x: Vec<f32> = (0..hidden).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let mut out = vec![0.0; hidden];
    let mut cpu = Cpu::new(threads);
    let clock = Clock::System;
    let started = clock.now();
    let (mut bytes, mut at) = (0, 0);
    while clock.since(started) < TIME {
        let expert = &experts[at % experts.len()];
        let job = ExpertJob { weights: expert.weights(), rows: &[0], out: &mut out };
        cpu.experts(&x, hidden, &mut [job]);
        bytes += expert.len();
        at += 1;
    }
    Ok(bytes as f64 / clock.since(started).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::tests::{FAMILIES, write_small};

    #[test]
    fn a_plan_promises_less_with_less_memory_and_refuses_what_cannot_be() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let model = dir.path().join("model");
        write_small(FAMILIES[1], &model);
        let options = |memory_bytes| PlanOptions {
            model: model.clone(),
            memory_bytes: Some(memory_bytes),
            context_tokens: Some(512),
            running_max: Some(1),
            threads: Some(1),
            ..PlanOptions::default()
        };
        let rich = plan(&options(1 << 30)).expect("fits");
        assert_eq!(rich.plan.experts_cached, rich.plan.experts);
        assert_eq!((rich.hit_rate, rich.read_bytes_per_token), (1.0, 0.0));
        let [serial, overlapped] = rich.tokens_per_second;
        assert!(serial > 0.0 && overlapped >= serial && overlapped.is_finite());
        let EngineError::MemoryTooSmall { floor_bytes, .. } =
            plan(&options(1 << 20)).expect_err("refused")
        else {
            panic!("another error")
        };
        let poor = plan(&options(floor_bytes + rich.plan.expert_bytes / 2)).expect("fits");
        assert!(poor.hit_rate > 0.0 && poor.hit_rate < 1.0, "{poor:?}");
    }
}
