//! Compares what the site decides: classes, labels, vouches, answers, latency, who approves.

use super::Direction::{Loosens, Neutral, Tightens};
use super::{Change, Direction, Sets, Subject, missing};
use crate::demand::{Demand, GoesTo};
use crate::pack::Permission;
use crate::policy_set::{Class, Label};
use crate::site::answers::{Answer, EdgeAnswer};
use crate::site::vouch::Vouch;

impl Sets<'_> {
    /// The change from a class of the old lattice to one of the new, if they differ.
    pub(super) fn class_change(&self, old: usize, new: usize) -> Option<(Direction, String)> {
        let (was, is) = (&self.old.classes[old].name, &self.new.classes[new].name);
        if was == is {
            return None;
        }
        // Ranks are compared in the new lattice; a class that is gone has none.
        let rank = self.new.class_index(was);
        let direction = Direction::loosens_if(rank.is_none_or(|rank| new < rank));
        Some((direction, format!("{is} instead of {was}")))
    }

    pub(super) fn classes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for old in &self.old.classes {
            match self.new.classes.iter().find(|class| class.name == old.name) {
                None => changes.push(Change::new(Loosens, Subject::Class, &old.name, "is removed")),
                Some(new) => class(old, new, &mut changes),
            }
        }
        for new in &self.new.classes {
            if self.old.class_index(&new.name).is_none() {
                let what = "is new; rules and answers say what reaches it";
                changes.push(Change::new(Neutral, Subject::Class, &new.name, what));
            }
        }
        let common = |classes: &[Class], other: &[Class]| -> Vec<String> {
            let known = |class: &&Class| other.iter().any(|other| other.name == class.name);
            classes.iter().filter(known).map(|class| class.name.clone()).collect()
        };
        let was = common(&self.old.classes, &self.new.classes);
        let is = common(&self.new.classes, &self.old.classes);
        if was != is {
            let what = format!(
                "stand in another order: {} instead of {}",
                is.join(" < "),
                was.join(" < ")
            );
            changes.push(Change::new(Loosens, Subject::Class, "names", what));
        }
        changes
    }

    pub(super) fn labels(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for old in &self.old.labels {
            match self.new.label(&old.name) {
                None => changes.push(Change::new(Loosens, Subject::Label, &old.name, "is removed")),
                Some(new) => self.label(old, new, &mut changes),
            }
        }
        for new in self.new.labels.iter().filter(|label| self.old.label(&label.name).is_none()) {
            changes.push(Change::new(Neutral, Subject::Label, &new.name, "is new"));
        }
        changes
    }

    fn label(&self, old: &Label, new: &Label, changes: &mut Vec<Change>) {
        let mut add = |direction, what: String| {
            changes.push(Change::new(direction, Subject::Label, &new.name, what));
        };
        if let Some((direction, what)) = self.class_change(old.class, new.class) {
            add(direction, format!("is at least {what}"));
        }
        if let Some((direction, what)) = never_cloud_change(old.never_cloud, new.never_cloud) {
            add(direction, what.to_owned());
        }
        if let Some((direction, what)) = place_change(&old.goes_to, &new.goes_to) {
            add(direction, what);
        }
        for (was, is, what) in [
            (old.redact, new.redact, "be replaced by placeholders"),
            (old.keep_on_disk, new.keep_on_disk, "be kept on disk"),
        ] {
            match (was, is) {
                (Permission::Never, Permission::Allowed) => add(Loosens, format!("may {what}")),
                (Permission::Allowed, Permission::Never) => {
                    add(Tightens, format!("may not {what}"))
                }
                _ => (),
            }
        }
        if old.title != new.title {
            add(Neutral, "has another title".to_owned());
        }
    }

    pub(super) fn vouches(&self) -> Vec<Change> {
        let same_place = |a: &Vouch, b: &Vouch| a.upstream == b.upstream && a.address == b.address;
        let mut changes = Vec::new();
        let mut unmatched: Vec<&Vouch> = self.new.vouches.iter().collect();
        for old in &self.old.vouches {
            let at = unmatched
                .iter()
                .position(|new| same_place(old, new) && new.contract == old.contract)
                .or_else(|| unmatched.iter().position(|new| same_place(old, new)));
            match at {
                Some(at) => vouch(old, unmatched.remove(at), &mut changes),
                // The worst of several vouches counts: taking the worst away gives more.
                None => {
                    let others = self.new.vouches.iter().any(|new| new.upstream == old.upstream);
                    let direction = Direction::loosens_if(others);
                    changes.push(Change::new(direction, Subject::Vouch, &old.upstream, "is gone"));
                }
            }
        }
        for new in unmatched {
            let what = format!("is new: {} until {}", new.standing.zone.in_words(), new.expires);
            changes.push(Change::new(Loosens, Subject::Vouch, &new.upstream, what));
        }
        changes
    }

    pub(super) fn answers(&self) -> Vec<Change> {
        let (old, new) = (&self.old.answers, &self.new.answers);
        let unlabelled = (Answer::Class(old.unlabelled), Answer::Class(new.unlabelled));
        let mut changes = Vec::new();
        let questions = [
            ("unlabelled", unlabelled),
            ("scan_incomplete", (old.scan_incomplete, new.scan_incomplete)),
            ("detector_failed", (old.detector_failed, new.detector_failed)),
            ("audit_down", (old.audit_down, new.audit_down)),
            ("taint_unknown", (old.taint_unknown, new.taint_unknown)),
            ("caller_unknown", (old.caller_unknown, new.caller_unknown)),
        ];
        for (question, (was, is)) in questions {
            changes.extend(self.answer(question, was, is));
        }
        for (kind, was) in &old.cannot_scan {
            let question = format!("cannot_scan ({})", kind.in_words());
            // The loader refuses a site without an answer for every kind.
            let is = new.cannot_scan.get(kind).copied().unwrap_or(Answer::Refuse);
            changes.extend(self.answer(&question, *was, is));
        }
        for (question, was, is) in [
            ("edge_unavailable", old.edge_unavailable, new.edge_unavailable),
            ("edge_too_slow", old.edge_too_slow, new.edge_too_slow),
            ("edge_inadequate", old.edge_inadequate, new.edge_inadequate),
        ] {
            changes.extend(edge_answer(question, was, is));
        }
        if old.reply_finding != new.reply_finding {
            let direction = Direction::loosens_if(new.reply_finding < old.reply_finding);
            let what = format!("is {:?} instead of {:?}", new.reply_finding, old.reply_finding);
            let what = what.to_lowercase();
            changes.push(Change::new(direction, Subject::Answer, "reply_finding", what));
        }
        changes
    }

    fn answer(&self, question: &str, was: Answer, is: Answer) -> Option<Change> {
        let change = |direction, what| Change::new(direction, Subject::Answer, question, what);
        let word = |answer: Answer, classes: &[Class]| match answer {
            Answer::Class(class) => classes[class].name.clone(),
            Answer::Refuse => "refuse".to_owned(),
            Answer::StripAndContinue => "strip_and_continue".to_owned(),
        };
        let direction = match (was, is) {
            (Answer::Class(old), Answer::Class(new)) => {
                let (direction, what) = self.class_change(old, new)?;
                return Some(change(direction, format!("is {what}")));
            }
            (was, is) if was == is => return None,
            (Answer::Refuse, _) | (_, Answer::StripAndContinue) => Loosens,
            (_, Answer::Refuse) | (Answer::StripAndContinue, _) => Tightens,
        };
        let (was, is) = (word(was, &self.old.classes), word(is, &self.new.classes));
        Some(change(direction, format!("is {is} instead of {was}")))
    }

    /// Latency orders the allowed upstreams and never adds one, so nothing here loosens.
    pub(super) fn latency(&self) -> Vec<Change> {
        let (old, new) = (&self.old.latency, &self.new.latency);
        let change = |name: &str, what| Change::new(Neutral, Subject::Latency, name, what);
        let mut changes = Vec::new();
        for was in &old.classes {
            match new.classes.iter().find(|class| class.name == was.name) {
                None => changes.push(change(&was.name, "is removed")),
                Some(is) if is != was => changes.push(change(
                    &was.name,
                    "asks for another speed, prefers other zones or has other names",
                )),
                Some(_) => (),
            }
        }
        for is in &new.classes {
            if !old.classes.iter().any(|class| class.name == is.name) {
                changes.push(change(&is.name, "is new"));
            }
        }
        if old.default_name() != new.default_name() {
            changes.push(change(new.default_name(), "is the one of requests that say nothing"));
        }
        if self.old.complexity != self.new.complexity {
            let what = "prefers other zones for simple or for complex work";
            changes.push(Change::new(Neutral, Subject::Site, &self.new.site, what));
        }
        changes
    }

    pub(super) fn packs(&self) -> Vec<Change> {
        let change =
            |direction, name: &str, what: String| Change::new(direction, Subject::Pack, name, what);
        let mut changes = Vec::new();
        for old in &self.old.packs {
            let Some(new) = self.new.packs.iter().find(|pack| pack.name == old.name) else {
                let what = "is gone; its rules, labels and groups are told apart".to_owned();
                changes.push(change(Neutral, &old.name, what));
                continue;
            };
            if old.version != new.version {
                let what = format!("is version {} instead of {}", new.version, old.version);
                changes.push(change(Neutral, &new.name, what));
            }
            if old.owner != new.owner {
                changes.push(change(Neutral, &new.name, format!("is owned by {}", new.owner)));
            }
            changes.extend(
                approvers_change(&old.approvers, &new.approvers)
                    .map(|(direction, what)| change(direction, &new.name, what)),
            );
        }
        for new in &self.new.packs {
            if !self.old.packs.iter().any(|pack| pack.name == new.name) {
                changes.push(change(Neutral, &new.name, format!("{} is new", new.version)));
            }
        }
        changes
    }

    pub(super) fn site(&self) -> Vec<Change> {
        let (old, new) = (self.old, self.new);
        let change =
            |direction, what: String| Change::new(direction, Subject::Site, &new.site, what);
        let mut changes = Vec::new();
        if old.allow_demo_model != new.allow_demo_model {
            let words = if new.allow_demo_model { "lets" } else { "no longer lets" };
            let what =
                format!("{words} the demonstration model answer never-cloud text in production");
            changes.push(change(Direction::loosens_if(new.allow_demo_model), what));
        }
        let apart = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|tool| !those.contains(tool)).cloned().collect()
        };
        for tool in apart(&new.restore_in_tools, &old.restore_in_tools) {
            let what = format!("gives tool {tool} the values that placeholders stand for");
            changes.push(change(Loosens, what));
        }
        for tool in apart(&old.restore_in_tools, &new.restore_in_tools) {
            let what = format!("gives tool {tool} placeholders only");
            changes.push(change(Tightens, what));
        }
        changes.extend(
            approvers_change(&old.approvers, &new.approvers)
                .map(|(direction, what)| change(direction, what)),
        );
        if (&old.site, &old.owner) != (&new.site, &new.owner) {
            let what = format!("was {} of {} and is owned by {}", old.site, old.owner, new.owner);
            changes.push(change(Neutral, what));
        }
        if old.version != new.version {
            let what = format!("is version {} instead of {}", new.version, old.version);
            changes.push(change(Neutral, what));
        }
        changes
    }
}

