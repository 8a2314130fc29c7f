//! How hard a request looks, from signs that anyone can check: no model is asked.
//!
//! Small models answer simple questions well and stumble over long texts, code, mathematics, tasks of
//! several steps and a choice among many tools. One such sign is enough to call a request complex: a
//! rule that a person can repeat by hand is worth more here than a better guess that nobody can explain.
//! Only the last message of a person is looked at, up to [`LOOK_BYTES_MAX`], so that a long conversation
//! costs no more than a short one; its length is counted in all.
//!
//! Invariants: the same prompt gives the same signs; a sign names no text. Not here: what the site makes
//! of it (`decide`), which is an order of what policy allows and never more.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::decision::Zone;
use crate::known_words::KnownWords;
use crate::prompt::{Prompt, Role};
use crate::yaml::List;

/// Prompts from this length on, all texts together, are long: some two thousand tokens.
const LONG_BYTES_MIN: usize = 8_000;
/// As many tools are a choice that small models get wrong.
const TOOLS_MIN: usize = 5;
/// So many lines of a list, or words of sequence, are a task of several steps.
const STEPS_MIN: usize = 3;
/// So many lines that look like a program are one.
const CODE_LINES_MIN: usize = 2;
/// So much of the last message is looked at.
const LOOK_BYTES_MAX: usize = 16 << 10;

/// How hard a request looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Complexity {
    /// No sign of anything hard.
    Simple,
    /// At least one sign.
    Complex,
}

impl Complexity {
    /// The word of files and JSON.
    pub fn in_words(self) -> &'static str {
        match self {
            Complexity::Simple => "simple",
            Complexity::Complex => "complex",
        }
    }
}

/// Why a request looks hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// The texts are long.
    Long,
    /// The question holds a program.
    Code,
    /// The question holds mathematics.
    Mathematics,
    /// The question asks for several steps.
    Steps,
    /// There are many tools to choose from.
    ManyTools,
}

impl Sign {
    /// The word of JSON and explanations.
    pub fn in_words(self) -> &'static str {
        match self {
            Sign::Long => "long",
            Sign::Code => "code",
            Sign::Mathematics => "mathematics",
            Sign::Steps => "steps",
            Sign::ManyTools => "many_tools",
        }
    }
}

/// What `site.yaml` says of an order by complexity, for classes that may go to a cloud.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ComplexitySpec {
    /// Zones in the order of preference for requests without a sign of anything hard.
    pub(crate) simple: List<Zone>,
    /// Zones in the order of preference for all others.
    pub(crate) complex: List<Zone>,
}

impl ComplexitySpec {
    /// The site's order for such work; `None` where it says nothing.
    pub(crate) fn order(&self, complexity: Complexity) -> Option<&[Zone]> {
        let List(zones) = match complexity {
            Complexity::Simple => &self.simple,
            Complexity::Complex => &self.complex,
        };
        Some(zones.as_slice()).filter(|zones| !zones.is_empty())
    }
}

/// The signs of a prompt, each once.
pub(crate) fn signs(prompt: &Prompt) -> Vec<Sign> {
    let question = question(prompt);
    let bytes: usize = prompt.texts.iter().map(|text| text.text.len()).sum();
    let words: Vec<WordSigns> = question.iter().map(|text| WordSigns::of(text)).collect();
    let with = |has: fn(&str) -> bool| question.iter().copied().filter(move |text| has(text));
    let (marked, lined): (Vec<&str>, Vec<&str>) =
        (with(has_marks).collect(), with(has_lines).collect());
    let all = [
        (Sign::Long, bytes >= LONG_BYTES_MIN),
        (
            Sign::Code,
            marked.iter().any(|text| text.contains("```"))
                || lined.iter().any(|text| holds_program(text)),
        ),
        (
            Sign::Mathematics,
            words.iter().any(|words| words.mathematics)
                || marked.iter().any(|text| holds_formulas(text)),
        ),
        (
            Sign::Steps,
            words.iter().any(|words| words.steps >= STEPS_MIN || words.step_by_step)
                || lined.iter().any(|text| lists_steps(text)),
        ),
        (Sign::ManyTools, tools(prompt) >= TOOLS_MIN),
    ];
    all.into_iter().filter(|(_, is_there)| *is_there).map(|(sign, _)| sign).collect()
}

/// What is asked: the texts of the last message that a person wrote.
fn question(prompt: &Prompt) -> Vec<&str> {
    let is_users = |text: &&crate::prompt::Text| text.role == Role::User;
    let last = prompt.texts.iter().filter(is_users).map(|text| text.message).max().flatten();
    let mut left = LOOK_BYTES_MAX;
    let texts = prompt.texts.iter().filter(is_users).filter(|text| text.message == last);
    let mut looked_at = Vec::new();
    for text in texts {
        let end = text.text.floor_char_boundary(left);
        looked_at.push(&text.text[..end]);
        left -= end;
    }
    looked_at
}

