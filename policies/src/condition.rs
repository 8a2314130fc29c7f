//! The conditions of a rule: what must be found, how near together, and what must be known of the
//! request.
//!
//! A lawyer reads them as a sentence, so there is no expression language: a condition is a map with
//! one leading word (`any_of`, `all_of`, `found`, `words_from`, `key_tag`, …) and a few that qualify
//! it (`at_least`, `count`, `near`, `is`, `unless`).
//!
//! Evaluation works on hits sorted by position. `near` slides a window over them: every set of hits
//! that fits has a leftmost one, so windows that begin at a hit are enough. Texts follow one another
//! for the character windows, so that splitting a text over parts hides nothing.
//!
//! Invariant: without `unless`, more hits never make a condition false.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::suggest;
use crate::evidence::Likelihood;
use crate::prompt::{ContentKind, Endpoint};
use crate::yaml::{At, Complaint, List};

mod near;
mod wider;
mod words;

pub(crate) use near::{Hit, Near, Scene};
pub(crate) use wider::Wider;

/// A condition as it stands in a file.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConditionSpec {
    any_of: Option<Vec<At<ConditionSpec>>>,
    all_of: Option<Vec<At<ConditionSpec>>>,
    found: Option<List<At<String>>>,
    words_from: Option<List<At<String>>>,
    key_tag: Option<List<String>>,
    tag: Option<List<String>>,
    header: Option<String>,
    path: Option<List<String>>,
    model: Option<List<String>>,
    caller: Option<List<String>>,
    endpoint: Option<List<Endpoint>>,
    content: Option<List<ContentKind>>,
    /// Qualifies `header`: its value is one of these.
    is: Option<List<String>>,
    /// Qualifies `found` here and below.
    at_least: Option<Likelihood>,
    /// Qualifies `found` and `words_from`: so many hits.
    count: Option<At<u32>>,
    /// All that is below must be found so near together.
    near: Option<Near>,
    /// Within the same window, this must not hold.
    unless: Option<Box<At<ConditionSpec>>>,
}

/// The leading words, one of which every condition has.
const LEADING: [&str; 12] = [
    "any_of",
    "all_of",
    "found",
    "words_from",
    "key_tag",
    "tag",
    "header",
    "path",
    "model",
    "caller",
    "endpoint",
    "content",
];

/// A compiled condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    test: Test,
    near: Option<Near>,
    unless: Option<Box<Condition>>,
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    Any(Vec<Condition>),
    All(Vec<Condition>),
    /// At least `count` hits of one of these detectors.
    Found {
        names: Vec<String>,
        detectors: Vec<u32>,
        at_least: Likelihood,
        count: u32,
    },
    KeyTag(Vec<String>),
    Tag(Vec<String>),
    Header {
        name: String,
        is: Vec<String>,
    },
    Path(Vec<String>),
    Model(Vec<String>),
    Caller(Vec<String>),
    Endpoint(Vec<Endpoint>),
    Content(Vec<ContentKind>),
}

/// Names that conditions may use: detectors by number, groups of detectors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocabulary {
    /// Detector ids in the order of their numbers.
    pub(crate) detectors: Vec<String>,
    numbers: BTreeMap<String, u32>,
    groups: BTreeMap<String, Vec<u32>>,
}

impl Vocabulary {
    /// The number of a detector, given on first sight.
    pub(crate) fn add_detector(&mut self, id: &str) -> u32 {
        if let Some(&number) = self.numbers.get(id) {
            return number;
        }
        let number = self.detectors.len() as u32;
        self.detectors.push(id.to_owned());
        self.numbers.insert(id.to_owned(), number);
        number
    }

    /// Adds members to a group; files that name the same group extend it.
    pub(crate) fn extend_group(&mut self, name: &str, members: Vec<u32>) {
        let group = self.groups.entry(name.to_owned()).or_default();
        group.extend(members);
        group.sort_unstable();
        group.dedup();
    }

    /// Creates a group that is still empty, so that its name is known.
    pub(crate) fn declare_group(&mut self, name: &str) {
        self.groups.entry(name.to_owned()).or_default();
    }

    pub(crate) fn number(&self, id: &str) -> Option<u32> {
        self.numbers.get(id).copied()
    }

    /// Names of the groups with the names of their members.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.groups.iter().map(|(name, members)| {
            let members = members.iter().map(|&member| self.detectors[member as usize].as_str());
            (name.as_str(), members.collect())
        })
    }

    /// The detectors that a name stands for.
    pub(crate) fn resolve(&self, name: &At<String>) -> Result<Vec<u32>, Complaint> {
        if let Some(&number) = self.numbers.get(&name.value) {
            return Ok(vec![number]);
        }
        if let Some(members) = self.groups.get(&name.value) {
            return Ok(members.clone());
        }
        let known = self.numbers.keys().chain(self.groups.keys()).map(String::as_str);
        let message = format!("unknown detector \"{}\"", name.value);
        Err(name.complaint(message, suggest(&name.value, known)))
    }

    fn resolve_all(&self, names: &List<At<String>>) -> Result<Vec<u32>, Complaint> {
        let mut numbers = Vec::new();
        for name in &names.0 {
            numbers.extend(self.resolve(name)?);
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }
}

