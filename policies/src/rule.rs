//! Rules: when a condition holds, a request is raised to a class and gets labels.
//!
//! A rule says what the law says and where it says it (`citation`), and carries its own tests. Rules
//! only raise: there is no rule that lowers, allows or runs before another, so the order of rules and
//! files never matters. `mode: shadow` computes a rule without letting it act; `floor: true` means
//! that neither a shadow nor an exception may ever weaken it.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, ConditionSpec};
use crate::yaml::{At, Each, List};

/// A rule as it stands in a file.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleSpec {
    pub(crate) id: At<String>,
    pub(crate) title: String,
    pub(crate) citation: Option<String>,
    #[serde(default)]
    pub(crate) severity: Severity,
    #[serde(default)]
    pub(crate) floor: bool,
    #[serde(default)]
    pub(crate) mode: At<RuleMode>,
    pub(crate) effective: Option<Effective>,
    pub(crate) when: At<ConditionSpec>,
    pub(crate) then: At<ThenSpec>,
    #[serde(default)]
    pub(crate) tests: Each<At<TestSpec>>,
}

/// What a rule does when its condition holds.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ThenSpec {
    /// One label or several.
    pub(crate) label: List<At<String>>,
    /// A class, for rules that need no label.
    pub(crate) class: Option<At<String>>,
    /// Findings may be replaced by placeholders, and the redacted text decided afresh.
    pub(crate) redact: bool,
    /// One sentence for the person who asks why.
    pub(crate) because: Option<String>,
}

/// A test of one rule.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TestSpec {
    /// What is known of the request besides its text.
    pub(crate) given: Given,
    /// One message.
    pub(crate) say: Option<String>,
    /// Several messages of one conversation.
    pub(crate) say_each: Option<Vec<String>>,
    /// Several messages, each a case of its own.
    pub(crate) each_of: Option<Vec<String>>,
    /// Required: whether the rule matches.
    pub(crate) expect: Option<At<Expect>>,
    /// The case is known to fail, and why: it is counted apart, and reported when it begins to pass.
    pub(crate) known_gap: Option<String>,
    /// The rule that is tested, for tests that stand outside a rule.
    pub(crate) rule: Option<At<String>>,
}

/// What a test expects of its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Expect {
    Match,
    NoMatch,
}

/// What is known of a request besides its text.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Given {
    pub(crate) key_tag: List<String>,
    pub(crate) tag: List<String>,
    pub(crate) header: std::collections::BTreeMap<String, String>,
    pub(crate) path: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) caller: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) class: Option<String>,
    pub(crate) latency: Option<String>,
    pub(crate) content: List<crate::prompt::ContentKind>,
}

/// How bad it is when the rule is broken; for reports, never for the decision.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A nuisance.
    Low,
    /// Worth a look.
    #[default]
    Medium,
    /// Someone must answer for it.
    High,
    /// A breach that must be reported.
    Critical,
}

/// Whether a rule acts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RuleMode {
    /// It is computed and logged, and changes nothing.
    Shadow,
    /// It acts.
    #[default]
    Enforce,
}

/// The days on which something holds, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Effective {
    #[serde(deserialize_with = "date_or_never")]
    #[schemars(with = "Option<String>")]
    pub(crate) from: Option<Date>,
    #[serde(deserialize_with = "date_or_never")]
    #[schemars(with = "Option<String>")]
    pub(crate) until: Option<Date>,
}

impl Effective {
    /// The day lies within.
    pub(crate) fn covers(&self, day: Date) -> bool {
        self.from.is_none_or(|from| day >= from) && self.until.is_none_or(|until| day <= until)
    }

    /// The days on which both hold.
    pub(crate) fn and(self, other: Effective) -> Effective {
        Effective {
            from: self.from.max(other.from),
            until: match (self.until, other.until) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
        }
    }
}

/// Reads `YYYY-MM-DD`; `never` and `always` are no date.
fn date_or_never<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Date>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if matches!(text.as_str(), "never" | "always") {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        serde::de::Error::custom(format!("expected a date such as 2026-12-01, got \"{text}\""))
    })
}

/// Reads a required date.
pub(crate) fn date<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
    date_or_never(deserializer)?
        .ok_or_else(|| serde::de::Error::custom("expected a date such as 2027-06-30, got never"))
}

/// A compiled rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique over the set: `HIPAA-002`.
    pub id: String,
    /// File that it stands in: `hipaa.yaml`.
    pub file: String,
    /// Line of its id.
    pub line: u32,
    /// Whose requests it is about; `None` for everybody's.
    pub tenant: Option<String>,
    /// Who owns the file.
    pub owner: String,
    /// What it says, in a few words.
    pub title: String,
    /// The law or contract behind it.
    pub citation: Option<String>,
    /// How bad a breach is.
    pub severity: Severity,
    /// No shadow and no exception may weaken it.
    pub floor: bool,
    /// Whether it acts.
    pub mode: RuleMode,
    /// Names of the labels that it gives, sorted.
    pub labels: Vec<String>,
    /// Why, for the person who asks.
    pub because: String,
    /// Class that it raises to, its labels counted in; an index into the lattice.
    pub(crate) class: usize,
    /// Its findings may be replaced by placeholders.
    pub(crate) redact: bool,
    pub(crate) effective: Effective,
    pub(crate) when: Condition,
    /// Nothing but findings can make the condition hold.
    pub(crate) needs_findings: bool,
}

impl Rule {
    /// The rule acts on that day.
    pub fn acts_on(&self, day: Date) -> bool {
        self.mode == RuleMode::Enforce && self.effective.covers(day)
    }
}
