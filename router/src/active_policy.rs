//! The policies in force: replaced as a whole while requests go on, or kept when new files are refused.
//!
//! A request takes the set once, at its start, and is decided by it to the end, fallbacks included. A
//! reload reads the files, runs their tests and the proof, compares the set with the one in force, and
//! swaps the pointer. If the files are broken, or loosen what nobody accepted to be loosened, the set
//! in force stays, and why is visible in the log, in `/readyz` and in the metrics until a reload
//! succeeds. The set in force is kept on disk and serves on after a restart.
//!
//! Invariants: a set is in force only if its tests passed and its step from the one before was let
//! through; without any such set there is no [`ActivePolicy`], and nothing is served. Where the config
//! switches the audit log off, no set is in force that holds a pack or a rule.

pub mod bundle;
pub mod candidate;
pub mod loosening;
pub mod origin;
pub mod state;
mod status;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use jiff::Timestamp;
use jiff::civil::Date;
use sluice_policies::PolicySet;

pub use status::{ActivationError, Refused};

use crate::config::{Config, PolicyFiles};
use crate::metrics::{Activation, Metrics};
use candidate::CandidateSlot;
use loosening::{Acceptance, Gate, Held, Missing, Step};
use origin::{Offered, Origin};
use state::{HistoryLine, StateError, StateFolder, StoredSet};

/// The set that decides now, where it came from, and what stands in the way of a newer one.
pub struct ActivePolicy {
    files: Files,
    in_force: RwLock<InForce>,
    refused: Mutex<Option<Arc<Refused>>>,
    /// Held during a reload: the watch, a signal and a start must not overtake each other.
    reloading: Mutex<()>,
    candidate: CandidateSlot,
    metrics: Arc<Metrics>,
}

/// Where sets come from and go to, and what they must pass.
pub struct Files {
    origin: Origin,
    gate: Gate,
    /// `None` in a trial without a config: nothing outlives the process.
    state: Option<StateFolder>,
    /// There is an audit log. Without one, no set may look for anything.
    is_recorded: bool,
}

/// The set in force.
#[derive(Clone)]
pub struct InForce {
    /// The set.
    pub set: Arc<PolicySet>,
    /// When it was put in force, before a restart if need be.
    pub since: Timestamp,
    /// Highest serial of a bundle that was ever put in force.
    pub serial: Option<u64>,
    /// It was kept on disk, and the present files have not been usable since the start.
    pub last_good: bool,
}

/// What was in force before.
enum Before {
    Nothing,
    /// It was kept, and what was kept cannot be used: why.
    Unreadable(String),
    Set {
        in_force: InForce,
        /// What this program's detectors loosen over its tests.
        program: Vec<String>,
    },
}

/// Today in UTC.
pub(crate) fn today() -> Date {
    Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date()
}

impl Files {
    /// What a config says.
    pub fn new(config: &Config) -> Files {
        let PolicyFiles { signatures, last_good, .. } = &config.policy;
        Files {
            origin: Origin::of(&config.policy),
            gate: Gate::new(config.mode, signatures.clone()),
            state: last_good.clone().map(StateFolder::new),
            is_recorded: !config.audit.off,
        }
    }

    /// Where sets come from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What a loosening must pass.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Where sets are kept.
    pub fn state(&self) -> Option<&StateFolder> {
        self.state.as_ref()
    }

    /// The step from the set that was put in force last to an offered one; `None` if none was before.
    pub fn step_to(&self, set: &PolicySet) -> Option<Step> {
        self.before().step_to(set)
    }

    fn before(&self) -> Before {
        match self.state.as_ref().map_or(Ok(None), StateFolder::active) {
            Ok(None) => Before::Nothing,
            Ok(Some(stored)) => Before::of(stored),
            Err(error) => Before::Unreadable(status::with_causes(&error)),
        }
    }

    /// Reads the files and lets the set pass, or says why not. Does not put it in force.
    fn offer(&self, before: &Before) -> Result<(Offered, Option<Step>), ActivationError> {
        let offered = self.origin.load(today())?;
        self.check_recorded(&offered.set)?;
        before.check_serial(&offered)?;
        let step = before.step_to(&offered.set);
        if let Some(step) = &step {
            self.pass(step)?;
        }
        Ok((offered, step))
    }

    /// What a set finds must be on record.
    fn check_recorded(&self, set: &PolicySet) -> Result<(), ActivationError> {
        let (packs, rules) = (set.packs().len(), set.rules().len());
        match self.is_recorded || packs + rules == 0 {
            true => Ok(()),
            false => Err(ActivationError::Unrecorded { packs, rules }),
        }
    }

