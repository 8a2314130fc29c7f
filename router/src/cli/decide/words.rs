//! A verdict in words, for a person who asks why: the outcome first, then what it rests on.
//!
//! Nothing here quotes the request: detectors, places and clauses of rules are named, texts never.

use std::fmt;

use sluice_policies::{
    Complexity, Explanation, Facts, Finding, Likelihood, Mode, Quality, Route, RuleExplanation,
    Sign, UpstreamFacts,
};

use super::verdict::Verdict;

/// Shows a verdict with its reasons and the facts that it rests on.
pub(super) struct InWords<'a> {
    pub(super) verdict: &'a Verdict,
    /// What the rules say; `None` for a request that could not be read.
    pub(super) reasons: Option<&'a Explanation>,
    pub(super) facts: &'a Facts,
}

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outcome(f)?;
        self.findings(f)?;
        if let Some(reasons) = self.reasons {
            rules(f, &reasons.rules)?;
            list(f, "What would have changed it", &reasons.would_change)?;
        }
        self.facts(f)
    }
}

impl InWords<'_> {
    fn outcome(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = self.verdict;
        writeln!(f, "{}\n", headline(verdict))?;
        row(f, "why", verdict.error.as_deref().unwrap_or(&verdict.reason))?;
        row(f, "class", verdict.class.as_deref().unwrap_or("unknown"))?;
        row(f, "labels", &listed(&verdict.labels))?;
        row(f, "latency", verdict.latency.as_deref().unwrap_or("unknown"))?;
        if let Some(complexity) = verdict.complexity {
            row(f, "work", &work_words(complexity, &verdict.signs))?;
        }
        row(f, "may answer", &listed(&verdict.allowed))?;
        if verdict.redact {
            row(f, "redact", "findings are replaced by placeholders before the text is sent")?;
        }
        Ok(())
    }

    fn findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.verdict.findings.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nFound (the text itself is never shown)")?;
        let explained = self.reasons.map_or(&[][..], |reasons| &reasons.findings);
        for (index, finding) in self.verdict.findings.iter().enumerate() {
            let Finding { detector, place, likelihood, .. } = finding;
            writeln!(f, "  {detector:<22} {:<12} {place}", likelihood_word(*likelihood))?;
            let because = explained.get(index).map_or(&[][..], |explained| &explained.because);
            because.iter().try_for_each(|reason| writeln!(f, "      {reason}"))?;
        }
        Ok(())
    }

    fn facts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = self.facts;
        writeln!(f, "\nFacts used (nothing was contacted)")?;
        row(f, "today", &facts.today.to_string())?;
        row(f, "mode", mode_word(facts.mode))?;
        row(f, "network", facts.offline.as_deref().unwrap_or("online"))?;
        if !facts.audit_writable {
            row(f, "audit", "not writable")?;
        }
        if facts.tainted || facts.taint_unknown {
            row(f, "taint", if facts.tainted { "tainted" } else { "unknown" })?;
        }
        facts
            .upstreams
            .iter()
            .try_for_each(|upstream| row(f, &upstream.id, &upstream_words(upstream)))
    }
}

/// The rules that matched, with the clauses that held.
fn rules(f: &mut fmt::Formatter<'_>, rules: &[RuleExplanation]) -> fmt::Result {
    let mut matched = rules.iter().filter(|rule| rule.matched).peekable();
    if matched.peek().is_none() {
        return Ok(());
    }
    writeln!(f, "\nRules that matched")?;
    for rule in matched {
        let citation = rule.citation.as_deref().map(|law| format!(" ({law})")).unwrap_or_default();
        writeln!(f, "  {}  {}{citation}", rule.rule, rule.title)?;
        for clause in rule.clauses.iter().filter(|clause| clause.held) {
            writeln!(f, "    {:indent$}{}", "", clause.words, indent = 2 * clause.depth)?;
        }
    }
    Ok(())
}

