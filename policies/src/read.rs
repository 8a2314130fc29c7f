//! Prints the whole active set as numbered English sentences: what `policy read` shows and approvers
//! sign.
//!
//! Nothing that decides is left out: classes, labels, vouches, answers, latency classes, rules,
//! exceptions. The numbers are for talking about it ("sentence 14"); they change when the set does,
//! which the digest in the first line shows.

use std::fmt::Write as _;

use crate::complexity::Complexity;
use crate::latency::{LatencyClass, Wait};
use crate::pack::Permission;
use crate::policy_set::{Class, Exception, Label, PackInfo, PolicySet};
use crate::rule::{Effective, Rule, RuleMode};
use crate::site::answers::{Answer, EdgeAnswer, ReplyAnswer};
use crate::site::vouch::Vouch;

/// Sentences with running numbers under headings.
struct Page {
    text: String,
    number: usize,
}

impl Page {
    fn section<T>(&mut self, title: &str, items: &[T], sentence: impl Fn(&T) -> String) {
        let mut text = format!("\n{title}\n");
        for item in items {
            self.number += 1;
            writeln!(text, "{:>4}. {}", self.number, sentence(item)).expect("a String takes all");
        }
        if items.is_empty() {
            text.push_str("      None.\n");
        }
        self.text.push_str(&text);
    }
}

impl PolicySet {
    /// The whole set in numbered English sentences.
    pub fn read(&self) -> String {
        let text = format!(
            "Site {} {}, owned by {}. Digest {}.\n",
            self.site, self.version, self.owner, self.digest
        );
        let mut page = Page { text, number: 0 };
        page.section("Packs", &self.packs, pack_sentence);
        let title = "Classes, lowest first; the highest that any rule reaches wins";
        page.section(title, &self.classes, class_sentence);
        page.section("Labels", &self.labels, |label| self.label_sentence(label));
        page.section(
            "Vouches; an upstream without one is an unknown cloud",
            &self.vouches,
            vouch_sentence,
        );
        page.section("Answers", &self.answer_sentences(), String::clone);
        page.section("Latency classes", &self.latency.classes, latency_sentence);
        let title = "Simple and complex work; for requests that may go to a cloud";
        page.section(title, &self.complexity_sentences(), String::clone);
        let groups: Vec<(&str, Vec<&str>)> = self.vocabulary.groups().collect();
        page.section("Groups of detectors", &groups, |(name, members)| {
            format!("{name} stands for {}.", members.join(", "))
        });
        let title = "Rules; they only raise, and their order does not matter";
        page.section(title, &self.rules, |rule| self.rule_sentence(rule));
        page.section("Exceptions", &self.exceptions, |e| self.exception_sentence(e));
        page.text
    }

    fn label_sentence(&self, label: &Label) -> String {
        let title = label.title.as_ref().map(|title| format!(" ({title})")).unwrap_or_default();
        let never = if label.never_cloud { ", never goes to a cloud" } else { "" };
        let redact = match label.redact {
            Permission::Never => "never replaced by placeholders",
            Permission::Allowed => "replaced by placeholders where a rule says so",
        };
        let disk = match label.keep_on_disk {
            Permission::Never => "not kept on disk",
            Permission::Allowed => "may be kept on disk",
        };
        format!(
            "{}{title} is at least {}{never}, goes to: {}; its findings are {redact}; it is {disk}.",
            label.name, self.classes[label.class].name, label.goes_to
        )
    }

    fn answer_sentences(&self) -> Vec<String> {
        let answers = &self.answers;
        let class = |answer: Answer| match answer {
            Answer::Class(class) => format!("is treated as {}", self.classes[class].name),
            Answer::Refuse => "is refused".to_owned(),
            Answer::StripAndContinue => "is removed from the request, which goes on".to_owned(),
        };
        let unlabelled = Answer::Class(answers.unlabelled);
        let mut sentences = vec![format!("Text that no rule speaks of {}.", class(unlabelled))];
        for (kind, answer) in &answers.cannot_scan {
            sentences.push(format!("Unreadable content ({}) {}.", kind.in_words(), class(*answer)));
        }
        sentences.extend([
            format!("Text too large to scan to its end {}.", class(answers.scan_incomplete)),
            format!("Text on which a detector failed {}.", class(answers.detector_failed)),
            format!("A request of an unknown caller {}.", class(answers.caller_unknown)),
            format!("A conversation of unknown history {}.", class(answers.taint_unknown)),
            format!(
                "While the audit log takes no record, a request {}.",
                class(answers.audit_down)
            ),
            format!(
                "If only the edge may answer and it is down, {}.",
                edge(answers.edge_unavailable)
            ),
            format!(
                "If only the edge may answer and it is too slow, {}.",
                edge(answers.edge_too_slow)
            ),
            format!("If the edge's model is not good enough, {}.", edge(answers.edge_inadequate)),
            format!("A reply that holds regulated text {}.", reply(answers.reply_finding)),
            match self.restore_in_tools.as_slice() {
                [] => "No tool gets the values that placeholders stand for.".to_owned(),
                tools => format!(
                    "Of all tools, only {} get the values that placeholders stand for.",
                    tools.join(", ")
                ),
            },
            match self.allow_demo_model {
                true => {
                    "In production the demonstration model may answer never-cloud text.".to_owned()
                }
                false => {
                    "In production the demonstration model answers no never-cloud text.".to_owned()
                }
            },
        ]);
        sentences
    }

