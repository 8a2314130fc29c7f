//! The embedded engine's replies as OpenAI's chat completions, whole and as events.
//!
//! Field for field what OpenAI sends, so that its SDKs see no difference: a call's first piece has its
//! id and name, a message that only calls has no content, usage comes in an event of its own.
//! `reasoning_content` is what compatible servers add for thoughts, `stop_reason` what vLLM adds for the stop
//! text that ended a reply: a Messages client asks for it.
//! Source: OpenAI API reference, chat completions and its chunks (read November 2026).

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use sluice_engine::{Delta, ScoredToken, TokenLogprob};

use crate::upstream::Usage;

/// Writes one reply.
pub(crate) struct ChatReply {
    /// The decision's id; the reply's and its calls' ids are made from it.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
    /// The model that answers.
    pub(crate) model: String,
}

/// One of a reply's choices, put together.
#[derive(Default)]
pub(crate) struct Choice {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    /// Names and arguments.
    pub(crate) calls: Vec<(String, String)>,
    /// `None`: not asked for.
    pub(crate) logprobs: Option<Vec<TokenLogprob>>,
    /// Why it ended.
    pub(crate) finish_reason: &'static str,
    /// The stop text that ended it.
    pub(crate) stop: Option<String>,
}

impl Choice {
    /// Adds a piece.
    pub(crate) fn add(&mut self, delta: Delta) {
        self.content.push_str(&delta.content);
        self.reasoning.push_str(&delta.reasoning);
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.extend(delta.logprobs);
        }
        for piece in delta.calls {
            match piece.name {
                Some(name) => self.calls.push((name, piece.arguments)),
                None => {
                    let (_, arguments) = self.calls.last_mut().expect("a call is named first");
                    arguments.push_str(&piece.arguments);
                }
            }
        }
    }
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: &'a [ChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageJson>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: DeltaJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<LogprobsJson<'a>>,
    finish_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct DeltaJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallJson<'a>>,
}

#[derive(Serialize)]
struct CallJson<'a> {
    /// In pieces only.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionJson<'a>,
}

#[derive(Serialize)]
struct FunctionJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: Vec<CompletionChoice<'a>>,
    usage: UsageJson,
}

#[derive(Serialize)]
struct CompletionChoice<'a> {
    index: usize,
    message: Message<'a>,
    logprobs: Option<LogprobsJson<'a>>,
    finish_reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallJson<'a>>,
}

#[derive(Serialize)]
struct LogprobsJson<'a> {
    content: Vec<TokenJson<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct TokenJson<'a> {
    #[serde(flatten)]
    chosen: ScoredJson<'a>,
    top_logprobs: Vec<ScoredJson<'a>>,
}

#[derive(Serialize)]
struct ScoredJson<'a> {
    /// Half a character shows as U+FFFD; its bytes are exact.
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
}

#[derive(Clone, Copy, Serialize)]
struct UsageJson {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Clone, Copy, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
}

impl From<Usage> for UsageJson {
    fn from(usage: Usage) -> Self {
        let prompt_tokens = usage.prompt_tokens.unwrap_or(0);
        let completion_tokens = usage.completion_tokens.unwrap_or(0);
        UsageJson {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: usage
                .cached_tokens
                .map(|cached_tokens| PromptDetails { cached_tokens }),
        }
    }
}

impl<'a> LogprobsJson<'a> {
    fn new(tokens: &'a [TokenLogprob]) -> Self {
        let token = |token: &'a TokenLogprob| TokenJson {
            chosen: (&token.chosen).into(),
            top_logprobs: token.likeliest.iter().map(Into::into).collect(),
        };
        LogprobsJson { content: tokens.iter().map(token).collect(), refusal: None }
    }
}

impl<'a> From<&'a ScoredToken> for ScoredJson<'a> {
    fn from(token: &'a ScoredToken) -> Self {
        let text = String::from_utf8_lossy(&token.bytes);
        ScoredJson { token: text, logprob: token.logprob, bytes: &token.bytes }
    }
}

