//! What a classification rested on, without any text: enough to evaluate another set over it later.
//!
//! Findings keep their message, sentence and character positions, so every window holds or does not
//! hold as it did. Of a text that is full of them only the first are kept, and the rest are counted: a
//! record stays short, and says where it cannot speak. What a client may write freely (headers, tags, the
//! model's name) is kept only as far as a rule names it, so a record cannot become a place where text ends up.
//!
//! A detector that was not asked then found nothing then, and that says nothing about the text: a
//! [`Sight`] is what a set looks at, and [`PolicySet::blind_spots`] names the rules of another set that
//! its records cannot speak for.
//!
//! Not here: where records are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::classification::Classification;
use crate::condition::{Condition, Hit, Scene, Test, any_equal, any_fits};
use crate::evidence::{Finding, Likelihood};
use crate::policy_set::{PolicySet, ScanState};
use crate::prompt::{Prompt, RequestContext, Unscanned};

/// Findings of each detector and likelihood that are kept, and parts of each kind that could not be read.
const KEPT_MAX: u32 = 1000;

/// What stands in a record for a class that the set did not know.
const UNKNOWN_CLASS: &str = "(unknown)";

/// Everything that rules looked at in one request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was found, in order of position.
    pub findings: Vec<PlacedFinding>,
    /// What could not be read.
    pub unscanned: Vec<Unscanned>,
    /// What is known of the request besides its texts.
    pub context: EvidenceContext,
    /// Findings, and parts that could not be read, that are left out because there are so many of their kind.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// Not all of the text could be scanned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scan_incomplete: bool,
    /// A detector failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detector_failed: bool,
}

/// A finding and where it stands, in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFinding {
    /// Detector id.
    pub detector: String,
    /// Path of the text in the request body.
    pub place: String,
    /// How sure the detector is.
    pub likelihood: Likelihood,
    /// Number of the message; texts outside the messages have numbers of their own.
    pub message: u32,
    /// Number of the sentence, counted through the whole request.
    pub sentence: u32,
    /// First character, counted through the whole request.
    pub start: usize,
    /// First character after it.
    pub end: usize,
    /// Byte range in its own text as it was written; older records have none.
    #[serde(default)]
    pub bytes: Range<usize>,
}

/// What is known of a request besides its texts, as far as rules named it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceContext {
    /// Headers that a rule names; the value only if a rule names that, too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Tags of the client that a rule names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// Tags of the caller's key.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub key_tags: BTreeSet<String>,
    /// The class that the client asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The latency class that the client asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<String>,
    /// The model, if a rule's pattern fits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The path of the request.
    pub path: String,
    /// The caller's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The caller's tenant.
    #[serde(default)]
    pub tenant: String,
}

/// What a set looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// Its detectors.
    pub detectors: BTreeSet<String>,
    /// Headers that its rules name, with the values that they name.
    pub headers: BTreeMap<String, BTreeSet<String>>,
    /// Client tags that its rules name.
    pub tags: BTreeSet<String>,
    /// Patterns of model names.
    pub models: BTreeSet<String>,
    /// The code of the built-in detectors.
    pub built_in: String,
}

impl PolicySet {
    /// What this set's classification of a prompt rested on.
    pub fn evidence(&self, prompt: &Prompt, classification: &Classification) -> Evidence {
        let names: BTreeMap<&str, u32> = (0..)
            .zip(&classification.findings)
            .map(|(number, finding)| (finding.detector.as_str(), number))
            .collect();
        let Classification { unscanned, findings, .. } = classification;
        let scene = Scene::new(prompt, unscanned, findings, |id| names.get(id).copied());
        let hits = first_of_each(&scene.hits, |hit| (hit.detector, hit.likelihood));
        let parts = first_of_each(unscanned, |part| part.kind);
        Evidence {
            left_out: scene.hits.len() - hits.len() + unscanned.len() - parts.len(),
            findings: hits.into_iter().map(|hit| hit.placed(findings)).collect(),
            unscanned: parts.into_iter().cloned().collect(),
            context: self.seen_of(&prompt.context),
            scan_incomplete: classification.scan_incomplete,
            detector_failed: classification.detector_failed,
        }
    }

