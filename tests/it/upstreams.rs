//! How an upstream is reached and what it is told: headers, keys, addresses, fields, a proxy.

use std::net::SocketAddr;

use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cloud::{Cloud, Script, http};
use crate::gateway::{CARD, Gateway, say, say_streamed, shows_card, with_cloud, with_upstreams};

/// A cloud with more lines in its section.
async fn with(lines: &str) -> (Gateway, Cloud) {
    let cloud = Cloud::start(Script::Answer).await;
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    (Gateway::start(&with_cloud(cloud.address, &lines)).await, cloud)
}

/// The head of the last request that a cloud got, in lower case.
fn head(cloud: &Cloud) -> String {
    let seen = cloud.seen();
    let last = &seen[seen.rfind("POST ").unwrap()..];
    last[..last.find("\r\n\r\n").unwrap()].to_lowercase()
}

#[tokio::test]
async fn of_a_clients_headers_only_the_listed_go_along() {
    let sent = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-ward", "north"),
        ("x-stainless-lang", "python"),
        ("cookie", "session=1"),
        ("authorization", "Bearer sk-client"),
        ("x-api-key", "sk-other"),
        ("user-agent", "client/1"),
    ];
    for (lines, along) in [
        ("", &[][..]),
        ("client_headers: [traceparent, x-ward]", &["traceparent", "x-ward"]),
        ("client_key: pass", &["authorization", "x-api-key"]),
    ] {
        let (gateway, cloud) = with(lines).await;
        gateway.chat_with(&sent, say("Hello")).await.came_from("cloud", 200);
        let head = head(&cloud);
        for (name, value) in sent {
            let is_there = head.contains(&format!("\r\n{name}: {}", value.to_lowercase()));
            assert_eq!(is_there, along.contains(&name), "{lines}: {name} in\n{head}");
        }
    }
}

#[tokio::test]
async fn a_clients_own_wrong_key_is_the_clients_matter() {
    let (gateway, cloud) = with("client_key: pass").await;
    for status in ["401 No", "403 No"] {
        let no = br#"{"error":{"message":"wrong key","type":"t"}}"#;
        cloud.follow(Script::Raw(http(status, "application/json", no)));
        // More than a breaker takes.
        for _ in 0..8 {
            let reply = gateway.chat_with(&[("authorization", "Bearer x")], say("Hello")).await;
            reply.came_from("cloud", status[..3].parse().unwrap());
            assert_eq!(reply.json()["error"]["message"], "wrong key");
        }
    }
    cloud.follow(Script::Answer);
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
}

#[tokio::test]
async fn a_header_that_goes_along_is_scanned_like_a_text() {
    let (gateway, cloud) = with("client_headers: [x-note]").await;
    let reply = gateway.chat_with(&[("x-note", CARD)], say("Hello")).await;
    reply.came_from("edge", 200);
    assert!(reply.header("x-sluice-labels").contains("PCI"));
    assert!(!shows_card(&cloud.seen()));
    gateway.chat_with(&[("x-other", CARD)], say("Hello")).await.came_from("cloud", 200);
    assert!(!shows_card(&cloud.seen()), "what is not listed stays");
}

#[tokio::test]
async fn azure_gets_its_address_and_its_header() {
    let cloud = Cloud::start(Script::Answer).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "sk-azure\n").unwrap();
    let config = with_upstreams(&format!(
        "  azure:\n    kind: openai\n    \
         base_url: \"http://{}/openai/deployments/{{model}}\"\n    key_file: $FOLDER/key\n    \
         auth: api-key\n    query: {{api-version: \"2024-10-21\"}}\n    \
         headers: {{x-ms-client: sluice}}\n    models: {{auto: gpt-4o eu}}\n",
        cloud.address
    ));
    let gateway = Gateway::start_in(folder, &config).await;
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    let head = head(&cloud);
    let target =
        "post /openai/deployments/gpt-4o%20eu/chat/completions?api-version=2024-10-21 http/1.1";
    assert!(head.starts_with(target), "{head}");
    assert!(head.contains("\r\napi-key: sk-azure"), "{head}");
    assert!(head.contains("\r\nx-ms-client: sluice"), "{head}");
    assert!(!head.contains("authorization"), "{head}");
    let mut climbing = say("Hello");
    climbing["model"] = json!("..");
    let reply = gateway.chat(climbing).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("model")));
    assert_eq!(cloud.requests(), 1);
}

