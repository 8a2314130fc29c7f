//! The facts that a decision is told, since deciding contacts nothing and nobody.
//!
//! In serving, facts come from breakers, forecasts and the clock. Here they are assumed, read from a
//! file, or derived from a config; in each case they are shown with the decision.

use std::path::Path;

use anyhow::{Context, bail};
use jiff::civil::Date;
use serde::Deserialize;
use serde_json::Value;
use sluice::capability::Capabilities;
use sluice::config::{Config, EdgeConfig, UpstreamConfig, UpstreamKind};
use sluice_engine::pack::inspect;
use sluice_policies::{Facts, Quality, UpstreamFacts};

use crate::cli::{locate, out};

/// The edge idle and healthy with the demo model, and one healthy cloud upstream with nothing vouched.
pub(super) fn assumed(today: Date) -> Facts {
    Facts::ordinary(today, vec![edge("edge"), assumed_cloud()])
}

fn assumed_cloud() -> UpstreamFacts {
    UpstreamFacts::server("assumed-cloud", "https", "assumed-cloud.invalid", 443)
}

/// The embedded engine with nothing to do. What it would promise depends on the model: nothing is
/// claimed.
pub(super) fn edge(id: &str) -> UpstreamFacts {
    UpstreamFacts { quality: Some(Quality::Demo), ..UpstreamFacts::edge(id) }
}

/// The upstreams of a config, all of them healthy and the edge idle.
pub(super) fn from_config(config: &Config, today: Date) -> Facts {
    Facts {
        mode: config.mode,
        offline: config.offline.declared.then(|| "declared in the config".to_owned()),
        upstreams: config.upstreams.iter().map(configured).collect(),
        ..assumed(today)
    }
}

fn configured(upstream: &UpstreamConfig) -> UpstreamFacts {
    let id = upstream.id.as_str();
    match &upstream.kind {
        UpstreamKind::Edge(model) => UpstreamFacts { quality: Some(declared(model)), ..edge(id) },
        UpstreamKind::Server(server) => {
            let url = &server.base_url;
            UpstreamFacts {
                quality: upstream.capabilities.quality,
                ..UpstreamFacts::server(id, &url.scheme, &url.host, url.port)
            }
        }
    }
}

/// What the upstreams of a config can do, as far as that is known without asking them.
pub(super) fn capabilities(config: &Config) -> Vec<Capabilities> {
    let of = |upstream: &UpstreamConfig| match &upstream.kind {
        UpstreamKind::Edge(_) => upstream.capabilities.within(&Capabilities::of_engine(None, true)),
        UpstreamKind::Server(_) => upstream.capabilities.clone(),
    };
    config.upstreams.iter().map(of).collect()
}

/// The quality that the configured model declares, read from its files without loading it.
fn declared(edge: &EdgeConfig) -> Quality {
    let found = locate::model(None, edge.model.as_deref())
        .and_then(|path| inspect(&path, false).map_err(anyhow::Error::from));
    match found {
        Ok(model) => quality(model.quality.as_deref()),
        Err(error) => {
            out::note(format_args!("the edge's model counts as a demo: {error:#}"));
            Quality::Demo
        }
    }
}

/// As in serving: a model that says nothing is general, an unknown word counts as the lowest.
fn quality(declared: Option<&str>) -> Quality {
    match declared {
        Some("approved") => Quality::Approved,
        Some("general") | None => Quality::General,
        Some(_) => Quality::Demo,
    }
}

/// Facts from a JSON or YAML file, as the audit log records them. `today` may be left out.
pub(super) fn read(path: &Path, today: Date) -> anyhow::Result<Facts> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("failed to read the facts in {}", path.display()))?;
    parse(&text, today).with_context(|| path.display().to_string())
}

fn parse(text: &str, today: Date) -> anyhow::Result<Facts> {
    // JSON is YAML too, but the JSON parser has the better messages and no surprises.
    let mut given: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text)?
    } else {
        serde_yaml::from_str(text)?
    };
    let Value::Object(fields) = &mut given else {
        bail!("expected a mapping with `upstreams`");
    };
    fields.entry("today").or_insert_with(|| Value::from(today.to_string()));
    let facts = Facts::deserialize(&given)?;
    if let Some(path) = unknown_key(&given, &serde_json::to_value(&facts)?) {
        bail!("{path}: unknown fact");
    }
    Ok(facts)
}

/// The first key that was given but did not survive reading: a typo must not pass for a fact.
fn unknown_key(given: &Value, understood: &Value) -> Option<String> {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            given.iter().find_map(|(key, value)| match understood.get(key) {
                None => Some(key.clone()),
                Some(other) => unknown_key(value, other).map(|rest| format!("{key}.{rest}")),
            })
        }
        (Value::Array(given), Value::Array(understood)) => {
            given.iter().zip(understood).enumerate().find_map(|(index, (value, other))| {
                unknown_key(value, other).map(|rest| format!("[{index}].{rest}"))
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use sluice_policies::Mode;

    use super::*;

    const TODAY: Date = jiff::civil::date(2026, 12, 1);

    #[test]
    fn facts_are_read_from_yaml_and_json_alike() {
        let yaml = "offline: storm\nupstreams:\n  - {id: edge, edge: true, healthy: false}\n";
        let json = r#"{"offline": "storm", "upstreams": [{"id": "edge", "edge": true, "healthy": false}]}"#;
        let facts = parse(yaml, TODAY).unwrap();
        assert_eq!(facts, parse(json, TODAY).unwrap());
        assert_eq!(facts.today, TODAY);
        assert_eq!(facts.offline.as_deref(), Some("storm"));
        assert!(!facts.upstreams[0].healthy);
        assert!(facts.audit_writable);
    }

    #[test]
    fn what_is_recorded_can_be_read_back() {
        let facts = assumed(TODAY);
        let json = serde_json::to_string(&facts).unwrap();
        assert_eq!(parse(&json, jiff::civil::date(1999, 1, 1)).unwrap(), facts);
    }

    #[test]
    fn a_config_gives_its_own_upstreams_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let yaml = "upstreams:\n  far: {kind: openai, base_url: \"https://llm.example:8443/v1\"}\n\
                    \x20 here: {kind: edge, model: absent}\noffline: {declared: true}\n";
        let config = Config::parse("sluice.yaml", yaml, folder.path()).unwrap();
        let facts = from_config(&config, TODAY);
        assert_eq!(facts.mode, Mode::Production);
        assert!(facts.offline.is_some());
        let [far, here] = facts.upstreams.as_slice() else { panic!("{:?}", facts.upstreams) };
        assert_eq!((far.id.as_str(), far.host.as_str(), far.port), ("far", "llm.example", 8443));
        assert!(here.edge && here.healthy);
        assert_eq!(here.quality, Some(Quality::Demo));
    }

    #[test]
    fn a_misspelt_fact_is_an_error_that_names_it() {
        let cases = [
            ("ofline: storm\nupstreams: []\n", "ofline: unknown fact"),
            (
                "upstreams: [{id: edge, healthy: true, helthy: true}]\n",
                "upstreams.[0].helthy: unknown fact",
            ),
            ("- 1\n", "expected a mapping"),
            ("offline: storm\n", "upstreams"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(text, TODAY).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
