//! What leaves for a server, byte for byte, and what is read from its streams.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::api::{Hints, chat};
use crate::config::{BaseUrl, PassField};
use crate::identity::Caller;
use crate::reply_scan::{Channel, Place, ReplyText};
use crate::upstream::Usage;
use crate::upstream::seen::{Part, Said, Seen};

fn upstream(models: &[(&str, &str)], model: Option<&str>) -> ServerUpstream {
    let base_url = BaseUrl::parse("http://127.0.0.1:9/v1").unwrap();
    let config = ServerConfig {
        models: models.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect(),
        model: model.map(str::to_owned),
        ..ServerConfig::at(Protocol::OpenAi, base_url)
    };
    ServerUpstream::new(UpstreamId::new("cloud"), config).unwrap()
}

fn body(value: &Value) -> ChatBody {
    let hints = Hints::read(&hyper::HeaderMap::new(), "/", "").unwrap();
    let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
    chat::read(value.to_string().as_bytes(), hints, caller).ok().unwrap().chat
}

/// A permit to send a body.
pub(super) fn permit(upstream: &ServerUpstream, value: &Value) -> EgressPermit {
    let decision = serde_json::from_value(json!({
        "route": "cloud", "upstream": "cloud", "allowed": ["cloud"], "class": "c", "labels": [],
        "latency": "l", "redact": false, "rules": [], "raised_by": [], "never_cloud": false,
        "reason": "", "refusal": null, "policy_digest": "",
    }))
    .unwrap();
    let sealed = upstream.outbound(&body(value), &ClientHeaders::default()).ok().unwrap();
    let recorded = crate::audit::Recorded::for_test(upstream.id());
    let within = AddressRanges::default();
    EgressPermit::mint(&decision, upstream.id(), &sealed, &recorded, within).ok().unwrap()
}

fn sent(upstream: &ServerUpstream, value: &Value) -> Value {
    serde_json::from_slice(&permit(upstream, value).spend().2).unwrap()
}

#[test]
fn the_cloud_gets_the_clients_fields_but_for_those_that_the_gateway_sets() {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let plain = json!({"model": "m", "messages": messages, "temperature": 0.5});
    let upstream = upstream(&[], None);
    let expected = json!({"model": "m", "messages": messages, "temperature": 0.5, "store": false});
    assert_eq!(sent(&upstream, &plain), expected);

    let stored = json!({"model": "m", "messages": messages, "store": true, "metadata": {"a": "b"}});
    assert_eq!(
        sent(&upstream, &stored),
        json!({"model": "m", "messages": messages, "store": false})
    );

    let personal =
        json!({"model": "m", "messages": messages, "user": "u", "safety_identifier": "s"});
    let bare = json!({"model": "m", "messages": messages, "store": false});
    assert_eq!(sent(&upstream, &personal), bare, "who asks is nobody's business there");

    let stream = json!({"model": "m", "messages": messages, "stream": true,
                        "stream_options": {"include_usage": false, "include_obfuscation": false}});
    assert_eq!(
        sent(&upstream, &stream),
        json!({"model": "m", "messages": messages, "stream": true, "store": false,
               "stream_options": {"include_usage": true, "include_obfuscation": false}})
    );
}

#[test]
fn fields_that_name_persons_leave_where_the_config_lists_them() {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let asked = json!({"model": "m", "messages": messages, "user": "u", "safety_identifier": "s",
                       "metadata": {"user_id": "v"}});
    for (listed, expected) in [
        (vec![PassField::User], json!({"user": "u"})),
        (vec![PassField::Metadata], json!({"metadata": {"user_id": "v"}})),
        (
            vec![PassField::User, PassField::SafetyIdentifier],
            json!({"user": "u", "safety_identifier": "s"}),
        ),
    ] {
        let mut upstream = upstream(&[], None);
        upstream.config.connection.pass_fields = listed;
        let mut sent = sent(&upstream, &asked);
        for name in ["model", "messages", "store"] {
            assert!(sent.as_object_mut().unwrap().remove(name).is_some(), "{name}");
        }
        assert_eq!(sent, expected);
    }
}

#[test]
fn a_strict_server_is_not_sent_what_it_refuses() {
    let messages = json!([{"role": "assistant", "content": "hi", "reasoning_content": "hm"}]);
    let asked = json!({"model": "m", "messages": messages, "stream": true, "top_k": 3,
                       "max_completion_tokens": 9});
    let mut upstream = upstream(&[], None);
    let refused =
        ["store", "stream_options", "max_completion_tokens", "top_k", "reasoning_content"];
    upstream.config.connection.leave_out = refused.map(str::to_owned).to_vec();
    let expected = json!({"model": "m", "messages": [{"role": "assistant", "content": "hi"}],
                          "stream": true, "max_tokens": 9});
    assert_eq!(sent(&upstream, &asked), expected);
}

#[test]
fn anthropic_gets_the_user_in_its_own_words_where_the_config_lists_it() {
    let asked = json!({"model": "m", "user": "u", "messages": [{"role": "user", "content": "hi"}]});
    for (listed, expected) in
        [(vec![], Value::Null), (vec![PassField::User], json!({"user_id": "u"}))]
    {
        let mut upstream = upstream(&[], None);
        upstream.config.protocol = Protocol::Anthropic;
        upstream.config.connection.pass_fields = listed;
        assert_eq!(sent(&upstream, &asked)["metadata"], expected);
    }
}

