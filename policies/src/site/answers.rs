//! `must_answer`: the questions that every site answers for itself.
//!
//! Each names a moment in which the gateway does not know something or cannot do what policy asks.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::latency::Wait;
use crate::prompt::ContentKind;
use crate::yaml::{At, Complaint};

/// The answers as they stand in a file; a missing one is a mistake, not a default.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MustAnswer {
    unlabelled: Option<At<String>>,
    cannot_scan: Option<At<CannotScan>>,
    scan_incomplete: Option<At<String>>,
    detector_failed: Option<At<String>>,
    edge_unavailable: Option<At<String>>,
    edge_too_slow: Option<At<String>>,
    edge_inadequate: Option<At<String>>,
    audit_down: Option<At<String>>,
    taint_unknown: Option<At<String>>,
    caller_unknown: Option<At<String>>,
    reply_finding: Option<At<String>>,
}

#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct CannotScan {
    image: Option<At<String>>,
    audio: Option<At<String>>,
    file_reference: Option<At<String>>,
    encrypted_file: Option<At<String>>,
    remote_url: Option<At<String>>,
    token_ids: Option<At<String>>,
    hosted_tool: Option<At<String>>,
    provider_stored_state: Option<At<String>>,
    unknown_field: Option<At<String>>,
}

/// An answer about a request: what it is treated as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Raise to this class of the lattice.
    Class(usize),
    /// Do not answer.
    Refuse,
    /// Remove the field and go on; for unknown fields only.
    StripAndContinue,
}

/// An answer about an edge that cannot do what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EdgeAnswer {
    /// Answer although it is slow, or not good enough.
    AnswerAnyway,
    /// Hold the request for at most so many milliseconds.
    Queue(u64),
    /// Do not answer.
    Refuse,
}

/// What happens to a reply in which something regulated is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReplyAnswer {
    /// Let it pass and keep the conversation private from then on.
    Taint,
    /// Take the finding out, or end the reply where that cannot be done; keep the conversation private.
    Mask,
    /// End the reply.
    Cut,
}

/// All answers, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answers {
    pub(crate) unlabelled: usize,
    pub(crate) cannot_scan: BTreeMap<ContentKind, Answer>,
    pub(crate) scan_incomplete: Answer,
    pub(crate) detector_failed: Answer,
    pub(crate) edge_unavailable: EdgeAnswer,
    pub(crate) edge_too_slow: EdgeAnswer,
    pub(crate) edge_inadequate: EdgeAnswer,
    pub(crate) audit_down: Answer,
    pub(crate) taint_unknown: Answer,
    pub(crate) caller_unknown: Answer,
    pub(crate) reply_finding: ReplyAnswer,
}

/// Every question with an example of an answer: what an incomplete file is shown.
const QUESTIONS: [(&str, &str, &str); 11] = [
    ("unlabelled", "internal", "no rule says anything: a class name or private"),
    ("cannot_scan", "", "content that no detector can read, by kind:"),
    ("scan_incomplete", "private", "the text is too large to scan: a class, private or refuse"),
    ("detector_failed", "private", "a detector broke: a class, private or refuse"),
    (
        "edge_unavailable",
        "queue 30s",
        "only the edge may answer and it is down: queue <time> or refuse",
    ),
    (
        "edge_too_slow",
        "answer_anyway",
        "… and it is too slow: answer_anyway, queue <time> or refuse",
    ),
    ("edge_inadequate", "refuse", "… and its model is not good enough: answer_anyway or refuse"),
    ("audit_down", "private", "the audit log takes no record: private or refuse"),
    (
        "taint_unknown",
        "private",
        "nobody knows what the conversation held: a class, private or refuse",
    ),
    ("caller_unknown", "internal", "nobody knows who calls: a class, private or refuse"),
    ("reply_finding", "taint", "a reply holds regulated text: taint, mask or cut"),
];

const KINDS: [(&str, ContentKind, &str); 9] = [
    ("image", ContentKind::Image, "private"),
    ("audio", ContentKind::Audio, "private"),
    ("file_reference", ContentKind::FileReference, "refuse"),
    ("encrypted_file", ContentKind::EncryptedFile, "private"),
    ("remote_url", ContentKind::RemoteUrl, "refuse"),
    ("token_ids", ContentKind::TokenIds, "private"),
    ("hosted_tool", ContentKind::HostedTool, "refuse"),
    ("provider_stored_state", ContentKind::ProviderStoredState, "refuse"),
    ("unknown_field", ContentKind::UnknownField, "strip_and_continue"),
];

