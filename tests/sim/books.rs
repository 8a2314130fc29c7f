//! The audit log as it is written: each line is read once, and checked against all lines before it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::site::WARD;

/// What is on record. Clones read the same log.
#[derive(Clone)]
pub(crate) struct Books(Arc<Mutex<Log>>);

struct Log {
    file: File,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    lines: u64,
    /// Attempts so far, by upstream.
    attempts: BTreeMap<String, u64>,
    /// Attempts without an outcome.
    open: BTreeMap<(String, u64), Value>,
    /// Lines of requests that nobody has asked for yet.
    of_request: BTreeMap<String, Vec<Value>>,
    /// What was read since the texts in it were last looked at.
    unseen: String,
    /// What must not be, in words.
    wrong: Vec<String>,
}

impl Books {
    pub(crate) fn read(folder: &Path) -> Books {
        let log = Log {
            file: File::open(folder.join("audit.jsonl")).unwrap(),
            rest: Vec::new(),
            lines: 0,
            attempts: BTreeMap::new(),
            open: BTreeMap::new(),
            of_request: BTreeMap::new(),
            unseen: String::new(),
            wrong: Vec::new(),
        };
        Books(Arc::new(Mutex::new(log)))
    }

    /// Reads on, and does something with what is known then.
    fn with<T>(&self, then: impl FnOnce(&mut Log) -> T) -> T {
        let mut log = self.0.lock().unwrap();
        log.read_on();
        then(&mut log)
    }

    /// An upstream has got so many requests, none of which it has answered before this returns: each has
    /// its attempt on record.
    pub(crate) fn arrived(&self, upstream: &str, requests: usize) {
        self.with(|log| {
            let attempts = log.attempts.get(upstream).copied().unwrap_or_default();
            if (requests as u64) > attempts {
                let words = format!("{requests} requests to {upstream}, {attempts} on record");
                log.wrong.push(words);
            }
        });
    }

    /// The lines about a request, once it has ended.
    pub(crate) fn take(&self, id: &str) -> Option<Vec<Value>> {
        self.with(|log| {
            let is_open = log.open.keys().any(|(request, _)| request == id);
            if is_open { None } else { log.of_request.remove(id) }
        })
    }

    /// What was read since this was last asked for. Whatever was wrong in it ends the test.
    pub(crate) fn unseen(&self) -> String {
        let take = |log: &mut Log| (std::mem::take(&mut log.unseen), log.wrong.clone());
        let (unseen, wrong) = self.with(take);
        assert!(wrong.is_empty(), "{wrong:#?}");
        unseen
    }

    /// Attempts without an outcome.
    pub(crate) fn open(&self) -> Vec<Value> {
        self.with(|log| log.open.values().cloned().collect())
    }

    /// All attempts so far.
    pub(crate) fn attempts(&self) -> u64 {
        self.with(|log| log.attempts.values().sum())
    }
}

impl Log {
    fn read_on(&mut self) {
        self.file.read_to_end(&mut self.rest).unwrap();
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let text = String::from_utf8(self.rest.drain(..end).collect()).unwrap();
        for line in text.lines() {
            self.enter(serde_json::from_str(line).unwrap());
        }
        self.unseen.push_str(&text);
    }

    /// Every line has its number; every attempt comes before its one outcome; what never goes to a cloud
    /// was only ever tried here or on the premises.
    fn enter(&mut self, line: Value) {
        self.lines += 1;
        let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let (id, upstream) = (word("id"), word("upstream"));
        let key = (id.clone(), line["attempt"].as_u64().unwrap_or_default());
        let wrong = match word("kind").as_str() {
            _ if line["seq"].as_u64() != Some(self.lines) => "a line has another number",
            "attempt" => {
                *self.attempts.entry(upstream.clone()).or_default() += 1;
                let is_cloud = !["edge", WARD].contains(&upstream.as_str());
                match self.open.insert(key, line.clone()) {
                    Some(_) => "an attempt is on record twice",
                    None if line["never_cloud"] != false && is_cloud => "it never goes to a cloud",
                    None if !line["allowed"].as_array().unwrap().contains(&upstream.into()) => {
                        "it may not go there"
                    }
                    None => "",
                }
            }
            "outcome" if self.open.remove(&key).is_none() => "an outcome before its attempt",
            "outcome" | "refusal" | "policy" => "",
            _ => "a line of another kind",
        };
        if !wrong.is_empty() {
            self.wrong.push(format!("{wrong}: {line}"));
        }
        self.of_request.entry(id).or_default().push(line);
    }
}
