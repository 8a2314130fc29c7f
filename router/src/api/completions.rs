//! OpenAI's legacy completions: a text that goes on.
//!
//! In the internal form the text is the only message of a conversation; an upstream that knows legacy
//! completions gets them as such, the embedded model goes on with the bare text, and any other answers
//! the text as a message. Several texts are several requests, which are decided as one (`several`).
//!
//! Source: OpenAI's published API schema (its Python SDK 3.54), as of November 2026.

mod several;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sluice_policies::{Endpoint, Prompt};

pub(super) use several::answer;

use super::chat::flag;
use super::said::said_in;
use super::translation::{
    Fields,
    Kind::{Inert, Moved},
    Table, Translation,
};
use super::{ApiError, Hints, Request};
use crate::identity::Caller;
use crate::upstream::sse;

/// OpenAI's own.
const MAX_TOKENS_DEFAULT: u64 = 16;

const BODY: Table = &[
    ("best_of", Moved),
    ("echo", Moved),
    ("frequency_penalty", Moved),
    ("logit_bias", Moved),
    ("logprobs", Moved),
    ("max_tokens", Moved),
    ("min_p", Moved),
    ("model", Moved),
    ("n", Moved),
    ("presence_penalty", Moved),
    ("prompt", Moved),
    ("repetition_penalty", Moved),
    ("seed", Moved),
    ("stop", Moved),
    ("store", Inert),
    ("stream", Moved),
    ("stream_options", Moved),
    ("suffix", Moved),
    ("temperature", Moved),
    ("top_k", Moved),
    ("top_p", Moved),
    ("user", Moved),
];

/// Names of the internal form, and the client's.
pub(super) const NAMES: &[(&str, &str)] = &[("messages", "prompt"), ("top_logprobs", "logprobs")];

/// Fields that mean something else in the internal form, or stand elsewhere in it.
const OTHERWISE: [&str; 4] = ["logprobs", "max_tokens", "prompt", "stream"];

/// Most texts of one request.
const PROMPTS_MAX: usize = 128;

/// Reads a body of one text.
pub(super) fn read(body: &[u8], hints: Hints, caller: Caller) -> Result<Request, ApiError> {
    let mut all = read_all(body, hints, caller)?;
    match all.len() {
        1 => Ok(all.remove(0)),
        count => {
            let what = format!("prompt: expected one text, got {count}");
            Err(ApiError::invalid("prompt".to_owned(), what))
        }
    }
}

/// Reads a body: a request for each of its texts. Each is classified by all of them, so that they go
/// the same way.
pub(super) fn read_all(
    body: &[u8],
    hints: Hints,
    caller: Caller,
) -> Result<Vec<Request>, ApiError> {
    let fields = super::object(body)?;
    let prompts = prompts(fields.get("prompt"))?;
    let is_one = prompts.len() == 1;
    let mut all = Vec::with_capacity(prompts.len());
    for (number, content) in prompts.into_iter().enumerate() {
        let place = if is_one { "prompt".to_owned() } else { format!("prompt[{number}]") };
        all.push(one(&fields, &place, content, hints.clone(), caller.clone())?);
    }
    if !is_one {
        share_prompt(&mut all);
    }
    Ok(all)
}

/// Has each request scanned with all texts of all.
fn share_prompt(all: &mut [Request]) {
    let Some(first) = all.first() else { return };
    let mut whole = Prompt { context: first.prompt.context.clone(), ..Prompt::default() };
    for request in all.iter() {
        whole.texts.extend(request.prompt.texts.iter().cloned());
        whole.unscanned.extend(request.prompt.unscanned.iter().cloned());
    }
    let whole = Arc::new(whole);
    for request in all {
        request.alone = Some(std::mem::replace(&mut request.prompt, whole.clone()));
    }
}

fn one(
    fields: &Fields,
    place: &str,
    content: Value,
    hints: Hints,
    caller: Caller,
) -> Result<Request, ApiError> {
    let mut to = Translation::new(NAMES);
    to.survey("", fields, BODY);
    for (name, _) in BODY.iter().filter(|(name, kind)| *kind == Moved && !OTHERWISE.contains(name))
    {
        to.carry(fields, name, name);
    }
    to.put("max_tokens", MAX_TOKENS_DEFAULT);
    to.carry(fields, "max_tokens", "max_tokens");
    if let Some(count) = fields.get("logprobs").filter(|count| !count.is_null()) {
        to.put("logprobs", true);
        to.put("top_logprobs", count.clone());
    }
    to.message(place, json!({"role": "user", "content": content}));
    let stream = flag(fields, "stream")?;
    let mut request = to.request(Endpoint::Completions, stream, hints, caller)?;
    request.chat.include_usage = wants_usage(fields)?;
    Ok(request)
}

