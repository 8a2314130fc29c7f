//! Payment cards and what may never be kept of them: security codes, tracks, PINs.
//!
//! A card number is digits of an issuer's range and length whose Luhn check passes (PCI DSS 3.5.1);
//! sensitive authentication data (3.3.1) is known by the words beside it or by its track layout.
//! Truncated numbers (first six and last four, FAQ 1091) have hidden digits and never match.
//! Sources: ISO/IEC 7812-1, ISO/IEC 7813 (tracks), issuer ranges as the networks publish them.

use std::ops::Range;

use super::checksum::luhn;
use super::compile::{Compiler, Kind, NumberScheme};
use super::lexicon::ListId;
use super::reading::{Candidate, Detector, Number, Own, Reading};
use crate::evidence::Likelihood::{Likely, Possible, VeryLikely};

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    Some(match name {
        "payment_card" => Kind::Text(Box::new(PaymentCard::new(compiler))),
        "card_security_code" => Kind::Text(Box::new(ShortCode::security_code(compiler))),
        "card_pin" => Kind::Text(Box::new(ShortCode::pin(compiler))),
        "card_track" => Kind::Text(Box::new(Track)),
        "card_expiry" => NumberScheme { lengths: &[4, 6], judge: |_| None }.into(),
        _ => return None,
    })
}

/// Primary account numbers.
struct PaymentCard {
    /// Words that say "this is a card".
    context: ListId,
    /// Words that say "this number is something else".
    other: ListId,
    /// Words of test suites and documentation.
    test: ListId,
}

impl PaymentCard {
    fn new(compiler: &mut Compiler) -> Self {
        PaymentCard {
            context: compiler.lexicon.list(CARD_WORDS),
            other: compiler.lexicon.list(OTHER_NUMBER_WORDS),
            test: compiler.lexicon.list(TEST_WORDS),
        }
    }

    fn judge(&self, reading: &Reading<'_>, number: &Number<'_>) -> Option<Own> {
        let digits = number.digits;
        let issuer = Issuer::of(digits)?;
        if !luhn(digits)
            || is_decimal_part(reading.text, &number.window.range())
            || digits[1..].iter().all(|d| *d == digits[0])
        {
            return None;
        }
        if issuer == Issuer::OnlyWithContext && is_cut_from_equal_groups(number) {
            return None;
        }
        let range = number.window.range();
        let context = reading.distance(self.context, &range, 100);
        if is_test_number(digits) && reading.distance(self.test, &range, 160).is_some() {
            return None;
        }
        let other = reading.distance(self.other, &range, 40);
        let said_otherwise = other.is_some_and(|o| context.is_none_or(|c| o < c));
        let layout = Layout::of(number);
        let sure = match (issuer, layout, context.is_some() && !said_otherwise) {
            (_, Layout::Broken, false) => return None,
            (_, _, true) => VeryLikely,
            (Issuer::OnlyWithContext, _, false) => return None,
            (Issuer::Known, Layout::Usual, false) if said_otherwise => Possible,
            (Issuer::Known, Layout::Usual, false) => Likely,
            (Issuer::Known, Layout::Unusual, false) if said_otherwise => return None,
            (Issuer::Known, Layout::Unusual, false) => Possible,
        };
        Some(Own::Exactly(sure))
    }
}

impl Detector for PaymentCard {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        let mut digits = [0; 19];
        for window in reading.digits.windows(12..20) {
            let len = window.copy_digits(reading.text, &mut digits);
            let number = Number { text: reading.text, window, digits: &digits[..len] };
            if let Some(own) = self.judge(reading, &number) {
                found.push(Candidate { range: window.range(), own });
            }
        }
    }
}

/// What the first digits and the length say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Issuer {
    Known,
    /// Ranges so wide that only a word beside them makes a card of it: Maestro.
    OnlyWithContext,
}

