//! Credentials: typed tokens by prefix, private keys, signed tokens, passwords in URLs.
//!
//! A typed prefix with the right alphabet and length is near-certain; everything else needs an
//! assignment to a telling name and a value that looks made by a machine or chosen by a person, not a
//! placeholder, a variable or a type.
//! Sources: the issuers' published token formats; gitleaks' rule list (MIT) as a checklist of issuers.

use std::ops::Range;

use super::assigned::{
    TOKEN_BYTES_MAX, assigned_value, has_digit, is_code, is_placeholder, value_range,
};
use super::compile::{Compiler, Kind};
use super::lexicon::{Hit, ListId};
use super::reading::{Candidate, Detector, Own, Reading};
use crate::evidence::Likelihood::{Likely, VeryLikely};

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    Some(match name {
        "api_key" => Kind::Text(Box::new(ApiKey::new(compiler))),
        "private_key" => Kind::Text(Box::new(PrivateKey {
            begins: compiler.literals(["-----BEGIN", "PuTTY-User-Key-File", "AGE-SECRET-KEY-1"]),
        })),
        "jwt" => Kind::Text(Box::new(Jwt { starts: compiler.literals(["eyJ"]) })),
        "url_credentials" => Kind::Text(Box::new(UrlCredentials {
            scheme: compiler.literals(["://"]),
            basic: compiler.literals(["Basic "]),
        })),
        _ => return None,
    })
}

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

fn percent_encoded(byte: u8) -> bool {
    wide(byte) || matches!(byte, b'%' | b'+' | b'/')
}

fn dashed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
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
    "A3-" 30 dashed, "p8e-" 30 alphanumeric, "AKCp" 60 alphanumeric, "cmVmd" 55 alphanumeric, "bedrock-api-key-" 20 percent_encoded, "EZTK" 50 alphanumeric, "EAAM" 30 alphanumeric, "FLWSECK_TEST-" 12 wide,
    "gloas-" 40 hexadecimal, "_gitlab_session=" 32 hexadecimal, "eyJrIjoi" 60 wide, "pat." 55 wide, "sat." 55 wide, "s-s4t2ud-" 60 hexadecimal, "s-s4t2af-" 60 hexadecimal, "NRII-" 30 dashed, "NRJS-" 19 hexadecimal,
    "API-" 26 upper, "sha256~" 40 wide, "pnu_" 36 alphanumeric, "access-production-" 36 dashed, "access-sandbox-" 36 dashed, "access-development-" 36 dashed, "squ_" 40 hexadecimal, "sqp_" 40 hexadecimal, "sqa_" 40 hexadecimal,
    "sgp_" 40 wide, "rk_test_" 20 alphanumeric, "SK" 32 hexadecimal, "t1." 80 wide, "YC" 38 wide, "sk_" 48 hexadecimal, "pat" 70 wide, "dbtu_" 30 wide, "dbtc_" 30 wide, "sig=" 40 percent_encoded, "1//0" 40 wide,
];

/// Typed tokens and generic `name = value` secrets.
struct ApiKey {
    prefixes: Range<u32>,
    names: ListId,
    key: ListId,
    /// Names of keys that open something.
    telling: ListId,
    /// Names of keys that everyone may know.
    public: ListId,
}

