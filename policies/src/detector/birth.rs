//! Dates of birth, dates of care, and ages above 89.
//!
//! A date means nothing alone; beside "born" or "DOB" it identifies (45 CFR 164.514(b)(2)(i)(C)).
//! Ages count only above 89, where the Safe Harbor rule says so.

use std::ops::Range;

use super::compile::{Compiler, Kind};
use super::digits::Group;
use super::lexicon::ListId;
use super::reading::{Candidate, Detector, Own, Reading};
use crate::evidence::Likelihood::VeryLikely;

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    Some(match name {
        "birth_date" => Kind::Text(Box::new(Dates { months: compiler.lexicon.list(MONTHS) })),
        "age_over_89" => Kind::Text(Box::new(Age { words: compiler.lexicon.list(AGE_WORDS) })),
        _ => return None,
    })
}

/// Calendar dates in figures or with a month's name; the spec's near words make them birth dates.
struct Dates {
    months: ListId,
}

impl Detector for Dates {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        let groups = &reading.digits.groups;
        for (i, three) in groups.windows(3).enumerate() {
            if is_date(reading.text, three) && !touches_digits(reading.text, groups, i) {
                found.push(as_date(three[0].start as usize..three[2].end as usize));
            }
        }
        for group in groups {
            found.extend(compact_date(reading.text, group).map(as_date));
        }
        for hit in reading.hits(self.months) {
            found.extend(
                self.with_month(reading, hit.start as usize..hit.end as usize).map(as_date),
            );
        }
    }
}

fn as_date(range: Range<usize>) -> Candidate {
    Candidate { range, own: Own::NeedsContext }
}

impl Dates {
    /// `4 March 1956`, `March 4, 1956`, `4. März 1956`.
    fn with_month(&self, reading: &Reading<'_>, month: Range<usize>) -> Option<Range<usize>> {
        let groups = &reading.digits.groups;
        let next = groups.partition_point(|g| (g.start as usize) < month.end);
        let close = |a: usize, b: usize| b >= a && b - a <= 5;
        let after = groups.get(next).filter(|g| close(month.end, g.start as usize))?;
        if let Some(day) = next.checked_sub(1).and_then(|i| groups.get(i))
            && close(day.end as usize, month.start)
            && day.len() <= 2
            && is_year(reading.text, after)
        {
            return Some(day.start as usize..after.end as usize);
        }
        let year = groups.get(next + 1).filter(|g| close(after.end as usize, g.start as usize))?;
        let dated = after.len() <= 2 && is_year(reading.text, year);
        dated.then_some(month.start..year.end as usize)
    }
}

fn number(text: &str, group: &Group) -> u32 {
    text[group.range()].parse().unwrap_or(u32::MAX)
}

fn is_year(text: &str, group: &Group) -> bool {
    group.len() == 4 && (1890..=2035).contains(&number(text, group))
}

/// Three groups with one separator that can be read as day, month and year.
fn is_date(text: &str, three: &[Group]) -> bool {
    let separator = |a: &Group, b: &Group| text[a.end as usize..b.start as usize].trim();
    let (first, second) = (separator(&three[0], &three[1]), separator(&three[1], &three[2]));
    let east_asian = matches!((first, second), ("年", "月") | ("년", "월"));
    if !east_asian && (first != second || !matches!(first, "/" | "-" | "." | "" | "," | ":")) {
        return false;
    }
    let [a, b, c] = [0, 1, 2].map(|i| number(text, &three[i]));
    let in_year = |group: &Group| match number(text, group) {
        year if group.len() == 4 => year,
        year => year.saturating_add(2000),
    };
    let year = in_year(if is_year(text, &three[0]) { &three[0] } else { &three[2] });
    let day_month = |d: u32, m: u32| (1..=days_of_month(m, year)).contains(&d);
    let short = |g: &Group| g.len() <= 2;
    if is_year(text, &three[0]) {
        return short(&three[1]) && short(&three[2]) && day_month(c, b);
    }
    let year = is_year(text, &three[2]) || (three[2].len() == 2 && !first.is_empty());
    year && short(&three[0])
        && short(&three[1])
        && (day_month(a, b) || day_month(b, a))
        && c != u32::MAX
}

/// Days of a month; none of a month that does not exist.
fn days_of_month(month: u32, year: u32) -> u32 {
    let is_leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    match month {
        2 => 28 + u32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    }
}

/// The same separator goes on: a version, an address, a longer number.
fn touches_digits(text: &str, groups: &[Group], first: usize) -> bool {
    let glued =
        |a: &Group, b: &Group| matches!(&text[a.end as usize..b.start as usize], "." | "-" | "/");
    first > 0 && glued(&groups[first - 1], &groups[first])
        || groups.get(first + 3).is_some_and(|next| glued(&groups[first + 2], next))
}

