//! Config files as people write them, right and wrong.

use std::path::Path;
use std::time::Duration;

use sluice_policies::Mode;

use super::*;

fn parse(source: &str) -> Result<Config, ConfigError> {
    Config::parse("sluice.yaml", source, Path::new("/etc/sluice"))
}

fn server(config: &Config, name: &str) -> ServerConfig {
    let upstream = config.upstreams.iter().find(|u| u.id.as_str() == name).unwrap();
    match &upstream.kind {
        UpstreamKind::Server(server) => ServerConfig::clone(server),
        UpstreamKind::Edge(_) => panic!("{name} is the edge"),
    }
}

#[test]
fn an_empty_file_is_a_production_gateway_with_an_edge_alone() {
    let config = parse("{}").unwrap();
    assert_eq!(config.mode, Mode::Production);
    assert_eq!(config.listen.traffic.to_string(), "127.0.0.1:8080");
    assert_eq!((config.audit.off, config.audit.fsync), (false, Fsync::EveryRecord));
    assert!(matches!(config.upstreams[..], [UpstreamConfig { kind: UpstreamKind::Edge(_), .. }]));
}

#[test]
fn every_field_is_read_and_relative_paths_start_at_the_file() {
    let config = parse(
        "mode: trial\n\
         listen: {traffic: \"0.0.0.0:80\", metrics: \"[::1]:90\"}\n\
         policy: {site: policies/site.yaml}\n\
         identity: {keys: keys.yaml}\n\
         upstreams:\n\
        \x20 edge: {kind: edge, model: models/m, memory: 8GiB, expert_cache: 2GiB, threads: 3, context_tokens: 4096, \
         active_experts: 2, drop_cold_experts: 0.125, \
         checkpoints: {memory: 1GiB, disk: 4GiB, folder: kept, expire: 30m}}\n\
        \x20 ward:\n\
        \x20   kind: openai\n\
        \x20   base_url: https://llm.ward.internal:8443/v1/\n\
        \x20   models: {fast: small, best: large}\n\
        \x20   model: standard\n\
        \x20   timeouts: {connect: 1s, total: 1h}\n\
        \x20   proxy: \"http://proxy.internal:3128\"\n\
        \x20   ca_file: ca.pem\n\
        \x20   client_cert: {cert: me.crt, key: me.key}\n\
        \x20   headers: {OpenAI-Project: p1, x-home: \"${PATH}\"}\n\
        \x20   auth: api-key\n\
        \x20   query: {api-version: \"2024-10-21\"}\n\
        \x20   client_headers: [traceparent]\n\
        \x20   client_key: pass\n\
        \x20   pass_fields: [user, metadata]\n\
        \x20   retries: {attempts: 2, budget: 20%, retry_on: [429, 500]}\n\
        \x20   breaker: {failures: 3, open: 5s, open_at_most: 1m}\n\
        \x20   weight: 3\n\
         limits: {body: 1MiB, in_flight: 7}\n\
         choose: weighted\n\
         hedge: {after: p95, for: [interactive, relaxed]}\n\
         passthrough: [{path: /v1/moderations, upstream: ward}]\n\
         offline: {declared: true}\n\
         audit: {path: /var/log/sluice, fsync: never}\n\
         taint: {path: prints, keep: 30d}\n\
         drain: {on_sigterm: 90s}\n",
    )
    .unwrap();
    assert_eq!(config.policy.site.as_deref(), Some(Path::new("/etc/sluice/policies/site.yaml")));
    assert_eq!(config.identity.keys.as_deref(), Some(Path::new("/etc/sluice/keys.yaml")));
    let UpstreamKind::Edge(edge) = &config.upstreams[0].kind else { panic!("no edge first") };
    assert_eq!(edge.model.as_deref(), Some(Path::new("/etc/sluice/models/m")));
    assert_eq!((edge.expert_cache, edge.threads), (Some(2 << 30), Some(3)));
    assert_eq!((edge.active_experts, edge.drop_cold_experts), (Some(2), Some(0.125)));
    assert_eq!(edge.memory, Some(8 << 30));
    let disk = CheckpointDisk { folder: "/etc/sluice/kept".into(), bytes: 4 << 30 };
    let expire = Some(Duration::from_secs(1800));
    let checkpoints = CheckpointsConfig { memory: Some(1 << 30), disk: Some(disk), expire };
    assert_eq!(edge.checkpoints, checkpoints);
    let ward = server(&config, "ward");
    assert_eq!(ward.base_url.as_text(), "https://llm.ward.internal:8443/v1");
    assert_eq!(ward.models[0], ("fast".to_owned(), "small".to_owned()));
    assert_eq!(ward.timeouts.total, Duration::from_secs(3600));
    assert_eq!(ward.timeouts.idle, Timeouts::default().idle);
    let way = &ward.connection;
    assert_eq!(way.proxy.as_ref().unwrap().as_text(), "http://proxy.internal:3128");
    assert_eq!(way.ca_file.as_deref(), Some(Path::new("/etc/sluice/ca.pem")));
    assert_eq!(way.client_cert.as_ref().unwrap().key, Path::new("/etc/sluice/me.key"));
    let headers: Vec<_> =
        way.headers.iter().map(|(name, text)| (name.as_str(), text.expose())).collect();
    let path = std::env::var("PATH").unwrap();
    assert_eq!(headers, [("openai-project", "p1"), ("x-home", path.as_str())]);
    assert_eq!((way.auth, way.client_key), (Auth::ApiKey, true));
    assert_eq!(way.query, [("api-version".to_owned(), "2024-10-21".to_owned())]);
    assert_eq!(way.client_headers, ["traceparent"]);
    assert_eq!(way.pass_fields, [PassField::User, PassField::Metadata]);
    let retry_on = vec![429, 500];
    assert_eq!(ward.retries, Retries { attempts: 2, budget_percent: 20, retry_on });
    assert_eq!((ward.breaker.failures, ward.breaker.open), (3, Duration::from_secs(5)));
    assert_eq!((ward.weight, config.choose), (3, Choose::Weighted));
    let hedge = config.hedge.unwrap();
    assert_eq!((hedge.after, hedge.latency.len()), (HedgeAfter::P95, 2));
    assert_eq!(config.passthrough[0].path, "/v1/moderations");
    assert_eq!((config.limits.body, config.limits.in_flight), (1 << 20, 7));
    assert!(config.offline.declared);
    assert_eq!(config.audit.path, Path::new("/var/log/sluice"));
    let month = Duration::from_secs(30 * 24 * 3600);
    assert_eq!(config.taint.path.as_deref(), Some(Path::new("/etc/sluice/prints")));
    assert_eq!(config.taint.keep, month);
    assert_eq!(config.drain.on_sigterm, Duration::from_secs(90));
}

