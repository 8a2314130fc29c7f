//! Says what a passage is about: a person's health, private affairs, legal advice, business secrets.
//!
//! What makes a text private is often said in words that no list holds ("she won't take her lithium").
//! A linear model over words and pairs of words answers that: each feature adds its weight to every
//! topic, the sum over a passage is divided by the root of its number of features (and some more, so that short texts must be plain), and thresholds
//! measured on unseen rows turn it into `likely` and `very_likely`. The model is a text file,
//! `detectors/topics.tsv`, one feature a line with its weights, so that anyone can read what speaks
//! for a topic; `train` writes it from labelled rows.
//!
//! Invariants: linear in the text; a person's name counts as "a name", never as that name; digits
//! count by their number, never by value.

mod features;
mod train;

use std::ops::Range;

use super::compile::Kind;
use super::lexicon::Lexicon;
use super::reading::{Candidate, Detector, Own, Reading};
use crate::evidence::Likelihood::{Likely, VeryLikely};
use features::Feature;
pub(crate) use features::WordKinds;
pub use train::{LabelledText, TopicTraining, WordVectors, train_topics};

/// The topics, in the order of the model's columns; the names are built-in detectors.
///
/// The last is the sum of the others: what speaks a little for two of them speaks for it.
pub(crate) const TOPICS: [&str; 6] = [
    "health_matter",
    "personal_matter",
    "legal_matter",
    "business_secret",
    "spoken_secret",
    "private_matter",
];

/// The shipped model.
const SHIPPED: &str = include_str!("../../detectors/topics.tsv");

/// Words that are summed together.
const BLOCK_WORDS: usize = 16;
/// Blocks of one passage; a shorter text is one passage, and a passage moves on by one block.
const PASSAGE_BLOCKS: usize = 4;
/// Fewer features say nothing.
const FEATURES_MIN: u32 = 8;
/// A passage in plain letters of which the model knows fewer words, or a smaller share of all words and
/// numbers, is a table, code or an encoding. It says nothing about such a passage.
const KNOWN_WORDS_MIN: u32 = 4;
const KNOWN_SHARE_MIN: f32 = 0.4;
/// As if every passage had so many more features that say nothing: a few words are no proof.
const SILENT_FEATURES: f32 = 12.0;
/// Weights are multiples of this.
const WEIGHT_STEP: f32 = 0.125;

/// A lane for each topic, and room up to a power of two, so that lanes are added together.
const LANES: usize = 8;
/// Bits of the sieve: one foreign feature in eight passes with 30,000 known ones.
const SIEVE_BITS: usize = 1 << 18;

/// Sums over a block: 16 words of at most nine features of at most 127 each stay below 2^15.
type Sums = [i16; LANES];

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str) -> Option<Kind> {
    let topic = TOPICS.iter().position(|known| *known == name)?;
    Some(Kind::Text(Box::new(Topic(topic))))
}

/// Whether a built-in detector is one of this family.
pub(crate) fn is_topic(name: &str) -> bool {
    TOPICS.contains(&name)
}

/// Passages about one topic.
struct Topic(usize);

impl Detector for Topic {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for passage in reading.passages() {
            let sure = if passage.score[self.0] >= reading.topics.very_likely[self.0] {
                VeryLikely
            } else if passage.score[self.0] >= reading.topics.likely[self.0] {
                Likely
            } else {
                continue;
            };
            found.push(Candidate { range: passage.range.clone(), own: Own::Exactly(sure) });
        }
    }
}

/// A passage and how strongly it speaks of each topic.
#[derive(Clone, Debug)]
pub(crate) struct Passage {
    pub(crate) range: Range<usize>,
    pub(crate) score: [f32; TOPICS.len()],
}

/// The weights of all features.
pub(crate) struct TopicModel {
    slots: Box<[Slot]>,
    /// A bit for each hash of a known feature: most features are unknown and end here.
    sieve: Box<[u64]>,
    bias: [f32; TOPICS.len()],
    likely: [f32; TOPICS.len()],
    very_likely: [f32; TOPICS.len()],
    kinds: WordKinds,
}

/// An entry of an open-addressing table; tag 0 is empty.
#[derive(Clone, Copy, Default)]
struct Slot {
    tag: u32,
    weights: [i8; LANES],
}

impl TopicModel {
    /// The model that ships.
    pub(crate) fn shipped(lexicon: &Lexicon, kinds: WordKinds) -> TopicModel {
        TopicModel::parse(SHIPPED, lexicon, kinds).expect("the shipped model is well formed")
    }

