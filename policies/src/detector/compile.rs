//! Compiles specs: one lexicon for all words, one automaton for all literals, one table of schemes.
//!
//! Source of the shipped specs: `policies/detectors/*.yaml`; of the word lists: `detectors/words/`.

use std::cell::OnceCell;
use std::ops::Range;

use super::byte_set::ByteSet;
use super::digits::Digits;
use super::lexicon::{Lexicon, LexiconBuilder, ListId, SetId, Words};
use super::literals::{FoundLiterals, Literals};
use super::reading::{Candidate, Code, Detector, Number, Own, Reading};
use super::spec::{DetectorSpec, SpecError};
use super::topic::{TopicModel, mark_kinds};
use super::{CONTEXT_BYTES, NEGATIVE_BYTES};
use super::{
    bank, birth, card, card_secret, clinical, contact, email, health_id, marking, name,
    national_id, password, pattern, recovery_phrase, secret, token, topic, words,
};
use crate::evidence::Likelihood;

/// Every compiled detector and what they share.
pub(crate) struct Compiled {
    pub(crate) detectors: Vec<CompiledDetector>,
    lexicon: Lexicon,
    literals: Literals,
    topics: TopicModel,
    /// Detectors whose number schemes take that many digits.
    numbers: Vec<Vec<usize>>,
    /// Detectors whose code schemes take that many characters.
    codes: Vec<Vec<usize>>,
}

/// One detector ready to run.
pub(crate) struct CompiledDetector {
    pub(crate) spec: DetectorSpec,
    pub(crate) kind: Kind,
    pub(super) near: Option<ListId>,
    pub(super) negative: Option<ListId>,
    exclude: Vec<String>,
}

/// How a detector finds.
pub(crate) enum Kind {
    /// Code or a pattern over the whole reading.
    Text(Box<dyn Detector>),
    /// A judge of digit windows of certain lengths.
    Number(NumberScheme),
    /// A judge of letter-and-digit codes of certain lengths.
    Code(CodeScheme),
    /// What a passage is about, by its number; judged last, for it looks at what the others found.
    Topic(usize),
}

/// Digits of these lengths that pass the judge are candidates.
#[derive(Clone, Copy)]
pub(crate) struct NumberScheme {
    pub(crate) lengths: &'static [usize],
    pub(crate) judge: fn(&Number<'_>) -> Option<Own>,
}

/// Codes of these lengths that pass the judge are candidates.
#[derive(Clone)]
pub(crate) struct CodeScheme {
    pub(crate) lengths: Range<usize>,
    pub(crate) judge: fn(&Code<'_>) -> Option<Own>,
}

impl From<NumberScheme> for Kind {
    fn from(scheme: NumberScheme) -> Kind {
        Kind::Number(scheme)
    }
}

impl From<CodeScheme> for Kind {
    fn from(scheme: CodeScheme) -> Kind {
        Kind::Code(scheme)
    }
}

/// What a detector may ask for while it is compiled.
#[derive(Default)]
pub(crate) struct Compiler {
    pub(crate) lexicon: LexiconBuilder,
    literals: Vec<String>,
}

impl Compiler {
    /// Registers literals; their ids come back as a range.
    pub(crate) fn literals<S: AsRef<str>>(
        &mut self,
        all: impl IntoIterator<Item = S>,
    ) -> Range<u32> {
        let first = self.literals.len() as u32;
        self.literals.extend(all.into_iter().map(|l| l.as_ref().to_owned()));
        first..self.literals.len() as u32
    }

    /// Registers a list of words, if it has any.
    pub(crate) fn list(&mut self, words: &[String]) -> Option<ListId> {
        (!words.is_empty()).then(|| self.lexicon.list(words))
    }

    /// Registers a shipped list as a set: asked word by word, never found in a text.
    pub(crate) fn shipped_set(&mut self, name: &str) -> SetId {
        self.lexicon.set(shipped_terms(name).expect("built-in detectors name lists that exist"))
    }

    /// Registers a shipped list of names: only words with a capital are found.
    pub(crate) fn shipped_names(&mut self, name: &str) -> ListId {
        self.lexicon.names(shipped_terms(name).expect("built-in detectors name lists that exist"))
    }