    /// Evaluates this set over what was seen of a request, under whatever set that was.
    ///
    /// The same set gives the classification that it gave to the request itself, [`Finding::text`] and what is
    /// left out apart.
    pub fn classify_evidence(&self, evidence: &Evidence) -> Classification {
        let Evidence { findings, unscanned, context, scan_incomplete, detector_failed, .. } =
            evidence;
        let context = context.restored();
        let hits = findings.iter().enumerate().filter_map(|(index, placed)| {
            let detector = self.vocabulary.number(&placed.detector)?;
            Some(Hit::replayed(placed, detector, index))
        });
        let scene = Scene { context: &context, unscanned, hits: hits.collect() };
        let state = ScanState { incomplete: *scan_incomplete, failed: *detector_failed };
        let findings = findings.iter().map(PlacedFinding::unplaced).collect();
        self.classify_scene(&scene, state, findings)
    }

    /// What this set looks at.
    pub fn sight(&self) -> &Sight {
        self.sight.get_or_init(|| self.look_around())
    }

    fn look_around(&self) -> Sight {
        let mut sight = Sight {
            detectors: self.vocabulary.detectors.iter().cloned().collect(),
            built_in: PolicySet::built_in_revision().to_owned(),
            ..Sight::default()
        };
        let exceptions = self.exceptions.iter().filter_map(|exception| exception.when.as_ref());
        for condition in self.rules.iter().map(|rule| &rule.when).chain(exceptions) {
            condition.each_test(&mut |test| sight.add(test));
        }
        sight
    }

    /// The rules of this set for which records of another set's evaluations cannot speak, sorted.
    pub fn blind_spots(&self, recorded: &Sight) -> Vec<&str> {
        let is_blind = |when: &Condition| {
            let mut blind = false;
            when.each_test(&mut |test| {
                blind |= !recorded.tells(test, &self.vocabulary.detectors);
            });
            blind
        };
        let blind = self.rules.iter().filter(|rule| is_blind(&rule.when));
        blind.map(|rule| rule.id.as_str()).collect()
    }

    /// The part of a context that may stand in a record.
    fn seen_of(&self, context: &RequestContext) -> EvidenceContext {
        let sight = self.sight();
        let headers = context.headers.iter().filter_map(|(name, value)| {
            let named = sight.headers.get(name)?;
            let words = value.split(',').map(str::trim);
            let kept = words.filter(|word| named.iter().any(|n| n.eq_ignore_ascii_case(word)));
            Some((name.clone(), kept.collect::<Vec<_>>().join(",")))
        });
        let tags = context.tags.iter().filter(|tag| sight.tags.iter().any(|t| is_word(t, tag)));
        let models: Vec<String> = sight.models.iter().cloned().collect();
        let known_class = |name: &String| {
            let known = self.class_names().find(|class| class.eq_ignore_ascii_case(name));
            known.unwrap_or(UNKNOWN_CLASS).to_owned()
        };
        EvidenceContext {
            headers: headers.collect(),
            tags: tags.cloned().collect(),
            key_tags: context.key_tags.clone(),
            class: context.class.as_ref().map(known_class),
            latency: context.latency.as_ref().and_then(|name| self.latency.known_name(name)),
            model: Some(context.model.clone()).filter(|model| any_fits(&models, model)),
            path: context.path.clone(),
            caller: context.caller.clone(),
            tenant: context.tenant.clone(),
        }
    }
}

