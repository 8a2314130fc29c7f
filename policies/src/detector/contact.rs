//! Contact data: telephone numbers, postal addresses, network addresses, places.
//!
//! One contact datum identifies few people and is everywhere, so the shapes are strict and samples
//! (example.com, 555-01xx, documentation networks) are no findings.
//! Sources: RFC 5322 and 2606, NANP rules, ITU E.164, RFC 1918 and 5737.

use std::ops::Range;

use super::compile::{Compiler, Kind};
use super::digits::Window;
use super::lexicon::ListId;
use super::reading::{Candidate, Detector, Own, Reading};
use crate::evidence::Likelihood::{Likely, Possible, VeryLikely};

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    Some(match name {
        "phone" => Kind::Text(Box::new(Phone {
            words: compiler.lexicon.list(PHONE_WORDS),
            not: compiler.lexicon.list(NOT_PHONE_WORDS),
        })),
        "postal_address" => Kind::Text(Box::new(Street::new(compiler))),
        "ip_address" => Kind::Text(Box::new(IpAddress)),
        "geo_coordinates" => Kind::Text(Box::new(Coordinates)),
        _ => return None,
    })
}

/// NANP and international numbers as people write them.
struct Phone {
    words: ListId,
    not: ListId,
}

impl Detector for Phone {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        let mut digits = [0; 15];
        for window in reading.digits.windows(7..16) {
            let range = window.range();
            let len = window.copy_digits(reading.text, &mut digits);
            let digits = &digits[..len];
            let international = reading.text[..range.start].ends_with('+')
                || reading.text[..range.start].ends_with("+(")
                || (digits.starts_with(&[0, 0]) && window.groups.len() > 1);
            let whole_run = window.groups.len() == window.run.len();
            let phone_like = window
                .separators(reading.text)
                .all(|s| matches!(s.trim(), "" | "-" | "." | "/" | ")" | ") -"));
            if !phone_like
                || is_sample_number(digits)
                || is_free_of_charge(digits)
                || is_part_of_free_number(reading.text, &window)
            {
                continue;
            }
            let shape = window.shape();
            let nanp = is_nanp(digits, &shape) && window.groups.len() > 1;
            let context = reading.distance(self.words, &range, 40);
            let other = reading.distance(self.not, &range, 30);
            if other.is_some_and(|o| context.is_none_or(|c| o < c)) {
                continue;
            }
            let own = match (international, nanp, context.is_some()) {
                (true, _, _) if (8..=15).contains(&len) && phone_like => Some(VeryLikely),
                (_, true, true) => Some(VeryLikely),
                (_, true, false) if whole_run && phone_like => Some(Likely),
                (_, _, true)
                    if (7..=13).contains(&len)
                        && phone_like
                        && (whole_run || window.groups.len() > 1) =>
                {
                    Some(Likely)
                }
                (_, _, false)
                    if whole_run && is_national_mobile(reading.text, &range, digits, &shape) =>
                {
                    Some(Possible)
                }
                _ => None,
            };
            found.extend(own.map(|l| Candidate { range, own: Own::Exactly(l) }));
        }
    }
}

/// `[2-9]xx [2-9]xx xxxx` in groups 3-3-4, with or without a leading 1.
fn is_nanp(digits: &[u8], shape: &[usize]) -> bool {
    let d = match digits.len() {
        11 if digits[0] == 1 => &digits[1..],
        10 => digits,
        _ => return false,
    };
    let grouped = matches!(shape, [3, 3, 4] | [1, 3, 3, 4] | [3, 7] | [10] | [11] | [3, 3, 2, 2])
        || shape.iter().all(|l| *l == 1);
    grouped && d[0] >= 2 && d[3] >= 2 && !is_american_toll_free(d)
}

/// A leading zero and a grouping, as national numbers in Europe are written.
fn is_national_mobile(text: &str, range: &Range<usize>, digits: &[u8], shape: &[usize]) -> bool {
    digits[0] == 0
        && digits[1] != 0
        && (9..=12).contains(&digits.len())
        && (2..=6).contains(&shape.len())
        && !text[range.clone()].contains(['.', ',', '\n'])
}