impl Condition {
    /// Compiles a condition; names are looked up in the vocabulary.
    pub(crate) fn compile(
        spec: &At<ConditionSpec>,
        vocabulary: &Vocabulary,
    ) -> Result<Condition, Complaint> {
        compile(spec, vocabulary, Likelihood::Likely)
    }

    /// The condition holds for a request.
    pub(crate) fn holds(&self, scene: &Scene<'_>) -> bool {
        self.holds_in(scene, &scene.hits)
    }

    /// The condition can only be met by something found in the texts.
    pub(crate) fn needs_findings(&self) -> bool {
        match &self.test {
            Test::Any(parts) => parts.iter().all(Condition::needs_findings),
            Test::All(parts) => parts.iter().any(Condition::needs_findings),
            Test::Found { .. } => true,
            _ => false,
        }
    }

    /// Some part of the condition looks at what was found.
    pub(crate) fn uses_findings(&self) -> bool {
        match &self.test {
            Test::Any(parts) | Test::All(parts) => parts.iter().any(Condition::uses_findings),
            Test::Found { .. } => true,
            _ => false,
        }
    }

    /// Something could make the condition hold: no part that it needs is empty.
    pub(crate) fn can_hold(&self) -> bool {
        match &self.test {
            Test::Any(parts) => parts.iter().any(Condition::can_hold),
            Test::All(parts) => parts.iter().all(Condition::can_hold),
            Test::Found { detectors, .. } => !detectors.is_empty(),
            _ => true,
        }
    }

    /// What it looks at.
    pub(crate) fn test(&self) -> &Test {
        &self.test
    }

    /// Calls `see` with every test of the condition, those under `unless` included.
    pub(crate) fn each_test(&self, see: &mut dyn FnMut(&Test)) {
        if let Test::Any(parts) | Test::All(parts) = &self.test {
            parts.iter().for_each(|part| part.each_test(see));
        }
        see(&self.test);
        if let Some(unless) = &self.unless {
            unless.each_test(see);
        }
    }

    fn holds_in(&self, scene: &Scene<'_>, hits: &[Hit]) -> bool {
        let Some(near) = self.near.filter(|_| !hits.is_empty()) else {
            return self.holds_here(scene, hits, hits);
        };
        near.windows(hits).any(|window| self.holds_here(scene, window.hits, window.around))
    }

    fn holds_here(&self, scene: &Scene<'_>, hits: &[Hit], around: &[Hit]) -> bool {
        self.test.holds(scene, hits)
            && self.unless.as_ref().is_none_or(|unless| !unless.holds_in(scene, around))
    }
}

impl Test {
    fn holds(&self, scene: &Scene<'_>, hits: &[Hit]) -> bool {
        let context = scene.context;
        match self {
            Test::Any(parts) => parts.iter().any(|part| part.holds_in(scene, hits)),
            Test::All(parts) => parts.iter().all(|part| part.holds_in(scene, hits)),
            Test::Found { detectors, at_least, count, .. } => {
                let counts = |hit: &&Hit| {
                    hit.likelihood >= *at_least && detectors.binary_search(&hit.detector).is_ok()
                };
                hits.iter().filter(counts).take(*count as usize).count() == *count as usize
            }
            Test::KeyTag(tags) => any_equal(tags, context.key_tags.iter()),
            Test::Tag(tags) => any_equal(tags, context.tags.iter()),
            Test::Header { name, is } => {
                // A header that was sent twice arrives as one list (RFC 9110, section 5.3): any of its
                // values counts, or a second header could hide the first.
                let value = context.headers.get(name);
                value.is_some_and(|value| {
                    is.is_empty() || any_equal(is, value.split(',').chain([value.as_str()]))
                })
            }
            Test::Path(patterns) => any_fits(patterns, &context.path),
            Test::Model(patterns) => any_fits(patterns, &context.model),
            Test::Caller(patterns) => {
                context.caller.as_ref().is_some_and(|caller| any_fits(patterns, caller))
            }
            Test::Endpoint(endpoints) => {
                Endpoint::of(&context.path).is_some_and(|endpoint| endpoints.contains(&endpoint))
            }
            Test::Content(kinds) => scene.unscanned.iter().any(|u| kinds.contains(&u.kind)),
        }
    }
}

/// Case does not matter: a tag that differs in case only must not be a way around a rule.
pub(crate) fn any_equal(wanted: &[String], mut given: impl Iterator<Item: AsRef<str>>) -> bool {
    given.any(|value| wanted.iter().any(|word| word.eq_ignore_ascii_case(value.as_ref().trim())))
}

/// A pattern is literal, or ends in `*` for any rest.
pub(crate) fn any_fits(patterns: &[String], value: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => {
            value.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
        }
        None => pattern.eq_ignore_ascii_case(value),
    })
}

