//! What may never be kept of a card: security codes, PINs and PIN blocks, magnetic stripe data.
//!
//! Sensitive authentication data (PCI DSS 3.3.1) is a few digits that only the words beside them, the
//! column above them or the layout of a track give away. Words that mean other things too ("PIN",
//! "CID") count only where nothing says so, or where a card or a bank stands near.
//!
//! Sources: ISO/IEC 7813 (tracks), ISO 9564 (PIN blocks), ISO 8583 field 52.

use std::ops::Range;

use super::card::{Issuer, is_decimal_part};
use super::checksum::luhn;
use super::compile::{Compiler, Kind};
use super::lexicon::{Hit, ListId};
use super::reading::{Candidate, Detector, Own, Reading, said_before};
use crate::evidence::Likelihood::VeryLikely;

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    Some(match name {
        "card_security_code" => Kind::Text(Box::new(ShortCode::security_code(compiler))),
        "card_pin" => Kind::Text(Box::new(ShortCode::pin(compiler))),
        "card_track" => Kind::Text(Box::new(Track)),
        _ => return None,
    })
}

/// A few digits that mean something only beside a word: CVV, PIN.
struct ShortCode {
    words: ListId,
    /// Words that mean something else as often: they need a card or a bank near.
    shared: ListId,
    /// Words that say "this is something else".
    not: ListId,
    /// Words of addresses, beside which a PIN is a postal code unless a bank stands there too.
    places: ListId,
    /// Words of cards and banks.
    bank: ListId,
    /// Words before sixteen hexadecimal digits.
    blocks: Option<ListId>,
    lengths: Range<usize>,
}

/// How far a card or a bank may stand from a word that needs it.
const BANK_BYTES: usize = 100;
/// How far the words reach that make something else of a code.
const NOT_BYTES: usize = 40;

impl ShortCode {
    fn security_code(compiler: &mut Compiler) -> Self {
        ShortCode {
            words: compiler.lexicon.list(SECURITY_CODE_WORDS),
            shared: compiler.lexicon.list(["cid", "kpn", "csc"]),
            not: compiler.lexicon.list(NOT_CODE_WORDS),
            places: compiler.lexicon.list::<&str>([]),
            bank: compiler.lexicon.list(BANK_WORDS),
            blocks: None,
            lengths: 3..5,
        }
    }

    fn pin(compiler: &mut Compiler) -> Self {
        ShortCode {
            words: compiler.lexicon.list(PIN_WORDS),
            shared: compiler.lexicon.list(["pin code", "pincode"]),
            not: compiler.lexicon.list(NOT_PIN_WORDS),
            places: compiler.lexicon.list(PLACE_WORDS),
            bank: compiler.lexicon.list(BANK_WORDS),
            blocks: Some(compiler.lexicon.list(PIN_BLOCK_WORDS)),
            lengths: 4..7,
        }
    }
}

impl Detector for ShortCode {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        let sure = |range| Candidate { range, own: Own::Exactly(VeryLikely) };
        for hit in reading.hits(self.words) {
            let group = self.group_after(reading, hit.end as usize);
            let group = group.or_else(|| self.group_before(reading, hit.start as usize));
            let Some(group) = group else { continue };
            if !self.means_something_else(reading, hit, &group) {
                found.push(sure(group));
            }
        }
        found.extend(self.columns(reading).map(sure));
        let blocks = self.blocks.into_iter().flat_map(|list| reading.hits(list));
        found.extend(blocks.filter_map(|hit| pin_block(reading.text, hit.end as usize)).map(sure));
    }
}

impl ShortCode {
    /// Another word says what the code is, or the word means other things and no bank stands near.
    fn means_something_else(&self, reading: &Reading<'_>, hit: &Hit, group: &Range<usize>) -> bool {
        let word = hit.start as usize..hit.end as usize;
        let both = word.start.min(group.start)..word.end.max(group.end);
        let digits = reading.text[group.clone()].bytes().filter(u8::is_ascii_digit).count();
        // Six digits behind "PIN code" are an Indian postal code, four may be a PIN.
        let is_shared =
            reading.lexicon.is_in(hit, self.shared) && (self.blocks.is_none() || digits == 6);
        let is_place = reading.distance(self.places, &both, NOT_BYTES).is_some();
        let is_said = reading.distance(self.not, &both, NOT_BYTES).is_some();
        let has_bank = || reading.distance(self.bank, &both, BANK_BYTES).is_some();
        is_said || (is_shared || is_place) && !has_bank()
    }

    /// The digits that follow within a few words: `CVV: 123`, `cvv is 123`, `PIN code of 4821`.
    fn group_after(&self, reading: &Reading<'_>, at: usize) -> Option<Range<usize>> {
        let groups = &reading.digits.groups;
        let next = groups.get(groups.partition_point(|g| (g.start as usize) < at))?;
        let between = reading.text.get(at..next.start as usize)?;
        let letters = between.chars().filter(|c| c.is_alphabetic()).count();
        let single_digits = self.spaced_digits(reading, next.range().start);
        let range = single_digits.unwrap_or_else(|| next.range());
        let fits = self.fits(reading, &range) && between.len() <= 24 && letters <= 14;
        (fits && !between.contains(['\n', '?', '('])).then_some(range)
    }

