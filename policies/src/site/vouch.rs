//! Vouches: what compliance says about an upstream, bound to its address.
//!
//! The platform team writes addresses, compliance writes what stands behind them. A vouch counts only
//! while scheme, host and port in both agree and its last day has not passed; otherwise the upstream
//! is an unknown cloud. Where several vouches speak of one upstream, the worst of each property counts.

use std::fmt;
use std::net::IpAddr;

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
    /// The networks that the name may resolve to, as `10.0.0.0/8`; whoever connects holds to them
    /// ([`AddressRanges`]).
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

/// Where an upstream's name may lead: inside one network of every vouch that names any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressRanges {
    /// One list for each vouch.
    lists: Vec<Vec<Network>>,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads `10.0.0.0/8` or `fd00::/8`.
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Network { address, bits })
    }

    fn holds(&self, address: IpAddr) -> bool {
        let left = |width: u32| width.saturating_sub(u32::from(self.bits));
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(left(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(left(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl AddressRanges {
    /// Whether any address will do.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Whether a connection may go to an address; an IPv4 address in IPv6 clothes counts as itself.
    pub fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.lists.iter().all(|list| list.iter().any(|network| network.holds(address)))
    }
}

impl fmt::Display for AddressRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, list) in self.lists.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { "; and in " })?;
            for (number, network) in list.iter().enumerate() {
                f.write_str(if number == 0 { "" } else { ", " })?;
                write!(f, "{}/{}", network.address, network.bits)?;
            }
        }
        Ok(())
    }
}

/// The networks of all vouches that count for an upstream on a day.
pub(crate) fn ranges(vouches: &[Vouch], upstream: &UpstreamFacts, today: Date) -> AddressRanges {
    let counting = vouches
        .iter()
        .filter(|vouch| !vouch.address_ranges.is_empty() && vouch.counts_for(upstream, today));
    let networks = |vouch: &Vouch| {
        vouch.address_ranges.iter().filter_map(|range| Network::parse(range)).collect()
    };
    AddressRanges { lists: counting.map(networks).collect() }
}

fn compile_ranges(given: &VouchSpec) -> Result<Vec<String>, Complaint> {
    let check = |range: &At<String>| match Network::parse(&range.value) {
        Some(_) => Ok(range.value.clone()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(lists: &[&[&str]]) -> AddressRanges {
        let list = |list: &&[&str]| list.iter().map(|text| Network::parse(text).unwrap()).collect();
        AddressRanges { lists: lists.iter().map(list).collect() }
    }

    #[test]
    fn an_address_lies_in_a_network_of_every_vouch() {
        let ward: &[&str] = &["10.20.0.0/16", "fd00:1::/32"];
        for (lists, address, expected) in [
            (&[ward][..], "10.20.255.1", true),
            (&[ward], "10.21.0.1", false),
            (&[ward], "::ffff:10.20.0.9", true),
            (&[ward], "fd00:1:2::3", true),
            (&[ward], "fd00:2::3", false),
            (&[&["0.0.0.0/0"]], "203.0.113.9", true),
            (&[&["0.0.0.0/0"]], "fd00::1", false),
            (&[&["::/0"]], "fd00::1", true),
            (&[&["192.0.2.7/32"]], "192.0.2.7", true),
            (&[&["192.0.2.7/32"]], "192.0.2.6", false),
            (&[ward, &["10.0.0.0/8"]], "10.20.0.1", true),
            (&[ward, &["10.30.0.0/16"]], "10.20.0.1", false),
            (&[], "203.0.113.9", true),
        ] {
            let got = ranges(lists).holds(address.parse().unwrap());
            assert_eq!(got, expected, "{address} in {}", ranges(lists));
        }
    }
}
