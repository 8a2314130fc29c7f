//! How policies come into force and stay there: watched files, broken ones, restarts, loosenings that
//! are held, signed bundles, a candidate beside the set in force.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use sluice::active_policy::bundle::Bundle;
use sluice::signing::SigningKey;
use sluice_policies::{PolicySet, Source};
use tempfile::TempDir;

use crate::cloud::{Cloud, Script};
use crate::gateway::{Gateway, Starting, say, with_cloud};

const SHIPPED: &str = include_str!("../../policies/site.yaml");

/// A site of another version, and otherwise the same.
fn version(version: &str) -> String {
    SHIPPED.replace("version: \"1.0.0\"", &format!("version: {version:?}"))
}

/// A site that lets images go anywhere: looser than the shipped one.
fn looser() -> String {
    let test = "given: {content: image}, expect: edge, class: regulated";
    SHIPPED
        .replace("    image: private", "    image: internal")
        .replace(test, "given: {content: image}, expect: cloud")
}

/// A site that keeps every ordinary text here: stricter than the shipped one. Its tests of
/// destinations are left out, since nearly all of them change.
fn stricter() -> String {
    let tests = SHIPPED.find("# Where requests go").unwrap();
    SHIPPED[..tests].replace("unlabelled: internal", "unlabelled: regulated")
}

fn config(cloud: SocketAddr, policy: &str) -> String {
    with_cloud(cloud, &format!("policy: {policy}\n"))
}

fn folder_with(site: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("site.yaml"), site).unwrap();
    folder
}

async fn with_site(site: &str) -> (Gateway, Cloud, String) {
    let cloud = Cloud::start(Script::Answer).await;
    let config = config(cloud.address, "{site: $FOLDER/site.yaml}");
    (Gateway::start_in(folder_with(site), &config).await, cloud, config)
}

