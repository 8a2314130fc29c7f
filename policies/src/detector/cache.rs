//! Remembers what texts held, so that the earlier turns of a conversation are not scanned again.
//!
//! Clients send the whole conversation with every turn. A text is known by a keyed digest of itself,
//! of the policies that scanned it and of a scope that the caller chooses (the tenant), so that an
//! entry of one scope answers nobody else; the text is not kept, only what was found and where. Joined
//! texts are known by the digests of those that were joined.
//!
//! Invariants: a hit gives exactly what a scan would give; memory stays below the budget; nothing
//! incomplete or failed is remembered. Two generations: when the young one is full it becomes the
//! old one, whose unused entries are forgotten with it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use super::Found;
use super::lexicon::AlreadyHashed;
use crate::normalize::Budget;

/// Results of earlier scans.
pub struct ScanCache {
    key: [u8; 32],
    /// Bytes of one generation.
    bytes_max: usize,
    generations: Mutex<Generations>,
}

/// A cache as one caller may use it.
#[derive(Clone, Copy)]
pub struct ScanMemory<'a> {
    /// Where results are kept.
    pub cache: &'a ScanCache,
    /// Results are found again in the same scope only: the tenant.
    pub scope: &'a str,
}

/// What a text, or texts that were joined, are known by: keyed BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest([u8; 32]);

impl Hash for Digest {
    /// Nobody outside knows the key, so that nobody can choose what falls together.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let first = self.0.first_chunk().expect("a digest has more than eight bytes");
        state.write_u64(u64::from_le_bytes(*first));
    }
}

type Known = HashMap<Digest, Arc<Remembered>, BuildHasherDefault<AlreadyHashed>>;

#[derive(Default)]
struct Generations {
    young: Known,
    old: Known,
    young_bytes: usize,
}

/// What the scan of one text gave.
pub(super) struct Remembered {
    pub(super) found: Found,
    /// What its views took of the request's budget.
    view_bytes: usize,
}

impl ScanCache {
    /// A cache that takes about `bytes_max` bytes; `key` must be random and secret.
    pub fn new(bytes_max: usize, key: &[u8; 32]) -> ScanCache {
        ScanCache { key: *key, bytes_max: bytes_max / 2, generations: Mutex::default() }
    }

    /// How many texts are known.
    pub fn known(&self) -> usize {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.len() + generations.old.len()
    }

    fn digest(&self, scope: &str, policy: &str, text: &str) -> Digest {
        self.digest_of(scope, policy, "", |digest| {
            digest.update(text.as_bytes());
        })
    }

    /// The digest of something of a kind, of which all bytes are to be added.
    fn digest_of(
        &self,
        scope: &str,
        policy: &str,
        kind: &str,
        add: impl FnOnce(&mut blake3::Hasher),
    ) -> Digest {
        let mut digest = blake3::Hasher::new_keyed(&self.key);
        for part in [scope, policy, kind] {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        }
        add(&mut digest);
        Digest(*digest.finalize().as_bytes())
    }

    fn get(&self, digest: &Digest) -> Option<Arc<Remembered>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = generations.young.get(digest) {
            return Some(known.clone());
        }
        let known = generations.old.remove(digest)?;
        generations.put(*digest, known.clone(), self.bytes_max);
        Some(known)
    }

    fn put(&self, digest: Digest, remembered: Arc<Remembered>) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.put(digest, remembered, self.bytes_max);
    }
}

impl Generations {
    fn put(&mut self, digest: Digest, remembered: Arc<Remembered>, bytes_max: usize) {
        let bytes = remembered.bytes();
        if bytes > bytes_max {
            return;
        }
        if self.young_bytes + bytes > bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(digest, remembered).is_none() {
            self.young_bytes += bytes;
        }
    }
}

impl Remembered {
    /// With the maps' share.
    fn bytes(&self) -> usize {
        size_of::<Remembered>() + 96 + self.found.bytes()
    }
}

