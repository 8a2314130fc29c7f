//! How long a caller can wait: the second axis of a decision.
//!
//! Sensitivity says where a request may go; the latency class orders which of the allowed upstreams
//! comes first. It never adds an upstream, so nothing here can leak.

use serde::Deserialize;

use crate::decision::{UpstreamFacts, Zone};
use crate::error::suggest;
use crate::prompt::RequestContext;
use crate::yaml::{At, Complaint, List, Named};

/// Tokens of the reply that a deadline is about, unless the site says otherwise.
const REPLY_TOKENS: u32 = 256;

/// The `latency` section of a site file.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LatencySpec {
    /// Class of requests that say nothing.
    default: At<String>,
    classes: Named<LatencyClassSpec>,
}

/// One latency class as it stands in a file.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct LatencyClassSpec {
    /// The longest wait for the first token: `2s`.
    first_token: Option<Wait>,
    /// The least speed after that.
    tokens_per_second: Option<f64>,
    /// The longest wait for a whole reply of `reply_tokens`.
    deadline: Option<Wait>,
    /// Length of the reply that the deadline is about, tokens; 256 unless said.
    reply_tokens: Option<u32>,
    /// Zones in the order of preference; those not named come last.
    prefers: List<Zone>,
    /// Words of clients for this class: `service_tier: flex`.
    #[serde(default)]
    also_called: List<String>,
    /// Callers whose keys are tagged so are in this class unless they say otherwise.
    #[serde(default)]
    key_tag: List<String>,
}

/// A time to wait, in milliseconds; written `500ms`, `30s`, `10m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wait(pub(crate) u64);

impl Wait {
    /// Reads `30s`; at most a day.
    pub(crate) fn parse(text: &str) -> Option<Wait> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = text[..digits].parse().ok()?;
        let unit = match text[digits..].trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        number.checked_mul(unit).filter(|ms| (1..=86_400_000).contains(ms)).map(Wait)
    }
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ms if ms % 60_000 == 0 => write!(f, "{} min", ms / 60_000),
            ms if ms % 1_000 == 0 => write!(f, "{} s", ms / 1_000),
            ms => write!(f, "{ms} ms"),
        }
    }
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Wait::parse(&text).ok_or_else(|| {
            let message = format!("expected a time such as 500ms, 30s or 10m, got \"{text}\"");
            serde::de::Error::custom(message)
        })
    }
}

/// One latency class.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyClass {
    /// `interactive`, `relaxed`, `batch`; the names are the site's own.
    pub name: String,
    /// The longest wait for the first token.
    pub first_token_ms_max: Option<u64>,
    /// The least speed after that.
    pub tokens_per_second_min: Option<f64>,
    /// The longest wait for a whole reply of `reply_tokens`.
    pub deadline_ms_max: Option<u64>,
    /// Length of the reply that the deadline is about, tokens.
    pub reply_tokens: u32,
    /// Zones in the order of preference.
    pub prefers: Vec<Zone>,
    also_called: Vec<String>,
    key_tags: Vec<String>,
}

/// All latency classes of a site.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Latency {
    pub(crate) classes: Vec<LatencyClass>,
    default: usize,
}

impl Latency {
    pub(crate) fn compile(spec: &LatencySpec) -> Result<Latency, Complaint> {
        let names = || spec.classes.0.iter().map(|(name, _)| name.value.as_str());
        let default = names().position(|name| name == spec.default.value).ok_or_else(|| {
            let message = format!("unknown latency class \"{}\"", spec.default.value);
            spec.default.complaint(message, suggest(&spec.default.value, names()))
        })?;
        let classes = spec.classes.0.iter().map(|(name, class)| LatencyClass {
            name: name.value.clone(),
            first_token_ms_max: class.first_token.map(|wait| wait.0),
            tokens_per_second_min: class.tokens_per_second,
            deadline_ms_max: class.deadline.map(|wait| wait.0),
            reply_tokens: class.reply_tokens.unwrap_or(REPLY_TOKENS),
            prefers: class.prefers.0.clone(),
            also_called: class.also_called.0.clone(),
            key_tags: class.key_tag.0.clone(),
        });
        Ok(Latency { classes: classes.collect(), default })
    }

