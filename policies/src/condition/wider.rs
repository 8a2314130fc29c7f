//! Compares two conditions: does the one hold wherever the other holds?
//!
//! The answer is a proof or nothing. `Wider::than` says yes only where the shape of the two conditions
//! shows it: an alternative was added, a demand dropped, a window widened, a likelihood lowered. For
//! everything else it says no, and the caller counts the change as a loosening.

use super::{Condition, Near, Test, Vocabulary};
use crate::evidence::Likelihood;

/// Compares a condition of one set with a condition of another, by the names of their detectors.
#[derive(Clone, Copy)]
pub(crate) struct Wider<'a> {
    /// Names of the condition that should hold more often.
    pub(crate) wide: &'a Vocabulary,
    /// Names of the condition that should hold less often.
    pub(crate) narrow: &'a Vocabulary,
}

/// A condition, or a part of one without what qualifies it.
#[derive(Clone, Copy)]
struct View<'a> {
    test: &'a Test,
    near: Option<Near>,
    unless: Option<&'a Condition>,
}

impl<'a> View<'a> {
    fn of(condition: &'a Condition) -> View<'a> {
        let Condition { test, near, unless } = condition;
        View { test, near: *near, unless: unless.as_deref() }
    }

    fn bare(test: &'a Test) -> View<'a> {
        View { test, near: None, unless: None }
    }
}

impl Wider<'_> {
    /// Wherever `narrow` holds, `wide` holds too.
    pub(crate) fn than(self, wide: &Condition, narrow: &Condition) -> bool {
        self.covers(View::of(wide), View::of(narrow))
    }

    fn covers(self, wide: View<'_>, narrow: View<'_>) -> bool {
        let same_window = window(wide.near) == window(narrow.near);
        // A wider window shows more to every `unless` below it, so it proves nothing there.
        let window_fits = same_window || contains(wide.near, narrow.near) && !has_unless(wide.test);
        let unless_fits = match (wide.unless, narrow.unless) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wide), Some(narrow)) => same_window && self.flipped().than(narrow, wide),
        };
        if window_fits && unless_fits && self.test_covers(wide.test, narrow.test) {
            return true;
        }
        // A plain alternative that covers the whole, or a part of the whole that is covered.
        let unqualified = |view: &View<'_>| window(view.near).is_none() && view.unless.is_none();
        match (wide.test, narrow.test) {
            (Test::Any(parts), _) if unqualified(&wide) => {
                parts.iter().any(|part| self.covers(View::of(part), narrow))
            }
            (_, Test::All(parts)) if unqualified(&narrow) => {
                parts.iter().any(|part| self.covers(wide, View::of(part)))
            }
            _ => false,
        }
    }

    fn flipped(self) -> Self {
        Wider { wide: self.narrow, narrow: self.wide }
    }

    /// Over the same hits.
    fn test_covers(self, wide: &Test, narrow: &Test) -> bool {
        let covers = |wide: &Condition, narrow: &Condition| self.than(wide, narrow);
        let (whole_wide, whole_narrow) = (View::bare(wide), View::bare(narrow));
        match (wide, narrow) {
            (Test::Any(wide), Test::Any(narrow)) => {
                narrow.iter().all(|narrow| wide.iter().any(|wide| covers(wide, narrow)))
            }
            (Test::All(wide), Test::All(narrow)) => {
                wide.iter().all(|wide| narrow.iter().any(|narrow| covers(wide, narrow)))
            }
            (Test::Any(parts), _) => {
                parts.iter().any(|part| self.covers(View::of(part), whole_narrow))
            }
            (_, Test::Any(parts)) => {
                parts.iter().all(|part| self.covers(whole_wide, View::of(part)))
            }
            (Test::All(parts), _) => {
                parts.iter().all(|part| self.covers(View::of(part), whole_narrow))
            }
            (_, Test::All(parts)) => {
                parts.iter().any(|part| self.covers(whole_wide, View::of(part)))
            }
            _ => self.leaf_covers(wide, narrow),
        }
    }

    fn leaf_covers(self, wide: &Test, narrow: &Test) -> bool {
        match (wide, narrow) {
            (
                Test::Found { detectors: more, at_least: least, count: few, .. },
                Test::Found { detectors: less, at_least, count, .. },
            ) => {
                let named =
                    |&number: &u32| self.wide.number(&self.narrow.detectors[number as usize]);
                let known = |number| named(number).is_some_and(|n| more.contains(&n));
                less.iter().all(known) && least <= at_least && few <= count
            }
            (Test::KeyTag(more), Test::KeyTag(less)) | (Test::Tag(more), Test::Tag(less)) => {
                all_among(less, more)
            }
            (Test::Header { name, is: more }, Test::Header { name: other, is: less }) => {
                let all = more.is_empty() || !less.is_empty() && all_among(less, more);
                name == other && all
            }
            (Test::Path(more), Test::Path(less))
            | (Test::Model(more), Test::Model(less))
            | (Test::Caller(more), Test::Caller(less)) => {
                less.iter().all(|less| more.iter().any(|more| pattern_covers(more, less)))
            }
            (Test::Endpoint(more), Test::Endpoint(less)) => less.iter().all(|e| more.contains(e)),
            (Test::Content(more), Test::Content(less)) => less.iter().all(|k| more.contains(k)),
            _ => false,
        }
    }
}

