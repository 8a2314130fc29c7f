//! Clinical text: diagnosis codes, doses, and documents that only patient care writes.
//!
//! Health words themselves are dictionaries (`words`); what needs code is here: an ICD-10 code beside
//! a word of diagnosis, a drug with a dose, HL7, X12 and FHIR messages, sections of a clinical note.
//! Sources: ICD-10-CM code structure, HL7 v2 segments, X12 837 HI segment, FHIR R4 resource names.

use std::ops::Range;

use super::compile::{Compiler, Kind};
use super::lexicon::ListId;
use super::reading::{Candidate, Detector, Own, Reading};
use crate::evidence::Likelihood::{Likely, VeryLikely};

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    Some(match name {
        "icd10_code" => Kind::Text(Box::new(Icd10)),
        "drug_dose" => Kind::Text(Box::new(Dose {
            drugs: compiler.shipped_list("drugs"),
            units: compiler.lexicon.list(DOSE_UNITS),
            schedule: compiler.lexicon.list(SCHEDULE),
        })),
        "clinical_document" => Kind::Text(Box::new(Document {
            marks: compiler.literals(MESSAGE_MARKS),
            segments: compiler.literals(SEGMENTS),
            resources: compiler.literals(["resourceType"]),
            sections: compiler.lexicon.list(SECTIONS),
        })),
        _ => return None,
    })
}

/// A letter, a digit, a digit or A/B, and up to four characters after a point.
struct Icd10;

impl Detector for Icd10 {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        let bytes = reading.text.as_bytes();
        for pair in reading.words.before_numbers() {
            let (letter, digits) = (&pair[0], &pair[1]);
            let start = letter.start as usize;
            let touching = letter.end == digits.start && letter.end - letter.start == 1;
            let free =
                start == 0 || !bytes[start - 1].is_ascii_alphanumeric() && bytes[start - 1] != b'.';
            if !touching || !free || !matches!(bytes[start], b'A'..=b'T' | b'V'..=b'Z') {
                continue;
            }
            if let Some(end) = icd_end(bytes, start) {
                let own = if reading.text[start..end].contains('.') {
                    Own::AsSpecified
                } else {
                    Own::NeedsContext
                };
                found.push(Candidate { range: start..end, own });
            }
        }
    }
}

fn icd_end(bytes: &[u8], start: usize) -> Option<usize> {
    let category = bytes.get(start + 1..start + 3)?;
    if !category[0].is_ascii_digit()
        || !(category[1].is_ascii_digit() || matches!(category[1], b'A' | b'B'))
    {
        return None;
    }
    let mut end = start + 3;
    if bytes.get(end) == Some(&b'.') {
        let sub = bytes[end + 1..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let valid = (1..=4).contains(&sub)
            && bytes[end + 1..end + 1 + sub]
                .iter()
                .any(|b| b.is_ascii_digit() || matches!(b, b'A' | b'X'));
        end = if valid { end + 1 + sub } else { end };
    }
    bytes.get(end).is_none_or(|b| !b.is_ascii_alphanumeric()).then_some(end)
}

/// A drug's name with an amount or a schedule near.
struct Dose {
    drugs: ListId,
    units: ListId,
    schedule: ListId,
}

impl Detector for Dose {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for hit in reading.hits(self.drugs) {
            let drug = hit.start as usize..hit.end as usize;
            let amount = reading
                .hits_in(self.units, drug.end..drug.end + 24)
                .find(|unit| follows_number(reading.text, unit.start as usize));
            let scheduled = reading.distance(self.schedule, &drug, 32).is_some();
            if let Some(unit) = amount {
                let own = Own::Exactly(if scheduled { VeryLikely } else { Likely });
                found.push(Candidate { range: drug.start..unit.end as usize, own });
            }
        }
    }
}

fn follows_number(text: &str, at: usize) -> bool {
    text[..at].trim_end().ends_with(|c: char| c.is_ascii_digit())
}

/// Interchange messages by their marks, notes by several section headers.
struct Document {
    marks: Range<u32>,
    /// Segments of HL7 messages, with what must follow them.
    segments: Range<u32>,
    resources: Range<u32>,
    sections: ListId,
}

/// Different section headers that make a note.
const SECTIONS_MIN: usize = 3;

impl Detector for Document {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        let marks = reading.literals_of(&self.marks);
        found
            .extend(marks.map(|at| Candidate { range: at.clone(), own: Own::Exactly(VeryLikely) }));
        let sure =
            |at: &Range<usize>| Candidate { range: at.clone(), own: Own::Exactly(VeryLikely) };
        let segments = reading.literals_of(&self.segments);
        found.extend(segments.filter(|at| is_segment(reading.text, at)).map(sure));
        let resources = reading.literals_of(&self.resources);
        found.extend(resources.filter(|at| is_resource(reading.text, at.end)).map(sure));
        let headers: Vec<_> = reading
            .hits(self.sections)
            .filter(|h| is_header(reading.text, h.end as usize))
            .collect();
        if let (Some(first), Some(last)) = (headers.first(), headers.last())
            && headers.len() >= SECTIONS_MIN
        {
            let range = first.start as usize..last.end as usize;
            found.push(Candidate { range, own: Own::Exactly(Likely) });
        }
    }
}

