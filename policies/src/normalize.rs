//! Turns a text into the views that detectors read: folded, decoded, stripped of markup, spelled out.
//!
//! People and programs write one number in a hundred ways: full-width, with zero-width characters,
//! in base64, as HTML entities, in words, as literals to be joined. Every way that can be undone is
//! undone in a *view*, in place, so that context words stay beside what they explain; every view
//! remembers which bytes of the original each of its bytes came from.
//!
//! Invariants: a view's ranges map back into the original text; work and memory are bounded by
//! [`Budget`]; ordinary ASCII prose yields one view that borrows the text.
//! Not here: what the views mean (`detector`), and content that is no text (images, audio, PDF).
//! Not defended: encryption, paraphrase, steganography.

mod decode;
mod fold;
mod hidden;
mod lookalike;
mod markup;
mod numbered;
mod spaced;
mod spelled;

use std::borrow::Cow;
use std::ops::Range;

use crate::prompt::ContentKind;
use crate::swar;

pub(crate) use fold::{fold, is_plain};

/// Views derived from views, at most; the original is depth 0.
const DEPTH_MAX: usize = 3;
/// Views of one text, at most; transformations that change nothing make none.
const VIEWS_MAX: usize = 12;

/// Bytes that views may still take; one budget serves a whole request.
#[derive(Debug)]
pub(crate) struct Budget {
    left: usize,
    /// Something was left undecoded for want of budget.
    pub(crate) exceeded: bool,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Budget { left: bytes_max, exceeded: false }
    }

    /// Takes bytes, or notes that there are not enough.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        if bytes > self.left {
            self.exceeded = true;
            return false;
        }
        self.left -= bytes;
        true
    }

    pub(crate) fn left(&self) -> usize {
        self.left
    }
}

/// A text as detectors read it, and the way back.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) text: Cow<'a, str>,
    /// `None`: byte for byte the parent's (or the original's) text.
    map: Option<Vec<Piece>>,
    /// Index of the view this one was made from.
    parent: Option<usize>,
    depth: usize,
}

/// Bytes of a view from `view` up to the next piece, and where they came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    view: u32,
    parent: u32,
    /// End of the parent's bytes; meaningful for replaced pieces only.
    parent_end: u32,
    /// The bytes were copied one to one; otherwise the piece as a whole replaces the parent's range.
    copied: bool,
}

/// All views of one text, original first.
pub(crate) struct Views<'a> {
    views: Vec<View<'a>>,
    /// Encoded content that could not be read, with its range in the original.
    pub(crate) opaque: Vec<(ContentKind, Range<usize>)>,
}

