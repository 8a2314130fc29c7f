//! Credentials: typed tokens by prefix, private keys, signed tokens, passwords in assignments and URLs.
//!
//! A typed prefix with the right alphabet and length is near-certain; everything else needs an
//! assignment to a telling name and a value that looks made by a machine or chosen by a person, not a
//! placeholder, a variable or a type.
//! Sources: the issuers' published token formats; gitleaks' rule list (MIT) as a checklist of issuers.

use std::ops::Range;

use super::compile::{Compiler, Kind};
use super::contact::floor_boundary;
use super::lexicon::ListId;
use super::reading::{Candidate, Detector, Own, Reading};
use crate::evidence::Likelihood::{Likely, Possible, VeryLikely};

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    Some(match name {
        "api_key" => Kind::Text(Box::new(ApiKey::new(compiler))),
        "private_key" => Kind::Text(Box::new(PrivateKey {
            begins: compiler.literals(["-----BEGIN", "PuTTY-User-Key-File", "AGE-SECRET-KEY-1"]),
        })),
        "jwt" => Kind::Text(Box::new(Jwt { starts: compiler.literals(["eyJ"]) })),
        "password" => Kind::Text(Box::new(Password::new(compiler))),
        "url_credentials" => Kind::Text(Box::new(UrlCredentials {
            scheme: compiler.literals(["://"]),
            basic: compiler.literals(["Basic "]),
        })),
        _ => return None,
    })
}

/// No token is longer; whatever goes on is something else.
const TOKEN_BYTES_MAX: usize = 512;
/// How far from its name a value may stand with any words between.
const CHOSEN_NEAR_BYTES: usize = 64;
/// The same for signed tokens, which carry claims.
const JWT_BYTES_MAX: usize = 16 << 10;

/// A prefix that only one issuer uses, and what must follow it.
struct TypedToken {
    prefix: &'static str,
    /// Characters after the prefix, at least.
    tail_min: usize,
    alphabet: fn(u8) -> bool,
}

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn hexadecimal(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

fn webhook(byte: u8) -> bool {
    wide(byte) || matches!(byte, b'/' | b'@')
}

fn wide(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'=')
}

macro_rules! tokens {
    ($($prefix:literal $min:literal $alphabet:ident),* $(,)?) => {
        &[$(TypedToken { prefix: $prefix, tail_min: $min, alphabet: $alphabet }),*]
    };
}