    fn pass(&self, step: &Step) -> Result<(), ActivationError> {
        let acceptance = self.acceptance(step)?;
        self.gate.pass(step, acceptance.as_ref()).map_err(|held| {
            match (&self.state, &held.missing) {
                (None, Missing::Acceptance) => Held { missing: Missing::NoState, ..held }.into(),
                _ => held.into(),
            }
        })
    }

    /// The acceptance that waits for a step, if the step needs one.
    fn acceptance(&self, step: &Step) -> Result<Option<Acceptance>, StateError> {
        match &self.state {
            Some(state) if step.loosens() => state.acceptance(&step.to),
            _ => Ok(None),
        }
    }

    /// Keeps a set on disk and adds to the history.
    fn keep(&self, in_force: &InForce, step: Option<&Step>) -> Result<(), ActivationError> {
        let Some(state) = &self.state else { return Ok(()) };
        let InForce { set, since, serial, .. } = in_force;
        let acceptance = step.map_or(Ok(None), |step| self.acceptance(step))?;
        if step.is_none_or(|step| step.from != step.to || step.loosens()) {
            state.note(&HistoryLine {
                time: Timestamp::now(),
                from: step.map(|step| step.from.as_str()),
                to: set.digest(),
                program: env!("CARGO_PKG_VERSION"),
                detectors: PolicySet::built_in_revision(),
                loosened: step.map_or(&[], |step| &step.loosened),
                acceptance: acceptance.as_ref(),
            })?;
        }
        let (digest, files) = (set.digest().to_owned(), set.sources().to_vec());
        let (activated, serial, verdicts) = (*since, *serial, set.verdicts());
        state.store(&StoredSet { digest, activated, serial, verdicts, files })?;
        // It was for this step alone, and stands in the history now.
        if let Some(Err(error)) = acceptance.map(|used| state.withdraw(&used)) {
            tracing::warn!(%error, "a used acceptance of policies stays behind");
        }
        Ok(())
    }

    /// The files that decide what is in force, as far as they are known: of the origin, of the set in
    /// force, of the places where a refused one went wrong, and what approvals rest on.
    fn watched(&self, set: Option<&PolicySet>, refused: Option<&Refused>) -> Vec<PathBuf> {
        let sources = set.into_iter().flat_map(|set| set.sources()).map(|s| s.name.as_str());
        let wrong = refused.into_iter().flat_map(|refused| &refused.files).map(String::as_str);
        let mut files = self.origin.files(sources.chain(wrong));
        if refused.is_some() {
            // A missing file may appear, and then its folder changes.
            let folders = files.iter().filter_map(|file| file.parent()).map(Path::to_owned);
            files.extend(folders.collect::<Vec<_>>());
        }
        files.extend(self.state.as_ref().map(StateFolder::accepted));
        files.extend(self.gate.keys().cloned());
        files
    }
}

impl Before {
    /// Builds a kept set under this program.
    fn of(stored: StoredSet) -> Before {
        let StoredSet { activated: since, serial, verdicts, files, .. } = stored;
        match PolicySet::from_complete_sources(files) {
            Ok(set) => {
                let program = set.loosened_since(&verdicts);
                let set = Arc::new(set);
                let in_force = InForce { set, since, serial, last_good: true };
                Before::Set { in_force, program }
            }
            Err(error) => {
                let why = error.diagnostics.first().map(|d| d.message.clone()).unwrap_or_default();
                Before::Unreadable(format!("this version of sluice refuses it: {why}"))
            }
        }
    }

    fn step_to(&self, set: &PolicySet) -> Option<Step> {
        match self {
            Before::Nothing => None,
            Before::Unreadable(why) => Some(Step::from_unreadable(why, set)),
            Before::Set { in_force, program } => {
                Some(Step::between(&in_force.set, program.clone(), set))
            }
        }
    }

    /// A bundle never follows one with a higher serial, or another one with the same.
    fn check_serial(&self, offered: &Offered) -> Result<(), ActivationError> {
        let Before::Set { in_force, .. } = self else { return Ok(()) };
        let (Some(last), Some(serial)) = (in_force.serial, offered.serial) else { return Ok(()) };
        let is_same = offered.set.digest() == in_force.set.digest();
        match serial < last || serial == last && !is_same {
            true => Err(ActivationError::Rollback { serial, last }),
            false => Ok(()),
        }
    }

    /// When a set of this digest was put in force, and the highest serial up to it.
    fn since(&self, offered: &Offered) -> (Timestamp, Option<u64>) {
        match self {
            Before::Set { in_force, .. } => {
                let is_same = in_force.set.digest() == offered.set.digest();
                let since = if is_same { in_force.since } else { Timestamp::now() };
                (since, in_force.serial.max(offered.serial))
            }
            _ => (Timestamp::now(), offered.serial),
        }
    }
}

