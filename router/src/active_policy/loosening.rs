//! What holds back a set that allows more than the one in force: nobody loosens by accident.
//!
//! A step goes from the set that was put in force last to another one, or to the same files under a
//! program whose detectors find less. A step that loosens anything needs an acceptance for exactly this
//! step: who, why, from which digest, to which digest and to which verdicts over the tests. In
//! production the acceptance also carries the signatures of two approvers. A loosened floor rule is
//! never accepted.
//!
//! The signed statement names both ends of the step, so that an approval cannot be used again to come
//! back to a weak set later. Not here: what differs between two sets (`policies` says), where
//! acceptances lie (`state`).

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluice_policies::{Change, Mode, PolicySet, Verdict};

use super::state::sha256;
use crate::config::{ApproverKeys, SIGNATURES_MIN};
use crate::signing::{KeyError, KeyRing, PublicKey, Signature, SigningKey};

/// What approvals are signed for.
const PURPOSE: &str = "sluice policy approval 1";
/// The digest of a set that was put in force and cannot be read any more.
pub const UNREADABLE: &str = "unreadable";

/// One step from a set to another, or to the same one under another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Digest of the set in force, or [`UNREADABLE`].
    pub from: String,
    /// Digest of the offered set.
    pub to: String,
    /// SHA-256 over what the offered set decides about its tests under this program.
    pub verdicts: String,
    /// What it loosens, each as one sentence.
    pub loosened: Vec<String>,
    /// What it loosens although nothing may, each as one sentence.
    pub forbidden: Vec<String>,
    /// Whose signatures count, by the set in force; anybody's of the keys file if it names none.
    pub approvers: Vec<String>,
}

/// A person's word that one step may loosen what it loosens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// Digest of the set in force, or [`UNREADABLE`].
    pub from: String,
    /// Digest of the offered set.
    pub to: String,
    /// SHA-256 over the verdicts, as in [`Step::verdicts`].
    pub verdicts: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// What was loosened, as it was shown to the person.
    pub loosened: Vec<String>,
    /// Signed by approvers.
    pub approvals: Vec<Approval>,
}

/// One approver's signature over one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// The approver's name, as the keys file has it.
    pub by: String,
    /// Digest of the set in force, or [`UNREADABLE`].
    pub from: String,
    /// Digest of the offered set.
    pub to: String,
    /// SHA-256 over the verdicts, as in [`Step::verdicts`].
    pub verdicts: String,
    /// Over the three above.
    pub signature: Signature,
}

/// What a gateway demands before it lets a step loosen anything.
#[derive(Clone, Debug)]
pub struct Gate {
    mode: Mode,
    approvers: Option<ApproverKeys>,
}

/// A step that is held back.
#[derive(Debug, thiserror::Error)]
pub struct Held {
    /// The step.
    pub step: Box<Step>,
    /// What is missing; `Display` says it.
    pub missing: Missing,
}

/// What a step lacks.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// A floor was loosened.
    #[error("a floor is never loosened, by nobody")]
    NotAllowed,
    /// Nobody accepted it.
    #[error("nobody accepted that")]
    Acceptance,
    /// Nothing is kept on disk, and so no acceptance either.
    #[error("nobody can accept that here, since a trial without a config keeps nothing on disk")]
    NoState,
    /// The acceptance is for another step.
    #[error(
        "the acceptance by {by} is for the step from {from:.12} to {to:.12} with verdicts \
         {verdicts:.12}; accept this one"
    )]
    Other {
        /// Who accepted.
        by: String,
        /// Its start.
        from: String,
        /// Its end.
        to: String,
        /// Its verdicts.
        verdicts: String,
    },
    /// Too few approvers signed.
    #[error("{valid} of {required} approvers signed{}", refused_in_words(refused))]
    Signatures {
        /// Good signatures of different approvers.
        valid: usize,
        /// How many are demanded.
        required: usize,
        /// Why the others do not count.
        refused: Vec<String>,
    },
    /// There are no keys of approvers.
    #[error(
        "in production two approvers sign, and the config names no keys of theirs: \
         policy.signatures.keys"
    )]
    NoKeys,
    /// The keys of approvers cannot be used.
    #[error("the keys of approvers cannot be used: {0}")]
    Keys(String),
}

impl Step {
    /// The step from a set that could be read to another.
    ///
    /// `program` is what the program's own detectors loosened over the tests of the set in force.
    pub fn between(old: &PolicySet, program: Vec<String>, new: &PolicySet) -> Step {
        let mut step = Step::onto(new, &new.verdicts(), old.digest());
        step.approvers = old.approvers().to_vec();
        step.loosened = program;
        if old.digest() != new.digest() {
            step.compare(old, new);
        }
        step
    }

    /// The step from a set that cannot be read any more: whatever it held may be loosened.
    pub fn from_unreadable(why: &str, new: &PolicySet) -> Step {
        let mut step = Step::onto(new, &new.verdicts(), UNREADABLE);
        step.loosened.push(format!(
            "the set that was in force cannot be read ({why}), so that nothing shows what is loosened"
        ));
        step
    }

    fn onto(new: &PolicySet, verdicts: &[Verdict], from: &str) -> Step {
        Step {
            from: from.to_owned(),
            to: new.digest().to_owned(),
            verdicts: verdicts_digest(verdicts),
            loosened: Vec::new(),
            forbidden: Vec::new(),
            approvers: Vec::new(),
        }
    }

    /// Whether it needs anybody's word.
    pub fn loosens(&self) -> bool {
        !self.loosened.is_empty() || !self.forbidden.is_empty()
    }

