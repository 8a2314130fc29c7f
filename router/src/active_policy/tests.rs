//! What comes into force, what is held back, and what serves on: over files in a folder.

use std::fs;

use super::loosening::{Acceptance, Approval};
use super::state::StateFolder;
use super::*;
use crate::config::ApproverKeys;
use crate::signing::SigningKey;

const SHIPPED: &str = include_str!("../../../policies/site.yaml");

/// A gateway's folder: `site.yaml`, the state, keys of approvers.
struct Place {
    folder: tempfile::TempDir,
    config: Config,
    metrics: Arc<Metrics>,
}

impl Place {
    fn new(mode: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "mode: {mode}\npolicy: {{site: site.yaml, signatures: {{keys: officers.pub}}, \
             last_good: {{path: state}}}}\n"
        );
        let config = Config::parse("sluice.yaml", &text, folder.path()).unwrap();
        let place = Place { folder, config, metrics: Arc::new(Metrics::new()) };
        place.write(SHIPPED);
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, site: &str) {
        fs::write(self.at("site.yaml"), site).unwrap();
    }

    fn open(&self) -> Result<ActivePolicy, Arc<Refused>> {
        ActivePolicy::open(&self.config, self.metrics.clone())
    }

    fn state(&self) -> StateFolder {
        StateFolder::new(self.at("state"))
    }

    /// The step to the present files.
    fn step(&self) -> Step {
        let files = Files::new(&self.config);
        let set = files.origin().load(today()).unwrap().set;
        files.step_to(&set).expect("a set was in force")
    }

    fn accept(&self, step: &Step, approvals: Vec<Approval>) {
        let (from, to, verdicts) = (step.from.clone(), step.to.clone(), step.verdicts.clone());
        let acceptance = Acceptance {
            from,
            to,
            verdicts,
            reason: "test".into(),
            by: "ann".into(),
            at: Timestamp::now(),
            loosened: step.loosened.clone(),
            approvals,
        };
        self.state().accept(&acceptance).unwrap();
    }

    /// Makes a key for each name and lists the public halves.
    fn officers(&self, names: &[&str]) -> Vec<SigningKey> {
        let make = |name: &&str| SigningKey::create(&self.at(&format!("{name}.key"))).unwrap();
        let keys: Vec<_> = names.iter().map(make).collect();
        let lines = names.iter().zip(&keys).map(|(name, key)| key.public(name).to_string() + "\n");
        fs::write(self.at("officers.pub"), lines.collect::<String>()).unwrap();
        keys
    }

    fn sign(&self, from: &str, by: &str, key: &SigningKey) -> Approval {
        let set = Files::new(&self.config).origin().load(today()).unwrap().set;
        Approval::sign(from, &set, by, key)
    }

    fn count(&self, result: &str) -> f64 {
        let line = format!("sluice_policy_activations_total{{result=\"{result}\"}} ");
        let text = self.metrics.render_at_start();
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0.0, |v| v.parse().unwrap())
    }
}

/// A site that sends images anywhere: looser than the shipped one.
fn looser() -> String {
    SHIPPED.replace("    image: private", "    image: internal").replace(
        "given: {content: image}, expect: edge, class: regulated",
        "given: {content: image}, expect: cloud",
    )
}

fn renamed(version: &str) -> String {
    SHIPPED.replace("version: \"1.0.0\"", &format!("version: \"{version}\""))
}

fn error_of(result: Result<impl Sized, Arc<Refused>>) -> Arc<Refused> {
    result.err().expect("refused")
}