    /// Reads a model file: comments, three lines of constants, then features with their weights.
    ///
    /// # Errors
    /// The number of the line that is not of that form.
    fn parse(file: &str, lexicon: &Lexicon, kinds: WordKinds) -> Result<TopicModel, usize> {
        let rows = file.lines().filter(|l| !l.starts_with("# ")).count();
        let mut model = TopicModel {
            slots: vec![Slot::default(); (rows * 2).next_power_of_two()].into_boxed_slice(),
            sieve: vec![0; SIEVE_BITS / 64].into_boxed_slice(),
            bias: [0.0; TOPICS.len()],
            likely: [f32::INFINITY; TOPICS.len()],
            very_likely: [f32::INFINITY; TOPICS.len()],
            kinds,
        };
        for (number, line) in file.lines().enumerate().filter(|(_, l)| !l.starts_with("# ")) {
            model.parse_line(line, lexicon).ok_or(number + 1)?;
        }
        Ok(model)
    }

    fn parse_line(&mut self, line: &str, lexicon: &Lexicon) -> Option<()> {
        let (name, numbers) = line.split_once('\t')?;
        let constants = match name {
            "=bias" => Some(&mut self.bias),
            "=likely" => Some(&mut self.likely),
            "=very_likely" => Some(&mut self.very_likely),
            _ => None,
        };
        if let Some(constants) = constants {
            return read_columns(numbers, constants);
        }
        let mut weights = [0i8; LANES];
        read_columns(numbers, &mut weights[..TOPICS.len()])?;
        self.insert(Feature::parse(name, lexicon), weights);
        Some(())
    }

