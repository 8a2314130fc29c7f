//! Names of persons: by a role cue or a title beside them, or by a given name before a surname.
//!
//! Dictionaries alone find words, not people, so a name needs two signs: a cue ("patient", "my name
//! is", "Mrs"), or a given name and a surname with capitals, or a given name that acts ("Maria was
//! diagnosed"). What names something else is left out: public figures, fiction, diseases, streets,
//! companies, authors of papers.
//!
//! `very_likely` means introduced as a person; `likely` a full name or a titled one; `possible` a
//! given name alone, a doctor, or a name in fiction.
//! Sources: US Census 1990 name frequencies (public domain), Faker locale lists (MIT) for the rest.

use std::ops::Range;

use super::compile::{Compiler, Kind};
use super::email::is_in_git_trailer;
use super::letters::is_unspaced;
use super::lexicon::{ListId, SetId};
use super::name_words as vocabulary;
use super::reading::{Candidate, Detector, Own, Reading};
use crate::evidence::Likelihood::{self, Likely, Possible, VeryLikely};
use crate::swar;

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    match name {
        "person_name" => Some(Kind::Text(Box::new(PersonName::new(compiler)))),
        _ => None,
    }
}

struct PersonName {
    given: ListId,
    surnames: ListId,
    ambiguous: SetId,
    not_names: SetId,
    titles: ListId,
    provider_titles: ListId,
    cues: ListId,
    introductions: ListId,
    relations: ListId,
    verbs: SetId,
    public: ListId,
    samples: ListId,
    soft: SetId,
    works: SetId,
    towards: ListId,
    fiction: ListId,
    story: ListId,
    fame: ListId,
    role_of_fame: ListId,
    things: ListId,
    particles: SetId,
    east_asian: ListId,
    labels: ListId,
    vietnamese: ListId,
}

impl PersonName {
    fn new(compiler: &mut Compiler) -> Self {
        PersonName {
            given: compiler.shipped_names("given_names"),
            surnames: compiler.shipped_names("surnames"),
            ambiguous: compiler.shipped_set("ambiguous_names"),
            public: compiler.shipped_list("public_figures"),
            not_names: compiler.lexicon.set(vocabulary::NOT_NAMES),
            titles: compiler.lexicon.list(vocabulary::TITLES),
            provider_titles: compiler.lexicon.list(vocabulary::PROVIDER_TITLES),
            cues: compiler.lexicon.list(vocabulary::CUES),
            introductions: compiler.lexicon.list(vocabulary::INTRODUCTIONS),
            relations: compiler.lexicon.list(vocabulary::RELATIONS),
            verbs: compiler.lexicon.set(vocabulary::VERBS),
            samples: compiler.lexicon.list(vocabulary::SAMPLES),
            fiction: compiler.lexicon.list(vocabulary::FICTION),
            towards: compiler.lexicon.list(vocabulary::TOWARDS),
            works: compiler.lexicon.set(vocabulary::WORKS),
            soft: compiler.lexicon.set(vocabulary::SOFT),
            story: compiler.lexicon.list(vocabulary::STORY),
            fame: compiler.lexicon.list(vocabulary::FAME),
            role_of_fame: compiler.lexicon.list(vocabulary::ROLE_OF_FAME),
            things: compiler.lexicon.list(vocabulary::THINGS),
            particles: compiler.lexicon.set(vocabulary::PARTICLES),
            east_asian: compiler.lexicon.list(vocabulary::EAST_ASIAN_CUES),
            labels: compiler.lexicon.list(vocabulary::LABELS),
            vietnamese: compiler.lexicon.names(vocabulary::VIETNAMESE_SURNAMES),
        }
    }
}

