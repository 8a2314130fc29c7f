//! Decides how private a request is, how long its caller can wait, and therefore where it may go.
//!
//! Pure functions over text: nothing here opens a socket, reads a clock or keeps state between calls
//! (a [`ScanCache`] is the caller's, and changes how fast an answer comes, never the answer).
//! The same prompt, facts and policy set always give the same decision, on any machine, in any order
//! of rules and files; that is what makes a decision replayable and a policy provable.
//!
//! The path: a [`Prompt`] is normalised and scanned by detectors, rules raise classes and labels over
//! the findings ([`PolicySet::classify`]), and [`PolicySet::decide`] intersects what the classes and
//! labels demand with what the upstreams offer.
//!
//! Invariants: rules only raise; the highest class wins; matched text never leaves the scan (a
//! [`Finding`] names detector, place and likelihood, not the text).
#![forbid(unsafe_code)]

mod capability;
mod changes;
mod classification;
mod complexity;
mod condition;
mod decide;
mod decision;
mod demand;
mod detector;
mod error;
mod evidence;
mod explain;
mod known_words;
mod latency;
mod lint;
mod normalize;
mod pack;
mod policy_set;
mod prompt;
mod prove;
mod read;
mod replay;
mod rule;
mod schema;
mod site;
mod swar;
mod wish;
mod yaml;

pub use capability::Capability;
pub use changes::{Change, Direction, Subject};
pub use classification::Classification;
pub use complexity::{Complexity, Sign};
pub use decision::{
    Decision, Facts, Mode, Quality, Refusal, RefusalCode, RequestFacts, Route, UpstreamFacts, Zone,
};
pub use demand::Standing;
pub use detector::{
    DetectorSpec, LabelledText, Scan, ScanCache, ScanMemory, Scanner, SpecError, TopicTraining,
    WordVectors, train_topics,
};
pub use error::{Diagnostic, PolicyError};
pub use evidence::{Finding, Likelihood};
pub use explain::{Clause, Explanation, FindingExplanation, RuleExplanation};
pub use known_words::KnownWords;
pub use latency::LatencyClass;
pub use pack::LANGUAGE_VERSION;
pub use policy_set::check::{Branch, CaseResult, TestCase, TestFailure, TestReport};
pub use policy_set::{PackInfo, PolicySet, Verdict, digest, shipped_pack_names, shipped_sources};
pub use prompt::{ContentKind, Endpoint, Prompt, RequestContext, Role, Text, Unscanned};
pub use prove::Proof;
pub use replay::{Evidence, EvidenceContext, PlacedFinding, Sight};
pub use rule::{Rule, RuleMode, Severity};
pub use schema::FileSchema;
pub use site::answers::ReplyAnswer;
pub use site::vouch::{AddressRanges, Vouch};
pub use wish::Wish;
pub use yaml::Source;