    /// Registers a shipped list by name.
    pub(crate) fn shipped_list(&mut self, name: &str) -> ListId {
        let terms = shipped_terms(name).expect("built-in detectors name lists that exist");
        self.lexicon.list(terms)
    }
}

/// Digits that the longest scheme takes.
const NUMBER_DIGITS_MAX: usize = 20;
/// Characters of the longest code: an IBAN.
const CODE_CHARS_MAX: usize = 35;

impl Compiled {
    pub(crate) fn new(specs: Vec<DetectorSpec>) -> Result<Compiled, Vec<SpecError>> {
        let mut compiler = Compiler::default();
        let mut errors = Vec::new();
        let mut detectors = Vec::new();
        for spec in specs {
            match CompiledDetector::new(spec, &mut compiler) {
                Ok(detector) => detectors.push(detector),
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let (mut numbers, mut codes) =
            (vec![Vec::new(); NUMBER_DIGITS_MAX + 1], vec![Vec::new(); CODE_CHARS_MAX + 1]);
        for (index, detector) in detectors.iter().enumerate() {
            match &detector.kind {
                Kind::Number(scheme) => scheme.lengths.iter().for_each(|&l| numbers[l].push(index)),
                Kind::Code(scheme) => scheme.lengths.clone().for_each(|l| codes[l].push(index)),
                Kind::Text(_) | Kind::Topic(_) => {}
            }
        }
        let literals = Literals::new(&compiler.literals);
        mark_kinds(&mut compiler);
        let lexicon = compiler.lexicon.build();
        let ids = detectors.iter().map(|detector| detector.spec.id.as_str());
        let topics = TopicModel::shipped(&lexicon, ids);
        Ok(Compiled { detectors, lexicon, literals, topics, numbers, codes })
    }

    /// The weights of all topics.
    pub(crate) fn topics(&self) -> &TopicModel {
        &self.topics
    }

    /// Reads a view once for all detectors.
    pub(crate) fn read<'a>(&'a self, text: &'a str) -> Reading<'a> {
        let (bytes, words) = (ByteSet::of(text), self.lexicon.read(text));
        Reading {
            digits: Digits::of(text, words.places_of_numbers()),
            words,
            literals: self.literals.find(text, &bytes),
            ..self.unread(text, bytes)
        }
    }

    /// Reads a text of ASCII in which others stand in this order, each before some glue that has no word:
    /// of each where it starts, and its reading.
    pub(crate) fn join<'a>(
        &'a self,
        text: &'a str,
        glue: &str,
        parts: &[(usize, &Reading<'_>)],
    ) -> Reading<'a> {
        let mut bytes = ByteSet::of(glue);
        parts.iter().for_each(|(_, part)| bytes.add(&part.bytes));
        let words = parts.iter().map(|(start, part)| (*start, &part.words));
        let range = |start: usize, part: &Reading<'_>| start..start + part.text.len();
        let literals = parts.iter().map(|(start, part)| (range(*start, part), &part.literals));
        let words = self.lexicon.join(text, words);
        let joined = Reading {
            digits: Digits::of(text, words.places_of_numbers()),
            words,
            literals: self.literals.join(text, literals),
            ..self.unread(text, bytes)
        };
        let weights =
            parts.iter().map(|(start, part)| Some((*start, part.weights.get()?.as_slice())));
        if let Some(weights) = weights.collect::<Option<Vec<_>>>() {
            let weights = self.topics.join_weights(&joined, weights.into_iter());
            joined.weights.set(weights).expect("nothing was weighed before");
        }
        joined
    }

    /// A text of which nothing is read but its bytes.
    fn unread<'a>(&'a self, text: &'a str, bytes: ByteSet) -> Reading<'a> {
        Reading {
            text,
            words: Words::default(),
            digits: Digits::default(),
            literals: FoundLiterals::default(),
            bytes,
            lexicon: &self.lexicon,
            tables: OnceCell::new(),
            weights: OnceCell::new(),
        }
    }

    /// Hands every window of digits to the schemes of its length.
    pub(crate) fn for_each_number(
        &self,
        reading: &Reading<'_>,
        found: &mut Vec<(usize, Candidate)>,
    ) {
        for window in reading.digits.windows(4..NUMBER_DIGITS_MAX + 1) {
            let mut digits = [0u8; NUMBER_DIGITS_MAX];
            let len = window.copy_digits(reading.text, &mut digits);
            for &index in &self.numbers[len] {
                let Kind::Number(scheme) = &self.detectors[index].kind else { continue };
                let number = Number { text: reading.text, window, digits: &digits[..len] };
                if let Some(own) = (scheme.judge)(&number) {
                    found.push((index, Candidate { range: window.range(), own }));
                }
            }
        }
    }

    /// Hands every code to the schemes of its length.
    pub(crate) fn for_each_code(&self, reading: &Reading<'_>, found: &mut Vec<(usize, Candidate)>) {
        token::for_each_code(reading, CODE_CHARS_MAX, |code| {
            for &index in &self.codes[code.compact.len()] {
                let Kind::Code(scheme) = &self.detectors[index].kind else { continue };
                if let Some(own) = (scheme.judge)(&code) {
                    found.push((index, Candidate { range: code.range.clone(), own }));
                }
            }
        });
    }
}

impl CompiledDetector {
    fn new(spec: DetectorSpec, compiler: &mut Compiler) -> Result<CompiledDetector, SpecError> {
        let kind = kind_of(&spec, compiler)?;
        let near: Vec<String> = spec.near_words.iter().chain(&spec.key_names).cloned().collect();
        let near = compiler.list(&near);
        let negative = compiler.list(&spec.negative_words);
        let exclude = spec.exclude.iter().map(|value| compact(value)).collect();
        Ok(CompiledDetector { spec, kind, near, negative, exclude })
    }

    /// How sure the candidate is with everything around it, or `None` if it is nothing.
    pub(crate) fn likelihood(
        &self,
        reading: &Reading<'_>,
        candidate: &Candidate,
    ) -> Option<Likelihood> {
        if !self.exclude.is_empty()
            && self.exclude.contains(&compact(&reading.text[candidate.range.clone()]))
        {
            return None;
        }
        let alone = match candidate.own {
            Own::Exactly(likelihood) => return Some(likelihood),
            Own::AsSpecified => self.spec.alone,
            Own::NeedsContext => None,
        };
        let context = self.context_distance(reading, &candidate.range);
        let raised = match context {
            Some(_) => Some(self.spec.with_context.unwrap_or(Likelihood::VeryLikely)),
            None => alone,
        }?;
        let negative =
            self.negative.and_then(|list| reading.distance(list, &candidate.range, NEGATIVE_BYTES));
        match (negative, context) {
            (Some(negative), Some(context)) if negative >= context => Some(raised),
            (Some(_), _) => lowered(raised),
            (None, _) => Some(raised),
        }
    }

    pub(super) fn context_distance(
        &self,
        reading: &Reading<'_>,
        range: &Range<usize>,
    ) -> Option<usize> {
        let near = self.near?;
        let reach = self.spec.near_characters.map_or(CONTEXT_BYTES, usize::from);
        reading.distance(near, range, reach).or_else(|| {
            let header = reading.column_header(range.start)?;
            reading.hits_in(near, header).next().map(|_| 0)
        })
    }
}

fn lowered(likelihood: Likelihood) -> Option<Likelihood> {
    match likelihood {
        Likelihood::VeryLikely => Some(Likelihood::Likely),
        Likelihood::Likely => Some(Likelihood::Possible),
        Likelihood::Possible => None,
    }
}

/// Letters and digits only, lower case: how excluded values are compared.
fn compact(value: &str) -> String {
    value.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn kind_of(spec: &DetectorSpec, compiler: &mut Compiler) -> Result<Kind, SpecError> {
    let sources = [
        spec.builtin.is_some(),
        spec.looks_like.is_some(),
        spec.pattern.is_some() || !spec.patterns.is_empty(),
        !spec.words.is_empty() || !spec.lists.is_empty(),
    ];
    if let Some(name) = &spec.builtin {
        // A built-in may take word lists of its own besides.
        return builtin(name, spec, compiler).ok_or_else(|| unknown_builtin(&spec.id, name));
    }
    if sources.iter().filter(|s| **s).count() != 1 {
        return Err(SpecError {
            detector: spec.id.clone(),
            field: "detectors",
            message: "expected exactly one of builtin, looks_like, pattern, patterns, words, lists"
                .to_owned(),
            hint: None,
        });
    }
    if sources[3] {
        return words::compile(spec, compiler);
    }
    pattern::compile(spec, compiler)
}

fn unknown_builtin(id: &str, name: &str) -> SpecError {
    SpecError {
        detector: id.to_owned(),
        field: "builtin",
        message: format!("unknown built-in detector {name:?}"),
        hint: Some("the built-in detectors are listed in policies/detectors/README.md".to_owned()),
    }
}

/// The built-in families by name.
fn builtin(name: &str, spec: &DetectorSpec, compiler: &mut Compiler) -> Option<Kind> {
    card::builtin(name, compiler)
        .or_else(|| card_secret::builtin(name, compiler))
        .or_else(|| national_id::builtin(name))
        .or_else(|| health_id::builtin(name, compiler))
        .or_else(|| bank::builtin(name))
        .or_else(|| contact::builtin(name, compiler))
        .or_else(|| email::builtin(name, compiler))
        .or_else(|| birth::builtin(name, compiler))
        .or_else(|| secret::builtin(name, compiler))
        .or_else(|| password::builtin(name, compiler))
        .or_else(|| recovery_phrase::builtin(name, compiler))
        .or_else(|| name::builtin(name, compiler))
        .or_else(|| clinical::builtin(name, compiler))
        .or_else(|| marking::builtin(name, spec, compiler))
        .or_else(|| topic::builtin(name))
}

/// The shipped detector files: name and YAML text.
pub(crate) fn shipped_detectors() -> &'static [(&'static str, &'static str)] {
    &[
        ("payment.yaml", include_str!("../../detectors/payment.yaml")),
        ("health.yaml", include_str!("../../detectors/health.yaml")),
        ("identity.yaml", include_str!("../../detectors/identity.yaml")),
        ("contact.yaml", include_str!("../../detectors/contact.yaml")),
        ("secrets.yaml", include_str!("../../detectors/secrets.yaml")),
        ("legal.yaml", include_str!("../../detectors/legal.yaml")),
        ("topics.yaml", include_str!("../../detectors/topics.yaml")),
    ]
}

/// The shipped word lists: name as `lists:` uses it, and one term a line (`#` starts a comment).
fn shipped_lists() -> &'static [(&'static str, &'static str)] {
    &[
        ("given_names", include_str!("../../detectors/words/given_names.txt")),
        ("surnames", include_str!("../../detectors/words/surnames.txt")),
        ("ambiguous_names", include_str!("../../detectors/words/ambiguous_names.txt")),
        ("public_figures", include_str!("../../detectors/words/public_figures.txt")),
        ("health_en", include_str!("../../detectors/words/health_en.txt")),
        ("health_de", include_str!("../../detectors/words/health_de.txt")),
        ("health_fr", include_str!("../../detectors/words/health_fr.txt")),
        ("health_es", include_str!("../../detectors/words/health_es.txt")),
        ("health_it", include_str!("../../detectors/words/health_it.txt")),
        ("health_pt", include_str!("../../detectors/words/health_pt.txt")),
        ("health_nl", include_str!("../../detectors/words/health_nl.txt")),
        ("health_other", include_str!("../../detectors/words/health_other.txt")),
        ("drugs", include_str!("../../detectors/words/drugs.txt")),
        ("personnel", include_str!("../../detectors/words/personnel.txt")),
        ("special_category", include_str!("../../detectors/words/special_category.txt")),
        ("private_affairs", include_str!("../../detectors/words/private_affairs.txt")),
    ]
}

/// Terms of a shipped list.
pub(crate) fn shipped_terms(name: &str) -> Option<impl Iterator<Item = &'static str> + use<>> {
    let (_, text) = shipped_lists().iter().find(|(known, _)| *known == name)?;
    Some(text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')))
}