#[rustfmt::skip]
const TOKENS: &[TypedToken] = tokens![
    "AKIA" 16 upper, "ASIA" 16 upper, "ABIA" 16 upper, "ACCA" 16 upper, "ghp_" 30 alphanumeric, "gho_" 30 alphanumeric, "ghu_" 30 alphanumeric, "ghs_" 30 alphanumeric,
    "ghr_" 30 alphanumeric, "github_pat_" 40 wide, "glpat-" 20 wide, "gldt-" 20 wide, "glrt-" 20 wide, "xoxb-" 20 wide, "xoxp-" 20 wide, "xoxa-" 20 wide, "xoxr-" 20 wide,
    "xoxs-" 20 wide, "xapp-" 20 wide, "sk_live_" 16 alphanumeric, "rk_live_" 16 alphanumeric, "sk_test_" 20 alphanumeric, "whsec_" 20 wide, "sk-proj-" 20 wide, "sk-ant-" 20 wide, "sk-or-" 20 wide,
    "sk-svcacct-" 20 wide, "sk-" 32 alphanumeric, "AIza" 35 wide, "ya29." 20 wide, "GOCSPX-" 20 wide, "SG." 40 wide, "npm_" 30 alphanumeric, "pypi-" 50 wide, "dop_v1_" 40 hexadecimal,
    "hf_" 30 alphanumeric, "shpat_" 30 hexadecimal, "shpss_" 30 hexadecimal, "shpca_" 30 hexadecimal, "sq0atp-" 20 wide, "sq0csp-" 30 wide, "EAAA" 50 wide, "lin_api_" 30 alphanumeric,
    "key-" 32 hexadecimal, "dckr_pat_" 20 wide, "hvs." 24 wide, "hvb." 24 wide, "nfp_" 30 alphanumeric, "vercel_" 20 wide,
    "figd_" 30 wide, "ATATT3" 60 wide, "ATCTT3" 60 wide, "PMAK-" 50 wide, "rubygems_" 40 hexadecimal, "tfp_" 30 alphanumeric, "secret_" 40 alphanumeric, "ntn_" 40 alphanumeric,
    "dapi" 32 hexadecimal, "doo_v1_" 40 hexadecimal, "NRAK-" 20 upper, "glsa_" 30 wide, "glc_" 30 wide, "sntrys_" 30 wide, "sntryu_" 40 hexadecimal, "xkeysib-" 50 wide,
    "gsk_" 40 alphanumeric, "r8_" 30 alphanumeric, "pplx-" 40 alphanumeric, "tvly-" 20 wide, "phc_" 30 alphanumeric, "phx_" 30 alphanumeric, "pat-na1-" 30 wide, "pat-eu1-" 30 wide, "fo1_" 30 wide, "bkua_" 30 hexadecimal, "CCIPAT_" 30 wide, "AccountKey=" 40 wide, "SharedAccessKey=" 30 wide,
    "hooks.slack.com/services/T" 30 webhook, "discord.com/api/webhooks/" 40 webhook, "discordapp.com/api/webhooks/" 40 webhook, "webhook.office.com/webhookb2/" 40 webhook, "hooks.zapier.com/hooks/catch/" 12 webhook,
    "xai-" 40 alphanumeric, "co-" 40 alphanumeric, "fw_" 20 alphanumeric, "nvapi-" 40 wide, "sk_prod_" 16 alphanumeric, "pk_prod_" 16 alphanumeric, "rzp_live_" 14 alphanumeric, "access_token$production$" 20 wide,
    "oy2" 43 alphanumeric, "CLOJARS_" 40 alphanumeric, "dt0c01." 40 wide, "EZAK" 50 alphanumeric, "FLWSECK-" 20 wide, "fio-u-" 40 wide, "ghb_" 30 alphanumeric, "glptt-" 30 wide, "glsoat-" 20 wide, "ico-" 30 alphanumeric, "lin_oauth_" 30 alphanumeric,
    "pscale_tkn_" 30 wide, "pscale_pw_" 30 wide, "pul-" 40 hexadecimal, "PRMK-" 20 wide, "shippo_live_" 40 hexadecimal, "sl." 100 wide, "sbp_" 40 hexadecimal, "tk-us-" 30 wide, "YCAJE" 20 wide, "AQVN" 30 wide, "hvr." 24 wide, "waka_" 30 wide, "DO00" 16 upper,
    "ATBB" 28 alphanumeric, "lsv2_pt_" 30 wide, "lsv2_sk_" 30 wide, "tskey-" 20 wide, "dp.st." 40 wide, "dp.pt." 40 wide, "ops_eyJ" 40 wide, "shptka_" 30 hexadecimal, "CFPAT-" 40 wide, "HRKU-" 30 wide, "sess-" 40 alphanumeric,
    "glcbt-" 20 wide, "glft-" 20 wide, "glimt-" 20 wide, "glagent-" 40 wide, "GR1348941" 20 wide, "rdme_" 60 alphanumeric, "sk.eyJ" 40 wide, "pscale_oauth_" 30 wide, "xoxe." 20 wide, "SWMTKN-1-" 50 wide, "LTAI" 16 alphanumeric, "AKID" 32 alphanumeric,
    "apify_api_" 30 alphanumeric, "sk-lf-" 30 wide, "pcsk_" 50 wide, "jina_" 40 alphanumeric, "fc-" 32 hexadecimal, "csk-" 40 alphanumeric, "e2b_" 36 hexadecimal, "sk_org_" 20 wide, "dckr_oat_" 20 wide, "duffel_live_" 30 wide, "pypi-AgE" 40 wide, "AGE-SECRET-KEY-1" 50 upper,
];

/// Typed tokens and generic `name = value` secrets.
struct ApiKey {
    prefixes: Range<u32>,
    names: ListId,
}

impl ApiKey {
    fn new(compiler: &mut Compiler) -> Self {
        ApiKey {
            prefixes: compiler.literals(TOKENS.iter().map(|t| t.prefix)),
            names: compiler.lexicon.list(KEY_NAMES),
        }
    }

