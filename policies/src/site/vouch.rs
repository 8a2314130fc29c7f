//! Vouches: what compliance says about an upstream, bound to its address.
//!
//! The platform team writes addresses, compliance writes what stands behind them. A vouch counts only
//! while scheme, host and port in both agree and its last day has not passed; otherwise the upstream
//! is an unknown cloud. Where several vouches speak of one upstream, the worst of each property counts.

use jiff::civil::Date;

use super::VouchSpec;
use crate::decision::{Quality, UpstreamFacts, Zone};
use crate::demand::Standing;
use crate::yaml::{At, Complaint};

/// What compliance vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouch {
    /// Name of the upstream in the platform team's config.
    pub upstream: String,
    /// Contract or assessment behind it.
    pub contract: String,
    /// Who vouches.
    pub owner: String,
    /// Last day on which it counts.
    pub expires: Date,
    /// For `on_prem`: the networks that the name may resolve to, as `10.0.0.0/8`.
    pub address_ranges: Vec<String>,
    /// `None` for the edge.
    pub(crate) address: Option<Address>,
    pub(crate) standing: Standing,
    /// Line in the site file.
    pub(crate) line: u32,
}

/// Scheme, host and port: what a vouch is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// Reads `https://host[:port]`, without a path.
    fn parse(text: &str) -> Option<Address> {
        let (scheme, rest) = text.split_once("://")?;
        let default_port = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            // The colons of a bare IPv6 address are inside its brackets.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (rest, default_port),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return None;
        }
        Some(Address { scheme: scheme.to_owned(), host: normal_host(host), port })
    }

    fn is_of(&self, upstream: &UpstreamFacts) -> bool {
        self.scheme.eq_ignore_ascii_case(&upstream.scheme)
            && self.host == normal_host(&upstream.host)
            && self.port == upstream.port
    }
}

fn normal_host(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase()
}

impl Vouch {
    pub(crate) fn compile(spec: &At<VouchSpec>) -> Result<Vouch, Complaint> {
        let given = &spec.value;
        let zone = match (given.zone, &given.address) {
            (Some(Zone::Edge) | None, None) => Zone::Edge,
            (Some(Zone::Edge), Some(address)) => {
                let hint = "a server on your premises is zone: on_prem".to_owned();
                let message = "the edge is the engine in this process and has no address";
                return Err(address.complaint(message, Some(hint)));
            }
            (Some(zone), Some(_)) => zone,
            (None, Some(_)) => Zone::Cloud,
            (Some(_), None) => {
                let hint = "add address: https://host:port, as it stands in sluice.yaml".to_owned();
                return Err(spec.complaint("a vouch is bound to an address", Some(hint)));
            }
        };
        if zone == Zone::OnPrem && !given.does_not_forward {
            let hint = "add does_not_forward: true if that is so; otherwise it is zone: cloud";
            let message = "an on_prem vouch must say that the server asks no other machine";
            return Err(spec.complaint(message, Some(hint.to_owned())));
        }
        Ok(Vouch {
            upstream: given.upstream.clone(),
            contract: given.contract.clone(),
            owner: given.owner.clone(),
            expires: given.expires,
            address_ranges: compile_ranges(given)?,
            address: given.address.as_ref().map(compile_address).transpose()?,
            standing: Standing {
                zone,
                region: given.region.clone(),
                baa: given.baa,
                zero_retention: given.zero_retention,
                quality: given.quality.unwrap_or(Quality::General),
                vouched: true,
            },
            line: spec.line,
        })
    }

    /// The vouch speaks of this upstream and counts on that day.
    fn counts_for(&self, upstream: &UpstreamFacts, today: Date) -> bool {
        let same_place = match &self.address {
            Some(address) => !upstream.edge && address.is_of(upstream),
            None => upstream.edge,
        };
        self.upstream == upstream.id && same_place && today <= self.expires
    }
}

fn compile_address(given: &At<String>) -> Result<Address, Complaint> {
    Address::parse(&given.value).ok_or_else(|| {
        let message =
            format!("expected an address such as https://host:443, got \"{}\"", given.value);
        given.complaint(
            message,
            Some("leave the path out: a vouch is for the whole host".to_owned()),
        )
    })
}

fn compile_ranges(given: &VouchSpec) -> Result<Vec<String>, Complaint> {
    let is_range = |text: &str| {
        let (address, bits) = text.split_once('/')?;
        let address: std::net::IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(())
    };
    let check = |range: &At<String>| match is_range(&range.value) {
        Some(()) => Ok(range.value.clone()),
        None => {
            let message = format!("expected a network such as 10.0.0.0/8, got \"{}\"", range.value);
            Err(range.complaint(message, None))
        }
    };
    given.address_ranges.0.iter().map(check).collect()
}

/// What an upstream has to offer on a day: the worst of all vouches that count for it.
pub(crate) fn standing(vouches: &[Vouch], upstream: &UpstreamFacts, today: Date) -> Standing {
    let counting = vouches.iter().filter(|vouch| vouch.counts_for(upstream, today));
    let vouched = counting.map(|vouch| vouch.standing.clone()).reduce(worse);
    match upstream.edge {
        true => edge_standing(vouched, upstream.quality),
        false => vouched.unwrap_or(UNKNOWN_CLOUD),
    }
}

/// A network upstream that nobody vouches for: the worst of everything.
const UNKNOWN_CLOUD: Standing = Standing {
    zone: Zone::Cloud,
    region: None,
    baa: false,
    zero_retention: false,
    quality: Quality::Demo,
    vouched: false,
};

/// The engine in this process: its place needs no vouch, a quality above `general` does, and a model
/// that calls itself a demonstration stays one.
fn edge_standing(vouched: Option<Standing>, declared: Option<Quality>) -> Standing {
    let quality = match (&vouched, declared) {
        (_, Some(Quality::Demo)) => Quality::Demo,
        (Some(standing), _) => standing.quality,
        (None, Some(declared)) => declared.min(Quality::General),
        (None, None) => Quality::Demo,
    };
    Standing {
        zone: Zone::Edge,
        region: None,
        baa: true,
        zero_retention: true,
        quality,
        vouched: vouched.is_some(),
    }
}

fn worse(a: Standing, b: Standing) -> Standing {
    Standing {
        zone: a.zone.max(b.zone),
        region: if a.region == b.region { a.region } else { None },
        baa: a.baa && b.baa,
        zero_retention: a.zero_retention && b.zero_retention,
        quality: a.quality.min(b.quality),
        vouched: true,
    }
}