#[tokio::test]
async fn who_asks_is_told_only_where_the_config_says_so() {
    for (lines, expected) in [
        ("", json!([null, null, null])),
        ("pass_fields: [user]", json!(["u", null, null])),
        ("pass_fields: [metadata, safety_identifier]", json!([null, {"k": "v"}, "s"])),
    ] {
        let (gateway, cloud) = with(lines).await;
        let mut body = say("Hello");
        body["user"] = json!("u");
        body["metadata"] = json!({"k": "v"});
        body["safety_identifier"] = json!("s");
        gateway.chat(body).await.came_from("cloud", 200);
        let seen = cloud.seen();
        let sent: Value = serde_json::from_str(&seen[seen.find("{\"").unwrap()..]).unwrap();
        let told = json!([sent["user"], sent["metadata"], sent["safety_identifier"]]);
        assert_eq!(told, expected, "{lines}");
    }
}

#[tokio::test]
async fn a_named_proxy_is_gone_through_and_reads_nothing() {
    let proxy = Cloud::start(Script::Raw(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())).await;
    let config = with_upstreams(&format!(
        "  cloud:\n    kind: openai\n    base_url: \"https://llm.invalid/v1\"\n    \
         proxy: \"http://{}\"\n",
        proxy.address
    ));
    let gateway = Gateway::start(&config).await;
    // The proxy opens no way, so the edge answers.
    gateway.chat(say("Hello")).await.came_from("edge", 200);
    let seen = proxy.seen();
    assert!(seen.starts_with("CONNECT llm.invalid:443 HTTP/1.1\r\n"), "{seen}");
    assert!(!seen.contains("Hello"), "{seen}");
    let lines = gateway.audit_lines(2).await;
    assert_eq!(lines[0]["address"], "https://llm.invalid", "policy and record name the upstream");
}

async fn passing(upstream: &str, cloud: SocketAddr) -> Gateway {
    let more = format!("passthrough:\n  - {{path: /v1/moderations, upstream: {upstream}}}\n");
    Gateway::start(&with_cloud(cloud, &more)).await
}

async fn moderate(
    gateway: &Gateway,
    path: &str,
    body: impl Into<bytes::Bytes>,
) -> crate::gateway::Reply {
    gateway.send(Method::POST, path, &[("content-type", "application/json")], body).await
}