impl Condition {
    /// Reads the same in both files; what its groups stand for may differ.
    pub(crate) fn reads_like(&self, other: &Condition) -> bool {
        let unless = match (&self.unless, &other.unless) {
            (None, None) => true,
            (Some(a), Some(b)) => a.reads_like(b),
            _ => false,
        };
        let parts = |a: &[Condition], b: &[Condition]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.reads_like(b))
        };
        let test = match (&self.test, &other.test) {
            (Test::Any(a), Test::Any(b)) | (Test::All(a), Test::All(b)) => parts(a, b),
            (
                Test::Found { names, at_least, count, .. },
                Test::Found { names: others, at_least: least, count: few, .. },
            ) => names == others && at_least == least && count == few,
            (a, b) => a == b,
        };
        test && unless && self.near == other.near
    }

    /// Calls `see` with every `found`.
    pub(crate) fn each_found(&self, see: &mut dyn FnMut(Found<'_>)) {
        self.each_found_under(false, see);
    }

    fn each_found_under(&self, negated: bool, see: &mut dyn FnMut(Found<'_>)) {
        match &self.test {
            Test::Any(parts) | Test::All(parts) => {
                parts.iter().for_each(|part| part.each_found_under(negated, see));
            }
            Test::Found { names, detectors, at_least, .. } => {
                see(Found { names, detectors, at_least: *at_least, negated });
            }
            _ => (),
        }
        if let Some(unless) = &self.unless {
            unless.each_found_under(!negated, see);
        }
    }
}

/// What a condition wants found.
pub(crate) struct Found<'a> {
    /// As the file names it: detectors and groups.
    pub(crate) names: &'a [String],
    /// The detectors that these stand for.
    pub(crate) detectors: &'a [u32],
    pub(crate) at_least: Likelihood,
    /// It stands under an `unless`.
    pub(crate) negated: bool,
}

/// The window, if it is less than everything.
fn window(near: Option<Near>) -> Option<Near> {
    near.filter(|near| !matches!(near, Near::Request | Near::Conversation))
}

fn contains(outer: Option<Near>, inner: Option<Near>) -> bool {
    match (window(outer), window(inner)) {
        (None, _) => true,
        (Some(Near::Characters(outer)), Some(Near::Characters(inner))) => outer >= inner,
        (Some(Near::Message), Some(Near::Sentence)) => true,
        (outer, inner) => outer == inner,
    }
}

fn has_unless(test: &Test) -> bool {
    match test {
        Test::Any(parts) | Test::All(parts) => {
            parts.iter().any(|part| part.unless.is_some() || has_unless(&part.test))
        }
        _ => false,
    }
}