fn wants_usage(fields: &Fields) -> Result<bool, ApiError> {
    match fields.get("stream_options") {
        Some(Value::Object(options)) => flag(options, "include_usage"),
        _ => Ok(false),
    }
}

/// The contents of the messages that the texts become: one text or several, as words or as tokens.
fn prompts(prompt: Option<&Value>) -> Result<Vec<Value>, ApiError> {
    let wrong = |what: String| ApiError::invalid("prompt".to_owned(), what);
    let neither = || wrong("prompt: expected texts, or the tokens of texts".to_owned());
    let ids = |ids: &[Value]| json!([{"type": "token_ids", "token_ids": ids}]);
    match prompt {
        Some(text @ Value::String(_)) => Ok(vec![text.clone()]),
        Some(Value::Array(list)) => match &list[..] {
            [Value::Number(_), ..] => Ok(vec![ids(list)]),
            [] => Err(neither()),
            list if list.len() > PROMPTS_MAX => {
                let count = list.len();
                Err(wrong(format!("prompt: expected at most {PROMPTS_MAX} texts, got {count}")))
            }
            list => {
                let content = |item: &Value| match item {
                    text @ Value::String(_) => Ok(text.clone()),
                    Value::Array(list) if !list.is_empty() => Ok(ids(list)),
                    _ => Err(neither()),
                };
                list.iter().map(content).collect()
            }
        },
        _ => Err(neither()),
    }
}

/// Writes replies and events of the internal form as completions.
#[derive(Default)]
pub(super) struct ReplyWriter {
    /// Characters of each choice so far, for the places of tokens.
    offsets: BTreeMap<u64, usize>,
}

impl ReplyWriter {
    /// A whole reply.
    pub(super) fn whole(mut self, json: Value) -> Value {
        self.rewrite(json, "message")
    }

    /// Whole events.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for event in sse::events(bytes) {
            let json = sse::data(event).and_then(|data| serde_json::from_str::<Value>(&data).ok());
            match json.filter(|json| json["choices"].is_array()) {
                Some(json) => {
                    let json = self.rewrite(json, "delta");
                    if says_something(&json) {
                        sse::write(out, None, &json);
                    }
                }
                None => out.extend_from_slice(event),
            }
        }
    }

    fn rewrite(&mut self, mut json: Value, part: &str) -> Value {
        json["object"] = "text_completion".into();
        if let Some(rest) = json["id"].as_str().and_then(|id| id.strip_prefix("chatcmpl-")) {
            json["id"] = format!("cmpl-{rest}").into();
        }
        for choice in json["choices"].as_array_mut().into_iter().flatten() {
            let Some(choice) = choice.as_object_mut() else { continue };
            let (text, _) =
                choice.remove(part).map(|said| said_in(&said["content"])).unwrap_or_default();
            choice.insert("text".to_owned(), text.into());
            let scores = self.scores(choice);
            choice.insert("logprobs".to_owned(), scores);
        }
        json
    }

    /// Log probabilities as completions have them; what is so already stays.
    fn scores(&mut self, choice: &Map<String, Value>) -> Value {
        let scores = choice.get("logprobs").unwrap_or(&Value::Null);
        let Some(tokens) = scores["content"].as_array() else { return scores.clone() };
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or_default();
        let offset = self.offsets.entry(index).or_default();
        let (mut texts, mut chosen) = (Vec::new(), Vec::new());
        let (mut likeliest, mut places) = (Vec::new(), Vec::new());
        for token in tokens {
            places.push(*offset);
            *offset += token["token"].as_str().unwrap_or_default().chars().count();
            texts.push(token["token"].clone());
            chosen.push(token["logprob"].clone());
            let top = token["top_logprobs"].as_array().into_iter().flatten();
            let top = top.map(|t| (t["token"].as_str().unwrap_or_default(), t["logprob"].clone()));
            likeliest
                .push(top.map(|(name, score)| (name.to_owned(), score)).collect::<Map<_, _>>());
        }
        json!({
            "tokens": texts, "token_logprobs": chosen, "top_logprobs": likeliest,
            "text_offset": places,
        })
    }
}