/// The first [`KEPT_MAX`] of each sort.
fn first_of_each<T, K: Ord>(all: &[T], sort: impl Fn(&T) -> K) -> Vec<&T> {
    let mut counts = BTreeMap::new();
    let is_kept = |one: &&T| {
        let count = counts.entry(sort(one)).or_insert(0);
        *count += 1;
        *count <= KEPT_MAX
    };
    all.iter().filter(is_kept).collect()
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn is_word(wanted: &String, given: &String) -> bool {
    any_equal(std::slice::from_ref(wanted), std::iter::once(given))
}

impl EvidenceContext {
    fn restored(&self) -> RequestContext {
        let EvidenceContext { headers, tags, key_tags, class, latency, .. } = self;
        let EvidenceContext { model, path, caller, tenant, .. } = self;
        RequestContext {
            headers: headers.clone(),
            tags: tags.clone(),
            key_tags: key_tags.clone(),
            class: class.clone(),
            latency: latency.clone(),
            model: model.clone().unwrap_or_default(),
            path: path.clone(),
            caller: caller.clone(),
            tenant: tenant.clone(),
        }
    }
}

impl PlacedFinding {
    fn unplaced(&self) -> Finding {
        Finding {
            detector: self.detector.clone(),
            place: self.place.clone(),
            likelihood: self.likelihood,
            text: 0,
            span: self.bytes.clone(),
        }
    }
}

impl Sight {
    fn add(&mut self, test: &Test) {
        match test {
            Test::Header { name, is } => {
                self.headers.entry(name.clone()).or_default().extend(is.iter().cloned());
            }
            Test::Tag(tags) => self.tags.extend(tags.iter().cloned()),
            Test::Model(patterns) => self.models.extend(patterns.iter().cloned()),
            _ => (),
        }
    }

    /// What this sight recorded decides a test; `detectors` are the names of the test's numbers.
    fn tells(&self, test: &Test, detectors: &[String]) -> bool {
        match test {
            Test::Found { detectors: numbers, .. } => {
                numbers.iter().all(|&number| self.detectors.contains(&detectors[number as usize]))
            }
            Test::Header { name, is } => {
                self.headers.get(name).is_some_and(|values| is.iter().all(|v| values.contains(v)))
            }
            Test::Tag(tags) => tags.iter().all(|tag| self.tags.contains(tag)),
            Test::Model(patterns) => patterns.iter().all(|pattern| self.models.contains(pattern)),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{ContentKind, Role, Text};
    use crate::yaml::Source;

    const TEXTS: &[&str] = &[
        "Patient Maria Kowalczyk was admitted with pneumonia.",
        "Please book a table for two. The weather is fine.",
        "my card is 4539 5787 6362 1486",
        "SSN 536-22-8714",
        "write to anya.petrova@northmill.se, phone +46 8 123 456 78",
        "password: vX9-kQ2mTz4r!",
        "Züge fahren. PRIVILEGED AND CONFIDENTIAL",
    ];

    fn prompt(texts: &[&str]) -> Prompt {
        let text = |(index, text): (usize, &&str)| Text {
            place: format!("messages[{index}].content"),
            message: Some(index),
            role: Role::User,
            text: (*text).to_owned(),
        };
        let mut context =
            RequestContext { path: "/v1/chat/completions".into(), ..Default::default() };
        context.tags.insert("legal".into());
        context.headers.insert("x-unit".into(), "ward, Maria Kowalczyk".into());
        context.model = "gpt-for-maria".into();
        let place = "messages[9].content[1]".to_owned();
        let unscanned = vec![Unscanned { kind: ContentKind::Image, place }];
        Prompt { texts: texts.iter().enumerate().map(text).collect(), unscanned, context }
    }

    fn set(rules: &str) -> PolicySet {
        let text = format!("{}\n{rules}", include_str!("../site.yaml"));
        let source = Source { name: "site.yaml".to_owned(), text };
        PolicySet::from_sources_untested(vec![source]).unwrap_or_else(|error| panic!("{error}"))
    }

    fn extended(when: &str) -> PolicySet {
        set(&format!(
            "extends:\n  default:\n    rules:\n      - {{id: ADDED-1, title: Added, when: {when}, \
             then: {{class: regulated}}}}\n"
        ))
    }

    #[test]
    fn what_was_seen_is_classified_like_the_text_itself() {
        let set = PolicySet::shipped().unwrap();
        for first in TEXTS {
            for second in TEXTS {
                let prompt = prompt(&[first, second]);
                let mut whole = set.classify(&prompt);
                let json = serde_json::to_string(&set.evidence(&prompt, &whole)).unwrap();
                let replayed = set.classify_evidence(&serde_json::from_str(&json).unwrap());
                whole.findings.iter_mut().for_each(|f| f.text = 0);
                let order = |c: &mut Classification| {
                    let key = |f: &Finding| (f.place.clone(), f.detector.clone(), f.span.start);
                    c.findings.sort_by_key(key);
                };
                let mut replayed = replayed;
                order(&mut whole);
                order(&mut replayed);
                assert_eq!(replayed, whole, "{first} / {second}");
            }
        }
    }

    #[test]
    fn of_a_text_full_of_findings_the_first_are_kept_and_the_rest_counted() {
        let set = PolicySet::shipped().unwrap();
        let mut texts = vec![TEXTS[4]; 1500];
        texts.push(TEXTS[2]);
        let prompt = prompt(&texts);
        let classification = set.classify(&prompt);
        let evidence = set.evidence(&prompt, &classification);
        let of = |name: &str| evidence.findings.iter().filter(|f| f.detector == name).count();
        assert_eq!((of("email"), of("payment_card")), (1000, 1));
        assert_eq!(evidence.left_out, classification.findings.len() - evidence.findings.len());
        assert!(evidence.left_out >= 500);
        let json = serde_json::to_value(&evidence).unwrap();
        assert_eq!(json["left_out"], evidence.left_out);
        assert_eq!(set.classify_evidence(&evidence).class, classification.class);
    }

    #[test]
    fn windows_of_another_set_hold_as_they_would_on_the_text() {
        let shipped = PolicySet::shipped().unwrap();
        let prompt = prompt(&TEXTS[..3]);
        let evidence = shipped.evidence(&prompt, &shipped.classify(&prompt));
        for (near, holds) in
            [("sentence", false), ("message", false), ("40 characters", false), ("request", true)]
        {
            let when = format!(
                "{{all_of: [{{found: payment_card}}, {{found: person_name}}], near: {near}}}"
            );
            let other = extended(&when);
            assert_eq!(other.blind_spots(shipped.sight()), Vec::<&str>::new());
            let replayed = other.classify_evidence(&evidence);
            let has = |c: &Classification| c.rules.contains(&"ADDED-1".to_owned());
            assert_eq!(has(&replayed), holds, "{near}");
            assert_eq!(has(&other.classify(&prompt)), holds, "{near}");
        }
    }

    #[test]
    fn nothing_that_a_client_writes_freely_is_kept_unless_a_rule_names_it() {
        let shipped = PolicySet::shipped().unwrap();
        let prompt = prompt(&TEXTS[..1]);
        let json = |set: &PolicySet| {
            serde_json::to_string(&set.evidence(&prompt, &set.classify(&prompt))).unwrap()
        };
        for word in ["Maria", "maria", "x-unit", "legal"] {
            assert!(!json(&shipped).contains(word), "{word}");
        }
        let named =
            extended("{any_of: [{header: x-unit, is: [ward]}, {tag: legal}, {model: \"gpt-*\"}]}");
        let kept = json(&named);
        assert!(kept.contains("\"x-unit\":\"ward\"") && kept.contains("legal"), "{kept}");
        assert!(kept.contains("gpt-for-maria") && !kept.contains("Kowalczyk"), "{kept}");
        assert_eq!(named.blind_spots(shipped.sight()), ["ADDED-1"]);
        assert_eq!(named.blind_spots(named.sight()), Vec::<&str>::new());
    }
}