impl Issuer {
    fn of(digits: &[u8]) -> Option<Issuer> {
        let prefix = digits[..6].iter().fold(0u32, |p, &d| p * 10 + u32::from(d));
        let known = match digits.len() {
            13 => prefix / 100_000 == 4,
            14 => matches!(prefix / 1000, 300..=305 | 360..=369 | 380..=399),
            15 => matches!(prefix / 10_000, 34 | 37),
            16 => {
                matches!(prefix, 400_000..=499_999 | 510_000..=559_999 | 222_100..=272_099)
                    || is_discover_or_jcb(prefix)
                    || prefix / 10_000 == 62
            }
            17 | 18 => prefix / 10_000 == 62 || prefix / 10_000 == 65,
            19 => prefix / 100_000 == 4 || prefix / 10_000 == 62 || is_discover_or_jcb(prefix),
            _ => false,
        };
        let maestro = (12..=19).contains(&digits.len()) && matches!(prefix / 10_000, 50 | 56..=69);
        match (known, maestro) {
            (true, _) => Some(Issuer::Known),
            (false, true) => Some(Issuer::OnlyWithContext),
            (false, false) => None,
        }
    }
}

fn is_discover_or_jcb(prefix: u32) -> bool {
    matches!(prefix, 601_100..=601_199 | 644_000..=659_999 | 352_800..=358_999 | 622_126..=622_925)
}

/// How the digits are grouped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// In one piece or as printed on cards, with one separator.
    Usual,
    /// Any other grouping: needs a word beside it.
    Unusual,
    /// No number at all: years, a longer list of digits.
    Broken,
}

impl Layout {
    fn of(number: &Number<'_>) -> Layout {
        let window = &number.window;
        let shape = window.shape();
        if window.cuts_a_list_of_digits() || is_list_of_years(number) {
            return Layout::Broken;
        }
        let single_digits = shape.iter().all(|&len| len == 1);
        let printed = matches!(
            shape.as_slice(),
            [_] | [4, 4, 4, 4]
                | [4, 6, 5]
                | [4, 6, 4]
                | [4, 4, 4, 4, 3]
                | [8, 8]
                | [4, 4, 4, 1]
                | [6, 13]
                | [4, 4, 4, 3]
        );
        if is_cut_from_a_series(number) {
            return Layout::Broken;
        }
        let even = shape.len() > 3 && shape.windows(2).all(|w| w[0] == w[1]);
        if (printed || single_digits || even) && window.is_evenly_separated(number.text) {
            Layout::Usual
        } else {
            Layout::Unusual
        }
    }
}

/// Four values out of a longer series with one separator: `…, 4030, 1544, 7739, 1958, …`.
fn is_cut_from_a_series(number: &Number<'_>) -> bool {
    let window = &number.window;
    let Some(separator) = window.separators(number.text).next() else { return false };
    let between = |a: u32, b: u32| &number.text[a as usize..b as usize] == separator;
    let last = window.first + window.groups.len() - 1;
    let before = window.first > 0
        && between(window.run[window.first - 1].end, window.run[window.first].start);
    let after =
        window.run.get(last + 1).is_some_and(|next| between(window.run[last].end, next.start));
    window.is_evenly_separated(number.text)
        && (before || after)
        && separator.contains([',', '\n', '\t', ';'])
}

/// `5678-9012-3456` out of `1234-5678-9012-3456`: a shorter number than the one that stands there.
fn is_cut_from_equal_groups(number: &Number<'_>) -> bool {
    let window = &number.window;
    let Some(separator) = window.separators(number.text).next() else { return false };
    let len = window.groups[0].len();
    let goes_on = |a: Option<usize>, b: usize| {
        let pair = a.and_then(|a| Some((window.run.get(a)?, window.run.get(b)?)));
        pair.is_some_and(|(a, b)| {
            a.len() == len
                && b.len() == len
                && &number.text[a.end as usize..b.start as usize] == separator
        })
    };
    let first = window.first;
    let last = first + window.groups.len() - 1;
    window.groups.len() == 3
        && (goes_on(first.checked_sub(1), first) || goes_on(Some(last), last + 1))
}

/// `2019 2020 2021 2022` is a table header.
fn is_list_of_years(number: &Number<'_>) -> bool {
    number.window.groups.len() > 1
        && number.digits.len() == 4 * number.window.groups.len()
        && number.digits.chunks(4).all(|y| matches!(y, [1, 9, ..] | [2, 0, ..]))
}

