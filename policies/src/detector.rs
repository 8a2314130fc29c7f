//! Finds regulated content in a prompt: compiled detectors over normalised views of every text.
//!
//! A text is normalised into views (`normalize`), each view is read once (`reading`: words, digit
//! runs, literals), and detectors judge candidates only. Three kinds of detectors cover everything:
//! number schemes judge windows of digits, code schemes judge letters mixed with digits, and the
//! rest implement [`Detector`]. What raises and lowers a candidate (context words, key names, table
//! headers, negative words) is the same for all and comes from the [`DetectorSpec`].
//!
//! Texts are scanned one by one and once more joined, so that what is split over parts, messages or
//! turns is found too.
//!
//! Invariants: deterministic; linear in the text; matched text never leaves the scan; a detector
//! that panics is named in [`Scan::failed`]; a budget that runs out sets [`Scan::incomplete`].

mod assigned;
mod bank;
mod birth;
mod byte_set;
mod cache;
mod card;
mod card_masked;
mod card_secret;
#[cfg(test)]
mod cases;
mod checksum;
mod clinical;
mod compile;
mod contact;
mod digits;
mod email;
mod health_id;
mod joined;
mod letters;
mod lexicon;
mod literals;
mod marking;
mod name;
mod name_words;
mod national_id;
mod part;
mod password;
mod pattern;
mod reading;
mod reasons;
mod recovery_phrase;
mod secret;
mod spec;
mod token;
mod topic;
mod words;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::evidence::{Finding, Likelihood};
use crate::normalize::{Budget, Views};
use crate::prompt::{Prompt, Unscanned};
use cache::Digest;
pub use cache::{ScanCache, ScanMemory};
use compile::{Compiled, Kind};
use joined::Joined;
use part::{Part, Parts};
use reading::{Candidate, Reading};

pub(crate) use compile::shipped_detectors;
pub use spec::{DetectorSpec, SpecError};
pub use topic::{LabelledText, TopicTraining, WordVectors, train_topics};

/// Bytes of views that one request may take; ten times the largest body that a gateway accepts.
const VIEW_BYTES_MAX: usize = 64 << 20;
/// Findings of one detector in one text; more of the same say nothing new.
const FINDINGS_MAX: usize = 256;
/// How far context words reach unless the spec says otherwise, in bytes.
const CONTEXT_BYTES: usize = 80;
/// How far negative words reach.
const NEGATIVE_BYTES: usize = 40;

/// All detectors of a policy set, compiled once.
pub struct Scanner {
    compiled: Compiled,
    /// Somebody asks what they find. If not, a text is read only for what cannot be scanned in it.
    is_asked: bool,
}

/// What a scan of one prompt found.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Findings ordered by text and position; dictionaries (`words`) count each hit as a finding.
    pub findings: Vec<Finding>,
    /// Content in the texts themselves that could not be decoded; the prompt's own list not included.
    pub unscanned: Vec<Unscanned>,
    /// A budget ended the scan before all was seen: `must_answer.scan_incomplete` decides.
    pub incomplete: bool,
    /// Ids of detectors that failed: `must_answer.detector_failed` decides.
    pub failed: Vec<String>,
}

impl Scanner {
    /// Compiles the detectors.
    ///
    /// # Errors
    /// Every spec that cannot be compiled, with the field at fault.
    pub fn new(specs: Vec<DetectorSpec>) -> Result<Scanner, Vec<SpecError>> {
        Ok(Scanner { compiled: Compiled::new(specs)?, is_asked: true })
    }

    /// The same detectors for rules that ask for none of them: they find nothing.
    pub(crate) fn unasked(self) -> Scanner {
        Scanner { is_asked: false, ..self }
    }

    /// Ids of all detectors, in order of their specs.
    pub fn detectors(&self) -> impl Iterator<Item = &str> {
        self.compiled.detectors.iter().map(|d| d.spec.id.as_str())
    }

    /// Whether what a detector finds is a value, and not a word that says what a text is about.
    pub(crate) fn finds_values(&self, id: &str) -> bool {
        let detector = self.compiled.detectors.iter().find(|d| d.spec.id == id);
        detector.is_some_and(|d| {
            let is_topic = d.spec.builtin.as_deref().is_some_and(topic::is_topic);
            d.spec.words.is_empty() && d.spec.lists.is_empty() && !is_topic
        })
    }

    /// The specs, in order of the numbers that conditions use.
    pub(crate) fn specs(&self) -> impl Iterator<Item = &DetectorSpec> {
        self.compiled.detectors.iter().map(|d| &d.spec)
    }

    /// Scans every text of a prompt, one by one and joined.
    pub fn scan(&self, prompt: &Prompt) -> Scan {
        self.scan_with(prompt, "", None)
    }

