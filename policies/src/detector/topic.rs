//! Says what a passage is about: a person's health, private affairs, legal advice, business secrets.
//!
//! What makes a text private is often said in words that no list holds ("she won't take her lithium"),
//! and what a list holds is often harmless ("how does lithium work?"). A linear model answers that. It
//! looks at words, pairs of words and pieces of words (`features`), and at what the other detectors
//! found in the passage, alone and in pairs: a relative beside an illness says more than both (`facts`).
//! The model is a text file, `detectors/topics.tsv`, a feature a line with its weights, so that anyone
//! can read what speaks for a topic; `train` writes it from labelled rows.
//!
//! Most passages are harmless and look it: their words alone, one look-up each, settle it. Only the rest
//! is read in full.
//!
//! Invariants: linear in the text; a person's name counts as "a name", never as that name; digits
//! count by their number, never by value. A topic is found only where the passage is private at all.

mod facts;
mod features;
mod model;
mod train;

use std::ops::Range;

use super::Span;
use super::compile::Kind;
use super::lexicon::Word;
use super::reading::Reading;
use crate::evidence::Likelihood::{self, Likely, VeryLikely};
use facts::FactSet;
use features::Reader;
pub(crate) use features::WordKinds;
use model::Sums;
pub(crate) use model::TopicModel;
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
    /// What its words alone say, for the trainer.
    glance: f32,
}

/// Sums over some words of a text.
struct Block<'a> {
    words: &'a [Word],
    facts: FactSet,
    /// What the words alone say of [`PRIVATE`].
    glance: i32,
    /// What all features say; counted when a passage with this block needs it.
    full: Option<Full>,
}

/// Sums of weights, by topic.
#[derive(Clone, Copy, Default)]
struct Full {
    words: Sums,
    pieces: Sums,
}

impl TopicModel {
    /// The passages of a text that are private, with their scores; `found` is what other detectors
    /// found.
    pub(crate) fn passages(&self, reading: &Reading<'_>, found: &[Span]) -> Vec<Passage> {
        let words = features::words(reading);
        let mut blocks: Vec<Block<'_>> = words
            .chunks(BLOCK_WORDS)
            .map(|words| Block {
                words,
                facts: FactSet::default(),
                glance: words.iter().map(|word| self.glance(reading, word)).sum(),
                full: None,
            })
            .collect();
        self.place_facts(found, &mut blocks);
        let mut reader = None;
        let starts = 0..windows(blocks.len());
        let passages = starts.filter_map(|first| {
            let blocks = passage(&mut blocks, first);
            let glance = self.glance_score(blocks);
            if glance < self.constants.glance {
                return None;
            }
            let reader = reader.get_or_insert_with(|| Reader::new(reading, &self.kinds));
            blocks.iter_mut().for_each(|block| self.read_in_full(block, reader));
            let passage = Passage { range: range_of(blocks)?, score: self.score(blocks), glance };
            (passage.score[PRIVATE] >= self.constants.likely[PRIVATE]).then_some(passage)
        });
        passages.collect()
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

    /// What the words alone and the facts say of [`PRIVATE`].
    fn glance_score(&self, blocks: &[Block<'_>]) -> f32 {
        let words = count(blocks);
        if words < WORDS_MIN {
            return f32::NEG_INFINITY;
        }
        let sum: i32 = blocks.iter().map(|block| block.glance).sum();
        let facts = self.facts.sums(facts_of(blocks))[PRIVATE];
        self.constants.bias[PRIVATE]
            + WEIGHT_STEP * (share_of(words) * sum as f32 + FACT_SHARE * facts as f32)
    }

    fn score(&self, blocks: &[Block<'_>]) -> [f32; TOPICS.len()] {
        let share = share_of(count(blocks));
        let facts = self.facts.sums(facts_of(blocks));
        let mut score = self.constants.bias;
        for (topic, score) in score.iter_mut().enumerate() {
            let full = || blocks.iter().flat_map(|block| block.full);
            let words: i32 = full().map(|full| full.words[topic]).sum();
            let pieces: i32 = full().map(|full| full.pieces[topic]).sum();
            let text = share * (words as f32 + PIECE_SHARE * pieces as f32);
            *score += WEIGHT_STEP * (text + FACT_SHARE * facts[topic] as f32);
        }
        score
    }

    fn read_in_full(&self, block: &mut Block<'_>, reader: &Reader<'_>) {
        if block.full.is_some() {
            return;
        }
        let mut full = Full::default();
        reader.each(block.words, |feature, is_piece| {
            self.add(feature, if is_piece { &mut full.pieces } else { &mut full.words });
        });
        block.full = Some(full);
    }
}

/// A text that is little longer than a passage is one; a longer one is read passage by passage.
fn passage_blocks(blocks: usize) -> usize {
    if blocks <= PASSAGE_BLOCKS + 1 { blocks } else { PASSAGE_BLOCKS }
}

/// How many passages so many blocks make.
fn windows(blocks: usize) -> usize {
    if blocks == 0 { 0 } else { blocks - passage_blocks(blocks) + 1 }
}

fn passage<T>(blocks: &mut [T], first: usize) -> &mut [T] {
    let len = passage_blocks(blocks.len());
    &mut blocks[first..first + len]
}

fn count(blocks: &[Block<'_>]) -> usize {
    blocks.iter().map(|block| block.words.len()).sum()
}

fn facts_of(blocks: &[Block<'_>]) -> FactSet {
    blocks.iter().fold(FactSet::default(), |all, block| all.with(block.facts))
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
