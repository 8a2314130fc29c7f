//! Bodies of the internal form as a strict server takes them. Whole conversations are in `tests/golden`.

use std::collections::BTreeSet;

use super::*;
use crate::api::Hints;
use crate::identity::Caller;

/// The messages that are sent for these, or the field that cannot be.
fn sent(messages: Value) -> Result<Value, String> {
    let fields = json!({"model": "m", "messages": messages});
    let hints = Hints::read(&hyper::HeaderMap::new(), "/", "").unwrap();
    let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
    let request = crate::api::chat::read(fields.to_string().as_bytes(), hints, caller);
    let way = Connection::straight(crate::config::Protocol::OpenAi);
    match body(&request.ok().unwrap().chat, "theirs", &way) {
        Ok(bytes) => Ok(serde_json::from_slice::<Value>(&bytes).unwrap()["messages"].take()),
        Err(UpstreamError::Unsupported { param, .. }) => Err(param.into_owned()),
        Err(other) => panic!("{other}"),
    }
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn picture(name: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{name}")}})
}

#[test]
fn a_turn_that_calls_nothing_has_a_content() {
    let turn = |more: Value| {
        let mut turn = json!({"role": "assistant"});
        for (name, value) in more.as_object().unwrap() {
            turn[name] = value.clone();
        }
        turn
    };
    let call = json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]);
    for (given, expected) in [
        (json!({"content": null, "reasoning_content": "hm"}), json!("")),
        (json!({"reasoning_content": "hm", "tool_calls": []}), json!("")),
        (json!({"content": []}), json!("")),
        (json!({"content": null, "tool_calls": call}), Value::Null),
        (json!({"content": null, "refusal": "no"}), Value::Null),
        (json!({"content": null, "function_call": {"name": "f", "arguments": ""}}), Value::Null),
        (json!({"content": "a", "tool_calls": call}), json!("a")),
    ] {
        let got = sent(json!([turn(given.clone())])).unwrap();
        assert_eq!(got[0]["content"], expected, "{given}");
        assert_eq!(got[0]["reasoning_content"], given["reasoning_content"]);
    }
}

#[test]
fn what_results_show_comes_behind_all_of_them_as_the_user_s() {
    let result =
        |id: &str, content: Value| json!({"role": "tool", "tool_call_id": id, "content": content});
    let user = |content: Value| json!({"role": "user", "content": content});
    let mark = json!({"type": "ephemeral"});
    let marked = json!({"type": "text", "text": "c", "cache_control": mark});
    let given = json!([
        result("1", json!([text("a"), picture("A")])),
        result("2", json!([picture("B")])),
        result("3", json!([marked])),
        result("4", json!([text("d"), text("e")])),
        user(json!([picture("C")])),
        result("5", json!([picture("D")])),
    ]);
    let expected = json!([
        result("1", json!("a")),
        result("2", json!("")),
        result("3", json!("c")),
        result("4", json!([text("d"), text("e")])),
        user(json!([picture("A"), picture("B")])),
        user(json!([picture("C")])),
        result("5", json!("")),
        user(json!([picture("D")])),
    ]);
    assert_eq!(sent(given), Ok(expected));
}

#[test]
fn a_file_has_a_name_and_is_there() {
    let file = |file: Value| json!([{"role": "user", "content": [{"type": "file", "file": file}]}]);
    let data = "data:application/pdf;base64,AA";
    for (given, expected) in [
        (json!({"file_data": data}), json!({"file_data": data, "filename": "document.pdf"})),
        (
            json!({"file_data": data, "filename": "a.pdf"}),
            json!({"file_data": data, "filename": "a.pdf"}),
        ),
        (json!({"file_id": "f"}), json!({"file_id": "f"})),
    ] {
        assert_eq!(sent(file(given)), Ok(file(expected)));
    }
    let elsewhere = file(json!({"file_url": "https://x.example/1"}));
    assert_eq!(sent(elsewhere), Err("messages[0].content".to_owned()));
}

#[test]
fn errors_of_any_shape_are_told_in_openais() {
    let told = |body: &str| {
        let error = error(Bytes::copy_from_slice(body.as_bytes()))?;
        let json: Value = serde_json::from_slice(&error).unwrap();
        Some(json["error"]["message"].as_str().unwrap().to_owned())
    };
    for (body, expected) in [
        (r#"{"error":{"message":"no such model","type":"t","code":"c"}}"#, "no such model"),
        (r#"{"object":"error","message":"too long","code":400}"#, "too long"),
        (r#"{"detail":"Not Found"}"#, "Not Found"),
        (r#"{"detail":[{"msg":"field required"}]}"#, r#"[{"msg":"field required"}]"#),
        (r#"{"error":"model not found"}"#, "model not found"),
        ("[1]", "[1]"),
    ] {
        assert_eq!(told(body).as_deref(), Some(expected), "{body}");
    }
    assert_eq!(told("<html>"), None);
    let native = Bytes::from_static(br#"{"error":{"message":"m","kind":1}}"#);
    assert_eq!(error(native.clone()), Some(native), "what has the shape stays as it is");
}
