//! Undoes encodings in place: base64, base32, hexadecimal, URL, HTML, backslash escapes, quoted-printable, gzip.
//!
//! A candidate is replaced by its decoding only if that is text; random letters that happen to be
//! base64 stay as they are. Long base64 that decodes to noise is reported as opaque: nobody can say
//! what it holds.
//!
//! Invariants: every byte of the text is looked at a bounded number of times; a bomb ends at the budget.

use std::io::Read;
use std::ops::Range;

use super::{Budget, Rewrite, Rewritten, Signs};
use crate::prompt::ContentKind;

/// Shorter tokens are words; `NTM2` says nothing.
pub(super) const TOKEN_BYTES_MIN: usize = 12;
/// Shorter tokens of capitals and digits are part numbers.
const BASE32_BYTES_MIN: usize = 16;
/// Base64 is seldom wrapped into shorter lines.
const WRAPPED_LINE_BYTES_MIN: usize = 16;
/// Fewer pairs of hexadecimal digits are a date or a time.
pub(super) const HEX_PAIRS_MIN: usize = 6;
/// Fewer character codes are a list of small numbers.
pub(super) const CODES_MIN: usize = 8;
/// Base64 that decodes to noise and is this long is opaque; signatures and digests are shorter.
const OPAQUE_BYTES_MIN: usize = 700;
/// Share of printable characters that makes decoded bytes a text, in percent.
const PRINTABLE_PERCENT_MIN: usize = 85;
/// How many times larger than its source a compressed block may become.
const INFLATE_FACTOR_MAX: usize = 200;

/// The view in which everything that decodes to text is decoded, if there is any.
pub(super) fn decode(
    text: &str,
    signs: &Signs,
    budget: &mut Budget,
    opaque: &mut Vec<(ContentKind, Range<usize>)>,
) -> Option<Rewritten> {
    let mut rewrite = Rewrite::default();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let found = match bytes[at] {
            b'%' if signs.has_percent => escapes(text, at, percent),
            b'\\' if signs.has_backslash => escapes(text, at, backslash),
            b'&' if signs.has_ampersand => entity(text, at),
            b'=' if signs.has_equals => escapes(text, at, quoted_printable),
            byte if is_token(byte) => {
                let (end, decoded) = token(text, at, signs, budget, opaque);
                if decoded.is_none() {
                    // What could not be decoded is not tried again from its middle.
                    at = end;
                    continue;
                }
                decoded.map(|decoded| (end, decoded))
            }
            _ => None,
        };
        match found {
            Some((end, decoded)) if budget.take(decoded.len()) => {
                rewrite.replace(text, at..end, &decoded);
                at = end;
            }
            _ => at += 1,
        }
    }
    let changed = rewrite.finish(text)?;
    budget.take(changed.text.len()).then_some(changed)
}

type Found = Option<(usize, String)>;

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

fn token_end(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|b| is_token(**b)).count()
}

/// A token that starts here: where it ends, and what it decodes to as hexadecimal or base64.
fn token(
    text: &str,
    start: usize,
    signs: &Signs,
    budget: &mut Budget,
    opaque: &mut Vec<(ContentKind, Range<usize>)>,
) -> (usize, Option<String>) {
    let bytes = text.as_bytes();
    let end = token_end(bytes, start);
    if signs.has_hex_pairs || signs.has_code_list {
        let (pairs_end, pairs) = hex_pairs(text, start);
        let (codes_end, codes) = code_list(text, start);
        // Two-digit numbers can be read both ways, and so both are.
        let readings: Vec<String> = codes.into_iter().chain(pairs).collect();
        if codes_end.max(pairs_end) > start {
            let decoded = (!readings.is_empty()).then(|| readings.join(" "));
            return (end.max(codes_end).max(pairs_end), decoded);
        }
    }
    if end - start < TOKEN_BYTES_MIN {
        return (end, None);
    }
    if let Some(data) = hex(&bytes[start..end]) {
        let decoded = readable(&data).or_else(|| inflated(&data, budget));
        if decoded.is_none() && data.len() >= OPAQUE_BYTES_MIN && !is_public(text, start) {
            opaque.push((kind_of(&data), start..end));
        }
        if decoded.is_some() {
            return (end, decoded);
        }
    }
    let padding = bytes[end..].iter().take(6).take_while(|b| **b == b'=').count();
    let data = base32(&bytes[start..end], padding > 0);
    if let Some(decoded) = data.and_then(|data| readable(&data)) {
        return (end + padding, Some(decoded));
    }
    let (block_end, decoded) = base64_block(text, start, end, budget, opaque);
    if decoded.is_none() && block_end == end && bytes[start..end].contains(&b'/') {
        return (end, segments(&text[start..end]));
    }
    (block_end, decoded)
}