#[test]
fn who_calls_and_how_is_read_with_paths_from_the_file() {
    let config = parse(
        "listen:\n\
        \x20 traffic: {address: \"0.0.0.0:8443\", tls: {cert: t.crt, key: t.key, client_ca: c.crt}}\n\
        \x20 admin: {address: \"0.0.0.0:9443\", token_file: token}\n\
        \x20 cors: [\"https://app.example\", \"http://localhost:3000\"]\n\
        \x20 threads: 3\n\
         identity:\n\
        \x20 oidc: {issuer: i, audience: a, jwks: keys.json, tenant_claim: org}\n\
         limits: {per_caller: {requests_per_minute: 5, cost_per_day: 2.5}, callers: {a: {concurrency: 1}}}\n\
         prices: {m: {input: 0.25, output: 2}}\n\
         drain: {notice: 5s}\n",
    )
    .unwrap();
    let tls = config.listen.traffic_tls.unwrap();
    assert_eq!(tls.client_ca.as_deref(), Some(Path::new("/etc/sluice/c.crt")));
    assert_eq!(tls.client_certificate, ClientCertificate::Required);
    let admin = config.listen.admin;
    assert_eq!(admin.token_file.as_deref(), Some(Path::new("/etc/sluice/token")));
    assert_eq!(config.listen.cors.len(), 2);
    assert_eq!(config.listen.threads.map(usize::from), Some(3));
    let oidc = config.identity.oidc.unwrap();
    assert_eq!(oidc.jwks, JwksSource::File("/etc/sluice/keys.json".into()));
    assert_eq!((&*oidc.caller_claim, oidc.tenant_claim.as_deref()), ("sub", Some("org")));
    let quotas = config.quotas;
    assert_eq!(quotas.per_caller.cost_per_day, Some(Money(2_500_000_000)));
    assert_eq!(quotas.callers["a"].concurrency.map(u64::from), Some(1));
    assert_eq!(quotas.prices.cost("m", 4_000_000, 0), Money(1_000_000_000));
    assert_eq!(config.drain.notice, Duration::from_secs(5));
}

