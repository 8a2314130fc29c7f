//! Vectors of words, for training only: words of like meaning have vectors of like direction.
//!
//! Learned from large collections of text by others, in the text form of GloVe: a word and its numbers
//! a line, frequent words first. No vector ships and none is needed to run: see `train_topics`.
//! Source: Pennington, Socher and Manning, "GloVe" (2014); the vectors `glove.6B.50d` are public domain.

use std::collections::HashMap;

/// Words beyond these are too rare to be worth a line of the model.
const COMMON_WORDS: usize = 16_000;
/// Vectors are made smaller by this, so that the rows' own words are learned first.
const SCALE: f32 = 0.1;

/// Words with their vectors; none by default.
#[derive(Clone, Debug, Default)]
pub struct WordVectors {
    words: Vec<String>,
    numbers: Vec<f32>,
    by_word: HashMap<String, usize>,
    dimensions: usize,
}

impl WordVectors {
    /// Reads vectors; their mean is taken off, for it says nothing about a word.
    ///
    /// # Errors
    /// The number of the line that does not have as many numbers as the first.
    pub fn parse(text: &str) -> Result<WordVectors, usize> {
        let mut all = WordVectors::default();
        for (number, line) in text.lines().enumerate() {
            let mut fields = line.split(' ');
            let word = fields.next().ok_or(number + 1)?;
            let before = all.numbers.len();
            for field in fields {
                all.numbers.push(field.parse::<f32>().map_err(|_| number + 1)? * SCALE);
            }
            let len = all.numbers.len() - before;
            if len == 0 || all.dimensions != 0 && len != all.dimensions {
                return Err(number + 1);
            }
            all.dimensions = len;
            all.by_word.insert(word.to_owned(), number);
            all.words.push(word.to_owned());
        }
        all.center();
        Ok(all)
    }

    fn center(&mut self) {
        let count = self.words.len() as f32;
        for at in 0..self.dimensions {
            let column = || (at..self.numbers.len()).step_by(self.dimensions);
            let mean = column().map(|i| self.numbers[i]).sum::<f32>() / count;
            column().for_each(|i| self.numbers[i] -= mean);
        }
    }

    pub(super) fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The vector of a word; pairs, numbers and kinds have none.
    pub(super) fn of(&self, word: &str) -> Option<&[f32]> {
        let start = self.by_word.get(word)? * self.dimensions;
        Some(&self.numbers[start..start + self.dimensions])
    }

    /// The sum of vectors, times `share`.
    pub(super) fn sum<'a>(&self, vectors: impl Iterator<Item = &'a [f32]>, share: f32) -> Vec<f32> {
        let mut sum = vec![0.0; self.dimensions];
        for vector in vectors {
            sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += share * x);
        }
        sum
    }

    /// Frequent words, which a model has even if no row does.
    pub(super) fn common_words(&self) -> impl Iterator<Item = &str> {
        let is_word = |word: &&str| word.len() > 2 && word.bytes().all(|b| b.is_ascii_lowercase());
        self.words.iter().map(String::as_str).filter(is_word).take(COMMON_WORDS)
    }
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_centred_and_a_line_of_another_length_is_refused() {
        let vectors = WordVectors::parse("lupus 10 0\ntrain 0 10").unwrap();
        assert_eq!(vectors.of("lupus"), Some(&[0.5, -0.5][..]));
        assert_eq!(vectors.of("of the"), None);
        assert_eq!(WordVectors::parse("lupus 1 0\ntrain 0").map(|_| ()), Err(2));
    }
}