fn class(old: &Class, new: &Class, changes: &mut Vec<Change>) {
    let mut add = |direction, what: String| {
        changes.push(Change::new(direction, Subject::Class, &new.name, what));
    };
    if let Some((direction, what)) = never_cloud_change(old.never_cloud, new.never_cloud) {
        add(direction, what.to_owned());
    }
    if let Some((direction, what)) = place_change(&old.goes_to, &new.goes_to) {
        add(direction, what);
    }
    if old.title != new.title {
        add(Neutral, "has another title".to_owned());
    }
}

fn never_cloud_change(old: bool, new: bool) -> Option<(Direction, &'static str)> {
    match (old, new) {
        (true, false) => Some((Loosens, "may go to a cloud")),
        (false, true) => Some((Tightens, "never goes to a cloud")),
        _ => None,
    }
}

fn place_change(old: &GoesTo, new: &GoesTo) -> Option<(Direction, String)> {
    if old == new {
        return None;
    }
    let direction = match (goes_within(new, old), goes_within(old, new)) {
        (true, true) => Neutral,
        (true, false) => Tightens,
        (false, _) => Loosens,
    };
    Some((direction, format!("goes to: {new}; it was: {old}")))
}

/// Every upstream that meets `narrow` meets `wide`, as far as the words show it.
fn goes_within(narrow: &GoesTo, wide: &GoesTo) -> bool {
    match (narrow, wide) {
        (_, GoesTo::Anywhere) | (GoesTo::Nowhere, _) => true,
        (GoesTo::Anywhere, GoesTo::OneOf(wide)) => wide.contains(&Demand::default()),
        (_, GoesTo::Nowhere) => false,
        (GoesTo::OneOf(narrow), GoesTo::OneOf(wide)) => {
            narrow.iter().all(|narrow| wide.iter().any(|wide| implies(narrow, wide)))
        }
    }
}