#[test]
fn secrets_come_from_the_environment_or_a_file() {
    let upstream =
        |key: &str| format!("upstreams:\n  a: {{kind: openai, base_url: http://a, {key}}}\n");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "sk-from-file\n").unwrap();
    let config = parse(&upstream(&format!("key_file: {:?}", file.display().to_string()))).unwrap();
    assert_eq!(server(&config, "a").key.unwrap().expose(), "sk-from-file");
    // PATH is set wherever tests run.
    let config = parse(&upstream("key: \"${PATH}\"")).unwrap();
    assert_eq!(server(&config, "a").key.unwrap().expose(), std::env::var("PATH").unwrap());

    let unset = parse(&upstream("key: \"${SLUICE_TEST_UNSET}\"")).unwrap_err();
    assert_eq!(unset.at, Some((2, 41)), "{unset}");
    assert!(unset.message.contains("SLUICE_TEST_UNSET"), "{unset}");
    let path = folder.path().join("sluice.yaml");
    std::fs::write(&path, upstream("key: \"${SLUICE_TEST_UNSET}\"")).unwrap();
    assert!(Config::load(&path).is_err());
    assert!(server(&Config::load_for_decisions(&path).unwrap(), "a").key.is_none());

    let literal = parse(&upstream("key: sk-literal")).unwrap_err().message;
    assert!(literal.contains("keep secrets out of this file"), "{literal}");
    assert!(!literal.contains("sk-literal"), "the error repeats the secret");
}

#[test]
fn errors_point_at_the_place_and_say_what_to_do() {
    for (source, expected) in [
        (
            "limts: {body: 1MiB}\n",
            "sluice.yaml:1:1: expected one of the known fields (mode, listen, policy, identity, \
             upstreams, limits, prices, shared_state, choose, hedge, passthrough, offline, audit, taint, drain), got \"limts\"\n     1 | limts: {body: 1MiB}\n       \
             | ^\nhint: did you mean \"limits\"?",
        ),
        (
            "mode: trial\nlimits:\n  body: 10MB\n",
            "sluice.yaml:3:9: limits.body: expected a size such as 64KiB, 10MiB or 2GiB, got \
             \"10MB\"\n     3 |   body: 10MB\n       |         ^",
        ),
        (
            "upstreams:\n  a:\n    kind: openai\n    base_url: http://a\n    timeouts: {connect: fast}\n",
            "sluice.yaml:5:25: upstreams.a.timeouts.connect: expected a duration such as 500ms, 3s, \
             5m or 1h, got \"fast\"\n     5 |     timeouts: {connect: fast}\n       \
             |                         ^",
        ),
        (
            "telemetry: {otlp: none}\n",
            "sluice.yaml:1:1: expected one of the known fields (mode, listen, policy, identity, \
             upstreams, limits, prices, shared_state, choose, hedge, passthrough, offline, audit, taint, drain), got \"telemetry\"\n     1 | telemetry: {otlp: \
             none}\n       | ^\nhint: this version sends no telemetry; remove it",
        ),
        (
            "upstreams:\n  edge: {kind: edge, base_url: http://a}\n",
            "sluice.yaml:2:22: upstreams.edge: expected no base_url on an upstream of kind edge\n     \
             2 |   edge: {kind: edge, base_url: http://a}\n       |                      ^",
        ),
        (
            "upstreams:\n  a: {kind: openai}\n",
            "sluice.yaml:2:3: upstreams.a: expected a base_url, got none\n     2 |   a: {kind: \
             openai}\n       |   ^\nhint: base_url: https://llm.example/v1",
        ),
    ] {
        assert_eq!(parse(source).unwrap_err().to_string(), expected, "{source}");
    }
}