#[test]
fn a_refused_file_leaves_the_last_good_set_in_force() {
    let place = Place::new("trial");
    let active = place.open().unwrap();
    let first = active.current().digest().to_owned();

    place.write(&SHIPPED.replace("caller_unknown:", "caller_unknwon:"));
    let error = error_of(active.reload());
    assert!(error.text.contains("caller_unknwon"), "{error}");
    let line = SHIPPED.lines().position(|line| line.contains("caller_unknown:")).unwrap() + 1;
    assert_eq!(active.refused().unwrap().line as usize, line);
    assert_eq!(active.current().digest(), first);

    // A set whose tests fail is refused like one that cannot be read.
    place.write(&SHIPPED.replace("allow_demo_model: false", "allow_demo_model: true"));
    error_of(active.reload());
    assert_eq!(active.current().digest(), first);

    place.write(&renamed("1.0.1"));
    let renewed = active.reload().unwrap();
    assert_ne!(renewed.digest(), first);
    assert_eq!(active.current().digest(), renewed.digest());
    assert!(active.refused().is_none());
    assert_eq!((place.count("activated"), place.count("refused")), (2.0, 2.0));
}

#[test]
fn the_last_good_set_serves_on_after_a_restart_with_its_age() {
    let place = Place::new("production");
    let first = place.open().unwrap().in_force();
    place.write("site: [");
    let active = place.open().unwrap();
    let again = active.in_force();
    assert_eq!((again.set.digest(), again.since), (first.set.digest(), first.since));
    assert!(again.last_good);
    let detail = active.detail();
    assert_eq!(detail["source"], "last_good");
    assert_eq!(detail["refused"]["file"], "site.yaml");

    place.write(&renamed("1.0.1"));
    active.reload().unwrap();
    assert!(!active.in_force().last_good);
}

#[test]
fn without_any_valid_set_nothing_is_in_force() {
    let place = Place::new("production");
    place.write("site: [");
    assert_eq!(error_of(place.open()).file.as_deref(), Some("site.yaml"));
    assert_eq!(place.count("refused"), 1.0);
    // What was kept and is damaged is no set, and whatever it held may be loosened.
    place.write(SHIPPED);
    place.open().unwrap();
    fs::write(place.at("state/active"), "garbage").unwrap();
    let error = error_of(place.open());
    assert!(error.text.contains("cannot be read"), "{error}");
    assert_eq!(place.step().from, loosening::UNREADABLE);
}

#[test]
fn a_loosening_is_held_until_it_is_accepted_for_this_very_step() {
    let place = Place::new("trial");
    let active = place.open().unwrap();
    let first = active.current().digest().to_owned();
    place.write(&looser());
    let error = error_of(active.reload());
    assert!(error.text.contains("nobody accepted that"), "{error}");
    assert_eq!(place.count("held"), 1.0);
    // Nor does a restart take it.
    assert_eq!(place.open().unwrap().current().digest(), first);

    let mut step = place.step();
    step.from = "0".repeat(64);
    place.accept(&step, vec![]);
    let error = error_of(active.reload());
    assert!(error.text.contains("is for the step from 000000000000"), "{error}");

    place.accept(&place.step(), vec![]);
    assert_eq!(active.reload().unwrap().digest(), place.step().to);
    let history = fs::read_to_string(place.at("state/history.jsonl")).unwrap();
    assert!(history.lines().nth(1).unwrap().contains("\"by\":\"ann\""), "{history}");

    // The acceptance is used up: the same step needs another one.
    place.write(SHIPPED);
    active.reload().unwrap();
    place.write(&looser());
    error_of(active.reload());
}

#[test]
fn a_loosened_floor_is_never_accepted() {
    let place = Place::new("trial");
    let active = place.open().unwrap();
    let tests = SHIPPED.find("# Where requests go").unwrap();
    place.write(&SHIPPED[..tests].replace("packs: [default]", "packs: [gdpr]"));
    let step = place.step();
    assert!(step.forbidden.iter().any(|sentence| sentence.contains("rule PCI")), "{step:?}");
    place.accept(&step, vec![]);
    let error = error_of(active.reload());
    assert!(error.text.contains("a floor is never loosened"), "{error}");
    assert!(error.text.contains("restore the floor rule"), "{error}");
}