    fn typed(reading: &Reading<'_>, token: &TypedToken, at: &Range<usize>) -> Option<Candidate> {
        let bytes = reading.text.as_bytes();
        let starts = at.start == 0 || !bytes[at.start - 1].is_ascii_alphanumeric();
        let exact = &reading.text[at.clone()] == token.prefix;
        if !starts {
            return None;
        }
        let tail = bytes[at.end..]
            .iter()
            .take(TOKEN_BYTES_MAX)
            .take_while(|b| (token.alphabet)(**b))
            .count();
        let ends = bytes.get(at.end + tail).is_none_or(|b| !b.is_ascii_alphanumeric());
        let value = &reading.text[at.end..at.end + tail];
        let fits = starts
            && exact
            && ends
            && tail >= token.tail_min
            && (has_digit(value) || is_random_letters(value))
            && !is_sample_token(value);
        fits.then(|| Candidate { range: at.start..at.end + tail, own: Own::Exactly(VeryLikely) })
    }
}

impl Detector for ApiKey {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for (id, at) in &reading.literals {
            if let Some(index) =
                id.0.checked_sub(self.prefixes.start).filter(|_| id.0 < self.prefixes.end)
            {
                found.extend(ApiKey::typed(reading, &TOKENS[index as usize], at));
            }
        }
        for hit in reading.hits(self.names) {
            let at = hit.end as usize;
            let assigned = assigned_value(reading.text, at);
            let Some(range) = assigned.or_else(|| bare_value(reading.text, at)) else { continue };
            let value = &reading.text[range.clone()];
            if looks_made(value) && !is_placeholder(value) && !is_code(value) {
                found.push(Candidate { range, own: Own::Exactly(Likely) });
            }
        }
    }
}

/// Letters of both cases without order: one long random value in a hundred has no digit.
fn is_random_letters(value: &str) -> bool {
    value.len() >= 24
        && value.bytes().any(|b| b.is_ascii_lowercase())
        && value.bytes().filter(u8::is_ascii_uppercase).count() >= 5
        && entropy(value) >= 3.8
}

/// A long value of mixed characters, as generators write them.
fn looks_made(value: &str) -> bool {
    let enough = if value.len() >= 32 { 2.7 } else { 3.3 };
    value.len() >= 16 && has_digit(value) && entropy(value) >= enough
}

/// "api secret NhqP…": a value right behind the name, long and of mixed characters.
fn bare_value(text: &str, at: usize) -> Option<Range<usize>> {
    let value = text[at..].strip_prefix(' ')?.trim_start_matches(['"', '\'', '`']);
    let range = value_range(text, text.len() - value.len())?;
    let token = &text[range.clone()];
    let is_token = token.len() >= 24
        && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+/=.".contains(&b));
    is_token.then_some(range)
}

/// Typed tokens of documentation.
fn is_sample_token(value: &str) -> bool {
    const PARTS: [&str; 9] =
        ["example", "your", "placeholder", "xxxx", "****", "....", "redacted", "dummy", "_here"];
    let lower = value.to_ascii_lowercase();
    PARTS.iter().any(|p| lower.contains(p)) || entropy(value) < 2.5
}

/// PEM, PuTTY and age private keys; certificates and public keys are public.
struct PrivateKey {
    begins: Range<u32>,
}

impl Detector for PrivateKey {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for at in reading.literals_of(&self.begins) {
            let rest = &reading.text[at.end..];
            let head: String = rest.chars().take(60).collect();
            let is_pem = reading.text[at.clone()].starts_with("-----");
            let body: String = rest.chars().skip(16).take(160).collect();
            let has_body = body
                .split(|c: char| c.is_whitespace() || matches!(c, '"' | '\\'))
                .any(|word| word.len() >= 24 && word.bytes().all(is_base64));
            if (!is_pem || head.contains("PRIVATE KEY")) && has_body && !head.contains("...") {
                let end = at.end + head.len();
                found.push(Candidate { range: at.start..end, own: Own::Exactly(VeryLikely) });
            }
        }
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-')
}

/// `header.payload.signature`, base64url of JSON.
struct Jwt {
    starts: Range<u32>,
}