impl Detector for PersonName {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        let mut names = Vec::new();
        for hit in reading.hits(self.given) {
            names.extend(self.by_given_name(reading, hit.start as usize));
        }
        for hit in reading.hits(self.surnames) {
            names.extend(self.surname_first(reading, hit.start as usize));
            names.extend(self.by_surname(reading, hit.start as usize));
            names.extend(self.by_initial(reading, hit.start as usize));
        }
        let introduced = [
            (self.introductions, VeryLikely),
            (self.cues, VeryLikely),
            (self.towards, Likely),
            (self.relations, Likely),
            (self.titles, Likely),
            (self.provider_titles, Possible),
        ];
        for (list, sure) in introduced {
            for hit in reading.hits(list) {
                names.extend(self.after_cue(reading, hit.end as usize, sure, list));
            }
        }
        for hit in reading.hits(self.labels) {
            names.extend(self.labelled(reading, hit.end as usize));
        }
        for hit in reading.hits(self.vietnamese) {
            names.extend(self.vietnamese(reading, hit.start as usize));
        }
        if !reading.text.is_ascii() {
            names.extend(self.slavic(reading));
        }
        for hit in reading.hits(self.east_asian) {
            names.extend(self.east_asian(reading, hit.start as usize..hit.end as usize));
        }
        found.extend(names.into_iter().filter_map(|name| self.weigh(reading, name)));
    }
}

/// A name and how sure the way it was found is.
struct Name {
    range: Range<usize>,
    sure: Likelihood,
    cued: bool,
}

impl PersonName {
    /// `Anna Huber`, `Anna M. Huber`, `Anna van der Berg`; `Anna was …` alone.
    fn by_given_name(&self, reading: &Reading<'_>, start: usize) -> Option<Name> {
        let text = reading.text;
        let given = Token::at(text, start)?;
        if !given.is_capital() || is_inside_word(text, start) {
            return None;
        }
        let ambiguous = reading.lexicon.in_set(self.ambiguous, given.text);
        let Some(surname) = self.surname_after(reading, &given) else {
            return self.given_alone(reading, &given, ambiguous);
        };
        let in_list = self.is_surname(reading, surname.text);
        let thing = reading.lexicon.in_set(self.not_names, surname.text)
            || reading.lexicon.has(self.things, surname.text);
        let common = thing || reading.lexicon.in_set(self.ambiguous, surname.text);
        let soft = reading.lexicon.in_set(self.soft, given.text);
        let sure = match (ambiguous, in_list, common) {
            (false, true, _) if !thing => Likely,
            (true, true, _) if soft && !thing => Likely,
            (true, true, false) => Likely,
            (false, false, false) if surname.text.chars().count() > 3 && !surname.is_upper() => {
                Likely
            }
            (_, _, true) => return None,
            (true, false, false) if given.is_upper() || surname.is_upper() => return None,
            _ => Possible,
        };
        Some(Name { range: given.start..surname.end(), sure, cued: false })
    }

    fn given_alone(
        &self,
        reading: &Reading<'_>,
        given: &Token<'_>,
        ambiguous: bool,
    ) -> Option<Name> {
        if ambiguous || given.text.chars().count() < 3 || given.is_upper() {
            return None;
        }
        let rest = &reading.text[given.end()..];
        let possessive = rest.starts_with("'s ");
        let next = self.next_token(reading.text, given, false);
        let acts = next.is_some_and(|word| reading.lexicon.in_set(self.verbs, word.text));
        let sure = if possessive || acts { Likely } else { Possible };
        Some(Name { range: given.start..given.end(), sure, cued: false })
    }

