//! The topic model's file and its tables.
//!
//! A line is a feature and its weight for each topic, in steps of `WEIGHT_STEP`:
//! `salary`, `my mother` (neighbours), `~_hea` (a piece of a word, `_` its border), `@` (a name), `#4`
//! (a number of four digits), `#hex` and `#code` (strings of machines), `@drug` (a kind of word), `!person_name` (a finding of that detector),
//! `!person_name !health_terms` (both). Lines that begin with `=` hold constants.

use super::facts::FactWeights;
use super::features::{Feature, Unit, each_piece_of, is_kind};
use super::{PIECE_SHARE, TOPICS};
use crate::detector::lexicon::Lexicon;

/// The shipped model.
const SHIPPED: &str = include_str!("../../../detectors/topics.tsv");

/// A lane for each topic, and room up to a power of two, so that lanes are added together.
pub(super) const LANES: usize = 8;
/// Sums of weights, by topic.
pub(super) type Sums = [i32; LANES];

/// Bits of the sieve: it stops most of the features that the model does not know.
const SIEVE_BITS: usize = 1 << 20;
/// Known words' weights are kept in so many parts of a step.
const WORD_PARTS: f32 = 8.0;

/// The weights of all features.
pub(crate) struct TopicModel {
    /// Pairs, pieces and kinds.
    slots: Box<[Slot<i8>]>,
    /// A bit for each hash of a known feature: most features are unknown and end here.
    sieve: Box<[u64]>,
    /// Words, each with what all its pieces weigh: so a known word costs one look-up.
    words: Box<[Slot<i16>]>,
    pub(super) constants: Constants,
    pub(super) facts: FactWeights,
}

/// What a model says of all passages.
pub(super) struct Constants {
    pub(super) bias: [f32; TOPICS.len()],
    pub(super) likely: [f32; TOPICS.len()],
    pub(super) very_likely: [f32; TOPICS.len()],
}

/// What one word of a text weighs, by topic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Weight {
    /// The word with its pieces, in parts of a step; of a word that is not known its pieces, in steps.
    word: [i16; LANES],
    is_known: bool,
    /// Its kinds.
    kinds: [i16; LANES],
    /// Its kinds, and it with the word before it.
    behind: [i16; LANES],
}

/// Who takes what a word weighs, one feature after another.
pub(super) trait Scale {
    /// A known word with its pieces, in parts of a step.
    fn word(&mut self, weights: &[i16; LANES]);
    /// A piece of a word that is not known.
    fn piece(&mut self, weights: &[i8; LANES]);
    /// A kind of the word.
    fn kind(&mut self, weights: &[i8; LANES]);
    /// The word with the one before it.
    fn pair(&mut self, weights: &[i8; LANES]);
}

impl Scale for Weight {
    #[inline]
    fn word(&mut self, weights: &[i16; LANES]) {
        (self.word, self.is_known) = (*weights, true);
    }

    #[inline]
    fn piece(&mut self, weights: &[i8; LANES]) {
        add_to_word(&mut self.word, weights);
    }

    #[inline]
    fn kind(&mut self, weights: &[i8; LANES]) {
        add_to_word(&mut self.kinds, weights);
        add_to_word(&mut self.behind, weights);
    }

    #[inline]
    fn pair(&mut self, weights: &[i8; LANES]) {
        add_to_word(&mut self.behind, weights);
    }
}

/// Sums over some words.
#[derive(Clone, Copy, Default)]
pub(super) struct Weighed {
    /// Known words with their pieces, in parts of a step.
    words: Sums,
    /// Pairs and kinds.
    others: Sums,
    /// Pieces of words that are not known.
    pieces: Sums,
}

impl Weighed {
    /// The sums of words that begin a block: what their first weighs behind another does not count.
    pub(super) fn of_block(weights: &[Weight]) -> Weighed {
        let mut weighed = Weighed::default();
        if let [first, others @ ..] = weights {
            weighed.add(&Weight { behind: first.kinds, ..*first });
            others.iter().for_each(|weight| weighed.add(weight));
        }
        weighed
    }