/// 555-01xx is reserved for fiction.
fn is_sample_number(digits: &[u8]) -> bool {
    let d = if digits.len() == 11 && digits[0] == 1 { &digits[1..] } else { digits };
    let fiction = d.len() == 10
        && (d[3..6] == [5, 5, 5] && d[6..8] == [0, 1] || d[..3] == [5, 5, 5])
        || d.len() == 7 && d[..5] == [5, 5, 5, 0, 1];
    let counting = d.windows(2).all(|w| w[1] == (w[0] + 1) % 10) || d.iter().all(|x| *x == d[0]);
    fiction || counting
}

/// 0800, 0808, Spain's 900 and the like: numbers that firms pay for, nobody's own.
fn is_free_of_charge(digits: &[u8]) -> bool {
    match digits.len() {
        9 => matches!(digits, [9, 0, 0..=2, ..]),
        10 if digits[0] == 8 => is_american_toll_free(digits),
        11 if digits[0] == 1 => is_american_toll_free(&digits[1..]),
        10..=12 => matches!(digits, [0, 8, 0, 0 | 8, ..] | [0, 1, 8, 0, ..] | [0, 9, 0, 0, ..]),
        _ => false,
    }
}

/// `273-8255` out of `1-800-273-8255`.
fn is_part_of_free_number(text: &str, window: &Window<'_>) -> bool {
    if window.run.len() > 4 {
        return false;
    }
    let digits: Vec<u8> = window.run.iter().flat_map(|group| text[group.range()].bytes()).collect();
    let digits: Vec<u8> = digits.iter().take(13).map(|byte| byte - b'0').collect();
    matches!(digits.len(), 10 | 11) && is_free_of_charge(&digits)
}

/// 800, 833, 844 to 888: area codes of numbers that the called party pays for.
fn is_american_toll_free(digits: &[u8]) -> bool {
    matches!(digits, [8, a, b, ..] if a == b && matches!(a, 0 | 3..=8))
}

/// A house number and a street, in the orders of several countries.
struct Street {
    /// `street`, `ave`, `lane`: after a name and a number.
    english: ListId,
    /// `rue`, `calle`, `via`, `rua`: before a name and a number.
    romance: ListId,
    units: ListId,
    person: ListId,
}

impl Street {
    fn new(compiler: &mut Compiler) -> Self {
        Street {
            english: compiler.lexicon.list(STREET_SUFFIXES),
            romance: compiler.lexicon.list(STREET_PREFIXES),
            units: compiler.lexicon.list([
                "apt",
                "apartment",
                "unit",
                "suite",
                "po box",
                "p o box",
            ]),
            person: compiler.lexicon.list(HOME_WORDS),
        }
    }
}

impl Detector for Street {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for hit in reading.hits(self.english) {
            found.extend(self.number_first(reading, hit.start as usize..hit.end as usize));
        }
        for hit in reading.hits(self.romance) {
            found.extend(self.number_last(reading, hit.start as usize..hit.end as usize));
        }
        found.extend(self.german(reading));
    }
}

impl Street {
    /// `221B Baker Street`: a number at most four capitalised words before the suffix.
    fn number_first(&self, reading: &Reading<'_>, suffix: Range<usize>) -> Option<Candidate> {
        let low = reading.text.floor_char_boundary(suffix.start.saturating_sub(48));
        let before = &reading.text[low..suffix.start];
        for (name_words, word) in before.split_whitespace().rev().enumerate().take(5) {
            let trimmed = word.trim_end_matches([',', '.']);
            let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
            if (1..=5).contains(&digits) && trimmed.len() <= digits + 1 && name_words > 0 {
                let start = word.as_ptr() as usize - reading.text.as_ptr() as usize;
                return Some(self.address(reading, start..suffix.end));
            }
            let is_name = trimmed.chars().next().is_some_and(char::is_uppercase) || digits > 0;
            if !is_name {
                return None;
            }
        }
        None
    }