    /// `Kwabena Osei`: a surname behind a word that no list knows, where a person acts or is addressed.
    fn by_surname(&self, reading: &Reading<'_>, start: usize) -> Option<Name> {
        let text = reading.text;
        let surname = Token::at(text, start).filter(|t| t.is_capital() && !t.is_upper())?;
        let before = text[..start].strip_suffix(' ')?;
        let first_start = before.rfind(|c: char| !c.is_alphabetic()).map_or(0, |at| at + 1);
        let first = Token::at(text, before.get(first_start..).map(|_| first_start)?)?;
        let is_word = |word: &str| {
            reading.lexicon.in_set(self.ambiguous, word)
                || reading.lexicon.in_set(self.not_names, word)
                || reading.lexicon.in_set(self.particles, word)
                || reading.lexicon.has(self.things, word)
        };
        let plausible = first.is_capital() && !first.is_upper() && first.text.len() > 2;
        if !plausible || is_word(first.text) || is_word(surname.text) {
            return None;
        }
        // Inside a sentence a capital is a name's; at its start every word has one.
        let before = text[..first.start].trim_end_matches(' ');
        let inside = before.len() < first.start
            && before.ends_with(|c: char| c.is_lowercase() || matches!(c, ',' | ':' | ';'));
        let next = self.next_token(text, &surname, false);
        let acts = next.is_some_and(|word| reading.lexicon.in_set(self.verbs, word.text))
            || text[surname.end()..].starts_with(" - ");
        let addressed = self.follows(reading, self.towards, first.start);
        let sure = if acts || addressed || inside { Likely } else { Possible };
        Some(Name { range: first.start..surname.end(), sure, cued: false })
    }

    /// `K. Abernathy`, `R. J. Osei`.
    fn by_initial(&self, reading: &Reading<'_>, start: usize) -> Option<Name> {
        let text = reading.text;
        let surname = Token::at(text, start).filter(|t| t.is_capital() && !t.is_upper())?;
        let before = text[..start].strip_suffix(". ").or(text[..start].strip_suffix('.'))?;
        let initial = before.chars().next_back().filter(|c| c.is_uppercase())?;
        let first = before.len() - initial.len_utf8();
        let common = reading.lexicon.in_set(self.ambiguous, surname.text);
        let alone = !text[..first].ends_with(|c: char| c.is_alphanumeric());
        (alone && !common && surname.text.len() > 3).then(|| Name {
            range: first..surname.end(),
            sure: Likely,
            cued: false,
        })
    }