    /// What differs between the files; where none of that loosens, what happens to the old tests.
    fn compare(&mut self, old: &PolicySet, new: &PolicySet) {
        for change in new.changes_since(old).into_iter().filter(Change::loosens) {
            let list = if change.never_allowed { &mut self.forbidden } else { &mut self.loosened };
            list.push(change.to_string());
        }
        if !self.loosens() {
            self.loosened = new.loosened_over(old);
        }
    }

    fn is_of(&self, from: &str, to: &str, verdicts: &str) -> bool {
        self.from == from && self.to == to && self.verdicts == verdicts
    }
}

/// SHA-256 over verdicts, hexadecimal.
pub fn verdicts_digest(verdicts: &[Verdict]) -> String {
    sha256(&serde_json::to_vec(verdicts).expect("texts and numbers are JSON"))
}

impl Approval {
    /// Signs a step.
    pub fn sign(from: &str, set: &PolicySet, by: &str, key: &SigningKey) -> Approval {
        let (to, verdicts) = (set.digest().to_owned(), verdicts_digest(&set.verdicts()));
        let signature = key.sign(PURPOSE, statement(from, &to, &verdicts).as_bytes());
        Approval { by: by.to_owned(), from: from.to_owned(), to, verdicts, signature }
    }

    /// The key that made the signature, if it is one of the ring's and the approver's own.
    fn signer<'a>(&self, step: &Step, ring: &'a KeyRing) -> Result<&'a PublicKey, String> {
        let Approval { by, from, to, verdicts, signature } = self;
        if !step.is_of(from, to, verdicts) {
            return Err(format!(
                "{by} signed another step, or with another version of the program"
            ));
        }
        let message = statement(from, to, verdicts);
        let signer = ring.signer(PURPOSE, message.as_bytes(), signature);
        let signer = signer.ok_or_else(|| format!("the signature of {by} holds under no key"))?;
        match step.approvers.is_empty() || step.approvers.contains(&signer.name) {
            true => Ok(signer),
            false => Err(format!("{} is no approver of the set in force", signer.name)),
        }
    }
}

fn statement(from: &str, to: &str, verdicts: &str) -> String {
    format!("from {from}\nto {to}\nverdicts {verdicts}\n")
}

impl Gate {
    /// The gate of a gateway: its mode, and the keys of approvers if its config names any.
    pub fn new(mode: Mode, approvers: Option<ApproverKeys>) -> Gate {
        Gate { mode, approvers }
    }

    /// Lets a step pass that loosens nothing, or that was accepted as this gateway demands.
    pub fn pass(&self, step: &Step, acceptance: Option<&Acceptance>) -> Result<(), Held> {
        self.judge(step, acceptance)
            .map_err(|missing| Held { step: Box::new(step.clone()), missing })
    }

    fn judge(&self, step: &Step, acceptance: Option<&Acceptance>) -> Result<(), Missing> {
        if !step.loosens() {
            return Ok(());
        }
        if !step.forbidden.is_empty() {
            return Err(Missing::NotAllowed);
        }
        let Some(Acceptance { from, to, verdicts, by, approvals, .. }) = acceptance else {
            return Err(Missing::Acceptance);
        };
        if !step.is_of(from, to, verdicts) {
            let (by, from) = (by.clone(), from.clone());
            return Err(Missing::Other { by, from, to: to.clone(), verdicts: verdicts.clone() });
        }
        match self.mode {
            Mode::Trial => Ok(()),
            Mode::Production => self.count(step, approvals),
        }
    }

    /// Whether enough different approvers signed.
    fn count(&self, step: &Step, approvals: &[Approval]) -> Result<(), Missing> {
        let ApproverKeys { keys, required } = self.approvers.as_ref().ok_or(Missing::NoKeys)?;
        let ring = KeyRing::read(keys).map_err(|error| Missing::Keys(with_cause(&error)))?;
        let (mut signers, mut refused) = (Vec::<&PublicKey>::new(), Vec::new());
        for approval in approvals {
            match approval.signer(step, &ring) {
                Ok(signer) if signers.contains(&signer) => {
                    refused.push(format!("{} signed twice", signer.name));
                }
                Ok(signer) => signers.push(signer),
                Err(why) => refused.push(why),
            }
        }
        let (valid, required) = (signers.len(), (*required).max(SIGNATURES_MIN));
        if valid >= required {
            Ok(())
        } else {
            Err(Missing::Signatures { valid, required, refused })
        }
    }

    /// Whether a loosening needs signatures here, and how many.
    pub fn signatures(&self) -> Option<usize> {
        let required = self.approvers.as_ref().map_or(SIGNATURES_MIN, |keys| keys.required);
        (self.mode == Mode::Production).then_some(required.max(SIGNATURES_MIN))
    }

    /// The file of approvers' keys.
    pub fn keys(&self) -> Option<&PathBuf> {
        self.approvers.as_ref().map(|approvers| &approvers.keys)
    }
}

fn with_cause(error: &KeyError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn refused_in_words(refused: &[String]) -> String {
    if refused.is_empty() { String::new() } else { format!(" ({})", refused.join("; ")) }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { from, to, loosened, forbidden, .. } = &*self.step;
        writeln!(
            f,
            "the offered policies {to:.12} loosen those in force, {from:.12}: {}",
            self.missing
        )?;
        for sentence in forbidden.iter().chain(loosened) {
            writeln!(f, "  - {sentence}")?;
        }
        write!(f, "hint: ")?;
        match &self.missing {
            Missing::NotAllowed => write!(f, "restore the floor rule as it was"),
            Missing::NoState => write!(f, "undo it, or start sluice again"),
            _ => write!(
                f,
                "undo it, or accept it: sluice policy activate SITE --config sluice.yaml \
                 --accept-loosening --reason TEXT --by NAME"
            ),
        }
    }
}