    /// `12 rue de la Paix`, `Via Roma 12`, `Calle Mayor, 5`.
    fn number_last(&self, reading: &Reading<'_>, prefix: Range<usize>) -> Option<Candidate> {
        let text = reading.text;
        let before = text[..prefix.start].trim_end_matches([' ', ',']);
        let number_before = before.bytes().rev().take_while(|b| b.is_ascii_digit()).count();
        let capital_next = text[prefix.end..].chars().find(|c| c.is_alphabetic());
        if (1..=4).contains(&number_before) && capital_next.is_some() {
            return Some(self.address(reading, before.len() - number_before..prefix.end));
        }
        let end = text.floor_char_boundary(prefix.end + 40);
        let after = &text[prefix.end..end];
        let digit_at = after.find(|c: char| c.is_ascii_digit())?;
        let name = after[..digit_at].trim_start_matches(['.', ' ']);
        let is_name = name.chars().next().is_some_and(char::is_uppercase)
            || name.starts_with("de")
            || name.starts_with("da")
            || name.starts_with("do");
        let digits = after[digit_at..].bytes().take_while(u8::is_ascii_digit).count();
        (is_name && digits <= 4 && !name.contains(['\n', '?', ':']))
            .then(|| self.address(reading, prefix.start..prefix.end + digit_at + digits))
    }

    /// `Hauptstraße 12`, `Kerkstraat 5`: the suffix is part of the word.
    fn german(&self, reading: &Reading<'_>) -> Vec<Candidate> {
        const SUFFIXES: [&str; 12] = [
            "straße", "strasse", "str", "weg", "gasse", "platz", "allee", "straat", "laan",
            "gracht", "gatan", "vägen",
        ];
        let mut found = Vec::new();
        for group in reading.digits.groups.iter().filter(|g| g.len() <= 3) {
            let start = group.start as usize;
            let before = reading.text[..start].trim_end_matches([' ', '.']);
            let word_start = before
                .rfind(|c: char| !c.is_alphabetic())
                .map_or(0, |i| i + before[i..].chars().next().map_or(1, char::len_utf8));
            let word = &before[word_start..];
            let fits = word.chars().count() > 5
                && word.chars().next().is_some_and(char::is_uppercase)
                && before.len() != start;
            if !fits {
                continue;
            }
            let word = word.to_lowercase();
            if SUFFIXES.iter().any(|suffix| word.ends_with(suffix)) {
                found.push(self.address(reading, word_start..group.end as usize));
            }
        }
        found
    }

    fn address(&self, reading: &Reading<'_>, range: Range<usize>) -> Candidate {
        let known = SAMPLE_STREETS.iter().chain(&PUBLIC_STREETS);
        if known.into_iter().any(|s| reading.text[range.clone()].eq_ignore_ascii_case(s)) {
            return Candidate { range, own: Own::Exactly(Possible) };
        }
        let home = reading.distance(self.person, &range, 60).is_some()
            || reading.distance(self.units, &range, 20).is_some();
        let zip = follows_zip(reading.text, range.end);
        let own = match (home, zip) {
            (true, _) | (_, true) => VeryLikely,
            (false, false) => Likely,
        };
        Candidate { range, own: Own::Exactly(own) }
    }
}

/// A postal code within the next 50 characters.
fn follows_zip(text: &str, at: usize) -> bool {
    let end = text.floor_char_boundary(at + 50);
    let after = &text[at..end];
    after.split(|c: char| !c.is_ascii_digit()).any(|digits| matches!(digits.len(), 4 | 5))
}

/// Public IPv4 addresses: a weak identifier.
struct IpAddress;

