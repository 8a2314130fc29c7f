//! Sampling options with their gaps filled and their ranges checked, once per request.

use super::Cut;
use crate::engine::SamplingOptions;
use crate::error::EngineError;
use crate::tokenizer::TokenId;

/// A bias of this or less removes the token altogether.
pub(super) const BIAS_FORBIDS: f32 = -100.0;

/// Options ready to use.
pub(super) struct Resolved {
    /// Temperature, top-k, top-p and min-p.
    pub(super) cut: Cut,
    pub(super) repetition_penalty: f32,
    pub(super) presence_penalty: f32,
    pub(super) frequency_penalty: f32,
    pub(super) logit_bias: Vec<(TokenId, f32)>,
    pub(super) seed: Option<u64>,
}

impl Resolved {
    /// Fills gaps from `defaults` and checks ranges. Defaults come from a model's file and are
    /// checked with the same words.
    pub(super) fn new(
        options: &SamplingOptions,
        defaults: &SamplingOptions,
        vocabulary_size: usize,
    ) -> Result<Resolved, EngineError> {
        let pick = |field: fn(&SamplingOptions) -> Option<f32>, neutral: f32| {
            field(options).or(field(defaults)).unwrap_or(neutral)
        };
        let penalty = |name, value| within(name, value, -2.0, 2.0);
        let resolved = Resolved {
            cut: Cut {
                temperature: within("temperature", pick(|o| o.temperature, 1.0), 0.0, 2.0)?,
                top_k: options.top_k.or(defaults.top_k).unwrap_or(0),
                top_p: within("top_p", pick(|o| o.top_p, 1.0), 0.0, 1.0)?,
                min_p: within("min_p", pick(|o| o.min_p, 0.0), 0.0, 1.0)?,
            },
            repetition_penalty: within(
                "repetition_penalty",
                pick(|o| o.repetition_penalty, 1.0),
                0.01,
                10.0,
            )?,
            presence_penalty: penalty("presence_penalty", pick(|o| o.presence_penalty, 0.0))?,
            frequency_penalty: penalty("frequency_penalty", pick(|o| o.frequency_penalty, 0.0))?,
            logit_bias: options.logit_bias.clone(),
            seed: options.seed.or(defaults.seed),
        };
        for &(token, bias) in &resolved.logit_bias {
            within("logit_bias", bias, -100.0, 100.0)?;
            if token as usize >= vocabulary_size {
                return Err(EngineError::InvalidRequest(format!(
                    "logit_bias: expected token ids below {vocabulary_size}, got {token}"
                )));
            }
        }
        Ok(resolved)
    }

    /// Whether the best token is the only candidate, so that nothing needs to be drawn. A top-p of
    /// 0 keeps just the best one.
    pub(super) fn is_greedy(&self) -> bool {
        self.cut.temperature == 0.0 || self.cut.top_k == 1 || self.cut.top_p == 0.0
    }
}

fn within(name: &str, value: f32, low: f32, high: f32) -> Result<f32, EngineError> {
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    Err(EngineError::InvalidRequest(format!(
        "{name}: expected a number from {low} to {high}, got {value}"
    )))
}
