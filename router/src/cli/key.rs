//! `sluice key create`, `revoke`, `list`: the keys file of callers, changed one entry at a time.
//!
//! A new key is printed once, alone on stdout, and is nowhere else: the file has its hash. A running
//! gateway takes a changed file by itself. Changes at the same time wait for each other, by a lock on a
//! file beside it (`keys.yaml.lock`), so that none is lost.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use sluice::config::Config;
use sluice::identity::IdentityError;
use sluice::identity::keys::{KeyEntry, KeysFile, NewKey};

use super::{Failure, OrUsage, Outcome, Status, out, today};

/// The verbs of `sluice key`.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Verb {
    /// Make a key, print it once and write its hash
    Create(CreateArgs),
    /// End a key for good; its id stays taken
    Revoke(RevokeArgs),
    /// List who may call, without secrets
    List(ListArgs),
}

/// Which keys file is meant.
#[derive(clap::Args, Debug)]
struct WhichFile {
    /// The keys file
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    keys: Option<PathBuf>,
    /// The gateway's sluice.yaml, which names the keys file
    #[arg(long, value_name = "FILE", required_unless_present = "keys")]
    config: Option<PathBuf>,
}

/// Flags of `sluice key create`.
#[derive(clap::Args, Debug)]
pub(super) struct CreateArgs {
    /// Names the caller in decisions and records; never used twice
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    file: WhichFile,
    /// Whose limits, taint and records these are
    #[arg(long, value_name = "NAME", default_value = "default")]
    tenant: String,
    /// The person who holds the key
    #[arg(long, value_name = "NAME", conflicts_with = "app")]
    person: Option<String>,
    /// The application that holds the key
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// A word that rules match, such as phi; may be given more than once
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Last day on which the key is known, such as 2027-06-30; default: none
    #[arg(long, value_name = "DATE")]
    expires: Option<Date>,
    /// A name in a client certificate instead of a key: dns:…, uri:…, email:…, subject:… or sha256:…
    #[arg(long, value_name = "NAME")]
    certificate: Option<String>,
    /// Print one JSON document: id, key
    #[arg(long)]
    json: bool,
}

/// Flags of `sluice key revoke`.
#[derive(clap::Args, Debug)]
pub(super) struct RevokeArgs {
    /// The id of the key
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    file: WhichFile,
}

/// Flags of `sluice key list`.
#[derive(clap::Args, Debug)]
pub(super) struct ListArgs {
    #[command(flatten)]
    file: WhichFile,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What `create --json` prints.
#[derive(Serialize)]
struct Created<'a> {
    id: &'a str,
    /// Null where a certificate stands for it.
    key: Option<&'a str>,
}

/// An entry as `list --json` prints it.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    tenant: &'a str,
    state: &'static str,
    person: Option<&'a str>,
    app: Option<&'a str>,
    tags: Vec<&'a str>,
    certificate: Option<&'a str>,
    created: Option<Timestamp>,
    expires: Option<Date>,
    revoked: Option<Timestamp>,
}

/// Runs `sluice key`.
pub(super) fn run(verb: Verb) -> Outcome {
    match verb {
        Verb::Create(args) => create(args),
        Verb::Revoke(args) => revoke(&args),
        Verb::List(args) => list(&args),
    }
}

fn create(args: CreateArgs) -> Outcome {
    let path = args.file.path()?;
    let new = NewKey {
        id: args.id.clone(),
        tenant: args.tenant,
        person: args.person,
        app: args.app,
        tags: args.tags.into_iter().collect(),
        expires: args.expires,
        certificate: args.certificate,
    };
    let key = change(&path, |file| file.create(new, Timestamp::now()))?;
    let key = key.as_ref().map(|key| key.expose());
    if args.json {
        out::json(&Created { id: &args.id, key })?;
        return Ok(Status::Done);
    }
    if let Some(key) = key {
        out::line(key)?;
        out::note("the key is shown this once; the file holds its hash");
    }
    Ok(Status::Done)
}

fn revoke(args: &RevokeArgs) -> Outcome {
    let path = args.file.path()?;
    // Where there is none, there is nothing to lock either.
    KeysFile::read(&path).or_usage()?;
    change(&path, |file| file.revoke(&args.id, Timestamp::now()))?;
    out::note(format_args!("{} is revoked; a running gateway takes notice by itself", args.id));
    Ok(Status::Done)
}