fn digest(detail: &Value) -> String {
    detail["policy"]["digest"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_changed_file_comes_into_force_by_itself_and_a_broken_one_does_not() {
    let (gateway, cloud, _) = with_site(SHIPPED).await;
    let first = gateway.probe("/readyz").await.json();
    assert_eq!(
        (&first["policy_reload"], &first["policy"]["refused"]),
        (&"ok".into(), &Value::Null)
    );

    let site = gateway.folder().join("site.yaml");
    std::fs::write(&site, SHIPPED.replace("caller_unknown:", "caller_unknwon:")).unwrap();
    let refused = gateway.ready_when(|detail| !detail["policy"]["refused"].is_null()).await;
    assert_eq!(digest(&refused), digest(&first));
    let mistake = &refused["policy"]["refused"];
    assert_eq!(mistake["file"], "site.yaml");
    assert!(mistake["line"].as_u64().unwrap() > 1, "{mistake}");
    assert!(mistake["message"].as_str().unwrap().contains("caller_unknwon"), "{mistake}");
    assert_eq!(gateway.metric("sluice_policy_reload_failed ").await, 1.0);
    gateway.chat(say("Hello")).await.came_from("cloud", 200);

    std::fs::write(&site, stricter()).unwrap();
    let renewed = gateway.ready_when(|detail| digest(detail) != digest(&first)).await;
    assert_eq!(renewed["policy"]["refused"], Value::Null);
    let seen = cloud.requests();
    gateway.chat(say("Hello")).await.came_from("edge", 200);
    assert_eq!(cloud.requests(), seen);
    let info = format!(
        "sluice_policy_info{{digest={:?},site=\"default\",version=\"1.0.0\"}} ",
        digest(&renewed)
    );
    assert_eq!(gateway.metric(&info).await, 1.0);
    let count = |result: &str| format!("sluice_policy_activations_total{{result={result:?}}} ");
    assert_eq!(gateway.metric(&count("activated")).await, 2.0);
    assert!(gateway.metric(&count("refused")).await >= 1.0);
    let activated = gateway.metric("sluice_policy_activated_timestamp_seconds ").await;
    assert!(activated > 1.7e9, "{activated}");
}

#[cfg(unix)]
#[tokio::test]
async fn the_swapped_link_of_a_config_map_comes_into_force() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |folder: &Path, name: &str| folder.join("mounted").join(name);
    for (name, site) in [("..v1", version("1.0.0")), ("..v2", version("2.0.0"))] {
        std::fs::create_dir_all(at(folder.path(), name)).unwrap();
        std::fs::write(at(folder.path(), name).join("site.yaml"), site).unwrap();
    }
    symlink("..v1", at(folder.path(), "..data")).unwrap();
    symlink("..data/site.yaml", at(folder.path(), "site.yaml")).unwrap();
    let cloud = Cloud::nowhere().await;
    let config = config(cloud, "{site: $FOLDER/mounted/site.yaml}");
    let gateway = Gateway::start_in(folder, &config).await;
    assert_eq!(gateway.probe("/readyz").await.json()["policy"]["version"], "1.0.0");
    symlink("..v2", at(gateway.folder(), "..data_tmp")).unwrap();
    std::fs::rename(at(gateway.folder(), "..data_tmp"), at(gateway.folder(), "..data")).unwrap();
    gateway.ready_when(|detail| detail["policy"]["version"] == "2.0.0").await;
}

#[tokio::test]
async fn the_last_good_set_serves_on_after_a_restart_over_broken_files() {
    let (gateway, _cloud, config) = with_site(&version("7.0.0")).await;
    let first = gateway.probe("/readyz").await.json();
    std::fs::write(gateway.folder().join("site.yaml"), "site: [").unwrap();
    let gateway = gateway.restart(&config).await;
    let again = gateway.probe("/readyz").await.json();
    assert_eq!(digest(&again), digest(&first));
    assert_eq!(again["policy"]["source"], "last_good");
    assert_eq!(again["policy"]["activated"], first["policy"]["activated"]);
    assert!(again["policy"]["age_s"].as_u64().is_some(), "{again}");
    assert_eq!(again["policy"]["refused"]["file"], "site.yaml");
    assert_eq!(gateway.metric("sluice_policy_reload_failed ").await, 1.0);
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
}

#[tokio::test]
async fn a_first_start_without_a_valid_set_answers_probes_alone_until_there_is_one() {
    let (traffic, metrics) = (Cloud::nowhere().await, Cloud::nowhere().await);
    let cloud = Cloud::start(Script::Answer).await;
    let any =
        "listen: {traffic: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\"}";
    let fixed = format!(
        "listen: {{traffic: \"{traffic}\", admin: \"127.0.0.1:0\", metrics: \"{metrics}\"}}"
    );
    let config = config(cloud.address, "{site: $FOLDER/site.yaml}").replace(any, &fixed);
    let starting = Starting::begin(folder_with("site: ["), &config);
    let detail = probe_until_refused(metrics).await;
    assert_eq!(detail["ready"], false);
    assert_eq!(detail["policy"]["digest"], Value::Null);
    assert_eq!(detail["policy"]["refused"]["file"], "site.yaml");
    assert!(raw(metrics, "/livez").await.unwrap().starts_with("HTTP/1.1 200"));
    let text = raw(metrics, "/metrics").await.unwrap();
    assert!(text.contains("sluice_policy_activations_total{result=\"refused\"} 1"), "{text}");
    assert!(raw(traffic, "/v1/models").await.is_none(), "nothing listens for traffic");

    std::fs::write(starting.folder().join("site.yaml"), SHIPPED).unwrap();
    let gateway = starting.ready().await;
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    assert_eq!(gateway.probe("/readyz").await.json()["ready"], true);
}

#[tokio::test]
async fn a_gateway_that_waits_for_policies_can_be_stopped() {
    let cloud = Cloud::nowhere().await;
    let config = config(cloud, "{site: $FOLDER/site.yaml}");
    Starting::begin(folder_with("site: ["), &config).give_up().await;
}

#[tokio::test]
async fn a_loosening_is_held_at_a_change_and_at_a_restart() {
    let (gateway, _cloud, config) = with_site(SHIPPED).await;
    let first = gateway.probe("/readyz").await.json();
    std::fs::write(gateway.folder().join("site.yaml"), looser()).unwrap();
    let held = gateway.ready_when(|detail| !detail["policy"]["refused"].is_null()).await;
    assert_eq!(digest(&held), digest(&first));
    let message = held["policy"]["refused"]["message"].as_str().unwrap();
    assert!(message.contains("nobody accepted that"), "{message}");
    let loosened = held["policy"]["refused"]["loosened"].to_string();
    assert!(
        loosened.contains("cannot_scan (image) is internal instead of regulated"),
        "{loosened}"
    );
    assert!(gateway.metric("sluice_policy_activations_total{result=\"held\"} ").await >= 1.0);

    let gateway = gateway.restart(&config).await;
    let again = gateway.probe("/readyz").await.json();
    assert_eq!(digest(&again), digest(&first));
    assert_eq!(again["policy"]["source"], "last_good");
}

#[tokio::test]
async fn a_bundle_is_served_and_an_older_or_foreign_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::create(&folder.path().join("grc.key")).unwrap();
    let foreign = SigningKey::create(&folder.path().join("other.key")).unwrap();
    let public = key.public("grc@example.org").to_string();
    std::fs::write(folder.path().join("publishers.pub"), public).unwrap();
    let seal = |name: &str, serial: u64, key: &SigningKey| {
        let site = Source { name: "site.yaml".into(), text: version(name) };
        let set = PolicySet::from_sources(vec![site]).unwrap();
        Bundle::of(&set, serial, None).seal(key)
    };
    let put = |folder: &Path, text: String| {
        std::fs::write(folder.join("policy.bundle"), text).unwrap();
    };
    put(folder.path(), seal("5.0.0", 5, &key));
    let cloud = Cloud::start(Script::Answer).await;
    let policy = "{bundle: {file: $FOLDER/policy.bundle, keys: $FOLDER/publishers.pub}}";
    let config = config(cloud.address, policy);
    let gateway = Gateway::start_in(folder, &config).await;
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    let serving = |detail: &Value, version: &str, serial: u64| {
        detail["policy"]["version"] == version && detail["policy"]["serial"] == serial
    };
    assert!(serving(&gateway.probe("/readyz").await.json(), "5.0.0", 5));

    put(gateway.folder(), seal("6.0.0", 6, &key));
    gateway.ready_when(|detail| serving(detail, "6.0.0", 6)).await;
    for (text, expected) in [
        (seal("5.0.0", 5, &key), "serial 6 was in force"),
        (seal("7.0.0", 6, &key), "serial 6 was in force"),
        (seal("7.0.0", 7, &foreign), "holds under none of the keys"),
        (seal("7.0.0", 7, &key).replace("7.0.0", "9.0.0"), "holds under none of the keys"),
        (version("7.0.0"), "expected a policy bundle"),
    ] {
        put(gateway.folder(), text);
        let refused = |detail: &Value| {
            let message = detail["policy"]["refused"]["message"].as_str();
            message.is_some_and(|message| message.contains(expected))
        };
        let detail = gateway.ready_when(refused).await;
        assert!(serving(&detail, "6.0.0", 6), "{detail}");
    }
    // The older bundle is refused after a restart too, and the newer one serves on.
    put(gateway.folder(), seal("5.0.0", 5, &key));
    let gateway = gateway.restart(&config).await;
    let detail = gateway.probe("/readyz").await.json();
    assert!(serving(&detail, "6.0.0", 6), "{detail}");
}