fn implies(narrow: &Demand, wide: &Demand) -> bool {
    fn within<T: PartialEq>(narrow: &[T], wide: &[T]) -> bool {
        wide.is_empty() || !narrow.is_empty() && narrow.iter().all(|item| wide.contains(item))
    }
    within(&narrow.zone.0, &wide.zone.0)
        && within(&narrow.region.0, &wide.region.0)
        && (narrow.baa || !wide.baa)
        && (narrow.zero_retention || !wide.zero_retention)
        && narrow.quality >= wide.quality
}

fn vouch(old: &Vouch, new: &Vouch, changes: &mut Vec<Change>) {
    let mut add = |direction, what: String| {
        changes.push(Change::new(direction, Subject::Vouch, &new.upstream, what));
    };
    let (was, is) = (&old.standing, &new.standing);
    if was.zone != is.zone {
        let what = format!("says {} instead of {}", is.zone.in_words(), was.zone.in_words());
        add(Direction::loosens_if(is.zone < was.zone), what);
    }
    if was.region != is.region {
        let word = |region: &Option<String>| region.clone().unwrap_or_else(|| "none".to_owned());
        let what = format!("says region {} instead of {}", word(&is.region), word(&was.region));
        add(Direction::loosens_if(is.region.is_some()), what);
    }
    for (was, is, what) in [
        (was.baa, is.baa, "a business associate agreement"),
        (was.zero_retention, is.zero_retention, "zero retention"),
    ] {
        if was != is {
            let words = if is { "speaks of" } else { "no longer speaks of" };
            add(Direction::loosens_if(is), format!("{words} {what}"));
        }
    }
    if was.quality != is.quality {
        let (was, is) = (was.quality, is.quality);
        let what = format!("says quality {} instead of {}", is.in_words(), was.in_words());
        add(Direction::loosens_if(is > was), what);
    }
    if old.expires != new.expires {
        let what = format!("ends on {} instead of {}", new.expires, old.expires);
        add(Direction::loosens_if(new.expires > old.expires), what);
    }
    let (gone, added) = (
        missing(&old.address_ranges, &new.address_ranges),
        missing(&new.address_ranges, &old.address_ranges),
    );
    // Without ranges a name may resolve to anything.
    let fewer_limits =
        !added.is_empty() && !old.address_ranges.is_empty() || new.address_ranges.is_empty();
    if !(gone.is_empty() && added.is_empty()) {
        let what = format!("lets its name resolve to [{}]", new.address_ranges.join(", "));
        add(Direction::loosens_if(fewer_limits), what);
    }
    if (&old.owner, &old.contract) != (&new.owner, &new.contract) {
        add(Neutral, format!("rests on {} by {}", new.contract, new.owner));
    }
}