/// Tools are texts of their own: `tools[3]`, or deeper.
fn tools(prompt: &Prompt) -> usize {
    let index = |place: &str| {
        let inside = place.strip_prefix("tools[")?;
        inside.split_once(']')?.0.parse::<usize>().ok()
    };
    let highest = prompt.texts.iter().filter_map(|text| index(&text.place)).max();
    highest.map_or(0, |highest| highest + 1)
}

const CODE_STARTS: [&str; 16] = [
    "#include",
    "async def ",
    "class ",
    "const ",
    "def ",
    "fn ",
    "from ",
    "func ",
    "function ",
    "import ",
    "let ",
    "public ",
    "return ",
    "SELECT ",
    "static ",
    "var ",
];

/// Whether a text has anything that marks a program or a formula.
fn has_marks(text: &str) -> bool {
    memchr::memchr3(b'`', b'\\', b'$', text.as_bytes()).is_some() || !text.is_ascii()
}

/// Whether a text may be a list or a program.
fn has_lines(text: &str) -> bool {
    memchr::memchr(b'\n', text.as_bytes()).is_some()
}

/// Whether the lines of a text look like those of a program.
fn holds_program(text: &str) -> bool {
    let is_code = |line: &&str| {
        let line = line.trim();
        // `from` and `let` begin sentences too; a program's line holds what a sentence does not.
        let has_signs = || line.contains(['(', '=', ';', '{', '*', '<', '"']);
        let ends_so = line.ends_with([';', '{', '}']) && line.len() > 1;
        ends_so || (CODE_STARTS.iter().any(|start| line.starts_with(start)) && has_signs())
    };
    text.lines().filter(is_code).nth(CODE_LINES_MIN - 1).is_some()
}

/// Words that stand in few texts but those about mathematics.
const MATHEMATICS: [&str; 28] = [
    "algebra",
    "ableitung",
    "beweise",
    "calculus",
    "derivative",
    "dérivée",
    "ecuación",
    "eigenvalue",
    "eigenvalues",
    "equation",
    "equations",
    "gleichung",
    "integral",
    "intégrale",
    "lemma",
    "logarithm",
    "matrix",
    "matrices",
    "modulo",
    "polynomial",
    "probability",
    "proof",
    "theorem",
    "théorème",
    "trigonometry",
    "vergelijking",
    "wahrscheinlichkeit",
    "équation",
];

fn holds_formulas(text: &str) -> bool {
    let symbols = ['∫', '∑', '∏', '√', '∂', '∞', '≤', '≥', '≠', '∀', '∃', '∈', '⊂', '∇'];
    let latex = ["frac", "int", "sum", "sqrt", "begin{"];
    let is_latex = |(at, _)| latex.iter().any(|mark| text[at + 1..].starts_with(mark));
    text.match_indices('\\').any(is_latex)
        || text.contains("$$")
        || (!text.is_ascii() && text.contains(symbols))
}

/// Words that put one step after another.
const SEQUENCE: [&str; 20] = [
    "afterwards",
    "anschließend",
    "danach",
    "dann",
    "después",
    "enfin",
    "ensuite",
    "finally",
    "finalmente",
    "first",
    "luego",
    "next",
    "poi",
    "primero",
    "puis",
    "schließlich",
    "second",
    "then",
    "third",
    "zuerst",
];

fn lists_steps(text: &str) -> bool {
    text.lines().filter(|line| is_item(line)).nth(STEPS_MIN - 1).is_some()
}

/// What asks for steps in so many words, in any case: the word between, and what stands on both sides.
const STEP_BY_STEP: [(&str, [&str; 2]); 4] = [
    ("by", ["step ", " step"]),
    ("by", ["step-", "-step"]),
    ("für", ["schritt ", " schritt"]),
    ("a", ["paso ", " paso"]),
];

/// Whether such a word stands between two steps.
fn is_between_steps(text: &str, at: usize, word: &str) -> bool {
    let (before, after) = (&text.as_bytes()[..at], &text.as_bytes()[at + word.len()..]);
    let ends = |with: &str| {
        before.len() >= with.len()
            && before[before.len() - with.len()..].eq_ignore_ascii_case(with.as_bytes())
    };
    let starts = |with: &str| {
        after.get(..with.len()).is_some_and(|a| a.eq_ignore_ascii_case(with.as_bytes()))
    };
    STEP_BY_STEP
        .iter()
        .any(|(between, [first, last])| *between == word && ends(first) && starts(last))
}