/// A text, or nothing where it is empty.
fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl ChatReply {
    fn reply_id(&self) -> String {
        format!("chatcmpl-{}", self.id)
    }

    /// The id of a call.
    pub(crate) fn call_id(&self, choice: usize, call: usize) -> String {
        format!("call_{}_{choice}_{call}", self.id)
    }

    /// The whole reply.
    pub(crate) fn whole(&self, choices: &[Choice], usage: Usage) -> Bytes {
        let choices = choices.iter().enumerate();
        let completion = Completion {
            id: &self.reply_id(),
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: choices.map(|(index, choice)| self.choice(index, choice)).collect(),
            usage: usage.into(),
        };
        serde_json::to_vec(&completion).expect("a completion has string keys only").into()
    }

    fn choice<'a>(&self, index: usize, choice: &'a Choice) -> CompletionChoice<'a> {
        let calls = choice.calls.iter().enumerate().map(|(call, (name, arguments))| CallJson {
            index: None,
            id: Some(self.call_id(index, call)),
            kind: Some("function"),
            function: FunctionJson { name: Some(name), arguments },
        });
        let only_calls = choice.content.is_empty() && !choice.calls.is_empty();
        let message = Message {
            role: "assistant",
            content: (!only_calls).then_some(&*choice.content),
            refusal: None,
            reasoning_content: filled(&choice.reasoning),
            tool_calls: calls.collect(),
        };
        let logprobs = choice.logprobs.as_deref().map(LogprobsJson::new);
        let (finish_reason, stop_reason) = (choice.finish_reason, choice.stop.as_deref());
        CompletionChoice { index, message, logprobs, finish_reason, stop_reason }
    }

    /// A choice's first event: who speaks.
    pub(crate) fn role(&self, out: &mut Vec<u8>, choice: usize) {
        let delta =
            DeltaJson { role: Some("assistant"), content: Some(""), ..DeltaJson::default() };
        self.piece(out, choice, delta, None);
    }

    /// A piece of a choice.
    pub(crate) fn delta(&self, out: &mut Vec<u8>, choice: usize, delta: &Delta) {
        let calls = delta.calls.iter().map(|piece| CallJson {
            index: Some(piece.index),
            id: piece.name.is_some().then(|| self.call_id(choice, piece.index)),
            kind: piece.name.is_some().then_some("function"),
            function: FunctionJson { name: piece.name.as_deref(), arguments: &piece.arguments },
        });
        let json = DeltaJson {
            role: None,
            content: filled(&delta.content),
            reasoning_content: filled(&delta.reasoning),
            tool_calls: calls.collect(),
        };
        let scored = !delta.logprobs.is_empty();
        let logprobs = scored.then(|| LogprobsJson::new(&delta.logprobs));
        self.piece(out, choice, json, logprobs);
    }

    /// The end of a choice: why.
    pub(crate) fn finish(
        &self,
        out: &mut Vec<u8>,
        index: usize,
        reason: &str,
        stop_reason: Option<&str>,
    ) {
        let delta = DeltaJson::default();
        let finish_reason = Some(reason);
        let choice = ChunkChoice { index, delta, logprobs: None, finish_reason, stop_reason };
        self.event(out, &[choice], None);
    }

    /// The end of all: the usage if it was asked for, and `[DONE]`.
    pub(crate) fn done(&self, out: &mut Vec<u8>, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.event(out, &[], Some(usage.into()));
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn piece(
        &self,
        out: &mut Vec<u8>,
        index: usize,
        delta: DeltaJson<'_>,
        logprobs: Option<LogprobsJson<'_>>,
    ) {
        let (finish_reason, stop_reason) = (None, None);
        self.event(
            out,
            &[ChunkChoice { index, delta, logprobs, finish_reason, stop_reason }],
            None,
        );
    }

    fn event(&self, out: &mut Vec<u8>, choices: &[ChunkChoice<'_>], usage: Option<UsageJson>) {
        let chunk = Chunk {
            id: &self.reply_id(),
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            usage,
        };
        out.extend_from_slice(b"data: ");
        serde_json::to_writer(&mut *out, &chunk).expect("a chunk has string keys only");
        out.extend_from_slice(b"\n\n");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sluice_engine::CallDelta;

    use super::*;

    fn reply() -> ChatReply {
        ChatReply { id: "1".into(), created: 7, model: "nano".into() }
    }

    fn events(bytes: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(bytes).unwrap();
        let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        data.map(|json| serde_json::from_str(json).unwrap_or(Value::from(json))).collect()
    }

    fn chunk(choices: Value) -> Value {
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7,
               "model": "nano", "choices": choices})
    }

    fn text(content: &str) -> Delta {
        Delta { content: content.into(), ..Delta::default() }
    }

    fn call(name: Option<&str>, arguments: &str) -> Delta {
        let (name, arguments) = (name.map(str::to_owned), arguments.to_owned());
        Delta { calls: vec![CallDelta { index: 0, name, arguments }], ..Delta::default() }
    }

    #[test]
    fn a_streamed_reply_has_role_deltas_end_usage_and_done_in_order() {
        let mut out = Vec::new();
        reply().role(&mut out, 0);
        reply().delta(&mut out, 0, &text("Hi \"you\""));
        reply().delta(&mut out, 1, &Delta { reasoning: "hm".into(), ..Delta::default() });
        reply().delta(&mut out, 0, &call(Some("clock"), ""));
        reply().delta(&mut out, 0, &call(None, "{}"));
        reply().finish(&mut out, 0, "tool_calls", None);
        reply().finish(&mut out, 1, "stop", Some("END"));
        let usage =
            Usage { prompt_tokens: Some(3), completion_tokens: Some(2), cached_tokens: Some(1) };
        reply().done(&mut out, Some(usage));
        let choice = |index: u32, delta: Value, reason: Value| {
            chunk(json!([{"index": index, "delta": delta, "finish_reason": reason}]))
        };
        let mut last = chunk(json!([]));
        last["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
                               "prompt_tokens_details": {"cached_tokens": 1}});
        let named = json!({"tool_calls": [{"index": 0, "id": "call_1_0_0", "type": "function",
                                           "function": {"name": "clock", "arguments": ""}}]});
        let mut stopped = choice(1, json!({}), json!("stop"));
        stopped["choices"][0]["stop_reason"] = json!("END");
        let expected = [
            choice(0, json!({"role": "assistant", "content": ""}), Value::Null),
            choice(0, json!({"content": "Hi \"you\""}), Value::Null),
            choice(1, json!({"reasoning_content": "hm"}), Value::Null),
            choice(0, named, Value::Null),
            choice(
                0,
                json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
                Value::Null,
            ),
            choice(0, json!({}), json!("tool_calls")),
            stopped,
            last,
            json!("[DONE]"),
        ];
        assert_eq!(events(&out), expected);
    }

    #[test]
    fn a_whole_reply_puts_the_pieces_together() {
        let scored = |bytes: &[u8]| ScoredToken { bytes: bytes.to_vec(), logprob: -0.5 };
        let token = TokenLogprob { chosen: scored(b"\xE2"), likeliest: vec![scored(b"a")] };
        let mut first = Choice { logprobs: Some(Vec::new()), ..Choice::default() };
        first.add(Delta { logprobs: vec![token], ..text("a") });
        first.add(text("b"));
        first.finish_reason = "stop";
        first.stop = Some("END".into());
        let mut second = Choice { finish_reason: "tool_calls", ..Choice::default() };
        for delta in [call(Some("clock"), ""), call(None, "{\"a\""), call(None, ": 1}")] {
            second.add(delta);
        }
        let bytes = reply().whole(&[first, second], Usage::default());
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            value["choices"],
            json!([
                {"index": 0, "finish_reason": "stop", "stop_reason": "END",
                 "message": {"role": "assistant", "content": "ab", "refusal": null},
                 "logprobs": {"refusal": null, "content": [
                    {"token": "\u{FFFD}", "logprob": -0.5, "bytes": [0xE2],
                     "top_logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97]}]}]}},
                {"index": 1, "finish_reason": "tool_calls", "logprobs": null,
                 "message": {"role": "assistant", "content": null, "refusal": null, "tool_calls": [
                    {"id": "call_1_1_0", "type": "function",
                     "function": {"name": "clock", "arguments": "{\"a\": 1}"}}]}},
            ])
        );
    }
}
