//! National identification numbers, each with its own checksum.
//!
//! Every scheme is one small judge over digits or a code. A checksum alone lets one random number in
//! ten (or a hundred) through, so most schemes need a context word; those with rich structure (a
//! check letter, a birth date and a mod 97) stand alone.
//! Sources: the schemes' public specifications; numbers in tests were checked with python-stdnum 2.2.

use super::checksum::{luhn, mod11_10, remainder, verhoeff, weighted};
use super::compile::{CodeScheme, Kind, NumberScheme};
use super::reading::{Code, Number, Own};

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str) -> Option<Kind> {
    let number = |lengths, judge| Some(Kind::from(NumberScheme { lengths, judge }));
    let code = |lengths, judge| Some(Kind::from(CodeScheme { lengths, judge }));
    match name {
        "us_ssn" => number(&[9], us_ssn),
        "us_itin" => number(&[9], us_itin),
        "de_tax_id" => number(&[11], de_tax_id),
        "fr_nir" => number(&[13, 15], fr_nir),
        "fr_nir_corsica" => code(15..16, fr_nir_corsica),
        "es_dni" => code(9..10, es_dni),
        "it_codice_fiscale" => code(16..17, it_codice_fiscale),
        "nl_bsn" => number(&[8, 9], nl_bsn),
        "be_nn" => number(&[11], be_nn),
        "pl_pesel" => number(&[11], pl_pesel),
        "se_personnummer" => number(&[10, 12], se_personnummer),
        "no_fodselsnummer" => number(&[11], no_fodselsnummer),
        "dk_cpr" => number(&[10], dk_cpr),
        "fi_hetu" => code(10..11, fi_hetu),
        "ch_ahv" => number(&[13], ch_ahv),
        "at_svnr" => number(&[10], at_svnr),
        "pt_nif" => number(&[9], pt_nif),
        "uk_nino" => code(8..10, uk_nino),
        "uk_nhs" => number(&[10], uk_nhs),
        "ie_pps" => code(8..10, ie_pps),
        "ca_sin" => number(&[9], ca_sin),
        "br_cpf" => number(&[11], br_cpf),
        "au_tfn" => number(&[8, 9], au_tfn),
        "au_medicare" => number(&[10, 11], au_medicare),
        "in_aadhaar" => number(&[12], in_aadhaar),
        "in_pan" => code(10..11, in_pan),
        "jp_my_number" => number(&[12], jp_my_number),
        "cn_ric" => number(&[18], cn_ric_digits),
        "cn_ric_x" => code(18..19, cn_ric_x),
        "kr_rrn" => number(&[13], kr_rrn),
        "tr_kimlik" => number(&[11], tr_kimlik),
        "mx_curp" => code(18..19, mx_curp),
        "za_id" => number(&[13], za_id),
        "sg_nric" => code(9..10, sg_nric),
        "cz_rodne_cislo" => number(&[9, 10], cz_rodne_cislo),
        "ro_cnp" => number(&[13], ro_cnp),
        "bg_egn" => number(&[10], bg_egn),
        "hr_oib" => number(&[11], mod11_10_number),
        "hu_taj" => number(&[9], hu_taj),
        "gr_amka" => number(&[11], gr_amka),
        "ee_isikukood" => number(&[11], ee_isikukood),
        "lv_personas_kods" => number(&[11], lv_personas_kods),
        "si_emso" => number(&[13], si_emso),
        "il_teudat" => number(&[9], luhn_number),
        "cl_rut" => code(8..10, cl_rut),
        "cl_rut_digits" => number(&[8, 9], cl_rut_digits),
        "ru_snils" => number(&[11], ru_snils),
        "ru_inn" => number(&[12], ru_inn),
        _ => None,
    }
}

fn pair(digits: &[u8]) -> u32 {
    u32::from(digits[0]) * 10 + u32::from(digits[1])
}

fn is_month_day(month: u32, day: u32) -> bool {
    (1..=12).contains(&month) && (1..=31).contains(&day)
}

fn all_same(digits: &[u8]) -> bool {
    digits.iter().all(|d| *d == digits[0])
}

