//! Writes a topic model from labelled rows: logistic regression over the features of a passage.
//!
//! A private row of several passages need be private in one of them only, so the passage that the
//! model finds strongest stands for it; every passage of a harmless row is harmless. Thresholds are
//! taken from scores of rows that the scoring model had not seen (four folds). Weights are learned by
//! AdaGrad (Duchi, Hazan and Singer, 2011); the same rows give the same file, byte for byte.

use std::collections::{BTreeSet, HashMap};

mod vectors;

use super::features::{self, Reader};
use super::{
    BLOCK_WORDS, FACT_SHARE, PIECE_SHARE, PRIVATE, TOPICS, WEIGHT_STEP, WORDS_MIN, share_of,
    windows,
};
use crate::detector::lexicon::Word;
use crate::detector::reading::Reading;
use crate::detector::{Scanner, Span};
use crate::evidence::Likelihood::Likely;
use crate::normalize::{Budget, Views};
pub use vectors::WordVectors;

/// A text and what a person says of it.
#[derive(Clone, Copy, Debug)]
pub struct LabelledText<'a> {
    /// The text.
    pub text: &'a str,
    /// Labels of a private text (`HIPAA`, `GDPR`, …); none means harmless.
    pub labels: &'a [String],
    /// Whether the text must stay.
    pub private: bool,
    /// Whether it is what people send: thresholds are measured on such rows only.
    pub request: bool,
}

/// A trained model.
#[derive(Clone, Debug)]
pub struct TopicTraining {
    /// The model file.
    pub file: String,
    /// A line for each topic: rows, and how many unseen ones the thresholds find.
    pub summary: Vec<String>,
}

/// Labels that make a private row an example of a topic, in the order of [`TOPICS`].
const LABELS: [&[&str]; TOPICS.len()] = [
    &["HIPAA"],
    &["GDPR", "CCPA", "PERSONAL"],
    &["PRIVILEGE"],
    &["TRADE_SECRET"],
    &["SECRET"],
    &["HIPAA", "GDPR", "CCPA", "PERSONAL", "PRIVILEGE", "TRADE_SECRET", "SECRET"],
];
/// Share of harmless unseen rows that may reach `likely` in `private_matter`.
const LIKELY_FALSE: f64 = 0.04;
/// Share of harmless unseen rows that may reach `very_likely` in it.
const VERY_LIKELY_FALSE: f64 = 0.005;
/// The same for the other topics: shares of unseen private rows about something else.
const LIKELY_OTHER: f64 = 0.05;
const VERY_LIKELY_OTHER: f64 = 0.01;
const FOLDS: usize = 4;
const EPOCHS: usize = 15;
const RATE: f32 = 0.5;
const DECAY: f32 = 1e-4;
/// A feature of fewer rows teaches nothing.
const ROWS_MIN: u32 = 2;
/// The same for pieces of words, of which there are many.
const PIECE_ROWS_MIN: u32 = 4;
/// Findings that no topic is read from: card data have rules of their own, whatever a text is about.
const NO_FACTS: [&str; 4] = ["payment_card", "card_security_code", "card_pin", "card_track"];
/// How much a private row of another topic counts against a topic.
const OTHER_TOPIC: f32 = 0.2;
/// Bytes of views that training may take.
const VIEW_BYTES_MAX: usize = 1 << 30;