impl Detector for Jwt {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for at in reading.literals_of(&self.starts) {
            let inside =
                at.start > 0 && reading.text.as_bytes()[at.start - 1].is_ascii_alphanumeric();
            if inside {
                continue;
            }
            let rest = reading.text[at.start..].bytes();
            let end = at.start + rest.take(JWT_BYTES_MAX).take_while(|b| wide(*b)).count();
            let token = &reading.text[at.start..end];
            let parts: Vec<&str> = token.split('.').collect();
            let is_jwt = parts.len() >= 3
                && parts[0].len() >= 16
                && parts[1].starts_with("eyJ")
                && parts[2].len() >= 20;
            if is_jwt && token.starts_with("eyJ") && !is_sample_jwt(token) {
                found.push(Candidate { range: at.start..end, own: Own::Exactly(VeryLikely) });
            }
        }
    }
}

/// The token that jwt.io shows to everyone.
fn is_sample_jwt(token: &str) -> bool {
    token.contains("SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c")
        || token.contains("eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lI")
}

/// `password = …`, `pwd: …`, "the password is …", `--password …`.
struct Password {
    names: ListId,
    talk: ListId,
}

impl Password {
    fn new(compiler: &mut Compiler) -> Self {
        Password {
            names: compiler.lexicon.list(PASSWORD_NAMES),
            talk: compiler.lexicon.list([
                "hash", "policy", "manager", "reset", "field", "strength", "column", "input",
            ]),
        }
    }
}

impl Detector for Password {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for hit in reading.hits(self.names) {
            let at = hit.end as usize;
            let assigned = assigned_value(reading.text, at).map(|range| (range, true));
            let Some((range, _)) = assigned.or_else(|| {
                let said = stated_value(reading.text, at);
                said.or_else(|| labelled_value(reading.text, at))
                    .or_else(|| chosen_nearby(reading.text, at))
                    .map(|r| (r, false))
            }) else {
                continue;
            };
            let value = &reading.text[range.clone()];
            if is_placeholder(value)
                || is_code(value)
                || reading.hits_in(self.talk, at..range.start).next().is_some()
            {
                continue;
            }
            let sure = if looks_chosen(value) { VeryLikely } else { Possible };
            found.push(Candidate { range, own: Own::Exactly(sure) });
        }
    }
}

/// A value that is no ordinary word: digits or signs among letters.
pub(super) fn looks_chosen(value: &str) -> bool {
    let kinds = [
        value.bytes().any(|b| b.is_ascii_lowercase()),
        value.bytes().any(|b| b.is_ascii_uppercase()),
        value.bytes().any(|b| b.is_ascii_digit()),
        value.bytes().any(|b| b.is_ascii_punctuation()),
    ];
    let count = kinds.iter().filter(|k| **k).count();
    value.len() >= 6 && (count >= 3 || (count >= 2 && has_digit(value)))
}

/// The value after `:`, `=`, `=>` or `:=`, with or without quotes.
fn assigned_value(text: &str, at: usize) -> Option<Range<usize>> {
    let rest = &text[at..];
    let name_end =
        rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').unwrap_or(rest.len());
    let tail = &rest[name_end..];
    let operator = tail.trim_start_matches(['"', '\'', '`', ']', ' ', ')', '*']);
    let skipped = tail.len() - operator.len();
    let sign = ["=>", ":=", "==", "=", ":"].iter().find(|s| operator.starts_with(**s))?;
    if *sign == "==" || skipped > 4 || name_end > 24 {
        return None;
    }
    let value = operator[sign.len()..].trim_start_matches([' ', '\t', '"', '\'', '`', '*']);
    value_range(text, text.len() - value.len())
}

/// "is hunter2!", `--password hunter2!`.
fn stated_value(text: &str, at: usize) -> Option<Range<usize>> {
    const VERBS: &[&str] =
        &[" is ", " was ", " lautet ", " ist ", " est ", " es ", " è ", " é ", " to ", " "];
    // "the password for the router is …": a few words may stand between.
    let words =
        text[at..].find(|c: char| !(c.is_alphabetic() || c == ' ')).unwrap_or(text.len() - at);
    let window = &text[at..at + words];
    let jump = [" is ", " ist ", " est ", " es ", " lautet "]
        .iter()
        .find_map(|v| window.find(v).filter(|j| *j <= 32));
    let rest = &text[at + jump.unwrap_or(0)..];
    let verb = VERBS.iter().find(|v| rest.starts_with(**v))?;
    let value = rest[verb.len()..].trim_start_matches(['"', '\'', '`', ':', ' ']);
    let range = value_range(text, text.len() - value.len())?;
    looks_chosen(&text[range.clone()]).then_some(range)
}

