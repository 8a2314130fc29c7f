//! `sluice decide`: says where a request would go and why, without sending it anywhere.
//!
//! The same classification and the same decision as in serving, over facts that are assumed or given
//! ([`facts`]). It opens no socket, loads no model and writes no audit record.

mod batch;
mod facts;
mod question;
mod verdict;
mod words;

use std::io::{Read, Write};
use std::path::PathBuf;

use sluice::active_policy::origin::Origin;
use sluice::capability::{Capabilities, Needs};
use sluice::config::Config;
use sluice_policies::{Facts, PolicySet};

use self::question::{Question, Unreadable};
use self::verdict::Verdict;
use self::words::InWords;
use super::policy::load_site;
use super::{Failure, OrUsage, Outcome, Status, input, out, today};

/// Flags of `sluice decide`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Plain text or a chat request in JSON; `-` or nothing reads stdin
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON document; the facts go to stderr
    #[arg(long)]
    json: bool,
    /// Read JSON Lines {"id", "text" | "messages", …} and print one JSON verdict a line, in order
    #[arg(long)]
    batch: bool,
    /// Facts in JSON or YAML; default: the edge healthy, one healthy cloud with nothing vouched
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    facts: Option<PathBuf>,
    /// Take policies and upstreams from this sluice.yaml, all of them assumed healthy
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Decide with this site.yaml or the one in this folder; default: the config's, else the policies in the binary
    #[arg(long, value_name = "FILE")]
    policies: Option<PathBuf>,
    /// Decide as if there were no network
    #[arg(long)]
    offline: bool,
}

/// Everything that a decision rests on.
pub(super) struct Judge {
    policies: PolicySet,
    facts: Facts,
    /// What the upstreams of the facts can do, in their order; empty where no config says.
    capabilities: Vec<Capabilities>,
}

/// A longer text than this is surely not meant; the gateway itself takes far less.
const INPUT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Reads, decides, prints.
pub(super) fn run(args: &Args) -> Outcome {
    let judge = judge(args)?;
    let input = input::open(args.file.as_deref()).or_usage()?;
    if args.batch {
        return run_batch(&judge, input);
    }
    let question = Question::from_text(&input::text(input, INPUT_BYTES_MAX).or_usage()?);
    let verdict = if args.json {
        let verdict = judge.verdict(question);
        out::note(facts_line(&judge.facts)?);
        out::json(&verdict)?;
        verdict
    } else {
        let (verdict, words) = judge.in_words(question);
        out::piece(&words)?;
        verdict
    };
    Ok(if verdict.error.is_some() { Status::Finding } else { Status::Done })
}

fn run_batch(judge: &Judge, input: Box<dyn Read>) -> Outcome {
    out::note(facts_line(&judge.facts)?);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut stdout = out::lock();
    let bad_lines = batch::run(judge, input, &mut stdout, threads)?;
    stdout.flush()?;
    if bad_lines == 0 {
        return Ok(Status::Done);
    }
    out::note(format_args!("lines that could not be read and are refused: {bad_lines}"));
    Ok(Status::Finding)
}

fn facts_line(facts: &Facts) -> serde_json::Result<String> {
    Ok(format!("facts used: {}", serde_json::to_string(facts)?))
}

fn judge(args: &Args) -> Result<Judge, Failure> {
    let config = args.config.as_deref().map(Config::load_for_decisions).transpose().or_usage()?;
    let today = today();
    let mut facts = match (&args.facts, &config) {
        (Some(path), _) => facts::read(path, today).or_usage()?,
        (None, Some(config)) => facts::from_config(config, today),
        (None, None) => facts::assumed(today),
    };
    if args.offline {
        facts.offline = Some("declared by --offline".to_owned());
    }
    let policies = match (&args.policies, &config) {
        (None, Some(config)) => Origin::of(&config.policy).load(today).or_usage()?.set,
        (site, _) => load_site(site.as_deref())?,
    };
    let capabilities = config.as_ref().map(facts::capabilities).unwrap_or_default();
    Ok(Judge { policies, facts, capabilities })
}

impl Judge {
    /// Decides by a set over assumed facts: the edge idle and healthy, one cloud without a vouch.
    pub(super) fn assumed(policies: PolicySet) -> Judge {
        Judge { policies, facts: facts::assumed(today()), capabilities: Vec::new() }
    }

    /// The policies that decide.
    pub(super) fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// Decides over one line of a batch.
    pub(super) fn line(&self, line: &[u8]) -> Verdict {
        self.verdict(Question::from_line(line))
    }

    /// The facts, with what the request says of itself and what the upstreams lack for it.
    fn facts_for(&self, needs: &Needs) -> Facts {
        let mut facts = Facts { request: needs.said.clone(), ..self.facts.clone() };
        for (upstream, can) in facts.upstreams.iter_mut().zip(&self.capabilities) {
            upstream.lacks = needs.lacking(can);
        }
        facts
    }

