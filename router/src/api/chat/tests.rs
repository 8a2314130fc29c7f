//! Bodies in, prompts out: nothing is ignored.

use std::collections::BTreeSet;

use serde_json::json;
use sluice_policies::{ContentKind, Role};

use super::*;

fn places(prompt: &Prompt) -> Vec<&str> {
    prompt.texts.iter().map(|text| text.place.as_str()).collect()
}

fn kinds(prompt: &Prompt) -> Vec<(ContentKind, &str)> {
    prompt.unscanned.iter().map(|u| (u.kind, u.place.as_str())).collect()
}

fn user(content: Value) -> Value {
    json!({"messages": [{"role": "user", "content": content}]})
}

/// Every text in a JSON value, keys included.
fn words(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => drop(out.insert(text.clone())),
        Value::Array(list) => list.iter().for_each(|item| words(item, out)),
        Value::Object(map) => map.values().for_each(|inner| words(inner, out)),
        _ => {}
    }
}

#[test]
fn the_table_is_sorted_and_lists_each_field_once() {
    for table in [FIELDS, COMPLETION_FIELDS, EMBEDDING_FIELDS] {
        assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
    assert!(HOSTED_PARTS.is_sorted());
}

#[test]
fn roles_places_and_messages_are_kept() {
    let prompt = prompt_from_json(&json!({"messages": [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "hi", "name": "bot"},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]}))
    .unwrap();
    let got: Vec<_> =
        prompt.texts.iter().map(|t| (&*t.place, t.message, t.role, &*t.text)).collect();
    assert_eq!(
        got,
        [
            ("messages[0].content", Some(0), Role::System, "be kind"),
            ("messages[1].content[0].text", Some(1), Role::User, "one"),
            ("messages[1].content[1].text", Some(1), Role::User, "two"),
            ("messages[2].content", Some(2), Role::Assistant, "hi"),
            ("messages[2].name", Some(2), Role::Assistant, "bot"),
            ("messages[3].content", Some(3), Role::Tool, "42"),
            ("messages[3].tool_call_id", Some(3), Role::Tool, "c1"),
        ]
    );
    assert!(prompt.unscanned.is_empty());
}

#[test]
fn every_string_of_a_body_is_in_some_text() {
    let body = json!({
        "model": "w-model", "user": "w-user", "stop": ["w-stop1", "w-stop2"],
        "metadata": {"w-key": "w-value"}, "service_tier": "w-tier", "seed": "w-seed",
        "temperature": {"w-odd-key": "w-odd"}, "w-unknown": {"w-inner": ["w-deep"]},
        "tools": [{"type": "function", "function": {"name": "w-fn", "description": "w-desc",
                   "parameters": {"properties": {"w-prop": {"description": "w-prop-desc"}}}}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "w-schema"}},
        "prediction": {"type": "content", "content": "w-prediction"},
        "messages": [
            {"role": "user", "name": "w-name", "content": "w-content", "w-extra": "w-extra-value"},
            {"role": "assistant", "content": null, "refusal": "w-refusal", "tool_calls": [
                {"id": "w-id", "type": "function",
                 "function": {"name": "w-call", "arguments": "{\"w\":\"w-args\"}"}}]},
            {"role": "user", "content": [
                {"type": "text", "text": "w-part", "w-part-extra": "w-part-value",
                 "prompt_cache_breakpoint": {"mode": "w-mode"}},
                {"type": "w-type", "w-what": "w-new-part"},
                {"type": "file", "file": {"filename": "w-file.pdf", "file_data": "AAAA"}},
                {"type": "image_url", "image_url": {"url": "https://w-url", "detail": "w-detail"}}]},
        ],
    });
    let prompt = prompt_from_json(&body).unwrap();
    let scanned: String = prompt.texts.iter().map(|t| format!("{}\n", t.text)).collect();
    let mut expected = BTreeSet::new();
    words(&body, &mut expected);
    for word in expected.iter().filter(|word| word.contains("w-")) {
        assert!(scanned.contains(word.as_str()), "{word} is not scanned");
    }
    for key in ["w-key", "w-odd-key", "w-unknown", "w-inner", "w-prop", "w-extra", "w-what"] {
        assert!(scanned.contains(key), "the key {key} is not scanned");
    }
}