    fn complexity_sentences(&self) -> Vec<String> {
        let both = [Complexity::Simple, Complexity::Complex].into_iter();
        let orders = both.filter_map(|work| Some((work, self.complexity.order(work)?)));
        orders
            .map(|(work, zones)| {
                let zones: Vec<&str> = zones.iter().map(|zone| zone.in_words()).collect();
                format!("Work that looks {} prefers {}.", work.in_words(), zones.join(", then "))
            })
            .collect()
    }

    fn rule_sentence(&self, rule: &Rule) -> String {
        let mut marks = vec![format!("{:?}", rule.severity).to_lowercase()];
        marks.extend(rule.floor.then(|| "floor".to_owned()));
        marks.extend(
            (rule.mode == RuleMode::Shadow).then(|| "shadow: computed, without effect".to_owned()),
        );
        marks.extend(rule.tenant.as_ref().map(|tenant| format!("only for the tenant {tenant}")));
        marks.extend(days_in_words(&rule.effective));
        marks.extend(rule.citation.clone());
        marks.push(format!("owner {}", rule.owner));
        let labels = match rule.labels.is_empty() {
            true => String::new(),
            false => format!(" and labelled {}", rule.labels.join(", ")),
        };
        let redact =
            if rule.redact { ", or placeholders take the place of what was found" } else { "" };
        format!(
            "{} ({}): if {}, the request is at least {}{labels}{redact}. {}.",
            rule.id,
            marks.join("; "),
            rule.when.in_words(),
            self.classes[rule.class].name,
            rule.because.trim_end_matches('.')
        )
    }

    fn exception_sentence(&self, exception: &Exception) -> String {
        let what = match exception.detector {
            Some(detector) => {
                let name = &self.vocabulary.detectors[detector as usize];
                format!("does not count what {name} finds")
            }
            None => "does not count".to_owned(),
        };
        let when = match &exception.when {
            Some(when) => format!(" if {}", when.in_words()),
            None => String::new(),
        };
        format!(
            "{}: until {}, {} {what}{when}. {} (owner {}).",
            exception.id,
            exception.expires,
            self.rules[exception.rule].id,
            exception.reason.trim_end_matches('.'),
            exception.owner
        )
    }
}

fn pack_sentence(pack: &PackInfo) -> String {
    let approvers = match pack.approvers.is_empty() {
        true => "nobody".to_owned(),
        false => pack.approvers.join(" and "),
    };
    format!(
        "{} {} from {} is owned by {} and approved by {approvers}.",
        pack.name, pack.version, pack.file, pack.owner
    )
}

fn class_sentence(class: &Class) -> String {
    let title = class.title.as_ref().map(|title| format!(" ({title})")).unwrap_or_default();
    let never = if class.never_cloud { " never goes to a cloud and" } else { "" };
    format!("{}{title}{never} goes to: {}.", class.name, class.goes_to)
}

fn vouch_sentence(vouch: &Vouch) -> String {
    let place = match &vouch.address {
        Some(address) => format!(" at {}://{}:{}", address.scheme, address.host, address.port),
        None => String::new(),
    };
    let standing = &vouch.standing;
    let mut facts = vec![format!("zone {}", standing.zone.in_words())];
    facts.extend(standing.region.iter().map(|region| format!("region {region}")));
    facts.extend(standing.baa.then(|| "a business associate agreement".to_owned()));
    facts.extend(standing.zero_retention.then(|| "zero retention".to_owned()));
    facts.push(format!("quality {}", standing.quality.in_words()));
    if !vouch.address_ranges.is_empty() {
        facts.push(format!("an address in {}", vouch.address_ranges.join(" or ")));
    }
    format!(
        "{} vouches until {} that {}{place} is: {} ({}).",
        vouch.owner,
        vouch.expires,
        vouch.upstream,
        facts.join(", "),
        vouch.contract
    )
}

fn latency_sentence(class: &LatencyClass) -> String {
    let zones: Vec<&str> = class.prefers.iter().map(|zone| zone.in_words()).collect();
    let first = class.first_token_ms_max.map(|ms| format!("the first token within {}", Wait(ms)));
    let speed = class.tokens_per_second_min.map(|n| format!("{n} tokens a second"));
    let whole = class
        .deadline_ms_max
        .map(|ms| format!("a reply of {} tokens within {}", class.reply_tokens, Wait(ms)));
    let demands: Vec<String> = first.into_iter().chain(speed).chain(whole).collect();
    let demands = if demands.is_empty() { "any speed".to_owned() } else { demands.join(" and ") };
    format!("{} asks for {demands} and prefers {}.", class.name, zones.join(", then "))
}

fn days_in_words(effective: &Effective) -> Option<String> {
    match (effective.from, effective.until) {
        (None, None) => None,
        (Some(from), None) => Some(format!("from {from}")),
        (None, Some(until)) => Some(format!("until {until}")),
        (Some(from), Some(until)) => Some(format!("from {from} until {until}")),
    }
}

fn edge(answer: EdgeAnswer) -> String {
    match answer {
        EdgeAnswer::AnswerAnyway => "it answers anyway".to_owned(),
        EdgeAnswer::Queue(ms) => format!("the request waits for up to {}", Wait(ms)),
        EdgeAnswer::Refuse => "the request is refused".to_owned(),
    }
}

fn reply(answer: ReplyAnswer) -> &'static str {
    match answer {
        ReplyAnswer::Taint => "passes, and the conversation stays private from then on",
        ReplyAnswer::Mask => {
            "passes without what was found, and the conversation stays private from then on"
        }
        ReplyAnswer::Cut => "is ended",
    }
}
