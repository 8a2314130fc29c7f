//! A few words, each with a value, found in texts of any length and case without copying them.
//!
//! What looks at every request for a handful of words (how hard it looks, which language it is in) must
//! cost less than what scans it. Words of other lengths and other first letters are passed over by one
//! look at a table; what is left is found by halving.
//!
//! Not here: dictionaries of thousands of words, which detectors have (`detector::lexicon`).

use crate::swar;

/// A table of lower-case words with a value each.
pub struct KnownWords<V> {
    /// Sorted by word.
    words: Vec<(&'static str, V)>,
    bytes_min: usize,
    bytes_max: usize,
    /// Lengths of the words that begin with a byte, one bit each; the last is for all that are longer.
    lengths: [u64; 256],
    /// The five low bits of the second bytes of the words that begin with a byte, one bit each; a word of one
    /// letter has a zero there.
    seconds: [u32; 256],
}

impl<V: Copy> KnownWords<V> {
    /// Takes lower-case words. Panics if one stands there twice (caller bug).
    pub fn new(words: impl IntoIterator<Item = (&'static str, V)>) -> KnownWords<V> {
        let mut words: Vec<(&'static str, V)> = words.into_iter().collect();
        words.sort_by_key(|(word, _)| *word);
        assert!(words.windows(2).all(|two| two[0].0 != two[1].0), "a word stands there twice");
        let lengths = || words.iter().map(|(word, _)| word.len());
        let (bytes_min, bytes_max) = (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0));
        let (mut of_first, mut seconds) = ([0; 256], [0; 256]);
        for (word, _) in &words {
            let first = usize::from(word.as_bytes()[0]);
            of_first[first] |= length_bit(word.len());
            seconds[first] |= second_bit(swar::load(word.as_bytes(), 0));
        }
        KnownWords { words, bytes_min, bytes_max, lengths: of_first, seconds }
    }

    /// The words of a text that are known, in their order: whole words of letters, in any case.
    pub fn in_text<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'static str, V)> + 'a {
        self.places_in_text(text).map(|(_, word, value)| (word, value))
    }

    /// The same, each with its place: where it starts.
    pub fn places_in_text<'a>(
        &'a self,
        text: &'a str,
    ) -> impl Iterator<Item = (usize, &'static str, V)> + 'a {
        let bytes = text.as_bytes();
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < bytes.len() {
                let start = at;
                let eight = swar::load(bytes, start);
                let word = swar::leading(eight, swar::letters(eight));
                let end = if word.ends_in_ascii {
                    // Most words are short, of ASCII, and none of those that are known.
                    at = start + word.len + 1;
                    if word.len == 0 || !self.may_be(word.bytes, word.len) {
                        continue;
                    }
                    start + word.len
                } else {
                    let end = end_of_word(text, start);
                    let letter = text[start..].chars().next().map_or(1, char::len_utf8);
                    at = end.max(start + letter);
                    end
                };
                if let Some((word, value)) = self.find(&text[start..end]) {
                    return Some((start, word, value));
                }
            }
            None
        })
    }

    fn find(&self, word: &str) -> Option<(&'static str, V)> {
        // Only letters outside ASCII change their length with their case, and by a byte or two.
        let slack = if word.is_ascii() { 0 } else { word.len() };
        if word.len() + slack < self.bytes_min || word.len() > self.bytes_max + slack {
            return None;
        }
        if slack > 0 {
            return self.find_lower(&word.to_lowercase());
        }
        if !self.may_be(swar::load(word.as_bytes(), 0), word.len()) {
            return None;
        }
        let mut buffer = [0; LOWER_BYTES_MAX];
        match buffer.get_mut(..word.len()) {
            Some(lower) => {
                lower.copy_from_slice(word.as_bytes());
                lower.make_ascii_lowercase();
                self.find_lower(std::str::from_utf8(lower).ok()?)
            }
            None => self.find_lower(&word.to_ascii_lowercase()),
        }
    }

    /// Whether a word of ASCII with these first eight bytes and this length may be known.
    #[inline]
    fn may_be(&self, first_bytes: u64, len: usize) -> bool {
        let first = usize::from((first_bytes as u8).to_ascii_lowercase());
        self.lengths[first] & length_bit(len) != 0
            && self.seconds[first] & second_bit(first_bytes) != 0
    }

    fn find_lower(&self, lower: &str) -> Option<(&'static str, V)> {
        let at = self.words.binary_search_by_key(&lower, |(word, _)| *word).ok()?;
        Some(self.words[at])
    }
}

/// Longer ASCII words are copied to be looked up.
const LOWER_BYTES_MAX: usize = 32;

fn length_bit(len: usize) -> u64 {
    1 << len.min(63)
}

/// Letters differ from those of the other case in none of these bits.
fn second_bit(first_bytes: u64) -> u32 {
    1 << (first_bytes >> 8 & 31)
}

/// Where the run of letters that begins here ends.
fn end_of_word(text: &str, mut at: usize) -> usize {
    loop {
        at += swar::letters_run(&text.as_bytes()[at..]);
        let is_wide = text.as_bytes().get(at).is_some_and(|byte| !byte.is_ascii());
        let next = if is_wide { text[at..].chars().next() } else { None };
        match next.filter(|c| c.is_alphabetic()) {
            Some(letter) => at += letter.len_utf8(),
            None => return at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_found_in_any_case() {
        let known = KnownWords::new([("für", 1), ("of", 2), ("équation", 3), ("straße", 4)]);
        let found = |text: &str| known.in_text(text).map(|(_, value)| value).collect::<Vec<_>>();
        assert_eq!(found("OF the Équation, Für uns: office off of"), [2, 3, 1, 2]);
        assert_eq!(found("STRASSE straße Straße FÜRST f"), [4, 4]);
        assert_eq!(found(&"x".repeat(99)), Vec::<i32>::new());
        assert_eq!(found(""), Vec::<i32>::new());
        let places: Vec<_> = known.places_in_text("Für, dé of\u{e9} - OF").collect();
        assert_eq!(places, [(0, "für", 1), (17, "of", 2)]);
    }

    #[test]
    fn a_word_of_letters_that_shrink_in_lower_case_is_found() {
        // U+2C62 has three bytes, its lower case U+026B has two.
        let known = KnownWords::new([("\u{26b}", ())]);
        assert_eq!(known.in_text("\u{2c62}").count(), 1);
    }

    #[test]
    fn long_words_are_known_too() {
        let long = "donaudampfschifffahrtsgesellschaftskapitän";
        let ascii = "pneumonoultramicroscopicsilicovolcanoconiosis";
        let known = KnownWords::new([(long, 1), (ascii, 2)]);
        let text = format!("{} {}", long.to_uppercase(), ascii.to_uppercase());
        assert_eq!(known.in_text(&text).map(|(_, value)| value).collect::<Vec<_>>(), [1, 2]);
    }
}