    fn insert(&mut self, feature: Feature, weights: [i8; LANES]) {
        let bit = sieve_bit(feature);
        self.sieve[bit / 64] |= 1 << (bit % 64);
        let mut at = self.first_slot(feature);
        while self.slots[at].tag != 0 && self.slots[at].tag != feature.tag() {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = Slot { tag: feature.tag(), weights };
    }

    fn first_slot(&self, feature: Feature) -> usize {
        feature.0 as usize & (self.slots.len() - 1)
    }

    /// Adds the weights of a feature; `false` if it is not known.
    #[inline]
    fn add(&self, feature: Feature, sums: &mut Sums) -> bool {
        let bit = sieve_bit(feature);
        if self.sieve[bit / 64] >> (bit % 64) & 1 == 0 {
            return false;
        }
        let mut at = self.first_slot(feature);
        loop {
            let slot = &self.slots[at];
            if slot.tag == feature.tag() {
                for (sum, weight) in sums.iter_mut().zip(slot.weights) {
                    *sum += i16::from(weight);
                }
                return true;
            }
            if slot.tag == 0 {
                return false;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// The passages of a text with their scores.
    pub(crate) fn passages(&self, reading: &Reading<'_>) -> Vec<Passage> {
        let mut blocks: Vec<Block> =
            Vec::with_capacity(reading.words.words.len() / BLOCK_WORDS + 1);
        features::each(reading, &self.kinds, |step| {
            if step.number / BLOCK_WORDS >= blocks.len() {
                blocks.push(Block { range: step.range(), ..Block::default() });
            }
            let block = blocks.last_mut().expect("one was pushed for the first word");
            block.range.end = step.range().end;
            block.words += 1;
            let mut is_known = false;
            step.features(|feature| {
                block.features += 1;
                is_known |= self.add(feature, &mut block.sums);
            });
            block.known += u32::from(is_known && step.is_word());
        });
        passages(&blocks).filter_map(|blocks| self.judge(blocks, reading.text)).collect()
    }

    fn judge(&self, blocks: &[Block], text: &str) -> Option<Passage> {
        let features: u32 = blocks.iter().map(|b| b.features).sum();
        let words: u32 = blocks.iter().map(|b| b.words).sum();
        let known: u32 = blocks.iter().map(|b| b.known).sum();
        let range = blocks.first()?.range.start..blocks.last()?.range.end;
        let is_known = known >= KNOWN_WORDS_MIN && known as f32 >= KNOWN_SHARE_MIN * words as f32;
        // Other letters are a language, and of those it has learned only what matters most.
        if features < FEATURES_MIN || !is_known && text[range.clone()].is_ascii() {
            return None;
        }
        let scale = WEIGHT_STEP * share_of(features as usize);
        let mut score = self.bias;
        for (topic, score) in score.iter_mut().enumerate() {
            *score += scale * blocks.iter().map(|b| i32::from(b.sums[topic])).sum::<i32>() as f32;
        }
        Some(Passage { range, score })
    }
}

/// What one feature counts among so many.
fn share_of(features: usize) -> f32 {
    1.0 / (features as f32 + SILENT_FEATURES).sqrt()
}

/// From other bits than the tag and the slot are made of.
fn sieve_bit(feature: Feature) -> usize {
    (feature.0 >> 20) as usize & (SIEVE_BITS - 1)
}

/// Sums over some words of a text.
#[derive(Default)]
struct Block {
    range: Range<usize>,
    /// Words and numbers.
    words: u32,
    /// Words of which the model knows something.
    known: u32,
    features: u32,
    sums: Sums,
}

/// A text that is little longer than a passage is one; a longer one is read passage by passage.
fn passages<T>(blocks: &[T]) -> impl Iterator<Item = &[T]> {
    let len = if blocks.len() <= PASSAGE_BLOCKS + 1 { blocks.len() } else { PASSAGE_BLOCKS };
    blocks.windows(len.max(1))
}

fn read_columns<T: std::str::FromStr>(text: &str, columns: &mut [T]) -> Option<()> {
    let mut numbers = text.split('\t');
    for column in columns {
        *column = numbers.next()?.parse().ok()?;
    }
    numbers.next().is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::compile::{Compiled, Compiler};
    use crate::detector::lexicon::LexiconBuilder;

    fn scores(text: &str) -> Vec<Passage> {
        let compiled = Compiled::new(Vec::new()).unwrap();
        let reading = compiled.read(text);
        reading.passages().to_vec()
    }

    #[test]
    fn a_name_counts_as_a_name_and_a_number_by_its_length() {
        let one =
            scores("Gerald Foster had a bad fall, see page 4417 of his chart, he is on morphine");
        let other =
            scores("Pamela Turner had a bad fall, see page 9028 of his chart, he is on morphine");
        assert_eq!(one[0].score, other[0].score);
    }

    #[test]
    fn a_long_text_is_read_passage_by_passage() {
        let harmless =
            "The train leaves at nine and the museum opens at ten on most days. ".repeat(40);
        let matter = "My sister stopped taking her pills, she hears voices and the ward wants to section her.";
        let text = format!("{harmless}{matter} {harmless}");
        let passages = scores(&text);
        assert!(passages.len() > 20);
        let strongest = passages.iter().max_by(|a, b| a.score[0].total_cmp(&b.score[0])).unwrap();
        assert!(strongest.range.contains(&(harmless.len() + 20)), "{strongest:?}");
    }

    #[test]
    fn a_model_file_that_is_not_one_is_refused_with_the_line() {
        let lexicon = LexiconBuilder::default().build();
        let kinds = || WordKinds::new(&mut Compiler::default());
        let parse = |file: &str| TopicModel::parse(file, &lexicon, kinds()).map(|_| ());
        assert_eq!(parse("# comment\nsalary\t1\t2\t3\t4\t5\t6\n"), Ok(()));
        assert_eq!(parse("# comment\nsalary\t1\t2\t3\t4\t5\n"), Err(2));
        assert_eq!(parse("salary\t1\t2\t3\t4\t5\t6\n=bias\t1\t2\t3\t4\t5\tx\n"), Err(2));
        assert_eq!(parse("salary 1 2 3 4 5 6\n"), Err(1));
    }

    #[test]
    fn training_gives_the_same_file_each_time_and_learns_what_tells_rows_apart() {
        let health = ["HIPAA".to_owned()];
        let texts: Vec<(String, bool)> = (0..60)
            .map(|n| match n % 2 {
                0 => (
                    format!("case {n}: my aunt vomits since the chemo, what should she take"),
                    true,
                ),
                _ => (
                    format!("case {n}: explain what the chemo does in the body of patients"),
                    false,
                ),
            })
            .collect();
        let rows: Vec<LabelledText<'_>> = texts
            .iter()
            .map(|(text, private)| LabelledText {
                text,
                labels: &health,
                private: *private,
                request: true,
            })
            .collect();
        let vectors = WordVectors::parse("chemo 9 0\nsurgery 8 1\nbicycle 0 9").unwrap();
        let training = train_topics(&rows, &vectors);
        assert_eq!(training.file, train_topics(&rows, &vectors).file);
        let weight = |feature: &str| -> i8 {
            let line =
                training.file.lines().find(|l| l.starts_with(&format!("{feature}\t"))).unwrap();
            line.split('\t').nth(1).unwrap().parse().unwrap()
        };
        assert!(weight("my aunt") > 0 && weight("explain") < 0, "{}", training.file);
    }
}