#[test]
fn what_would_be_misread_is_refused() {
    for (source, part) in [
        ("policy: {site: \"${HOME}/site.yaml\"}\n", "read in secrets (key) only"),
        ("listen: {traffic: \"8080\"}\n", "expected address and port"),
        ("listen: {traffic: {address: \"0.0.0.0:1\", tls: {}}}\n", "expected the field cert"),
        ("listen: {traffic: {adress: \"0.0.0.0:1\"}}\n", "did you mean \"address\"?"),
        (
            "listen: {admin: \"0.0.0.0:1\"}\n",
            "listen.admin: expected token_file or tls with client_ca",
        ),
        ("listen: {cors: [\"https://app.example/\"]}\n", "expected an origin"),
        ("listen: {cors: [\"*\"]}\n", "expected an origin"),
        ("listen: {threads: 0}\n", "listen.threads: expected 1 to 1024"),
        ("listen: {threads: 5000}\n", "listen.threads: expected 1 to 1024"),
        (
            "identity: {oidc: {issuer: i, audience: a, jwks: \"http://id.example/keys\"}}\n",
            "identity.oidc.jwks: expected https",
        ),
        ("identity: {oidc: {issuer: i, jwks: keys.json}}\n", "expected the field audience"),
        ("limits: {per_caller: {requests_per_minute: 0}}\n", "requests_per_minute: expected"),
        ("limits: {per_caller: {cost_per_day: -1}}\n", "an amount of money such as 2.50"),
        ("limits: {per_caller: {cost_per_day: 1}}\n", "prices: expected the price of at least one"),
        ("shared_state: {redis: \"redis://state\"}\n", "expected a key_file or a password_file"),
        (
            "shared_state: {redis: \"redis://u:p@state\", key_file: k}\n",
            "without user and password",
        ),
        (
            "shared_state: {redis: \"redis://state\", key_file: k}\ntaint: {keep: 1d}\n",
            "expected taint or shared_state, got both",
        ),
        ("audit: {off: true, fsync: never}\n", "expected off, or path and fsync, got both"),
        ("limits: {in_flight: 0}\n", "expected at least 1"),
        ("upstreams:\n  a: {kind: edge}\n  a: {kind: edge}\n", "\"a\" twice"),
        ("upstreams:\n  a: {kind: edge}\n  b: {kind: edge}\n", "at most one upstream of kind edge"),
        ("upstreams:\n  \"a b\": {kind: edge}\n", "expected a name of letters"),
        (
            "upstreams:\n  a: {kind: gemini}\n",
            "expected one of the words (edge, openai, anthropic)",
        ),
        ("upstreams:\n  a: {model: m}\n", "upstreams.a: expected the field kind, got none"),
        (
            "upstreams:\n  a: {kind: openai, base_url: \"http://u:p@a\"}\n",
            "without user and password",
        ),
        ("mode: prod\n", "mode: expected one of the words (trial, production), got \"prod\""),
        ("mode: [\n", "mode: expected a word, got sequence"),
        ("offline: {declared: yes}\n", "offline.declared: expected a boolean, got string \"yes\""),
        ("- mode\n", "expected a map of fields, got sequence"),
        ("choose: best\n", "expected one of the words (in_order, weighted, least_latency)"),
        (
            "upstreams:\n  e: {kind: edge, checkpoints: {disk: 1GiB}}\n",
            "upstreams.e.checkpoints: expected disk and folder, got one",
        ),
        ("hedge: {after: soon}\n", "expected p95 or a duration such as 800ms, got \"soon\""),
        ("passthrough: [{path: /v1/x, upstream: a}]\n", "expected a server under upstreams"),
    ] {
        let error = parse(source).unwrap_err().to_string();
        assert!(error.contains(part), "{source}{error}");
        assert!(error.starts_with("sluice.yaml:"), "{error}");
    }
}