/// Changes a keys file, which may not be there yet; from reading it to writing it nobody else does.
fn change<T>(
    path: &Path,
    change: impl FnOnce(&mut KeysFile) -> Result<T, IdentityError>,
) -> Result<T, Failure> {
    let _lock = lock(path)?;
    let mut file = KeysFile::read_or_new(path).or_usage()?;
    let changed = change(&mut file).or_usage()?;
    file.write(path)?;
    Ok(changed)
}

/// Waits for the file beside a keys file. It stays there: once removed, two could hold one each.
fn lock(keys: &Path) -> anyhow::Result<File> {
    let mut path = keys.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let opened = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Another user may have made it: reading is enough to lock it.
        let created = OpenOptions::new().append(true).create(true).open(&path);
        let file = created.or_else(|_| File::open(&path))?;
        file.lock()?;
        Ok(file)
    };
    let opened: std::io::Result<File> = opened();
    opened.with_context(|| format!("failed to lock {}", path.display()))
}

fn list(args: &ListArgs) -> Outcome {
    let file = KeysFile::read(&args.file.path()?).or_usage()?;
    let shown: Vec<Shown<'_>> = file.keys.iter().map(Shown::new).collect();
    if args.json {
        out::json(&shown)?;
        return Ok(Status::Done);
    }
    for entry in &shown {
        out::line(entry.line())?;
    }
    Ok(Status::Done)
}

impl WhichFile {
    fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(keys) = &self.keys {
            return Ok(keys.clone());
        }
        let config = self.config.as_deref().context("expected --keys or --config").or_usage()?;
        let config = Config::load_for_decisions(config).or_usage()?;
        config.identity.keys.context("the config names no keys file (identity.keys)").or_usage()
    }
}

impl<'a> Shown<'a> {
    fn new(entry: &'a KeyEntry) -> Self {
        Shown {
            id: &entry.id,
            tenant: &entry.tenant,
            state: state(entry, today()),
            person: entry.person.as_deref(),
            app: entry.app.as_deref(),
            tags: entry.tags.iter().map(String::as_str).collect(),
            certificate: entry.certificate.as_deref(),
            created: entry.created,
            expires: entry.expires,
            revoked: entry.revoked,
        }
    }

    fn line(&self) -> String {
        let holder = self.person.or(self.app).unwrap_or("-");
        let until = self.expires.map_or("-".to_owned(), |last| last.to_string());
        let tags = if self.tags.is_empty() { "-".to_owned() } else { self.tags.join(",") };
        format!(
            "{:<24} {:<12} {:<8} {:<20} until {:<10} tags {tags}",
            self.id, self.tenant, self.state, holder, until
        )
    }
}

fn state(entry: &KeyEntry, today: Date) -> &'static str {
    match entry {
        _ if entry.revoked.is_some() => "revoked",
        _ if !entry.is_valid(today) => "expired",
        _ => "valid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_at_the_same_time_are_all_in_the_file() {
        const COUNT: usize = 8;
        let folder = tempfile::tempdir().unwrap();
        let path = &folder.path().join("deep/keys.yaml");
        let create = |id: String| {
            let new = NewKey { id, ..NewKey::default() };
            change(path, |file| file.create(new, Timestamp::now())).is_ok()
        };
        let revoke = |id: String| change(path, |file| file.revoke(&id, Timestamp::now())).is_ok();
        assert!((0..COUNT).all(|number| create(format!("old-{number}"))));
        std::thread::scope(|scope| {
            for number in 0..COUNT {
                scope.spawn(move || assert!(create(format!("new-{number}"))));
                scope.spawn(move || assert!(revoke(format!("old-{number}"))));
            }
        });
        let keys = KeysFile::read(path).unwrap().keys;
        let (revoked, valid): (Vec<_>, Vec<_>) =
            keys.iter().partition(|entry| entry.revoked.is_some());
        assert_eq!((revoked.len(), valid.len()), (COUNT, COUNT));
        assert!(revoked.iter().all(|entry| entry.id.starts_with("old-")));
    }
}
