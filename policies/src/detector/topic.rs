//! Says what a passage is about: a person's health, private affairs, legal advice, business secrets.
//!
//! What makes a text private is often said in words that no list holds ("she won't take her lithium"),
//! and what a list holds is often harmless ("how does lithium work?"). A linear model answers that. It
//! looks at words, pairs of words and pieces of words (`features`), and at what the other detectors
//! found in the passage, alone and in pairs: a relative beside an illness says more than both (`facts`).
//! The model is a text file, `detectors/topics.tsv`, a feature a line with its weights, so that anyone
//! can read what speaks for a topic; `train` writes it from labelled rows.
//!
//! A word that the model knows costs one look-up, for its pieces are added to it when the model is loaded.
//!
//! Invariants: linear in the text; a person's name counts as "a name", never as that name; digits
//! count by their number, never by value; identifiers, digests and keys count as such, never by letters. A topic is found only where the passage is private at all.

mod facts;
mod features;
mod machine;
mod model;
mod train;

use std::borrow::Cow;
use std::ops::Range;

use super::Span;
use super::compile::Kind;
use super::lexicon::Word;
use super::reading::Reading;
use crate::evidence::Likelihood::{self, Likely, VeryLikely};
use facts::FactSet;
pub(crate) use features::mark_kinds;
use features::{Reader, Unit};
use model::Weighed;
pub(crate) use model::{TopicModel, Weight};
pub use train::{LabelledText, TopicTraining, WordVectors, train_topics};

/// The topics, in the order of the model's columns; the names are built-in detectors.
///
/// The last is the sum of the others: whether a passage is private at all, whatever the matter.
pub(crate) const TOPICS: [&str; 6] = [
    "health_matter",
    "personal_matter",
    "legal_matter",
    "business_secret",
    "spoken_secret",
    "private_matter",
];
/// The number of `private_matter`.
const PRIVATE: usize = TOPICS.len() - 1;

/// Words that are summed together.
const BLOCK_WORDS: usize = 16;
/// Blocks of one passage; a shorter text is one passage, and a passage moves on by one block.
const PASSAGE_BLOCKS: usize = 4;
/// Fewer words say nothing.
const WORDS_MIN: usize = 2;
/// As if every passage had so many more words that say nothing: a few words are no proof.
const SILENT_WORDS: f32 = 8.0;
/// What a piece of a word counts beside a word: a word has about twenty.
const PIECE_SHARE: f32 = 0.15;
/// What a finding of another detector counts, however long the passage.
const FACT_SHARE: f32 = 0.6;
/// Weights are multiples of this.
const WEIGHT_STEP: f32 = 0.125;

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str) -> Option<Kind> {
    TOPICS.iter().position(|known| *known == name).map(Kind::Topic)
}

/// Whether a built-in detector is one of this family.
pub(crate) fn is_topic(name: &str) -> bool {
    TOPICS.contains(&name)
}

/// A passage that is private, and how strongly it speaks of each topic.
#[derive(Clone, Debug)]
pub(crate) struct Passage {
    pub(crate) range: Range<usize>,
    pub(crate) score: [f32; TOPICS.len()],
}

/// Some words of a text, and what they say.
struct Block<'a> {
    words: &'a [Word],
    facts: FactSet,
    /// The sums of the words' weights, by topic.
    sums: [f32; TOPICS.len()],
}

impl<'a> Block<'a> {
    fn new(words: &'a [Word], weighed: &Weighed) -> Block<'a> {
        let sums = std::array::from_fn(|topic| weighed.of(topic));
        Block { words, facts: FactSet::default(), sums }
    }
}

impl TopicModel {
    /// The passages of a text that are private, with their scores; `found` is what other detectors
    /// found.
    pub(crate) fn passages(&self, reading: &Reading<'_>, found: &[Span]) -> Vec<Passage> {
        let mut passages = self.all_passages(reading, found);
        passages.retain(|passage| passage.score[PRIVATE] >= self.constants.likely[PRIVATE]);
        passages
    }

    fn all_passages(&self, reading: &Reading<'_>, found: &[Span]) -> Vec<Passage> {
        let words = features::words(reading);
        let known = reading.weights.get().filter(|_| matches!(words, Cow::Borrowed(_)));
        let mut blocks: Vec<Block<'_>> = match known {
            Some(known) => {
                let blocks = words.chunks(BLOCK_WORDS).zip(known.chunks(BLOCK_WORDS));
                blocks.map(|(words, known)| Block::new(words, &Weighed::of_block(known))).collect()
            }
            None => {
                let mut reader = Reader::new(reading);
                let block = |words| {
                    let mut weighed = Weighed::default();
                    each_unit(words, &mut reader, |unit, last| {
                        self.weigh(unit, last, reading.lexicon, &mut weighed);
                    });
                    Block::new(words, &weighed)
                };
                words.chunks(BLOCK_WORDS).map(block).collect()
            }
        };
        self.place_facts(found, &mut blocks);
        windows(&blocks).filter_map(|blocks| self.judge(blocks)).collect()
    }