/// Trains the model of all topics over what the scanner's other detectors find.
///
/// What words mean, by `vectors`, gives weight to those that no row holds: "lupus" counts a little like
/// "arthritis". It costs nothing later, for it ends up in the weights of single words.
pub fn train_topics(
    rows: &[LabelledText<'_>],
    vectors: &WordVectors,
    scanner: &Scanner,
) -> TopicTraining {
    let corpus = Corpus::read(rows, vectors, scanner);
    let trained: Vec<Trained> = std::thread::scope(|scope| {
        let corpus = &corpus;
        let work: Vec<_> =
            (0..TOPICS.len()).map(|topic| scope.spawn(move || corpus.train_topic(topic))).collect();
        work.into_iter().map(|w| w.join().expect("training does not panic")).collect()
    });
    TopicTraining {
        file: corpus.file(&trained),
        summary: trained.iter().map(|t| t.summary.clone()).collect(),
    }
}

/// Calls `use_it` with the plainest view of a text and what the other detectors find in it.
fn with_reading(text: &str, scanner: &Scanner, use_it: impl FnOnce(&Reading<'_>, &[Span])) {
    let mut budget = Budget::new(VIEW_BYTES_MAX);
    let views = Views::of(text, &mut budget);
    let Some((_, view)) = views.iter().next() else { return };
    let reading = scanner.compiled.read(&view.text);
    let found = scanner.scan_values(&reading, &mut Vec::new());
    use_it(&reading, &found);
}

/// Rows as features.
struct Corpus<'a> {
    /// By feature number.
    texts: Vec<String>,
    rows: Vec<Row>,
    vectors: &'a WordVectors,
}

/// A passage as the trainer sees it.
struct Example {
    /// Feature numbers with what they count.
    features: Vec<(u32, f32)>,
    /// The sum of its words' vectors.
    meaning: Vec<f32>,
}

struct Row {
    passages: Vec<Example>,
    /// A bit for each topic.
    topics: u8,
    is_private: bool,
    is_request: bool,
}

struct Weights {
    bias: f32,
    weights: Vec<f32>,
    /// For each dimension of the word vectors.
    meaning: Vec<f32>,
}

struct Trained {
    model: Weights,
    likely: f32,
    very_likely: f32,
    summary: String,
}

/// The words of a passage as features: so many words, features with their counts, facts.
#[derive(Default)]
struct Counted {
    words: usize,
    features: Vec<u32>,
    facts: Vec<u32>,
}

/// Gives features their numbers and counts the rows that hold them.
#[derive(Default)]
struct Numbers {
    known: HashMap<String, u32>,
    texts: Vec<String>,
    /// Rows, and the last of them.
    rows: Vec<(u32, usize)>,
}

impl Numbers {
    fn of(&mut self, text: String, row: usize) -> u32 {
        let id = *self.known.entry(text).or_insert_with_key(|text| {
            self.texts.push(text.clone());
            self.rows.push((0, usize::MAX));
            self.texts.len() as u32 - 1
        });
        let (count, last) = &mut self.rows[id as usize];
        if *last != row {
            (*count, *last) = (*count + 1, row);
        }
        id
    }

    fn is_kept(&self, id: u32) -> bool {
        let least = if is_piece(&self.texts[id as usize]) { PIECE_ROWS_MIN } else { ROWS_MIN };
        self.rows[id as usize].0 >= least
    }
}

fn is_piece(text: &str) -> bool {
    text.starts_with('~')
}

impl<'a> Corpus<'a> {
    fn read(rows: &[LabelledText<'_>], vectors: &'a WordVectors, scanner: &Scanner) -> Corpus<'a> {
        let mut numbers = Numbers::default();
        let mut read: Vec<(Vec<Counted>, &LabelledText<'_>)> = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            with_reading(row.text, scanner, |reading, found| {
                read.push((count_passages(reading, found, scanner, &mut numbers, number), row));
            });
        }
        let rows = read.into_iter().map(|(passages, row)| {
            let long_enough = passages.iter().filter(|passage| passage.words >= WORDS_MIN);
            let examples = long_enough.map(|passage| Example::new(passage, &numbers, vectors));
            Row::new(examples.collect(), row)
        });
        Corpus { rows: rows.collect(), texts: numbers.texts, vectors }
    }

    fn train_topic(&self, topic: usize) -> Trained {
        let mut unseen = vec![0.0; self.rows.len()];
        for fold in 0..FOLDS {
            let model = self.fit(topic, |row| row % FOLDS != fold);
            for row in (fold..self.rows.len()).step_by(FOLDS) {
                unseen[row] = model.score(&self.rows[row]);
            }
        }
        let scores = |wanted: &dyn Fn(&Row) -> bool| -> Vec<f32> {
            let rows = self.rows.iter().zip(&unseen).filter(|(row, _)| wanted(row));
            let mut scores: Vec<f32> = rows.map(|(_, score)| *score).collect();
            scores.sort_by(|a, b| b.total_cmp(a));
            scores
        };
        // Other topics are found in private passages only, so they are held against those.
        let (others, shares) = match topic {
            PRIVATE => {
                (scores(&|r| !r.is_private && r.is_request), [LIKELY_FALSE, VERY_LIKELY_FALSE])
            }
            _ => (
                scores(&|r| r.is_private && !r.is_about(topic) && r.topics != 0),
                [LIKELY_OTHER, VERY_LIKELY_OTHER],
            ),
        };
        let examples = scores(&|row| row.is_about(topic));
        let at_share = |share: f64| {
            let index = (share * others.len() as f64) as usize;
            others.get(index).copied().unwrap_or(f32::INFINITY)
        };
        let [likely, very_likely] = shares.map(at_share);
        let found = |least: f32| {
            100.0 * examples.iter().filter(|s| **s >= least).count() as f64 / examples.len() as f64
        };
        let summary = format!(
            "{:<16} {:5} rows; unseen ones found: {:.1} % likely, {:.1} % very likely",
            TOPICS[topic],
            examples.len(),
            found(likely),
            found(very_likely),
        );
        Trained { model: self.fit(topic, |_| true), likely, very_likely, summary }
    }

    /// Learns from the rows that are chosen by number.
    fn fit(&self, topic: usize, chosen: impl Fn(usize) -> bool) -> Weights {
        let mut order: Vec<usize> = (0..self.rows.len()).filter(|row| chosen(*row)).collect();
        let mut model = Weights {
            bias: 0.0,
            weights: vec![0.0; self.texts.len()],
            meaning: vec![0.0; self.vectors.dimensions()],
        };
        let mut squares = vec![1e-3f32; self.texts.len() + self.vectors.dimensions() + 1];
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..EPOCHS {
            shuffle(&mut order, &mut random);
            for &row in &order {
                let row = &self.rows[row];
                let is_about = row.is_about(topic);
                if row.is_private && row.topics == 0 {
                    // A number makes it private, and its words are anybody's.
                    continue;
                }
                let share = if row.is_private && !is_about { OTHER_TOPIC } else { 1.0 };
                if is_about {
                    if let Some(strongest) = model.strongest(row) {
                        model.learn(strongest, 1.0, share, &mut squares);
                    }
                } else {
                    for passage in &row.passages {
                        model.learn(passage, 0.0, share, &mut squares);
                    }
                }
            }
        }
        model
    }

    fn file(&self, trained: &[Trained]) -> String {
        let columns = |values: Vec<String>| values.join("\t");
        let constants = |name: &str, value: &dyn Fn(&Trained) -> f32| {
            let values = trained.iter().map(|t| format!("{:.4}", value(t))).collect();
            format!("={name}\t{}\n", columns(values))
        };
        let mut file = format!(
            "# What speaks for a topic: weights in steps of {WEIGHT_STEP}. Columns: {}.\n\
             # @ is a name, #4 a number of four digits, #hex and #code a machine's string, ~_hea a piece of a word, !phone a finding; two stand together.\n\
             # Written by `cargo run --release -p sluice-policies --example train_topics`.\n",
            TOPICS.join(", ")
        );
        file += &constants("bias", &|t| t.model.bias);
        file += &constants("likely", &|t| t.likely);
        file += &constants("very_likely", &|t| t.very_likely);
        let known: HashMap<&str, usize> =
            self.texts.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
        let foreign = self.vectors.common_words().filter(|word| !known.contains_key(word));
        let mut lines: Vec<String> = Vec::new();
        for text in self.texts.iter().map(String::as_str).chain(foreign) {
            let own = |t: &Trained| known.get(text).map_or(0.0, |id| t.model.weights[*id]);
            let vector = self.vectors.of(text);
            let meant = |t: &Trained| vector.map_or(0.0, |v| vectors::dot(&t.model.meaning, v));
            let weights: Vec<i8> = trained
                .iter()
                .map(|t| ((own(t) + meant(t)) / WEIGHT_STEP).round().clamp(-127.0, 127.0) as i8)
                .collect();
            if weights.iter().any(|w| *w != 0) {
                let weights = weights.iter().map(i8::to_string).collect();
                lines.push(format!("{text}\t{}\n", columns(weights)));
            }
        }
        lines.sort_unstable();
        file + &lines.concat()
    }
}

