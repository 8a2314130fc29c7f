//! Which upstream is asked among those that policy allows, and which endpoints go to one as they are.
//!
//! None of this can widen what policy allows: it orders equals, doubles what was allowed twice, and names
//! the one upstream that a passthrough may go to if policy lets it.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::diagnose::ConfigError;
use super::file::Lowering;
use super::scalar::{Plain, Scalar, parse_duration};
use super::{UpstreamConfig, UpstreamKind};
use crate::api::is_served;
use crate::upstream::UpstreamId;

/// Which of several upstreams is asked first, where policy likes them equally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choose {
    /// The first of the file. The default: the plainest to foretell.
    #[default]
    InOrder,
    /// By chance, in proportion to their weights.
    Weighted,
    /// The one that began its last answers soonest.
    LeastLatency,
}

/// A second attempt beside a slow first one. A first that has not begun a stream when
/// the second has counts as a failure of its upstream: one that hangs is left alone by its breaker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// `after`: when the first has not begun to answer by then: `800ms`, or `p95` of its last answers.
    pub after: HedgeAfter,
    /// `for`: latency classes that are worth it. Default `[interactive]`.
    #[serde(rename = "for", default = "interactive")]
    pub latency: Vec<String>,
}

/// How slow is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// A fixed time.
    Fixed(Duration),
    /// Slower than 19 of 20 of the upstream's last answers; never while it has given fewer than 20.
    P95,
}

/// An endpoint that is passed on as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// Its whole path, such as `/v1/moderations`.
    pub path: String,
    /// Where it goes, if policy lets it.
    pub upstream: UpstreamId,
}

fn interactive() -> Vec<String> {
    vec!["interactive".to_owned()]
}

impl<'de> Deserialize<'de> for HedgeAfter {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = |text: &str| match text {
            "p95" => Ok(HedgeAfter::P95),
            _ => parse_duration(text)
                .map(HedgeAfter::Fixed)
                .ok_or_else(|| format!("expected p95 or a duration such as 800ms, got {text:?}")),
        };
        d.deserialize_any(Scalar { expected: "p95 or a duration such as 800ms", parse })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PassthroughSection {
    path: Plain,
    upstream: Plain,
}

impl Lowering<'_> {
    /// Checks that each passthrough is an endpoint of its own, and that its upstream is there.
    pub(super) fn passthrough(
        &self,
        sections: Vec<PassthroughSection>,
        upstreams: &[UpstreamConfig],
    ) -> Result<Vec<Passthrough>, ConfigError> {
        let wrong =
            |what: String| self.error(&["passthrough"], &format!("passthrough: {what}"), None);
        let mut all: Vec<Passthrough> = Vec::with_capacity(sections.len());
        for PassthroughSection { path: Plain(path), upstream: Plain(upstream) } in sections {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.".contains(&b);
            let whole = path.len() > 4 && !path.ends_with('/') && !path.contains("..");
            if !path.starts_with("/v1/") || !whole || !path.bytes().all(plain) {
                return Err(wrong(format!(
                    "expected a path such as /v1/moderations, got {path:?}"
                )));
            }
            if is_served(&path) {
                return Err(wrong(format!(
                    "expected an endpoint that is not served here, got {path:?}"
                )));
            }
            if all.iter().any(|known| known.path == path) {
                return Err(wrong(format!("expected each path once, got {path:?} twice")));
            }
            let known = upstreams.iter().find(|known| known.id.as_str() == upstream);
            match known.map(|known| (&known.id, &known.kind)) {
                Some((id, UpstreamKind::Server(_))) => {
                    all.push(Passthrough { path, upstream: id.clone() });
                }
                _ => {
                    return Err(wrong(format!(
                        "expected a server under upstreams, got {upstream:?}"
                    )));
                }
            }
        }
        Ok(all)
    }
}