/// What a word is a sign of.
#[derive(Clone, Copy, PartialEq)]
enum WordSign {
    Mathematics,
    /// Its place in [`SEQUENCE`].
    Sequence(usize),
    /// It may stand between two steps.
    Between,
}

static WORDS: LazyLock<KnownWords<WordSign>> = LazyLock::new(|| {
    let mathematics = MATHEMATICS.into_iter().map(|word| (word, WordSign::Mathematics));
    let sequence = SEQUENCE.into_iter().enumerate();
    let sequence = sequence.map(|(place, word)| (word, WordSign::Sequence(place)));
    let between = ["a", "by", "für"].into_iter().map(|word| (word, WordSign::Between));
    KnownWords::new(mathematics.chain(sequence).chain(between))
});

/// What the words of a text are signs of.
struct WordSigns {
    mathematics: bool,
    /// How many words of sequence there are, each counted once.
    steps: usize,
    step_by_step: bool,
}

impl WordSigns {
    fn of(text: &str) -> WordSigns {
        let (mut mathematics, mut sequence) = (false, [false; SEQUENCE.len()]);
        let mut step_by_step = false;
        for (at, word, sign) in WORDS.places_in_text(text) {
            match sign {
                WordSign::Mathematics => mathematics = true,
                WordSign::Sequence(place) => sequence[place] = true,
                WordSign::Between => step_by_step |= is_between_steps(text, at, word),
            }
        }
        let steps = sequence.iter().filter(|is_there| **is_there).count();
        WordSigns { mathematics, steps, step_by_step }
    }
}

/// A line of a list: `1. …`, `2) …`, `- …`.
fn is_item(line: &str) -> bool {
    let line = line.trim_start();
    let digits = line.len() - line.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = &line[digits..];
    match digits {
        0 => rest.starts_with("- ") || rest.starts_with("* "),
        1 | 2 => rest.starts_with(". ") || rest.starts_with(") "),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Text;

    fn check(text: &str, expected: &[Sign]) {
        assert_eq!(signs(&Prompt::from_user_text(text)), expected, "{text}");
    }

    #[test]
    fn signs_are_what_a_person_would_point_at() {
        use Sign::{Code, Long, Mathematics, Steps};
        check("Write a haiku about the sea", &[]);
        check("What is the capital of France? Let me know (today).", &[]);
        check("From Paris to Rome = how far?\nThank you!", &[]);
        check("Why does this fail?\n```\nx = 1\n```", &[Code]);
        check("fn main() {\n    println!();\n}", &[Code]);
        check("import os\nfrom sys import (argv)\nlet x = 1", &[Code]);
        check("Solve the equation x + 2 = 11", &[Mathematics]);
        check("Löse die Gleichung", &[Mathematics]);
        check("Is ∑ 1/n finite?", &[Mathematics]);
        check("First read it, then sum it up, finally translate it", &[Steps]);
        check("Do this:\n1. read\n2. think\n3. write", &[Steps]);
        check("Explain it step by step", &[Steps]);
        check("Erkläre es SCHRITT FÜR SCHRITT", &[Steps]);
        check("BEWEISE den Satz", &[Mathematics]);
        check("Finally, then; FINALLY and then", &[]);
        check("Is \\sqrt{2} a path like C:\\sqrx?", &[Mathematics]);
        check("Look into C:\\integers", &[Mathematics]);
        check("Look into C:\\users", &[]);
        check("First come, first served; then what then?", &[]);
        check(&"word ".repeat(2_000), &[Long]);
    }

    #[test]
    fn only_the_last_message_of_a_person_is_asked_about() {
        let mut prompt = Prompt::from_user_text("Prove the theorem");
        let said = |message, role, text: &str| Text {
            place: format!("messages[{message}].content"),
            message: Some(message),
            role,
            text: text.to_owned(),
        };
        prompt.texts.push(said(1, Role::Assistant, "```\ncode\n```"));
        prompt.texts.push(said(2, Role::User, "Thanks. What is the time?"));
        assert_eq!(signs(&prompt), []);
    }

    #[test]
    fn many_tools_are_a_sign_by_their_number() {
        let mut prompt = Prompt::from_user_text("Hello");
        for index in 0..TOOLS_MIN {
            let before = signs(&prompt);
            assert_eq!(before, [], "{index} tools");
            prompt.texts.push(Text {
                place: format!("tools[{index}]"),
                message: None,
                role: Role::Other,
                text: "a tool".to_owned(),
            });
        }
        assert_eq!(signs(&prompt), [Sign::ManyTools]);
    }

    #[test]
    fn the_look_at_a_long_message_ends_between_characters() {
        check(&"ü".repeat(LOOK_BYTES_MAX), &[Sign::Long]);
        check(&format!("a{}", "ü".repeat(LOOK_BYTES_MAX)), &[Sign::Long]);
    }
}