    /// Adds a word.
    #[inline]
    pub(super) fn add(&mut self, weight: &Weight) {
        let words = if weight.is_known { &mut self.words } else { &mut self.pieces };
        add_to_sums(words, &weight.word);
        add_to_sums(&mut self.others, &weight.behind);
    }

    /// The sum for a topic, in steps.
    pub(super) fn of(&self, topic: usize) -> f32 {
        self.words[topic] as f32 / WORD_PARTS
            + self.others[topic] as f32
            + self.pieces[topic] as f32 * PIECE_SHARE
    }
}

impl Scale for Weighed {
    #[inline]
    fn word(&mut self, weights: &[i16; LANES]) {
        add_to_sums(&mut self.words, weights);
    }

    #[inline]
    fn piece(&mut self, weights: &[i8; LANES]) {
        add_to_sums(&mut self.pieces, weights);
    }

    #[inline]
    fn kind(&mut self, weights: &[i8; LANES]) {
        add_to_sums(&mut self.others, weights);
    }

    #[inline]
    fn pair(&mut self, weights: &[i8; LANES]) {
        add_to_sums(&mut self.others, weights);
    }
}

/// An entry of an open-addressing table; tag 0 is empty.
#[derive(Clone, Copy, Default)]
struct Slot<W> {
    tag: u32,
    weights: [W; LANES],
}

impl TopicModel {
    /// The model that ships, for these detectors.
    pub(crate) fn shipped<'a>(
        lexicon: &Lexicon,
        detectors: impl Iterator<Item = &'a str>,
    ) -> TopicModel {
        let mut model =
            TopicModel::parse(SHIPPED, lexicon).expect("the shipped model is well formed");
        model.facts.bind(detectors);
        model
    }

    /// Reads a model file: comments, lines of constants, then features with their weights.
    ///
    /// # Errors
    /// The number of the line that is not of that form.
    pub(super) fn parse(file: &str, lexicon: &Lexicon) -> Result<TopicModel, usize> {
        let mut lines = Vec::new();
        for (index, line) in file.lines().enumerate().filter(|(_, l)| !l.starts_with("# ")) {
            let (name, numbers) = line.split_once('\t').ok_or(index + 1)?;
            lines.push((index + 1, name, numbers, is_word(name)));
        }
        let words = lines.iter().filter(|(.., is_word)| *is_word).count();
        let never = [f32::INFINITY; TOPICS.len()];
        let mut model = TopicModel {
            slots: table(lines.len() - words),
            sieve: vec![0; SIEVE_BITS / 64].into_boxed_slice(),
            words: table(words),
            constants: Constants { bias: [0.0; TOPICS.len()], likely: never, very_likely: never },
            facts: FactWeights::default(),
        };
        // Words come last: they take what their pieces weigh.
        lines.sort_by_key(|(.., is_word)| *is_word);
        for (number, name, numbers, _) in lines {
            model.parse_line(name, numbers, lexicon).ok_or(number)?;
        }
        Ok(model)
    }

    fn parse_line(&mut self, name: &str, numbers: &str, lexicon: &Lexicon) -> Option<()> {
        match name {
            "=bias" => return read_columns(numbers, &mut self.constants.bias),
            "=likely" => return read_columns(numbers, &mut self.constants.likely),
            "=very_likely" => return read_columns(numbers, &mut self.constants.very_likely),
            _ => {}
        }
        let mut weights = [0i8; LANES];
        read_columns(numbers, &mut weights[..TOPICS.len()])?;
        if name.starts_with('!') {
            return self.facts.insert(name, weights);
        }
        let feature = Feature::parse(name, lexicon);
        if is_word(name) {
            let whole = self.with_pieces(name, weights, lexicon);
            insert(&mut self.words, feature, whole);
        } else {
            let bit = sieve_bit(feature);
            self.sieve[bit / 64] |= 1 << (bit % 64);
            insert(&mut self.slots, feature, weights);
        }
        Some(())
    }

    /// What a word weighs with all its pieces, in parts of a step.
    fn with_pieces(&self, name: &str, weights: [i8; LANES], lexicon: &Lexicon) -> [i16; LANES] {
        let mut pieces = [0i16; LANES];
        each_piece_of(lexicon, name, |piece| {
            self.other(piece).into_iter().for_each(|weights| add_to_word(&mut pieces, weights));
        });
        std::array::from_fn(|lane| {
            let steps = f32::from(weights[lane]) + PIECE_SHARE * f32::from(pieces[lane]);
            (steps * WORD_PARTS).round().clamp(f32::from(i16::MIN), f32::from(i16::MAX)) as i16
        })
    }

    /// Weighs a word, behind another.
    #[inline]
    pub(super) fn weigh(
        &self,
        unit: &Unit<'_>,
        last: Option<&Unit<'_>>,
        lexicon: &Lexicon,
        scale: &mut impl Scale,
    ) {
        match find(&self.words, unit.feature()) {
            Some(weights) => scale.word(weights),
            // A word has so few pieces that their sum fits.
            None => unit.each_piece(lexicon, |piece| {
                self.other(piece).into_iter().for_each(|weights| scale.piece(weights));
            }),
        }
        for kind in unit.kinds() {
            self.other(kind).into_iter().for_each(|weights| scale.kind(weights));
        }
        let pair = unit.pair(last).and_then(|pair| self.other(pair));
        pair.into_iter().for_each(|weights| scale.pair(weights));
    }

    /// The weights of a feature that is no word.
    #[inline]
    fn other(&self, feature: Feature) -> Option<&[i8; LANES]> {
        let bit = sieve_bit(feature);
        match self.sieve[bit / 64] >> (bit % 64) & 1 {
            0 => None,
            _ => find(&self.slots, feature),
        }
    }
}