#[tokio::test]
async fn a_passthrough_goes_where_the_config_says_and_nowhere_else() {
    let verdict = json!({"results": [{"flagged": false}], "usage": {"prompt_tokens": 3}});
    let answer = http("200 OK", "application/json", verdict.to_string().as_bytes());
    let cloud = Cloud::start(Script::Raw(answer)).await;
    let gateway = passing("cloud", cloud.address).await;
    let body = json!({"model": "m", "input": "Is this kind?"}).to_string();
    let reply = moderate(&gateway, "/v1/moderations", body.clone()).await;
    reply.came_from("cloud", 200);
    assert_eq!(reply.json(), verdict);
    let seen = cloud.seen();
    assert!(seen.starts_with("POST /v1/moderations HTTP/1.1"), "{seen}");
    assert!(seen.ends_with(r#""input":"Is this kind?"}"#), "{seen}");
    let lines = gateway.audit_lines(2).await;
    assert_eq!((&lines[0]["upstream"], &lines[1]["prompt_tokens"]), (&json!("cloud"), &json!(3)));
    for (path, status) in
        [("/v1/moderation", 404), ("/v1/moderations/x", 404), ("/v1/moderations?a=b", 400)]
    {
        assert_eq!(moderate(&gateway, path, body.clone()).await.status, status, "{path}");
    }
    let get = gateway.get("/v1/moderations").await;
    assert_eq!(get.status, 405);
    assert_eq!(cloud.requests(), 1);
}

#[tokio::test]
async fn a_passthrough_is_closed_to_what_must_stay_and_to_what_cannot_be_read() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = passing("cloud", cloud.address).await;
    for body in [
        json!({"input": format!("Refund {CARD}")}).to_string(),
        json!({CARD: true}).to_string(),
        json!({"image": "data:image/png;base64,iVBORw0KGgo="}).to_string(),
        "--b\r\ncontent-disposition: form-data; name=file\r\n\r\nwords".to_owned(),
    ] {
        let reply = moderate(&gateway, "/v1/moderations", body.clone()).await;
        reply.came_from("refuse", 403);
        assert_eq!(reply.json()["error"]["code"], "policy_blocked", "{body}");
    }
    assert_eq!(cloud.seen(), "");
}

#[tokio::test]
async fn a_passthrough_is_closed_to_private_text_even_on_the_premises() {
    let cloud = Cloud::start(Script::Answer).await;
    let folder = tempfile::tempdir().unwrap();
    let vouch = format!(
        "vouches:\n  - {{upstream: cloud, address: \"http://{}\", zone: on_prem, \
         does_not_forward: true, contract: C-1, owner: ward, expires: \"2099-01-01\"}}\n",
        cloud.address
    );
    let shipped = include_str!("../../policies/site.yaml");
    let tests = shipped.find("# Where requests go").unwrap();
    let site = shipped[..tests].replace("vouches: []\n", &vouch);
    std::fs::write(folder.path().join("site.yaml"), site).unwrap();
    let more = "policy: {site: $FOLDER/site.yaml}\n\
                passthrough:\n  - {path: /v1/moderations, upstream: cloud}\n";
    let gateway = Gateway::start_in(folder, &with_cloud(cloud.address, more)).await;
    let private = json!({"model": "m", "input": format!("Refund {CARD}")}).to_string();
    let reply = moderate(&gateway, "/v1/moderations", private).await;
    reply.came_from("refuse", 403);
    assert_eq!(cloud.seen(), "");
    let plain = json!({"model": "m", "input": "Hello"}).to_string();
    moderate(&gateway, "/v1/moderations", plain).await.came_from("on_prem", 200);
}

/// A site that vouches for a server on the premises, whose name may lead into these networks.
fn ward(address: &str, ranges: &str) -> String {
    let vouch = format!(
        "vouches:\n  - {{upstream: cloud, address: \"{address}\", zone: on_prem, does_not_forward: true, \
         address_ranges: [{ranges}], contract: C-1, owner: ward, expires: \"2099-01-01\"}}\n"
    );
    let shipped = include_str!("../../policies/site.yaml");
    let tests = shipped.find("# Where requests go").unwrap();
    shipped[..tests].replace("vouches: []\n", &vouch)
}

#[tokio::test]
async fn a_name_that_leads_outside_the_vouched_ranges_gets_not_a_byte() {
    let private = format!("Refund {CARD}");
    for (host, ranges, inside) in [
        ("localhost", "127.0.0.0/8, \"::1/128\"", true),
        ("localhost", "10.20.0.0/16, \"fd00::/8\"", false),
        ("127.0.0.1", "127.0.0.0/8", true),
        ("127.0.0.1", "127.0.0.2/32", false),
    ] {
        let cloud = Cloud::start(Script::Answer).await;
        let folder = tempfile::tempdir().unwrap();
        let address = format!("http://{host}:{}", cloud.address.port());
        std::fs::write(folder.path().join("site.yaml"), ward(&address, ranges)).unwrap();
        let config = with_cloud(cloud.address, "policy: {site: $FOLDER/site.yaml}\n");
        let edge = config.lines().find(|line| line.starts_with("  edge:")).unwrap().to_owned();
        let config = config
            .replace(&format!("{edge}\n"), "")
            .replace(&format!("http://{}", cloud.address), &address);
        let gateway = Gateway::start_in(folder, &config).await;
        let what = format!("{host} in {ranges}");
        for stream in [true, false] {
            let mut body = say(&private);
            body["stream"] = json!(stream);
            let reply = gateway.chat(body).await;
            if inside {
                reply.came_from("on_prem", 200);
                continue;
            }
            let error = reply.json()["error"].clone();
            assert_eq!(
                (reply.status.as_u16(), &error["code"]),
                (502, &json!("address_not_vouched"))
            );
            assert!(error["message"].as_str().unwrap().contains("address ranges"), "{error}");
        }
        assert_eq!(shows_card(&cloud.seen()), inside, "{what}");
        if !inside {
            assert_eq!((cloud.seen().as_str(), cloud.connections()), ("", 0), "{what}");
            let lines = gateway.audit_lines(6).await;
            let outcomes = lines.iter().filter(|line| line["kind"] == "outcome");
            let errors: Vec<&Value> = outcomes.map(|line| &line["error"]).collect();
            assert_eq!(errors, ["address_not_vouched"; 2], "{what}");
        }
    }
}

#[tokio::test]
async fn private_text_goes_to_no_cloud_when_the_server_on_the_premises_fails() {
    let faults = [
        (Script::Silence, 504),
        (Script::Raw(Vec::new()), 502),
        (Script::Raw(http("503 No", "text/plain", b"no")), 502),
        (Script::Raw(http("200 OK", "text/html", b"<html>")), 502),
    ];
    for (fault, status) in faults {
        let (home, cloud) = (Cloud::start(fault).await, Cloud::start(Script::Answer).await);
        let folder = tempfile::tempdir().unwrap();
        let site = ward(&format!("http://{}", home.address), "127.0.0.0/8");
        std::fs::write(folder.path().join("site.yaml"), site).unwrap();
        let more = format!(
            "    retries: {{attempts: 1, retry_on: [503]}}\n  far:\n    kind: openai\n    \
             base_url: \"http://{}/v1\"\npolicy: {{site: $FOLDER/site.yaml}}\nhedge: {{after: 1ms}}\n",
            cloud.address
        );
        let config = with_cloud(home.address, &more);
        let edge = config.lines().find(|line| line.starts_with("  edge:")).unwrap().to_owned();
        let gateway = Gateway::start_in(folder, &config.replace(&format!("{edge}\n"), "")).await;
        for body in [say(&format!("Refund {CARD}")), say_streamed(&format!("Charge {CARD}"))] {
            gateway.chat(body).await.came_from("refuse", status);
        }
        assert!(home.requests() > 0, "it was asked");
        assert_eq!(cloud.seen(), "");
        gateway.chat(say("Hello")).await.came_from("cloud", 200);
    }
}

#[tokio::test]
async fn no_address_that_a_client_names_is_ever_called() {
    let (cloud, thief) = (Cloud::start(Script::Answer).await, Cloud::start(Script::Answer).await);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "sk-of-the-gateway").unwrap();
    let config = with_cloud(cloud.address, "    key_file: $FOLDER/key\n");
    let gateway = Gateway::start_in(folder, &config).await;
    let address = format!("http://{}/v1", thief.address);
    for field in ["api_base", "base_url", "api_url", "endpoint", "proxy", "webhook", "extra_body"] {
        let mut body = say("Hello");
        body[field] = json!(address);
        body["messages"][0][field] = json!(address);
        gateway.chat(body).await.came_from("cloud", 200);
    }
    let mut named = say("Hello");
    named["model"] = json!(address);
    gateway.chat(named).await.came_from("cloud", 200);
    let names = ["x-api-base", "x-base-url", "x-forwarded-host", "x-original-url", "forwarded"];
    for name in names {
        let headers = [(name, address.as_str())];
        gateway.chat_with(&headers, say("Hello")).await.came_from("cloud", 200);
    }
    // What would be fetched is refused, and nobody looks what is there.
    let picture = json!([{"type": "image_url", "image_url": {"url": address}}]);
    let tool = json!([{"type": "mcp", "server_label": "s", "server_url": address}]);
    for (field, value) in
        [("messages", json!([{"role": "user", "content": picture}])), ("tools", tool)]
    {
        let mut body = say("Hello");
        body[field] = value;
        gateway.chat(body).await.came_from("refuse", 403);
    }
    // As to a proxy.
    let body = say("Hello").to_string();
    let head = format!(
        "POST {address}/chat/completions HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        thief.address,
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(gateway.traffic).await.unwrap();
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains("x-sluice-upstream: cloud"), "{reply}");
    assert_eq!((thief.seen().as_str(), thief.connections()), ("", 0));
    assert!(cloud.seen().contains("sk-of-the-gateway"));
}