impl<'a> Views<'a> {
    /// Builds every view that differs from the ones before it.
    pub(crate) fn of(text: &'a str, budget: &mut Budget) -> Views<'a> {
        let mut all = Views { views: vec![fold(text, budget)], opaque: Vec::new() };
        if !text.is_ascii() {
            let hidden = [hidden::tags(text, budget), hidden::reversed(text, budget)];
            for shown in hidden.into_iter().flatten() {
                all.add(shown, None, 0, budget);
            }
        }
        all.derive(0, budget);
        all
    }

    /// The same for a text that [`is_plain`], of which the signs are known: itself and what is made of it.
    pub(crate) fn of_plain(text: &'a str, signs: &Signs, budget: &mut Budget) -> Views<'a> {
        let itself = View { text: Cow::Borrowed(text), map: None, parent: None, depth: 0 };
        let mut all = Views { views: vec![itself], opaque: Vec::new() };
        all.derive_by(signs, 0, budget);
        all.derive(1, budget);
        all
    }

    /// Derives what can be derived of this view and all behind it.
    fn derive(&mut self, mut next: usize, budget: &mut Budget) {
        while next < self.views.len() && self.views.len() < VIEWS_MAX {
            if self.views[next].depth < DEPTH_MAX {
                let signs = Signs::of(&self.views[next].text);
                self.derive_by(&signs, next, budget);
            }
            next += 1;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.views.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &View<'a>)> {
        self.views.iter().enumerate()
    }

    /// Range in the original of a range in a view.
    pub(crate) fn original(&self, view: usize, range: Range<usize>) -> Range<usize> {
        let mut range = range;
        let mut at = Some(view);
        while let Some(index) = at {
            let view = &self.views[index];
            range = view.parent_range(range);
            at = view.parent;
        }
        range
    }

    fn derive_by(&mut self, signs: &Signs, index: usize, budget: &mut Budget) {
        if !signs.any() {
            return;
        }
        let (text, depth) = (self.views[index].text.clone(), self.views[index].depth);
        let mut opaque = Vec::new();
        let made = [
            signs.may_be_encoded().then(|| decode::decode(&text, signs, budget, &mut opaque)),
            signs.may_be_markup().then(|| markup::strip(&text, budget)),
            signs.may_spell_digits.then(|| spelled::digits(&text, budget)),
            signs.has_mixed_token.then(|| lookalike::digits(&text, budget)),
            signs.has_spaced_letters.then(|| spaced::words(&text, budget)),
            signs.has_digit.then(|| numbered::items(&text, budget)),
        ];
        for (kind, range) in opaque {
            self.opaque.push((kind, self.original(index, range)));
        }
        for rewritten in made.into_iter().flatten().flatten() {
            self.add(rewritten, Some(index), depth + 1, budget);
        }
    }

    fn add(
        &mut self,
        rewritten: Rewritten,
        parent: Option<usize>,
        depth: usize,
        budget: &mut Budget,
    ) {
        // What came out of a decoding may hold full-width digits again.
        let Rewritten { text, pieces } = rewritten;
        let plain = View { text: Cow::Owned(text), map: Some(pieces), parent, depth };
        let folded = match fold(&plain.text, budget) {
            View { map: Some(map), text, .. } => Some((map, text.into_owned())),
            View { map: None, .. } => None,
        };
        if self.views.iter().any(|known| known.text == plain.text) {
            return;
        }
        self.views.push(plain);
        if let Some((map, text)) = folded {
            let parent = Some(self.views.len() - 1);
            self.views.push(View { text: Cow::Owned(text), map: Some(map), parent, depth });
        }
    }
}

impl View<'_> {
    fn parent_range(&self, range: Range<usize>) -> Range<usize> {
        let Some(map) = &self.map else { return range };
        if range.is_empty() {
            let at = piece_at(map, range.start).map_or(0, |p| p.parent_of(range.start).0);
            return at..at;
        }
        let start = piece_at(map, range.start).map_or(0, |p| p.parent_of(range.start).0);
        let end = piece_at(map, range.end - 1).map_or(0, |p| p.parent_of(range.end - 1).1);
        start..end.max(start)
    }
}

fn piece_at(map: &[Piece], at: usize) -> Option<&Piece> {
    map[..map.partition_point(|p| p.view as usize <= at)].last()
}

impl Piece {
    /// Start and end in the parent of the byte at `at`.
    fn parent_of(&self, at: usize) -> (usize, usize) {
        if self.copied {
            let start = self.parent as usize + at - self.view as usize;
            (start, start + 1)
        } else {
            (self.parent as usize, self.parent_end as usize)
        }
    }
}

/// A rewritten text under construction: copies and replacements, in order.
#[derive(Default)]
pub(crate) struct Rewrite {
    text: String,
    pieces: Vec<Piece>,
    /// First byte of the parent that is not yet written.
    read: usize,
}

/// A finished rewriting of a text.
pub(crate) struct Rewritten {
    text: String,
    pieces: Vec<Piece>,
}

impl Rewrite {
    /// Copies the parent up to `until`.
    fn copy(&mut self, parent: &str, until: usize) {
        if until > self.read {
            self.piece(self.read, self.read, true);
            self.text.push_str(&parent[self.read..until]);
            self.read = until;
        }
    }

    /// Writes `with` where the parent has `range`; what stands before it is copied.
    fn replace(&mut self, parent: &str, range: Range<usize>, with: &str) {
        self.copy(parent, range.start);
        if !with.is_empty() {
            self.piece(range.start, range.end, false);
            self.text.push_str(with);
        }
        self.read = range.end;
    }

    /// Copies the rest; `None` if nothing was replaced.
    fn finish(mut self, parent: &str) -> Option<Rewritten> {
        if self.read == 0 && self.pieces.is_empty() {
            return None;
        }
        self.copy(parent, parent.len());
        (self.text != parent).then_some(Rewritten { text: self.text, pieces: self.pieces })
    }

    fn piece(&mut self, parent: usize, parent_end: usize, copied: bool) {
        self.pieces.push(Piece {
            view: self.text.len() as u32,
            parent: parent as u32,
            parent_end: parent_end as u32,
            copied,
        });
    }
}

/// What one pass over the bytes says about which transformations are worth trying.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Signs {
    has_percent: bool,
    has_backslash: bool,
    has_ampersand: bool,
    has_equals: bool,
    has_angle: bool,
    has_quote: bool,
    has_pipe_or_star: bool,
    has_digit: bool,
    /// A token of at least [`decode::TOKEN_BYTES_MIN`] letters, digits, `+/-_`.
    has_long_token: bool,
    /// Pairs of hexadecimal digits with separators between.
    has_hex_pairs: bool,
    /// Numbers of two or three digits in a row: characters by their codes.
    has_code_list: bool,
    /// A digit touches a letter that looks like one.
    has_mixed_token: bool,
    /// Single letters in a row.
    has_spaced_letters: bool,
    may_spell_digits: bool,
    /// The first and the last place at which nothing is being counted, whatever stands before the text.
    settled: Option<(usize, usize)>,
}

impl Signs {
    /// The signs of a text.
    pub(crate) fn of(text: &str) -> Signs {
        let bytes = text.as_bytes();
        let mut tokens = Tokens::of(text);
        let mut seen = 0u8;
        let mut at = 0;
        while at < bytes.len() {
            let sign = SIGN[bytes[at] as usize];
            if sign & IN_TOKEN == 0 {
                seen |= sign;
                at += 1;
                continue;
            }
            let start = at;
            let first_bytes = swar::load(bytes, at);
            let kinds = skip_token(bytes, first_bytes, &mut at);
            tokens.count(start..at, first_bytes, kinds);
        }
        let signs = tokens.signs(seen);
        let may_spell_digits =
            signs.may_spell_digits || !text.is_ascii() && spelled::may_spell_digits(text);
        Signs { may_spell_digits, ..signs }
    }

