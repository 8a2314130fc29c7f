//! Dictionaries: every hit of a word or phrase is a finding.

use super::compile::{Compiler, Kind, shipped_terms};
use super::lexicon::ListId;
use super::reading::{Candidate, Detector, Own, Reading};
use super::spec::{DetectorSpec, SpecError};

/// Compiles `words` and `lists` of a spec.
pub(super) fn compile(spec: &DetectorSpec, compiler: &mut Compiler) -> Result<Kind, SpecError> {
    let mut terms: Vec<String> = spec.words.clone();
    for name in &spec.lists {
        let shipped = shipped_terms(name).ok_or_else(|| unknown_list(&spec.id, name))?;
        terms.extend(shipped.map(str::to_owned));
    }
    Ok(Kind::Text(Box::new(Dictionary { list: compiler.lexicon.list(terms) })))
}

struct Dictionary {
    list: ListId,
}

impl Detector for Dictionary {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        found.extend(reading.hits(self.list).map(|hit| Candidate {
            range: hit.start as usize..hit.end as usize,
            own: Own::AsSpecified,
        }));
    }
}

fn unknown_list(detector: &str, name: &str) -> SpecError {
    SpecError {
        detector: detector.to_owned(),
        field: "lists",
        message: format!("unknown word list {name:?}"),
        hint: Some("the shipped lists are the files of policies/detectors/words/".to_owned()),
    }
}