    /// Scans with results of earlier scans by the same set of policies.
    pub(crate) fn scan_with(
        &self,
        prompt: &Prompt,
        policy: &str,
        memory: Option<ScanMemory<'_>>,
    ) -> Scan {
        let mut pass = Pass {
            scanner: self,
            prompt,
            policy,
            // What nobody asks about is read faster than looked up.
            memory: memory.filter(|_| self.is_asked),
            parts: Parts::new(&self.compiled, prompt),
            digests: Vec::with_capacity(prompt.texts.len()),
            budget: Budget::new(VIEW_BYTES_MAX),
            scan: Scan::default(),
        };
        pass.scan_each();
        if self.is_asked {
            pass.scan_joined();
        }
        let Pass { mut scan, budget, .. } = pass;
        scan.findings.sort_by(|a, b| {
            (a.text, a.span.start, &a.detector).cmp(&(b.text, b.span.start, &b.detector))
        });
        scan.incomplete = budget.exceeded;
        scan
    }

    fn scan_text(
        &self,
        text: &str,
        part: Option<&Part<'_>>,
        budget: &mut Budget,
        failed: &mut Vec<String>,
    ) -> Found {
        let mut found = Found::default();
        if !budget.take(text.len()) {
            return found;
        }
        let alone = match part {
            None if self.is_asked => Part::read(&self.compiled, text),
            _ => None,
        };
        let part = part.or(alone.as_ref());
        let views = match part {
            Some(part) => Views::of_plain(text, &part.signs, budget),
            None => Views::of(text, budget),
        };
        let read = if self.is_asked { views.len() } else { 0 };
        for (index, view) in views.iter().take(read) {
            let spans = match part.filter(|_| index == 0) {
                Some(part) => self.scan_view(&part.reading, failed),
                None => self.scan_view(&self.compiled.read(&view.text), failed),
            };
            for span in spans {
                let range = views.original(index, span.range.clone());
                found.spans.push(Span { range, ..span });
            }
        }
        found.opaque = views.opaque.iter().map(|(kind, _)| *kind).collect();
        found.thin_out();
        found
    }

    /// Runs every detector over one view; a panic costs that detector and is reported.
    fn scan_view(&self, reading: &Reading<'_>, failed: &mut Vec<String>) -> Vec<Span> {
        let mut spans = self.scan_values(reading, failed);
        self.scan_topics(reading, failed, &mut spans);
        spans
    }

    /// Runs every detector that looks at the text only.
    fn scan_values(&self, reading: &Reading<'_>, failed: &mut Vec<String>) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut candidates = Vec::new();
        for (index, detector) in self.compiled.detectors.iter().enumerate() {
            let Kind::Text(finder) = &detector.kind else { continue };
            candidates.clear();
            let run = catch_unwind(AssertUnwindSafe(|| finder.find(reading, &mut candidates)));
            if run.is_err() {
                note_failure(failed, &detector.spec.id);
            }
            self.judge(reading, index, &mut candidates, &mut spans);
        }
        self.scan_schemes(reading, failed, &mut spans);
        spans
    }

    /// Runs the detectors that look at what the others found, too.
    fn scan_topics(&self, reading: &Reading<'_>, failed: &mut Vec<String>, spans: &mut Vec<Span>) {
        let model = self.compiled.topics();
        let detectors = self.compiled.detectors.iter().enumerate();
        let topics = detectors.filter_map(|(index, detector)| match detector.kind {
            Kind::Topic(topic) => Some((index, topic)),
            _ => None,
        });
        let run = catch_unwind(AssertUnwindSafe(|| model.passages(reading, spans)));
        let Ok(passages) = run else { return note_failure(failed, "topics") };
        for (detector, topic) in topics {
            spans.extend(passages.iter().filter_map(|passage| {
                let likelihood = model.likelihood(passage, topic)?;
                Some(Span { detector, range: passage.range.clone(), likelihood })
            }));
        }
    }

    /// Number and code schemes share one enumeration of windows.
    fn scan_schemes(&self, reading: &Reading<'_>, failed: &mut Vec<String>, spans: &mut Vec<Span>) {
        let mut found: Vec<(usize, Candidate)> = Vec::new();
        let run = catch_unwind(AssertUnwindSafe(|| {
            self.compiled.for_each_number(reading, &mut found);
            self.compiled.for_each_code(reading, &mut found);
        }));
        if run.is_err() {
            note_failure(failed, "number_schemes");
        }
        for (index, candidate) in found {
            self.judge(reading, index, &mut vec![candidate], spans);
        }
    }

    fn judge(
        &self,
        reading: &Reading<'_>,
        index: usize,
        candidates: &mut Vec<Candidate>,
        spans: &mut Vec<Span>,
    ) {
        if candidates.is_empty() {
            return;
        }
        let detector = &self.compiled.detectors[index];
        for candidate in candidates.drain(..) {
            if let Some(likelihood) = detector.likelihood(reading, &candidate) {
                spans.push(Span { detector: index, range: candidate.range, likelihood });
            }
        }
    }

    fn finding(&self, prompt: &Prompt, text: usize, span: &Span) -> Finding {
        Finding {
            detector: self.compiled.detectors[span.detector].spec.id.clone(),
            place: prompt.texts[text].place.clone(),
            likelihood: span.likelihood,
            text,
            span: span.range.clone(),
        }
    }
}

