//! Identifiers of the health system: record numbers, plan members, prescribers, devices.
//!
//! Record and member numbers have no checksum and every hospital its own format, so a word must
//! introduce them; NPI, DEA and MBI have structure of their own (45 CFR 164.514(b)(2)(i)(H)-(M)).
//! Sources: CMS NPI check digit (Luhn with prefix 80840), 21 CFR 1301 (DEA numbers), CMS MBI format.

use super::checksum::luhn;
use super::compile::{CodeScheme, Compiler, Kind, NumberScheme};
use super::letters::is_unspaced;
use super::lexicon::{Hit, ListId};
use super::reading::{Candidate, Code, Detector, Number, Own, Reading, said_before};
use crate::evidence::Likelihood::{Likely, VeryLikely};

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    let introduced = |compiler: &mut Compiler, words: &[&str], digits_min| {
        let weak = compiler.lexicon.list(WEAK_WORDS);
        Kind::Text(Box::new(Introduced { words: compiler.lexicon.list(words), weak, digits_min }))
    };
    Some(match name {
        "mrn" => introduced(compiler, MRN_WORDS, 4),
        "health_plan_id" => introduced(compiler, PLAN_WORDS, 5),
        "device_serial" => Kind::Text(Box::new(DeviceSerial {
            introduced: Introduced {
                words: compiler.lexicon.list(DEVICE_WORDS),
                weak: compiler.lexicon.list::<&str>([]),
                digits_min: 4,
            },
            serials: compiler.lexicon.list(SERIAL_WORDS),
            devices: compiler.lexicon.list(DEVICES),
        })),
        "npi" => NumberScheme { lengths: &[10], judge: npi }.into(),
        "dea_number" => CodeScheme { lengths: 9..10, judge: dea }.into(),
        "mbi" => CodeScheme { lengths: 11..12, judge: mbi }.into(),
        "vin" => CodeScheme { lengths: 17..18, judge: vin }.into(),
        _ => return None,
    })
}

/// A value that a word introduces: `MRN: A0048213`, `Aktenzeichen 2231-88`.
pub(super) struct Introduced {
    pub(super) words: ListId,
    /// Words that introduce other numbers too.
    pub(super) weak: ListId,
    pub(super) digits_min: usize,
}

impl Detector for Introduced {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for hit in reading.hits(self.words).filter(|hit| is_whole_term(reading.text, hit)) {
            let weak = reading.lexicon.is_in(hit, self.weak);
            let after = self.value_after(reading, hit.end as usize);
            let before = || self.value_before(reading.text, hit.start as usize).filter(|_| !weak);
            if let Some(range) = after.or_else(before) {
                let sure = if weak { Likely } else { VeryLikely };
                found.push(Candidate { range, own: Own::Exactly(sure) });
            }
        }
        self.find_in_columns(reading, found);
    }
}

/// Whether the word stands for itself: `등록번호` is a chart number, `주민등록번호` the number of a
/// resident, and only `subscriber #` introduces a number.
fn is_whole_term(text: &str, hit: &Hit) -> bool {
    let (start, end) = (hit.start as usize, hit.end as usize);
    let before = text[..start].chars().next_back();
    match &text[start..end] {
        "등록번호" => !before.is_some_and(is_unspaced) || text[..start].ends_with("환자"),
        word if word.eq_ignore_ascii_case("subscriber") => {
            text[end..].trim_start_matches(' ').starts_with('#')
        }
        _ => true,
    }
}

impl Introduced {
    /// `7720194 is the MRN`.
    fn value_before(&self, text: &str, at: usize) -> Option<std::ops::Range<usize>> {
        let end = said_before(text, at)?;
        let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let len = text[..end].chars().rev().take(24).take_while(|c| is_inner(*c)).count();
        let token = &text[end - len..end];
        let digits = token.bytes().filter(u8::is_ascii_digit).count();
        (digits >= self.digits_min && !is_date(token)).then(|| end - len..end)
    }

