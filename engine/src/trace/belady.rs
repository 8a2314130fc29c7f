//! The fewest reads that any cache could do that knew the future: the limit for all policies.
//!
//! On a miss the expert goes whose next use is farthest, or the newcomer is not kept if its own is.
//! Source: Belady, "A study of replacement algorithms for virtual-storage computer" (1966), with bypass.

use std::collections::BTreeSet;

use super::Trace;

/// Never used again.
const NEVER: u32 = u32::MAX;

/// Look-ups of visits of one row that hit, all of them, and all reads, with room for `slots` experts.
pub(super) struct Limit {
    pub(super) decode_hits: u64,
    pub(super) decode_uses: u64,
    pub(super) reads: u64,
    pub(super) uses: u64,
}

pub(super) fn limit(trace: &Trace, slots: usize) -> Limit {
    let first = trace.first_numbers();
    let next = next_uses(trace, &first);
    let mut here: BTreeSet<(u32, u32)> = BTreeSet::new();
    // When each expert is used next, if it is here.
    let mut due = vec![None; trace.experts()];
    let mut out = Limit { decode_hits: 0, decode_uses: 0, reads: 0, uses: 0 };
    for (visit, next) in trace.visits.iter().zip(&next) {
        for ((expert, _), next) in visit.2.iter().zip(next) {
            let number = first[visit.0 as usize] + expert;
            let old: Option<u32> = due[number as usize].take();
            let hit = old.is_some_and(|due| here.remove(&(due, number)));
            out.uses += 1;
            out.reads += u64::from(!hit);
            if visit.1 == 1 {
                out.decode_uses += 1;
                out.decode_hits += u64::from(hit);
            }
            if here.len() == slots {
                match here.last().copied() {
                    Some((farthest, victim)) if farthest > *next => {
                        here.remove(&(farthest, victim));
                        due[victim as usize] = None;
                    }
                    _ => continue,
                }
            }
            here.insert((*next, number));
            due[number as usize] = Some(*next);
        }
    }
    out
}

/// For each use the number of the visit that uses the expert next.
fn next_uses(trace: &Trace, first: &[u32]) -> Vec<Vec<u32>> {
    let mut coming = vec![NEVER; trace.experts()];
    let mut all: Vec<Vec<u32>> = Vec::with_capacity(trace.visits.len());
    for (index, visit) in trace.visits.iter().enumerate().rev() {
        let next = |(expert, _): &(u32, u32)| {
            let number = (first[visit.0 as usize] + expert) as usize;
            std::mem::replace(&mut coming[number], index as u32)
        };
        all.push(visit.2.iter().map(next).collect());
    }
    all.reverse();
    all
}
