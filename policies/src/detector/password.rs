//! Passwords with their values: assigned, said in a sentence, or near their name.
//!
//! What follows the word is a password only if nobody would use it as a word; placeholders and code are
//! none.

use std::ops::Range;

use super::assigned::{assigned_value, has_digit, is_code, is_placeholder, value_range};
use super::compile::{Compiler, Kind};
use super::lexicon::{Hit, ListId};
use super::reading::{Candidate, Detector, Own, Reading};
use crate::evidence::Likelihood::{Likely, Possible, VeryLikely};

/// How far from its name a value may stand with any words between.
const CHOSEN_NEAR_BYTES: usize = 64;

/// The built-in detector of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    (name == "password").then(|| Kind::Text(Box::new(Password::new(compiler))))
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
            let Some((range, is_assigned)) = assigned.or_else(|| {
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
            let name = &reading.text[hit.start as usize..at];
            let is_number = is_assigned
                && value.len() >= 6
                && says_password(name)
                && value.bytes().all(|b| b.is_ascii_digit());
            let is_exported = is_assigned && is_shell_variable(reading.text, hit);
            let sure = match (looks_chosen(value), is_number || is_exported) {
                (true, _) => VeryLikely,
                (false, true) => Likely,
                (false, false) => Possible,
            };
            found.push(Candidate { range, own: Own::Exactly(sure) });
        }
    }
}

/// Names that stand for nothing but a password; "secret" and "pass" introduce numbers of other kinds.
fn says_password(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "password",
        "passwd",
        "pwd",
        "passwort",
        "kennwort",
        "mot de passe",
        "contrase",
        "senha",
        "wachtwoord",
        "has",
        "passcode",
        "passphrase",
    ];
    let name = name.to_lowercase();
    NAMES.iter().any(|known| name.starts_with(known)) || name.ends_with("password")
}

/// `export PGPASSWORD=kestrel`: a program reads its password here, so any word is one.
fn is_shell_variable(text: &str, hit: &Hit) -> bool {
    const VARIABLES: [&str; 5] =
        ["PGPASSWORD", "SSHPASS", "MYSQL_PWD", "REDISCLI_AUTH", "RESTIC_PASSWORD"];
    const SAMPLES: [&str; 6] = ["postgres", "mysecretpassword", "secret", "admin", "root", "mysql"];
    let (start, end) = (hit.start as usize, hit.end as usize);
    let value = text[end..].strip_prefix('=').unwrap_or_default();
    let value = value.trim_start_matches(['"', '\'']).split(|c: char| !c.is_alphanumeric()).next();
    let value = value.unwrap_or_default();
    VARIABLES.contains(&&text[start..end]) && value.len() >= 6 && !SAMPLES.contains(&value)
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

/// "is hunter2!", `--password hunter2!`.
fn stated_value(text: &str, at: usize) -> Option<Range<usize>> {
    const VERBS: &[&str] =
        &[" is ", " was ", " lautet ", " ist ", " est ", " es ", " è ", " é ", " to ", " "];
    // "the password for the router is …": a few words may stand between.
    let near = &text[at..text.floor_char_boundary(at + 48)];
    let words = near.find(|c: char| !(c.is_alphabetic() || c == ' ')).unwrap_or(near.len());
    let window = &near[..words];
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
    let near = &text[at..text.floor_char_boundary(at + 48)];
    let words = near.find(|c: char| !(c.is_alphanumeric() || " -_'/".contains(c)))?;
    let value =
        text[at + words..].strip_prefix([':', '='])?.trim_start_matches([' ', '"', '\'', '`']);
    let range = value_range(text, text.len() - value.len())?;
    looks_chosen(&text[range.clone()]).then_some(range)
}

/// "Hasło do serwera to Kq7%…", "パスワードは Kq7%… です": whatever the language says between, a token
/// that nobody uses as a word is the value.
fn chosen_nearby(text: &str, at: usize) -> Option<Range<usize>> {
    let near = &text[at..text.floor_char_boundary(at + CHOSEN_NEAR_BYTES)];
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

#[rustfmt::skip]
const PASSWORD_NAMES: &[&str] = &[
    "password", "passwd", "pwd", "pass", "passphrase", "passcode", "passwort", "kennwort", "mot de passe", "mdp", "contraseña", "clave", "parola d'ordine", "senha", "palavra passe", "wachtwoord", "hasło", "lösenord", "пароль", "şifre", "parola", "密码", "パスワード", "비밀번호", "login password", "admin password", "root password", "wifi password", "wlan passwort", "pin code", "db password", "adgangskode", "salasana", "passord", "pw", "bindpw", "userpw", "adminpw", "rootpw", "dbpw", "dbpass", "ftppass", "smbpass", "sudopw", "passwrd", "parol", "creds", "credentials", "zugangsdaten", "identifiants", "credenciales", "credenziali", "credenciais", "inloggegevens", "snmp server community", "community string", "enable secret", "enable password", "secret", "pre shared key", "psk", "wpa key", "unlock code", "passkey", "db pass", "ftp pass", "ssh pass", "sudo password", "root pw", "admin pw", "heslo", "jelszó", "κωδικός", "סיסמה", "كلمة المرور", "पासवर्ड", "mật khẩu", "รหัสผ่าน", "pgpassword", "mysql pwd", "sshpass", "rediscli auth",
];
