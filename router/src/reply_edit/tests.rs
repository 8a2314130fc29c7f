//! What is said keeps its order and comes whole, whatever is held of it.

use super::*;

/// Holds the last three bytes of each text, and writes in capitals.
struct Shout;

impl TextEdit for Shout {
    fn edit(&mut self, _: Channel, _: Option<&str>, text: &str, ends: bool) -> Edited {
        let at = if ends { text.len() } else { text.len().saturating_sub(3) };
        Edited { out: text[..at].to_uppercase(), held: text[at..].to_owned() }
    }

    fn passes(&self, _: &str) -> bool {
        false
    }

    fn hides(&self) -> bool {
        true
    }
}

fn event(delta: Value, finish: Option<&str>) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
    format!("data: {}\n\n", json!({"id": "c1", "choices": [choice], "usage": null}))
}

fn call(index: u32, name: Option<&str>, arguments: &str) -> Value {
    let id = name.map(|name| format!("id_{name}"));
    let function = json!({"name": name, "arguments": arguments});
    json!({"tool_calls": [{"index": index, "id": id, "function": function}]})
}

/// All that an event says, as `name text`.
fn said(event: &Value) -> Vec<String> {
    let delta = event["choices"][0]["delta"].as_object().cloned().unwrap_or_default();
    let mut said = Vec::new();
    for (name, value) in &delta {
        match value {
            Value::String(text) => said.push(format!("{name} {text}")),
            Value::Array(calls) => said.extend(calls.iter().map(|call| {
                let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
                format!("call {} {arguments}", call["index"])
            })),
            _ => {}
        }
    }
    said
}

/// What leaves of a stream, in order; texts of one kind that follow each other are one.
fn streamed(events: &[String]) -> Vec<String> {
    let mut editor = EventEditor::new(Shout);
    let mut out = Vec::new();
    for event in events {
        out.extend_from_slice(&editor.push(&Bytes::copy_from_slice(event.as_bytes())));
    }
    out.extend_from_slice(&editor.rest());
    let mut all: Vec<String> = Vec::new();
    for data in sse::events(&out).filter_map(sse::data) {
        if data == "[DONE]" {
            all.push("[DONE]".to_owned());
            continue;
        }
        let event: Value = serde_json::from_str(&data).unwrap();
        if !event["error"].is_null() {
            all.push("error".to_owned());
        }
        for said in said(&event).into_iter().filter(|said| !said.ends_with(' ')) {
            let (kind, text) = said.rsplit_once(' ').unwrap();
            match all.last_mut() {
                Some(last) if last.starts_with(&format!("{kind} ")) => last.push_str(text),
                _ => all.push(said),
            }
        }
        if let Some(finish) = event["choices"][0]["finish_reason"].as_str() {
            all.push(format!("finish {finish}"));
        }
    }
    all
}

const DONE: &str = "data: [DONE]\n\n";

#[test]
fn what_is_held_goes_before_the_next_thing_that_is_said() {
    let events = [
        event(json!({"role": "assistant", "content": null}), None),
        event(json!({"reasoning": "think"}), None),
        event(json!({"reasoning": "ing"}), None),
        event(json!({"content": "let's"}), None),
        event(json!({"content": "see"}), None),
        event(call(0, Some("f"), ""), None),
        event(call(0, None, "paris"), None),
        event(call(1, Some("g"), "rome"), None),
        event(json!({}), Some("tool_calls")),
        DONE.to_owned(),
    ];
    let expected = [
        "role ASSISTANT",
        "reasoning THINKING",
        "content LET'SSEE",
        "call 0 PARIS",
        "call 1 ROME",
        "finish tool_calls",
        "[DONE]",
    ];
    let left = streamed(&events);
    assert_eq!(left[1..], expected[1..]);
    assert_eq!(left[0], "role assistant", "who speaks is no text of a model");
}

#[test]
fn nothing_is_lost_however_a_stream_ends() {
    let begins = event(json!({"content": "the-end"}), None);
    let finish = |choice: Value| {
        let mut choice = choice;
        choice["finish_reason"] = "stop".into();
        format!("data: {}\n\n", json!({"choices": [choice]}))
    };
    for (name, ends, expected) in [
        ("a finish without a delta", finish(json!({"index": 0})), vec!["finish stop"]),
        ("a finish without an index", finish(json!({"delta": {}})), vec!["finish stop"]),
        ("[DONE] alone", DONE.to_owned(), vec!["[DONE]"]),
        ("an error", "data: {\"error\":{\"message\":\"m\"}}\n\n".to_owned(), vec!["error"]),
        ("nothing", String::new(), vec![]),
    ] {
        let left = streamed(&[begins.clone(), ends]);
        assert_eq!(left[0], "content THE-END", "{name}");
        assert_eq!(left[1..], expected, "{name}");
    }
}

#[test]
fn every_other_text_of_a_message_is_edited_where_it_stands() {
    let message = json!({
        "role": "assistant",
        "content": [{"type": "text", "text": "a"}],
        "reasoning_content": "b", "reasoning": "c", "refusal": "d",
        "reasoning_details": [{"type": "reasoning.text", "text": "e", "signature": "s"}],
        "audio": {"id": "x", "data": "AA", "transcript": "f"},
        "function_call": {"name": "g", "arguments": "h"},
        "tool_calls": [
            {"id": "y", "type": "custom", "custom": {"name": "i", "input": "j"}},
            {"id": "z", "type": "function", "function": {"name": "k", "arguments": "l"}},
        ],
        "nobody_knows": {"short": 99999, "flag": true, "list": [null, "m"]},
    });
    let whole = json!({"id": "c1", "choices": [{"index": 0, "message": message,
                       "logprobs": {"content": [{"token": "a"}]}}]});
    let (bytes, _) = edit_whole(Shout, Bytes::from(whole.to_string()));
    let edited: Value = serde_json::from_slice(&bytes).unwrap();
    let expected = json!({
        "role": "assistant",
        "content": [{"type": "text", "text": "A"}],
        "reasoning_content": "B", "reasoning": "C", "refusal": "D",
        "reasoning_details": [{"type": "reasoning.text", "text": "E", "signature": "s"}],
        "audio": {"id": "x", "data": "AA", "transcript": "F"},
        "function_call": {"name": "G", "arguments": "H"},
        "tool_calls": [
            {"id": "y", "type": "custom", "custom": {"name": "I", "input": "J"}},
            {"id": "z", "type": "function", "function": {"name": "K", "arguments": "L"}},
        ],
        "nobody_knows": {"short": 99999, "flag": true, "list": [null, "M"]},
    });
    assert_eq!(edited["choices"][0]["message"], expected);
    assert!(edited["choices"][0]["logprobs"].is_null(), "the tokens tell what was changed");
    assert_eq!(edited["id"], "c1");
}