    /// The first token with enough digits within a few words of the introduction.
    pub(super) fn value_after(
        &self,
        reading: &Reading<'_>,
        at: usize,
    ) -> Option<std::ops::Range<usize>> {
        let rest = &reading.text[at..];
        let mut offset = 0;
        for _ in 0..4 {
            let skipped = rest[offset..].find(|c: char| c.is_alphanumeric())?;
            if skipped > 6
                || rest[offset..offset + skipped].contains(['?', ';'])
                || rest[offset..offset + skipped].contains(". ")
            {
                return None;
            }
            let start = offset + skipped;
            let len = token_len(&rest[start..]);
            let token = &rest[start..start + len];
            if token.bytes().filter(u8::is_ascii_digit).count() >= self.digits_min
                && !is_date(token)
            {
                return Some(at + start..at + start + len);
            }
            if !FILLERS.iter().any(|filler| token.eq_ignore_ascii_case(filler)) {
                return None;
            }
            offset = start + len;
        }
        None
    }

    fn find_in_columns(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        if !reading.bytes.has(b'\n') || !reading.bytes.has_digit() {
            return;
        }
        let first_line = reading.text.find('\n').unwrap_or(0);
        if reading.hits_in(self.words, 0..first_line).next().is_none() {
            return;
        }
        for group in reading.digits.groups.iter().filter(|g| g.len() >= self.digits_min).take(500) {
            let header = reading.column_header(group.start as usize);
            if header.is_some_and(|h| reading.hits_in(self.words, h).next().is_some()) {
                found.push(Candidate { range: group.range(), own: Own::Exactly(VeryLikely) });
            }
        }
    }
}

/// Serial numbers of devices that are implanted or worn: a word of a serial near the device's name.
struct DeviceSerial {
    introduced: Introduced,
    serials: ListId,
    devices: ListId,
}

/// How far a device may stand from the word that announces its serial number.
const DEVICE_BYTES: usize = 48;

impl Detector for DeviceSerial {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        self.introduced.find(reading, found);
        for hit in reading.hits(self.serials) {
            let word = hit.start as usize..hit.end as usize;
            let has_device = reading.distance(self.devices, &word, DEVICE_BYTES).is_some();
            let value = has_device.then(|| serial_after(reading.text, word.end)).flatten();
            found.extend(value.map(|range| Candidate { range, own: Own::Exactly(VeryLikely) }));
        }
    }
}

/// The first token with four digits or more on the line, within [`DEVICE_BYTES`].
fn serial_after(text: &str, at: usize) -> Option<std::ops::Range<usize>> {
    let near = &text[at..text.floor_char_boundary(at + DEVICE_BYTES)];
    let near = &near[..near.find(['\n', '?', ';']).unwrap_or(near.len())];
    let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut start = 0;
    for token in near.split_inclusive(|c: char| !is_inner(c)) {
        let value = token.trim_end_matches(|c: char| !is_inner(c));
        if value.bytes().filter(u8::is_ascii_digit).count() >= 4 && !is_date(value) {
            return Some(at + start..at + start + value.len());
        }
        start += token.len();
    }
    None
}

/// Longer tokens are no numbers, and a text that is one long word is not read from each of its places.
const TOKEN_BYTES_MAX: usize = 256;

/// Letters, digits and inner dashes; single digits with spaces between count as one token.
fn token_len(rest: &str) -> usize {
    let rest = &rest[..rest.floor_char_boundary(TOKEN_BYTES_MAX)];
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '.' | '_');
    let end = rest.find(|c: char| !is_inner(c)).unwrap_or(rest.len());
    let end = rest[..end].trim_end_matches(['-', '/', '.', '_']).len();
    if end == 1 && rest.as_bytes()[0].is_ascii_digit() {
        let spaced = rest
            .find(|c: char| !c.is_ascii_digit() && !matches!(c, ' ' | '-'))
            .unwrap_or(rest.len());
        return rest[..spaced].trim_end().len();
    }
    if end == 0 {
        rest.chars()
            .next()
            .map_or(0, char::len_utf8)
            .max(rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len()))
    } else {
        end
    }
}