fn list(f: &mut fmt::Formatter<'_>, heading: &str, sentences: &[String]) -> fmt::Result {
    if sentences.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{heading}")?;
    sentences.iter().try_for_each(|sentence| writeln!(f, "  {sentence}"))
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:<14} {value}")
}

fn headline(verdict: &Verdict) -> String {
    let upstream = verdict.upstream.as_deref().unwrap_or("none");
    match verdict.route {
        Route::Edge => "Stays on this machine: the embedded engine answers.".to_owned(),
        Route::OnPrem => format!("Stays on the premises: {upstream} answers."),
        Route::Cloud => format!("May go to the cloud: {upstream} answers."),
        Route::Refuse => "Refused: nothing answers.".to_owned(),
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn work_words(complexity: Complexity, signs: &[Sign]) -> String {
    let signs: Vec<&str> = signs.iter().map(|sign| sign.in_words()).collect();
    match signs.is_empty() {
        true => complexity.in_words().to_owned(),
        false => format!("{} ({})", complexity.in_words(), signs.join(", ")),
    }
}

fn likelihood_word(likelihood: Likelihood) -> &'static str {
    match likelihood {
        Likelihood::Possible => "possible",
        Likelihood::Likely => "likely",
        Likelihood::VeryLikely => "very likely",
    }
}

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Trial => "trial",
        Mode::Production => "production",
    }
}

fn quality_word(quality: Quality) -> &'static str {
    match quality {
        Quality::Demo => "demo",
        Quality::General => "general",
        Quality::Approved => "approved",
    }
}

fn upstream_words(upstream: &UpstreamFacts) -> String {
    let mut health = if upstream.healthy { "healthy" } else { "down" }.to_owned();
    if !upstream.lacks.is_empty() {
        let lacks: Vec<&str> = upstream.lacks.iter().map(|what| what.in_words()).collect();
        health = format!("{health}, lacks {}", lacks.join(", "));
    }
    if upstream.edge {
        let quality = upstream.quality.map_or("unstated", quality_word);
        return format!("the embedded engine, {health}, {quality} quality");
    }
    format!("{}://{}:{}, {health}", upstream.scheme, upstream.host, upstream.port)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use sluice_policies::Clause;

    use super::super::facts::assumed;
    use super::*;

    #[test]
    fn an_unreadable_request_is_said_to_be_refused_and_why() {
        let facts = assumed(jiff::civil::date(2026, 12, 1));
        let verdict = Verdict::unreadable(Value::Null, "expected a JSON object".into());
        let words = InWords { verdict: &verdict, reasons: None, facts: &facts }.to_string();
        assert_eq!(
            words,
            "\
Refused: nothing answers.

  why            expected a JSON object
  class          unknown
  labels         none
  latency        unknown
  may answer     none

Facts used (nothing was contacted)
  today          2026-12-01
  mode           trial
  network        online
  edge           the embedded engine, healthy, demo quality
  assumed-cloud  https://assumed-cloud.invalid:443, healthy
"
        );
    }

    #[test]
    fn only_rules_that_matched_and_clauses_that_held_are_shown() {
        let clause = |words: &str, depth, held| Clause { words: words.into(), depth, held };
        let rule = |id: &str, matched| RuleExplanation {
            rule: id.into(),
            title: "A card".into(),
            citation: Some("PCI DSS 3.4".into()),
            matched,
            clauses: vec![clause("any of", 0, true), clause("x", 1, false), clause("y", 1, true)],
        };
        let reasons = Explanation {
            findings: Vec::new(),
            rules: vec![rule("PCI-001", true), rule("PCI-002", false)],
            would_change: Vec::new(),
            reason: String::new(),
        };
        let shown = InRules(&reasons.rules).to_string();
        assert_eq!(
            shown,
            "\nRules that matched\n  PCI-001  A card (PCI DSS 3.4)\n    any of\n      y\n"
        );
    }

    struct InRules<'a>(&'a [RuleExplanation]);

    impl fmt::Display for InRules<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            rules(f, self.0)
        }
    }
}