impl Detector for IpAddress {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for window in reading.digits.windows(4..13).filter(|w| w.groups.len() == 4) {
            let whole = window.run.len() == 4 || window.cuts_a_list_of_digits();
            let dotted = window.separators(reading.text).all(|s| s == ".");
            if !dotted || !whole {
                continue;
            }
            let parts: Option<Vec<u8>> =
                window.groups.iter().map(|g| reading.text[g.range()].parse().ok()).collect();
            if parts.is_some_and(|p| is_public_v4(&p)) {
                found.push(Candidate { range: window.range(), own: Own::Exactly(Possible) });
            }
        }
        // The first part of an address of that range begins with a digit.
        if !reading.digits.any || !reading.bytes.has(b':') {
            return;
        }
        // An address without `::` has seven colons in a row, of which every fourth is enough.
        let colons: Vec<usize> = reading.text.match_indices(':').map(|(at, _)| at).collect();
        let pairs = colons.chunk_by(|a, b| a + 1 == *b).flat_map(|row| row.chunks_exact(2));
        let firsts = pairs.map(|pair| pair[0]);
        let groups = colons.iter().copied().step_by(4);
        found.extend(firsts.chain(groups).filter_map(|at| public_v6(reading.text, at)));
    }
}

/// An address of the global unicast range, 2000::/3, without that of the documentation.
fn public_v6(text: &str, colon: usize) -> Option<Candidate> {
    let is_part = |b: &u8| b.is_ascii_hexdigit() || *b == b':';
    let bytes = text.as_bytes();
    let before = bytes[..colon].iter().rev().take(40).take_while(|b| is_part(b)).count();
    let after = bytes[colon..].iter().take(40).take_while(|b| is_part(b)).count();
    let range = colon - before..colon + after;
    let address: std::net::Ipv6Addr = text[range.clone()].trim_end_matches(':').parse().ok()?;
    let first = address.segments()[0];
    let documentation = first == 0x2001 && address.segments()[1] == 0xdb8;
    ((0x2000..0x4000).contains(&first) && !documentation)
        .then_some(Candidate { range, own: Own::Exactly(Possible) })
}

fn is_public_v4(p: &[u8]) -> bool {
    !matches!(
        p,
        [0 | 10 | 127 | 224..=255, ..]
            | [172, 16..=31, ..]
            | [192, 168, ..]
            | [169, 254, ..]
            | [192, 0, 2, _]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [8, 8, ..]
            | [1, 1, 1, 1]
    )
}

/// Latitude and longitude with at least four decimals.
struct Coordinates;

impl Detector for Coordinates {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        if !reading.digits.any {
            return;
        }
        let groups = &reading.digits.groups;
        for four in groups.windows(4) {
            let [lat, lat_fraction, lon, lon_fraction] = [four[0], four[1], four[2], four[3]];
            let text = reading.text;
            let point = |a: &super::digits::Group, b: &super::digits::Group| {
                &text[a.end as usize..b.start as usize] == "."
            };
            let precise = lat_fraction.len() >= 4
                && lon_fraction.len() >= 4
                && lat.len() <= 2
                && lon.len() <= 3;
            let between = &text[lat_fraction.end as usize..lon.start as usize];
            let paired =
                between.len() <= 24 && between.contains([',', ' ']) && !between.contains('\n');
            if precise && paired && point(&lat, &lat_fraction) && point(&lon, &lon_fraction) {
                found.push(Candidate {
                    range: lat.start as usize..lon_fraction.end as usize,
                    own: Own::AsSpecified,
                });
            }
        }
        if !reading.bytes.may_have('°') {
            return;
        }
        let degrees = reading.text.match_indices('°').map(|(at, _)| at);
        found.extend(degrees.filter_map(|at| in_seconds(reading.text, at)));
    }
}

/// `37°46'29.7"N 122°25'09.9"W`: two places of degrees, minutes and seconds.
fn in_seconds(text: &str, degree: usize) -> Option<Candidate> {
    let before = text[..degree].bytes().rev().take(3).take_while(u8::is_ascii_digit).count();
    let (north_end, north) = seconds(&text[degree..])?;
    let behind = degree + north_end;
    let rest = &text[behind..text.floor_char_boundary(behind + 32)];
    let gap = rest.find(|c: char| c.is_ascii_digit()).filter(|gap| *gap <= 4)?;
    let second = rest[gap..].find('°').filter(|at| *at <= 3)?;
    let (east_end, east) = seconds(&rest[gap + second..])?;
    let fits = before > 0 && matches!(north, 'N' | 'S') && matches!(east, 'E' | 'W' | 'O');
    let end = degree + north_end + gap + second + east_end;
    fits.then_some(Candidate { range: degree - before..end, own: Own::AsSpecified })
}

