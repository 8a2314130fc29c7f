//! From a model on disk to a running engine: loading, a first measurement, loading again.
//!
//! The measurement is a short pass over made-up tokens. Without it the first request would be
//! routed by a guess, and a tokenizer that does not belong to the model would be noticed only when
//! somebody's prompt indexes past the embedding.

use crate::clock::Clock;
use crate::engine::scheduler::{Forward, Step};
use crate::engine::{EngineOptions, ExpertUse, TextSide};
use crate::error::EngineError;
use crate::forecast::{Round, Speeds};
use crate::model::{self, LoadedModel, Sequence};
use crate::tokenizer::TokenId;

/// Prompt tokens of the measurement.
const MEASURED_PREFILL_TOKENS: usize = 32;
/// Single tokens of the measurement.
const MEASURED_DECODE_TOKENS: usize = 3;
/// Made-up tokens are this far apart, so that they go to different experts.
const TOKEN_STRIDE: usize = 97;

impl Forward for LoadedModel {
    type Sequence = Sequence;

    fn new_sequence(&self) -> Sequence {
        LoadedModel::new_sequence(self)
    }

    fn expert_use(&self) -> ExpertUse {
        LoadedModel::expert_use(self)
    }

    fn prefill_tokens(&self) -> usize {
        LoadedModel::prefill_tokens(self)
    }

    fn forward(&mut self, batch: &mut [Step<'_, Sequence>]) -> Result<(), EngineError> {
        let mut steps = Vec::with_capacity(batch.len());
        for Step { sequence, tokens, logits, marks } in batch {
            steps.push(model::Step { sequence, tokens, logits: logits.as_deref_mut(), marks });
        }
        LoadedModel::forward(self, &mut steps)
    }
}

/// Loads a model's weights and what its directory says beside them.
pub(super) fn load(options: &EngineOptions) -> Result<(LoadedModel, TextSide), EngineError> {
    let model = LoadedModel::load(options)?;
    let files = model.files();
    let text = TextSide {
        info: model.info().clone(),
        tokenizer_json: files.tokenizer_json.clone(),
        chat_template: files.chat_template.clone(),
        end_tokens: files.eos_token_ids.clone(),
        special: files.special.clone(),
        sampling_defaults: files.generation_defaults.clone(),
    };
    Ok((model, text))
}

/// Measures how fast a model reads and speaks. Errors when the tokenizer knows more tokens than the
/// model.
pub(super) fn measure<M: Forward>(
    model: &mut M,
    vocabulary_size: usize,
    speeds: &Speeds,
    clock: &Clock,
) -> Result<(), EngineError> {
    let mut sequence = model.new_sequence();
    let mut logits = Vec::new();
    // The first token alone: it starts the threads and brings in the first pages, and its logits
    // show how many tokens the model knows.
    let first = Step::new(&mut sequence, &[0], Some(&mut logits));
    model.forward(&mut [first])?;
    if logits.len() < vocabulary_size {
        return Err(EngineError::Tokenizer(format!(
            "tokenizer.json: expected token ids below {}, the model's vocabulary, got {}; use the \
             tokenizer that came with the model",
            logits.len(),
            vocabulary_size - 1
        )));
    }
    let made_up = |index: usize| (index * TOKEN_STRIDE % vocabulary_size) as TokenId;
    let prompt: Vec<TokenId> = (1..=MEASURED_PREFILL_TOKENS).map(made_up).collect();
    let singles = (1..=MEASURED_DECODE_TOKENS).map(|index| vec![made_up(index * TOKEN_STRIDE)]);
    for tokens in std::iter::once(prompt).chain(singles) {
        let started = clock.now();
        let step = Step::new(&mut sequence, &tokens, Some(&mut logits));
        model.forward(&mut [step])?;
        let round = match tokens.len() {
            1 => Round { prefill_tokens: 0, decoding: 1 },
            prefill_tokens => Round { prefill_tokens, decoding: 0 },
        };
        speeds.record_round(round, clock.since(started));
    }
    Ok(())
}