    /// `871 is the cvv`.
    fn group_before(&self, reading: &Reading<'_>, at: usize) -> Option<Range<usize>> {
        let end = said_before(reading.text, at)?;
        let groups = &reading.digits.groups;
        let last = groups[..groups.partition_point(|g| (g.end as usize) <= end)].last()?;
        (last.end as usize == end && self.fits(reading, &last.range())).then(|| last.range())
    }

    fn fits(&self, reading: &Reading<'_>, range: &Range<usize>) -> bool {
        self.has_length(reading.text, range) && !is_decimal_part(reading.text, range)
    }

    fn has_length(&self, text: &str, range: &Range<usize>) -> bool {
        self.lengths.contains(&text[range.clone()].bytes().filter(u8::is_ascii_digit).count())
    }

    /// Values below a column's name: `exp,cvv` over `0928,871`, or `CVV` on a line of its own.
    fn columns(&self, reading: &Reading<'_>) -> impl Iterator<Item = Range<usize>> {
        let text = reading.text;
        let is_header = |at: &Hit| {
            let end = at.end as usize;
            text[end..text.floor_char_boundary(end + HEADER_BYTES_MAX)].contains('\n')
        };
        let has_header = reading.bytes.has(b'\n') && reading.hits(self.words).any(is_header);
        let groups = if has_header { &reading.digits.groups[..] } else { &[] };
        groups.iter().take(COLUMN_GROUPS_MAX).map(|group| group.range()).filter(|range| {
            let is_cell = self.has_length(text, range) && is_whole_cell(text, range);
            is_cell && self.header_names(reading, range.start)
        })
    }

    fn header_names(&self, reading: &Reading<'_>, at: usize) -> bool {
        let named = |header: Range<usize>| {
            let mut hits = reading.hits_in(self.words, header.clone());
            // "PIN" above a column of several words is a sentence about PINs.
            hits.any(|hit| (hit.start as usize, hit.end as usize) == (header.start, header.end))
        };
        let header = reading.column_header(at).or_else(|| line_above(reading.text, at));
        header.is_some_and(|header| named(trimmed(reading.text, header)))
    }

    /// `1 2 3` as one code.
    fn spaced_digits(&self, reading: &Reading<'_>, at: usize) -> Option<Range<usize>> {
        let bytes = reading.text.as_bytes();
        let mut end = at;
        let mut count = 0;
        while bytes.get(end).is_some_and(u8::is_ascii_digit)
            && !bytes.get(end + 1).is_some_and(u8::is_ascii_alphanumeric)
        {
            count += 1;
            end += 2;
            if bytes.get(end - 1).is_none_or(|b| !matches!(b, b' ' | b'-')) {
                break;
            }
        }
        (count >= self.lengths.start).then(|| at..(end - 1).min(bytes.len()))
    }
}

/// A header further from its line's end than this is prose.
const HEADER_BYTES_MAX: usize = 120;
/// Digit groups of a table that are looked at.
const COLUMN_GROUPS_MAX: usize = 500;

/// Nothing but a separator or the line's end touches the digits.
fn is_whole_cell(text: &str, range: &Range<usize>) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: u8| matches!(b, b',' | b';' | b'\t' | b'|' | b'\n' | b'\r' | b'"');
    let before = text[..range.start].trim_end_matches(' ').bytes().next_back().is_none_or(ends);
    before && bytes[range.end..].iter().find(|b| **b != b' ').is_none_or(|b| ends(*b))
}

/// The line right above a line that starts with the value.
fn line_above(text: &str, at: usize) -> Option<Range<usize>> {
    let above = text[..at].strip_suffix('\n')?;
    let start = above.rfind('\n').map_or(0, |end| end + 1);
    Some(start..above.len())
}

fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let is_frame = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '*' | ':');
    let start = range.start + (part.len() - part.trim_start_matches(is_frame).len());
    start..start + part.trim_matches(is_frame).len()
}

/// Sixteen hexadecimal digits behind "PIN block" or "DE52".
fn pin_block(text: &str, at: usize) -> Option<Range<usize>> {
    let rest = &text[at..text.floor_char_boundary(at + 32)];
    let start = rest.find(|c: char| c.is_ascii_hexdigit())?;
    let between = rest[..start].trim_matches([' ', ':', '=', '"', '\'', '(', ')', '-', '#']);
    let value = rest[start..].bytes().take_while(u8::is_ascii_hexdigit).count();
    let ends = !rest[start + value..].starts_with(|c: char| c.is_alphanumeric());
    let has_digit = rest[start..start + value].bytes().any(|b| b.is_ascii_digit());
    let fits = between.is_empty() && start <= 6 && value == 16 && ends && has_digit;
    fits.then(|| at + start..at + start + value)
}