/// With the separators of the scheme the number stands alone; otherwise it needs a word.
fn by_shape(number: &Number<'_>, shapes: &[&[usize]]) -> Own {
    let shape = number.window.shape();
    let usual =
        shapes.contains(&shape.as_slice()) && number.window.is_evenly_separated(number.text);
    if usual && number.window.groups.len() == number.window.run.len() {
        Own::AsSpecified
    } else {
        Own::NeedsContext
    }
}

/// SSA rules: area not 000, 666 or 9xx, group not 00, serial not 0000; known void numbers.
fn us_ssn(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let area = u32::from(d[0]) * 100 + pair(&d[1..]);
    let serial = pair(&d[5..]) * 100 + pair(&d[7..]);
    let void = matches!(area, 0 | 666 | 900..) || pair(&d[3..]) == 0 || serial == 0;
    let samples =
        [[0, 7, 8, 0, 5, 1, 1, 2, 0], [2, 1, 9, 0, 9, 9, 9, 9, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9]];
    if void || all_same(d) || samples.iter().any(|s| s == d) || is_part_of_longer(number) {
        return None;
    }
    // `part 536-22-8714`: said to be a part's, whatever else stands near.
    let before = number.text[..number.window.range().start].trim_end_matches([' ', '#', ':']);
    if ["part", "Part", "PART"].iter().any(|word| before.ends_with(word)) {
        return Some(Own::NeedsContext);
    }
    let dashes = number.window.separators(number.text).all(|s| s.trim().len() == 1);
    Some(if dashes { by_shape(number, &[&[3, 2, 4]]) } else { Own::NeedsContext })
}

/// IRS: area 9xx, group 50-65, 70-88, 90-92, 94-99.
fn us_itin(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let group = pair(&d[3..]);
    let valid = d[0] == 9 && matches!(group, 50..=65 | 70..=88 | 90..=92 | 94..=99);
    (valid && !all_same(d)).then(|| by_shape(number, &[&[3, 2, 4]]))
}

/// A group of the run continues the number with the same separator: a longer identifier.
fn is_part_of_longer(number: &Number<'_>) -> bool {
    let window = &number.window;
    let touches = |a: u32, b: u32| matches!(&number.text[a as usize..b as usize], "-" | "." | "/");
    let first = window.first;
    let last = first + window.groups.len() - 1;
    let before = first > 0 && touches(window.run[first - 1].end, window.run[first].start);
    let after =
        window.run.get(last + 1).is_some_and(|next| touches(window.run[last].end, next.start));
    // `536-22-8714-B`: the part number goes on in letters.
    let behind = &number.text.as_bytes()[window.run[last].end as usize..];
    let lettered = matches!(behind, [b'-', letter, ..] if letter.is_ascii_uppercase());
    before || after || lettered
}

/// Steuer-ID: one digit occurs twice or thrice among the first ten, ISO 7064 mod 11,10.
fn de_tax_id(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let mut counts = [0; 10];
    d[..10].iter().for_each(|&digit| counts[digit as usize] += 1);
    let repeated = counts.iter().filter(|c| **c > 1).count();
    let valid = d[0] != 0 && repeated == 1 && counts.iter().all(|c| *c <= 3) && mod11_10(d);
    valid.then(|| by_shape(number, &[&[2, 3, 3, 3]]))
}

/// Sex, year, month, department, commune, order, key = 97 - n mod 97.
fn fr_nir(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let month = pair(&d[3..]);
    if !matches!(d[0], 1..=4 | 7 | 8) || !matches!(month, 1..=12 | 20..=42 | 50..=99) {
        return None;
    }
    if d.len() == 13 {
        return (month <= 12 && pair(&d[5..]) <= 98).then_some(Own::NeedsContext);
    }
    let key = 97 - remainder(&d[..13], 97);
    (key == u64::from(pair(&d[13..]))).then_some(Own::AsSpecified)
}