fn edge_answer(question: &str, was: EdgeAnswer, is: EdgeAnswer) -> Option<Change> {
    use EdgeAnswer::{AnswerAnyway, Queue, Refuse};
    let strictness = |answer| match answer {
        AnswerAnyway => 0,
        Queue(_) => 1,
        Refuse => 2,
    };
    let word = |answer| match answer {
        AnswerAnyway => "answer_anyway".to_owned(),
        Queue(ms) => format!("queue {}", crate::latency::Wait(ms)),
        Refuse => "refuse".to_owned(),
    };
    if was == is {
        return None;
    }
    let direction = match strictness(is).cmp(&strictness(was)) {
        std::cmp::Ordering::Less => Loosens,
        std::cmp::Ordering::Equal => Neutral,
        std::cmp::Ordering::Greater => Tightens,
    };
    let what = format!("is {} instead of {}", word(is), word(was));
    Some(Change::new(direction, Subject::Answer, question, what))
}

fn approvers_change(old: &[String], new: &[String]) -> Option<(Direction, String)> {
    let gone = missing(old, new);
    if gone.is_empty() && missing(new, old).is_empty() {
        return None;
    }
    let direction = Direction::loosens_if(!gone.is_empty());
    let names = if new.is_empty() { "nobody".to_owned() } else { new.join(", ") };
    Some((direction, format!("is approved by {names} instead of {}", old.join(", "))))
}