    /// The same for a text of ASCII, of which it is known which bytes it has and where its runs of letters
    /// and its runs of digits are; these may be cut into pieces that touch.
    pub(crate) fn of_words(
        text: &str,
        has: impl Fn(u8) -> bool,
        words: impl Iterator<Item = Range<usize>>,
    ) -> Signs {
        // Signs that belong to tokens are no words.
        if b"+/-_".iter().any(|sign| has(*sign)) {
            return Signs::of(text);
        }
        let bytes = text.as_bytes();
        let seen = (0x20..0x7f).filter(|byte| has(*byte));
        let seen = seen.fold(0, |seen, byte| seen | SIGN[usize::from(byte)]);
        let mut tokens = Tokens::of(text);
        let kind = |at: usize| if bytes[at].is_ascii_digit() { DIGITS } else { OTHERS };
        let mut count = |token: Range<usize>, kinds| {
            if !token.is_empty() {
                let first_bytes = swar::load(bytes, token.start);
                tokens.count(token, first_bytes, kinds);
            }
        };
        let (mut token, mut kinds) = (0..0, 0);
        words.for_each(|word| {
            if word.start == token.end {
                kinds |= kind(word.start);
                token.end = word.end;
                return;
            }
            count(token.clone(), kinds);
            (kinds, token) = (kind(word.start), word);
        });
        count(token, kinds);
        tokens.signs(seen)
    }

    /// The signs of a text of ASCII in which other texts stand in this order, with nothing between them
    /// that is a word: of each text where it starts, and its signs.
    ///
    /// A sign of a text counts, and one that only shows where two of them meet.
    pub(crate) fn joined<'s>(text: &str, parts: impl Iterator<Item = (usize, &'s Signs)>) -> Signs {
        let mut joined = Signs::default();
        // What was read as it stands in the whole ends here; nothing is counted at its beginning.
        let mut settled = 0;
        for (start, signs) in parts {
            joined.add(signs);
            if let Some((first, last)) = signs.settled {
                if start > 0 {
                    joined.add(&Signs::of(&text[settled..start + first]));
                }
                settled = start + last;
            }
        }
        joined.add(&Signs::of(&text[settled..]));
        joined
    }

    /// Takes in the signs of another text.
    pub(crate) fn add(&mut self, other: &Signs) {
        self.has_percent |= other.has_percent;
        self.has_backslash |= other.has_backslash;
        self.has_ampersand |= other.has_ampersand;
        self.has_equals |= other.has_equals;
        self.has_angle |= other.has_angle;
        self.has_quote |= other.has_quote;
        self.has_pipe_or_star |= other.has_pipe_or_star;
        self.has_digit |= other.has_digit;
        self.has_long_token |= other.has_long_token;
        self.has_hex_pairs |= other.has_hex_pairs;
        self.has_code_list |= other.has_code_list;
        self.has_mixed_token |= other.has_mixed_token;
        self.has_spaced_letters |= other.has_spaced_letters;
        self.may_spell_digits |= other.may_spell_digits;
    }

    /// Whether any transformation is worth trying.
    fn any(&self) -> bool {
        self.may_be_encoded()
            || self.may_be_markup()
            || self.may_spell_digits
            || self.has_mixed_token
            || self.has_spaced_letters
            || self.has_digit
    }

    fn may_be_encoded(&self) -> bool {
        self.has_long_token
            || self.has_hex_pairs
            || self.has_code_list
            || self.has_percent
            || self.has_backslash
            || self.has_ampersand
            || self.has_equals
    }

    fn may_be_markup(&self) -> bool {
        self.has_angle || self.has_quote || self.has_pipe_or_star
    }
}