#[test]
fn what_would_tell_or_cost_too_much_is_refused() {
    for (lines, part) in [
        ("client_headers: [authorization]", "expected a header without credentials"),
        ("client_headers: [host]", "that the gateway does not write itself"),
        ("client_headers: [\"a b\"]", "expected the name of a header, got \"a b\""),
        ("headers: {x-api-key: sk-1}", "keys come from key or key_file"),
        ("headers: {x-a: \"a${PATH}\"}", "expected a plain text or ${NAME} alone"),
        ("headers: {x-a: b, X-A: c}", "expected each header once"),
        ("headers: {x-a: \"${SLUICE_TEST_UNSET}\"}", "SLUICE_TEST_UNSET"),
        ("client_key: pass, key: \"${PATH}\"", "expected a key or client_key, got both"),
        ("client_key: drop", "expected one of the words (pass)"),
        ("proxy: \"http://p:1\"", "expected a base_url of https"),
        ("pass_fields: [store]", "expected one of the words (metadata, safety_identifier, user)"),
        ("leave_out: [messages]", "expected fields that a server can do without, got messages"),
        ("retries: {attempts: 11}", "expected at most 10, got 11"),
        ("retries: {retry_on: [400]}", "retry_on: expected some of [408, 429, 500"),
        ("retries: {budget: 0.1}", "expected a share such as 10%"),
        ("breaker: {failures: 0}", "expected at least 1, got 0"),
        ("weight: 0", "expected at least 1, got 0"),
        ("auth: basic", "expected one of the words (bearer, api-key, x-api-key)"),
    ] {
        let source =
            format!("upstreams:\n  a: {{kind: openai, base_url: \"http://a\", {lines}}}\n");
        let error = parse(&source).unwrap_err().to_string();
        assert!(error.contains(part), "{source}{error}");
        assert!(!error.contains("sk-1") || lines.contains("sk-1"), "{error}");
        let edge = format!("upstreams:\n  a: {{kind: edge, {lines}}}\n");
        assert!(parse(&edge).is_err(), "{edge}");
    }
    for path in ["/v1/chat/completions", "/v1/models/x", "/v2/x", "/v1/", "/v1/a/../b", "/v1/a?b"] {
        let source = format!(
            "upstreams:\n  a: {{kind: openai, base_url: \"http://a\"}}\n\
             passthrough: [{{path: \"{path}\", upstream: a}}]\n"
        );
        let error = parse(&source).unwrap_err().to_string();
        assert!(error.contains("passthrough: expected"), "{path}: {error}");
    }
}

#[test]
fn a_server_speaks_what_its_kind_says() {
    for (kind, protocol) in [("openai", Protocol::OpenAi), ("anthropic", Protocol::Anthropic)] {
        let source =
            format!("upstreams:\n  a: {{kind: {kind}, base_url: \"https://a.example/v1\"}}\n");
        assert_eq!(server(&parse(&source).unwrap(), "a").protocol, protocol);
        let foreign = source.replace("}", ", threads: 3}");
        let error = parse(&foreign).unwrap_err().message;
        assert!(error.contains(&format!("no threads on an upstream of kind {kind}")), "{error}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nowhere/sluice.yaml")).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/sluice.yaml: failed to read the config: "), "{error}");
}

