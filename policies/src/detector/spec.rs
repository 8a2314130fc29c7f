//! A detector as YAML describes it: what it looks for, what raises it, what lowers it.
//!
//! Officers write `looks_like`, `words`, `near_words` and likelihood words; regular expressions and
//! built-in families appear only in the security team's detector files. A spec says *what*, the
//! scanner compiles it once; nothing here matches text.

use serde::Deserialize;

use crate::evidence::Likelihood;

/// One detector as a policy file describes it; the id is the key under `detectors:`.
///
/// Exactly one source is named: `builtin`, `looks_like`, `pattern`/`patterns`, or `words`/`lists`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DetectorSpec {
    /// Name that rules use: `us_ssn`. Filled in from the map's key.
    #[serde(skip)]
    pub id: String,
    /// One sentence for the person who reads the file.
    pub title: Option<String>,
    /// A family built into the scanner: `payment_card`, `us_ssn`, … (see `detectors/README.md`).
    pub builtin: Option<String>,
    /// A template: `9` is a digit, `A` a letter, anything else stands for itself.
    pub looks_like: Option<String>,
    /// A regular expression (linear time, no look-around); a group named `value` narrows the finding.
    pub pattern: Option<String>,
    /// Several regular expressions of one meaning.
    pub patterns: Vec<String>,
    /// Literals of which one must occur before a pattern is tried; without them the pattern runs
    /// over every text, which costs throughput.
    pub literals: Vec<String>,
    /// A dictionary: words and phrases, any case, any accents; a trailing `*` matches word beginnings.
    pub words: Vec<String>,
    /// Shipped word lists by name: `health_en`.
    pub lists: Vec<String>,
    /// A check that a candidate must pass: `luhn`, `verhoeff`, `mod97`, `mod11_10`, `digits`, `chosen`.
    pub validator: Option<String>,
    /// How sure the shape alone is; without it a finding needs a context word.
    pub alone: Option<Likelihood>,
    /// How sure it is with a context word near; `very_likely` unless said.
    pub with_context: Option<Likelihood>,
    /// Context words on either side, within `near_characters`.
    pub near_words: Vec<String>,
    /// Words that lower the likelihood by one step when they stand closer than any context word.
    pub negative_words: Vec<String>,
    /// JSON keys, CSV columns and assigned names that count as context.
    pub key_names: Vec<String>,
    /// Values that are never a finding: placeholders and documentation samples.
    pub exclude: Vec<String>,
    /// How far context words reach on either side; 80 unless said.
    pub near_characters: Option<u16>,
}

impl DetectorSpec {
    /// The most that a finding of it can be: what the file says, and anything for a built-in family.
    pub(crate) fn surest(&self) -> Likelihood {
        if self.builtin.is_some() {
            return Likelihood::VeryLikely;
        }
        let has_context = !self.near_words.is_empty() || !self.key_names.is_empty();
        let raised = self.with_context.unwrap_or(Likelihood::VeryLikely);
        let with_context = has_context.then_some(raised);
        self.alone.max(with_context).unwrap_or(Likelihood::Possible)
    }

    /// A spec of a built-in family with the family's own context, as tests and defaults use it.
    pub fn builtin(id: &str) -> Self {
        DetectorSpec { id: id.to_owned(), builtin: Some(id.to_owned()), ..Self::default() }
    }
}

/// A spec that cannot be compiled: which detector, which field, what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// Detector id.
    pub detector: String,
    /// The field at fault: `pattern`, `builtin`.
    pub field: &'static str,
    /// What is wrong, lower case, without the detector's name.
    pub message: String,
    /// What to write instead, if that is known.
    pub hint: Option<String>,
}