impl ApiKey {
    fn new(compiler: &mut Compiler) -> Self {
        ApiKey {
            key: compiler.lexicon.list([
                "key",
                "apikey",
                "appkey",
                "authkey",
                "secretkey",
                "privatekey",
            ]),
            telling: compiler.lexicon.list(TELLING_KEYS),
            public: compiler.lexicon.list(PUBLIC_KEYS),
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
            && (has_digit(value) || is_random_letters(value))
            && !is_sample_token(value);
        let sure = match tail {
            _ if tail >= token.tail_min => VeryLikely,
            // The beginning of a token whose rest comes in another message.
            CUT_BYTES_MIN.. if is_telling(token.prefix) && is_random(value) => Likely,
            _ => return None,
        };
        fits.then(|| Candidate { range: at.start..at.end + tail, own: Own::Exactly(sure) })
    }
}

impl Detector for ApiKey {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for (id, at) in reading.literals.of(&self.prefixes) {
            let token = &TOKENS[(id.0 - self.prefixes.start) as usize];
            found.extend(ApiKey::typed(reading, token, at));
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
        let keys = reading.hits(self.key).filter_map(|hit| self.key_value(reading, hit));
        found.extend(keys.map(|range| Candidate { range, own: Own::Exactly(Likely) }));
    }
}

/// Shorter random values stand behind names of keys that open nothing.
const KEY_BYTES_MIN: usize = 40;
/// How many characters of a name are looked at.
const NAME_BYTES_MAX: usize = 48;

impl ApiKey {
    /// The value of any name that ends in `key`: long and random, or shorter behind a telling name.
    fn key_value(&self, reading: &Reading<'_>, hit: &Hit) -> Option<Range<usize>> {
        let text = reading.text;
        let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b' ');
        let before = text.as_bytes()[..hit.start as usize].iter().rev().take(NAME_BYTES_MAX);
        let start = hit.start as usize - before.take_while(|b| is_name(b)).count();
        let name = start..hit.end as usize;
        if reading.hits_in(self.public, name.clone()).next().is_some() {
            return None;
        }
        // `key_id` and `keyboard` are other names.
        let behind = text[name.end..].chars().next()?;
        if behind.is_alphanumeric() || matches!(behind, '_' | '-') {
            return None;
        }
        let range = assigned_value(text, name.end)?;
        let value = text[range.clone()].trim_start_matches("base64:");
        let telling = reading.hits_in(self.telling, name).next().is_some();
        let hex = value.trim_start_matches("0x");
        let is_long_hex = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let long = value.len() >= KEY_BYTES_MIN && !hex.bytes().all(|b| b.is_ascii_hexdigit());
        let fits = if telling { value.len() >= 20 } else { long || is_long_hex };
        (fits && is_random(value) && !is_placeholder(value) && !is_code(value)).then_some(range)
    }
}

/// So many characters behind a telling prefix are a part of a token.
const CUT_BYTES_MIN: usize = 8;

/// A prefix that is no word of any language and no beginning of one.
fn is_telling(prefix: &str) -> bool {
    prefix.len() >= 6 && prefix.ends_with(['_', '-'])
        || prefix.len() >= 5 && prefix.starts_with("xox")
}

/// Both cases and digits without order, or hexadecimal digits of a key's length.
fn is_random(value: &str) -> bool {
    let count = |test: fn(&u8) -> bool| value.as_bytes().iter().filter(|b| test(b)).count();
    let digits = count(u8::is_ascii_digit);
    let mixed =
        count(u8::is_ascii_lowercase) >= 2 && count(u8::is_ascii_uppercase) >= 2 && digits >= 1;
    let body = value.strip_prefix("0x").unwrap_or(value);
    let is_hex = body.len() >= 32 && body.bytes().all(|b| b.is_ascii_hexdigit());
    // No character may repeat as often as in words.
    let enough = (value.len().min(24) as f64).log2() - 1.0;
    digits >= 1 && (mixed || is_hex) && entropy(value) >= enough.max(2.5)
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
const TELLING_KEYS: &[&str] = &[
    "private", "storage", "deploy", "shared", "auth", "x auth", "app", "application", "subscription", "fernet", "db", "database", "csrf", "rpc", "secret", "session", "cipher", "crypto", "encryption", "aes", "hmac", "jwt", "account", "azure", "service",
    "function", "functions", "admin", "master", "root", "access", "api", "signing", "wallet", "deployer", "validator", "ocp apim", "search", "cosmos", "maps", "internal", "token", "webhook", "signature", "rails", "django", "flask", "laravel",
];
#[rustfmt::skip]
const PUBLIC_KEYS: &[&str] = &[
    "public", "pub", "publishable", "primary", "foreign", "sort", "partition", "cache", "idempotency", "kms", "host", "site", "verify", "verifying", "object", "s3", "row", "group", "natural", "surrogate", "etag", "shard", "translation",
    "i18n", "dedup", "dedupe", "lookup", "index", "unique", "integrity", "checksum", "anon", "client", "register", "known", "vapid", "issue", "project", "jira", "routing", "message",
];