    fn verdict(&self, question: Result<Question, Unreadable>) -> Verdict {
        match question {
            Err(Unreadable { id, why }) => Verdict::unreadable(id, why),
            Ok(Question { id, prompt, needs }) => {
                let found = self.policies.classify(&prompt);
                let facts = self.facts_for(&needs);
                let decision = self.policies.decide(&found, &facts);
                Verdict::decided(id, found, decision, &facts.request)
            }
        }
    }

    /// The verdict, and the same for a person with the reasons of every rule.
    fn in_words(&self, question: Result<Question, Unreadable>) -> (Verdict, String) {
        match question {
            Err(unreadable) => {
                let verdict = self.verdict(Err(unreadable));
                let words = InWords { verdict: &verdict, reasons: None, facts: &self.facts };
                let words = words.to_string();
                (verdict, words)
            }
            Ok(Question { id, prompt, needs }) => {
                let found = self.policies.classify(&prompt);
                let facts = self.facts_for(&needs);
                let decision = self.policies.decide(&found, &facts);
                let reasons = self.policies.explain(&prompt, &found, &decision);
                let verdict = Verdict::decided(id, found, decision, &facts.request);
                let words = InWords { verdict: &verdict, reasons: Some(&reasons), facts: &facts };
                let words = words.to_string();
                (verdict, words)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn judge() -> Judge {
        let facts = facts::assumed(jiff::civil::date(2026, 12, 1));
        let policies = PolicySet::shipped().expect("the shipped policies load");
        Judge { policies, facts, capabilities: Vec::new() }
    }

    fn batch(judge: &Judge, input: &str, threads: usize) -> (Vec<Value>, usize) {
        let mut output = Vec::new();
        let bad_lines = batch::run(judge, input.as_bytes(), &mut output, threads).unwrap();
        let lines = String::from_utf8(output).unwrap();
        (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), bad_lines)
    }

    #[test]
    fn decides_what_a_person_would_expect() {
        let judge = judge();
        let cases = [
            ("Name three fruits.", "cloud", "assumed-cloud", "internal"),
            ("Charge card 4111 1111 1111 1111, expiry 04/29", "edge", "edge", "regulated"),
            (
                r#"{"text": "Summarise this note", "headers": {"x-data-class": "phi"}}"#,
                "edge",
                "edge",
                "regulated",
            ),
        ];
        for (text, route, upstream, class) in cases {
            let verdict = judge.verdict(Question::from_text(text));
            let json = serde_json::to_value(&verdict).unwrap();
            assert_eq!(json["route"], route, "{json}");
            assert_eq!(json["upstream"], upstream, "{json}");
            assert_eq!(json["class"], class, "{json}");
        }
    }

    #[test]
    fn a_batch_keeps_its_order_on_any_number_of_threads_and_goes_on_after_a_bad_line() {
        let judge = judge();
        let line = |i: usize| match i % 50 {
            7 => "{broken\n".to_owned(),
            8 => format!("{{\"id\": {i}, \"text\": \"4111 1111 1111 1111 expires 04/29\"}}\n"),
            _ => format!("{{\"id\": {i}, \"text\": \"Name three fruits.\"}}\n"),
        };
        let input: String = (0..200).map(line).collect();
        let (alone, bad_lines) = batch(&judge, &input, 1);
        assert_eq!(bad_lines, 4);
        assert_eq!(alone.len(), 200);
        for (i, verdict) in alone.iter().enumerate() {
            let (id, route) = match i % 50 {
                7 => (Value::Null, "refuse"),
                8 => (Value::from(i), "edge"),
                _ => (Value::from(i), "cloud"),
            };
            assert_eq!((&verdict["id"], verdict["route"].as_str()), (&id, Some(route)), "{i}");
            assert_eq!(verdict["error"].is_string(), i % 50 == 7, "{verdict}");
        }
        assert_eq!(batch(&judge, &input, 4).0, alone);
    }

    #[test]
    fn no_verdict_repeats_the_text() {
        let judge = judge();
        let text = "Charge card 4111 1111 1111 1111, expiry 04/29, for Zebulon";
        let (verdict, words) = judge.in_words(Question::from_text(text));
        let json = serde_json::to_string(&verdict).unwrap();
        for shown in [json, words] {
            assert!(!shown.contains("4111") && !shown.contains("Zebulon"), "{shown}");
        }
    }

    #[test]
    fn words_name_the_rule_and_the_law() {
        let judge = judge();
        let (_, words) = judge.in_words(Question::from_text("card 4111 1111 1111 1111 exp 04/29"));
        assert!(words.starts_with("Stays on this machine"), "{words}");
        assert!(words.contains("payment_card") && words.contains("PCI DSS"), "{words}");
    }

    #[test]
    fn offline_leaves_the_edge() {
        let mut judge = judge();
        judge.facts.offline = Some("declared".to_owned());
        let verdict = judge.verdict(Question::from_text("Name three fruits."));
        assert_eq!(verdict.upstream.as_deref(), Some("edge"));
        assert_eq!(verdict.allowed, ["edge"]);
    }
}