impl ActivePolicy {
    /// Puts the present files in force, or the last good set where they are refused. Fails only if
    /// there is neither: then nothing may be served.
    pub fn open(config: &Config, metrics: Arc<Metrics>) -> Result<ActivePolicy, Arc<Refused>> {
        let files = Files::new(config);
        let before = files.before();
        let activated = files.offer(&before).and_then(|(offered, step)| {
            let in_force = InForce::of(offered, &before);
            files.keep(&in_force, step.as_ref())?;
            Ok(in_force)
        });
        let (in_force, refused) = match activated {
            Ok(in_force) => (in_force, None),
            Err(error) => {
                metrics.policy_activation(error.result());
                let refused = Arc::new(Refused::new(error, &files.origin));
                (files.last_good(before).ok_or_else(|| refused.clone())?, Some(refused))
            }
        };
        let candidate = CandidateSlot::new(config.policy.shadow.clone());
        let policy = ActivePolicy {
            files,
            in_force: RwLock::new(in_force.clone()),
            refused: Mutex::new(refused.clone()),
            reloading: Mutex::new(()),
            candidate,
            metrics,
        };
        if refused.is_none() {
            policy.metrics.policy_activation(Activation::Activated);
        }
        policy.show(&in_force);
        policy.reload_candidate();
        Ok(policy)
    }

    /// The set in force.
    pub fn current(&self) -> Arc<PolicySet> {
        self.in_force().set
    }

    /// The set in force, and since when.
    pub fn in_force(&self) -> InForce {
        // A reader that panicked left the pointer as it was.
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The candidate that decides without effect.
    pub fn candidate(&self) -> &CandidateSlot {
        &self.candidate
    }

    /// Reads the files again and puts the new set in force; returns it. On an error nothing changes.
    ///
    /// Blocks for as long as the files' tests take, some tenths of a second.
    pub fn reload(&self) -> Result<Arc<PolicySet>, Arc<Refused>> {
        let _alone = lock(&self.reloading);
        let before = Before::Set { in_force: self.in_force(), program: Vec::new() };
        let reloaded = self.try_reload(&before);
        let (result, outcome) = match reloaded {
            Ok((in_force, result)) => (result, Ok(in_force)),
            Err(error) => (error.result(), Err(Arc::new(Refused::new(error, &self.files.origin)))),
        };
        self.metrics.policy_activation(result);
        *lock(&self.refused) = outcome.as_ref().err().cloned();
        self.show(&self.in_force());
        self.reload_candidate();
        outcome.map(|in_force| in_force.set)
    }

    fn try_reload(&self, before: &Before) -> Result<(InForce, Activation), ActivationError> {
        let (offered, step) = self.files.offer(before)?;
        let is_same = step.as_ref().is_some_and(|step| step.from == step.to);
        let in_force = InForce::of(offered, before);
        self.files.keep(&in_force, step.as_ref())?;
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = in_force.clone();
        Ok((in_force, if is_same { Activation::Unchanged } else { Activation::Activated }))
    }

    fn reload_candidate(&self) {
        let loaded = self.candidate.reload().is_some();
        if self.candidate.is_used() {
            self.metrics.policy_candidate(loaded);
        }
    }

    fn show(&self, in_force: &InForce) {
        let InForce { set, since, .. } = in_force;
        self.metrics.policy_in_force(set.digest(), set.site(), set.version(), *since);
    }

    /// Why the present files are not in force, if they are not.
    pub fn refused(&self) -> Option<Arc<Refused>> {
        lock(&self.refused).clone()
    }

    /// The files whose change may change what is in force.
    pub fn watched(&self) -> Vec<PathBuf> {
        let mut files = self.files.watched(Some(&self.current()), self.refused().as_deref());
        files.extend(self.candidate.files());
        files
    }

    /// What `/readyz` says.
    pub fn detail(&self) -> serde_json::Value {
        status::detail(&self.in_force(), self.refused().as_deref())
    }
}

impl InForce {
    fn of(offered: Offered, before: &Before) -> InForce {
        let (since, serial) = before.since(&offered);
        InForce { set: Arc::new(offered.set), since, serial, last_good: false }
    }
}

impl Files {
    /// The set that was in force before, if this program still decides it as strictly.
    fn last_good(&self, before: Before) -> Option<InForce> {
        let Before::Set { in_force, program } = before else { return None };
        let step = Step::between(&in_force.set, program, &in_force.set);
        match self.check_recorded(&in_force.set).and_then(|()| self.pass(&step)) {
            Ok(()) => Some(in_force),
            Err(error) => {
                tracing::error!(%error, "the last good policies cannot serve on");
                None
            }
        }
    }

    /// The files to watch while nothing is in force.
    pub fn watched_without(&self, refused: Option<&Refused>) -> Vec<PathBuf> {
        self.watched(None, refused)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is replaced as a whole, never left half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