/// The scan of one prompt under way.
struct Pass<'a> {
    scanner: &'a Scanner,
    prompt: &'a Prompt,
    policy: &'a str,
    memory: Option<ScanMemory<'a>>,
    parts: Parts<'a>,
    /// What each text is known by, where scans are remembered.
    digests: Vec<Digest>,
    budget: Budget,
    scan: Scan,
}

impl Pass<'_> {
    fn scan_each(&mut self) {
        for (index, text) in self.prompt.texts.iter().enumerate() {
            let (scanner, parts) = (self.scanner, &mut self.parts);
            let scan = |budget: &mut Budget, failed: &mut Vec<String>| {
                let part = if scanner.is_asked { parts.of_text(index) } else { None };
                scanner.scan_text(&text.text, part, budget, failed)
            };
            let digest = self.memory.map(|memory| memory.digest(self.policy, &text.text));
            self.digests.extend(digest);
            let (budget, failed) = (&mut self.budget, &mut self.scan.failed);
            let known = cache::through(self.memory.zip(digest), budget, failed, scan);
            let opaque = known.found.opaque.iter();
            let place = |kind| Unscanned { kind, place: text.place.clone() };
            self.scan.unscanned.extend(opaque.map(|kind| place(*kind)));
            let spans = known.found.spans.iter();
            self.scan.findings.extend(spans.map(|s| self.scanner.finding(self.prompt, index, s)));
        }
    }

    /// What no text holds alone: the joined texts are scanned glued and with line breaks.
    fn scan_joined(&mut self) {
        let mut of_text = vec![Vec::new(); self.prompt.texts.len()];
        for (index, finding) in self.scan.findings.iter().enumerate() {
            of_text[finding.text].push(index);
        }
        for joined in Joined::all(self.prompt, &mut self.budget) {
            let (scanner, parts) = (self.scanner, &mut self.parts);
            let scan = |budget: &mut Budget, failed: &mut Vec<String>| {
                let part = parts.of_joined(&joined);
                scanner.scan_text(&joined.text, part.as_ref(), budget, failed)
            };
            let digest = self.memory.map(|memory| match joined.texts() {
                Some((glue, texts)) => {
                    let texts = texts.map(|index| self.digests[index]);
                    memory.digest_of_joined(self.policy, glue.in_words(), texts)
                }
                None => memory.digest(self.policy, &joined.text),
            });
            let (budget, failed) = (&mut self.budget, &mut self.scan.failed);
            let known = cache::through(self.memory.zip(digest), budget, failed, scan);
            for span in known.found.spans.iter().filter(|s| joined.counts(s.likelihood)) {
                let Some((text, range)) = joined.place(&span.range) else { continue };
                self.add_joined(&mut of_text[text], text, &Span { range, ..span.clone() });
            }
        }
    }

    /// Adds a finding of the joined texts, or what it says about one that is known.
    fn add_joined(&mut self, of_text: &mut Vec<usize>, text: usize, span: &Span) {
        let id = &self.scanner.compiled.detectors[span.detector].spec.id;
        let is_same = |f: &Finding| f.detector == *id && overlaps(&f.span, &span.range);
        match of_text.iter().find(|index| is_same(&self.scan.findings[**index])) {
            Some(&index) => {
                let known = &mut self.scan.findings[index];
                known.likelihood = known.likelihood.max(span.likelihood);
            }
            None => {
                of_text.push(self.scan.findings.len());
                self.scan.findings.push(self.scanner.finding(self.prompt, text, span));
            }
        }
    }
}

/// A finding before it has a place.
#[derive(Clone, Debug)]
struct Span {
    detector: usize,
    range: Range<usize>,
    likelihood: Likelihood,
}

/// What one text held.
#[derive(Clone, Default)]
struct Found {
    spans: Vec<Span>,
    opaque: Vec<crate::prompt::ContentKind>,
}

impl Found {
    /// Memory that it takes besides itself.
    fn bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.opaque.capacity()
    }

    /// Leaves one span of each detector where several overlap (views repeat each other), and not
    /// more than [`FINDINGS_MAX`] of each.
    fn thin_out(&mut self) {
        self.spans.sort_by(|a, b| {
            (a.detector, a.range.start, a.range.end).cmp(&(b.detector, b.range.start, b.range.end))
        });
        let mut kept: Vec<Span> = Vec::new();
        let mut count = 0;
        for span in self.spans.drain(..) {
            match kept.last_mut().filter(|last| last.detector == span.detector) {
                Some(last) if overlaps(&last.range, &span.range) => {
                    last.likelihood = last.likelihood.max(span.likelihood);
                    last.range.end = last.range.end.max(span.range.end);
                }
                Some(last) if count >= FINDINGS_MAX => {
                    last.likelihood = last.likelihood.max(span.likelihood);
                }
                Some(_) => {
                    count += 1;
                    kept.push(span);
                }
                None => {
                    count = 1;
                    kept.push(span);
                }
            }
        }
        kept.shrink_to_fit();
        self.spans = kept;
    }
}

fn overlaps(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

fn note_failure(failed: &mut Vec<String>, id: &str) {
    if !failed.iter().any(|known| known == id) {
        failed.push(id.to_owned());
    }
}
