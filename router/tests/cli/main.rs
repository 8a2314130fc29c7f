//! The binary as a shell sees it: exit statuses, what goes to stdout and what to stderr.
//!
//! What the verbs compute is tested beside their code; here only the edge between them and a script.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const CARD: &str = "Charge card 4111 1111 1111 1111, expiry 04/29";

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(args).env_remove("SLUICE_MODEL").env_remove("SLUICE_LOG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn sluice(args: &[&str], stdin: impl AsRef<[u8]>) -> Output {
    let mut child = command(args).spawn().expect("the binary starts");
    let mut pipe = child.stdin.take().expect("stdin is piped");
    // A verb that does not read its stdin closes it: that is no failure of the test.
    let _ = pipe.write_all(stdin.as_ref());
    drop(pipe);
    child.wait_with_output().expect("the binary ends")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("stdout is text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("stderr is text")
}

#[test]
fn exit_status_tells_done_from_a_finding_from_wrong_usage() {
    let cases: [(&[&str], &str, i32); 9] = [
        (&["decide"], CARD, 0),
        (&["decide", "--batch"], "{\"text\": \"a\"}\n", 0),
        (&["decide", "--batch"], "{\"text\": \"a\"}\nbroken\n", 1),
        (&["decide", "--json"], "{\"messages\": 7}", 1),
        (&["decide", "--nonsense"], "", 2),
        (&["decide", "/no/such/file"], "", 2),
        (&["decide", "--policies", "/no/such/site.yaml"], "", 2),
        (&["serve", "--config", "/no/such/sluice.yaml"], "", 2),
        (&["run", "--model", "/no/such/model", "--prompt", "a"], "", 2),
    ];
    for (args, stdin, status) in cases {
        let output = sluice(args, stdin);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", stderr(&output));
        assert_eq!(
            stderr(&output).contains("error: "),
            status == 2,
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn json_is_one_document_on_stdout_and_the_facts_go_to_stderr() {
    let output = sluice(&["decide", "--json"], CARD);
    let verdict: Value = serde_json::from_str(stdout(&output)).expect("one JSON document");
    assert_eq!(verdict["route"], "edge");
    assert_eq!(verdict["labels"], serde_json::json!(["PCI"]));
    assert!(stderr(&output).starts_with("facts used: {"), "{}", stderr(&output));
}

#[test]
fn no_stream_of_decide_repeats_the_text() {
    for args in [&["decide"][..], &["decide", "--json"], &["decide", "--batch"]] {
        let output = sluice(args, CARD);
        for shown in [stdout(&output), stderr(&output)] {
            assert!(!shown.contains("4111") && !shown.contains("Charge"), "{args:?}: {shown}");
        }
    }
}

#[test]
fn a_batch_gives_as_many_lines_as_it_got_also_for_odd_bytes() {
    let input = b"\n{\"id\": 1, \"text\": \"a\"}\n\xff\xfe\r\n[]\n{\"id\": 2, \"text\": \"b\"}";
    let output = sluice(&["decide", "--batch"], input);
    let verdicts: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let routes: Vec<&str> = verdicts.iter().map(|v| v["route"].as_str().unwrap()).collect();
    assert_eq!(routes, ["refuse", "cloud", "refuse", "refuse", "cloud"]);
    assert_eq!(output.status.code(), Some(1));
}

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
fn a_damaged_model_is_named_and_nothing_is_served() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "{\"model_type\": \"qwen3_5_moe\"").unwrap();
    std::fs::write(folder.path().join("model.safetensors"), "short").unwrap();
    let model = folder.path().to_str().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--model", model];
    for args in
        [&serve[..], &["model", "inspect", model], &["run", "--model", model, "--prompt", "a"]]
    {
        let output = sluice(args, "");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(model), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn a_port_in_use_is_a_failure_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = sluice(&["serve", "--listen", &address, "--metrics", "127.0.0.1:0"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
}

#[test]
fn run_gives_the_same_text_for_a_seed_however_experts_are_kept_and_read() {
    let ways: [&[&str]; 4] = [
        &[],
        &["--threads", "1", "--io", "mmap"],
        &["--expert-cache", "1MiB", "--io", "direct"],
        &["--expert-cache", "4MiB", "--io", "buffered"],
    ];
    let replies = ways.map(|way| {
        let args =
            ["run", "--prompt", "Who are you?", "--seed", "7", "--max-tokens", "24", "--json"];
        let output = sluice(&[&args, way].concat(), "");
        assert!(output.status.success(), "{way:?}: {}", stderr(&output));
        let reply: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        assert!(reply["speeds"]["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
        (reply["text"].clone(), reply["tokens"].clone())
    });
    assert!(!replies[0].0.as_str().unwrap().is_empty());
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
}

#[test]
fn serves_what_it_announces_and_drains_on_sigterm() {
    let state = tempfile::tempdir().unwrap();
    let mut child = command(&["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
        .env("XDG_STATE_HOME", state.path())
        .spawn()
        .expect("the binary starts");
    let metrics = announced(&mut child, "metrics");
    let probe = metrics.replace("/metrics", "");
    let status = get(probe.trim_start_matches("http://"), "/readyz");
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
    let killed = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(Path::new(state.path()).join("sluice/audit/audit.jsonl").exists());
}

#[test]
fn sighup_puts_a_changed_policy_in_force_and_keeps_the_last_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site.yaml");
    let shipped = include_str!("../../policies/site.yaml");
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
    include_str!("../../policies/site.yaml")
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
    std::fs::write(at("site.yaml"), include_str!("../../policies/site.yaml")).unwrap();
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
    let site = include_str!("../../policies/site.yaml");
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

/// The address in the announcement; the rest of stdout is read on, so that the pipe stays open.
fn announced(child: &mut Child, name: &str) -> String {
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let found = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| Some(line.trim().strip_prefix(name)?.trim().to_owned()));
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    found.expect("the announcement names its addresses")
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the probe listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the probe reads");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("the probe answers in text");
    reply
}
