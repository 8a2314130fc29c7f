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
//!     endpoint: sluice_policies::Endpoint::Chat,
//!     body: Default::default(),
//! };
//! ```
//! ```compile_fail,E0599
//! fn copy(permit: sluice::permit::EgressPermit) -> sluice::permit::EgressPermit {
//!     permit.clone()
//! }
//! ```

use bytes::Bytes;
use sluice_policies::{Decision, Endpoint, Route};

use crate::audit::Recorded;
use crate::upstream::UpstreamId;

/// The serialised bytes of a translated request, and what they ask for: exactly these are sent.
pub struct OutboundBody {
    bytes: Bytes,
    endpoint: Endpoint,
}

impl OutboundBody {
    /// Seals bytes that are ready to send.
    pub(crate) fn seal(bytes: Vec<u8>, endpoint: Endpoint) -> OutboundBody {
        OutboundBody { bytes: bytes.into(), endpoint }
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
    endpoint: Endpoint,
    body: Bytes,
}

impl EgressPermit {
    /// Mints a permit, if `decision` chose `upstream` and the attempt is on record.
    ///
    /// A fallback needs a decision of its own, whose choice is the fallback; so the route and the
    /// reasons on record are always those of the upstream that gets the bytes. `recorded` proves the
    /// record: only the audit log makes one, after the line was written.
    pub fn mint(
        decision: &Decision,
        upstream: &UpstreamId,
        body: &OutboundBody,
        recorded: &Recorded,
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
        let (endpoint, body) = (body.endpoint, body.bytes.clone());
        Ok(EgressPermit { upstream: upstream.clone(), endpoint, body })
    }

    /// Spends the permit: where to send, what it asks for, and the bytes.
    pub(crate) fn spend(self) -> (UpstreamId, Endpoint, Bytes) {
        (self.upstream, self.endpoint, self.body)
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

    #[test]
    fn mints_only_what_the_decision_and_the_record_name() {
        let body = OutboundBody::seal(b"{}".to_vec(), Endpoint::Chat);
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
            let got = EgressPermit::mint(&decision, &cloud, &body, &recorded).map(|_| ());
            assert_eq!(got, expected, "{route:?} {allowed:?}");
        }
    }

    #[test]
    fn a_permit_carries_exactly_the_sealed_bytes() {
        let cloud = UpstreamId::new("cloud");
        let body = OutboundBody::seal(b"{\"a\":1}".to_vec(), Endpoint::Completions);
        let recorded = Recorded::for_test(&cloud);
        let decision = decision(Route::Cloud, &["cloud"], false, false);
        let permit = EgressPermit::mint(&decision, &cloud, &body, &recorded).ok().unwrap();
        let (upstream, endpoint, bytes) = permit.spend();
        let expected = (cloud, Endpoint::Completions, &b"{\"a\":1}"[..]);
        assert_eq!((upstream, endpoint, &bytes[..]), expected);
    }
}