impl Row {
    fn new(passages: Vec<Example>, row: &LabelledText<'_>) -> Row {
        let about = |labels: &[&str]| row.labels.iter().any(|l| labels.contains(&l.as_str()));
        let bits = LABELS.iter().enumerate().filter(|(_, labels)| row.private && about(labels));
        Row {
            passages,
            topics: bits.fold(0, |topics, (bit, _)| topics | 1 << bit),
            is_private: row.private,
            is_request: row.request,
        }
    }

    fn is_about(&self, topic: usize) -> bool {
        self.topics >> topic & 1 == 1
    }
}

/// The passages of a text, their features numbered.
fn count_passages(
    reading: &Reading<'_>,
    found: &[Span],
    scanner: &Scanner,
    numbers: &mut Numbers,
    row: usize,
) -> Vec<Counted> {
    let mut reader = Reader::new(reading);
    let words = features::words(reading);
    let blocks: Vec<&[Word]> = words.chunks(BLOCK_WORDS).collect();
    let mut count_block = |words: &&[Word]| -> Vec<u32> {
        reader.names(words).into_iter().map(|name| numbers.of(name, row)).collect()
    };
    let counted: Vec<Vec<u32>> = blocks.iter().map(&mut count_block).collect();
    let passages = windows(&blocks).zip(windows(&counted));
    let passages: Vec<Counted> = passages
        .map(|(blocks, counted)| Counted {
            words: blocks.iter().map(|words| words.len()).sum(),
            features: counted.concat(),
            facts: facts(blocks, found, scanner).map(|name| numbers.of(name, row)).collect(),
        })
        .collect();
    passages
}