/// An empty table with room for so many features.
fn table<W: Copy + Default>(features: usize) -> Box<[Slot<W>]> {
    let empty = Slot { tag: 0, weights: [W::default(); LANES] };
    vec![empty; (features * 3 / 2 + 1).next_power_of_two()].into_boxed_slice()
}

fn insert<W: Copy>(slots: &mut [Slot<W>], feature: Feature, weights: [W; LANES]) {
    let mut at = feature.0 as usize & (slots.len() - 1);
    while slots[at].tag != 0 && slots[at].tag != feature.tag() {
        at = (at + 1) & (slots.len() - 1);
    }
    slots[at] = Slot { tag: feature.tag(), weights };
}

#[inline]
fn find<W>(slots: &[Slot<W>], feature: Feature) -> Option<&[W; LANES]> {
    let mut at = feature.0 as usize & (slots.len() - 1);
    loop {
        let slot = &slots[at];
        if slot.tag == feature.tag() {
            return Some(&slot.weights);
        }
        if slot.tag == 0 {
            return None;
        }
        at = (at + 1) & (slots.len() - 1);
    }
}

/// Adds a feature's weights. Nothing can overflow: a block has few words. (Checked additions are not done
/// lane by lane at once.)
#[inline]
fn add_to_sums<W: Copy + Into<i32>>(sums: &mut Sums, weights: &[W; LANES]) {
    for (sum, weight) in sums.iter_mut().zip(weights) {
        *sum = sum.wrapping_add((*weight).into());
    }
}

/// The same for one word. Nothing can overflow: a word has few pieces and kinds.
#[inline]
fn add_to_word(sums: &mut [i16; LANES], weights: &[i8; LANES]) {
    for (sum, weight) in sums.iter_mut().zip(weights) {
        *sum = sum.wrapping_add(i16::from(*weight));
    }
}

/// From other bits than the tag and the slot are made of.
fn sieve_bit(feature: Feature) -> usize {
    (feature.0 >> 20) as usize & (SIEVE_BITS - 1)
}

/// The feature is a word, a number or a name, and nothing else.
fn is_word(name: &str) -> bool {
    !name.contains(' ') && !name.starts_with(['~', '!', '=']) && !is_kind(name)
}

fn read_columns<T: std::str::FromStr>(text: &str, columns: &mut [T]) -> Option<()> {
    let mut numbers = text.split('\t');
    for column in columns {
        *column = numbers.next()?.parse().ok()?;
    }
    numbers.next().is_none().then_some(())
}