/// The end and the direction of `°46'29.7"N`.
fn seconds(text: &str) -> Option<(usize, char)> {
    let near = &text[..text.floor_char_boundary(20)];
    let end = near.find(|c: char| c.is_ascii_uppercase())?;
    let minutes =
        text[..end].split(|c: char| !c.is_ascii_digit()).filter(|p| !p.is_empty()).count();
    (minutes >= 2).then(|| (end + 1, text.as_bytes()[end] as char))
}

#[rustfmt::skip]
const PHONE_WORDS: &[&str] = &[
    "phone", "tel", "telephone", "mobile", "cell", "cellphone", "call", "call me", "reach", "fax", "text me", "sms", "whatsapp", "contact number", "phone number", "ph", "mob", "callback",
    "telefon", "telefonnummer", "handy", "handynummer", "mobil", "tél", "téléphone", "portable", "appelez", "teléfono", "móvil", "celular", "telefono", "cellulare", "chiamare",
    "telefone", "telemóvel", "contacto", "telefoon", "telefoonnummer", "gsm", "mobiel", "rückruf", "anrufen", "numer telefonu", "komórka", "mobilnummer", "телефон", "тел", "电话", "手机", "電話", "携帯", "전화", "휴대폰", "هاتف", "جوال", "फोन", "मोबाइल",
];
#[rustfmt::skip]
const NOT_PHONE_WORDS: &[&str] = &[
    "order", "invoice", "ticket", "isbn", "issn", "doi", "version", "build", "epoch", "timestamp", "commit", "id", "sku", "part", "port", "error", "serial", "tracking", "population", "revenue", "usd", "eur", "account", "case", "zip", "rfc", "pid", "bestellnummer", "rechnungsnummer", "commande", "pedido", "ordine", "patent", "model",
];
/// Addresses of forms and examples.
const SAMPLE_STREETS: [&str; 8] = [
    "123 Main St",
    "123 Main Street",
    "123 Elm Street",
    "123 Elm St",
    "123 Any Street",
    "1 Main Street",
    "456 Oak Avenue",
    "Musterstraße 1",
];
/// Addresses of buildings that everybody knows.
const PUBLIC_STREETS: [&str; 14] = [
    "350 Fifth Avenue",
    "350 5th Ave",
    "1600 Pennsylvania Avenue",
    "1600 Pennsylvania Ave",
    "10 Downing Street",
    "221B Baker Street",
    "1600 Amphitheatre Parkway",
    "1 Apple Park Way",
    "1 Hacker Way",
    "1 Microsoft Way",
    "1600 Clifton Road",
    "10903 New Hampshire Avenue",
    "7500 Security Boulevard",
    "200 Independence Avenue",
];
#[rustfmt::skip]
const STREET_SUFFIXES: &[&str] = &[
    "street", "st", "avenue", "ave", "road", "rd", "lane", "ln", "drive", "dr", "boulevard", "blvd", "court", "ct", "place", "pl", "terrace", "way", "close", "crescent", "square", "parkway", "pkwy", "highway", "hwy", "circle", "cir", "grove", "gardens", "mews", "row", "trail", "trl",
];
#[rustfmt::skip]
const STREET_PREFIXES: &[&str] = &["rue", "avenue", "boulevard", "bd", "place", "allée", "impasse", "chemin", "quai", "calle", "avenida", "avda", "plaza", "paseo", "via", "viale", "piazza", "corso", "rua", "travessa", "praça", "largo", "ulica", "ul", "улица", "ул"];
#[rustfmt::skip]
const HOME_WORDS: &[&str] = &[
    "lives at", "living at", "resides", "home address", "address", "residing", "my address", "home", "deliver", "ship to", "mailing address", "wohnhaft", "wohnt", "anschrift", "adresse", "habite", "domicilié", "demeurant", "vive en", "domicilio", "direccion", "residente", "abita", "indirizzo", "mora", "morada", "endereço", "woont", "adres", "zamieszkały", "adresse postale",
];