fn all_among(less: &[String], more: &[String]) -> bool {
    less.iter().all(|less| more.iter().any(|more| more.eq_ignore_ascii_case(less)))
}

fn pattern_covers(more: &str, less: &str) -> bool {
    match more.strip_suffix('*') {
        Some(start) => {
            let head = less.strip_suffix('*').unwrap_or(less);
            super::any_fits(&[format!("{start}*")], head)
        }
        None => more.eq_ignore_ascii_case(less),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Likelihood;

    fn vocabulary() -> Vocabulary {
        let mut vocabulary = Vocabulary::default();
        ["mrn", "us_ssn", "drug", "sample"].iter().for_each(|id| _ = vocabulary.add_detector(id));
        vocabulary
    }

    fn found(detectors: &[u32]) -> Condition {
        let names = detectors.iter().map(u32::to_string).collect();
        let detectors = detectors.to_vec();
        let test = Test::Found { names, detectors, at_least: Likelihood::Likely, count: 1 };
        Condition { test, near: None, unless: None }
    }

    fn any(parts: Vec<Condition>) -> Condition {
        Condition { test: Test::Any(parts), near: None, unless: None }
    }

    fn all(near: Option<Near>, parts: Vec<Condition>) -> Condition {
        Condition { test: Test::All(parts), near, unless: None }
    }

    fn unless(condition: Condition, unless: Condition) -> Condition {
        Condition { unless: Some(Box::new(unless)), ..condition }
    }

    fn check(wide: &Condition, narrow: &Condition, there: bool, back: bool) {
        let vocabulary = vocabulary();
        let wider = Wider { wide: &vocabulary, narrow: &vocabulary };
        assert_eq!(wider.than(wide, narrow), there, "{wide:?} over {narrow:?}");
        assert_eq!(wider.than(narrow, wide), back, "{narrow:?} over {wide:?}");
    }

    #[test]
    fn an_alternative_more_is_wider_and_a_demand_more_is_narrower() {
        check(&found(&[0, 1]), &found(&[0]), true, false);
        check(&any(vec![found(&[0]), found(&[1])]), &found(&[0]), true, false);
        check(&found(&[0]), &all(None, vec![found(&[0]), found(&[2])]), true, false);
        let with = |parts: &[u32]| any(parts.iter().map(|&p| found(&[p])).collect());
        check(&with(&[0, 1, 2]), &with(&[2, 0]), true, false);
        check(&with(&[0, 1]), &with(&[1, 0]), true, true);
        check(&found(&[0]), &found(&[1]), false, false);
    }

    #[test]
    fn a_larger_window_is_wider_but_not_over_an_unless() {
        let pair = || vec![found(&[0]), found(&[2])];
        let within = |near| all(Some(near), pair());
        check(&within(Near::Characters(300)), &within(Near::Characters(80)), true, false);
        check(&within(Near::Message), &within(Near::Sentence), true, false);
        check(&all(None, pair()), &within(Near::Characters(80)), true, false);
        check(&within(Near::Request), &within(Near::Conversation), true, true);
        check(&within(Near::Sentence), &within(Near::Characters(80)), false, false);
        let guarded = |near| unless(within(near), found(&[3]));
        check(&guarded(Near::Characters(300)), &guarded(Near::Characters(80)), false, false);
    }

    #[test]
    fn an_exclusion_narrows_and_a_wider_exclusion_narrows_more() {
        check(&found(&[0]), &unless(found(&[0]), found(&[3])), true, false);
        check(&unless(found(&[0]), found(&[3])), &unless(found(&[0]), found(&[2, 3])), true, false);
    }

    #[test]
    fn patterns_with_a_star_cover_what_begins_like_them() {
        for (more, less, covers) in [
            ("/v1/*", "/v1/chat", true),
            ("/v1/*", "/v1/chat*", true),
            ("/v1/chat", "/V1/CHAT", true),
            ("/v1/chat", "/v1/*", false),
            ("/v1/chat*", "/v1/*", false),
            ("*", "anything", true),
        ] {
            assert_eq!(pattern_covers(more, less), covers, "{more} over {less}");
        }
    }
}