/// `/p/NDUzOTgx…`: the parts of a path that decode to text.
fn segments(path: &str) -> Option<String> {
    let decode = |part: &str| {
        let long = part.len() >= TOKEN_BYTES_MIN;
        let data = long.then(|| hex(part.as_bytes()).or_else(|| encoded_word(part))).flatten()?;
        readable(&data)
    };
    let parts: Vec<Option<String>> = path.split('/').map(decode).collect();
    parts.iter().any(Option::is_some).then(|| {
        let whole =
            path.split('/').zip(parts).map(|(part, decoded)| decoded.unwrap_or(part.into()));
        whole.collect::<Vec<_>>().join("/")
    })
}

/// Base64 that is no ordinary word.
fn encoded_word(part: &str) -> Option<Vec<u8>> {
    if is_plain_word(part.as_bytes()) { None } else { base64(part.as_bytes()) }
}

fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| hex_byte(pair[0], pair[1])).collect()
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let value = |b: u8| (b as char).to_digit(16);
    Some((value(high)? * 16 + value(low)?) as u8)
}

/// `35 33 36`, `35:33:36`, `0x35, 0x33`: the end of the pairs, and their text.
fn hex_pairs(text: &str, start: usize) -> (usize, Option<String>) {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let (mut at, mut end) = (start, start);
    loop {
        let prefix = if bytes[at..].starts_with(b"0x") { 2 } else { 0 };
        let (Some(&high), Some(&low)) = (bytes.get(at + prefix), bytes.get(at + prefix + 1)) else {
            break;
        };
        let Some(byte) = hex_byte(high, low) else { break };
        if bytes.get(at + prefix + 2).is_some_and(|b| is_token(*b)) {
            break;
        }
        decoded.push(byte);
        end = at + prefix + 2;
        let separators = bytes[end..].iter().take(3).take_while(|b| b" :,".contains(b)).count();
        at = end + separators;
        if separators == 0 || at >= bytes.len() {
            break;
        }
    }
    if decoded.len() < HEX_PAIRS_MIN {
        return (start, None);
    }
    let has_letter = decoded.iter().any(|b| !b.is_ascii_digit());
    let text = readable(&decoded).filter(|text| has_letter || text.len() >= 9);
    (end, text)
}

/// `99, 97, 114, 100`: the end of the character codes, and their text.
fn code_list(text: &str, start: usize) -> (usize, Option<String>) {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let (mut at, mut end) = (start, start);
    loop {
        let len = bytes[at..].iter().take(4).take_while(|b| b.is_ascii_digit()).count();
        let Some(code) = text[at..at + len].parse().ok().filter(|code| (9..127).contains(code))
        else {
            break;
        };
        decoded.push(code);
        end = at + len;
        let separators = bytes[end..].iter().take(3).take_while(|b| b" ,;\n".contains(b)).count();
        at = end + separators;
        if separators == 0 || at >= bytes.len() {
            break;
        }
    }
    if decoded.len() < CODES_MIN {
        return (start, None);
    }
    (end, readable(&decoded))
}

/// Base64 from `start`, over wrapped lines and padding.
fn base64_block(
    text: &str,
    start: usize,
    first_end: usize,
    budget: &mut Budget,
    opaque: &mut Vec<(ContentKind, Range<usize>)>,
) -> (usize, Option<String>) {
    let bytes = text.as_bytes();
    let mut end = first_end;
    let mut line_start = start;
    // Short lines are wrapped text only if they are as encoders cut them: in fours, all of a length.
    let first_len = first_end - start;
    let is_cut = first_len >= WRAPPED_LINE_BYTES_MIN
        && first_len.is_multiple_of(4)
        && !is_plain_word(&bytes[start..end]);
    while end - line_start >= 40 || is_cut && end - line_start == first_len {
        let gap = bytes[end..].iter().take(2).take_while(|b| matches!(b, b'\n' | b'\r')).count();
        let next = token_end(bytes, end + gap);
        if gap == 0 || next == end + gap || first_len < 40 && next - end - gap > first_len {
            break;
        }
        (line_start, end) = (end + gap, next);
    }
    let padded_end = end + bytes[end..].iter().take(2).take_while(|b| **b == b'=').count();
    let body = &bytes[start..end];
    if is_plain_word(body) {
        return (end, None);
    }
    let Some(data) = base64(body) else { return (end, None) };
    let decoded = readable(&data).or_else(|| inflated(&data, budget));
    if decoded.is_none() && data.len() >= OPAQUE_BYTES_MIN && !is_public(text, start) {
        opaque.push((kind_of(&data), start..padded_end));
    }
    (padded_end, decoded)
}

