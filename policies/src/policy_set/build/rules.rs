//! Compiles the rules of every part of a set, and the tests that belong to them.

use super::{Builder, Part, SITE};
use crate::condition::Condition;
use crate::error::suggest;
use crate::pack::Permission;
use crate::policy_set::check::RuleTest;
use crate::rule::{Expect, Rule, RuleMode, RuleSpec, TestSpec, ThenSpec};
use crate::yaml::At;

impl Builder<'_> {
    pub(super) fn read_rules(&mut self) {
        for index in 0..self.parts.len() {
            for spec in self.parts[index].rules {
                self.read_rule(index, spec);
            }
        }
        self.rules.sort_by(|a, b| a.id.cmp(&b.id));
        for index in 0..self.parts.len() {
            let Part { document, tests, .. } = self.parts[index];
            for test in tests {
                self.read_loose_test(document, test);
            }
        }
        self.give_tests_their_tenant();
        self.warn_about_untested_rules();
    }

    /// A test of a tenant's rule is about a request of that tenant, unless it says whose.
    fn give_tests_their_tenant(&mut self) {
        for test in self.rule_tests.iter_mut().filter(|test| test.given.tenant.is_none()) {
            let rule = self.rules.iter().find(|rule| rule.id == test.rule);
            test.given.tenant = rule.and_then(|rule| rule.tenant.clone());
        }
    }

    fn read_rule(&mut self, part: usize, spec: &RuleSpec) {
        let Part { document, tenant, owner, effective: pack, .. } = self.parts[part];
        if let Some(other) = self.rules.iter().find(|rule| rule.id == spec.id.value) {
            let message =
                format!("rule \"{}\" already stands in {}:{}", other.id, other.file, other.line);
            self.errors.push((document, spec.id.complaint(message, None)));
            return;
        }
        if spec.floor && spec.mode.value == RuleMode::Shadow {
            let message = "a floor rule cannot be a shadow";
            let hint = Some("remove floor: true in a reviewed change first".to_owned());
            self.errors.push((document, spec.mode.complaint(message, hint)));
        }
        let condition = Condition::compile(&spec.when, &self.vocabulary);
        let (class, redact) = self.read_consequence(document, spec);
        let when = match condition {
            Ok(condition) => condition,
            Err(complaint) => return self.errors.push((document, complaint)),
        };
        let mut labels: Vec<String> =
            spec.then.value.label.0.iter().map(|l| l.value.clone()).collect();
        labels.sort();
        let tests = spec.tests.0.iter().map(|test| (test, spec.id.value.clone()));
        let tests: Vec<_> = tests.collect();
        for (test, rule) in tests {
            self.add_test(document, test, rule);
        }
        self.rules.push(Rule {
            id: spec.id.value.clone(),
            file: self.documents[document].source.name.clone(),
            line: spec.id.line,
            tenant: tenant.map(str::to_owned),
            owner: owner.to_owned(),
            title: spec.title.clone(),
            citation: spec.citation.clone(),
            severity: spec.severity,
            floor: spec.floor,
            mode: spec.mode.value,
            labels,
            because: spec.then.value.because.clone().unwrap_or_else(|| spec.title.clone()),
            class,
            redact,
            effective: pack.and(spec.effective.unwrap_or_default()),
            needs_findings: when.needs_findings(),
            when,
        });
    }

    /// The class that a rule raises to, its labels counted in, and whether it allows placeholders.
    fn read_consequence(&mut self, document: usize, spec: &RuleSpec) -> (usize, bool) {
        let then = &spec.then.value;
        if then.label.0.is_empty() && then.class.is_none() {
            let hint = "write then: {label: NAME, because: …} or then: {class: NAME, because: …}";
            let message = "the rule says nothing: it names neither a label nor a class";
            self.errors.push((document, spec.then.complaint(message, Some(hint.to_owned()))));
        }
        let mut class = then.class.as_ref().map_or(0, |name| self.class_of(document, name));
        let mut redact = then.redact || self.site_redacts(then);
        for name in &then.label.0 {
            let Some(label) = self.labels.iter().find(|label| label.name == name.value) else {
                let known = self.labels.iter().map(|label| label.name.as_str());
                let message = format!("unknown label \"{}\"", name.value);
                let complaint = name.complaint(message, suggest(&name.value, known));
                self.errors.push((document, complaint));
                continue;
            };
            class = class.max(label.class);
            if then.redact && (label.redact == Permission::Never || label.never_cloud) {
                let message = format!("the label {} forbids redact", label.name);
                self.errors.push((document, spec.then.complaint(message, None)));
            }
            redact &= label.redact == Permission::Allowed;
        }
        if then.redact && self.classes.get(class).is_some_and(|class| class.never_cloud) {
            let message = "redact is illegal for a class that never goes to a cloud";
            self.errors.push((document, spec.then.complaint(message, None)));
        }
        (class, redact)
    }

    /// The site lets placeholders stand for what rules of all these labels found.
    fn site_redacts(&self, then: &ThenSpec) -> bool {
        let named = &self.site.redaction.labels.0;
        let redacts = |label: &At<String>| named.iter().any(|name| name.value == label.value);
        !then.label.0.is_empty() && then.label.0.iter().all(redacts)
    }

    /// The labels that the site lets be redacted exist and allow it.
    pub(super) fn check_redaction(&mut self) {
        let site = self.site;
        for name in &site.redaction.labels.0 {
            let complaint = match self.labels.iter().find(|label| label.name == name.value) {
                None => {
                    let known = self.labels.iter().map(|label| label.name.as_str());
                    let message = format!("unknown label \"{}\"", name.value);
                    name.complaint(message, suggest(&name.value, known))
                }
                Some(label) if label.never_cloud || self.classes[label.class].never_cloud => {
                    let message =
                        format!("redact is illegal for {}: it never goes to a cloud", label.name);
                    name.complaint(message, None)
                }
                Some(label) if label.redact == Permission::Never => {
                    let message = format!("the label {} forbids redact", label.name);
                    let hint = "its pack must say redact: allowed";
                    name.complaint(message, Some(hint.to_owned()))
                }
                Some(_) => continue,
            };
            self.errors.push((SITE, complaint));
        }
    }

    fn read_loose_test(&mut self, document: usize, test: &At<TestSpec>) {
        let Some(name) = &test.value.rule else {
            let hint = Some("add rule: HIPAA-002, or move the test into its rule".to_owned());
            let complaint = test.complaint("a test outside a rule must name its rule", hint);
            return self.errors.push((document, complaint));
        };
        if !self.rules.iter().any(|rule| rule.id == name.value) {
            let known = self.rules.iter().map(|rule| rule.id.as_str());
            let message = format!("unknown rule \"{}\"", name.value);
            let complaint = name.complaint(message, suggest(&name.value, known));
            return self.errors.push((document, complaint));
        }
        self.add_test(document, test, name.value.clone());
    }

    fn add_test(&mut self, document: usize, test: &At<TestSpec>, rule: String) {
        match RuleTest::compile(test, document, rule) {
            Ok(test) => self.rule_tests.push(test),
            Err(complaint) => self.errors.push((document, complaint)),
        }
    }

    fn warn_about_untested_rules(&mut self) {
        use Expect::{Match, NoMatch};
        for (document, spec) in self
            .parts
            .iter()
            .flat_map(|part| part.rules.iter().map(move |rule| (part.document, rule)))
        {
            let has = |expect| {
                let mut tests = self.rule_tests.iter();
                tests.any(|test| {
                    test.rule == spec.id.value && test.expect == expect && !test.is_gap()
                })
            };
            let missing = match (has(Match), has(NoMatch)) {
                (true, true) => continue,
                (false, true) => "no test that it must match",
                (true, false) => "no test that it must not match",
                (false, false) => "no test",
            };
            let message = format!("rule \"{}\" has {missing}", spec.id.value);
            self.warnings.push((document, spec.id.complaint(message, None)));
        }
    }
}