/// What other detectors found in a passage, alone and in pairs, as a model file has it.
fn facts(
    blocks: &[&[Word]],
    found: &[Span],
    scanner: &Scanner,
) -> impl Iterator<Item = String> + use<> {
    let start = blocks.first().and_then(|words| words.first()).map_or(0, |word| word.start);
    let end = blocks.last().and_then(|words| words.last()).map_or(0, |word| word.end);
    let inside = |span: &&Span| {
        span.likelihood >= Likely
            && span.range.start < end as usize
            && span.range.end > start as usize
    };
    let id = |span: &Span| scanner.compiled.detectors[span.detector].spec.id.clone();
    let mut ids: BTreeSet<String> = found.iter().filter(inside).map(id).collect();
    ids.retain(|id| !NO_FACTS.contains(&id.as_str()));
    let ids: Vec<String> = ids.into_iter().collect();
    (0..ids.len()).flat_map(move |first| {
        let ids = ids.clone();
        (first..ids.len()).map(move |second| match first == second {
            true => format!("!{}", ids[first]),
            false => format!("!{} !{}", ids[first], ids[second]),
        })
    })
}

impl Example {
    fn new(passage: &Counted, numbers: &Numbers, vectors: &WordVectors) -> Example {
        let share = share_of(passage.words);
        let mut kept: Vec<u32> =
            passage.features.iter().copied().filter(|id| numbers.is_kept(*id)).collect();
        kept.sort_unstable();
        let weight = |id: u32| match is_piece(&numbers.texts[id as usize]) {
            true => share * PIECE_SHARE,
            false => share,
        };
        let mut features: Vec<(u32, f32)> = kept
            .chunk_by(|a, b| a == b)
            .map(|same| (same[0], same.len() as f32 * weight(same[0])))
            .collect();
        let facts = passage.facts.iter().filter(|id| numbers.is_kept(**id));
        features.extend(facts.map(|id| (*id, FACT_SHARE)));
        let vector = |id: &u32| vectors.of(&numbers.texts[*id as usize]);
        let meaning = vectors.sum(passage.features.iter().filter_map(vector), share);
        Example { features, meaning }
    }
}

impl Weights {
    fn of(&self, passage: &Example) -> f32 {
        let features = passage.features.iter().map(|(id, x)| self.weights[*id as usize] * x);
        self.bias + features.sum::<f32>() + vectors::dot(&self.meaning, &passage.meaning)
    }

    fn strongest<'a>(&self, row: &'a Row) -> Option<&'a Example> {
        row.passages.iter().max_by(|a, b| self.of(a).total_cmp(&self.of(b)))
    }

    fn score(&self, row: &Row) -> f32 {
        self.strongest(row).map_or(f32::NEG_INFINITY, |passage| self.of(passage))
    }

    /// One step of gradient descent on the log loss; `squares` holds the sums of squared gradients,
    /// that of the bias last.
    fn learn(&mut self, passage: &Example, target: f32, share: f32, squares: &mut [f32]) {
        let error = share * (1.0 / (1.0 + (-self.of(passage)).exp()) - target);
        let step = |weight: &mut f32, square: &mut f32, x: f32| {
            let gradient = error * x + DECAY * *weight;
            *square += gradient * gradient;
            *weight -= RATE * gradient / square.sqrt();
        };
        for &(id, x) in &passage.features {
            step(&mut self.weights[id as usize], &mut squares[id as usize], x);
        }
        let rest = &mut squares[self.weights.len()..];
        for (at, &x) in passage.meaning.iter().enumerate() {
            step(&mut self.meaning[at], &mut rest[at], x);
        }
        let last = rest.len() - 1;
        rest[last] += error * error;
        self.bias -= RATE * error / rest[last].sqrt();
    }
}

/// Fisher and Yates, with xorshift64 as the source.
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        order.swap(last, (*random % (last as u64 + 1)) as usize);
    }
}
