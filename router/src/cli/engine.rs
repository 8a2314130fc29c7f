//! Flags that choose a model and how it runs, shared by every verb that loads one.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use sluice::config::parse_bytes;
use sluice::tuning::Remembered;
use sluice_engine::{
    BackendChoice, ChatMessage, CheckpointOptions, Engine, EngineOptions, Finish, FinishReason,
    IoChoice, ModelInfo, SamplingOptions,
};
use tokio::time::Instant;

use super::progress::bytes;
use super::{Failure, OrUsage, locate, out, tune};

/// Which model, and how it runs.
#[derive(clap::Args, Debug, Clone, Default)]
pub(super) struct ModelArgs {
    /// A pack, a Hugging Face directory or a GGUF file; default: SLUICE_MODEL, else the embedded demo model
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
}

/// How a model runs. None of these changes a single token but for the backend and fewer experts.
#[derive(clap::Args, Debug, Clone, Default)]
pub(super) struct EngineArgs {
    /// Kernels to compute with
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Compute threads; default: the cores that this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Memory of the process in all: 8GiB; what weights and conversations leave of it is for experts;
    /// default: what the machine or its control group has, but an eighth
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Memory for experts: 64MiB, 8GiB; default: what --memory leaves
    #[arg(long, value_name = "SIZE", value_parser = size)]
    expert_cache: Option<u64>,
    /// Longest prompt plus reply, tokens; default: as memory allows, at most 8192
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// How experts are read: auto (what a short test finds fastest), uring (by the kernel's ring),
    /// direct (by threads, around the page cache), buffered, mmap
    #[arg(long, value_name = "WAY", default_value_t = IoChoice::Auto)]
    io: IoChoice,
    /// Experts that are read at once; default: as the test finds fastest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    io_depth: Option<u16>,
    /// Read ahead what the next layer's gate would choose: auto (while it pays), off
    #[arg(long, value_enum, default_value_t = LookAhead::Auto)]
    look_ahead: LookAhead,
    /// Experts that a token uses in a layer: fewer than the model was trained with are faster and give
    /// worse text; default: as trained
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    active_experts: Option<u16>,
    /// Leave out experts that are not in memory and whose share of a token's gate is below this, such
    /// as 0.08: faster, worse text that depends on what is in memory; default: never
    #[arg(long, value_name = "SHARE")]
    drop_cold_experts: Option<f32>,
}

/// Whether experts are read ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LookAhead {
    /// While enough of the guesses are right
    #[default]
    Auto,
    /// Never
    Off,
}

/// A number of bytes with its unit.
pub(super) fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "expected a size such as 64MiB or 8GiB".to_owned())
}

/// The engine's backends by their names on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Backend {
    /// The fastest that this processor has
    #[default]
    Auto,
    /// The readable oracle: f32, one thread
    Reference,
    /// Quantised kernels on all threads
    Cpu,
}

/// How tokens are chosen, and how many.
#[derive(clap::Args, Debug, Clone, Default)]
pub(super) struct SamplingArgs {
    /// Tokens to generate at most; default: until the context is full
    #[arg(long, value_name = "N")]
    pub(super) max_tokens: Option<usize>,
    /// The same seed gives the same reply; default: a random one
    #[arg(long, value_name = "S")]
    pub(super) seed: Option<u64>,
    /// 0 takes the likeliest token, 1 samples as the model was trained; default: the model's own
    #[arg(long, value_name = "T")]
    pub(super) temperature: Option<f32>,
    /// Keep the smallest set of tokens that reaches this probability, 0 to 1; default: the model's own
    #[arg(long, value_name = "P")]
    pub(super) top_p: Option<f32>,
    /// Keep this many likeliest tokens, 0 keeps all; default: the model's own
    #[arg(long, value_name = "K")]
    pub(super) top_k: Option<usize>,
    /// Instructions that stand before the conversation; default: none
    #[arg(long, value_name = "TEXT")]
    pub(super) system: Option<String>,
}

/// A loaded model and what loading it took.
pub(super) struct Loaded {
    pub(super) engine: Engine,
    pub(super) load_time: Duration,
}

/// Speeds of one generation, for JSON documents.
#[derive(Serialize, Clone, Copy, Debug, PartialEq)]
pub(super) struct Speeds {
    /// Reading the model from disk.
    pub(super) load_ms: f64,
    /// From submission to the first token.
    pub(super) first_token_ms: f64,
    /// Prompt tokens by the time to read them.
    pub(super) prompt_tokens_per_second: Option<f64>,
    /// Tokens after the first by the time they took.
    pub(super) decode_tokens_per_second: Option<f64>,
    /// Share of expert look-ups that found theirs in memory.
    pub(super) expert_hit_rate: Option<f64>,
    /// Bytes of experts that were read.
    pub(super) expert_bytes_read: u64,
    /// Time in which nothing was computed because an expert was waited for.
    pub(super) stalled_ms: f64,
    /// Time of the model without that.
    pub(super) computed_ms: f64,
}

