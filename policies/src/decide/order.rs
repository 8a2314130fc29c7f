//! In which order the allowed upstreams are asked.
//!
//! What the client wishes for comes before what the site prefers for simple or complex work, and that
//! before what the latency class prefers. None of them puts an upstream first that is down, too slow or
//! below the demanded quality, and none adds one.

use super::Candidate;
use crate::decision::{Facts, Quality, Zone};
use crate::latency::{LatencyClass, rank};
use crate::policy_set::PolicySet;
use crate::wish::Wish;

/// What orders the allowed upstreams of one request.
pub(super) struct Order<'a> {
    pub(super) latency: &'a LatencyClass,
    wish: Option<Wish>,
    zones: &'a [Zone],
    offline: bool,
    /// What ordered them, where that is not the latency class.
    pub(super) note: Option<String>,
}

impl PolicySet {
    /// The order for a request. Never-cloud text has no choice that its complexity could make.
    pub(super) fn order<'a>(
        &'a self,
        never_cloud: bool,
        latency: &'a LatencyClass,
        facts: &Facts,
    ) -> Order<'a> {
        let wish = facts.request.wish.filter(|wish| matches!(wish, Wish::Fast | Wish::Best));
        let complexity = facts.request.complexity.filter(|_| !never_cloud && wish.is_none());
        let by_work = complexity.and_then(|c| Some((c, self.complexity.order(c)?)));
        let note = match (wish, by_work) {
            (Some(wish), _) => Some(format!("asked for {}", wish.in_words())),
            (None, Some((complexity, _))) => Some(format!("{} work", complexity.in_words())),
            (None, None) => None,
        };
        let zones = by_work.map_or(latency.prefers.as_slice(), |(_, zones)| zones);
        Order { latency, wish, zones, offline: facts.offline.is_some(), note }
    }
}

impl Order<'_> {
    /// Healthy, fast enough and good enough first, then by wish and preference.
    ///
    /// Without a network the edge comes first: an upstream on the premises may be gone too.
    pub(super) fn key(&self, candidate: &Candidate<'_>) -> (bool, bool, bool, u64, usize) {
        let (facts, zone) = (candidate.facts, candidate.standing.zone);
        let by_wish = match self.wish {
            // Who was never measured is tried, or nobody would ever know.
            Some(Wish::Fast) => facts.first_token_ms.or(facts.begins_ms).unwrap_or(0),
            Some(Wish::Best) => worse_than_best(candidate),
            _ => 0,
        };
        let rank = if self.offline && zone == Zone::Edge { 0 } else { 1 + rank(self.zones, zone) };
        (!facts.healthy, self.latency.is_missed_by(facts), candidate.waived, by_wish, rank)
    }
}

/// Steps below the best quality: the vouched one, or what the platform claims where nobody vouches.
fn worse_than_best(candidate: &Candidate<'_>) -> u64 {
    let standing = &candidate.standing;
    let claimed =
        candidate.facts.quality.filter(|_| !standing.vouched && standing.zone != Zone::Edge);
    match claimed.unwrap_or(standing.quality) {
        Quality::Approved => 0,
        Quality::General => 1,
        Quality::Demo => 2,
    }
}
