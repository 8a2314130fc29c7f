//! Packs and detector files as they stand on disk: the labels, rules, detectors and tests of one body
//! of law, and the security team's patterns.
//!
//! Shipped packs are read-only; a site extends them in `site.yaml` and never edits them. Regular
//! expressions and built-in detectors belong in detector files, which the security team owns; packs
//! and sites describe their own numbers by `looks_like` and by words.

use serde::Deserialize;

use crate::demand::GoesTo;
use crate::detector::DetectorSpec;
use crate::error::suggest;
use crate::rule::{Effective, RuleSpec, TestSpec};
use crate::yaml::{At, Complaint, Document, Each, List, Named};

/// Version of the policy language that this build reads: `requires: "sluice >= 1.0"` asks for it.
pub const LANGUAGE_VERSION: (u32, u32) = (1, 0);

/// A pack file.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackSpec {
    /// Name of the pack: `hipaa`.
    pub(crate) policy: At<String>,
    pub(crate) version: String,
    pub(crate) owner: String,
    /// Who must sign a change; checked by the gateway in production, recorded here.
    #[serde(default)]
    pub(crate) approvers: Vec<String>,
    #[serde(default)]
    pub(crate) effective: Effective,
    pub(crate) requires: Option<At<String>>,
    /// Packs that come with this one.
    #[serde(default)]
    pub(crate) includes: List<At<String>>,
    #[serde(default)]
    pub(crate) labels: Named<LabelSpec>,
    #[serde(default)]
    pub(crate) detectors: Named<DetectorSpec>,
    /// Names for lists of detectors; packs and sites that use one name extend one list.
    #[serde(default)]
    pub(crate) groups: Named<List<At<String>>>,
    #[serde(default)]
    pub(crate) rules: Each<RuleSpec>,
    /// Tests of rules of this pack that stand outside the rule; each names its rule.
    #[serde(default)]
    pub(crate) tests: Each<At<TestSpec>>,
}

/// A label: what it demands of an upstream and what else it forbids.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LabelSpec {
    /// What the label stands for, for `policy read`.
    pub(crate) title: Option<String>,
    /// Class of everything that bears it.
    pub(crate) class: At<String>,
    #[serde(default)]
    pub(crate) never_cloud: bool,
    #[serde(default)]
    pub(crate) goes_to: GoesTo,
    /// Whether rules of this label may let findings be replaced by placeholders.
    #[serde(default)]
    pub(crate) redact: Permission,
    /// Whether engine checkpoints of such text may be written to disk.
    #[serde(default)]
    pub(crate) keep_on_disk: Permission,
}

/// Whether something is allowed; `never` unless a file says otherwise.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Permission {
    #[default]
    Never,
    Allowed,
}

/// A detector file.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetectorFileSpec {
    /// Name of the file's contents, for people.
    #[serde(rename = "policy")]
    pub(crate) _policy: Option<String>,
    #[serde(rename = "version")]
    pub(crate) _version: Option<String>,
    #[serde(rename = "owner")]
    pub(crate) _owner: Option<String>,
    #[serde(rename = "title")]
    pub(crate) _title: Option<String>,
    #[serde(rename = "requires")]
    pub(crate) requires: Option<At<String>>,
    pub(crate) detectors: Named<DetectorSpec>,
    #[serde(default)]
    pub(crate) groups: Named<List<At<String>>>,
}

/// Refuses what only a detector file may hold.
pub(crate) fn check_officer_detectors(detectors: &Named<DetectorSpec>) -> Vec<Complaint> {
    let too_technical = |spec: &DetectorSpec| match spec {
        DetectorSpec { pattern: Some(_), .. } => Some("pattern"),
        DetectorSpec { patterns, .. } if !patterns.is_empty() => Some("patterns"),
        DetectorSpec { builtin: Some(_), .. } => Some("builtin"),
        _ => None,
    };
    let complain = |(id, spec): &(At<String>, DetectorSpec)| {
        let field = too_technical(spec)?;
        let message =
            format!("detector \"{}\" uses {field}, which only detector files may", id.value);
        let hint =
            "describe it by looks_like: \"SM-9999999\" (9 a digit, A a letter) or by words; or \
                    let the security team add it to a file under detectors"
                .to_owned();
        Some(id.complaint(message, Some(hint)))
    };
    detectors.0.iter().filter_map(complain).collect()
}

/// Checks `requires: "sluice >= 1.0"` against the language that this build reads.
pub(crate) fn check_requires(requires: &At<String>) -> Result<(), Complaint> {
    let wanted = requires.value.strip_prefix("sluice").map(str::trim);
    let wanted = wanted.and_then(|rest| rest.strip_prefix(">=")).map(str::trim).and_then(version);
    let Some(wanted) = wanted else {
        let message = format!("expected \"sluice >= 1.0\", got \"{}\"", requires.value);
        return Err(requires.complaint(message, None));
    };
    if wanted <= LANGUAGE_VERSION {
        return Ok(());
    }
    let (major, minor) = LANGUAGE_VERSION;
    let message = format!(
        "the file needs policy language {}.{}, this build reads {major}.{minor}",
        wanted.0, wanted.1
    );
    Err(requires
        .complaint(message, Some("use a newer sluice, or an older version of the file".into())))
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next().map_or(Some(0), |part| part.parse().ok())?;
    Some((major, minor))
}

/// What kind of file a document is, told by its leading key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Pack,
    Site,
    Detectors,
}

impl FileKind {
    /// Tells the kind of a parsed file.
    pub(crate) fn of(document: &Document) -> Result<FileKind, Complaint> {
        let keys = document.root.key_names();
        let has = |name: &str| keys.contains(&name);
        if has("site") || has("must_answer") || has("classes") {
            return Ok(FileKind::Site);
        }
        if has("rules")
            || has("labels")
            || has("includes")
            || has("policy") && has("owner") && !has("detectors")
        {
            return Ok(FileKind::Pack);
        }
        if has("detectors") {
            return Ok(FileKind::Detectors);
        }
        let known = ["site", "policy", "rules", "labels", "detectors"];
        let hint = keys.first().and_then(|first| suggest(first, known));
        let complaint = document.root.complaint("found neither a pack, a site nor a detector file");
        Err(Complaint { hint, ..complaint })
    }
}