/// Words, paths and identifiers: base64 of any length mixes cases or holds digits.
fn is_plain_word(token: &[u8]) -> bool {
    let has = |test: fn(&u8) -> bool| token.iter().any(test);
    let separators = token.iter().filter(|b| matches!(b, b'-' | b'_' | b'/')).count();
    let is_mixed =
        has(u8::is_ascii_uppercase) && (has(u8::is_ascii_lowercase) || has(u8::is_ascii_digit));
    !is_mixed || separators * 8 > token.len()
}

fn base64(token: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::with_capacity(token.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in token.iter().filter(|b| !matches!(b, b'\n' | b'\r')) {
        bits = bits << 6 | sextet(byte)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            data.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // A lone last character carries six bits: no encoder writes that.
    (count < 6).then_some(data)
}

/// RFC 4648: capitals and the digits 2 to 7, five bits each. Words in capitals hold no digit.
fn base32(token: &[u8], is_padded: bool) -> Option<Vec<u8>> {
    let is_word = !is_padded && !token.iter().any(u8::is_ascii_digit);
    if token.len() < BASE32_BYTES_MIN || is_word {
        return None;
    }
    let mut data = Vec::with_capacity(token.len() * 5 / 8);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in token {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'2'..=b'7' => byte - b'2' + 26,
            _ => return None,
        };
        bits = bits << 5 | u32::from(value);
        count += 5;
        if count >= 8 {
            count -= 8;
            data.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(data)
}

fn sextet(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

/// The bytes as text, if they are text: UTF-8, or UTF-16 of mostly ASCII.
fn readable(data: &[u8]) -> Option<String> {
    if let Ok(text) = std::str::from_utf8(data) {
        let total = text.chars().count();
        let printable = text.chars().filter(|c| !c.is_control() || c.is_whitespace()).count();
        if total >= 4 && printable * 100 >= total * PRINTABLE_PERCENT_MIN {
            return Some(text.to_owned());
        }
    }
    utf16(data)
}

fn utf16(data: &[u8]) -> Option<String> {
    let data = data.strip_prefix(&[0xff, 0xfe]).unwrap_or(data);
    let units: Vec<u16> = data.chunks_exact(2).map(|p| u16::from_le_bytes([p[0], p[1]])).collect();
    let ascii = units.iter().filter(|u| (0x20..0x7f).contains(*u)).count();
    (units.len() >= 4 && ascii * 100 >= units.len() * PRINTABLE_PERCENT_MIN)
        .then(|| String::from_utf16_lossy(&units))
}

/// Unpacks gzip or zlib, within the budget.
fn inflated(data: &[u8], budget: &mut Budget) -> Option<String> {
    let most = budget.left().min(data.len() * INFLATE_FACTOR_MAX) as u64;
    let mut unpacked = Vec::new();
    let complete = match data {
        [0x1f, 0x8b, ..] => {
            flate2::read::GzDecoder::new(data).take(most + 1).read_to_end(&mut unpacked)
        }
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => {
            flate2::read::ZlibDecoder::new(data).take(most + 1).read_to_end(&mut unpacked)
        }
        _ => return None,
    };
    if unpacked.len() as u64 > most {
        budget.exceeded = true;
        unpacked.truncate(most as usize);
    }
    // A cut stream is read as far as it goes: what was sent is what leaks.
    complete.ok().or((!unpacked.is_empty()).then_some(0))?;
    let valid = match std::str::from_utf8(&unpacked) {
        Ok(text) => text.len(),
        Err(error) => error.valid_up_to(),
    };
    unpacked.truncate(valid);
    readable(&unpacked)
}

/// Certificates, public keys and known media are not what an opaque blob hides.
fn is_public(text: &str, start: usize) -> bool {
    let before = &text.as_bytes()[start.saturating_sub(64)..start];
    let has = |needle: &[u8]| before.windows(needle.len()).any(|w| w.eq_ignore_ascii_case(needle));
    has(b"CERTIFICATE")
        || has(b"PUBLIC KEY")
        || has(b"ssh-rsa")
        || has(b"sha512-")
        || has(b"SIGNATURE")
}

/// One of [`ContentKind::IN_TEXTS`].
fn kind_of(data: &[u8]) -> ContentKind {
    match data {
        [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..] | [b'G', b'I', b'F', b'8', ..] => {
            ContentKind::Image
        }
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ContentKind::Image,
        [b'R', b'I', b'F', b'F', ..] | [b'I', b'D', b'3', ..] | [b'O', b'g', b'g', b'S', ..] => {
            ContentKind::Audio
        }
        _ => ContentKind::EncryptedFile,
    }
}

/// A sequence of escapes of one kind, as one text: multi-byte characters span several escapes.
fn escapes(text: &str, start: usize, one: fn(&[u8]) -> Option<(usize, Escaped)>) -> Found {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut at = start;
    while let Some((len, escaped)) = bytes.get(at..).and_then(one) {
        match escaped {
            Escaped::Byte(byte) => decoded.push(byte),
            Escaped::Char(c) => decoded.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Escaped::Nothing => {}
        }
        at += len;
    }
    if at == start {
        return None;
    }
    Some((at, String::from_utf8_lossy(&decoded).into_owned()))
}

enum Escaped {
    Byte(u8),
    Char(char),
    Nothing,
}

fn percent(rest: &[u8]) -> Option<(usize, Escaped)> {
    match rest {
        [b'%', high, low, ..] => Some((3, Escaped::Byte(hex_byte(*high, *low)?))),
        _ => None,
    }
}

fn quoted_printable(rest: &[u8]) -> Option<(usize, Escaped)> {
    match rest {
        [b'=', b'\r', b'\n', ..] => Some((3, Escaped::Nothing)),
        [b'=', b'\n', ..] => Some((2, Escaped::Nothing)),
        [b'=', high, low, ..] if !high.is_ascii_lowercase() && !low.is_ascii_lowercase() => {
            Some((3, Escaped::Byte(hex_byte(*high, *low)?)))
        }
        _ => None,
    }
}

fn backslash(rest: &[u8]) -> Option<(usize, Escaped)> {
    let code = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    match rest {
        [b'\\', b'u', b'{', tail @ ..] => {
            let len = tail.iter().take(7).position(|b| *b == b'}')?;
            Some((len + 4, Escaped::Char(char::from_u32(code(&tail[..len])?)?)))
        }
        [b'\\', b'u', tail @ ..] if tail.len() >= 4 => {
            Some((6, Escaped::Char(char::from_u32(code(&tail[..4])?)?)))
        }
        [b'\\', b'U', tail @ ..] if tail.len() >= 8 => {
            Some((10, Escaped::Char(char::from_u32(code(&tail[..8])?)?)))
        }
        [b'\\', b'x', high, low, ..] => Some((4, Escaped::Byte(hex_byte(*high, *low)?))),
        // Octal, as shells and C write it.
        [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
            Some((4, Escaped::Byte((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))))
        }
        [b'\\', b'n', ..] => Some((2, Escaped::Byte(b'\n'))),
        [b'\\', b't', ..] => Some((2, Escaped::Byte(b'\t'))),
        [b'\\', quote @ (b'"' | b'/'), ..] => Some((2, Escaped::Byte(*quote))),
        _ => None,
    }
}

/// An HTML character reference, numeric or one of the names that occur in running text.
fn entity(text: &str, start: usize) -> Found {
    const NAMES: [(&str, char); 8] = [
        ("amp", '&'),
        ("lt", '<'),
        ("gt", '>'),
        ("quot", '"'),
        ("apos", '\''),
        ("nbsp", ' '),
        ("shy", '\u{ad}'),
        ("zwnj", '\u{200c}'),
    ];
    let rest = &text[start + 1..];
    let end = rest.bytes().take(10).position(|b| b == b';')?;
    let name = &rest[..end];
    let c = match name.strip_prefix('#') {
        Some(number) => {
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)?
        }
        None => NAMES.iter().find(|(known, _)| *known == name)?.1,
    };
    Some((start + end + 2, c.to_string()))
}