    /// `Huber, Anna` and `HUBER Anna`.
    fn surname_first(&self, reading: &Reading<'_>, start: usize) -> Option<Name> {
        let text = reading.text;
        let surname =
            Token::at(text, start).filter(|t| t.is_capital() && !is_inside_word(text, start))?;
        let rest = &text[surname.end()..];
        let skip = match rest.as_bytes() {
            [b',', b' ', ..] => 2,
            [b' ', ..] if surname.is_upper() => 1,
            _ => return None,
        };
        let given = Token::at(text, surname.end() + skip).filter(Token::is_capital)?;
        let lexicon = reading.lexicon;
        let plain = |t: &Token<'_>| {
            !lexicon.in_set(self.ambiguous, t.text) && !lexicon.in_set(self.not_names, t.text)
        };
        // `Hans-Peter`: the list knows his first half.
        let first_half = given.text.split('-').next().unwrap_or(given.text);
        let known = lexicon.has(self.given, given.text) || lexicon.has(self.given, first_half);
        // Nobody puts a double given name behind a trade: `Müller, Hans-Peter`.
        let is_double = first_half.len() < given.text.len();
        let fits = known && plain(&given) && (plain(&surname) || is_double);
        // `Smith, John and …` is a name; `Paris, Madrid, Oslo` is a list.
        let listed = text[given.end()..].starts_with(", ")
            && Token::at(text, given.end() + 2).is_some_and(|t| t.is_capital());
        (fits && !listed).then(|| Name {
            range: surname.start..given.end(),
            sure: Likely,
            cued: false,
        })
    }

    /// Capitalised tokens behind a cue, a title, an introduction or a relation.
    fn after_cue(
        &self,
        reading: &Reading<'_>,
        cue_end: usize,
        sure: Likelihood,
        list: ListId,
    ) -> Option<Name> {
        let text = reading.text;
        let gap = text[cue_end..].find(char::is_alphabetic).filter(|gap| (1..=6).contains(gap))?;
        let between = &text[cue_end..cue_end + gap];
        if between.contains(['\n', '?', '(', ')', '!', '"', '/', '_', '-'])
            && !between.contains(": ")
            || between.contains(". ") && list != self.titles && list != self.provider_titles
        {
            return None;
        }
        let labelled = between.contains([':', '=']);
        let first = self.skip_to_name(reading, cue_end + gap)?;
        let last = self.last_token(reading, &first);
        let known = |t: &Token<'_>| {
            reading.lexicon.has(self.given, t.text) || self.is_surname(reading, t.text)
        };
        let plain = |t: &Token<'_>| {
            !reading.lexicon.in_set(self.ambiguous, t.text)
                || reading.lexicon.in_set(self.soft, t.text)
        };
        let two = last.start != first.start;
        if list == self.towards && !(two && self.is_addressable(reading, &first, &last)) {
            return None;
        }
        let is_cue = list == self.cues;
        let titled = list == self.titles || list == self.provider_titles;
        let fits = match (first.is_capital(), two) {
            // Arabic, Hebrew, Devanagari: no capitals to go by, so the cue and two words must do.
            (false, true) if first.is_caseless() => is_cue || titled || list == self.introductions,
            (true, true) => known(&first) || known(&last) || labelled || !is_cue,
            (true, false) if titled => first.text.chars().count() > 1,
            (true, false) => {
                known(&first) && plain(&first) && !first.is_upper()
                    || list == self.introductions && first.text.len() > 2 && plain(&first)
            }
            (false, true) => {
                !titled
                    && list != self.towards
                    && known(&first)
                    && known(&last)
                    && plain(&first)
                    && plain(&last)
            }
            (false, false) => list == self.introductions && known(&first) && plain(&first),
        };
        let sure = if two || list == self.introductions { sure } else { sure.min(Likely) };
        fits.then(|| Name { range: first.start..last.end(), sure, cued: true })
    }

    /// `LAST: Brandt FIRST: Ezekiel`: words that are no cue unless a colon makes a field of them.
    fn labelled(&self, reading: &Reading<'_>, cue_end: usize) -> Option<Name> {
        let value =
            reading.text[cue_end..].strip_prefix([':', '='])?.trim_start_matches([' ', '"']);
        let name = Token::at(reading.text, reading.text.len() - value.len())?;
        let known =
            reading.lexicon.has(self.given, name.text) || self.is_surname(reading, name.text);
        let is_word = reading.lexicon.in_set(self.not_names, name.text);
        (name.is_capital() && known && !is_word).then(|| Name {
            range: name.start..name.end(),
            sure: Likely,
            cued: true,
        })
    }

    /// `Nguyễn Thị Hoa`: the family's name stands first and the words behind it have capitals.
    fn vietnamese(&self, reading: &Reading<'_>, start: usize) -> Option<Name> {
        let text = reading.text;
        let family = Token::at(text, start)?;
        let middle = self.next_token(text, &family, false).filter(Token::is_capital)?;
        let last =
            self.next_token(text, &middle, false).filter(Token::is_capital).unwrap_or(middle);
        let is_marked = !text[start..last.end()].is_ascii();
        let plain = !is_inside_word(text, start) && !family.is_upper();
        let is_word = reading.lexicon.in_set(self.not_names, middle.text);
        (is_marked && plain && !is_word).then(|| Name {
            range: start..last.end(),
            sure: Likely,
            cued: true,
        })
    }

    /// Whether somebody can be told something under this name: no product, department or doctor.
    fn is_addressable(&self, reading: &Reading<'_>, first: &Token<'_>, last: &Token<'_>) -> bool {
        let lexicon = reading.lexicon;
        let is_word = |t: &Token<'_>| {
            lexicon.in_set(self.ambiguous, t.text) && !lexicon.in_set(self.soft, t.text)
                || lexicon.in_set(self.not_names, t.text)
                || lexicon.has(self.things, t.text)
        };
        let provider = lexicon.has(self.provider_titles, first.text);
        first.is_capital() && !first.is_upper() && !provider && !is_word(first) && !is_word(last)
    }

    /// The name's first token: a title or "is", "named" may stand before it.
    fn skip_to_name<'t>(&self, reading: &Reading<'t>, at: usize) -> Option<Token<'t>> {
        let text = reading.text;
        let mut token = Token::at(text, at)?;
        for _ in 0..3 {
            let filler = vocabulary::FILLERS.iter().any(|f| token.text.eq_ignore_ascii_case(f))
                || reading.lexicon.has(self.titles, token.text);
            if !filler {
                break;
            }
            let next = text[token.end()..].find(char::is_alphabetic).filter(|gap| *gap <= 3)?;
            token = Token::at(text, token.end() + next)?;
        }
        // `Mevrouw van den Berg`: particles lead to the name.
        for _ in 0..2 {
            if token.is_capital() || !reading.lexicon.in_set(self.particles, token.text) {
                break;
            }
            token = self.next_token(text, &token, true)?;
        }
        let is_word = reading.lexicon.in_set(self.not_names, token.text);
        (!is_word).then_some(token)
    }

    /// Follows a name from its first token to its last, at most three tokens and particles.
    fn last_token<'t>(&self, reading: &Reading<'t>, first: &Token<'t>) -> Token<'t> {
        let mut last = *first;
        for _ in 0..3 {
            let Some(next) = self.next_token(reading.text, &last, true) else { break };
            let capital = next.is_capital() == first.is_capital();
            let particle = reading.lexicon.in_set(self.particles, next.text);
            if !particle && (!capital || reading.lexicon.in_set(self.not_names, next.text)) {
                break;
            }
            if !first.is_capital()
                && !first.is_caseless()
                && !particle
                && !reading.lexicon.has(self.surnames, next.text)
            {
                break;
            }
            last = next;
        }
        last
    }

    /// The surname behind a given name: middle names, initials and particles are skipped.
    fn surname_after<'t>(&self, reading: &Reading<'t>, given: &Token<'t>) -> Option<Token<'t>> {
        let mut token = self.next_token(reading.text, given, true)?;
        for _ in 0..3 {
            let initial = token.text.chars().count() == 1 && token.is_capital();
            let particle = reading.lexicon.in_set(self.particles, token.text);
            let middle = token.is_capital()
                && reading.lexicon.has(self.given, token.text)
                && self
                    .next_token(reading.text, &token, false)
                    .is_some_and(|n| n.is_capital() && self.is_surname(reading, n.text));
            if !(initial || particle || middle) {
                break;
            }
            token = self.next_token(reading.text, &token, initial)?;
        }
        (token.is_capital() && token.text.chars().count() > 1).then_some(token)
    }

    /// The token after one space (or tab, or an initial's point and a space).
    fn next_token<'t>(&self, text: &'t str, token: &Token<'t>, point: bool) -> Option<Token<'t>> {
        let rest = &text[token.end()..];
        let gap = rest.find(char::is_alphabetic).filter(|g| *g >= 1)?;
        let between = &rest[..gap];
        let initial = point && token.text.chars().count() == 1;
        let fits = matches!(between, " " | "  " | "\t" | "_" | "\u{3000}")
            || initial && matches!(between, ". " | ".");
        fits.then(|| Token::at(text, token.end() + gap)).flatten()
    }

    fn is_surname(&self, reading: &Reading<'_>, token: &str) -> bool {
        let known = |part: &str| reading.lexicon.has(self.surnames, part);
        let after_mark = token.rsplit(['-', '\'']).next().unwrap_or(token);
        known(token) || (after_mark.len() > 2 && known(after_mark))
    }

    /// Russian and its neighbours by their endings: `Иванов Иван`, `Мария Петровна`.
    fn slavic(&self, reading: &Reading<'_>) -> Vec<Name> {
        let text = reading.text;
        let is_cyrillic =
            |t: &Token<'_>| t.text.starts_with(|c| ('А'..='Я').contains(&c) || c == 'І');
        let ends = |t: &Token<'_>, endings: &[&str]| {
            t.text.chars().count() > 4 && endings.iter().any(|e| t.text.ends_with(e))
        };
        let mut found = Vec::new();
        let wide = reading.words.words.iter().filter(|w| text.as_bytes()[w.start as usize] >= 0x80);
        for word in wide {
            let Some(first) = Token::at(text, word.start as usize).filter(is_cyrillic) else {
                continue;
            };
            let Some(second) = self.next_token(text, &first, true).filter(is_cyrillic) else {
                continue;
            };
            let patronymic = ends(&second, vocabulary::PATRONYMIC_ENDINGS);
            let surname = ends(&first, vocabulary::SLAVIC_ENDINGS)
                || ends(&second, vocabulary::SLAVIC_ENDINGS);
            if patronymic || surname {
                found.push(Name { range: first.start..second.end(), sure: Likely, cued: true });
            }
        }
        found
    }

    /// Chinese, Japanese and Korean names beside their cues: `患者张伟`, `田中太郎様`, `김민수 씨`.
    fn east_asian(&self, reading: &Reading<'_>, cue: Range<usize>) -> Option<Name> {
        let text = reading.text;
        let is_suffix = vocabulary::EAST_ASIAN_SUFFIXES.contains(&&text[cue.clone()]);
        if is_suffix {
            let before = text[..cue.start].trim_end_matches(' ');
            let name: Vec<(usize, char)> =
                before.char_indices().rev().take(4).take_while(|(_, c)| is_name_char(*c)).collect();
            let start = name.last()?.0;
            return (name.len() >= 2).then_some(Name {
                range: start..before.len(),
                sure: Likely,
                cued: true,
            });
        }
        let rest = &text[cue.end..];
        let skipped = rest.find(|c: char| {
            !matches!(
                c,
                ' ' | ':'
                    | '：'
                    | '是'
                    | 'は'
                    | 'の'
                    | '、'
                    | '은'
                    | '는'
                    | '이'
                    | '叫'
                    | '氏'
                    | '名'
            )
        })?;
        let start = cue.end + skipped;
        let first = text[start..].chars().next()?;
        let len: usize = text[start..]
            .chars()
            .take(4)
            .take_while(|c| is_name_char(*c))
            .map(char::len_utf8)
            .sum();
        let fits = len >= 6 && vocabulary::EAST_ASIAN_SURNAMES.contains(first);
        fits.then_some(Name { range: start..start + len.min(12), sure: VeryLikely, cued: true })
    }

    /// Lowers or drops what is somebody's name but nobody's data.
    fn weigh(&self, reading: &Reading<'_>, name: Name) -> Option<Candidate> {
        let range = name.range;
        let near = |list, reach| reading.distance(list, &range, reach).is_some();
        let after = reading.hits_in(self.things, range.end..range.end + 3).next();
        let of_thing =
            after.is_some_and(|hit| is_same_sentence(&reading.text[range.end..hit.start as usize]));
        if of_thing
            || !name.cued && is_citation(reading.text, range.end)
            || self.is_inside(reading, self.things, &range)
        {
            return None;
        }
        let public = self.is_inside(reading, self.public, &range);
        let provider = self.follows(reading, self.provider_titles, range.start);
        let sample = self.is_inside(reading, self.samples, &range);
        let sure = match name.sure {
            _ if public && !name.cued => return None,
            _ if is_in_git_trailer(reading.text, range.start) => Possible,
            Possible => Possible,
            _ if sample => Possible,
            Likely if public || provider => Possible,
            _ if near(self.fiction, 240) => Possible,
            _ if self.has_works(reading, range.end) => Possible,
            _ if !name.cued && (near(self.story, 120) || near(self.fame, 60)) => Possible,
            _ if !name.cued && self.follows(reading, self.role_of_fame, range.start) => Possible,
            sure => sure,
        };
        Some(Candidate { range, own: Own::Exactly(sure) })
    }

    /// `Michael Pollan's book`: somebody known for a work.
    fn has_works(&self, reading: &Reading<'_>, end: usize) -> bool {
        let work =
            reading.text[end..].strip_prefix("'s ").or(reading.text[end..].strip_prefix("' "));
        let word = work.and_then(|_| {
            Token::at(reading.text, end + reading.text[end..].find(' ').map_or(0, |at| at + 1))
        });
        word.is_some_and(|word| reading.lexicon.in_set(self.works, word.text))
    }

    fn is_inside(&self, reading: &Reading<'_>, list: ListId, range: &Range<usize>) -> bool {
        let window = range.start.saturating_sub(24)..range.end;
        reading.hits_in(list, window).any(|h| (h.end as usize) > range.start)
    }

    fn follows(&self, reading: &Reading<'_>, list: ListId, start: usize) -> bool {
        let window = start.saturating_sub(12)..start;
        reading.hits_in(list, window).any(|h| start - (h.end as usize).min(start) <= 2)
    }
}