#[tokio::test]
async fn a_candidate_is_compared_without_effect() {
    let folder = folder_with(SHIPPED);
    std::fs::write(folder.path().join("candidate.yaml"), stricter()).unwrap();
    let cloud = Cloud::start(Script::Answer).await;
    let policy = "{site: $FOLDER/site.yaml, shadow: $FOLDER/candidate.yaml}";
    let config = config(cloud.address, policy);
    let gateway = Gateway::start_in(folder, &config).await;
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    gateway.chat(say("Refund the card 4539 5787 6362 1486")).await.came_from("edge", 200);
    let audit = gateway.audit_lines(4).await;
    let of = |route: &str| {
        let attempts = audit.iter().filter(|line| line["kind"] == "attempt");
        attempts.into_iter().find(|line| line["route"] == route).unwrap()["would_be"].clone()
    };
    let would_be = of("cloud");
    assert_eq!((&would_be["route"], &would_be["class"]), (&"edge".into(), &"regulated".into()));
    assert_eq!(would_be["kind"], "tighten");
    assert_eq!(of("edge"), Value::Null, "the same decision leaves no trace");
    let tighter = "sluice_policy_shadow_differences_total{kind=\"tighten\",rule=\"none\"} ";
    assert_eq!(gateway.metric(tighter).await, 1.0);
    assert_eq!(gateway.metric("sluice_policy_shadow_loaded ").await, 1.0);

    // A rule of the candidate alone is named.
    let with_rule = format!(
        "{SHIPPED}\nextends:\n  default:\n    rules:\n      - id: WARD-001\n        title: Ward\n        \
         when: {{words_from: health_terms}}\n        then: {{class: regulated}}\n        tests:\n          \
         - {{say: \"early signs of sepsis\", expect: match}}\n"
    );
    std::fs::write(gateway.folder().join("candidate.yaml"), with_rule).unwrap();
    let by_rule = "sluice_policy_shadow_differences_total{kind=\"tighten\",rule=\"WARD-001\"} ";
    for _ in 0..500 {
        gateway.chat(say("What are early signs of sepsis?")).await.came_from("cloud", 200);
        if gateway.metric(by_rule).await > 0.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(gateway.metric(by_rule).await > 0.0, "the new candidate was never compared");

    std::fs::write(gateway.folder().join("candidate.yaml"), "site: [").unwrap();
    let mut loaded = 1.0;
    for _ in 0..1000 {
        loaded = gateway.metric("sluice_policy_shadow_loaded ").await;
        if loaded == 0.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(loaded, 0.0, "a broken candidate is left out");
    let detail = gateway.probe("/readyz").await.json();
    assert_eq!((&detail["ready"], &detail["policy"]["refused"]), (&true.into(), &Value::Null));
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
}

/// The answer of a probe over a connection of its own; `None` if nothing listens.
async fn raw(address: SocketAddr, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

async fn probe_until_refused(address: SocketAddr) -> Value {
    for _ in 0..3000 {
        let text = raw(address, "/readyz").await.unwrap_or_default();
        let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
        match serde_json::from_str::<Value>(body) {
            Ok(detail) if !detail["policy"]["refused"].is_null() => return detail,
            _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
    panic!("the probe never says what is wrong");
}

#[tokio::test]
async fn an_audit_log_that_is_off_shows_and_keeps_packs_away() {
    let cloud = Cloud::start(Script::Answer).await;
    let config = config(cloud.address, "{site: $FOLDER/site.yaml}")
        .replace("{path: $FOLDER/audit, fsync: never}", "{off: true}");
    let config = format!("{config}taint: {{path: $FOLDER/taint}}\n")
        .replace("site.yaml}", "site.yaml, last_good: {path: $FOLDER/policy}}");
    let tests = SHIPPED.find("# Where requests go").unwrap();
    let plain = SHIPPED[..tests].replace("packs: [default]", "packs: []");
    let gateway = Gateway::start_in(folder_with(&plain), &config).await;
    let reply = gateway.chat(say("Hello")).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["x-sluice-route"]),
        (200, &"cloud".parse().unwrap())
    );
    assert_eq!(gateway.probe("/readyz").await.json()["audit"], "off");
    assert_eq!(gateway.metric("sluice_audit_off ").await, 1.0);
    assert_eq!(gateway.metric("sluice_audit_writable ").await, 0.0);
    assert!(!gateway.folder().join("audit").exists());

    // The site minds what it cannot read, although no rule looks for anything.
    let opaque = format!("Keep this: {}", "kS+9/w4Yh0".repeat(140));
    gateway.chat(say(&opaque)).await.came_from("edge", 200);
    let open = ["image: private", "audio: private", "encrypted_file: private"];
    let open = open.iter().fold(plain.clone(), |site, answer| {
        site.replace(answer, &answer.replace("private", "internal"))
    });
    let reads_nothing = Gateway::start_in(folder_with(&open), &config).await;
    reads_nothing.chat(say(&opaque)).await.came_from("cloud", 200);

    // No log wants to know how hard a request looks, but these policies do.
    let by_work = format!("{plain}complexity: {{simple: [edge, cloud], complex: [cloud, edge]}}\n");
    let before = gateway.probe("/readyz").await.json()["policy"]["digest"].clone();
    std::fs::write(gateway.folder().join("site.yaml"), by_work).unwrap();
    gateway.ready_when(|detail| detail["policy"]["digest"] != before).await;
    gateway.chat(say("Hello")).await.came_from("edge", 200);
    gateway.chat(say("Prove the theorem of Thales")).await.came_from("cloud", 200);

    std::fs::write(gateway.folder().join("site.yaml"), SHIPPED).unwrap();
    let refused = gateway.ready_when(|detail| !detail["policy"]["refused"].is_null()).await;
    let why = refused["policy"]["refused"].to_string();
    assert!(why.contains("audit.off: expected policies that look for nothing"), "{why}");
    assert_eq!(gateway.chat(say("Hello again")).await.status, 200);
}
