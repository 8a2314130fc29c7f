//! What a class or a label demands of an upstream, and what an upstream has to offer.
//!
//! Demands only ever narrow: every class and label that a request reached must be content, so demands
//! intersect and an empty intersection refuses. One `goes_to` may list alternatives (the edge, or a
//! cloud that keeps nothing), of which one is enough.
//!
//! Quality is judged apart from the place: a poor answer is a nuisance that a site may accept, text in
//! the wrong place is a breach that nobody can accept.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::decision::{Quality, Zone};
use crate::yaml::List;

/// Where text of a class or label may go.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum GoesTo {
    /// No demand.
    #[default]
    Anywhere,
    /// Not even the edge may see it.
    Nowhere,
    /// One of these must be met.
    OneOf(Vec<Demand>),
}

/// Properties that an upstream must have, all of them.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Demand {
    /// Zones that will do; empty means any.
    pub(crate) zone: List<Zone>,
    /// Regions that will do; empty means any.
    pub(crate) region: List<String>,
    /// A business associate agreement is needed.
    pub(crate) baa: bool,
    /// Nothing may be kept after the reply.
    pub(crate) zero_retention: bool,
    /// The least quality.
    pub(crate) quality: Option<Quality>,
}

/// What an upstream has to offer, vouches counted in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands; `cloud` without a vouch.
    pub zone: Zone,
    /// Region that compliance vouches for.
    pub region: Option<String>,
    /// A business associate agreement exists.
    pub baa: bool,
    /// It keeps nothing after the reply.
    pub zero_retention: bool,
    /// Quality of its answers; `demo` when nobody vouches for more.
    pub quality: Quality,
    /// A vouch in force agrees with its address.
    pub vouched: bool,
}

impl GoesTo {
    /// The upstream's place will do.
    pub(crate) fn place_met_by(&self, upstream: &Standing) -> bool {
        match self {
            GoesTo::Anywhere => true,
            GoesTo::Nowhere => false,
            GoesTo::OneOf(demands) => demands.iter().any(|demand| demand.place_met_by(upstream)),
        }
    }

    /// The upstream's place and quality will do, by the same alternative.
    pub(crate) fn met_by(&self, upstream: &Standing) -> bool {
        match self {
            GoesTo::Anywhere => true,
            GoesTo::Nowhere => false,
            GoesTo::OneOf(demands) => demands.iter().any(|demand| {
                demand.place_met_by(upstream)
                    && demand.quality.is_none_or(|least| upstream.quality >= least)
            }),
        }
    }
}

impl Demand {
    fn place_met_by(&self, upstream: &Standing) -> bool {
        let List(zones) = &self.zone;
        let List(regions) = &self.region;
        // Text that stays in the house needs no contract about what others do with it.
        let at_home = upstream.zone != Zone::Cloud;
        let region_met = match &upstream.region {
            Some(region) => regions.iter().any(|wanted| wanted == region),
            None => at_home,
        };
        (zones.is_empty() || zones.contains(&upstream.zone))
            && (regions.is_empty() || region_met)
            && (!self.baa || upstream.baa || at_home)
            && (!self.zero_retention || upstream.zero_retention || at_home)
    }
}

impl fmt::Display for GoesTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GoesTo::Anywhere => f.write_str("anywhere"),
            GoesTo::Nowhere => f.write_str("nowhere, not even to the edge"),
            GoesTo::OneOf(demands) => {
                let words: Vec<String> = demands.iter().map(Demand::to_string).collect();
                f.write_str(&words.join("; or "))
            }
        }
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zones: Vec<&str> = self.zone.0.iter().map(|zone| zone.in_words()).collect();
        match zones.is_empty() {
            true => f.write_str("anywhere")?,
            false => f.write_str(&zones.join(" or "))?,
        }
        let mut extras = Vec::new();
        if !self.region.0.is_empty() {
            extras.push(format!("in region {}", self.region.0.join(" or ")));
        }
        if self.baa {
            extras.push("with a business associate agreement".to_owned());
        }
        if self.zero_retention {
            extras.push("with zero retention".to_owned());
        }
        if let Some(quality) = self.quality {
            extras.push(format!("of quality {} or better", quality.in_words()));
        }
        extras.iter().try_for_each(|extra| write!(f, " {extra}"))
    }
}

impl<'de> Deserialize<'de> for GoesTo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GoesToVisitor)
    }
}

struct GoesToVisitor;

impl<'de> Visitor<'de> for GoesToVisitor {
    type Value = GoesTo;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anywhere, nowhere, or a demand such as {zone: [edge, on_prem]}")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<GoesTo, E> {
        match word {
            "anywhere" => Ok(GoesTo::Anywhere),
            "nowhere" => Ok(GoesTo::Nowhere),
            _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<GoesTo, A::Error> {
        Demand::deserialize(MapAccessDeserializer::new(map))
            .map(|demand| GoesTo::OneOf(vec![demand]))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<GoesTo, A::Error> {
        let demands: Vec<Demand> = Vec::deserialize(SeqAccessDeserializer::new(items))?;
        if demands.is_empty() {
            return Err(de::Error::custom("expected at least one demand; write nowhere to refuse"));
        }
        Ok(GoesTo::OneOf(demands))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud() -> Standing {
        Standing {
            zone: Zone::Cloud,
            region: Some("eu".to_owned()),
            baa: false,
            zero_retention: true,
            quality: Quality::General,
            vouched: true,
        }
    }

    fn demand(change: impl Fn(&mut Demand)) -> GoesTo {
        let mut demand = Demand::default();
        change(&mut demand);
        GoesTo::OneOf(vec![demand])
    }

    #[test]
    fn every_property_of_a_demand_must_hold() {
        let edge = Standing { zone: Zone::Edge, region: None, ..cloud() };
        let cases = [
            (demand(|_| ()), true, true),
            (demand(|d| d.zone = List(vec![Zone::Edge, Zone::OnPrem])), false, true),
            (demand(|d| d.region = List(vec!["eu".into()])), true, true),
            (demand(|d| d.region = List(vec!["us".into()])), false, true),
            (demand(|d| d.baa = true), false, true),
            (demand(|d| d.zero_retention = true), true, true),
            (demand(|d| d.quality = Some(Quality::Approved)), false, false),
            (GoesTo::Nowhere, false, false),
            (GoesTo::Anywhere, true, true),
        ];
        for (goes_to, on_cloud, on_edge) in cases {
            assert_eq!(goes_to.met_by(&cloud()), on_cloud, "cloud: {goes_to}");
            assert_eq!(goes_to.met_by(&edge), on_edge, "edge: {goes_to}");
        }
    }
}
