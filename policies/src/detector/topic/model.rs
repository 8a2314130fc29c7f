//! The topic model's file and its tables.
//!
//! A line is a feature and its weight for each topic, in steps of `WEIGHT_STEP`:
//! `salary`, `my mother` (neighbours), `~_hea` (a piece of a word, `_` its border), `@` (a name), `#4`
//! (a number of four digits), `@drug` (a kind of word), `!person_name` (a finding of that detector),
//! `!person_name !health_terms` (both). Lines that begin with `=` hold constants.

use super::facts::FactWeights;
use super::features::{Feature, WordKinds, glance_hash};
use super::{PRIVATE, TOPICS};
use crate::detector::lexicon::{Lexicon, Word};
use crate::detector::reading::Reading;

/// The shipped model.
const SHIPPED: &str = include_str!("../../../detectors/topics.tsv");

/// A lane for each topic, and room up to a power of two, so that lanes are added together.
pub(super) const LANES: usize = 8;
/// Sums of weights, by topic.
pub(super) type Sums = [i32; LANES];

/// Bits of the sieve: it stops most of the features that the model does not know.
const SIEVE_BITS: usize = 1 << 21;

/// The weights of all features.
pub(crate) struct TopicModel {
    slots: Box<[Slot]>,
    /// A bit for each hash of a known feature: most features are unknown and end here.
    sieve: Box<[u64]>,
    /// The words' weights for [`PRIVATE`] alone, in less memory.
    glances: Glances,
    pub(super) constants: Constants,
    pub(super) facts: FactWeights,
    pub(super) kinds: WordKinds,
}

/// What a model says of all passages.
pub(super) struct Constants {
    pub(super) bias: [f32; TOPICS.len()],
    pub(super) likely: [f32; TOPICS.len()],
    pub(super) very_likely: [f32; TOPICS.len()],
    /// A passage whose words alone score lower is harmless.
    pub(super) glance: f32,
}

/// An entry of an open-addressing table; tag 0 is empty.
#[derive(Clone, Copy, Default)]
struct Slot {
    tag: u32,
    weights: [i8; LANES],
}

impl TopicModel {
    /// The model that ships, for these detectors.
    pub(crate) fn shipped<'a>(
        lexicon: &Lexicon,
        kinds: WordKinds,
        detectors: impl Iterator<Item = &'a str>,
    ) -> TopicModel {
        let mut model =
            TopicModel::parse(SHIPPED, lexicon, kinds).expect("the shipped model is well formed");
        model.facts.bind(detectors);
        model
    }

    /// Reads a model file: comments, lines of constants, then features with their weights.
    ///
    /// # Errors
    /// The number of the line that is not of that form.
    pub(super) fn parse(
        file: &str,
        lexicon: &Lexicon,
        kinds: WordKinds,
    ) -> Result<TopicModel, usize> {
        let lines = || file.lines().enumerate().filter(|(_, line)| !line.starts_with("# "));
        let rows = lines().count();
        let never = [f32::INFINITY; TOPICS.len()];
        let mut model = TopicModel {
            slots: vec![Slot::default(); (rows * 3 / 2).next_power_of_two()].into_boxed_slice(),
            sieve: vec![0; SIEVE_BITS / 64].into_boxed_slice(),
            glances: Glances::for_words(lines().filter(|(_, line)| is_word(line)).count()),
            constants: Constants {
                bias: [0.0; TOPICS.len()],
                likely: never,
                very_likely: never,
                glance: f32::NEG_INFINITY,
            },
            facts: FactWeights::default(),
            kinds,
        };
        for (number, line) in lines() {
            model.parse_line(line, lexicon).ok_or(number + 1)?;
        }
        Ok(model)
    }

    fn parse_line(&mut self, line: &str, lexicon: &Lexicon) -> Option<()> {
        let (name, numbers) = line.split_once('\t')?;
        match name {
            "=bias" => return read_columns(numbers, &mut self.constants.bias),
            "=likely" => return read_columns(numbers, &mut self.constants.likely),
            "=very_likely" => return read_columns(numbers, &mut self.constants.very_likely),
            "=glance" => {
                return read_columns(numbers, std::slice::from_mut(&mut self.constants.glance));
            }
            _ => {}
        }
        let mut weights = [0i8; LANES];
        read_columns(numbers, &mut weights[..TOPICS.len()])?;
        if name.starts_with('!') {
            return self.facts.insert(name, weights);
        }
        let feature = Feature::parse(name, lexicon);
        self.insert(feature, weights);
        if is_word(line) {
            self.glances.insert(feature.0, weights[PRIVATE]);
        }
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

    /// Adds the weights of a feature.
    #[inline]
    pub(super) fn add(&self, feature: Feature, sums: &mut Sums) {
        let bit = sieve_bit(feature);
        if self.sieve[bit / 64] >> (bit % 64) & 1 == 0 {
            return;
        }
        let mut at = self.first_slot(feature);
        loop {
            let slot = &self.slots[at];
            if slot.tag == feature.tag() {
                for (sum, weight) in sums.iter_mut().zip(slot.weights) {
                    *sum += i32::from(weight);
                }
                return;
            }
            if slot.tag == 0 {
                return;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// What a word alone says of [`PRIVATE`].
    #[inline]
    pub(super) fn glance(&self, reading: &Reading<'_>, word: &Word) -> i32 {
        self.glances.of(glance_hash(reading.text, word))
    }
}

/// From other bits than the tag and the slot are made of.
fn sieve_bit(feature: Feature) -> usize {
    (feature.0 >> 20) as usize & (SIEVE_BITS - 1)
}

/// The line's feature is a word or a number, and nothing else.
fn is_word(line: &str) -> bool {
    let name = line.split('\t').next().unwrap_or_default();
    !name.contains(' ') && !name.starts_with(['~', '@', '!', '='])
}

fn read_columns<T: std::str::FromStr>(text: &str, columns: &mut [T]) -> Option<()> {
    let mut numbers = text.split('\t');
    for column in columns {
        *column = numbers.next()?.parse().ok()?;
    }
    numbers.next().is_none().then_some(())
}

/// One weight a word, in an open-addressing table: 24 bits of the hash and the weight; 0 is empty.
struct Glances {
    slots: Box<[u32]>,
}

impl Glances {
    fn for_words(words: usize) -> Glances {
        Glances { slots: vec![0; (words * 2 + 1).next_power_of_two()].into_boxed_slice() }
    }

    fn tag(hash: u64) -> u32 {
        (hash >> 32) as u32 & !0xff | 0x100
    }

    fn insert(&mut self, hash: u64, weight: i8) {
        let mut at = hash as usize & (self.slots.len() - 1);
        while self.slots[at] != 0 && self.slots[at] & !0xff != Glances::tag(hash) {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = Glances::tag(hash) | u32::from(weight as u8);
    }

    #[inline]
    fn of(&self, hash: u64) -> i32 {
        let mut at = hash as usize & (self.slots.len() - 1);
        loop {
            let slot = self.slots[at];
            if slot & !0xff == Glances::tag(hash) {
                return i32::from(slot as u8 as i8);
            }
            if slot == 0 {
                return 0;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}
