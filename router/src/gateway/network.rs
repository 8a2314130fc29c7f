//! Whether there is a network: declared away by a person, or found away by the breakers.
//!
//! Three causes, and each says how it ends. A person's word holds until a person takes it back, whatever
//! the breakers see: a ward that was told to keep everything here must not open again because a cable was
//! plugged in. Failing upstreams are probed by requests that policy would send there anyway (`breaker`);
//! the first that answers ends it. A gateway without network upstreams has none for good.
//!
//! Invariants: every change is in the log with its cause, and counted; no probe contacts anything on its
//! own, so nothing reaches a network without a decision, a record and a permit. Not here: what being
//! offline means for a request (`policies` decides), who may declare it (the admin listener).

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use jiff::Timestamp;

use crate::breaker::Health;
use crate::metrics::Metrics;
use crate::upstream::Upstream;

/// Longest cause or name that is kept, characters.
const WORDS_MAX: usize = 200;
/// Who declares what stands in `sluice.yaml`.
const CONFIG: &str = "the config";

/// A person's word that there is no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Why, in the person's words.
    pub cause: String,
    /// Who said it.
    pub who: String,
    /// Since when.
    pub since: Timestamp,
}

impl Declared {
    /// Whether it is the config's word, and not a person's.
    pub(super) fn is_of_config(&self) -> bool {
        self.who == CONFIG
    }
}

/// Why there is no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offline {
    /// A person said so; a person ends it.
    Declared(Declared),
    /// Every network upstream is failing; one that answers ends it.
    Failing,
    /// The config has no network upstream.
    NoUpstream,
}

impl Offline {
    /// The word of metrics and headers.
    pub fn word(&self) -> &'static str {
        match self {
            Offline::Declared(_) => "declared",
            Offline::Failing => "failing",
            Offline::NoUpstream => "no_upstream",
        }
    }

    /// What `x-sluice-offline` says; a gateway that never had a network says nothing.
    pub fn header(&self) -> Option<&'static str> {
        (*self != Offline::NoUpstream).then(|| self.word())
    }

    /// The sentence of `/readyz` and of the facts on record.
    pub fn in_words(&self) -> String {
        match self {
            Offline::Declared(declared) if declared.is_of_config() => {
                "declared in the config".to_owned()
            }
            Offline::Declared(Declared { cause, who, .. }) => format!("declared by {who}: {cause}"),
            Offline::Failing => "every network upstream is failing".to_owned(),
            Offline::NoUpstream => "no network upstream is configured".to_owned(),
        }
    }
}

/// What is declared, and what was told last.
pub(super) struct Network {
    declared: RwLock<Option<Declared>>,
    told: Mutex<Option<Offline>>,
}

impl Network {
    /// The state that the config begins with.
    pub(super) fn new(declared: bool) -> Network {
        let declared = declared.then(|| Declared {
            cause: "declared in the config".to_owned(),
            who: CONFIG.to_owned(),
            since: Timestamp::now(),
        });
        Network { declared: RwLock::new(declared), told: Mutex::default() }
    }

    /// Takes a person's word. A second word replaces the first, who and why included.
    pub(super) fn declare(&self, cause: &str, who: &str) {
        let (cause, who) = (plain(cause), plain(who));
        tracing::warn!(who, cause, "network was declared away");
        let declared = Declared { cause, who, since: Timestamp::now() };
        *self.declared.write().unwrap_or_else(PoisonError::into_inner) = Some(declared);
    }

    /// Holds on to what a person said to the gateway of an earlier config.
    pub(super) fn keep(&self, declared: Declared) {
        *self.declared.write().unwrap_or_else(PoisonError::into_inner) = Some(declared);
    }

    /// Takes it back; gives back what was declared, if anything was.
    pub(super) fn resume(&self, who: &str) -> Option<Declared> {
        let mut declared = self.declared.write().unwrap_or_else(PoisonError::into_inner);
        let ended = declared.take();
        drop(declared);
        if let Some(ended) = &ended {
            let who = plain(who);
            tracing::warn!(
                who,
                declared_by = ended.who,
                cause = ended.cause,
                "network was resumed"
            );
        }
        ended
    }