fn compile(
    spec: &At<ConditionSpec>,
    vocabulary: &Vocabulary,
    inherited: Likelihood,
) -> Result<Condition, Complaint> {
    let at_least = spec.value.at_least.unwrap_or(inherited);
    check_qualifiers(spec)?;
    let unless = spec.value.unless.as_ref();
    Ok(Condition {
        test: compile_test(&spec.value, vocabulary, at_least)?,
        near: spec.value.near,
        unless: unless
            .map(|unless| compile(unless, vocabulary, at_least))
            .transpose()?
            .map(Box::new),
    })
}

fn compile_test(
    spec: &ConditionSpec,
    vocabulary: &Vocabulary,
    at_least: Likelihood,
) -> Result<Test, Complaint> {
    let parts = |specs: &[At<ConditionSpec>]| {
        specs.iter().map(|part| compile(part, vocabulary, at_least)).collect::<Result<Vec<_>, _>>()
    };
    let count = spec.count.map_or(1, |count| count.value);
    if let Some(specs) = &spec.any_of {
        return parts(specs).map(Test::Any);
    }
    if let Some(specs) = &spec.all_of {
        return parts(specs).map(Test::All);
    }
    if let Some(names) = &spec.found {
        return found(names, vocabulary, at_least, count);
    }
    if let Some(names) = &spec.words_from {
        // A word of a list is what it is: no likelihood is asked for.
        return found(names, vocabulary, Likelihood::Possible, count);
    }
    Ok(compile_context_test(spec))
}

fn found(
    names: &List<At<String>>,
    vocabulary: &Vocabulary,
    at_least: Likelihood,
    count: u32,
) -> Result<Test, Complaint> {
    let detectors = vocabulary.resolve_all(names)?;
    let names = names.0.iter().map(|name| name.value.clone()).collect();
    Ok(Test::Found { names, detectors, at_least, count })
}

fn compile_context_test(spec: &ConditionSpec) -> Test {
    let words = |list: &Option<List<String>>| list.clone().map(|list| list.0);
    if let Some(name) = &spec.header {
        let is = words(&spec.is).unwrap_or_default();
        return Test::Header { name: name.to_ascii_lowercase(), is };
    }
    if let Some(List(kinds)) = &spec.content {
        return Test::Content(kinds.clone());
    }
    let tests = [
        words(&spec.key_tag).map(Test::KeyTag),
        words(&spec.tag).map(Test::Tag),
        words(&spec.path).map(Test::Path),
        words(&spec.model).map(Test::Model),
        words(&spec.caller).map(Test::Caller),
        spec.endpoint.as_ref().map(|endpoints| Test::Endpoint(endpoints.0.clone())),
    ];
    tests.into_iter().flatten().next().expect("check_qualifiers saw exactly one leading word")
}

/// Checks that a condition has one leading word and only the qualifiers that fit it.
fn check_qualifiers(spec: &At<ConditionSpec>) -> Result<(), Complaint> {
    let given = &spec.value;
    let leading = given.leading();
    let complain =
        |message: String, hint: &str| Err(spec.complaint(message, Some(hint.to_owned())));
    match leading.as_slice() {
        [] => {
            let hint = format!("write one of {}", LEADING.join(", "));
            return Err(spec.complaint("a condition needs something to look at", Some(hint)));
        }
        [_] => (),
        several => {
            let hint = "write all_of: [{…}, {…}] if both must hold, any_of if one is enough";
            return complain(format!("one condition looks at {}", several.join(" and ")), hint);
        }
    }
    if given.is.is_some() && given.header.is_none() {
        return complain(
            "\"is\" stands without a header".to_owned(),
            "write {header: x-name, is: …}",
        );
    }
    let finds = given.found.is_some() || given.words_from.is_some();
    match &given.count {
        Some(count) if count.value == 0 => {
            let hint = "to say that something must not be found, use unless".to_owned();
            Err(count.complaint("expected a count of at least 1, got 0", Some(hint)))
        }
        Some(count) if !finds => {
            let hint = "write it beside found or words_from".to_owned();
            Err(count.complaint("\"count\" counts nothing here", Some(hint)))
        }
        _ if leading == ["any_of"] && given.any_of.as_ref().is_some_and(Vec::is_empty) => {
            complain("any_of is empty and never holds".to_owned(), "name at least one condition")
        }
        _ if leading == ["all_of"] && given.all_of.as_ref().is_some_and(Vec::is_empty) => {
            complain("all_of is empty and always holds".to_owned(), "name at least one condition")
        }
        _ => Ok(()),
    }
}

impl ConditionSpec {
    fn leading(&self) -> Vec<&'static str> {
        let given = [
            self.any_of.is_some(),
            self.all_of.is_some(),
            self.found.is_some(),
            self.words_from.is_some(),
            self.key_tag.is_some(),
            self.tag.is_some(),
            self.header.is_some(),
            self.path.is_some(),
            self.model.is_some(),
            self.caller.is_some(),
            self.endpoint.is_some(),
            self.content.is_some(),
        ];
        LEADING.iter().zip(given).filter(|(_, given)| *given).map(|(name, _)| *name).collect()
    }
}
