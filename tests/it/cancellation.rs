//! A client that leaves takes its request with it, wherever it is.

use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::cloud::{Cloud, Script, until};
use crate::gateway::{Gateway, say, say_streamed, with_cloud, with_upstreams};

/// Sends a request by hand and gives back the open connection.
async fn ask(gateway: &Gateway, body: &serde_json::Value) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.traffic).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn the_cloud_is_hung_up_on_when_the_client_leaves_before_the_answer() {
    let cloud = Cloud::start(Script::Silence).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let connection = ask(&gateway, &say("Hello")).await;
    until("the cloud is asked", || cloud.requests() == 1).await;
    drop(connection);
    cloud.hung_up().await;
    gateway.idle().await;
    let lines = gateway.audit_lines(2).await;
    assert_eq!(lines[1]["ending"], "client_left");
    assert_eq!(gateway.metric("sluice_clients_left_total ").await, 1.0);
}

#[tokio::test]
async fn the_cloud_is_hung_up_on_when_the_client_leaves_a_stream() {
    let cloud = Cloud::start(Script::Endless).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let mut response = gateway.stream(&[], say_streamed("Hello")).await;
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    cloud.hung_up().await;
    gateway.idle().await;
    let lines = gateway.audit_lines(2).await;
    assert_eq!(lines[1]["ending"], "client_left");
    assert!(lines[1]["bytes_received"].as_u64().unwrap() > 0);
    // The cloud tells its count at the end only; what was said until then is accounted for.
    assert_eq!(lines[1]["usage_estimated"], true);
    for kind in ["prompt", "completion"] {
        let counted = lines[1][format!("{kind}_tokens")].as_f64().unwrap();
        assert!(counted > 0.0, "{kind}");
        let metric = format!("sluice_tokens_total{{kind=\"{kind}\",upstream=\"cloud\"}}");
        assert_eq!(gateway.metric(&metric).await, counted, "{kind}");
    }
}

#[tokio::test]
async fn a_queued_request_leaves_with_its_client() {
    let cloud = Cloud::start(Script::Answer).await;
    // Only the edge may answer private text, no model is as quick as this site asks, and the site lets
    // such requests queue.
    let shipped = include_str!("../../policies/site.yaml");
    let tests = shipped.find("# Where requests go").unwrap();
    let usual = "interactive: {first_token: 5s, tokens_per_second: 2,";
    assert!(shipped.contains(usual) && shipped.contains("edge_too_slow: answer_anyway"));
    let site = shipped[..tests]
        .replace("edge_too_slow: answer_anyway", "edge_too_slow: queue 10m")
        .replace(usual, "interactive: {first_token: 1ms, tokens_per_second: 1000000000,");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("site.yaml"), site).unwrap();
    let config = with_cloud(cloud.address, "policy: {site: $FOLDER/site.yaml}\n");
    let gateway = Gateway::start_in(folder, &config).await;
    let connection = ask(&gateway, &say("Refund the card 4539 5787 6362 1486")).await;
    let in_flight = "sluice_requests_in_flight ";
    for _ in 0..500 {
        if gateway.metric(in_flight).await > 0.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(gateway.metric(in_flight).await, 1.0, "it waits in the queue");
    drop(connection);
    gateway.idle().await;
    assert_eq!(cloud.requests(), 0);
    let asked = gateway.audit().iter().filter(|line| line["kind"] != "policy").count();
    assert_eq!(asked, 0, "nobody was asked and nobody refused");
}

#[tokio::test]
async fn the_engine_stops_when_the_client_leaves_streamed_or_not() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    for stream in [true, false] {
        let mut body = say("Write a very long story about a river.");
        body["stream"] = json!(stream);
        body["max_tokens"] = json!(4000);
        let connection = ask(&gateway, &body).await;
        for _ in 0..500 {
            if gateway.metric("sluice_engine_running ").await > 0.0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(gateway.metric("sluice_engine_running ").await > 0.0, "stream: {stream}");
        drop(connection);
        gateway.idle().await;
        for _ in 0..500 {
            if gateway.metric("sluice_engine_running ").await == 0.0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(gateway.metric("sluice_engine_running ").await, 0.0, "stream: {stream}");
    }
}

#[tokio::test]
async fn stopping_waits_for_requests_in_flight_and_takes_no_new_ones() {
    let cloud = Cloud::start(Script::Silence).await;
    let mut gateway = Gateway::with_cloud(cloud.address).await;
    let connection = ask(&gateway, &say("Hello")).await;
    until("the cloud is asked", || cloud.requests() == 1).await;
    gateway.begin_to_stop();
    for _ in 0..500 {
        if gateway.probe("/readyz").await.status == 503 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(gateway.probe("/readyz").await.json()["draining"], true);
    assert!(TcpStream::connect(gateway.traffic).await.is_err(), "the listener is still open");
    // The cloud stays silent until its timeout; then the edge answers the one in flight.
    let mut reply = String::new();
    let mut connection = connection;
    tokio::io::AsyncReadExt::read_to_string(&mut connection, &mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(reply.contains("x-sluice-route: edge"));
    gateway.finish().await;
}