/// Births in Corsica have 2A or 2B for the department, which count as 19 and 18.
fn fr_nir_corsica(code: &Code<'_>) -> Option<Own> {
    let c = code.compact;
    let department = match &c[5..7] {
        b"2A" => [1, 9],
        b"2B" => [1, 8],
        _ => return None,
    };
    let mut digits = Vec::with_capacity(15);
    for (place, byte) in c.iter().enumerate() {
        let value =
            if (5..7).contains(&place) { department[place - 5] } else { byte.wrapping_sub(b'0') };
        digits.push(value);
    }
    let valid = matches!(digits[0], 1 | 2) && digits.iter().all(|d| *d <= 9);
    (valid && 97 - remainder(&digits[..13], 97) == u64::from(pair(&digits[13..])))
        .then_some(Own::AsSpecified)
}

/// DNI: eight digits and a letter by mod 23; NIE: X, Y or Z for the first digit.
fn es_dni(code: &Code<'_>) -> Option<Own> {
    const LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let c = code.compact;
    let first = match c[0] {
        b'X' => b'0',
        b'Y' => b'1',
        b'Z' => b'2',
        other => other,
    };
    let body = [&[first], &c[1..8]].concat();
    if !body.iter().all(u8::is_ascii_digit) || !c[8].is_ascii_alphabetic() {
        return None;
    }
    let value = body.iter().fold(0u32, |v, b| v * 10 + u32::from(b - b'0'));
    (LETTERS[(value % 23) as usize] == c[8] && value > 9999).then_some(Own::AsSpecified)
}

/// Sixteen characters: names, date, place and a check letter over odd and even positions.
fn it_codice_fiscale(code: &Code<'_>) -> Option<Own> {
    const ODD: [u32; 36] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3,
        6, 8, 12, 14, 16, 10, 22, 25, 24, 23,
    ];
    let c = code.compact;
    let letters = c[..6].iter().all(u8::is_ascii_alphabetic) && b"ABCDEHLMPRST".contains(&c[8]);
    if !letters || !c[15].is_ascii_alphabetic() || !c[11].is_ascii_alphabetic() {
        return None;
    }
    let value =
        |b: u8| if b.is_ascii_digit() { usize::from(b - b'0') } else { usize::from(b - b'A') + 10 };
    let sum: u32 = c[..15]
        .iter()
        .enumerate()
        .map(|(i, &b)| match i % 2 {
            0 => ODD[value(b)],
            _ if b.is_ascii_digit() => u32::from(b - b'0'),
            _ => u32::from(b - b'A'),
        })
        .sum();
    (sum % 26 == u32::from(c[15] - b'A')).then_some(Own::AsSpecified)
}

/// Elfproef: weights 9 to 2 and -1.
fn nl_bsn(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let d9 = [&[0][..9 - d.len()], d].concat();
    let sum = i64::from(weighted(&d9[..8], &[9, 8, 7, 6, 5, 4, 3, 2])) - i64::from(d9[8]);
    (sum % 11 == 0 && sum != 0 && !all_same(d)).then_some(Own::NeedsContext)
}

/// YYMMDD, counter, 97 - n mod 97 (2 before n for births since 2000).
fn be_nn(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let key = u64::from(pair(&d[9..]));
    let old = 97 - remainder(&d[..9], 97);
    let new = 97 - remainder(&[&[2], &d[..9]].concat(), 97);
    let valid = is_month_day(pair(&d[2..]), pair(&d[4..])) && (key == old || key == new);
    let printed = number.window.shape() == [2, 2, 2, 3, 2];
    valid.then_some(if printed { Own::AsSpecified } else { Own::NeedsContext })
}

/// Date with century in the month, weights 1 3 7 9.
fn pl_pesel(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let sum = weighted(d, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]);
    let valid =
        sum.is_multiple_of(10) && is_month_day(pair(&d[2..]) % 20, pair(&d[4..])) && !all_same(d);
    valid.then_some(Own::NeedsContext)
}

/// YYMMDD-NNNC, Luhn over the ten digits; 60 is added to the day for coordination numbers.
fn se_personnummer(number: &Number<'_>) -> Option<Own> {
    let d = &number.digits[number.digits.len() - 10..];
    let century = number.digits.len() == 10 || matches!(pair(number.digits), 18..=20);
    let valid = century && is_month_day(pair(&d[2..]), pair(&d[4..]) % 60) && luhn(d);
    valid.then(|| by_shape(number, &[&[6, 4], &[8, 4]]))
}