/// A word as names have it: letters with inner apostrophes and hyphens.
#[derive(Clone, Copy)]
struct Token<'t> {
    start: usize,
    text: &'t str,
}

/// Longer words are no names, and a text that is one long word is not read from each of its places.
const TOKEN_BYTES_MAX: usize = 256;

impl<'t> Token<'t> {
    fn at(text: &'t str, start: usize) -> Option<Token<'t>> {
        let rest = text.get(start..)?;
        // Most are plain letters up to a space or a full stop.
        let plain = swar::letters_run(rest.as_bytes());
        let goes_on = |next: &u8| !next.is_ascii() || matches!(next, b'\'' | b'-');
        if (1..=TOKEN_BYTES_MAX).contains(&plain)
            && !rest.as_bytes().get(plain).is_some_and(goes_on)
        {
            return Some(Token { start, text: &rest[..plain] });
        }
        let mut end = 0;
        let mut chars = rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let inner =
                matches!(c, '\'' | '-') && chars.peek().is_some_and(|(_, n)| n.is_uppercase());
            let sign =
                ('\u{0900}'..='\u{0dff}').contains(&c) || ('\u{064b}'..='\u{0652}').contains(&c);
            if !(c.is_alphabetic() || inner || sign) {
                break;
            }
            end = at + c.len_utf8();
            if end > TOKEN_BYTES_MAX {
                return None;
            }
        }
        (end > 0).then(|| Token { start, text: &rest[..end] })
    }

    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    fn is_capital(&self) -> bool {
        self.text.chars().next().is_some_and(char::is_uppercase)
    }