impl ModelArgs {
    /// Finds and loads the model for requests that do not follow from each other.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        self.load_with(self.options()?)
    }

    /// Finds and loads the model for a conversation: what it has read is kept for the next turn.
    pub(super) fn load_to_talk(&self) -> Result<Loaded, Failure> {
        self.load_with(EngineOptions {
            checkpoints: CheckpointOptions::default(),
            ..self.options()?
        })
    }

    /// Loads the model with room for so many replies together, if they are more than usual.
    pub(super) fn load_for(&self, streams: u16) -> Result<Loaded, Failure> {
        let options = self.options()?;
        let running_max = (streams > 1).then_some(usize::from(streams));
        self.load_with(EngineOptions { running_max, ..options })
    }

    fn load_with(&self, options: EngineOptions) -> Result<Loaded, Failure> {
        let start = Instant::now();
        let engine = Engine::load(&options).or_usage()?;
        note_reading(engine.info());
        Ok(Loaded { engine, load_time: start.elapsed() })
    }

    /// The engine's options as these flags say; what they leave open is as `sluice model tune` found it
    /// best, else left to the engine.
    pub(super) fn options(&self) -> Result<EngineOptions, Failure> {
        let model = locate::model(self.model.as_deref(), None).or_usage()?;
        let mut options = self.engine.options(model);
        let remembered = Remembered::of(&options.model);
        tune::note(&remembered);
        remembered.apply(&mut options);
        Ok(options)
    }
}

impl EngineArgs {
    /// Options for the model at that path.
    pub(super) fn options(&self, model: PathBuf) -> EngineOptions {
        EngineOptions {
            model,
            threads: self.threads.map(usize::from),
            backend: self.backend.into(),
            memory_bytes: self.memory,
            expert_cache_bytes: self.expert_cache,
            context_tokens: self.context.map(|n| n as usize),
            io: self.io,
            io_depth: self.io_depth.map(usize::from),
            look_ahead: Some(self.look_ahead == LookAhead::Auto),
            active_experts: self.active_experts.map(usize::from),
            // A single request has no next turn: its memory is the experts'.
            checkpoints: CheckpointOptions {
                memory_bytes: Some(0),
                ..CheckpointOptions::default()
            },
            drop_cold_experts: self.drop_cold_experts,
            ..EngineOptions::default()
        }
    }
}

impl From<Backend> for BackendChoice {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Auto => BackendChoice::Auto,
            Backend::Reference => BackendChoice::Reference,
            Backend::Cpu => BackendChoice::Cpu,
        }
    }
}

impl SamplingArgs {
    /// The engine's sampling options as these flags say.
    pub(super) fn options(&self) -> SamplingOptions {
        SamplingOptions {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed: self.seed,
            ..SamplingOptions::default()
        }
    }

    /// A new conversation: the system prompt, if there is one.
    pub(super) fn conversation(&self) -> Vec<ChatMessage> {
        self.system.iter().map(|text| message("system", text)).collect()
    }
}

impl Speeds {
    pub(super) fn new(finish: &Finish, load_time: Duration) -> Self {
        let later_tokens = finish.completion_tokens.saturating_sub(1);
        Speeds {
            load_ms: milliseconds(load_time),
            first_token_ms: milliseconds(finish.queued + finish.prefill),
            prompt_tokens_per_second: per_second(
                finish.prompt_tokens - finish.cached_tokens,
                finish.prefill,
            ),
            decode_tokens_per_second: per_second(later_tokens, finish.decode),
            expert_hit_rate: finish.experts.hit_rate(),
            expert_bytes_read: finish.experts.bytes_read,
            stalled_ms: milliseconds(finish.experts.stalled),
            computed_ms: milliseconds(finish.experts.computed),
        }
    }
}

/// Says how experts are read, where they do not all stay in memory.
fn note_reading(info: &ModelInfo) {
    if info.expert_cache_bytes < info.expert_bytes {
        let rate = info.read_bytes_per_second.map(|rate| format!(", {}/s", bytes(rate as u64)));
        out::note(format_args!(
            "experts: {}, {} of them in memory; read by {}, {} at once{}",
            bytes(info.expert_bytes),
            bytes(info.expert_cache_bytes),
            info.io,
            info.io_depth,
            rate.unwrap_or_default()
        ));
    }
}

/// One turn of a conversation.
pub(super) fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage::new(role, content)
}

/// The word that OpenAI's API uses for why a reply ended.
pub(super) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

/// A rate, or `None` where nothing was counted or no time passed.
pub(super) fn per_second(count: usize, time: Duration) -> Option<f64> {
    (count > 0 && !time.is_zero()).then(|| tenths(count as f64 / time.as_secs_f64()))
}

/// Milliseconds to a tenth.
pub(super) fn milliseconds(time: Duration) -> f64 {
    tenths(time.as_secs_f64() * 1000.0)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use sluice_engine::ExpertUse;

    use super::*;

    fn finish(prompt_tokens: usize, completion_tokens: usize) -> Finish {
        Finish {
            reason: FinishReason::Stop,
            stop: None,
            prompt_tokens,
            cached_tokens: 0,
            completion_tokens,
            queued: Duration::from_millis(5),
            prefill: Duration::from_millis(100),
            decode: Duration::from_secs(2),
            experts: ExpertUse::default(),
        }
    }

    #[test]
    fn decode_speed_counts_the_tokens_after_the_first() {
        let speeds = Speeds::new(&finish(40, 101), Duration::from_micros(1_234));
        assert_eq!(speeds.prompt_tokens_per_second, Some(400.0));
        assert_eq!(speeds.decode_tokens_per_second, Some(50.0));
        assert_eq!(speeds.first_token_ms, 105.0);
        assert_eq!(speeds.load_ms, 1.2);
    }

    #[test]
    fn no_speed_is_claimed_where_nothing_was_generated() {
        let speeds = Speeds::new(&finish(40, 1), Duration::ZERO);
        assert_eq!(speeds.decode_tokens_per_second, None);
    }
}
