//! The binary as a shell sees it: exit statuses, what goes to stdout and what to stderr.
//!
//! What the verbs compute is tested beside their code; here only the edge between them and a script.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

mod key;
mod policy;

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
fn proxies_of_the_environment_are_not_gone_through() {
    let (proxy, cloud) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sluice.yaml");
    let config = format!(
        "mode: trial\nlisten: {{traffic: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\"}}\n\
         audit: {{path: audit, fsync: never}}\nupstreams:\n  edge: {{kind: edge}}\n  \
         cloud: {{kind: openai, base_url: \"http://{}/v1\"}}\n",
        cloud.local_addr().unwrap()
    );
    std::fs::write(&file, config).unwrap();
    let mut served = command(&["serve", "--config", file.to_str().unwrap()]);
    let through = format!("http://{}", proxy.local_addr().unwrap());
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    {
        served.env(name, &through);
    }
    let mut child = served.env_remove("NO_PROXY").env_remove("no_proxy").spawn().unwrap();
    let traffic = announced(&mut child, "traffic");
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = cloud.accept().unwrap();
        let mut request = [0; 4096];
        let count = stream.read(&mut request).unwrap();
        let body = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"}}]}"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
        write!(stream, "{head}: {}\r\n\r\n{body}", body.len()).unwrap();
        String::from_utf8_lossy(&request[..count]).into_owned()
    });
    let body = r#"{"model":"m","messages":[{"role":"user","content":"Hello"}]}"#;
    let address = traffic.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close";
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    proxy.set_nonblocking(true).unwrap();
    assert!(proxy.accept().is_err(), "the proxy of the environment was gone through");
    assert!(reply.contains("x-sluice-route: cloud"), "{reply}");
    assert!(answering.join().unwrap().starts_with("POST /v1/chat/completions HTTP/1.1"));
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
