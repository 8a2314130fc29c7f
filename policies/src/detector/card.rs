//! Payment card numbers.
//!
//! A card number is digits of an issuer's range and length whose Luhn check passes (PCI DSS 3.5.1).
//! A word beside it says that it is one; a word that introduces it as something else says the
//! contrary, unless it is printed as on a card.
//! Not here: numbers with hidden digits (`card_masked`), security codes, tracks and PINs (`card_secret`).
//! Sources: ISO/IEC 7812-1, issuer ranges as the networks publish them.

use std::ops::Range;

use super::card_masked as masked;
use super::checksum::luhn;
use super::compile::{Compiler, Kind, NumberScheme};
use super::email::line_before;
use super::lexicon::ListId;
use super::reading::{Candidate, Detector, Number, Own, Reading};
use crate::evidence::Likelihood::{Likely, Possible, VeryLikely};

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    Some(match name {
        "payment_card" => Kind::Text(Box::new(PaymentCard::new(compiler))),
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
        if is_part_of_a_tracking_number(number) || is_constant_of_code(reading.text, &range, digits)
        {
            return None;
        }
        let other = self.introduced_otherwise(reading, &range);
        let layout = Layout::of(number);
        // What is printed as on a card, or has an expiry date behind it, is one whatever it is called.
        let card_like =
            is_printed_in_groups(number) || is_followed_by_expiry(reading.text, range.end);
        let said_otherwise = other.is_some_and(|o| context.is_none_or(|c| o < c)) && !card_like;
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

    /// Distance of a word that introduces this number as something else: the last word before it
    /// with no other number between, the name of its column, or a word behind it that introduces
    /// nothing itself ("… is the order number", but not "… for order 1182").
    fn introduced_otherwise(&self, reading: &Reading<'_>, range: &Range<usize>) -> Option<usize> {
        let text = reading.text;
        let has_digit = |part: &str| part.bytes().any(|b| b.is_ascii_digit());
        let window = range.start.saturating_sub(OTHER_BYTES)..range.end + OTHER_BYTES_BEHIND;
        let near = reading.hits_in(self.other, window).filter_map(|hit| {
            let (start, end) = (hit.start as usize, hit.end as usize);
            if end <= range.start {
                let between = &text[end..range.start];
                let breaks = between.contains([',', ';', '{', '}', '|'])
                    || between.contains('\n') && between.contains(char::is_alphabetic);
                let is_its_own = !has_digit(between) && !breaks;
                return is_its_own.then_some(range.start - end);
            }
            if start < range.end {
                return None;
            }
            let behind = &text[end..text.floor_char_boundary(end + 12)];
            let is_its_own = !has_digit(&text[range.end..start]) && !has_digit(behind);
            is_its_own.then_some(start - range.end)
        });
        near.min().or_else(|| {
            let header = reading.column_header(range.start)?;
            reading.hits_in(self.other, header).next().map(|_| 0)
        })
    }
}

/// How far before a number a word introduces it.
const OTHER_BYTES: usize = 40;
/// The same behind it.
const OTHER_BYTES_BEHIND: usize = 24;

/// Groups of a card with spaces or dashes, as embossed.
fn is_printed_in_groups(number: &Number<'_>) -> bool {
    let separators = number.window.separators(number.text);
    matches!(number.window.shape().as_slice(), [4, 4, 4, 4] | [4, 6, 5] | [4, 6, 4])
        && separators.into_iter().all(|s| matches!(s, " " | "-"))
        && number.window.is_evenly_separated(number.text)
}

/// `, 09/28` or ` exp 09/2028`: a month and a year to come.
fn is_followed_by_expiry(text: &str, end: usize) -> bool {
    let behind = &text[end..text.floor_char_boundary(end + 18)];
    let Some(at) = behind.find(|c: char| c.is_ascii_digit()) else { return false };
    let date = &behind[at..];
    let mut parts = date.splitn(2, ['/', '-']);
    let month = parts.next().filter(|m| m.len() == 2).and_then(|m| m.parse::<u32>().ok());
    let year = parts.next().unwrap_or_default();
    let digits = year.bytes().take_while(u8::is_ascii_digit).count();
    let value = year[..digits].parse::<u32>().unwrap_or_default() % 100;
    month.is_some_and(|m| (1..=12).contains(&m))
        && matches!(digits, 2 | 4)
        && (20..50).contains(&value)
}

/// Groups of a tracking number on either side that are looked at.
const TRACKING_GROUPS_MAX: usize = 8;

/// `9400 1112 0255 5842 3316 79`: digits out of a parcel's number (USPS, 20 to 22 digits from 91 to 95).
fn is_part_of_a_tracking_number(number: &Number<'_>) -> bool {
    let window = &number.window;
    let joined = |a: u32, b: u32| matches!(&number.text[a as usize..b as usize], " " | "-" | "");
    let mut first = window.first;
    let in_reach = |a: usize, b: usize| a.abs_diff(b) < TRACKING_GROUPS_MAX;
    while first > 0
        && in_reach(first, window.first)
        && joined(window.run[first - 1].end, window.run[first].start)
    {
        first -= 1;
    }
    let mut last = window.first + window.groups.len() - 1;
    while last + 1 < window.run.len()
        && in_reach(last, window.first)
        && joined(window.run[last].end, window.run[last + 1].start)
    {
        last += 1;
    }
    let digits: usize = window.run[first..=last].iter().map(|group| group.len()).sum();
    let start = window.run[first].start as usize;
    first < window.first
        && (20..=22).contains(&digits)
        && matches!(number.text.as_bytes().get(start..start + 2), Some([b'9', b'1'..=b'5']))
}

/// `const pan = "5555555555554444";`: a number of the processors' tests as a program's constant.
fn is_constant_of_code(text: &str, range: &Range<usize>, digits: &[u8]) -> bool {
    const DECLARATIONS: [&str; 9] =
        ["const ", "let ", "var ", "val ", "final ", "static ", "String ", "string ", "auto "];
    if !is_test_number(digits) {
        return false;
    }
    let line = line_before(text, range.start);
    let declared = DECLARATIONS.iter().any(|word| line.trim_start().starts_with(word));
    declared && line.contains('=') && line.ends_with(['"', '\'', '`'])
}

impl Detector for PaymentCard {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        if reading.digits.any {
            found.extend(masked::give_away(reading.text, &reading.bytes));
        }
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
pub(super) enum Issuer {
    Known,
    /// Ranges so wide that only a word beside them makes a card of it: Maestro.
    OnlyWithContext,
}

impl Issuer {
    pub(super) fn of(digits: &[u8]) -> Option<Issuer> {
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
pub(super) fn is_decimal_part(text: &str, range: &Range<usize>) -> bool {
    let bytes = text.as_bytes();
    let before = range.start.checked_sub(1).map(|i| bytes[i]);
    let digit_before = range.start >= 2 && bytes[range.start - 2].is_ascii_digit();
    // `28,380,4111111111111111` is a row of values, and in `base64,4539…` the comma ends a word.
    let whole_part = bytes[..range.start.saturating_sub(1)].iter().rev();
    let before_whole = whole_part.copied().find(|b| !b.is_ascii_digit());
    let is_listed = before == Some(b',')
        && before_whole.is_some_and(|b| matches!(b, b',' | b'\n') || b.is_ascii_alphabetic());
    // `.4539…` of a style sheet: a fraction without its zero.
    let is_bare_fraction = before == Some(b'.')
        && range.start.checked_sub(2).is_none_or(|at| b" (,:=-+*/[\t\n".contains(&bytes[at]))
        && text[range.clone()].bytes().all(|b| b.is_ascii_digit());
    let comes_after_point =
        matches!(before, Some(b'.' | b',')) && digit_before && !is_listed || is_bare_fraction;
    let after = bytes.get(range.end).copied();
    let goes_on = after == Some(b'.') && bytes.get(range.end + 1).is_some_and(u8::is_ascii_digit);
    comes_after_point || (goes_on && !text[range.clone()].contains('.'))
}

fn is_test_number(digits: &[u8]) -> bool {
    let number: String = digits.iter().map(|d| (b'0' + d) as char).collect();
    TEST_NUMBERS.contains(&number.as_str())
}

#[rustfmt::skip]
const CARD_WORDS: &[&str] = &[
    "card", "cards", "credit card", "debit card", "visa", "mastercard", "amex", "american express", "discover", "diners", "jcb",
    "unionpay", "maestro", "pan", "cc", "ccn", "cardholder", "card number", "card no", "cvv", "cvc", "cvv2", "cid", "exp", "expiry", "expires",
    "expiration", "charge", "payment", "billing", "paid", "payé", "payée", "refund", "refunded", "booked", "bezahlt", "pagado", "pagato", "karte", "kreditkarte", "kartennummer", "kartennr", "carte", "carte bancaire", "carte bleue", "numero de carte",
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