    /// The state now.
    pub(super) fn state(&self, upstreams: &[Upstream]) -> Option<Offline> {
        let declared = self.declared.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(declared) = declared {
            return Some(Offline::Declared(declared));
        }
        let mut servers = upstreams.iter().filter(|u| matches!(u, Upstream::Server(_))).peekable();
        if servers.peek().is_none() {
            return Some(Offline::NoUpstream);
        }
        servers.all(|upstream| !upstream.is_healthy()).then_some(Offline::Failing)
    }

    /// Logs and counts a change since the last look.
    pub(super) fn observe(&self, now: Option<&Offline>, metrics: &Metrics) {
        let mut told = self.told();
        if told.as_ref() == now {
            return;
        }
        let before = told.as_ref().map_or("online", Offline::word);
        let after = now.map_or("online", Offline::word);
        metrics.network_changed(after);
        match now {
            Some(Offline::NoUpstream) => tracing::info!(before, after, "no network was configured"),
            Some(cause) => {
                tracing::warn!(before, after, cause = cause.in_words(), "network went away");
            }
            None => tracing::info!(before, after, "network came back"),
        }
        *told = now.cloned();
    }

    fn told(&self) -> MutexGuard<'_, Option<Offline>> {
        // A state is replaced as a whole.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `/metrics` shows of each network upstream's breaker.
pub(super) fn breakers(upstreams: &[Upstream]) -> Vec<(&str, Health)> {
    let servers = upstreams.iter().filter_map(Upstream::server);
    servers.map(|server| (server.id().as_str(), server.breaker.health())).collect()
}

/// A person's words on one line of bounded length.
fn plain(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_word_holds_until_a_person_takes_it_back() {
        let (network, metrics) = (Network::new(false), Metrics::new());
        let look = || {
            let state = network.state(&[]);
            network.observe(state.as_ref(), &metrics);
            state.map(|offline| (offline.word(), offline.in_words()))
        };
        let nobody = ("no_upstream", "no network upstream is configured".to_owned());
        assert_eq!(look(), Some(nobody.clone()));
        network.declare("drill\nof the\tward", "mara");
        let drill = ("declared", "declared by mara: drill of the ward".to_owned());
        assert_eq!(look(), Some(drill.clone()));
        assert_eq!(look(), Some(drill));
        assert_eq!(network.resume("ivo").map(|ended| ended.who).as_deref(), Some("mara"));
        assert_eq!(look(), Some(nobody));
        assert_eq!(network.resume("ivo"), None, "there is nothing to take back");
        let shown = metrics.render_at_start();
        for line in [
            r#"sluice_network_changes_total{to="declared"} 1"#,
            r#"sluice_network_changes_total{to="no_upstream"} 2"#,
        ] {
            assert!(shown.contains(line), "{line} is missing in:\n{shown}");
        }
    }

    #[test]
    fn what_the_config_declares_is_resumed_by_a_person_too() {
        let network = Network::new(true);
        let words = |network: &Network| network.state(&[]).map(|offline| offline.in_words());
        assert_eq!(words(&network).as_deref(), Some("declared in the config"));
        assert!(network.resume("mara").is_some());
        assert_eq!(words(&network).as_deref(), Some("no network upstream is configured"));
    }

    #[test]
    fn a_persons_word_goes_on_under_another_config_whatever_the_old_one_declared() {
        let (before, after) = (Network::new(true), Network::new(false));
        let declared = |network: &Network| match network.state(&[]) {
            Some(Offline::Declared(declared)) => Some(declared),
            _ => None,
        };
        assert!(declared(&before).unwrap().is_of_config());
        before.declare("drill", "mara");
        let word = declared(&before).filter(|word| !word.is_of_config()).unwrap();
        after.keep(word.clone());
        assert_eq!(declared(&after), Some(word));
    }

    #[test]
    fn words_are_bounded() {
        let network = Network::new(false);
        network.declare(&"x".repeat(10_000), "mara");
        let ended = network.resume("mara").unwrap();
        assert_eq!(ended.cause.len(), WORDS_MAX);
    }
}
