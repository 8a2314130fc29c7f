//! What is redacted comes back whole, however a stream cuts it.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_policies::{Finding, Likelihood};

use super::*;
use crate::api::{Hints, chat};
use crate::identity::Caller;
use crate::upstream::sse;

const VALUES: [&str; 3] = ["Ann Lee", "ann.lee@example.org", "O\"Neill [senior]"];

fn request(text: &str) -> Request {
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": text}]});
    let hints = Hints::read(&hyper::HeaderMap::new(), "/v1/chat/completions", "").unwrap();
    let caller = Caller { id: None, tenant: "default".into(), tags: Default::default() };
    chat::read(body.to_string().as_bytes(), hints, caller).unwrap()
}

/// Findings of the values, as detectors would name them.
fn findings(request: &Request) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, text) in request.prompt.texts.iter().enumerate() {
        for (at, value) in VALUES.iter().flat_map(|value| text.text.match_indices(value)) {
            findings.push(Finding {
                detector: "person_name".to_owned(),
                place: text.place.clone(),
                likelihood: Likelihood::Likely,
                text: index,
                span: at..at + value.len(),
            });
        }
    }
    findings
}

fn redacted(redactor: &Redactor, request: &Request) -> (String, Redaction) {
    let findings = findings(request);
    let findings: Vec<&Finding> = findings.iter().collect();
    let (fields, redaction) = redactor.redact(request, &findings).expect("there are values");
    (fields["messages"][0]["content"].as_str().unwrap().to_owned(), redaction)
}

/// A reply's text, streamed in pieces and put together again.
fn streamed(redaction: &Redaction, tools: &Tools, call: Option<&str>, pieces: &[&str]) -> String {
    let mut restorer = restorer(redaction.clone(), tools.clone());
    let mut out = String::new();
    let last = json!({});
    let deltas = pieces.iter().enumerate().map(|(number, piece)| match call {
        Some(name) if number == 0 => json!({"tool_calls": [{"index": 0,
            "function": {"name": name, "arguments": piece}}]}),
        Some(_) => json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}),
        None => json!({"content": piece}),
    });
    for (delta, finish) in deltas.map(|d| (d, Value::Null)).chain([(last, json!("stop"))]) {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        let event = format!("data: {}\n\n", json!({"choices": [choice]}));
        let events = restorer.push(&Bytes::from(event));
        for data in sse::events(&events).filter_map(sse::data) {
            let delta = &serde_json::from_str::<Value>(&data).unwrap()["choices"][0]["delta"];
            let text = match call {
                Some(_) => &delta["tool_calls"][0]["function"]["arguments"],
                None => &delta["content"],
            };
            out.push_str(text.as_str().unwrap_or_default());
        }
    }
    out
}

fn whole(redaction: &Redaction, tools: &Tools, message: Value) -> Value {
    let choice = json!({"index": 0, "finish_reason": "stop", "message": message});
    let body = json!({"choices": [choice]}).to_string();
    let bytes = restore_whole(redaction, tools, Bytes::from(body));
    serde_json::from_slice::<Value>(&bytes).unwrap()["choices"][0]["message"].clone()
}

#[test]
fn a_value_inside_a_longer_word_stays() {
    let redactor = Redactor::new().unwrap();
    let request = request("Ann Lee and the Ann Leeward islands");
    let (text, redaction) = redacted(&redactor, &request);
    assert!(text.ends_with(" and the Ann Leeward islands"), "{text}");
    assert_eq!(redaction.count(), 1);
}

#[test]
fn values_in_arguments_are_written_as_json() {
    let redactor = Redactor::new().unwrap();
    let (text, redaction) = redacted(&redactor, &request("for O\"Neill [senior], please"));
    let arguments = json!({"to": text}).to_string();
    let tools = Tools::from(["mail".to_owned()]);
    let call = json!({"tool_calls": [{"function": {"name": "mail", "arguments": arguments}}]});
    let restored = whole(&redaction, &tools, call.clone());
    let got = restored["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    let expected = json!({"to": "for O\"Neill [senior], please"});
    assert_eq!(serde_json::from_str::<Value>(got).unwrap(), expected);
    assert_eq!(whole(&redaction, &Tools::new(), call.clone()), call);
}

proptest! {
    #[test]
    fn restoring_what_was_redacted_gives_the_same_text(
        words in prop::collection::vec(
            prop_oneof![
                prop::sample::select(VALUES.to_vec()).prop_map(str::to_owned),
                "[a-z\\[\\]A-Z_ .,\u{e9}\u{4e2d}]{0,6}",
                Just("[PERSON_".to_owned()),
                Just("[".to_owned()),
            ],
            1..12,
        ),
        cuts in prop::collection::vec(0usize..400, 0..12),
    ) {
        let text = format!("Ann Lee {}", words.join(" "));
        let redactor = Redactor::new().unwrap();
        let (hidden, redaction) = redacted(&redactor, &request(&text));
        prop_assert!(!hidden.starts_with("Ann Lee"));
        let mut cuts: Vec<usize> =
            cuts.into_iter().map(|at| at % hidden.len()).filter(|at| hidden.is_char_boundary(*at)).collect();
        cuts.extend([0, hidden.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|pair| &hidden[pair[0]..pair[1]]).collect();
        prop_assert_eq!(streamed(&redaction, &Tools::new(), None, &pieces), text.clone());
        let content = whole(&redaction, &Tools::new(), json!({"content": hidden}));
        prop_assert_eq!(content["content"].as_str().unwrap(), &text);

        let arguments = json!({"to": hidden}).to_string();
        let half = arguments.len() / 2;
        let half = (0..=half).rev().find(|at| arguments.is_char_boundary(*at)).unwrap();
        let tools = Tools::from(["mail".to_owned()]);
        let pieces = [&arguments[..half], &arguments[half..]];
        let got = streamed(&redaction, &tools, Some("mail"), &pieces);
        prop_assert_eq!(serde_json::from_str::<Value>(&got).unwrap(), json!({"to": text}));
        prop_assert_eq!(streamed(&redaction, &tools, Some("other"), &pieces), arguments);
    }
}

#[test]
fn the_same_value_of_another_tenant_or_caller_has_another_placeholder() {
    let redactor = Redactor::new().unwrap();
    let of = |tenant: &str, id: &str| {
        let mut request = request("Ann Lee");
        request.caller.tenant = tenant.into();
        request.caller.id = Some(id.to_owned());
        redacted(&redactor, &request).0
    };
    let ours = of("north", "app");
    assert_eq!(of("north", "app"), ours);
    assert_ne!(of("south", "app"), ours);
    assert_ne!(of("north", "other"), ours);
    // Names that only together are the same do not meet.
    assert_ne!(of("nortia", "pp"), of("nort", "iapp"));
}