/// DDMMYY, individual number, two check digits mod 11.
fn no_fodselsnummer(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let first = weighted(d, &[3, 7, 6, 1, 8, 9, 4, 5, 2, 1]).is_multiple_of(11);
    let second = weighted(d, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11);
    let valid = first && second && is_month_day(pair(&d[2..]) % 40, pair(d) % 40);
    valid.then(|| by_shape(number, &[&[6, 5]]))
}

/// DDMMYY-NNNN; the checksum was given up in 2007, so the shape needs a word.
fn dk_cpr(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    is_month_day(pair(&d[2..]), pair(d)).then_some(Own::NeedsContext)
}

/// DDMMYY, century sign, individual number, check character of mod 31.
fn fi_hetu(code: &Code<'_>) -> Option<Own> {
    const MARKS: &[u8; 31] = b"0123456789ABCDEFHJKLMNPRSTUVWXY";
    let c = code.compact;
    // The century sign '-' was dropped with the separators: ten characters are left, or eleven with a letter.
    if !c[..9].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let d: Vec<u8> = c[..9].iter().map(|b| b - b'0').collect();
    let mark = MARKS[remainder(&d, 31) as usize];
    (is_month_day(pair(&d[2..]), pair(&d)) && mark == c[9]).then_some(Own::AsSpecified)
}

/// 756 and an EAN-13 check digit.
fn ch_ahv(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let sum = weighted(d, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]);
    let valid = d[..3] == [7, 5, 6] && sum.is_multiple_of(10);
    valid.then(|| by_shape(number, &[&[3, 4, 4, 2]]))
}

/// Serial, check digit in fourth place, birth date.
fn at_svnr(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let check = weighted(d, &[3, 7, 9, 0, 5, 8, 4, 2, 1, 6]) % 11;
    let valid = d[0] != 0 && check == u32::from(d[3]) && is_month_day(pair(&d[6..]), pair(&d[4..]));
    valid.then_some(Own::NeedsContext)
}

/// NIF of a person (1, 2, 3, 45), mod 11.
fn pt_nif(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let rest = weighted(d, &[9, 8, 7, 6, 5, 4, 3, 2]) % 11;
    let check = if rest < 2 { 0 } else { 11 - rest };
    (matches!(d[0], 1..=3) && check == u32::from(d[8])).then_some(Own::NeedsContext)
}

/// Two prefix letters by HMRC's rules, six digits, a suffix A to D.
fn uk_nino(code: &Code<'_>) -> Option<Own> {
    let c = code.compact;
    let prefix_ok = c[0].is_ascii_alphabetic()
        && c[1].is_ascii_alphabetic()
        && !b"DFIQUV".contains(&c[0])
        && !b"DFIOQUV".contains(&c[1])
        && ![*b"BG", *b"GB", *b"KN", *b"NK", *b"NT", *b"TN", *b"ZZ"].contains(&[c[0], c[1]]);
    if !prefix_ok || !c[2..8].iter().all(u8::is_ascii_digit) {
        return None;
    }
    match c.get(8) {
        Some(b'A'..=b'D') => Some(Own::AsSpecified),
        Some(_) => None,
        None => Some(Own::NeedsContext),
    }
}