/// `03/04/1956`, `2024-01-05`: dates are not record numbers.
fn is_date(token: &str) -> bool {
    let parts: Vec<&str> = token.split(['/', '-', '.']).collect();
    parts.len() == 3
        && parts
            .iter()
            .all(|p| matches!(p.len(), 1 | 2 | 4) && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Luhn over 80840 and the ten digits; providers' numbers are public, so context decides.
fn npi(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let prefixed = [&[8, 0, 8, 4, 0], d].concat();
    (matches!(d[0], 1 | 2) && luhn(&prefixed)).then_some(Own::NeedsContext)
}

/// (d1+d3+d5) + 2(d2+d4+d6) ends in d7; a registrant letter and the surname's initial.
fn dea(code: &Code<'_>) -> Option<Own> {
    let c = code.compact;
    let head =
        b"ABCDEFGHJKLMPRSTUX".contains(&c[0]) && (c[1].is_ascii_alphabetic() || c[1] == b'9');
    if !head || !c[2..].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let d: Vec<u32> = c[2..].iter().map(|b| u32::from(b - b'0')).collect();
    let sum = d[0] + d[2] + d[4] + 2 * (d[1] + d[3] + d[5]);
    (sum % 10 == d[6]).then_some(Own::AsSpecified)
}

/// Eleven places of fixed kinds, without S, L, O, I, B, Z.
fn mbi(code: &Code<'_>) -> Option<Own> {
    const LETTERS: &[u8] = b"ACDEFGHJKMNPQRTUVWXY";
    let kinds = b"CAXNAXNAANN";
    let fits = kinds.iter().zip(code.compact).all(|(kind, c)| match kind {
        b'C' => matches!(c, b'1'..=b'9'),
        b'A' => LETTERS.contains(c),
        b'N' => c.is_ascii_digit(),
        _ => c.is_ascii_digit() || LETTERS.contains(c),
    });
    fits.then_some(Own::AsSpecified)
}

/// Seventeen characters without I, O, Q; the ninth is the check digit (49 CFR 565.15).
fn vin(code: &Code<'_>) -> Option<Own> {
    const WEIGHTS: [u32; 17] = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2];
    const VALUES: [u32; 26] =
        [1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 0, 7, 0, 9, 2, 3, 4, 5, 6, 7, 8, 9];
    let c = code.compact;
    if c.iter().any(|b| b"IOQ".contains(b)) || code.range.len() > 17 {
        return None;
    }
    let value =
        |b: u8| if b.is_ascii_digit() { u32::from(b - b'0') } else { VALUES[(b - b'A') as usize] };
    let sum: u32 = c.iter().zip(WEIGHTS).map(|(&b, w)| value(b) * w).sum();
    let check = if sum % 11 == 10 { b'X' } else { b'0' + (sum % 11) as u8 };
    Some(if check == c[8] { Own::Exactly(Likely) } else { Own::NeedsContext })
}

#[rustfmt::skip]
const MRN_WORDS: &[&str] = &[
    "mrn", "mr no", "medical record", "medical record number", "medical record no", "med rec", "med rec no", "chart", "chart number", "chart no", "patient id",
    "patient number", "patient no", "pat id", "hospital number", "hospital no", "hosp no", "encounter", "encounter number", "encounter id", "visit number", "accession",
    "accession number", "specimen", "specimen id", "patient identifier", "subject id", "urn", "unit record number", "ehr id", "emr id",
    "patientennummer", "patienten nr", "patientennr", "patient nr", "fallnummer", "fall nr", "aktennummer", "patientenakte", "aufnahmenummer", "krankenakte", "patienten id", "pat nr",
    "numero de dossier", "numéro de dossier", "n dossier", "dossier medical", "dossier patient", "ipp", "numero patient", "identifiant patient", "nip", "dossier médical n",
    "numero de historia", "historia clinica", "historia clínica", "nhc", "numero de paciente", "n historia", "expediente", "expediente clinico",
    "cartella clinica", "cartella clinica n", "numero paziente", "id paziente", "codice paziente", "nosologico",
    "prontuario", "prontuário", "numero do prontuario", "processo clinico", "processo clínico", "numero do utente", "numero de utente",
    "patientnummer", "dossiernummer", "patiëntnummer", "patiëntnr", "opnamenummer", "journalnummer", "numer pacjenta", "numer historii choroby", "numer karty",
    "номер карты", "медкарта", "история болезни", "hasta no", "protokol no", "dosya no", "病历号", "住院号", "カルテ番号", "患者番号", "患者id", "등록번호", "차트번호", "رقم الملف", "رقم المريض",
];
/// Words that introduce numbers outside hospitals too.
#[rustfmt::skip]
const WEAK_WORDS: &[&str] = &[
    "chart", "encounter", "accession", "specimen", "urn", "nip", "visit number", "expediente", "dossiernummer", "numer karty", "member id", "member number", "member no", "policy number", "policy no", "insurance number", "insurance policy", "group number", "claim number", "claim no", "subscriber id", "subscriber number", "subscriber", "poliza", "polisnummer", "versicherungsnummer", "verzekeringsnummer", "numero de seguro", "numero adherent", "accession number", "subject id", "aktennummer", "journalnummer", "protokol no", "dosya no", "numero di polizza",
];
#[rustfmt::skip]
const PLAN_WORDS: &[&str] = &[
    "member id", "member number", "member no", "subscriber id", "subscriber number", "subscriber no", "subscriber", "policy number", "policy no", "insurance id", "insurance number", "beneficiary id", "beneficiary number",
    "health plan id", "medicaid id", "medicaid number", "medicare number", "medicare id", "hicn", "group number", "rx member", "claim number", "claim no", "insurance policy",
    "versichertennummer", "versicherungsnummer", "krankenversichertennummer", "kvnr", "numero d'assure", "numero de assure", "numero adherent", "numéro d'adhérent", "numero de afiliado", "numero de seguro", "poliza", "numero di polizza",
    "tessera sanitaria", "carteirinha", "numero da apolice", "polisnummer", "verzekerdennummer", "verzekeringsnummer",
];
#[rustfmt::skip]
const DEVICE_WORDS: &[&str] = &[
    "pacemaker serial", "device serial", "implant serial", "serial number of the pacemaker", "serial of the implant", "pump serial", "icd serial", "implant lot", "device identifier", "udi", "implanted device",
    "pacemaker serial number", "pacemaker sn", "pacemaker model", "stent serial", "defibrillator serial", "insulin pump serial", "cochlear implant serial", "implant id",
];
#[rustfmt::skip]
const SERIAL_WORDS: &[&str] = &[
    "sn", "s/n", "serial", "serial number", "serial no", "seriennummer", "serien nr", "geräte nr", "gerätenummer", "numéro de série", "n de série", "número de serie", "numero di serie", "matricola", "número de série", "serienummer",
    "numer seryjny", "device id",
];
/// What is implanted in a person or worn.
#[rustfmt::skip]
const DEVICES: &[&str] = &[
    "pacemaker", "pace maker", "icd", "defibrillator", "insulin pump", "infusion pump", "pump", "implant", "implanted", "implantable", "stent", "hearing aid", "hearing aids", "cochlear", "cpap", "bipap", "ventilator", "glucose monitor", "cgm", "dexcom",
    "neurostimulator", "stimulator", "prosthesis", "prosthetic", "loop recorder", "lvad", "port a cath", "hip stem", "knee implant", "iol", "lens implant", "herzschrittmacher", "herzschrittmachers", "schrittmacher", "schrittmachers", "insulinpumpe", "hörgerät", "hörgeräts", "implantat", "implantats", "prothese", "defibrillators",
    "stimulateur", "stimulateur cardiaque", "pompe à insuline", "prothèse", "prothèse auditive", "appareil auditif", "marcapasos", "bomba de insulina", "audífono", "prótesis", "marca passo", "pompa per insulina", "microinfusore", "protesi", "apparecchio acustico", "bomba de insulina", "prótese", "aparelho auditivo", "insulinepomp", "gehoorapparaat", "prothese", "rozrusznik", "pompa insulinowa",
];
/// Words between an introduction and its value.
#[rustfmt::skip]
const FILLERS: &[&str] = &["is", "no", "nr", "n", "num", "number", "id", "was", "of", "record", "code", "patient", "for", "the", "her", "his", "my", "lautet", "ist", "est", "es", "numero", "número", "numéro", "nummer", "ref", "reads", "as", "becomes", "equals", "mrn", "chart", "medical"];