    /// Adds what words weigh, one by one. The first of them is behind no other.
    fn weigh_each(&self, words: &[Word], reader: &mut Reader<'_>, weights: &mut Vec<Weight>) {
        let lexicon = reader.lexicon;
        each_unit(words, reader, |unit, last| {
            let mut weight = Weight::default();
            self.weigh(unit, last, lexicon, &mut weight);
            weights.push(weight);
        });
    }

    /// What each word of a text weighs, for texts that it will be a part of; `None` where the model
    /// sees other words than the lexicon does.
    pub(crate) fn weights(&self, reading: &Reading<'_>) -> Option<Vec<Weight>> {
        let Cow::Borrowed(words) = features::words(reading) else { return None };
        let mut weights = Vec::with_capacity(words.len());
        self.weigh_each(words, &mut Reader::new(reading), &mut weights);
        Some(weights)
    }

    /// The same for a text in which other texts stand in this order: of each where it starts, and what
    /// its words weigh.
    pub(crate) fn join_weights<'w>(
        &self,
        reading: &Reading<'_>,
        parts: impl Iterator<Item = (usize, &'w [Weight])>,
    ) -> Vec<Weight> {
        let words = &reading.words.words;
        let mut weights: Vec<Weight> = Vec::with_capacity(words.len());
        let mut borders = Vec::new();
        let mut parts = parts.peekable();
        while let Some((_, known)) = parts.next() {
            let end = parts.peek().map_or(words.len(), |(next, _)| {
                words.partition_point(|word| (word.start as usize) < *next)
            });
            // The first word may have become the end of the one before.
            let taken = &known[known.len() - (end - weights.len())..];
            weights.extend(taken);
            borders.push(end);
        }
        for border in borders {
            // A phrase over the border changes what its first word is; the word behind has another
            // before it.
            let first = border.saturating_sub(reading.lexicon.phrase_words_max);
            let last = words.len().min(border + 1);
            let mut reader = Reader::new(reading);
            let behind = first.saturating_sub(1);
            let mut fresh = Vec::with_capacity(last - behind);
            self.weigh_each(&words[behind..last], &mut reader, &mut fresh);
            weights[first..last].copy_from_slice(&fresh[first - behind..]);
        }
        weights
    }

    /// Whether a passage is about a topic.
    pub(crate) fn likelihood(&self, passage: &Passage, topic: usize) -> Option<Likelihood> {
        let score = passage.score[topic];
        if score >= self.constants.very_likely[topic] {
            Some(VeryLikely)
        } else {
            (score >= self.constants.likely[topic]).then_some(Likely)
        }
    }

    fn place_facts(&self, found: &[Span], blocks: &mut [Block<'_>]) {
        for span in found.iter().filter(|span| span.likelihood >= Likely) {
            let Some(fact) = self.facts.of_detector(span.detector) else { continue };
            let ends_before = |block: &Block<'_>| end_of(block.words) <= span.range.start;
            let first = blocks.partition_point(ends_before).min(blocks.len().saturating_sub(1));
            for (index, block) in blocks.iter_mut().enumerate().skip(first) {
                if index > first && start_of(block.words) >= span.range.end {
                    break;
                }
                block.facts.insert(fact);
            }
        }
    }

    fn judge(&self, blocks: &[Block<'_>]) -> Option<Passage> {
        let words: usize = blocks.iter().map(|block| block.words.len()).sum();
        if words < WORDS_MIN {
            return None;
        }
        let facts = blocks.iter().fold(FactSet::default(), |all, block| all.with(block.facts));
        let facts = self.facts.sums(facts);
        let share = share_of(words);
        let mut score = self.constants.bias;
        for (topic, score) in score.iter_mut().enumerate() {
            let text: f32 = blocks.iter().map(|block| block.sums[topic]).sum();
            let facts = FACT_SHARE * facts[topic] as f32;
            *score += WEIGHT_STEP * (share * text + facts);
        }
        Some(Passage { range: range_of(blocks)?, score })
    }
}

/// Calls `each` with every word and the one before it.
#[inline]
fn each_unit<'a>(
    words: &[Word],
    reader: &mut Reader<'a>,
    mut each: impl FnMut(&Unit<'a>, Option<&Unit<'a>>),
) {
    let mut last: Option<Unit<'a>> = None;
    for word in words {
        let unit = reader.unit(word);
        each(&unit, last.as_ref());
        last = Some(unit);
    }
}

/// The passages: a text that is little longer than one is one; a longer one is read passage by passage.
fn windows<T>(blocks: &[T]) -> impl Iterator<Item = &[T]> {
    let len = if blocks.len() <= PASSAGE_BLOCKS + 1 { blocks.len() } else { PASSAGE_BLOCKS };
    blocks.windows(len.max(1))
}

fn range_of(blocks: &[Block<'_>]) -> Option<Range<usize>> {
    Some(start_of(blocks.first()?.words)..end_of(blocks.last()?.words))
}

fn start_of(words: &[Word]) -> usize {
    words.first().map_or(0, |word| word.start as usize)
}

fn end_of(words: &[Word]) -> usize {
    words.last().map_or(0, |word| word.end as usize)
}

/// What one word counts among so many.
fn share_of(words: usize) -> f32 {
    1.0 / (words as f32 + SILENT_WORDS).sqrt()
}

#[cfg(test)]
mod tests;