/// "Mot de passe de la base : Rz8#": a few words between the name and a colon.
fn labelled_value(text: &str, at: usize) -> Option<Range<usize>> {
    let near = &text[at..floor_boundary(text, at + 48)];
    let words = near.find(|c: char| !(c.is_alphanumeric() || " -_'/".contains(c)))?;
    let value =
        text[at + words..].strip_prefix([':', '='])?.trim_start_matches([' ', '"', '\'', '`']);
    let range = value_range(text, text.len() - value.len())?;
    looks_chosen(&text[range.clone()]).then_some(range)
}

/// "Hasło do serwera to Kq7%…", "パスワードは Kq7%… です": whatever the language says between, a token
/// that nobody uses as a word is the value.
fn chosen_nearby(text: &str, at: usize) -> Option<Range<usize>> {
    let near = &text[at..floor_boundary(text, at + CHOSEN_NEAR_BYTES)];
    let near = &near[..near.find(['\n', '?']).unwrap_or(near.len())];
    let ends = |c: char| c.is_whitespace() || !c.is_ascii() || "\"'`,;:()<>".contains(c);
    let mut start = at;
    for token in near.split_inclusive(ends) {
        let value = token.trim_end_matches(ends).trim_end_matches('.');
        if is_no_word(value) {
            return Some(start..start + value.len());
        }
        start += token.len();
    }
    None
}

/// Small letters, digits and something else, and neither a mail address nor a path.
fn is_no_word(value: &str) -> bool {
    let has_sign = value.bytes().any(|b| b.is_ascii_punctuation() && !b"-_./".contains(&b));
    let is_mixed = value.bytes().any(|b| b.is_ascii_uppercase()) || has_sign;
    let is_address = value.contains('@') && value.contains('.') || value.contains('/');
    value.len() >= 8
        && has_digit(value)
        && value.bytes().any(|b| b.is_ascii_lowercase())
        && is_mixed
        && !is_address
}

fn value_range(text: &str, start: usize) -> Option<Range<usize>> {
    let ends =
        |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ';' | '<' | '>' | ')');
    let window = &text[start..floor_boundary(text, start + TOKEN_BYTES_MAX)];
    let end = start + window.find(ends).unwrap_or(window.len());
    let value = text[start..end].trim_end_matches(['.', '?', '*', ':']);
    (value.len() >= 4).then(|| start..start + value.len())
}

/// `scheme://user:password@host`, and the same pair behind `Basic` once it is decoded.
struct UrlCredentials {
    scheme: Range<u32>,
    basic: Range<u32>,
}

impl Detector for UrlCredentials {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for at in reading.literals_of(&self.scheme) {
            let rest = &reading.text[at.end..];
            let authority = &rest[..rest
                .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '<' | '`'))
                .unwrap_or(rest.len())];
            let Some((user, host)) = authority.rsplit_once('@') else { continue };
            let Some((name, password)) = user.split_once(':') else { continue };
            if password.len() >= 3
                && !host.is_empty()
                && name.len() < 64
                && !is_placeholder(password)
                && !is_weak_sample(name, password)
            {
                found.push(Candidate {
                    range: at.end..at.end + user.len(),
                    own: Own::Exactly(VeryLikely),
                });
            }
        }
        for at in reading.literals_of(&self.basic) {
            let rest = &reading.text[at.end..];
            let pair = &rest[..rest
                .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
                .unwrap_or(rest.len())];
            let Some((name, password)) = pair.split_once(':') else { continue };
            if !name.is_empty()
                && password.len() >= 4
                && !is_placeholder(password)
                && !is_weak_sample(name, password)
            {
                found.push(Candidate {
                    range: at.end..at.end + pair.len(),
                    own: Own::Exactly(VeryLikely),
                });
            }
        }
    }
}

fn is_weak_sample(name: &str, password: &str) -> bool {
    name.eq_ignore_ascii_case(password)
        || matches!((name, password), ("user", _) | ("username", _)) && !has_digit(password)
}

fn has_digit(value: &str) -> bool {
    value.bytes().any(|b| b.is_ascii_digit())
}

