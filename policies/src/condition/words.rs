//! Says a condition in English, for `policy read` and for the explanation of a decision.

use super::{Condition, Scene, Test};
use crate::evidence::Likelihood;
use crate::explain::Clause;

impl Condition {
    /// The condition as part of a sentence: "a us_ssn or mrn is found (likely or surer)".
    pub(crate) fn in_words(&self) -> String {
        let mut words = self.test.in_words();
        if let Some(near) = self.near {
            words = format!("{words}, {near}");
        }
        match &self.unless {
            Some(unless) => format!("{words}, unless {}", unless.in_words()),
            None => words,
        }
    }

    /// Every clause with whether it held; parts of a clause that did not matter are included.
    pub(crate) fn clauses(&self, scene: &Scene<'_>) -> Vec<Clause> {
        let mut clauses = Vec::new();
        self.collect_clauses(scene, 0, &mut clauses);
        clauses
    }

    /// The clauses that are alternatives of an `any_of`, by their numbers among [`Condition::clauses`],
    /// in words; those under `unless` are none.
    pub(crate) fn alternatives(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        self.collect_alternatives(&mut 0, false, &mut found);
        found
    }

    fn collect_alternatives(
        &self,
        clause: &mut usize,
        is_alternative: bool,
        found: &mut Vec<(usize, String)>,
    ) {
        if is_alternative && !matches!(self.test, Test::Any(_)) {
            found.push((*clause, self.in_words()));
        }
        *clause += 1;
        if let Test::Any(parts) | Test::All(parts) = &self.test {
            let are_alternatives = matches!(self.test, Test::Any(_));
            for part in parts {
                part.collect_alternatives(clause, are_alternatives, found);
            }
        }
        if let Some(unless) = &self.unless {
            unless.collect_alternatives(clause, false, &mut Vec::new());
        }
    }

    fn collect_clauses(&self, scene: &Scene<'_>, depth: usize, clauses: &mut Vec<Clause>) {
        let held = self.holds(scene);
        let (parts, head) = match &self.test {
            Test::Any(parts) => (parts.as_slice(), "any of".to_owned()),
            Test::All(parts) => (parts.as_slice(), "all of".to_owned()),
            test => (&[][..], test.in_words()),
        };
        let near = self.near.map(|near| format!(", {near}")).unwrap_or_default();
        clauses.push(Clause { depth, words: format!("{head}{near}"), held });
        for part in parts {
            part.collect_clauses(scene, depth + 1, clauses);
        }
        if let Some(unless) = &self.unless {
            let first = clauses.len();
            unless.collect_clauses(scene, depth + 1, clauses);
            clauses[first].words.insert_str(0, "unless ");
        }
    }
}

impl Test {
    fn in_words(&self) -> String {
        let join = |parts: &[Condition], word: &str| {
            let words: Vec<String> = parts.iter().map(|part| part.in_words()).collect();
            match words.len() {
                1 => words.concat(),
                _ => format!("({})", words.join(word)),
            }
        };
        match self {
            Test::Any(parts) => join(parts, " or "),
            Test::All(parts) => join(parts, " and "),
            Test::Found { names, at_least, count, .. } => {
                let sure = likelihood_in_words(*at_least);
                let times = if *count > 1 { format!("{count} or more of ") } else { String::new() };
                format!("{times}{} found{sure}", names.join(" or "))
            }
            Test::KeyTag(tags) => format!("the caller's key is tagged {}", tags.join(" or ")),
            Test::Tag(tags) => format!("the request is tagged {}", tags.join(" or ")),
            Test::Header { name, is } if is.is_empty() => format!("the header {name} is sent"),
            Test::Header { name, is } => format!("the header {name} is {}", is.join(" or ")),
            Test::Path(patterns) => format!("the path is {}", patterns.join(" or ")),
            Test::Model(patterns) => format!("the model is {}", patterns.join(" or ")),
            Test::Caller(patterns) => format!("the caller is {}", patterns.join(" or ")),
            Test::Endpoint(endpoints) => {
                let words: Vec<&str> = endpoints.iter().map(|e| e.in_words()).collect();
                format!("the request is for {}", words.join(" or "))
            }
            Test::Content(kinds) => {
                let kinds: Vec<&str> = kinds.iter().map(|kind| kind.in_words()).collect();
                format!("the request holds {} content", kinds.join(" or "))
            }
        }
    }
}

fn likelihood_in_words(at_least: Likelihood) -> &'static str {
    match at_least {
        Likelihood::Possible => "",
        Likelihood::Likely => " (likely or surer)",
        Likelihood::VeryLikely => " (very likely)",
    }
}
