//! The site file: what compliance decides for one organisation.
//!
//! It orders the classes, vouches for upstreams, answers every question that `must_answer` asks, names
//! the packs, and extends them. There are no defaults for the questions: a set without an answer is
//! refused, because every default would be somebody else's decision about this organisation's data.

use jiff::civil::Date;
use serde::Deserialize;

use crate::complexity::ComplexitySpec;
use crate::condition::ConditionSpec;
use crate::decision::{Quality, Zone};
use crate::demand::GoesTo;
use crate::detector::DetectorSpec;
use crate::latency::LatencySpec;
use crate::pack::LabelSpec;
use crate::rule::{Given, RuleSpec, TestSpec};
use crate::yaml::{At, Each, List, Named};

pub(crate) mod answers;
pub(crate) mod vouch;

pub(crate) use answers::MustAnswer;

/// A site file.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SiteSpec {
    /// Name of the organisation or installation.
    pub(crate) site: At<String>,
    pub(crate) version: String,
    pub(crate) owner: String,
    /// Who must sign a change.
    #[serde(default)]
    pub(crate) approvers: Vec<String>,
    pub(crate) requires: Option<At<String>>,
    /// Packs by shipped name or by path.
    pub(crate) packs: List<At<String>>,
    /// Packs by path that hold for the requests of one tenant only; they can only tighten.
    #[serde(default)]
    pub(crate) tenants: Named<List<At<String>>>,
    /// Detector files by path, besides the shipped ones.
    #[serde(default)]
    pub(crate) detector_files: List<At<String>>,
    /// Lowest first.
    pub(crate) classes: Each<ClassSpec>,
    #[serde(default)]
    pub(crate) vouches: Each<At<VouchSpec>>,
    pub(crate) must_answer: Option<At<MustAnswer>>,
    pub(crate) latency: LatencySpec,
    /// Which zones come first for simple and for complex requests that may go to a cloud.
    #[serde(default)]
    pub(crate) complexity: ComplexitySpec,
    /// In production, the demonstration model may answer never-cloud text.
    #[serde(default)]
    pub(crate) allow_demo_model: bool,
    /// What placeholders may stand for on the way to a cloud.
    #[serde(default)]
    pub(crate) redaction: RedactionSpec,
    #[serde(default)]
    pub(crate) exceptions: Each<At<ExceptionSpec>>,
    /// Additions to packs, by name of the pack.
    #[serde(default)]
    pub(crate) extends: Named<ExtensionSpec>,
    /// Where requests go: destination tests.
    #[serde(default)]
    pub(crate) tests: Each<At<SiteTestSpec>>,
}

/// Placeholders instead of findings, and where the findings come back.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RedactionSpec {
    /// Rules of these labels let placeholders take the place of what they found.
    pub(crate) labels: List<At<String>>,
    /// Tools that get the real values in their arguments; all others get the placeholders.
    pub(crate) restore_in_tools: List<String>,
}

/// One class of the lattice.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassSpec {
    pub(crate) name: At<String>,
    pub(crate) title: Option<String>,
    #[serde(default)]
    pub(crate) never_cloud: bool,
    #[serde(default)]
    pub(crate) goes_to: GoesTo,
}

/// What compliance vouches for one upstream.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VouchSpec {
    /// Name in the platform team's config; `edge` for the engine in this process.
    pub(crate) upstream: String,
    /// `https://llm.ward.internal:443`; not for the edge.
    pub(crate) address: Option<At<String>>,
    pub(crate) zone: Option<Zone>,
    pub(crate) region: Option<String>,
    #[serde(default)]
    pub(crate) baa: bool,
    #[serde(default)]
    pub(crate) zero_retention: bool,
    #[serde(default)]
    pub(crate) quality: Option<Quality>,
    /// Required for `on_prem`: it answers itself and asks no other machine.
    #[serde(default)]
    pub(crate) does_not_forward: bool,
    /// The networks that the name may resolve to; the gateway connects nowhere else.
    #[serde(default)]
    pub(crate) address_ranges: List<At<String>>,
    /// Reference of the contract or assessment.
    pub(crate) contract: String,
    /// Who vouches.
    pub(crate) owner: String,
    /// Last day on which the vouch counts.
    #[serde(deserialize_with = "crate::rule::date")]
    #[schemars(with = "String")]
    pub(crate) expires: Date,
}

/// One rule does not count for some requests until a day.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExceptionSpec {
    pub(crate) id: At<String>,
    pub(crate) rule: At<String>,
    /// Only findings of this detector do not count for the rule; without it the rule does not.
    pub(crate) detector: Option<At<String>>,
    /// Only for requests that meet this; it may not look at findings.
    pub(crate) when: Option<At<ConditionSpec>>,
    pub(crate) owner: String,
    pub(crate) reason: String,
    /// Last day on which it counts.
    #[serde(deserialize_with = "crate::rule::date")]
    #[schemars(with = "String")]
    pub(crate) expires: Date,
}

/// What a site adds to a pack.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ExtensionSpec {
    pub(crate) labels: Named<LabelSpec>,
    pub(crate) detectors: Named<DetectorSpec>,
    pub(crate) groups: Named<List<At<String>>>,
    pub(crate) rules: Each<RuleSpec>,
    pub(crate) tests: Each<At<TestSpec>>,
}

/// A destination test.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SiteTestSpec {
    pub(crate) given: Given,
    /// What is true at the moment, besides "every upstream is healthy".
    pub(crate) facts: GivenFacts,
    pub(crate) say: Option<String>,
    pub(crate) say_each: Option<Vec<String>>,
    pub(crate) each_of: Option<Vec<String>>,
    /// Required: where it goes.
    pub(crate) expect: Option<crate::decision::Route>,
    /// The class it ends in.
    pub(crate) class: Option<String>,
    /// A label that it bears.
    pub(crate) label: List<String>,
    /// Whether it goes there with placeholders in it.
    pub(crate) redacted: Option<bool>,
    pub(crate) known_gap: Option<String>,
}

/// Facts of a destination test.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GivenFacts {
    pub(crate) offline: bool,
    pub(crate) production: bool,
    pub(crate) edge_down: bool,
    /// The edge needs so long for its first token.
    pub(crate) edge_first_token: Option<crate::latency::Wait>,
    pub(crate) edge_quality: Option<Quality>,
    pub(crate) cloud_down: bool,
    pub(crate) audit_down: bool,
    pub(crate) tainted: bool,
    pub(crate) taint_unknown: bool,
    /// The day; 2026-12-01 unless said, so that a test means the same every day.
    pub(crate) today: Option<String>,
}