/// Values that stand for a value.
fn is_placeholder(value: &str) -> bool {
    const PARTS: &[&str] = &[
        "example",
        "your",
        "placeholder",
        "changeme",
        "change_me",
        "xxxx",
        "****",
        "....",
        "redacted",
        "dummy",
        "fake",
        "sample",
        "insert",
        "todo",
        "test1234",
        "foobar",
        "hunter2",
        "abcdef",
        "12345678",
        "secret_here",
        "my_",
        "_here",
        "<",
        "${",
        "{{",
        "%s",
        "$(",
        "process.env",
        "os.environ",
        "getenv",
        "env.",
        "config.",
        "settings.",
        "args.",
        "self.",
        "password",
        "passwort",
        "masked",
        "hidden",
        "deadbeef",
        "00000000",
    ];
    let lower = value.to_ascii_lowercase();
    let same = lower.bytes().all(|b| b == lower.as_bytes()[0]);
    same || lower.starts_with(['$', '%', '{', '[', '(', '@']) && !has_digit(&lower)
        || PARTS.iter().any(|p| lower.contains(p))
}

/// Expressions and types of programs: `hash(x)`, `String`, `req.body.password`.
fn is_code(value: &str) -> bool {
    const WORDS: &[&str] = &[
        "string",
        "str",
        "null",
        "none",
        "true",
        "false",
        "undefined",
        "required",
        "optional",
        "varchar",
        "text",
        "char",
        "bytes",
        "function",
        "await",
        "input",
        "nil",
        "self",
        "this",
        "request",
        "param",
        "bool",
        "boolean",
        "integer",
        "number",
        "any",
        "object",
    ];
    let lower = value.to_ascii_lowercase();
    let bare = lower.trim_end_matches(|c: char| !c.is_alphanumeric());
    let starts_like_code = WORDS.iter().any(|w| {
        bare == *w
            || lower
                .strip_prefix(w)
                .is_some_and(|rest| rest.starts_with(['(', '[', '.', '<', '|', '?']))
    });
    let is_path = value.contains('(')
        || value.contains("->")
        || value.contains("::")
        || (value.contains('.')
            && value.split('.').all(|p| {
                p.chars().next().is_some_and(char::is_alphabetic)
                    && p.chars().all(|c| c.is_alphanumeric() || c == '_')
            }));
    starts_like_code || is_path
}

/// Shannon entropy in bits per character.
fn entropy(value: &str) -> f64 {
    let mut counts = [0u32; 256];
    value.bytes().for_each(|b| counts[b as usize] += 1);
    let total = value.len() as f64;
    counts.iter().filter(|c| **c > 0).map(|&c| f64::from(c) / total).map(|p| -p * p.log2()).sum()
}

#[rustfmt::skip]
const KEY_NAMES: &[&str] = &[
    "api key", "apikey", "api token", "access key", "access token", "auth token", "secret key", "client secret", "secret", "token", "bearer", "aws secret access key", "private token",
    "signing key", "encryption key", "webhook secret", "consumer secret", "app secret", "refresh token", "session token", "service key", "account key", "master key", "authorization", "credential", "credentials", "api secret", "x api key", "hmac key", "license key", "api schlüssel", "clé api", "clave api",
];
#[rustfmt::skip]
const PASSWORD_NAMES: &[&str] = &[
    "password", "passwd", "pwd", "pass", "passphrase", "passcode", "passwort", "kennwort", "mot de passe", "mdp", "contraseña", "clave", "parola d'ordine", "senha", "palavra passe", "wachtwoord", "hasło", "lösenord", "пароль", "şifre", "parola", "密码", "パスワード", "비밀번호", "login password", "admin password", "root password", "wifi password", "wlan passwort", "pin code", "db password", "adgangskode", "salasana", "passord", "pw", "bindpw", "userpw", "adminpw", "rootpw", "dbpw", "dbpass", "ftppass", "smbpass", "sudopw", "passwrd", "parol", "creds", "credentials", "zugangsdaten", "identifiants", "credenciales", "credenziali", "credenciais", "inloggegevens", "snmp server community", "community string", "enable secret", "enable password", "secret", "pre shared key", "psk", "wpa key", "unlock code", "passkey", "db pass", "ftp pass", "ssh pass", "sudo password", "root pw", "admin pw", "heslo", "jelszó", "κωδικός", "סיסמה", "كلمة المرور", "पासवर्ड", "mật khẩu", "รหัสผ่าน", "pgpassword", "mysql pwd", "sshpass", "rediscli auth",
];
