//! Strings that a machine made: identifiers, digests, keys, encoded files. What they are made of says
//! nothing about a text, so the model sees one word of a kind instead of their letters and digits.
//!
//! A string of a machine is a run without spaces in which letters and digits, or very short pieces of
//! letters, touch again and again. Neighbours with only space between them, such as the lines of an
//! encoded file, are one.

use std::borrow::Cow;

use crate::detector::lexicon::Word;

/// The kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    /// Hexadecimal digits and separators: digests, UUIDs.
    Hex,
    /// Anything else: base64, keys, passwords from a generator.
    Code,
}

/// Pieces that touch, in the least mixed string.
const TOUCHES_MIN: usize = 4;
/// A piece of so few letters between others is no word.
const SHORT_LETTERS: usize = 2;
/// What holds a string together.
const SEPARATORS: &[u8] = b"+/-_=.:~";

impl Machine {
    const ALL: [Machine; 2] = [Machine::Hex, Machine::Code];

    /// Stands for the word's hash.
    pub(super) fn hash(self) -> u64 {
        match self {
            Machine::Hex => 0x510e_527f_ade6_82d1,
            Machine::Code => 0x9b05_688c_2b3e_6c1f,
        }
    }

    /// As a model file has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Machine::Hex => "#hex",
            Machine::Code => "#code",
        }
    }

    pub(super) fn of(hash: u64) -> Option<Machine> {
        Machine::ALL.into_iter().find(|machine| machine.hash() == hash)
    }

    pub(super) fn named(name: &str) -> Option<Machine> {
        Machine::ALL.into_iter().find(|machine| machine.name() == name)
    }

    fn judge(run: &str) -> Machine {
        let is_hex = |b: u8| b.is_ascii_hexdigit() || matches!(b, b'-' | b':');
        if run.bytes().all(is_hex) { Machine::Hex } else { Machine::Code }
    }
}

/// The words, with one in place of all those of a machine's string.
pub(super) fn joined<'a>(text: &str, words: Cow<'a, [Word]>) -> Cow<'a, [Word]> {
    let touching = words.windows(2).filter(|pair| touch(text, &pair[0], &pair[1])).count();
    if touching < TOUCHES_MIN {
        return words;
    }
    let mut all: Vec<Word> = Vec::with_capacity(words.len());
    let mut rest = &words[..];
    while let Some(first) = rest.first() {
        let (len, touches) = run(text, rest);
        let (run, behind) = rest.split_at(len);
        rest = behind;
        if touches < TOUCHES_MIN {
            all.extend(run);
            continue;
        }
        let end = run[len - 1].end;
        let hash = Machine::judge(&text[first.start as usize..end as usize]).hash();
        match all.last_mut().filter(|last| goes_on(text, last, first)) {
            Some(last) if last.hash == hash => last.end = end,
            _ => all.push(Word { start: first.start, end, hash }),
        }
    }
    Cow::Owned(all)
}

/// How many words stand together without space, and how often they touch.
fn run(text: &str, words: &[Word]) -> (usize, usize) {
    let (mut len, mut touches) = (1, 0);
    while let Some(next) = words.get(len) {
        let last = &words[len - 1];
        let between = &text.as_bytes()[last.end as usize..next.start.max(last.end) as usize];
        if between.len() > 2 || !between.iter().all(|b| SEPARATORS.contains(b)) {
            break;
        }
        touches += usize::from(touch(text, last, next));
        len += 1;
    }
    (len, touches)
}

/// No word ends here: a digit meets a letter, or one of both is hardly a word.
fn touch(text: &str, last: &Word, next: &Word) -> bool {
    let is_piece = |word: &Word| {
        let bytes = &text.as_bytes()[word.start as usize..word.end as usize];
        bytes.len() <= SHORT_LETTERS || bytes[0].is_ascii_digit()
    };
    last.end == next.start
        && text.is_char_boundary(next.start as usize)
        && (is_piece(last) || is_piece(next))
}

/// Only white space lies between a machine's string and the next.
fn goes_on(text: &str, last: &Word, next: &Word) -> bool {
    Machine::of(last.hash).is_some()
        && text[last.end as usize..next.start as usize].bytes().all(|b| b.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use crate::detector::compile::Compiled;
    use crate::detector::topic::features::{Reader, words};

    /// The words of a text as a model file has them.
    fn named(text: &str) -> Vec<String> {
        let compiled = Compiled::new(Vec::new()).unwrap();
        let reading = compiled.read(text);
        let words = words(&reading);
        let names = Reader::new(&reading).names(&words);
        names.into_iter().filter(|name| !name.contains(' ') && !name.starts_with('~')).collect()
    }

    #[test]
    fn what_a_machine_made_is_one_word() {
        for (text, machine) in [
            ("request 018f2d3a-7c11-7b2e-9a44-5b0c2f1de901 failed", "#hex"),
            ("request 9fceb02d0ae598e95dc970b74767f19372d61af8 failed", "#hex"),
            (
                "request iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAA00lEQVR4nAHIADf failed",
                "#code",
            ),
            ("request MIIDdzCCAl+gAwIBAgIEbF4A\nMIIEvQIBADANBgkqhkiG9w0B failed", "#code"),
        ] {
            assert_eq!(named(text), ["request", machine, "failed"], "{text}");
        }
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        assert_eq!(
            named("the readMeFirstFile of v2.1"),
            ["the", "read", "me", "first", "file", "of", "v", "#1", "#1"]
        );
        assert_eq!(
            named("room B12, 5mg at 10am"),
            ["room", "b", "#2", "#1", "mg", "at", "#2", "am"]
        );
    }
}