/// What is counted from token to token.
struct Tokens<'t> {
    text: &'t str,
    beginnings: &'static spelled::Beginnings,
    kinds_seen: u8,
    has_long: bool,
    may_spell_digits: bool,
    number_words: usize,
    singles: usize,
    singles_max: usize,
    codes: usize,
    codes_max: usize,
    pairs: usize,
    pairs_max: usize,
    plain_words: usize,
    settled: Option<(usize, usize)>,
}

impl<'t> Tokens<'t> {
    fn of(text: &'t str) -> Tokens<'t> {
        Tokens {
            text,
            beginnings: spelled::beginnings(),
            kinds_seen: 0,
            has_long: false,
            may_spell_digits: false,
            number_words: 0,
            singles: 0,
            singles_max: 0,
            codes: 0,
            codes_max: 0,
            pairs: 0,
            pairs_max: 0,
            plain_words: 0,
            settled: None,
        }
    }

    /// The next token, its first eight bytes and what it has.
    #[inline(always)]
    fn count(&mut self, token: Range<usize>, first_bytes: u64, kinds: u8) {
        // Most are words that say nothing, and end what was being counted.
        let says_nothing = kinds == OTHERS
            && ORDINARY_BYTES.contains(&token.len())
            && !self.beginnings.contains(first_bytes, token.len());
        if !says_nothing {
            return self.count_any(token, first_bytes, kinds);
        }
        (self.singles, self.codes) = (0, 0);
        self.number_words /= 2;
        self.count_pair(token.len());
        self.kinds_seen |= 1 << OTHERS;
        self.plain_words += 1;
        self.settle(token.end);
    }

    /// The same for tokens of every kind.
    #[inline(never)]
    fn count_any(&mut self, token: Range<usize>, first_bytes: u64, kinds: u8) {
        let len = token.len();
        self.plain_words += 1;
        if kinds == OTHERS {
            // `then`, `and`, `dash` may stand between number words.
            let may_be = len <= 24 && self.beginnings.contains(first_bytes, len);
            self.number_words = if may_be { self.number_words + 1 } else { self.number_words / 2 };
            self.plain_words = if may_be { 0 } else { self.plain_words };
            self.may_spell_digits |= self.number_words >= spelled::ITEMS_MIN;
            if len > WORD_BYTES && !self.may_spell_digits {
                self.may_spell_digits = spelled::may_spell_digits(&self.text[token.clone()]);
            }
        } else {
            self.plain_words = 0;
        }
        self.kinds_seen |= 1 << kinds;
        self.has_long |= len >= decode::TOKEN_BYTES_MIN;
        self.singles = if len == 1 { self.singles + 1 } else { 0 };
        self.singles_max = self.singles_max.max(self.singles);
        let is_code = kinds == DIGITS && matches!(len, 2 | 3);
        self.codes = if is_code { self.codes + 1 } else { 0 };
        self.codes_max = self.codes_max.max(self.codes);
        self.count_pair(len);
        self.settle(token.end);
    }

    #[inline]
    fn count_pair(&mut self, len: usize) {
        self.pairs = if matches!(len, 2 | 4) { self.pairs + 1 } else { 0 };
        self.pairs_max = self.pairs_max.max(self.pairs);
    }

    /// Two words that name no number end what was dictated before them.
    #[inline]
    fn settle(&mut self, end: usize) {
        if self.plain_words >= 2 && self.singles + self.pairs == 0 && end < self.text.len() {
            let first = self.settled.map_or(end, |(first, _)| first);
            self.settled = Some((first, end));
        }
    }

    /// The signs of a text with these tokens, and with other bytes of which these are the signs.
    fn signs(&self, seen: u8) -> Signs {
        Signs {
            has_percent: seen & PERCENT != 0,
            has_backslash: seen & BACKSLASH != 0,
            has_ampersand: seen & AMPERSAND != 0,
            has_equals: seen & EQUALS != 0,
            has_angle: seen & ANGLE != 0,
            has_quote: seen & QUOTE != 0,
            has_pipe_or_star: seen & PIPE_OR_STAR != 0,
            has_digit: self.kinds_seen & (1 << DIGITS | 1 << MIXED) != 0,
            has_long_token: self.has_long,
            has_hex_pairs: self.pairs_max >= decode::HEX_PAIRS_MIN - 1,
            has_code_list: self.codes_max >= decode::CODES_MIN,
            has_mixed_token: self.kinds_seen & 1 << MIXED != 0,
            has_spaced_letters: self.singles_max >= spaced::LETTERS_MIN,
            may_spell_digits: self.may_spell_digits,
            settled: self.settled,
        }
    }
}

/// Words of these lengths are neither single letters nor long tokens.
const ORDINARY_BYTES: Range<usize> = 2..decode::TOKEN_BYTES_MIN;
/// A longer token may be several words: `four-five-three`.
const WORD_BYTES: usize = 12;
/// A token has digits; letters or `+/-_`; both.
const DIGITS: u8 = 1;
const OTHERS: u8 = 2;
const MIXED: u8 = DIGITS | OTHERS;

/// Moves behind letters, digits and `+/-_`, of which the first eight are loaded; says what there was.
fn skip_token(bytes: &[u8], first_bytes: u64, at: &mut usize) -> u8 {
    // Most tokens are words in small letters.
    let len = swar::run(swar::in_range(first_bytes, b'a', b'z'));
    let end = if len < 8 { *at + len } else { swar::end_of_run(bytes, *at + 8, b'a', b'z') };
    let behind = bytes.get(end).map_or(0, |byte| SIGN[*byte as usize]);
    if behind & IN_TOKEN == 0 {
        *at = end;
        return OTHERS;
    }
    skip_any_token(bytes, at)
}

fn skip_any_token(bytes: &[u8], at: &mut usize) -> u8 {
    let (mut any_digits, mut any_others) = (0, 0);
    loop {
        let x = swar::load(bytes, *at);
        let digits = swar::in_range(x, b'0', b'9');
        let signs = swar::equal(x, b'+') | swar::equal(x, b'/');
        let others = swar::letters(x) | signs | swar::equal(x, b'-') | swar::equal(x, b'_');
        let len = swar::run(digits | others);
        any_digits |= swar::first(digits, len);
        any_others |= swar::first(others, len);
        *at += len;
        if len < 8 {
            break;
        }
    }
    (DIGITS * u8::from(any_digits != 0)) | (OTHERS * u8::from(any_others != 0))
}

const PERCENT: u8 = 1;
const BACKSLASH: u8 = 2;
const AMPERSAND: u8 = 4;
const EQUALS: u8 = 8;
const ANGLE: u8 = 16;
const QUOTE: u8 = 32;
const PIPE_OR_STAR: u8 = 64;
const IN_TOKEN: u8 = 128;
const SIGN: [u8; 256] = sign_table();

const fn sign_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'%' => PERCENT,
            b'\\' => BACKSLASH,
            b'&' => AMPERSAND,
            b'=' => EQUALS,
            b'<' => ANGLE,
            b'"' | b'\'' => QUOTE,
            b'|' | b'*' | b'`' | b'~' | b'[' => PIPE_OR_STAR,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'/' | b'-' | b'_' => IN_TOKEN,
            _ => 0,
        };
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn views(text: &str) -> Vec<String> {
        let mut budget = Budget::new(1 << 20);
        Views::of(text, &mut budget).iter().map(|(_, v)| v.text.to_string()).collect()
    }

    /// Some view holds `expected`, and it maps back to a range of the original.
    fn check(text: &str, expected: &str) {
        let mut budget = Budget::new(1 << 20);
        let all = Views::of(text, &mut budget);
        let (index, at) = all
            .iter()
            .find_map(|(i, v)| v.text.find(expected).map(|at| (i, at)))
            .unwrap_or_else(|| panic!("no view of {text:?} holds {expected:?}: {:?}", views(text)));
        let range = all.original(index, at..at + expected.len());
        assert!(text.get(range.clone()).is_some_and(|s| !s.is_empty()), "{range:?}");
    }

    #[test]
    fn every_disguise_has_a_view_that_undoes_it() {
        let cases = [
            ("card ４１１１ １１１１", "4111 1111"),
            ("٤١١١١١١١", "41111111"),
            ("5\u{200b}3\u{2060}6-22-1234", "536-22-1234"),
            ("①②③", "123"),
            ("the pаtient", "the patient"), // Cyrillic а
            ("NTM2LTIyLTEyMzQ=", "536-22-1234"),
            ("3533362d32322d31323334", "536-22-1234"),
            ("a=\"4539148\"; b=\"803436467\"; print(a+b)", "4539148803436467"),
            (
                "cGF0aWVudCBSb3Nh\nbGluZCBJeWVyIGhh\ncyBzZXBzaXM=",
                "patient Rosalind Iyer has sepsis",
            ),
            ("GUZTMLJSGIWTCMRTGQ======", "536-22-1234"),
            ("NQAzADYALQAyADIALQAxADIAMwA0AA==", "536-22-1234"),
            ("five-three-six-two-two-one-two-three-four", "536221234"),
            ("%35%33%36-22-1234", "536-22-1234"),
            ("&#53;&#x33;6-22-1234", "536-22-1234"),
            (r"\u0035\x336-22-1234", "536-22-1234"),
            ("=35=33=36-22-1234", "536-22-1234"),
            ("<b>536</b>-<i>22</i>-1234", "536-22-1234"),
            ("\"4111\" + \"1111\"", "41111111"),
            ("four one one one double one one", "4111111"),
            ("vier eins eins eins", "4111"),
            ("35 33 36 2d 32 32 2d 31 32 33 34", "536-22-1234"),
            ("chars 53, 51, 54, 45, 50, 50, 45, 49, 50, 51, 52", "536-22-1234"),
            ("four two then four nine and dash one", "42491"),
            ("einundvierzig, eenenveertig, vier", "41414"),
            ("pięć trzy sześć, två två", "53622"),
            ("forty-nine twenty-nine, 74-77, five-six", "4929747756"),
            ("p a s s w o r d: x", "password: x"),
            ("p a s s w \u{43e} r d: x", "password: x"),
            ("hi\u{e0035}\u{e0033}\u{e0036}", "hi536"),
            ("\u{202e}4321-22-635\u{202c}", "536-22-1234"),
            ("4SlO S644 2694", "4510 5644 2694"),
            ("card 4539 384\u{41e}", "4539 3840"),
            ("4539 8\u{406}45", "4539 8145"),
            ("CPF 381.047.592-O5", "381.047.592-05"),
            ("IBAN DE3737O400440719448103", "DE37370400440719448103"),
            ("MRTMTT9lD08F205J", "MRTMTT91D08F205J"),
            (r"\065\063\066-22-1234", "536-22-1234"),
            ("\u{1e955}\u{1e953}\u{1e956}-22-1234", "536-22-1234"),
            ("data:text/plain;base64,NTM2LTIyLTEyMzQ=", "536-22-1234"),
            ("https://shop.invalid/p/NTM2LTIyLTEyMzQ/x", "536-22-1234"),
            ("iban = \"DE37 3704 \" + \"0044\"", "DE37 3704 0044"),
            ("\"381.047\" + \".592-05\"", "381.047.592-05"),
            ("\"jana\" + \"@praha-bridge.cz\"", "jana@praha-bridge.cz"),
            ("pan = \"45398145\"\npan += \"38401916\"", "4539814538401916"),
            ("card 1. 4539\n2. 8145\n3. 3840\n4. 1916", "card 4539\n8145\n3840\n1916"),
            ("new B(\"sk_li\").append(\"ve_7\")", "sk_live_7"),
        ];
        for (text, expected) in cases {
            check(text, expected);
        }
    }

    #[test]
    fn prose_has_one_view_that_borrows() {
        let mut budget = Budget::new(1 << 20);
        let all = Views::of("Please summarise the meeting of last week.", &mut budget);
        assert_eq!(all.views.len(), 1);
        assert!(matches!(all.views[0].text, Cow::Borrowed(_)));
    }

    #[test]
    fn decoding_nests_to_depth_three() {
        // base64(base64("my ssn is 536-22-1234"))
        check("YlhrZ2MzTnVJR2x6SURVek5pMHlNaTB4TWpNMA==", "my ssn is 536-22-1234");
    }

    #[test]
    fn a_spent_budget_is_noted() {
        let mut budget = Budget::new(4);
        let _ = Views::of("４１１１ １１１１", &mut budget);
        assert!(budget.exceeded);
    }
}