#[test]
fn the_example_that_ships_is_read() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sluice.yaml");
    let config = Config::load(&example).unwrap();
    assert_eq!(config.mode, Mode::Production);
    assert!(config.upstreams.iter().any(|u| matches!(u.kind, UpstreamKind::Edge(_))));
}

#[test]
fn hints_lead_to_where_a_thing_is() {
    for (source, hint) in [
        ("retries: {attempts: 2}", "each upstream has its own: upstreams.NAME.retries"),
        (
            "offline: {resume: manual}",
            "a person ends a declared absence: DELETE /admin/v1/offline; remove it",
        ),
        (
            "listen: {metrics: {address: \"127.0.0.1:1\"}}",
            "write the address alone; this listener has no TLS of its own",
        ),
    ] {
        assert_eq!(parse(source).unwrap_err().hint.as_deref(), Some(hint), "{source}");
    }
}

/// What a line of the example leaves commented out: where it would stand, and the field.
fn commented_out(line: &str) -> Option<(usize, &str)> {
    let (before, text) = line.split_once('#').filter(|(before, _)| before.trim().is_empty())?;
    let field = text.trim_start();
    let name = field.trim_start_matches("- {").split_once(':')?.0;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_name.then(|| ((before.len() + text.len() - field.len()).saturating_sub(1), field))
}

#[test]
fn every_field_that_the_example_leaves_commented_out_is_known() {
    let example = include_str!("../../../deploy/sluice.yaml");
    let lines: Vec<&str> = example.lines().collect();
    let mut tried = 0;
    for (start, line) in lines.iter().enumerate() {
        let Some((indent, shown)) = commented_out(line) else { continue };
        if line.find('#') != Some(indent) {
            continue;
        }
        // With what lies inside it, and in the place of a field of its name.
        let is_inside = |line: &&str| match commented_out(line) {
            Some((deeper, _)) => deeper > indent,
            None => line.trim_start().starts_with('#'),
        };
        let end = start + 1 + lines[start + 1..].iter().copied().take_while(is_inside).count();
        let name = shown.split(':').next().unwrap();
        let live = format!("{}{name}:", " ".repeat(indent));
        let mut text = String::new();
        for (at, line) in lines.iter().enumerate() {
            match commented_out(line).filter(|_| (start..end).contains(&at)) {
                Some((indent, field)) => text += &format!("{}{field}\n", " ".repeat(indent)),
                None if line.starts_with(&live) => {}
                None => text += &format!("{line}\n"),
            }
        }
        // What it names may be missing here: that is found after all fields are known.
        if let Err(error) = parse(&text) {
            assert!(!error.message.contains("known fields"), "{error}");
            assert!(!error.message.contains("the words"), "{error}");
        }
        tried += 1;
    }
    assert!(tried > 40, "{tried} fields");
}

#[test]
fn capabilities_are_read_and_the_edges_quality_stands_in_its_model() {
    let config = parse(
        "upstreams:\n  edge: {kind: edge, capabilities: {languages: [en]}}\n  a: {kind: openai, \
         base_url: http://a, capabilities: {context_tokens: 8000, vision: false, quality: general}}\n",
    )
    .unwrap();
    let [edge, a] = config.upstreams.as_slice() else { panic!("two upstreams") };
    assert_eq!(edge.capabilities.languages, ["en"]);
    let can = &a.capabilities;
    assert_eq!((can.context_tokens, can.vision, can.tools), (Some(8000), false, true));
    assert_eq!(can.quality, Some(sluice_policies::Quality::General));
    for (capabilities, expected) in [
        ("{quality: general}", "expected no quality on an upstream of kind edge"),
        ("{visoin: true}", "visoin"),
    ] {
        let source = format!("upstreams:\n  e: {{kind: edge, capabilities: {capabilities}}}\n");
        let error = parse(&source).unwrap_err();
        assert!(error.message.contains(expected), "{error}");
        assert!(error.at.is_some_and(|(line, _)| line == 2), "{error}");
    }
}