/// `0.4111111111111111` is a fraction.
fn is_decimal_part(text: &str, range: &Range<usize>) -> bool {
    let bytes = text.as_bytes();
    let before = range.start.checked_sub(1).map(|i| bytes[i]);
    let digit_before = range.start >= 2 && bytes[range.start - 2].is_ascii_digit();
    // `28,380,4111111111111111` is a row of values.
    let mut whole_part = bytes[..range.start.saturating_sub(1)].iter().rev();
    let is_listed = before == Some(b',') && whole_part.find(|b| !b.is_ascii_digit()) == Some(&b',');
    let comes_after_point = matches!(before, Some(b'.' | b',')) && digit_before && !is_listed;
    let after = bytes.get(range.end).copied();
    let goes_on = after == Some(b'.') && bytes.get(range.end + 1).is_some_and(u8::is_ascii_digit);
    comes_after_point || (goes_on && !text[range.clone()].contains('.'))
}

fn is_test_number(digits: &[u8]) -> bool {
    let number: String = digits.iter().map(|d| (b'0' + d) as char).collect();
    TEST_NUMBERS.contains(&number.as_str())
}

/// A few digits that mean something only beside a word: CVV, PIN.
struct ShortCode {
    words: ListId,
    not: ListId,
    lengths: Range<usize>,
}

impl ShortCode {
    fn security_code(compiler: &mut Compiler) -> Self {
        ShortCode {
            words: compiler.lexicon.list(SECURITY_CODE_WORDS),
            not: compiler
                .lexicon
                .list(["error", "status", "http", "exit", "line", "page", "room", "section"]),
            lengths: 3..5,
        }
    }

    fn pin(compiler: &mut Compiler) -> Self {
        ShortCode {
            words: compiler.lexicon.list(PIN_WORDS),
            not: compiler.lexicon.list(NOT_PIN_WORDS),
            lengths: 4..7,
        }
    }
}

impl Detector for ShortCode {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for hit in reading.hits(self.words) {
            let end = hit.end as usize;
            let Some(group) = self.group_after(reading, end) else { continue };
            if reading.distance(self.not, &(hit.start as usize..group.end), 40).is_some() {
                continue;
            }
            found.push(Candidate { range: group, own: Own::Exactly(VeryLikely) });
        }
    }
}