/// `OBX|3|NM|`, `EVN|A01|`, `PV1|1|I|`: a name of three letters, a number or an event, and a value.
fn is_segment(text: &str, at: &Range<usize>) -> bool {
    let starts = !text[..at.start].ends_with(|c: char| c.is_alphanumeric());
    let mut fields = text[at.end..].split('|');
    let (Some(first), Some(second)) = (fields.next(), fields.next()) else { return false };
    let is_name = |field: &str, len: usize| {
        field.len() == len && field.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    let is_count =
        !first.is_empty() && first.len() <= 2 && first.bytes().all(|b| b.is_ascii_digit());
    let exact =
        text[at.clone()].bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'|');
    let fits = match &text[at.clone()] {
        "EVN|" => is_name(first, 3) && first.starts_with(['A', 'O', 'R']),
        "OBX|" => is_count && is_name(second, 2),
        "PV1|" => is_count && matches!(second, "I" | "O" | "E" | "P" | "R" | "B"),
        "DG1|" => is_count,
        _ => false,
    };
    starts && exact && fits
}

/// A resource about one patient: it says so itself, or refers to one.
fn is_resource(text: &str, at: usize) -> bool {
    const OF_A_PATIENT: [&str; 3] = ["Patient", "Condition", "Observation"];
    const WITH_A_SUBJECT: [&str; 14] = [
        "Encounter",
        "MedicationRequest",
        "MedicationStatement",
        "MedicationAdministration",
        "Procedure",
        "DiagnosticReport",
        "AllergyIntolerance",
        "Immunization",
        "CarePlan",
        "Coverage",
        "Claim",
        "ServiceRequest",
        "DocumentReference",
        "Appointment",
    ];
    let rest = text[at..].strip_prefix('"').map(|rest| rest.trim_start());
    let Some(value) = rest.and_then(|rest| rest.strip_prefix(':')) else { return false };
    let value = value.trim_start();
    let name = value.strip_prefix('"').and_then(|value| value.split('"').next());
    let near = &text[at..text.floor_char_boundary(at + RESOURCE_BYTES)];
    let has_subject = || {
        let named = ["\"subject\"", "\"patient\"", "\"beneficiary\"", "\"actor\""];
        near.contains("\"reference\"") && named.iter().any(|name| near.contains(name))
    };
    name.is_some_and(|name| {
        OF_A_PATIENT.contains(&name) || WITH_A_SUBJECT.contains(&name) && has_subject()
    })
}

/// How far behind its type a resource names its subject.
const RESOURCE_BYTES: usize = 2000;

fn is_header(text: &str, end: usize) -> bool {
    text[end..].trim_start_matches([' ', '*']).starts_with([':', '\n'])
}

#[rustfmt::skip]
const DOSE_UNITS: &[&str] = &["mg", "mcg", "µg", "ug", "g", "ml", "units", "unit", "iu", "ie", "meq", "tablets", "tablet", "tabs", "tab", "capsules", "puffs", "drops", "mg/d", "mg/kg", "tabletten", "tablette", "comprimés", "comprimé", "comprimidos", "compresse", "einheiten", "unités", "unidades", "unità"];
#[rustfmt::skip]
const SCHEDULE: &[&str] = &[
    "bid", "tid", "qid", "qd", "prn", "po", "iv", "im", "sc", "daily", "twice daily", "once daily", "nightly", "qhs", "q8h", "q6h", "q12h", "every day", "twice a day", "three times a day", "at bedtime", "with meals", "weekly",
    "täglich", "morgens", "abends", "par jour", "matin", "soir", "al día", "cada", "diarios", "al giorno", "mattina", "sera", "ao dia", "por dia", "per dag", "dagelijks", "once a day", "per day", "stat", "dose", "dosage", "dosis", "started", "prescribed", "verordnet", "prescrit", "recetado", "prescritto", "receitado", "voorgeschreven", "takes", "taking",
];
const MESSAGE_MARKS: [&str; 12] = [
    "MSH|^~",
    "PID|1|",
    "PID||",
    "HI*ABK",
    "HI*BK",
    "CLM*",
    "<Patient xmlns=\"http://hl7.org/fhir\"",
    "<Condition xmlns=\"http://hl7.org/fhir\"",
    "<Observation xmlns=\"http://hl7.org/fhir\"",
    "<Encounter xmlns=\"http://hl7.org/fhir\"",
    "<patientRole>",
    "<patientRole ",
];
const SEGMENTS: [&str; 4] = ["OBX|", "EVN|", "PV1|", "DG1|"];
#[rustfmt::skip]
const SECTIONS: &[&str] = &[
    "chief complaint", "hpi", "history of present illness", "past medical history", "pmh", "social history", "family history", "review of systems", "ros", "physical exam", "physical examination", "assessment", "plan", "assessment and plan",
    "impression", "discharge medications", "discharge diagnosis", "admission diagnosis", "hospital course", "medications", "allergies", "vitals", "vital signs", "labs", "findings", "indication", "procedure", "disposition", "subjective", "objective", "diagnosis", "follow up", "cc", "a p", "discharge instructions", "past surgical history",
    "anamnese", "diagnose", "diagnosen", "befund", "therapie", "medikation", "epikrise", "beurteilung", "verlauf", "aufnahmegrund", "procedere", "motif de consultation", "antécédents", "traitement", "examen clinique", "conclusion", "motivo de consulta", "antecedentes", "diagnóstico", "tratamiento", "exploración", "motivo del ricovero", "anamnesi", "diagnosi", "terapia", "esame obiettivo", "queixa principal", "história clínica", "exame físico", "tratamento", "reden van opname", "voorgeschiedenis", "beleid", "lichamelijk onderzoek", "medicatie",
];