impl ScanMemory<'_> {
    /// What a text is known by, be it as short as the name of a model: that comes with every request.
    pub(super) fn digest(self, policy: &str, text: &str) -> Digest {
        self.cache.digest(self.scope, policy, text)
    }

    /// What joined texts are known by: how they were joined, and each by its own digest, so that no text is
    /// digested twice.
    pub(super) fn digest_of_joined(
        self,
        policy: &str,
        how: &str,
        texts: impl Iterator<Item = Digest>,
    ) -> Digest {
        self.cache.digest_of(self.scope, policy, how, |digest| {
            texts.for_each(|Digest(text)| {
                digest.update(&text);
            });
        })
    }
}

/// Scans through a cache: `scan` runs for what is not known by its digest.
pub(super) fn through(
    memory: Option<(ScanMemory<'_>, Digest)>,
    budget: &mut Budget,
    failed: &mut Vec<String>,
    scan: impl FnOnce(&mut Budget, &mut Vec<String>) -> Found,
) -> Arc<Remembered> {
    if let Some((ScanMemory { cache, .. }, digest)) = &memory
        && let Some(known) = cache.get(digest)
        && budget.left() >= known.view_bytes
    {
        budget.take(known.view_bytes);
        return known;
    }
    let (left, failures) = (budget.left(), failed.len());
    let found = scan(budget, failed);
    let remembered = Arc::new(Remembered { found, view_bytes: left - budget.left() });
    if let Some((ScanMemory { cache, .. }, digest)) = memory
        && !budget.exceeded
        && failed.len() == failures
    {
        cache.put(digest, remembered.clone());
    }
    remembered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PolicySet, Prompt, Role, Text};

    fn conversation(turns: usize) -> Prompt {
        let said = |i: usize| match i % 3 {
            0 => {
                format!("Turn {i}: the patient Anna Huber, MRN 0048{i:03}, has sepsis and a fever.")
            }
            1 => "Thank you for the summary; I have added it to the chart of the ward.".to_owned(),
            _ => format!("Write to anna.huber@posteo.de about card 4539 5787 6362 1486, turn {i}."),
        };
        let texts = (0..turns).map(|i| Text {
            place: format!("messages[{i}].content"),
            message: Some(i),
            role: if i % 2 == 0 { Role::User } else { Role::Assistant },
            text: said(i),
        });
        Prompt { texts: texts.collect(), ..Prompt::default() }
    }

    #[test]
    fn a_remembered_scan_gives_what_a_scan_gives() {
        let set = PolicySet::shipped().expect("the shipped policies are valid");
        let cache = ScanCache::new(1 << 20, &[7; 32]);
        let memory = ScanMemory { cache: &cache, scope: "ward" };
        for turns in [1, 2, 3, 9, 9, 70, 71] {
            let prompt = conversation(turns);
            let (fresh, known) = (set.classify(&prompt), set.classify_with(&prompt, memory));
            assert_eq!(fresh.findings, known.findings, "{turns} turns");
            assert_eq!((fresh.class, fresh.rules), (known.class, known.rules));
        }
    }

    #[test]
    fn another_scope_or_policy_finds_nothing() {
        let cache = ScanCache::new(1 << 20, &[7; 32]);
        let digests = [
            cache.digest("a", "p", "text"),
            cache.digest("b", "p", "text"),
            cache.digest("a", "q", "text"),
            cache.digest("a", "", "ptext"),
            ScanCache::new(1 << 20, &[8; 32]).digest("a", "p", "text"),
        ];
        for (i, digest) in digests.iter().enumerate() {
            assert!(!digests[..i].contains(digest), "{i}");
        }
    }

    #[test]
    fn memory_stays_below_the_budget() {
        let bytes_max = 64 << 10;
        let cache = ScanCache::new(bytes_max, &[7; 32]);
        for n in 0..10_000u32 {
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&n.to_le_bytes());
            let digest = Digest(digest);
            cache.put(digest, Arc::new(Remembered { found: Found::default(), view_bytes: 0 }));
            let generations = cache.generations.lock().unwrap();
            let all = generations.young.values().chain(generations.old.values());
            assert!(all.map(|r| r.bytes()).sum::<usize>() <= bytes_max);
        }
        assert!(cache.get(&Digest([0; 32])).is_none(), "the first is long forgotten");
    }
}