impl ShortCode {
    /// The digits that follow within a few words: `CVV: 123`, `cvv is 123`, `PIN code of 4821`.
    fn group_after(&self, reading: &Reading<'_>, at: usize) -> Option<Range<usize>> {
        let groups = &reading.digits.groups;
        let next = groups.get(groups.partition_point(|g| (g.start as usize) < at))?;
        let between = reading.text.get(at..next.start as usize)?;
        let letters = between.chars().filter(|c| c.is_alphabetic()).count();
        let single_digits = self.spaced_digits(reading, next.range().start);
        let range = single_digits.unwrap_or_else(|| next.range());
        let digits = reading.text[range.clone()].bytes().filter(u8::is_ascii_digit).count();
        let fits = self.lengths.contains(&digits) && between.len() <= 24 && letters <= 14;
        (fits && !between.contains(['\n', '?', '(']) && !is_decimal_part(reading.text, &range))
            .then_some(range)
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

/// Magnetic stripe data: `%B4111…^NAME^2712…`, `;4111…=2712…`.
struct Track;

impl Detector for Track {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
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
    }
}

fn digits_after(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().take(20).take_while(|b| b.is_ascii_digit()).count()
}

#[rustfmt::skip]
const CARD_WORDS: &[&str] = &[
    "card", "cards", "credit card", "debit card", "visa", "mastercard", "amex", "american express", "discover", "diners", "jcb",
    "unionpay", "maestro", "pan", "cc", "ccn", "cardholder", "card number", "card no", "cvv", "cvc", "cvv2", "cid", "exp", "expiry", "expires",
    "expiration", "charge", "payment", "billing", "karte", "kreditkarte", "kartennummer", "kartennr", "carte", "carte bancaire", "carte bleue", "numero de carte",
    "tarjeta", "tarjeta de credito", "carta", "carta di credito", "cartao", "cartao de credito", "creditcard", "creditkaart", "kaartnummer", "betaalkaart",
    "karta", "kort", "kortnummer", "kartu", "kredi karti", "карта", "карты", "クレジットカード", "カード番号", "信用卡", "卡号", "신용카드", "カード",
];
#[rustfmt::skip]
const OTHER_NUMBER_WORDS: &[&str] = &[
    "order", "tracking", "shipment", "parcel", "invoice", "isbn", "ean", "upc", "gtin", "barcode", "imei", "imsi", "iccid", "serial", "sku", "ticket",
    "timestamp", "epoch", "build", "commit", "hash", "uuid", "guid", "trace", "span", "request id", "transaction id", "reference", "ref", "id", "part number",
    "seed", "random", "checksum", "offset", "byte", "bytes", "pid", "port", "bestellnummer", "sendungsnummer", "rechnung", "commande", "suivi", "pedido",
    "rastreo", "ordine", "spedizione", "bestelling", "ordernummer", "encomenda", "phone", "account",
];
#[rustfmt::skip]
const TEST_WORDS: &[&str] = &[
    "test", "tests", "testing", "stripe", "sandbox", "example", "examples", "dummy", "fake", "mock", "fixture", "placeholder", "sample", "assert", "unit test",
    "pytest", "jest", "expect", "def", "luhn", "regex", "documentation", "docs", "testkarte", "beispiel", "exemple", "ejemplo", "braintree", "adyen", "paypal sandbox", "simulate", "simulates", "insufficient_funds", "declined card", "readme",
];
#[rustfmt::skip]
const SECURITY_CODE_WORDS: &[&str] = &[
    "cvv", "cvv2", "cvc", "cvc2", "cid", "csc", "cvn", "cav2", "card security code", "security code", "card verification value", "verification code on the back",
    "kartenprüfnummer", "prüfziffer der karte", "cryptogramme", "cryptogramme visuel", "codigo de seguridad", "codice di sicurezza", "codigo de seguranca",
    "beveiligingscode", "code de securite", "kpn", "sicherheitscode",
];
#[rustfmt::skip]
const PIN_WORDS: &[&str] = &[
    "pin", "pin code", "pin number", "card pin", "atm pin", "debit pin", "geheimzahl", "code pin", "clave pin", "codigo pin", "codice pin", "pincode", "pin block",
];
/// Pins of electronics and of bowling, not of cards.
#[rustfmt::skip]
const NOT_PIN_WORDS: &[&str] = &[
    "gpio", "arduino", "raspberry", "connector", "pinout", "zip", "pin out", "header", "led", "volt", "kicad", "eagle", "schematic", "net", "pcb", "chip", "mcu", "solder",
    "footprint", "driven", "datasheet", "ic", "microcontroller", "esp32", "stm32", "bowling", "pinned", "kingpin",
];
/// Numbers that payment processors publish for tests.
#[rustfmt::skip]
const TEST_NUMBERS: &[&str] = &[
    "4111111111111111", "4242424242424242", "4000056655665556", "5555555555554444", "2223003122003222", "5200828282828210", "5105105105105100",
    "378282246310005", "371449635398431", "6011111111111117", "6011000990139424", "3056930009020004", "36227206271667", "3566002020360505",
    "6200000000000005", "4012888888881881", "4222222222222", "4000000000000002", "4000000000009995", "30569309025904", "38520000023237",
    "3530111333300000", "378734493671000", "5019717010103742", "6331101999990016", "4000002500003155", "4000002760003184", "4917610000000000",
    "4000000000000077", "4000000000003220", "2221000000000009", "4444333322221111", "4263982640269299", "5425233430109903", "4007000000027",
    "4000000000000069", "4000000000000119", "4000000000000127", "4000000000000259", "4000000000000341", "4000000000001976", "4000000000003063", "4000000000005126", "4000000000009235",
    "4000000000009979", "4000000000009987", "4100000000000019", "4000003720000278", "4000008260000000", "4000002760000016", "6205500000000000004", "2223000048400011", "2222400070000005",
    "5555341244441115", "4988438843884305", "5577000055770004", "5136333333333335", "4166676667666746", "4646464646464644", "370000000000002", "5500000000000004", "6011601160116611",
];
