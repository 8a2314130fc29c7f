//! Why files were not put in force, as a person, a probe and a metric see it.

use jiff::Timestamp;
use serde_json::{Value, json};
use sluice_policies::{Diagnostic, PolicyError};

use super::InForce;
use super::loosening::Held;
use super::origin::{Origin, OriginError};
use super::state::StateError;
use crate::metrics::Activation;

/// Files that were not put in force.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// They make no set whose tests pass.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// They loosen what nobody accepted to be loosened.
    #[error(transparent)]
    Held(#[from] Held),
    /// A bundle that is older than one that was in force.
    #[error(
        "the policy bundle has serial {serial}, and serial {last} was in force: an older or another \
         bundle is never taken after a newer one; ask its publisher for one with a higher serial"
    )]
    Rollback {
        /// Of the offered bundle.
        serial: u64,
        /// The highest that was in force.
        last: u64,
    },
    /// They look for something, and the config keeps no record of what is found.
    #[error(
        "audit.off: expected policies that look for nothing, got {packs} packs and {rules} rules: what they \
         find must be on record; take `off` out of `audit` in sluice.yaml and start again, or the packs and \
         rules out of the site"
    )]
    Unrecorded {
        /// Packs of the offered set.
        packs: usize,
        /// Its rules, those of the site's own included.
        rules: usize,
    },
    /// What is kept on disk cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A refusal on record: what, where, since when.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// The whole error, for a terminal.
    pub text: String,
    /// File of the first mistake, as a person would name it.
    pub file: Option<String>,
    /// Line of the first mistake, from 1; 0 for the file as a whole.
    pub line: u32,
    /// The first mistake in one line.
    pub message: String,
    /// What they loosen, if that is why, each as one sentence.
    pub loosened: Vec<String>,
    /// When they were refused.
    pub at: Timestamp,
    /// Names of the files with mistakes, as the set names them.
    pub(super) files: Vec<String>,
}

impl ActivationError {
    /// The word of the metric.
    pub(super) fn result(&self) -> Activation {
        match self {
            ActivationError::Held(_) | ActivationError::Rollback { .. } => Activation::Held,
            ActivationError::Origin(_)
            | ActivationError::Unrecorded { .. }
            | ActivationError::State(_) => Activation::Refused,
        }
    }

    fn loosened(&self) -> Vec<String> {
        match self {
            ActivationError::Held(held) => {
                held.step.forbidden.iter().chain(&held.step.loosened).cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            ActivationError::Origin(OriginError::Policy(PolicyError { diagnostics, .. })) => {
                diagnostics
            }
            _ => &[],
        }
    }
}

impl Refused {
    pub(super) fn new(error: ActivationError, origin: &Origin) -> Refused {
        let text = with_causes(&error);
        let first = error.diagnostics().first();
        let path = origin.path().map(|path| path.display().to_string());
        Refused {
            file: first.map(|d| d.file.clone()).or(path),
            line: first.map_or(0, |d| d.line),
            message: match first {
                Some(diagnostic) => diagnostic.message.clone(),
                None => text.lines().next().unwrap_or_default().to_owned(),
            },
            loosened: error.loosened(),
            files: error.diagnostics().iter().map(|d| d.file.clone()).collect(),
            at: Timestamp::now(),
            text,
        }
    }

    /// What `/readyz` says of it.
    pub fn detail(&self) -> Value {
        let Refused { file, line, message, loosened, at, .. } = self;
        let line = Some(line).filter(|line| **line > 0);
        let since = format!("{at:.0}");
        json!({
            "file": file, "line": line, "message": message, "loosened": loosened, "since": since,
        })
    }
}

/// An error and its causes in one line each, the causes that `Display` repeats left out.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

/// What `/readyz` says of the set in force.
pub(super) fn detail(in_force: &InForce, refused: Option<&Refused>) -> Value {
    let InForce { set, since, serial, last_good } = in_force;
    let age_s = Timestamp::now().duration_since(*since).as_secs().max(0);
    json!({
        "digest": set.digest(),
        "site": set.site(),
        "version": set.version(),
        "serial": serial,
        "activated": format!("{since:.0}"),
        "age_s": age_s,
        "source": if *last_good { "last_good" } else { "files" },
        "refused": refused.map(Refused::detail),
    })
}