#[test]
fn in_production_a_loosening_needs_two_different_approvers() {
    let place = Place::new("production");
    let keys = place.officers(&["ann", "bob"]);
    let stranger = SigningKey::create(&place.at("stranger.key")).unwrap();
    let active = place.open().unwrap();
    place.write(&looser());
    let step = place.step();
    let ann = place.sign(&step.from, "ann", &keys[0]);
    let bob = place.sign(&step.from, "bob", &keys[1]);
    let elsewhere = place.sign(&"0".repeat(64), "bob", &keys[1]);
    let strange = place.sign(&step.from, "bob", &stranger);
    for (approvals, expected) in [
        (vec![], "0 of 2 approvers signed"),
        (vec![ann.clone()], "1 of 2 approvers signed"),
        (vec![ann.clone(), ann.clone()], "1 of 2 approvers signed (ann signed twice)"),
        (vec![ann.clone(), strange], "(the signature of bob holds under no key)"),
        (vec![ann.clone(), elsewhere], "(bob signed another step"),
    ] {
        place.accept(&step, approvals);
        let error = error_of(active.reload());
        assert!(error.text.contains(expected), "{expected}: {error}");
    }
    place.accept(&step, vec![ann, bob]);
    active.reload().unwrap();
}

#[test]
fn in_production_nothing_is_loosened_without_keys_of_approvers() {
    let mut place = Place::new("production");
    place.config.policy.signatures = None;
    let active = place.open().unwrap();
    place.write(&looser());
    place.accept(&place.step(), vec![]);
    let error = error_of(active.reload());
    assert!(error.text.contains("policy.signatures.keys"), "{error}");
    place.config.policy.signatures =
        Some(ApproverKeys { required: 2, keys: place.at("missing.pub") });
    let error = error_of(place.open().and_then(|active| active.reload()));
    assert!(error.text.contains("failed to read"), "{error}");
}

#[test]
fn a_program_that_finds_less_is_held_like_a_loosened_file() {
    let place = Place::new("trial");
    place.open().unwrap();
    // As an earlier program would have kept it, that found more in one case.
    let mut stored = place.state().active().unwrap().unwrap();
    let case = stored.verdicts.iter_mut().find(|v| v.class == "internal").unwrap();
    case.class = "regulated".into();
    place.state().store(&stored).unwrap();
    let error = error_of(place.open());
    assert!(error.text.contains("was regulated"), "{error}");

    let step = place.step();
    assert_eq!(step.from, step.to);
    place.accept(&step, vec![]);
    assert_eq!(place.open().unwrap().current().digest(), step.to);
    // From now on this is what the set decides.
    place.open().unwrap();
}

#[test]
fn without_an_audit_log_nothing_comes_into_force_that_looks_for_something() {
    let tests = SHIPPED.find("# Where requests go").unwrap();
    let plain = SHIPPED[..tests].replace("packs: [default]", "packs: []");
    let with = |site: &str| {
        let mut place = Place::new("trial");
        place.config.audit.off = true;
        place.write(site);
        place
    };
    let refused = with(SHIPPED).open().err().expect("a set that looks for something is refused");
    for words in ["audit.off: expected policies that look for nothing, got 8 packs", "sluice.yaml"]
    {
        assert!(refused.text.contains(words), "{refused}");
    }
    // What was in force while there was a log does not serve on without one.
    let mut before = with(SHIPPED);
    before.config.audit.off = false;
    drop(before.open().unwrap());
    before.config.audit.off = true;
    assert!(before.open().is_err());

    let place = with(&plain);
    let policy = place.open().unwrap();
    let digest = policy.current().digest().to_owned();
    place.write(SHIPPED);
    let refused = policy.reload().err().expect("the same at a reload");
    assert!(refused.text.contains("audit.off"), "{refused}");
    assert_eq!(policy.current().digest(), digest, "the set in force serves on");
}