/// Ten digits, weights 10 to 2, mod 11.
fn uk_nhs(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let check = 11 - weighted(d, &[10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11;
    let valid = check % 11 == u32::from(d[9]) && check != 10 && !all_same(d);
    valid.then_some(Own::NeedsContext)
}

/// Seven digits, check letter mod 23, an optional second letter.
fn ie_pps(code: &Code<'_>) -> Option<Own> {
    let c = code.compact;
    if !c[..7].iter().all(u8::is_ascii_digit) || !c[7].is_ascii_alphabetic() {
        return None;
    }
    let second =
        c.get(8).map_or(0, |b| if *b == b'W' { 0 } else { u32::from(b.saturating_sub(b'A')) + 1 });
    let d: Vec<u8> = c[..7].iter().map(|b| b - b'0').collect();
    let rest = (weighted(&d, &[8, 7, 6, 5, 4, 3, 2]) + second * 9) % 23;
    let letter = if rest == 0 { b'W' } else { b'A' + rest as u8 - 1 };
    (letter == c[7]).then_some(Own::NeedsContext)
}

/// Nine digits, Luhn, not starting with 8.
fn ca_sin(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    (luhn(d) && d[0] != 8 && !all_same(d)).then_some(Own::NeedsContext)
}

/// Eleven digits, two check digits mod 11.
fn br_cpf(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let check = |len: usize| {
        let sum: u32 =
            d[..len].iter().enumerate().map(|(i, &v)| u32::from(v) * (len + 1 - i) as u32).sum();
        sum * 10 % 11 % 10
    };
    let valid = check(9) == u32::from(d[9]) && check(10) == u32::from(d[10]) && !all_same(d);
    valid.then(|| by_shape(number, &[&[3, 3, 3, 2]])).map(|own| {
        let dash = number.window.separators(number.text).last().is_some_and(|s| s.trim() == "-");
        if dash && number.window.shape() == [3, 3, 3, 2] { Own::AsSpecified } else { own }
    })
}

/// Weights 1 4 3 7 5 8 6 9 10, mod 11.
fn au_tfn(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let sum = match d.len() {
        9 => weighted(d, &[1, 4, 3, 7, 5, 8, 6, 9, 10]),
        _ => weighted(d, &[10, 7, 8, 4, 6, 3, 5, 1]),
    };
    (sum.is_multiple_of(11) && !all_same(d)).then_some(Own::NeedsContext)
}

/// First digit 2 to 6, weights 1 3 7 9, ninth digit the check.
fn au_medicare(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let valid =
        matches!(d[0], 2..=6) && weighted(d, &[1, 3, 7, 9, 1, 3, 7, 9]) % 10 == u32::from(d[8]);
    valid.then_some(Own::NeedsContext)
}

/// Twelve digits, not starting with 0 or 1, Verhoeff.
fn in_aadhaar(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    (d[0] > 1 && verhoeff(d) && !all_same(d)).then(|| by_shape(number, &[&[4, 4, 4]]))
}

/// Five letters (the fourth P for a person), four digits, a letter.
fn in_pan(code: &Code<'_>) -> Option<Own> {
    let c = code.compact;
    let letters = c[..5].iter().all(u8::is_ascii_alphabetic) && c[9].is_ascii_alphabetic();
    let valid = letters && c[5..9].iter().all(u8::is_ascii_digit) && b"PCHFATBLJG".contains(&c[3]);
    (valid && code.range.len() == 10).then_some(if c[3] == b'P' {
        Own::AsSpecified
    } else {
        Own::NeedsContext
    })
}

/// Twelve digits, weights 6 5 4 3 2 7 6 5 4 3 2, mod 11.
fn jp_my_number(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let rest = weighted(d, &[6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11;
    let check = if rest <= 1 { 0 } else { 11 - rest };
    (check == u32::from(d[11]) && !all_same(d)).then_some(Own::NeedsContext)
}

const CN_WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];

/// ISO 7064 mod 11-2 over region, birth date and order; `X` stands for ten.
fn cn_ric(d: &[u8], check: u32) -> Option<Own> {
    let century = matches!(pair(&d[6..]), 18..=20);
    let dated = century && is_month_day(pair(&d[10..]), pair(&d[12..])) && matches!(d[0], 1..=8);
    let valid = dated && (weighted(d, &CN_WEIGHTS) + check) % 11 == 1;
    valid.then_some(Own::AsSpecified)
}

fn cn_ric_digits(number: &Number<'_>) -> Option<Own> {
    cn_ric(&number.digits[..17], u32::from(number.digits[17]))
}

fn cn_ric_x(code: &Code<'_>) -> Option<Own> {
    let (body, check) = code.compact.split_at(17);
    if check != b"X" || !body.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let d: Vec<u8> = body.iter().map(|b| b - b'0').collect();
    cn_ric(&d, 10)
}

/// Birth date, sex digit, mod 11.
fn kr_rrn(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let check = (11 - weighted(d, &[2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]) % 11) % 10;
    let dated = is_month_day(pair(&d[2..]), pair(&d[4..])) && matches!(d[6], 1..=8);
    (dated && check == u32::from(d[12])).then(|| by_shape(number, &[&[6, 7]]))
}

/// Two check digits over odd and even places.
fn tr_kimlik(number: &Number<'_>) -> Option<Own> {
    let d: Vec<i64> = number.digits.iter().map(|&d| i64::from(d)).collect();
    let odd = d[0] + d[2] + d[4] + d[6] + d[8];
    let even = d[1] + d[3] + d[5] + d[7];
    let tenth = (odd * 7 - even).rem_euclid(10);
    let sum: i64 = d[..10].iter().sum();
    (d[0] != 0 && tenth == d[9] && sum % 10 == d[10]).then_some(Own::NeedsContext)
}

/// Four letters, birth date, sex, state, consonants, homonym and check digit.
fn mx_curp(code: &Code<'_>) -> Option<Own> {
    let c = code.compact;
    let letters = |r: &[u8]| r.iter().all(u8::is_ascii_alphabetic);
    let valid = letters(&c[..4])
        && c[4..10].iter().all(u8::is_ascii_digit)
        && matches!(c[10], b'H' | b'M' | b'X')
        && letters(&c[11..16])
        && c[17].is_ascii_digit();
    valid.then_some(Own::AsSpecified)
}

/// Birth date, sex, citizenship, Luhn.
fn za_id(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let valid = is_month_day(pair(&d[2..]), pair(&d[4..])) && d[10] <= 2 && luhn(d);
    valid.then_some(Own::NeedsContext)
}

/// A letter for the series, seven digits, a check letter.
fn sg_nric(code: &Code<'_>) -> Option<Own> {
    let c = code.compact;
    if !c[1..8].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let d: Vec<u8> = c[1..8].iter().map(|b| b - b'0').collect();
    let offset = if matches!(c[0], b'T' | b'G') { 4 } else { 0 };
    let rest = (weighted(&d, &[2, 7, 6, 5, 4, 3, 2]) + offset) % 11;
    let marks: &[u8; 11] = match c[0] {
        b'S' | b'T' => b"JZIHGFEDCBA",
        b'F' | b'G' => b"XWUTRQPNMLK",
        _ => return None,
    };
    (marks[rest as usize] == c[8]).then_some(Own::AsSpecified)
}

/// Czech and Slovak birth number: YYMMDD (50 added to a woman's month), divisible by 11 since 1954.
fn cz_rodne_cislo(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let month = pair(&d[2..]) % 50;
    let dated = is_month_day(if month > 20 { month - 20 } else { month }, pair(&d[4..]));
    let checked = match d.len() {
        9 => pair(d) <= 53,
        _ => remainder(d, 11) == 0 || remainder(&d[..9], 11) == 10 && d[9] == 0,
    };
    (dated && checked).then(|| by_shape(number, &[&[6, 4]])).map(|own| {
        let slash = number.window.separators(number.text).any(|s| s.trim() == "/");
        if slash { own } else { Own::NeedsContext }
    })
}

/// Sex and century, YYMMDD, county, serial, check digit of 279146358279 mod 11.
fn ro_cnp(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let rest = weighted(d, &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]) % 11;
    let check = if rest == 10 { 1 } else { rest };
    let valid = d[0] != 0 && is_month_day(pair(&d[3..]), pair(&d[5..]));
    (valid && check == u32::from(d[12])).then_some(Own::NeedsContext)
}

/// YYMMDD (20 or 40 added to the month), weights 2 4 8 5 10 9 7 3 6, mod 11.
fn bg_egn(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let check = weighted(d, &[2, 4, 8, 5, 10, 9, 7, 3, 6]) % 11 % 10;
    let valid = is_month_day(pair(&d[2..]) % 20, pair(&d[4..]));
    (valid && check == u32::from(d[9])).then_some(Own::NeedsContext)
}

/// ISO 7064 mod 11,10 over all digits.
fn mod11_10_number(number: &Number<'_>) -> Option<Own> {
    (mod11_10(number.digits) && !all_same(number.digits)).then_some(Own::NeedsContext)
}

/// Luhn over all digits.
fn luhn_number(number: &Number<'_>) -> Option<Own> {
    (luhn(number.digits) && !all_same(number.digits)).then_some(Own::NeedsContext)
}

/// Weights 3 and 7 in turn, mod 10.
fn hu_taj(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let check = weighted(d, &[3, 7, 3, 7, 3, 7, 3, 7]) % 10;
    (check == u32::from(d[8]) && !all_same(d)).then_some(Own::NeedsContext)
}

/// DDMMYY and Luhn.
fn gr_amka(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    (is_month_day(pair(&d[2..]), pair(d)) && luhn(d)).then_some(Own::NeedsContext)
}

/// Estonia and Lithuania: sex and century, YYMMDD, two rounds of weights mod 11.
fn ee_isikukood(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let first = weighted(d, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 1]) % 11;
    let second = weighted(d, &[3, 4, 5, 6, 7, 8, 9, 1, 2, 3]) % 11;
    let check = if first < 10 { first } else { second % 10 };
    let valid = matches!(d[0], 1..=6) && is_month_day(pair(&d[3..]), pair(&d[5..]));
    (valid && check == u32::from(d[10])).then_some(Own::NeedsContext)
}

/// Latvia: birth date and a check digit, or the undated form from 32 on, which has none.
fn lv_personas_kods(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let sum = 1 + weighted(d, &[10, 5, 8, 4, 2, 1, 6, 3, 7, 9]);
    let dated = is_month_day(pair(&d[2..]), pair(d)) && matches!(d[6], 0..=2);
    let is_undated = matches!(pair(d), 32..=39);
    (dated && sum % 11 % 10 == u32::from(d[10]) || is_undated).then_some(Own::NeedsContext)
}

/// Slovenia and its neighbours: birth date with three digits of the year, region, mod 11.
fn si_emso(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let rest = weighted(d, &[7, 6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11;
    let dated = is_month_day(pair(&d[2..]), pair(d)) && matches!(d[4], 0 | 8 | 9);
    (dated && (11 - rest) % 11 == u32::from(d[12])).then_some(Own::NeedsContext)
}

/// Chile: mod 11 with weights 2 to 7 from the right; this form ends in K.
fn cl_rut(code: &Code<'_>) -> Option<Own> {
    let (check, body) = code.compact.split_last()?;
    let digits: Option<Vec<u8>> =
        body.iter().map(|b| b.is_ascii_digit().then(|| b - b'0')).collect();
    (*check == b'K' && cl_check(&digits?) == 10).then_some(Own::NeedsContext)
}

fn cl_rut_digits(number: &Number<'_>) -> Option<Own> {
    let (check, body) = number.digits.split_last()?;
    (cl_check(body) == u32::from(*check)).then_some(Own::NeedsContext)
}

fn cl_check(body: &[u8]) -> u32 {
    let weights = [2, 3, 4, 5, 6, 7].into_iter().cycle();
    let sum: u32 = body.iter().rev().zip(weights).map(|(d, w)| u32::from(*d) * w).sum();
    (11 - sum % 11) % 11
}

/// Russian pension insurance: weights 9 to 1, mod 101.
fn ru_snils(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let check = weighted(d, &[9, 8, 7, 6, 5, 4, 3, 2, 1]) % 101 % 100;
    (check == pair(&d[9..])).then(|| by_shape(number, &[&[3, 3, 3, 2]]))
}

/// Russian taxpayer number of a person: two check digits.
fn ru_inn(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let first = weighted(d, &[7, 2, 4, 10, 3, 5, 9, 4, 6, 8]) % 11 % 10;
    let second = weighted(d, &[3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8]) % 11 % 10;
    (first == u32::from(d[10]) && second == u32::from(d[11])).then_some(Own::NeedsContext)
}