#[test]
fn what_only_another_protocol_knows_is_left_out_where_it_stands() {
    let parameters = json!({"properties": {"cache_control": {"type": "string"}}});
    let function = json!({"name": "f", "parameters": parameters});
    let mark = json!({"type": "ephemeral"});
    let body = json!({
        "model": "m", "thinking": {"type": "adaptive"},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": mark}]},
            {"role": "assistant", "content": "b", "thinking_blocks": [], "reasoning_content": "c"},
            {"role": "tool", "tool_call_id": "1", "content": "d", "is_error": true}],
        "tools": [{"type": "function", "function": function, "cache_control": mark}],
    });
    let expected = json!({
        "model": "m", "store": false,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "b", "reasoning_content": "c"},
            {"role": "tool", "tool_call_id": "1", "content": "d"}],
        "tools": [{"type": "function", "function": function}],
    });
    assert_eq!(sent(&upstream(&[], None), &body), expected);
}

#[test]
fn model_names_are_rewritten_by_the_config() {
    for (models, standard, asked, expected) in [
        (&[][..], None, "m", "m"),
        (&[("fast", "small")], None, "fast", "small"),
        (&[("fast", "small")], None, "other", "other"),
        (&[("fast", "small")], Some("std"), "other", "std"),
        (&[], Some("std"), "auto", "std"),
    ] {
        assert_eq!(upstream(models, standard).model_name(asked), expected, "{asked}");
    }
}

#[test]
fn one_event_is_looked_into_without_changing_it() {
    let event = |data: &str| format!("data: {data}\n\n").into_bytes();
    let mut seen = Seen::default();
    let text = |json: &str, seen: &mut Seen| {
        let mut texts = Vec::new();
        let dropped = seen.event(&event(json), &mut texts);
        (texts.into_iter().map(|t| t.text).collect::<String>(), dropped)
    };
    let delta = r#"{"choices":[{"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}"#;
    assert_eq!(text(delta, &mut seen), ("Hi".to_owned(), false));
    assert!(!seen.finished);
    let finish = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    assert_eq!(text(finish, &mut seen), (String::new(), false));
    assert!(seen.finished && !seen.done);
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
    assert_eq!(text(usage, &mut seen), (String::new(), true));
    assert_eq!(
        seen.usage,
        Usage { prompt_tokens: Some(3), completion_tokens: Some(2), cached_tokens: None }
    );
    assert!(!seen.event(b"data: [DONE]\n\n", &mut Vec::new()));
    assert!(seen.done);
    // A last chunk that has both a choice and the usage belongs to the client.
    let both = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}"#;
    assert!(!Seen::default().event(&event(both), &mut Vec::new()));
}

#[test]
fn a_text_is_found_wherever_a_message_holds_it() {
    let of = |message: Value| {
        let mut texts = Vec::new();
        Said::of(&json!({"choices": [{"message": message}]})).texts(Part::Message, &mut texts);
        texts.retain(ReplyText::is_said);
        texts.into_iter().map(|text| text.text).collect::<Vec<_>>()
    };
    for message in [
        json!({"role": "assistant", "content": [{"type": "text", "text": "w"}]}),
        json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "w"}]}]}),
        json!({"reasoning": "w", "content": null}),
        json!({"reasoning_details": [{"type": "reasoning.text", "text": "w", "id": "r"}]}),
        json!({"function_call": {"arguments": "w"}}),
        json!({"tool_calls": [{"id": "c", "type": "custom", "custom": {"input": "w"}}]}),
        json!({"tool_calls": [{"function": {"arguments": {"to": "w"}}}]}),
        json!({"audio": {"data": "AA", "transcript": "w"}}),
        json!({"nobody_knows": [[{"this": "w"}], 7, true, null]}),
    ] {
        assert_eq!(of(message.clone()), ["w"], "{message}");
    }
    assert_eq!(of(json!({"function_call": {"arguments": 4539578763621486u64}}))[0].len(), 16);
}

#[test]
fn every_text_of_a_reply_is_collected_in_its_own_channel() {
    let json = json!({"choices": [
        {"index": 1, "delta": {"content": "b", "reasoning_content": "why"}},
        {"index": 0, "delta": {"tool_calls": [{"index": 2, "function": {"arguments": "{\"x\""}}]}},
        {"delta": {"refusal": "no", "content": ""}},
    ]});
    let mut texts = Vec::new();
    Said::of(&json).texts(Part::Delta, &mut texts);
    let found: Vec<_> = texts.iter().map(|t| (t.channel, t.text.as_str())).collect();
    let expected = [
        (Channel::Content(1), "b"),
        (Channel::Aside(1, Place::of("reasoning_content")), "why"),
        (Channel::Arguments(0, 2), "{\"x\""),
        (Channel::Aside(2, Place::of("refusal")), "no"),
    ];
    assert_eq!(found, expected);
}