/// Class names and the class that `private` stands for.
pub(crate) struct Lattice<'a> {
    pub(crate) classes: &'a [String],
    /// Lowest class that never goes to a cloud.
    pub(crate) private: Option<usize>,
}

impl Lattice<'_> {
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| class == name)
    }

    fn answer(&self, given: &At<String>, may_strip: bool) -> Result<Answer, Complaint> {
        match given.value.as_str() {
            "refuse" => return Ok(Answer::Refuse),
            "strip_and_continue" if may_strip => return Ok(Answer::StripAndContinue),
            "private" => {
                let hint = "mark a class with never_cloud: true".to_owned();
                let complain = || {
                    given.complaint("private means nothing: no class is never_cloud", Some(hint))
                };
                return self.private.map(Answer::Class).ok_or_else(complain);
            }
            _ => (),
        }
        let class = self.position(&given.value).map(Answer::Class);
        let strip = if may_strip { "strip_and_continue, " } else { "" };
        class.ok_or_else(|| {
            let known = self.classes.join(", ");
            let message = format!(
                "expected private, refuse, {strip}or a class ({known}), got \"{}\"",
                given.value
            );
            given.complaint(message, None)
        })
    }
}

impl MustAnswer {
    /// Checks that every question has an answer that fits it.
    pub(crate) fn compile(
        &self,
        place: &At<MustAnswer>,
        lattice: &Lattice<'_>,
    ) -> Result<Answers, Vec<Complaint>> {
        let missing = self.missing();
        if !missing.is_empty() {
            return Err(vec![place.complaint(missing_message(&missing), Some(example(&missing)))]);
        }
        let mut checker = Checker { lattice, errors: Vec::new() };
        let answers = Answers {
            unlabelled: checker.unlabelled(given(&self.unlabelled)),
            cannot_scan: checker.cannot_scan(&given(&self.cannot_scan).value),
            scan_incomplete: checker.class(given(&self.scan_incomplete)),
            detector_failed: checker.class(given(&self.detector_failed)),
            edge_unavailable: checker.edge(given(&self.edge_unavailable), &[QUEUE, "refuse"]),
            edge_too_slow: checker.edge(given(&self.edge_too_slow), &[ANYWAY, QUEUE, "refuse"]),
            edge_inadequate: checker.edge(given(&self.edge_inadequate), &[ANYWAY, "refuse"]),
            audit_down: checker.class(given(&self.audit_down)),
            taint_unknown: checker.class(given(&self.taint_unknown)),
            caller_unknown: checker.class(given(&self.caller_unknown)),
            reply_finding: checker.reply(given(&self.reply_finding)),
        };
        if checker.errors.is_empty() { Ok(answers) } else { Err(checker.errors) }
    }

    fn missing(&self) -> Vec<String> {
        let answered = [
            self.unlabelled.is_some(),
            self.cannot_scan.is_some(),
            self.scan_incomplete.is_some(),
            self.detector_failed.is_some(),
            self.edge_unavailable.is_some(),
            self.edge_too_slow.is_some(),
            self.edge_inadequate.is_some(),
            self.audit_down.is_some(),
            self.taint_unknown.is_some(),
            self.caller_unknown.is_some(),
            self.reply_finding.is_some(),
        ];
        let mut missing: Vec<String> = Vec::new();
        for ((question, _, _), answered) in QUESTIONS.iter().zip(answered) {
            if *question == "cannot_scan" {
                let nothing = CannotScan::default();
                let given = self.cannot_scan.as_ref().map_or(&nothing, |given| &given.value);
                let kinds =
                    KINDS.iter().zip(given.in_order()).filter(|(_, answer)| answer.is_none());
                missing.extend(kinds.map(|((kind, _, _), _)| format!("cannot_scan.{kind}")));
            } else if !answered {
                missing.push((*question).to_owned());
            }
        }
        missing
    }
}

/// Words of answers about the edge.
const ANYWAY: &str = "answer_anyway";
const QUEUE: &str = "queue <time>";

fn given<T>(answer: &Option<T>) -> &T {
    answer.as_ref().expect("a file with a missing answer was refused before")
}

/// Checks answers one by one and goes on after a wrong one, with the strictest in its place.
struct Checker<'a> {
    lattice: &'a Lattice<'a>,
    errors: Vec<Complaint>,
}

