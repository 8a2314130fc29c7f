//! Recovery phrases of wallets: twelve to twenty-four plain words, and whoever has them has the money.
//!
//! The words come from a list of short English words (BIP-39, "Mnemonic code for generating
//! deterministic keys"), but wallets have other lists too, so what counts is the shape: a long run of
//! words of three to eight small letters without one of the little words that every sentence has, near
//! a word of wallets and recovery.

use std::ops::Range;

use super::compile::{Compiler, Kind};
use super::lexicon::{ListId, SetId, Word};
use super::reading::{Candidate, Detector, Own, Reading};
use crate::evidence::Likelihood::VeryLikely;

/// The built-in detector of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    (name == "recovery_phrase").then(|| {
        Kind::Text(Box::new(RecoveryPhrase {
            context: compiler.lexicon.list(WALLET_WORDS),
            little: compiler.lexicon.set(LITTLE_WORDS),
        }))
    })
}

/// Words of the shortest phrase.
const WORDS_MIN: usize = 12;
/// Characters of a word.
const CHARS: Range<usize> = 3..9;
/// Bytes between the phrase and the word that says what it is.
const CONTEXT_BYTES: usize = 160;

struct RecoveryPhrase {
    context: ListId,
    /// Words that make a sentence of a run.
    little: SetId,
}

impl Detector for RecoveryPhrase {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        if reading.hits(self.context).next().is_none() {
            return;
        }
        let words = &reading.words.words;
        let mut first = 0;
        while first < words.len() {
            let (end, count) = self.run(reading, words, first);
            if count >= WORDS_MIN {
                let range = words[first].start as usize..words[end - 1].end as usize;
                if reading.distance(self.context, &range, CONTEXT_BYTES).is_some() {
                    found.push(Candidate { range, own: Own::Exactly(VeryLikely) });
                }
            }
            first = end.max(first + 1);
        }
    }
}

impl RecoveryPhrase {
    /// The end of the run that starts at a word, and how many words of a phrase it has; the numbers of
    /// a numbered list do not count.
    fn run(&self, reading: &Reading<'_>, words: &[Word], first: usize) -> (usize, usize) {
        let (mut end, mut count) = (first, 0);
        while let Some(word) = words.get(end) {
            let text = &reading.text[word.start as usize..word.end as usize];
            let is_number = text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
            if !is_number && !self.is_word(reading, text)
                || end > first && !is_gap(reading.text, &words[end - 1], word)
            {
                break;
            }
            count += usize::from(!is_number);
            end += 1;
        }
        (end, count)
    }

    fn is_word(&self, reading: &Reading<'_>, text: &str) -> bool {
        CHARS.contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase())
            && !reading.lexicon.in_set(self.little, text)
            && !reading.lexicon.has(self.context, text)
    }
}

/// What stands between two words of a list.
fn is_gap(text: &str, before: &Word, after: &Word) -> bool {
    let between = &text[before.end as usize..after.start as usize];
    between.len() <= 4
        && between.chars().all(|c| matches!(c, ' ' | ',' | '\n' | '\r' | '.' | ')' | ':' | '-'))
}

#[rustfmt::skip]
const WALLET_WORDS: &[&str] = &[
    "wallet", "wallets", "seed phrase", "seed words", "recovery phrase", "recovery words", "recovery seed", "mnemonic", "secret phrase", "backup phrase",
    "backup words", "bip39", "bip 39", "metamask", "ledger", "trezor", "my words", "bitcoin", "ethereum", "cartera", "billetera", "portefeuille",
    "phrase de récupération", "frase de recuperación", "frase seed", "frase di recupero", "wiederherstellungsphrase", "wiederherstellungswörter",
];
/// Of three letters and more: shorter ones end a run anyway.
#[rustfmt::skip]
const LITTLE_WORDS: &[&str] = &[
    "the", "and", "for", "with", "that", "this", "these", "those", "you", "your", "our", "their", "his", "her", "its", "are", "was", "were", "been", "has", "have",
    "had", "not", "can", "could", "will", "would", "should", "how", "what", "when", "where", "which", "who", "why", "from", "into", "than", "then", "but", "they",
    "them", "she", "him", "does", "did", "may", "might", "any", "all", "some", "each", "also", "such", "very", "because", "there", "here", "want", "need", "please",
];

#[cfg(test)]
mod tests {
    use crate::detector::cases::best;
    use crate::evidence::Likelihood::VeryLikely;

    #[test]
    fn a_long_run_of_plain_words_by_a_wallet_is_a_phrase() {
        let twelve =
            "velvet orbit canyon mimic tuna harvest slender quiz lemon abandon peanut rotate";
        let numbered: Vec<String> =
            twelve.split(' ').enumerate().map(|(i, word)| format!("{}. {word}", i + 1)).collect();
        for text in [
            format!("my wallet won't restore, the words in order: {twelve}. does the order matter"),
            format!("seed phrase\n{}", numbered.join("\n")),
            format!("{} is what my ledger shows", twelve.replace(' ', ", ")),
        ] {
            assert_eq!(best(&text, "recovery_phrase"), Some(VeryLikely), "{text}");
        }
        for text in [
            twelve.to_owned(),
            format!("wallet: {}", twelve.rsplit_once(' ').unwrap().0),
            "how do wallet apps derive keys from twelve words and what does every word stand for".to_owned(),
            "A wallet holds keys; people lose money when they write recovery words down in cloud notes".to_owned(),
        ] {
            assert_eq!(best(&text, "recovery_phrase"), None, "{text}");
        }
    }
}
