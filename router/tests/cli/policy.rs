//! The verbs of `sluice policy`, and policies that change under a running gateway.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::{CARD, announced, command, get, sluice, stderr, stdout};

#[test]
fn a_typo_in_a_policy_is_pointed_at() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/site.yaml");
    let text = std::fs::read_to_string(shipped).unwrap();
    assert!(text.contains("  unlabelled:"), "the shipped site answers `unlabelled`");
    let site = folder.path().join("site.yaml");
    std::fs::write(&site, text.replace("  unlabelled:", "  unlabeled:")).unwrap();
    let site = site.to_str().unwrap();
    for args in [&["policy", "test", site][..], &["decide", "--policies", site]] {
        let output = sluice(args, "a");
        assert_eq!(output.status.code(), Some(2));
        let told = stderr(&output);
        assert!(told.contains("site.yaml:") && told.contains("unlabeled"), "{told}");
        assert!(told.contains('^') && told.contains("did you mean \"unlabelled\"?"), "{told}");
    }
}

#[test]
fn the_shipped_policies_pass_their_tests_and_the_lint() {
    let output = sluice(&["policy", "test", "--json"], "");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!((&report["failed"], output.status.code()), (&Value::from(0), Some(0)), "{report}");
    assert!(report["passed"].as_u64().unwrap() > 0);
    assert_eq!(report["coverage"]["rules_covered"], report["coverage"]["rules_total"]);
    let output = sluice(&["policy", "lint", "--json"], "");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert!(report["decisions"].as_u64().unwrap() > 0);
    assert_eq!(report["counterexamples"], serde_json::json!([]));
    assert_eq!(report["unwise"], serde_json::json!([]));
}

#[test]
fn a_report_counts_misses_and_false_alarms_without_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("rows.jsonl");
    let rows = [
        format!(
            r#"{{"id":"a","text":"{CARD}","expect":"private","kind":"card","lang":"en","labels":["PCI"]}}"#
        ),
        r#"{"id":"b","text":"Write a haiku","expect":"private","kind":"poem","lang":"en"}"#
            .to_owned(),
        r#"{"id":"c","text":"Write a haiku","expect":"cloud","kind":"poem","lang":"en"}"#
            .to_owned(),
    ];
    std::fs::write(&corpus, rows.join("\n")).unwrap();
    let path = corpus.to_str().unwrap();
    let output = sluice(&["policy", "report", path, "--json"], "");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(report["recall"], 0.5);
    assert_eq!((&report["false_alarms"], &report["missed"][0]), (&0.0.into(), &"b".into()));
    assert_eq!(report["by_label"]["PCI"]["wrong"], 0);
    assert!(!stdout(&output).contains("4111") && !stdout(&output).contains("haiku"));

    std::fs::write(&corpus, r#"{"text":"no label"}"#).unwrap();
    let output = sluice(&["policy", "report", path], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("rows.jsonl:1") && stderr(&output).contains("expect"));
}

#[test]
fn schemas_and_explanations_are_printed() {
    for kind in ["pack", "site", "detectors"] {
        let output = sluice(&["policy", "schema", kind], "");
        let schema: Value = serde_json::from_str(stdout(&output)).unwrap();
        assert!(schema["properties"].is_object(), "{kind}");
    }
    let output = sluice(&["policy", "explain"], CARD);
    assert!(stdout(&output).contains("What would have changed it"), "{}", stdout(&output));
}

#[test]
fn a_failing_policy_test_is_a_finding_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("mine.yaml");
    let text = r#"policy: mine
version: "1.0.0"
owner: me@example.org
detectors:
  chart: {looks_like: "SM-9999999", alone: likely}
rules:
  - id: MINE-001
    title: A chart number
    mode: enforce
    when: {found: chart}
    then: {class: regulated, because: "a chart number"}
    tests:
      - {say: "Chart SM-0048213", expect: match}
      - {say: "Chart SM-0048214", expect: no_match}