impl Checker<'_> {
    fn or_note<T>(&mut self, answer: Result<T, Complaint>, strictest: T) -> T {
        answer.unwrap_or_else(|error| {
            self.errors.push(error);
            strictest
        })
    }

    fn class(&mut self, given: &At<String>) -> Answer {
        let answer = self.lattice.answer(given, false);
        self.or_note(answer, Answer::Refuse)
    }

    fn unlabelled(&mut self, given: &At<String>) -> usize {
        if given.value == "refuse" {
            let message = "unlabelled text needs a class: it cannot be refused";
            self.errors.push(given.complaint(message, None));
        }
        match self.class(given) {
            Answer::Class(class) => class,
            Answer::Refuse | Answer::StripAndContinue => 0,
        }
    }

    fn cannot_scan(&mut self, answers: &CannotScan) -> BTreeMap<ContentKind, Answer> {
        let kinds = KINDS.iter().zip(answers.in_order());
        let check = |((_, kind, _), answer): (&(&str, ContentKind, &str), &Option<At<String>>)| {
            let may_strip = *kind == ContentKind::UnknownField;
            let answer = self.lattice.answer(given(answer), may_strip);
            (*kind, self.or_note(answer, Answer::Refuse))
        };
        kinds.map(check).collect()
    }

    fn edge(&mut self, given: &At<String>, words: &[&str]) -> EdgeAnswer {
        let answer = edge_answer(given, words);
        self.or_note(answer, EdgeAnswer::Refuse)
    }

    fn reply(&mut self, given: &At<String>) -> ReplyAnswer {
        let answer = reply_answer(given);
        self.or_note(answer, ReplyAnswer::Cut)
    }
}

impl CannotScan {
    /// The answers in the order of [`KINDS`].
    fn in_order(&self) -> [&Option<At<String>>; 9] {
        [
            &self.image,
            &self.audio,
            &self.file_reference,
            &self.encrypted_file,
            &self.remote_url,
            &self.token_ids,
            &self.hosted_tool,
            &self.provider_stored_state,
            &self.unknown_field,
        ]
    }
}

fn missing_message(missing: &[String]) -> String {
    format!("must_answer leaves open what happens for {}", missing.join(", "))
}

/// What to write, with what each question means.
fn example(missing: &[String]) -> String {
    let mut lines =
        vec!["these questions have no defaults; write, with your own answers:".to_owned()];
    lines.push("  must_answer:".to_owned());
    for (question, answer, meaning) in QUESTIONS {
        if question == "cannot_scan" {
            let kinds = KINDS.iter().filter(|(kind, _, _)| {
                missing.iter().any(|name| name.strip_prefix("cannot_scan.") == Some(*kind))
            });
            let kinds: Vec<_> = kinds.collect();
            if !kinds.is_empty() {
                lines.push(format!("    cannot_scan:  # {meaning}"));
            }
            lines.extend(kinds.iter().map(|(kind, _, answer)| format!("      {kind}: {answer}")));
        } else if missing.iter().any(|name| name == question) {
            lines.push(format!("    {question}: {answer}  # {meaning}"));
        }
    }
    lines.join("\n")
}

/// The hint for a site file without any `must_answer`.
pub(crate) fn whole_example() -> String {
    example(&MustAnswer::default().missing())
}

fn edge_answer(given: &At<String>, words: &[&str]) -> Result<EdgeAnswer, Complaint> {
    let queue = given.value.strip_prefix("queue").and_then(Wait::parse);
    match (given.value.as_str(), queue) {
        ("refuse", _) => Ok(EdgeAnswer::Refuse),
        (ANYWAY, _) if words.contains(&ANYWAY) => Ok(EdgeAnswer::AnswerAnyway),
        (_, Some(Wait(ms))) if words.contains(&QUEUE) => Ok(EdgeAnswer::Queue(ms)),
        _ => {
            let message = format!("expected {}, got \"{}\"", words.join(" or "), given.value);
            Err(given.complaint(message, None))
        }
    }
}

fn reply_answer(given: &At<String>) -> Result<ReplyAnswer, Complaint> {
    match given.value.as_str() {
        "taint" => Ok(ReplyAnswer::Taint),
        "mask" => Ok(ReplyAnswer::Mask),
        "cut" => Ok(ReplyAnswer::Cut),
        other => {
            Err(given.complaint(format!("expected taint, mask or cut, got \"{other}\""), None))
        }
    }
}