#[test]
fn what_cannot_be_read_is_named_by_its_kind() {
    use ContentKind::*;
    let part = |part: Value| user(json!([part]));
    for (body, expected) in [
        (
            part(json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}})),
            vec![Image],
        ),
        (
            part(json!({"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AA"}})),
            vec![Image],
        ),
        (
            part(json!({"type": "image_url", "image_url": "https://x.example/1"})),
            vec![Image, RemoteUrl],
        ),
        (part(json!({"type": "input_audio", "input_audio": {"data": "AA"}})), vec![Audio]),
        (
            part(json!({"type": "text", "text": "a", "prompt_cache_breakpoint": {"ttl": "30m"}})),
            vec![],
        ),
        (part(json!({"type": "file", "file": {"file_id": "f"}})), vec![FileReference]),
        (part(json!({"type": "file", "file": {"file_data": "AA"}})), vec![EncryptedFile]),
        (
            part(json!({"type": "file", "file": {"file_data": "AA", "file_id": "f"}})),
            vec![FileReference, EncryptedFile],
        ),
        (
            part(json!({"type": "file", "file": {"file_data": "AA", "file_id": null}})),
            vec![EncryptedFile],
        ),
        (
            part(
                json!({"type": "file", "file": {"file_url": "https://x.example", "file_id": null}}),
            ),
            vec![RemoteUrl],
        ),
        (part(json!({"type": "image_url", "image_url": null})), vec![]),
        (
            json!({"messages": [{"role": "user", "content": "x"}], "web_search_options": null}),
            vec![],
        ),
        (part(json!({"type": "video", "video": "AA"})), vec![UnknownField]),
        (
            part(json!({"type": "text", "text": "a", "image_url": {"url": "data:"}})),
            vec![UnknownField],
        ),
        (
            json!({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}),
            vec![ProviderStoredState],
        ),
        (
            json!({"messages": [{"role": "user", "content": "x"}], "web_search_options": {}}),
            vec![HostedTool],
        ),
        (
            json!({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "mcp"}]}),
            vec![HostedTool],
        ),
        (json!({"messages": [{"role": "user", "content": "x"}], "new": 1}), vec![UnknownField]),
    ] {
        let prompt = prompt_from_json(&body).unwrap();
        let got: Vec<_> = kinds(&prompt).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(got, expected, "{body}");
    }
}

#[test]
fn base64_of_pictures_is_not_scanned_as_text() {
    let url = format!("data:image/png;base64,{}", "A".repeat(1000));
    let part = json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}});
    let prompt = prompt_from_json(&user(json!([part]))).unwrap();
    assert!(prompt.texts.iter().all(|text| text.text.len() < 100));
}

#[test]
fn long_numbers_in_inert_fields_are_scanned() {
    let mut body = user(json!("x"));
    body["seed"] = json!(4_539_578_763_621_486_u64);
    body["top_k"] = json!(40);
    let prompt = prompt_from_json(&body).unwrap();
    assert_eq!(places(&prompt), ["messages[0].content", "seed"]);
}

#[test]
fn escapes_in_tool_arguments_do_not_hide_a_number_behind_a_letter() {
    let arguments = "{\"note\":\"ssn\\n078-05-1120\"}";
    let body = json!({"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": arguments}}]}]});
    let prompt = prompt_from_json(&body).unwrap();
    assert!(prompt.texts[0].text.contains("\n078-05-1120"), "{}", prompt.texts[0].text);
}

#[test]
fn keys_that_may_be_content_do_not_become_places() {
    let mut body = user(json!("x"));
    body["card 4539578763621486"] = json!(1);
    let prompt = prompt_from_json(&body).unwrap();
    assert!(places(&prompt).iter().all(|place| !place.contains("4539")), "{prompt:?}");
}

#[test]
fn unknown_fields_are_removed_by_their_place_and_nothing_else_is() {
    let body = json!({"model": "m", "a": 1, "b": {"c": 2}, "messages": [
        {"role": "user", "odd": true, "content": [
            {"type": "new", "x": 1}, {"type": "text", "text": "keep"}, {"type": "newer"}]}]});
    let hints = Hints::read(&hyper::HeaderMap::new(), "/", "").unwrap();
    let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
    let mut request = read(body.to_string().as_bytes(), hints, caller).ok().unwrap();
    let all: Vec<String> = kinds(&request.prompt).iter().map(|(_, p)| (*p).to_owned()).collect();
    assert_eq!(all.len(), 5, "{all:?}");
    let removed = request.chat.strip(&all);
    assert_eq!(removed, all);
    assert_eq!(
        Value::Object(request.chat.fields),
        json!({"model": "m", "messages": [
            {"role": "user", "content": [{"type": "text", "text": "keep"}]}]})
    );
}
