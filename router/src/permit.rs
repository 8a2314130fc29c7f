//! The only key to the network: a permit for one decided, recorded request to one upstream.
//!
//! The client in `upstream::server` sends what a permit carries and nothing else, so a byte can leave
//! this process only if a decision allowed that upstream and the attempt is on record. Retry, hedge
//! and fallback need a permit each; it is consumed by use and cannot be copied.
//!
//! Invariants, held by the types: an [`OutboundBody`] never changes after it was made; an
//! [`EgressPermit`] comes from [`EgressPermit::mint`] alone and owns the very bytes that are sent.
//!
//! A permit cannot be made or copied elsewhere:
//! ```compile_fail,E0451
//! let forged = sluice::permit::EgressPermit {
//!     upstream: sluice::upstream::UpstreamId::new("cloud"),
//!     body: unreachable!(),
//!     within: unreachable!(),
//! };
//! ```
//! ```compile_fail,E0599
//! fn copy(permit: sluice::permit::EgressPermit) -> sluice::permit::EgressPermit {
//!     permit.clone()
//! }
//! ```

use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Uri};
use sluice_policies::{AddressRanges, Decision, Endpoint, Route};

use crate::audit::Recorded;
use crate::upstream::UpstreamId;

/// The serialised bytes of a translated request, and their errand: exactly these are sent.
#[derive(Clone)]
pub struct OutboundBody {
    bytes: Bytes,
    errand: Errand,
}

/// What a body is sent for: sealed with it, since it leaves with it.
#[derive(Clone)]
pub(crate) struct Errand {
    /// What kind of answer it asks for; `None` for a passthrough.
    pub(crate) endpoint: Option<Endpoint>,
    /// What the bytes are.
    pub(crate) content_type: HeaderValue,
    /// The whole address.
    pub(crate) uri: Uri,
    /// Headers of the client that go along.
    pub(crate) headers: HeaderMap,
}

impl OutboundBody {
    /// Seals bytes that are ready to send.
    pub(crate) fn seal(bytes: Bytes, errand: Errand) -> OutboundBody {
        OutboundBody { bytes, errand }
    }

    /// How many bytes would leave.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Why no permit was minted. Each is a bug of the caller or a policy in force, never a passing state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The decision refuses, or this upstream is not the one that it chose and the record names.
    #[error("the decision does not allow this upstream")]
    NotAllowed,
    /// The text never goes to a cloud, and this would be one.
    #[error("the text never goes to a cloud")]
    NeverCloud,
    /// The decision asks for redaction, and these bytes are not redacted.
    #[error("the decision asks for redaction")]
    NotRedacted,
}

/// The right to send one body to one upstream, once.
pub struct EgressPermit {
    upstream: UpstreamId,
    body: OutboundBody,
    within: AddressRanges,
}

impl EgressPermit {
    /// Mints a permit, if `decision` chose `upstream` and the attempt is on record.
    ///
    /// A fallback needs a decision of its own, whose choice is the fallback; so the route and the
    /// reasons on record are always those of the upstream that gets the bytes. `recorded` proves the
    /// record: only the audit log makes one, after the line was written, or without one where the config
    /// switches the log off and policy looks for nothing. `within` is where the upstream's
    /// name may lead.
    pub fn mint(
        decision: &Decision,
        upstream: &UpstreamId,
        body: &OutboundBody,
        recorded: &Recorded,
        within: AddressRanges,
    ) -> Result<EgressPermit, Denied> {
        let listed = decision.allowed.iter().any(|allowed| allowed == upstream.as_str());
        let chosen = decision.upstream.as_deref() == Some(upstream.as_str());
        let on_record = recorded.upstream() == Some(upstream);
        if decision.route == Route::Refuse || !listed || !chosen || !on_record {
            return Err(Denied::NotAllowed);
        }
        if decision.never_cloud && decision.route == Route::Cloud {
            return Err(Denied::NeverCloud);
        }
        if decision.redact {
            return Err(Denied::NotRedacted);
        }
        Ok(EgressPermit { upstream: upstream.clone(), body: body.clone(), within })
    }

    /// Spends the permit: where to send, what it asks for, the bytes, and where the name may lead.
    pub(crate) fn spend(self) -> (UpstreamId, Errand, Bytes, AddressRanges) {
        (self.upstream, self.body.errand, self.body.bytes, self.within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(route: Route, allowed: &[&str], redact: bool, never_cloud: bool) -> Decision {
        Decision {
            route,
            upstream: allowed.first().map(|&a| a.to_owned()),
            allowed: allowed.iter().map(|&a| a.to_owned()).collect(),
            class: "internal".into(),
            labels: vec![],
            latency: "interactive".into(),
            redact,
            rules: vec![],
            raised_by: vec![],
            never_cloud,
            reason: String::new(),
            refusal: None,
            policy_digest: String::new(),
            queue_ms_max: None,
        }
    }

    fn sealed(bytes: &'static [u8]) -> OutboundBody {
        let uri = Uri::from_static("https://a.example/v1/completions");
        let errand = Errand {
            endpoint: Some(Endpoint::Completions),
            content_type: HeaderValue::from_static("application/json"),
            uri,
            headers: HeaderMap::new(),
        };
        OutboundBody::seal(Bytes::from_static(bytes), errand)
    }

    #[test]
    fn mints_only_what_the_decision_and_the_record_name() {
        let body = sealed(b"{}");
        let cloud = UpstreamId::new("cloud");
        let denied = Err(Denied::NotAllowed);
        for (route, allowed, redact, never_cloud, recorded_for, expected) in [
            (Route::Cloud, &["cloud"][..], false, false, "cloud", Ok(())),
            (Route::OnPrem, &["cloud"], false, true, "cloud", Ok(())),
            (Route::Cloud, &["cloud"], false, true, "cloud", Err(Denied::NeverCloud)),
            (Route::Edge, &["edge", "cloud"], false, false, "cloud", denied),
            (Route::Edge, &["edge"], false, false, "cloud", denied),
            (Route::Refuse, &["cloud"], false, false, "cloud", denied),
            (Route::Cloud, &["cloud"], false, false, "other", denied),
            (Route::Cloud, &["cloud"], true, false, "cloud", Err(Denied::NotRedacted)),
        ] {
            let recorded = Recorded::for_test(&UpstreamId::new(recorded_for));
            let decision = decision(route, allowed, redact, never_cloud);
            let within = AddressRanges::default();
            let got = EgressPermit::mint(&decision, &cloud, &body, &recorded, within).map(|_| ());
            assert_eq!(got, expected, "{route:?} {allowed:?}");
        }
    }

    #[test]
    fn a_permit_carries_exactly_the_sealed_bytes() {
        let cloud = UpstreamId::new("cloud");
        let body = sealed(b"{\"a\":1}");
        let recorded = Recorded::for_test(&cloud);
        let decision = decision(Route::Cloud, &["cloud"], false, false);
        let within = AddressRanges::default();
        let permit = EgressPermit::mint(&decision, &cloud, &body, &recorded, within).ok().unwrap();
        let (upstream, errand, bytes, _) = permit.spend();
        assert_eq!((upstream, &bytes[..]), (cloud, &b"{\"a\":1}"[..]));
        assert_eq!(errand.endpoint, Some(Endpoint::Completions));
        assert_eq!(errand.uri, "https://a.example/v1/completions");
    }
}