"#;
    std::fs::write(&pack, text).unwrap();
    let output = sluice(&["policy", "test", pack.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let told = stdout(&output);
    assert!(told.contains("mine.yaml:14: MINE-001:"), "{told}");
    assert!(told.contains("1 passed, 1 failed"), "{told}");
}

#[test]
fn policy_read_names_the_digest_that_version_names() {
    let read = sluice(&["policy", "read"], "");
    let version = sluice(&["version", "--json"], "");
    let version: Value = serde_json::from_slice(&version.stdout).expect("one JSON document");
    let digest = version["policy_digest"].as_str().unwrap();
    assert_eq!(digest.len(), 64);
    assert!(stdout(&read).contains(digest), "{}", stdout(&read));
}

#[test]
fn sighup_puts_a_changed_policy_in_force_and_keeps_the_last_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site.yaml");
    let shipped = include_str!("../../../policies/site.yaml");
    std::fs::write(&site, shipped).unwrap();
    let policies = site.to_str().unwrap();
    let serve = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--policies", policies];
    let mut child =
        command(&serve).env("XDG_STATE_HOME", folder.path()).spawn().expect("the binary starts");
    let metrics = announced(&mut child, "metrics");
    let address = metrics.trim_start_matches("http://").replace("/metrics", "");
    let ready = || -> Value {
        let reply = get(&address, "/readyz");
        serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    let hang_up = |until: &dyn Fn(&Value) -> bool| {
        let killed = Command::new("kill").args(["-HUP", &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let seen = std::iter::repeat_with(|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            ready()
        });
        seen.take(1500).find(|detail| until(detail)).expect("the reload shows within half a minute")
    };
    let first = ready()["policy"]["digest"].clone();

    std::fs::write(&site, shipped.replace("caller_unknown:", "caller_unknwon:")).unwrap();
    let refused = hang_up(&|detail| detail["policy_reload"] != "ok");
    assert_eq!((&refused["policy"]["digest"], &refused["ready"]), (&first, &Value::Bool(true)));
    let mistake = &refused["policy"]["refused"];
    let line = shipped.lines().position(|line| line.contains("caller_unknown:")).unwrap() + 1;
    assert_eq!(
        (&mistake["file"], &mistake["line"]),
        (&"site.yaml".into(), &line.into()),
        "{mistake}"
    );
    assert!(mistake["message"].as_str().unwrap().contains("caller_unknwon"), "{mistake}");

    std::fs::write(&site, shipped.replace("version: \"1.0.0\"", "version: \"1.0.1\"")).unwrap();
    let renewed = hang_up(&|detail| detail["policy"]["digest"] != first);
    assert_eq!(renewed["policy_reload"], "ok");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A site that lets images go anywhere: looser than the shipped one.
fn looser_site() -> String {
    let test = "given: {content: image}, expect: edge, class: regulated";
    include_str!("../../../policies/site.yaml")
        .replace("    image: private", "    image: internal")
        .replace(test, "given: {content: image}, expect: cloud")
}

/// Runs in a folder; what it prints is checked to end as expected.
fn in_folder(folder: &Path, args: &[&str], status: i32) -> Output {
    let output = command(args).current_dir(folder).output().expect("the binary runs");
    let said = format!("{args:?}: {}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(status), "{said}");
    output
}

#[test]
fn a_loosening_comes_into_force_in_production_once_two_approvers_have_signed_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let here = |args: &[&str], status: i32| in_folder(folder.path(), args, status);
    let config = "mode: production\nlisten: {traffic: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\"}\n\
                  policy: {site: site.yaml, signatures: {keys: officers.pub}}\naudit: {path: audit}\n";
    std::fs::write(at("sluice.yaml"), config).unwrap();
    std::fs::write(at("site.yaml"), include_str!("../../../policies/site.yaml")).unwrap();
    let public = ["ann", "bob"].map(|name| {
        let made = here(&["policy", "key", name, "-o", &format!("{name}.key")], 0);
        stdout(&made).to_owned()
    });
    std::fs::write(at("officers.pub"), public.concat()).unwrap();
    here(&["policy", "key", "ann", "-o", "ann.key"], 2);

    let mut child = command(&["serve", "--config", at("sluice.yaml").to_str().unwrap()])
        .spawn()
        .expect("the binary starts");
    let metrics = announced(&mut child, "metrics");
    let address = metrics.trim_start_matches("http://").replace("/metrics", "");
    let policy = || -> Value {
        let reply = get(&address, "/readyz");
        let detail: Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        detail["policy"].clone()
    };
    let from = policy()["digest"].as_str().unwrap().to_owned();

    std::fs::write(at("site.yaml"), looser_site()).unwrap();
    let activate = ["policy", "activate", "--config", "sluice.yaml"];
    let shown = here(&activate, 1);
    assert!(stdout(&shown).contains("loosens"), "{}", stdout(&shown));
    assert!(stdout(&shown).contains(&format!("--from {from}")), "{}", stdout(&shown));
    let accept =
        [&activate[..], &["--accept-loosening", "--reason", "pictures", "--by", "ann"]].concat();
    let refused = here(&accept, 1);
    assert!(stderr(&refused).contains("0 of 2 approvers signed"), "{}", stderr(&refused));
    assert!(!at("policy/accepted").exists(), "nothing was accepted");

    for name in ["ann", "bob"] {
        let (key, file) = (format!("{name}.key"), format!("{name}.json"));
        here(
            &[
                "policy",
                "sign",
                "site.yaml",
                "--from",
                &from,
                "--key",
                &key,
                "--by",
                name,
                "-o",
                &file,
            ],
            0,
        );
    }
    let accept = [&accept[..], &["--approval", "ann.json", "--approval", "bob.json"]].concat();
    here(&accept, 0);
    let mut seen = std::iter::repeat_with(|| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        policy()
    });
    let now = seen.by_ref().take(1500).find(|policy| policy["digest"] != from.as_str());
    assert_eq!(now.expect("the loosened set comes into force")["refused"], Value::Null);
    let history = std::fs::read_to_string(at("policy/history.jsonl")).unwrap();
    assert!(history.contains("\"reason\":\"pictures\""), "{history}");
    let nothing = here(&activate, 0);
    assert!(stdout(&nothing).contains("nothing is loosened"), "{}", stdout(&nothing));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_bundle_is_packed_and_decides_like_its_site() {
    let folder = tempfile::tempdir().unwrap();
    let here = |args: &[&str], status: i32| in_folder(folder.path(), args, status);
    let site = include_str!("../../../policies/site.yaml");
    std::fs::write(folder.path().join("site.yaml"), site).unwrap();
    let public = here(&["policy", "key", "grc", "-o", "grc.key"], 0);
    std::fs::write(folder.path().join("grc.pub"), &public.stdout).unwrap();
    let bundle =
        ["policy", "bundle", "site.yaml", "--key", "grc.key", "--serial", "4", "-o", "p.bundle"];
    let packed = here(&bundle, 0);
    assert!(stdout(&packed).starts_with("p.bundle: serial 4, "), "{}", stdout(&packed));
    here(&[&bundle[..], &["--expires", "2020-01-01"]].concat(), 2);

    let config =
        "mode: trial\npolicy: {bundle: {file: p.bundle, keys: grc.pub}}\naudit: {path: audit}\n";
    std::fs::write(folder.path().join("sluice.yaml"), config).unwrap();
    std::fs::write(folder.path().join("prompt"), CARD).unwrap();
    let decided = here(&["decide", "--json", "--config", "sluice.yaml", "prompt"], 0);
    let verdict: Value = serde_json::from_str(stdout(&decided)).unwrap();
    assert_eq!((&verdict["route"], &verdict["class"]), (&"edge".into(), &"regulated".into()));
    let first = here(&["policy", "activate", "--config", "sluice.yaml", "--json"], 0);
    let report: Value = serde_json::from_str(stdout(&first)).unwrap();
    assert_eq!((&report["from"], &report["accepted"]), (&Value::Null, &Value::Bool(true)));
    assert!(stdout(&packed).contains(report["to"].as_str().unwrap()), "{report}");
}

/// Asks a gateway for a chat completion and returns the whole reply.
fn ask(url: &str, text: &str) -> String {
    let address = url.trim_start_matches("http://");
    let message = json!({"role": "user", "content": text});
    let body = json!({"model": "m", "max_tokens": 2, "messages": [message]}).to_string();
    let mut stream = TcpStream::connect(address).expect("the gateway listens");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("the gateway reads");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("the gateway answers in text");
    reply
}

#[test]
fn requests_on_record_are_decided_again_by_another_set() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let here = |args: &[&str], status: i32| in_folder(folder.path(), args, status);
    let config = "mode: trial\nlisten: {traffic: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\"}\n\
                  policy: {site: site.yaml}\naudit: {path: audit}\n";
    let site = include_str!("../../../policies/site.yaml");
    let tighter = format!(
        "{site}\nextends:\n  default:\n    rules:\n      - id: MINE-001\n        title: Any e-mail address\n        \
         when: {{found: email}}\n        then: {{class: regulated}}\n      - id: MINE-002\n        \
         title: A tag that nobody recorded\n        when: {{tag: ward}}\n        then: {{class: regulated}}\n"
    );
    std::fs::write(at("sluice.yaml"), config).unwrap();
    std::fs::write(at("site.yaml"), site).unwrap();
    std::fs::write(at("tighter.yaml"), &tighter).unwrap();
    let mut child = command(&["serve", "--config", at("sluice.yaml").to_str().unwrap()])
        .spawn()
        .expect("the binary starts");
    let traffic = announced(&mut child, "traffic");
    for text in [CARD, "write to anya.petrova@northmill.se", "Name three fruits."] {
        assert!(ask(&traffic, text).starts_with("HTTP/1.1 200"));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let simulate = ["policy", "simulate", "tighter.yaml", "--config", "sluice.yaml"];
    let replayed = here(&[&simulate[..], &["--json"]].concat(), 0);
    let report: Value = serde_json::from_str(stdout(&replayed)).unwrap();
    assert_eq!((&report["requests"], &report["replayed"]), (&3.into(), &3.into()), "{report}");
    assert_eq!(report["blind"], json!({"MINE-002": 3}), "{report}");
    assert_eq!(report["alike"], 2, "{report}");
    let difference = &report["differences"][0];
    assert_eq!((&difference["kind"], &difference["requests"]), (&"tighten".into(), &1.into()));
    assert_eq!(difference["rules"], json!(["MINE-001"]), "{report}");
    let told = here(&simulate, 0);
    assert!(stdout(&told).contains("3 of 3 requests on record"), "{}", stdout(&told));
    assert!(stdout(&told).contains("cannot tell whether MINE-002"), "{}", stdout(&told));

    // The other way round the same difference loosens: the set in the log is taken for the older one.
    std::fs::write(at("site.yaml"), looser_site()).unwrap();
    let alike = here(&["policy", "simulate", "site.yaml", "--log", "audit"], 0);
    assert!(stdout(&alike).contains("3 decided alike"), "{}", stdout(&alike));
    here(&["policy", "simulate", "site.yaml", "--log", "nowhere"], 2);

    // What a record does not hold whole is not decided again: it would look looser than it is.
    let log = std::fs::read_to_string(at("audit/audit.jsonl")).unwrap();
    let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut full = lines.find(|line| line["kind"] == "attempt").unwrap();
    (full["id"], full["left_out"]) = (json!("full"), json!(7));
    std::fs::write(at("full.jsonl"), format!("{log}{full}\n")).unwrap();
    let partly = here(&["policy", "simulate", "site.yaml", "--log", "full.jsonl"], 0);
    assert!(stdout(&partly).contains("3 of 4 requests on record"), "{}", stdout(&partly));
    assert!(stdout(&partly).contains("1  held more findings than a record keeps"));
}

#[test]
fn a_diff_names_what_loosens_and_the_texts_that_would_move() {
    let folder = tempfile::tempdir().unwrap();
    let here = |args: &[&str], status: i32| in_folder(folder.path(), args, status);
    let site = include_str!("../../../policies/site.yaml");
    let tighter = format!(
        "{site}\nextends:\n  default:\n    rules:\n      - {{id: MINE-001, title: Fruit, when: {{found: email}}, \
         then: {{class: regulated}}}}\n"
    );
    std::fs::write(folder.path().join("tighter.yaml"), tighter).unwrap();
    let rows = [
        format!(r#"{{"id":"card","text":"{CARD}","expect":"private"}}"#),
        r#"{"id":"mail","text":"write to anya.petrova@northmill.se","expect":"cloud"}"#.to_owned(),
    ];
    std::fs::write(folder.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    let tightened = here(&["policy", "diff", "shipped", "tighter.yaml"], 0);
    assert!(stdout(&tightened).contains("tightens  rule MINE-001"), "{}", stdout(&tightened));
    let loosened =
        here(&["policy", "diff", "tighter.yaml", "shipped", "--corpus", "rows.jsonl", "--json"], 1);
    let report: Value = serde_json::from_str(stdout(&loosened)).unwrap();
    assert_eq!(report["changes"][0]["direction"], "loosens", "{report}");
    assert_eq!(report["moved"]["rows"], 2, "{report}");
    assert_eq!(report["moved"]["private_to_cloud"], json!(["mail"]), "{report}");
    let same = here(&["policy", "diff", "shipped", "shipped"], 0);
    assert!(stdout(&same).contains("nothing changed"), "{}", stdout(&same));
}

#[test]
fn test_outcomes_are_written_for_build_servers() {
    let folder = tempfile::tempdir().unwrap();
    in_folder(folder.path(), &["policy", "test", "--junit", "tests.xml"], 0);
    let xml = std::fs::read_to_string(folder.path().join("tests.xml")).unwrap();
    assert!(xml.contains("<testsuite name=\"hipaa.yaml\""), "{}", &xml[..300]);
    assert!(xml.matches("<testcase ").count() >= 400 && !xml.contains("<failure"));
}