    /// The class of a request: what it asks for, else what its key is tagged, else the default.
    pub(crate) fn of(&self, context: &RequestContext) -> &LatencyClass {
        let asked = context.latency.as_deref().and_then(|word| self.called(word));
        let tagged = || {
            self.classes
                .iter()
                .find(|class| class.key_tags.iter().any(|tag| context.key_tags.contains(tag)))
        };
        asked.or_else(tagged).unwrap_or(&self.classes[self.default])
    }

    /// The class of that name; the default for a name that the site does not know.
    pub(crate) fn named(&self, name: &str) -> &LatencyClass {
        self.called(name).unwrap_or(&self.classes[self.default])
    }

    /// Name of the class of requests that say nothing.
    pub(crate) fn default_name(&self) -> &str {
        &self.classes[self.default].name
    }

    /// The class that a client means by a word, if the site knows it.
    pub(crate) fn known_name(&self, word: &str) -> Option<String> {
        self.called(word).map(|class| class.name.clone())
    }

    fn called(&self, word: &str) -> Option<&LatencyClass> {
        let is_called = |name: &String| name.eq_ignore_ascii_case(word.trim());
        self.classes
            .iter()
            .find(|class| is_called(&class.name) || class.also_called.iter().any(is_called))
    }
}

impl LatencyClass {
    /// The upstream is known to miss what this class demands.
    pub(crate) fn is_missed_by(&self, upstream: &UpstreamFacts) -> bool {
        let waits_too_long = match (upstream.first_token_ms, self.first_token_ms_max) {
            (Some(expected), Some(longest)) => expected > longest,
            _ => false,
        };
        let speaks_too_slowly = match (upstream.tokens_per_second, self.tokens_per_second_min) {
            (Some(expected), Some(least)) => expected < least,
            _ => false,
        };
        waits_too_long || speaks_too_slowly || self.is_late(upstream)
    }

    /// A reply of the usual length would not be whole in time.
    fn is_late(&self, upstream: &UpstreamFacts) -> bool {
        let Some((deadline, speed)) = self.deadline_ms_max.zip(upstream.tokens_per_second) else {
            return false;
        };
        let speaking_ms = 1000.0 * f64::from(self.reply_tokens) / speed.max(f64::MIN_POSITIVE);
        upstream.first_token_ms.unwrap_or(0) as f64 + speaking_ms > deadline as f64
    }
}

/// Place of a zone in an order of preference; those not named come last.
pub(crate) fn rank(prefers: &[Zone], zone: Zone) -> usize {
    prefers.iter().position(|&preferred| preferred == zone).unwrap_or(prefers.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_missed_by_who_would_speak_too_long() {
        let class = LatencyClass {
            name: "interactive".to_owned(),
            first_token_ms_max: None,
            tokens_per_second_min: None,
            deadline_ms_max: Some(10_000),
            reply_tokens: 100,
            prefers: Vec::new(),
            also_called: Vec::new(),
            key_tags: Vec::new(),
        };
        for (first, speed, missed) in [
            (Some(0), Some(10.0), false),
            (Some(1), Some(10.0), true),
            (None, Some(9.9), true),
            (Some(9_000), None, false),
            (Some(0), Some(0.0), true),
        ] {
            let upstream = UpstreamFacts {
                first_token_ms: first,
                tokens_per_second: speed,
                ..UpstreamFacts::edge("edge")
            };
            assert_eq!(class.is_missed_by(&upstream), missed, "{first:?} {speed:?}");
        }
    }

    #[test]
    fn reads_waits_with_units_only() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("10m", 600_000), ("1h", 3_600_000)] {
            assert_eq!(Wait::parse(text), Some(Wait(ms)), "{text}");
        }
        for text in ["30", "s", "", "-1s", "0s", "25h", "99999999999999999999h", "3 days"] {
            assert_eq!(Wait::parse(text), None, "{text}");
        }
    }
}
