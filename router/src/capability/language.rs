//! Which language a text is written in, where anyone can see it: by its script, or by the small words
//! that every text in a Latin script is full of.
//!
//! Who is not sure says nothing: an upstream that speaks English only must not lose a request because it
//! quotes a French title. Not here: telling apart languages that share a script and small words.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use sluice_policies::KnownWords;

/// Letters that are looked at.
const LETTERS_MAX: usize = 4_000;
/// Fewer letters of a script are a quotation.
const LETTERS_MIN: usize = 8;
/// Fewer small words may stand in any text.
const WORDS_MIN: usize = 4;

/// The blocks of a script, and the languages that are written in it.
type Script = (&'static [(char, char)], &'static [&'static str]);

static SCRIPTS: [Script; 9] = [
    (&[('\u{3040}', '\u{30FF}')], &["ja"]),
    (&[('\u{AC00}', '\u{D7AF}')], &["ko"]),
    (&[('\u{4E00}', '\u{9FFF}')], &["zh", "ja"]),
    (&[('\u{0400}', '\u{052F}')], &["ru", "uk", "bg", "sr", "be", "mk", "kk"]),
    (&[('\u{0600}', '\u{06FF}')], &["ar", "fa", "ur"]),
    (&[('\u{0590}', '\u{05FF}')], &["he"]),
    (&[('\u{0370}', '\u{03FF}')], &["el"]),
    (&[('\u{0E00}', '\u{0E7F}')], &["th"]),
    (&[('\u{0900}', '\u{097F}')], &["hi", "mr", "ne"]),
];

/// Small words that only one of these languages has.
static SMALL_WORDS: [(&str, &[&str]); 7] = [
    (
        "de",
        &["das", "der", "die", "ein", "eine", "für", "ich", "ist", "mit", "nicht", "und", "wie"],
    ),
    ("en", &["and", "are", "for", "how", "is", "of", "that", "the", "this", "to", "what", "with"]),
    ("es", &["con", "cómo", "el", "es", "está", "los", "para", "por", "qué", "una", "y", "las"]),
    ("fr", &["avec", "dans", "des", "est", "et", "je", "les", "ne", "pour", "qui", "une", "vous"]),
    ("it", &["che", "come", "con", "di", "gli", "il", "nel", "non", "per", "sono", "una", "è"]),
    ("nl", &["aan", "een", "het", "hoe", "ik", "met", "niet", "op", "van", "voor", "wat", "zijn"]),
    ("pt", &["com", "como", "da", "do", "em", "não", "os", "para", "que", "são", "uma", "você"]),
];

/// The small words with the languages, one bit each, that have them.
static KNOWN: LazyLock<KnownWords<u8>> = LazyLock::new(|| {
    let mut languages = BTreeMap::<&str, u8>::new();
    for (bit, (_, words)) in SMALL_WORDS.iter().enumerate() {
        words.iter().for_each(|word| *languages.entry(word).or_default() |= 1 << bit);
    }
    KnownWords::new(languages)
});

/// Codes of the languages that texts may be in; empty where that is not plain.
pub(super) fn of<'t>(texts: impl Iterator<Item = &'t str>) -> &'static [&'static str] {
    let mut scripts = [0_usize; SCRIPTS.len()];
    let mut words = [0_usize; SMALL_WORDS.len()];
    let (mut latin, mut left) = (0, LETTERS_MAX);
    for text in texts {
        let end = text.char_indices().nth(left).map_or(text.len(), |(end, _)| end);
        for letter in text[..end].chars().filter(|c| c.is_alphabetic()) {
            left = left.saturating_sub(1);
            let is_of = |(blocks, _): &Script| !letter.is_ascii() && is_in(letter, blocks);
            match SCRIPTS.iter().position(is_of) {
                Some(script) => scripts[script] += 1,
                None => latin += 1,
            }
        }
        count_words(&text[..end], &mut words);
    }
    let [kana, _, han, ..] = scripts;
    // Japanese mixes both; Chinese has no kana.
    if kana > 0 && kana + han >= LETTERS_MIN && kana + han > latin {
        return SCRIPTS[0].1;
    }
    let most = (0..SCRIPTS.len()).max_by_key(|&script| scripts[script]).unwrap_or(0);
    if scripts[most] >= LETTERS_MIN && scripts[most] > latin {
        return SCRIPTS[most].1;
    }
    plainest(&words).map_or(&[], |language| std::slice::from_ref(&SMALL_WORDS[language].0))
}

fn is_in(letter: char, blocks: &[(char, char)]) -> bool {
    blocks.iter().any(|(first, last)| (*first..=*last).contains(&letter))
}

fn count_words(text: &str, counts: &mut [usize]) {
    for (_, languages) in KNOWN.in_text(text) {
        for (bit, count) in counts.iter_mut().enumerate() {
            *count += usize::from((languages >> bit) & 1);
        }
    }
}

/// The language with enough words, and twice as many as any other.
fn plainest(counts: &[usize]) -> Option<usize> {
    let first = (0..counts.len()).max_by_key(|&language| counts[language])?;
    let others = counts.iter().enumerate().filter(|(language, _)| *language != first);
    let second = others.map(|(_, &count)| count).max().unwrap_or(0);
    (counts[first] >= WORDS_MIN && counts[first] >= 2 * second).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_named_where_it_is_plain() {
        for (text, expected) in [
            ("What is the time and how do I tell it to the others?", "en"),
            ("Wie geht das, und ist es nicht schwer für eine Anfängerin?", "de"),
            ("Pour qui est-ce que vous faites une tarte dans les Alpes ?", "fr"),
            ("¿Qué es una casa y cómo se hace para los niños?", "es"),
            ("Che cosa sono gli gnocchi e come si fanno per una cena?", "it"),
            ("Wat is het verschil van een fiets met een brommer voor mij?", "nl"),
            ("Você não sabe como uma casa em Lisboa é feita para os outros?", "pt"),
            ("Как мне приготовить борщ?", "ru"),
            ("今天天气怎么样，我们去公园吧", "zh"),
            ("今日の天気はどうですか", "ja"),
            ("오늘 날씨가 어떻습니까", "ko"),
            ("Πώς είναι ο καιρός σήμερα;", "el"),
            ("Hello", ""),
            ("1 + 1 = ?", ""),
            ("x = y && z", ""),
            ("Translate \"Как дела\" for me", ""),
        ] {
            let found = of([text].into_iter());
            let is_right =
                if expected.is_empty() { found.is_empty() } else { found.contains(&expected) };
            assert!(is_right, "{text}: {found:?}");
        }
    }

    #[test]
    fn a_long_text_is_looked_at_as_far_as_it_takes() {
        let text = "Wie ist das und für eine ".repeat(10_000);
        assert_eq!(of([text.as_str(), "what is the and to of"].into_iter()), ["de"]);
    }
}