    /// A script without capitals that separates words.
    fn is_caseless(&self) -> bool {
        self.text
            .chars()
            .next()
            .is_some_and(|c| matches!(c, '\u{0590}'..='\u{06ff}' | '\u{0900}'..='\u{0dff}'))
    }

    fn is_upper(&self) -> bool {
        self.text.chars().count() > 1 && !self.text.chars().any(char::is_lowercase)
    }
}

/// Whether letters stand before the place: the second half of a compound or of `camelCase`.
fn is_inside_word(text: &str, at: usize) -> bool {
    text[..at]
        .chars()
        .next_back()
        .is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '@' | '/' | '#'))
}

fn is_name_char(c: char) -> bool {
    is_unspaced(c)
        && !('\u{3040}'..='\u{309f}').contains(&c)
        && !vocabulary::NOT_IN_EAST_ASIAN_NAMES.contains(c)
}

/// `(2019)`, `et al.`: the author of a paper.
fn is_citation(text: &str, end: usize) -> bool {
    let rest = text[end..].trim_start();
    let year = rest
        .strip_prefix('(')
        .is_some_and(|r| r.len() > 4 && r.as_bytes()[..4].iter().all(u8::is_ascii_digit));
    year || rest.starts_with("et al")
}

fn is_same_sentence(between: &str) -> bool {
    !between.contains(['.', ',', ';', ':', '\n'])
}