/// The event that only says who speaks has no counterpart.
fn says_something(json: &Value) -> bool {
    let choices = json["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_empty = |choice: &Value| choice["text"] == "" && choice["finish_reason"].is_null();
    json["usage"].is_object() || !choices.iter().all(is_empty)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::translation::is_sorted;

    fn asked(body: &Value) -> Result<Request, ApiError> {
        let hints = Hints::read(&hyper::HeaderMap::new(), "/v1/completions", "").unwrap();
        let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
        read(body.to_string().as_bytes(), hints, caller)
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(is_sorted(BODY));
    }

    #[test]
    fn a_prompt_is_one_text_or_the_tokens_of_one() {
        for (prompt, content) in [
            (json!("Once"), Some(json!("Once"))),
            (json!(["Once"]), Some(json!("Once"))),
            (json!([1, 2]), Some(json!([{"type": "token_ids", "token_ids": [1, 2]}]))),
            (json!([[1, 2]]), Some(json!([{"type": "token_ids", "token_ids": [1, 2]}]))),
            (json!(["a", "b"]), None),
            (json!([[1], "b", 3]), None),
            (json!(vec!["a"; PROMPTS_MAX + 1]), None),
            (json!([]), None),
            (Value::Null, None),
        ] {
            let got = asked(&json!({"model": "m", "prompt": prompt}));
            let got = got.ok().map(|r| r.chat.fields["messages"][0]["content"].clone());
            assert_eq!(got, content, "{prompt}");
        }
    }

    #[test]
    fn several_texts_are_several_requests_that_are_scanned_as_one() {
        let hints = Hints::read(&hyper::HeaderMap::new(), "/v1/completions", "").unwrap();
        let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
        let body = json!({"model": "m", "n": 2, "prompt": ["one", [1, 2], "three"]});
        let all = read_all(body.to_string().as_bytes(), hints, caller).ok().unwrap();
        assert_eq!(all.len(), 3);
        for (number, request) in all.iter().enumerate() {
            let said = |prompt: &Prompt| -> Vec<(String, String)> {
                let texts = prompt.texts.iter().filter(|text| text.place != "model");
                texts.map(|text| (text.place.clone(), text.text.clone())).collect()
            };
            let expected = [("prompt[0].content", "one"), ("prompt[2].content", "three")];
            let expected = expected.map(|(place, text)| (place.to_owned(), text.to_owned()));
            assert_eq!(said(&request.prompt), expected);
            assert!(request.prompt.unscanned[0].place.starts_with("prompt[1]"));
            let own = request.alone.as_ref().unwrap();
            assert_eq!(said(own).len(), usize::from(number != 1));
            assert_eq!(request.chat.fields["messages"].as_array().unwrap().len(), 1);
            assert_eq!(request.chat.fields["n"], 2);
        }
        assert_eq!(all[2].chat.fields["messages"][0]["content"], "three");
    }

    #[test]
    fn places_are_the_client_s_and_token_ids_are_named() {
        let request = asked(&json!({"model": "m", "prompt": [1], "suffix": "end"})).ok().unwrap();
        let unscanned = &request.prompt.unscanned;
        assert_eq!(unscanned.len(), 1);
        assert_eq!(unscanned[0].kind, sluice_policies::ContentKind::TokenIds);
        assert!(unscanned[0].place.starts_with("prompt"), "{}", unscanned[0].place);
        assert!(request.prompt.texts.iter().any(|text| text.place == "suffix"));
    }

    #[test]
    fn replies_are_texts_with_their_tokens_places() {
        let token = |text: &str| {
            json!({"token": text, "logprob": -1.0,
            "top_logprobs": [{"token": "x", "logprob": -2.0}]})
        };
        let reply = json!({"id": "chatcmpl-1", "object": "chat.completion", "choices": [{
            "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ab"},
            "logprobs": {"content": [token("a"), token("b")]}}]});
        let expected = json!({"id": "cmpl-1", "object": "text_completion", "choices": [{
            "index": 0, "finish_reason": "stop", "text": "ab", "logprobs": {
                "tokens": ["a", "b"], "token_logprobs": [-1.0, -1.0], "text_offset": [0, 1],
                "top_logprobs": [{"x": -2.0}, {"x": -2.0}]}}]});
        assert_eq!(ReplyWriter::default().whole(reply), expected);
    }

    #[test]
    fn events_are_texts_and_the_end_stays() {
        let mut out = Vec::new();
        let event = |delta: Value| {
            format!(
                "data: {}\n\n",
                json!({"choices": [
            {"index": 0, "delta": delta, "finish_reason": null}]})
            )
        };
        let events = event(json!({"role": "assistant", "content": ""}))
            + &event(json!({"content": "a"}))
            + "data: [DONE]\n\n";
        ReplyWriter::default().push(events.as_bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("data: ").count(), 2, "{text}");
        assert!(text.contains(r#""text":"a""#) && text.ends_with("data: [DONE]\n\n"), "{text}");
    }
}
