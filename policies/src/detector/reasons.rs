//! Why a detector found what it found, in words for the person who asks; never the matched text.
//!
//! The scan keeps no reasons, for it runs on every request and reasons are asked for seldom: they are
//! worked out again over the text as it stands.

use std::collections::BTreeMap;
use std::ops::Range;

use super::compile::CompiledDetector;
use super::reading::Reading;
use super::{CONTEXT_BYTES, NEGATIVE_BYTES, Scanner, Span};
use crate::evidence::Finding;
use crate::prompt::Prompt;

impl Scanner {
    /// What spoke for each finding and what against it.
    pub(crate) fn reasons(&self, prompt: &Prompt, findings: &[Finding]) -> Vec<Vec<String>> {
        let mut read: BTreeMap<usize, (Reading<'_>, Vec<Span>)> = BTreeMap::new();
        for finding in findings {
            if let Some(text) = prompt.texts.get(finding.text) {
                read.entry(finding.text).or_insert_with(|| self.read_plainly(&text.text));
            }
        }
        let reasons = findings.iter().map(|finding| self.reason(finding, read.get(&finding.text)));
        reasons.collect()
    }

    /// What the detectors find in a text as it stands.
    fn read_plainly<'a>(&'a self, text: &'a str) -> (Reading<'a>, Vec<Span>) {
        let reading = self.compiled.read(text);
        let spans = self.scan_view(&reading, &mut Vec::new());
        (reading, spans)
    }

    fn reason(&self, finding: &Finding, read: Option<&(Reading<'_>, Vec<Span>)>) -> Vec<String> {
        let mut detectors = self.compiled.detectors.iter().enumerate();
        let Some((index, detector)) = detectors.find(|d| d.1.spec.id == finding.detector) else {
            return Vec::new();
        };
        let mut reasons: Vec<String> = detector.spec.title.clone().into_iter().collect();
        let Some((reading, plain)) = read else { return reasons };
        let overlaps = |span: &&Span| {
            span.detector == index
                && span.range.start < finding.span.end
                && finding.span.start < span.range.end
        };
        match plain.iter().find(overlaps) {
            Some(span) => reasons.extend(detector.context_in_words(reading, &span.range)),
            None => reasons.push(
                "it shows only once the text is decoded, folded or joined with its neighbours"
                    .to_owned(),
            ),
        }
        reasons
    }
}

impl CompiledDetector {
    /// Which words around a finding raised or lowered it, by their distance.
    fn context_in_words(&self, reading: &Reading<'_>, range: &Range<usize>) -> Vec<String> {
        let reach = self.spec.near_characters.map_or(CONTEXT_BYTES, usize::from);
        let context = self.near.map(|_| match self.context_distance(reading, range) {
            Some(0) => "a word of its context stands beside it".to_owned(),
            Some(bytes) => format!("a word of its context stands {bytes} characters away"),
            None => format!("no word of its context stands within {reach} characters"),
        });
        let negative = self.negative.and_then(|list| reading.distance(list, range, NEGATIVE_BYTES));
        let negative = negative
            .map(|bytes| format!("a word that speaks against it stands {bytes} characters away"));
        context.into_iter().chain(negative).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::detector::{DetectorSpec, Scanner};
    use crate::evidence::Likelihood::{Likely, Possible};
    use crate::prompt::Prompt;

    fn reasons(text: &str) -> Vec<String> {
        let spec = DetectorSpec {
            id: "chart".to_owned(),
            title: Some("Number of a chart".to_owned()),
            looks_like: Some("SM-9999999".to_owned()),
            alone: Some(Possible),
            with_context: Some(Likely),
            near_words: vec!["patient".to_owned()],
            negative_words: vec!["invoice".to_owned()],
            ..DetectorSpec::default()
        };
        let scanner = Scanner::new(vec![spec]).unwrap();
        let prompt = Prompt::from_user_text(text);
        let scan = scanner.scan(&prompt);
        scanner.reasons(&prompt, &scan.findings[..1]).remove(0)
    }

    #[test]
    fn reasons_name_the_words_around_a_finding_and_how_it_was_seen() {
        for (text, expected) in [
            ("SM-0048213", "no word of its context stands within 80 characters"),
            ("patient SM-0048213", "a word of its context stands 1 characters away"),
            (
                "U00tMDA0ODIxMyBhbmQgc29tZSBtb3JlIHdvcmRz",
                "it shows only once the text is decoded, folded or joined with its neighbours",
            ),
        ] {
            assert_eq!(reasons(text), ["Number of a chart", expected], "{text}");
        }
        let against = reasons("patient no, SM-0048213 invoice");
        assert_eq!(against[2], "a word that speaks against it stands 1 characters away");
    }
}
