//! E-mail addresses of persons: `local@domain.tld`, without samples and role accounts.
//!
//! Sources: RFC 5322 for the shape, RFC 2606 for reserved domains.

use std::ops::Range;

use super::compile::{Compiler, Kind};
use super::reading::{Candidate, Detector, Own, Reading};
use crate::evidence::Likelihood::Likely;

/// The built-in detector of this family.
pub(crate) fn builtin(name: &str, compiler: &mut Compiler) -> Option<Kind> {
    (name == "email").then(|| Kind::Text(Box::new(Email { at: compiler.literals(["@"]) })))
}

/// `local@domain.tld`, without samples and role accounts.
struct Email {
    at: Range<u32>,
}

impl Detector for Email {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for at in reading.literals_of(&self.at) {
            if let Some(range) = email_around(reading.text, at.start)
                && !is_in_git_trailer(reading.text, range.start)
            {
                found.push(Candidate { range, own: Own::Exactly(Likely) });
            }
        }
    }
}

/// What stands before a place on its line, as far as anything there matters.
pub(super) fn line_before(text: &str, at: usize) -> &str {
    let near = &text[text.floor_char_boundary(at.saturating_sub(160))..at];
    &near[near.rfind('\n').map_or(0, |end| end + 1)..]
}

/// `Co-authored-by: Jane Roe <jane@roe.dev>`: who wrote a change is public with the change.
pub(super) fn is_in_git_trailer(text: &str, at: usize) -> bool {
    const TRAILERS: [&str; 7] = [
        "co-authored-by:",
        "signed-off-by:",
        "reviewed-by:",
        "acked-by:",
        "tested-by:",
        "reported-by:",
        "suggested-by:",
    ];
    let line = line_before(text, at);
    let line = line.trim_start_matches([' ', '>', '+', '|']);
    TRAILERS.iter().any(|trailer| {
        line.get(..trailer.len()).is_some_and(|start| start.eq_ignore_ascii_case(trailer))
    })
}

fn email_around(text: &str, at: usize) -> Option<Range<usize>> {
    let is_local = |c: char| c.is_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let is_domain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.');
    let start =
        text[..at].char_indices().rev().take(64).take_while(|(_, c)| is_local(*c)).last()?.0;
    let end = text[at + 1..].find(|c| !is_domain(c)).map_or(text.len(), |e| at + 1 + e);
    let domain = text[at + 1..end].trim_end_matches(['.', '-']);
    let local = text[start..at].trim_start_matches(|c: char| !c.is_alphanumeric());
    let (name, tld) = domain.rsplit_once('.')?;
    let tld_ok = (2..=18).contains(&tld.len()) && tld.chars().all(char::is_alphabetic);
    let plausible = !local.is_empty() && !name.is_empty() && tld_ok && !name.starts_with('.');
    (plausible && !is_sample_address(local, domain))
        .then(|| at - local.len()..at + 1 + domain.len())
}

/// Addresses of forms, of documentation and of offices are nobody's.
fn is_sample_address(local: &str, domain: &str) -> bool {
    let (local, domain) = (local.to_ascii_lowercase(), domain.to_ascii_lowercase());
    let is_below = |sample: &&str| {
        domain == **sample || domain.strip_suffix(*sample).is_some_and(|above| above.ends_with('.'))
    };
    SAMPLE_DOMAINS.iter().any(is_below)
        || NO_DOMAINS.iter().any(|ending| domain.ends_with(ending))
        || SAMPLE_PARTS.iter().any(|part| domain.contains(part))
        || local.starts_with("your")
        || ROLES.contains(&local.as_str())
}

/// Domains of examples, and what lies below them.
#[rustfmt::skip]
const SAMPLE_DOMAINS: &[&str] = &[
    "example.com", "example.org", "example.net", "example.edu", "test.com", "domain.com", "email.com", "company.com",
    "localhost.local", "users.noreply.github.com", "yourdomain.com", "mydomain.com", "acme.com", "foo.com",
];

/// Reserved endings (RFC 2606), and endings of files.
#[rustfmt::skip]
const NO_DOMAINS: &[&str] = &[
    ".example", ".test", ".invalid", ".localhost", ".local", ".png", ".jpg", ".js", ".css", ".py", ".svg",
];

/// What stands for "example" in a domain.
#[rustfmt::skip]
const SAMPLE_PARTS: &[&str] = &[
    "example", "beispiel", "voorbeeld", "ejemplo", "exemple", "esempio", "exemplo",
];

/// Mailboxes of offices.
#[rustfmt::skip]
const ROLES: &[&str] = &[
    "noreply", "no-reply", "donotreply", "do-not-reply", "info", "support", "sales", "contact", "admin", "webmaster",
    "postmaster", "help", "hello", "office", "team", "service", "marketing", "billing", "security", "abuse", "press",
    "jobs", "careers", "privacy", "user", "git", "kontakt", "newsletter", "reception", "receptie", "rezeption",
    "empfang", "zentrale", "buero", "poststelle", "praxis", "service-client", "accueil", "secretariat", "sekretariat",
    "atencion", "atencionalcliente", "reservas", "ventas", "oficina", "reservations", "booking", "bookings",
    "enquiries", "inquiries", "orders", "shop", "frontdesk", "customerservice", "customer.service", "customercare",
    "klantenservice", "kundenservice", "prenotazioni", "servizioclienti", "geral",
];