/// `19560304`, as HL7 and databases write it.
fn compact_date(text: &str, group: &Group) -> Option<Range<usize>> {
    let value = number(text, group);
    let (year, month, day) = (value / 10_000, value / 100 % 100, value % 100);
    let valid = group.len() == 8
        && (1890..=2035).contains(&year)
        && (1..=days_of_month(month, year)).contains(&day);
    valid.then(|| group.range())
}

/// `93-year-old`, `aged 94`, `102 ans`.
struct Age {
    words: ListId,
}

impl Detector for Age {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        if !reading.digits.any {
            return;
        }
        for group in &reading.digits.groups {
            let value = number(reading.text, group);
            let range = group.range();
            if (90..=120).contains(&value) && reading.distance(self.words, &range, 3).is_some() {
                found.push(Candidate { range, own: Own::Exactly(VeryLikely) });
            }
        }
        let glued = reading.words.behind_numbers().filter_map(|pair| {
            let (number, sign) = (&pair[0], &pair[1]);
            let range = number.start as usize..number.end as usize;
            (number.end == sign.start && is_over_89(reading.text, &range))
                .then_some((range, sign.start as usize..sign.end as usize))
        });
        found.extend(
            glued
                .filter(|(range, sign)| is_age_in_short(reading.text, range, sign))
                .map(|(range, _)| Candidate { range, own: Own::Exactly(VeryLikely) }),
        );
        let groups = reading.digits.groups.iter().map(Group::range);
        found.extend(
            groups
                .filter(|range| {
                    is_over_89(reading.text, range) && is_german_age(reading.text, range)
                })
                .map(|range| Candidate { range, own: Own::Exactly(VeryLikely) }),
        );
    }
}

fn is_over_89(text: &str, range: &Range<usize>) -> bool {
    let alone =
        !text[..range.start].ends_with(|c: char| c.is_alphanumeric() || "$€£.,-/".contains(c));
    matches!(range.len(), 2 | 3)
        && alone
        && text[range.clone()].parse().is_ok_and(|age: u32| (90..=120).contains(&age))
}

/// `93F with`, `93M, sepsis`, `91yo male`: age and sex as notes have them, but not `93M users`.
fn is_age_in_short(text: &str, range: &Range<usize>, sign: &Range<usize>) -> bool {
    const BEHIND_SEX: [&str; 14] = [
        " with ",
        " w/",
        " presents",
        " presenting",
        " presented",
        " admitted",
        " s/p",
        " c/o",
        " pt",
        " hx",
        " who ",
        " found ",
        " on ",
        " from nursing",
    ];
    let behind = &text[sign.end..];
    match &text[sign.clone()] {
        "F" | "M" | "f" | "m" | "W" | "w" => {
            let listed = behind.strip_prefix(", ").is_some_and(|rest| !rest.starts_with("up "));
            listed || BEHIND_SEX.iter().any(|word| behind.starts_with(word))
        }
        "yo" | "YO" | "yof" | "yom" | "y" | "yr" | "yrs" | "jr" | "j" => {
            range.end == sign.start && !behind.starts_with(|c: char| c.is_alphanumeric())
        }
        _ => false,
    }
}

/// `Patientin, 94 J.`
fn is_german_age(text: &str, range: &Range<usize>) -> bool {
    let low = text.floor_char_boundary(range.start.saturating_sub(32));
    let before = text[low..range.start].to_lowercase();
    text[range.end..].starts_with(" J.") && before.contains("patient")
}

#[rustfmt::skip]
const MONTHS: &[&str] = &[
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
    "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
    "januar", "jänner", "februar", "märz", "mai", "juni", "juli", "oktober", "dezember", "janvier", "février", "mars", "avril", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre",
    "enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre",
    "gennaio", "febbraio", "aprile", "maggio", "giugno", "luglio", "settembre", "ottobre", "dicembre",
    "janeiro", "fevereiro", "março", "maio", "junho", "julho", "setembro", "outubro", "novembro", "dezembro", "januari", "februari", "maart", "mei", "augustus",
    "stycznia", "lutego", "marca", "kwietnia", "maja", "czerwca", "lipca", "sierpnia", "września", "października", "listopada", "grudnia", "de enero", "de marzo", "de mayo",
    "января", "февраля", "марта", "апреля", "мая", "июня", "июля", "августа", "сентября", "октября", "ноября", "декабря",
];
#[rustfmt::skip]
const AGE_WORDS: &[&str] = &["year old", "years old", "yo", "y o", "yr old", "yrs old", "yr", "aged", "age", "jährige", "jähriger", "jährigen", "jahre alt", "ans", "años", "anni", "anos", "jarige", "jaar oud", "year"];