/// Magnetic stripe data: `%B4111…^NAME^2712…`, `;4111…=2712…`, and with a D for the sign.
struct Track;

impl Detector for Track {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        if !reading.digits.any {
            return;
        }
        let bytes = reading.text.as_bytes();
        let mut digits = [0; 19];
        for window in reading.digits.windows(12..20) {
            let range = window.range();
            let len = window.copy_digits(reading.text, &mut digits);
            let is_track = match bytes.get(range.end) {
                Some(b'=') => digits_after(bytes, range.end + 1) >= 7,
                Some(b'^') => reading.text[range.end + 1..].chars().take(30).any(|c| c == '^'),
                _ => false,
            };
            if is_track && luhn(&digits[..len]) && Issuer::of(&digits[..len]).is_some() {
                found.push(Candidate { range, own: Own::Exactly(VeryLikely) });
            }
        }
        if !reading.bytes.has(b'D') {
            return;
        }
        let separators = reading.text.match_indices('D');
        found.extend(separators.filter_map(|(at, _)| hexadecimal_track(bytes, at)));
    }
}

/// `4539…D2809101…`: track 2 as terminals send it, in half bytes.
fn hexadecimal_track(bytes: &[u8], separator: usize) -> Option<Candidate> {
    let before =
        bytes[..separator].iter().rev().take(20).take_while(|b| b.is_ascii_digit()).count();
    let number = &bytes[separator - before..separator];
    let digits: Vec<u8> = number.iter().map(|b| b - b'0').collect();
    let is_card = (13..=19).contains(&before) && luhn(&digits) && Issuer::of(&digits).is_some();
    (is_card && digits_after(bytes, separator + 1) >= 7)
        .then(|| Candidate { range: separator - before..separator, own: Own::Exactly(VeryLikely) })
}

fn digits_after(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().take(20).take_while(|b| b.is_ascii_digit()).count()
}

#[rustfmt::skip]
const SECURITY_CODE_WORDS: &[&str] = &[
    "cvv", "cvv2", "cvc", "cvc2", "cid", "csc", "cvn", "cav2", "card security code", "security code", "card verification value", "verification code on the back", "code on the back", "digits on the back", "number on the back", "code on its back", "on the back of the card", "on the back of my card",
    "kartenprüfnummer", "prüfziffer der karte", "cryptogramme", "cryptogramme visuel", "codigo de seguridad", "codice di sicurezza", "codigo de seguranca",
    "beveiligingscode", "code de securite", "kpn", "sicherheitscode",
];
#[rustfmt::skip]
const PIN_WORDS: &[&str] = &[
    "pin", "pin code", "pin number", "card pin", "atm pin", "debit pin", "geheimzahl", "code pin", "clave pin", "codigo pin", "codice pin", "pincode",
];
/// Pins of electronics, of bowling and of telephones, not of cards.
#[rustfmt::skip]
const NOT_PIN_WORDS: &[&str] = &[
    "gpio", "arduino", "raspberry", "connector", "pinout", "zip", "pin out", "header", "led", "volt", "kicad", "eagle", "schematic", "net", "pcb", "chip", "mcu", "solder",
    "footprint", "driven", "datasheet", "ic", "microcontroller", "esp32", "stm32", "bowling", "iso", "sim", "puk", "bluetooth", "pairing", "paired", "headset", "pinned", "kingpin",
];
#[rustfmt::skip]
const PLACE_WORDS: &[&str] = &[
    "postal", "postal code", "post office", "address", "city", "district", "village", "bangalore", "bengaluru", "mumbai", "delhi", "new delhi", "chennai", "hyderabad", "kolkata", "pune", "jaipur", "lucknow", "ahmedabad", "kerala", "karnataka", "maharashtra", "india",
];
/// Fields that hold an encrypted PIN.
const PIN_BLOCK_WORDS: &[&str] =
    &["pin block", "pinblock", "de 52", "field 52", "bit 52", "data element 52", "epb"];
/// Codes that are no card's.
const NOT_CODE_WORDS: &[&str] = &[
    "error",
    "status",
    "http",
    "exit",
    "line",
    "page",
    "room",
    "section",
    "active directory",
    "directory",
    "ldap",
    "alarm",
    "compound",
];
/// Cards and banks: what makes a PIN one.
#[rustfmt::skip]
const BANK_WORDS: &[&str] = &[
    "card", "cards", "debit", "credit", "visa", "mastercard", "amex", "maestro", "atm", "bank", "banking", "cardholder", "account", "withdraw", "withdrawal", "karte", "girocard", "ec", "kreditkarte", "bankkarte",
    "geldautomat", "carte", "carte bleue", "tarjeta", "carta", "bancomat", "cartão", "cartao", "pinpas", "betaalkaart", "karta", "kort", "pan", "cvv", "expiry", "exp",
];
