//! The embedded engine as an upstream: a chat body in, OpenAI's JSON or events out.
//!
//! The engine writes text and nothing else yet, so a request for tools, structured output, several
//! choices or pictures is turned away by name instead of being half answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream;
use hyper::StatusCode;
use serde_json::{Map, Value};
use sluice_engine::{
    ChatMessage, Engine, EngineError, Finish, FinishReason, Forecast, GenerationRequest,
    PromptInput, SamplingOptions, StreamEvent, TokenStream,
};
use sluice_policies::Quality;

use super::{Answer, AnswerBody, Piece, Shape, UpstreamError, UpstreamId, Usage};
use crate::api::{ApiError, ChatBody};
use crate::reply::{ChatReply, error_event};
use crate::reply_scan::ReplyText;

/// Texts that may end a reply, at most.
const STOP_TEXTS_MAX: usize = 16;

/// The engine in this process.
pub struct EdgeUpstream {
    id: UpstreamId,
    engine: Engine,
    stopped: Arc<AtomicBool>,
}

impl EdgeUpstream {
    /// Wraps a loaded engine.
    pub fn new(id: UpstreamId, engine: Engine) -> EdgeUpstream {
        EdgeUpstream { id, engine, stopped: Arc::default() }
    }

    /// Its name.
    pub fn id(&self) -> &UpstreamId {
        &self.id
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The quality that the model declares; an unknown word counts as the lowest.
    pub fn quality(&self) -> Quality {
        match self.engine.info().quality.as_str() {
            "approved" => Quality::Approved,
            "general" => Quality::General,
            _ => Quality::Demo,
        }
    }

    /// Whether it takes requests.
    pub fn is_healthy(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// What a request that came now could expect.
    pub fn forecast(&self) -> Forecast {
        self.engine.forecast()
    }

    /// Answers a request. Waits for the first text of a stream, so that an early failure can still
    /// be told by status.
    pub(crate) async fn answer(
        &self,
        chat: &ChatBody,
        reply_id: &str,
        shape: Shape,
    ) -> Result<Answer, UpstreamError> {
        if let Some((param, what)) = unsupported(&chat.fields) {
            return Err(UpstreamError::Unsupported { param, what });
        }
        let request = generation(&chat.fields)?;
        let reply = ChatReply {
            id: format!("chatcmpl-{reply_id}"),
            created: jiff::Timestamp::now().as_second(),
            model: self.engine.info().name.clone(),
        };
        let tokens = self.submit(request).await?;
        match shape.stream {
            true => self.events(tokens, reply, shape).await,
            false => self.whole(tokens, &reply).await,
        }
    }

    /// Long prompts take milliseconds to tokenise: not on a thread that serves sockets.
    async fn submit(&self, request: GenerationRequest) -> Result<TokenStream, UpstreamError> {
        let engine = self.engine.clone();
        let submitted = tokio::task::spawn_blocking(move || engine.submit(request)).await;
        match submitted {
            Ok(Ok(tokens)) => Ok(tokens),
            Ok(Err(error)) => Err(self.failed(Arc::new(error))),
            Err(_) => Err(self.failed(Arc::new(EngineError::Stopped))),
        }
    }

    fn failed(&self, error: Arc<EngineError>) -> UpstreamError {
        if matches!(*error, EngineError::Stopped) {
            self.stopped.store(true, Ordering::Relaxed);
        }
        UpstreamError::Engine(error)
    }

    async fn whole(
        &self,
        mut tokens: TokenStream,
        reply: &ChatReply,
    ) -> Result<Answer, UpstreamError> {
        let mut text = String::new();
        loop {
            match tokens.next().await {
                Some(StreamEvent::Text(piece)) => text.push_str(&piece),
                Some(StreamEvent::Finished(finish)) => {
                    let usage = usage(&finish);
                    let bytes = reply.whole(&text, reason(finish.reason), usage);
                    let texts = vec![ReplyText::content(text)];
                    let body = AnswerBody::Whole { bytes, usage, texts };
                    return Ok(Answer { status: StatusCode::OK, body });
                }
                Some(StreamEvent::Failed(error)) => return Err(self.failed(error)),
                None => return Err(self.failed(Arc::new(EngineError::Stopped))),
            }
        }
    }

    async fn events(
        &self,
        mut tokens: TokenStream,
        reply: ChatReply,
        shape: Shape,
    ) -> Result<Answer, UpstreamError> {
        let first = match tokens.next().await {
            Some(StreamEvent::Failed(error)) => return Err(self.failed(error)),
            None => return Err(self.failed(Arc::new(EngineError::Stopped))),
            Some(event) => event,
        };
        let writer = EventWriter {
            tokens,
            reply,
            shape,
            first: Some(first),
            role_due: true,
            over: false,
            stopped: self.stopped.clone(),
        };
        let pieces = stream::unfold(writer, |mut writer| async {
            let piece = writer.next().await?;
            Some((piece, writer))
        });
        Ok(Answer { status: StatusCode::OK, body: AnswerBody::Events(Box::pin(pieces)) })
    }
}

/// Writes a token stream as events.
struct EventWriter {
    tokens: TokenStream,
    reply: ChatReply,
    shape: Shape,
    first: Option<StreamEvent>,
    role_due: bool,
    over: bool,
    stopped: Arc<AtomicBool>,
}

impl EventWriter {
    async fn next(&mut self) -> Option<Piece> {
        if self.over {
            return None;
        }
        let event = match self.first.take() {
            Some(event) => Some(event),
            None => self.tokens.next().await,
        };
        let mut out = Vec::with_capacity(256);
        if std::mem::take(&mut self.role_due) {
            self.reply.role(&mut out);
        }
        Some(match event {
            Some(StreamEvent::Text(text)) => {
                self.reply.delta(&mut out, &text);
                Piece::Data { bytes: out.into(), texts: vec![ReplyText::content(text)] }
            }
            Some(StreamEvent::Finished(finish)) => {
                self.over = true;
                let usage = usage(&finish);
                let shown = self.shape.include_usage.then_some(usage);
                self.reply.finish(&mut out, reason(finish.reason), shown);
                Piece::End { cut: None, bytes: Some(out.into()), usage }
            }
            Some(StreamEvent::Failed(_)) | None => {
                self.over = true;
                if event.is_none() {
                    self.stopped.store(true, Ordering::Relaxed);
                }
                let bytes = Some(error_event(&ApiError::internal()));
                Piece::End { cut: Some("engine"), bytes, usage: Usage::default() }
            }
        })
    }
}

fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

fn usage(finish: &Finish) -> Usage {
    Usage {
        prompt_tokens: Some(finish.prompt_tokens as u64),
        completion_tokens: Some(finish.completion_tokens as u64),
    }
}

/// What the request asks for and the engine cannot do.
fn unsupported(fields: &Map<String, Value>) -> Option<(&'static str, &'static str)> {
    let field = |name: &str| fields.get(name).unwrap_or(&Value::Null);
    let asks_tools = |list: &Value| list.as_array().is_some_and(|l| !l.is_empty());
    let tools_off = field("tool_choice").as_str() == Some("none");
    if asks_tools(field("tools")) && !tools_off {
        return Some(("tools", "the embedded model calls no tools"));
    }
    if asks_tools(field("functions")) && field("function_call").as_str() != Some("none") {
        return Some(("functions", "the embedded model calls no functions"));
    }
    if !matches!(field("response_format")["type"].as_str(), None | Some("text")) {
        return Some(("response_format", "the embedded model writes plain text only"));
    }
    if field("logprobs") == &Value::Bool(true) {
        return Some(("logprobs", "the embedded model gives no log probabilities"));
    }
    if !matches!(field("n"), Value::Null) && field("n").as_u64() != Some(1) {
        return Some(("n", "the embedded model gives one choice"));
    }
    let modalities = field("modalities").as_array().map(Vec::as_slice).unwrap_or_default();
    if modalities.iter().any(|m| m != "text") {
        return Some(("modalities", "the embedded model writes text only"));
    }
    if !field("web_search_options").is_null() {
        return Some(("web_search_options", "the embedded model searches nothing"));
    }
    messages(fields).any(|m| !is_text_only(m)).then_some((
        "messages",
        "the embedded model reads text only: no pictures, sound, files or tool calls",
    ))
}

fn messages(fields: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    fields.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter()
}

fn is_text_only(message: &Value) -> bool {
    let parts = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let calls = message["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty());
    let text_parts = |part: &Value| matches!(part["type"].as_str(), Some("text" | "refusal"));
    !calls && message["function_call"].is_null() && parts.iter().all(text_parts)
}

fn generation(fields: &Map<String, Value>) -> Result<GenerationRequest, UpstreamError> {
    let max_tokens = match whole_number(fields, "max_completion_tokens")? {
        None => whole_number(fields, "max_tokens")?,
        given => given,
    };
    Ok(GenerationRequest {
        prompt: PromptInput::Messages(messages(fields).map(chat_message).collect()),
        sampling: SamplingOptions {
            temperature: number(fields, "temperature")?,
            top_k: whole_number(fields, "top_k")?,
            top_p: number(fields, "top_p")?,
            min_p: number(fields, "min_p")?,
            repetition_penalty: number(fields, "repetition_penalty")?,
            presence_penalty: number(fields, "presence_penalty")?,
            frequency_penalty: number(fields, "frequency_penalty")?,
            seed: seed(fields)?,
            logit_bias: logit_bias(fields)?,
        },
        max_tokens,
        stop: stop(fields)?,
    })
}

fn chat_message(message: &Value) -> ChatMessage {
    let role = match message["role"].as_str() {
        Some("developer") => "system",
        Some("function") => "tool",
        Some(role) => role,
        None => "user",
    };
    let content = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(part_text).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    };
    ChatMessage { role: role.to_owned(), content }
}

fn part_text(part: &Value) -> Option<&str> {
    part["text"].as_str().or_else(|| part["refusal"].as_str())
}

fn invalid(param: &'static str, what: &str) -> UpstreamError {
    UpstreamError::Invalid { param, what: what.to_owned() }
}

fn number(fields: &Map<String, Value>, name: &'static str) -> Result<Option<f32>, UpstreamError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number as f32)),
            None => Err(invalid(name, "expected a number")),
        },
    }
}

fn whole_number(
    fields: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<usize>, UpstreamError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(invalid(name, "expected a whole number, not negative")),
        },
    }
}

/// OpenAI's seeds are signed; every one of them is a different seed here too.
fn seed(fields: &Map<String, Value>) -> Result<Option<u64>, UpstreamError> {
    match fields.get("seed") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().or(value.as_i64().map(i64::cast_unsigned)) {
            Some(seed) => Ok(Some(seed)),
            None => Err(invalid("seed", "expected a whole number")),
        },
    }
}

fn logit_bias(fields: &Map<String, Value>) -> Result<Vec<(u32, f32)>, UpstreamError> {
    let entries = match fields.get("logit_bias") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err(invalid("logit_bias", "expected a map from token ids to numbers")),
    };
    let entry =
        |(token, bias): (&String, &Value)| Some((token.parse().ok()?, bias.as_f64()? as f32));
    entries
        .iter()
        .map(|e| entry(e).ok_or(invalid("logit_bias", "expected a map from token ids to numbers")))
        .collect()
}

fn stop(fields: &Map<String, Value>) -> Result<Vec<String>, UpstreamError> {
    let wrong = || invalid("stop", "expected a text or at most 16 texts");
    match fields.get("stop") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(texts)) if texts.len() <= STOP_TEXTS_MAX => {
            texts.iter().map(|t| t.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn turns_away_by_name_what_the_engine_cannot_do() {
        let message = json!([{"role": "user", "content": "hi"}]);
        let picture =
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]);
        for (name, value, expected) in [
            ("tools", json!([{"type": "function"}]), Some("tools")),
            ("tools", json!([]), None),
            ("n", json!(2), Some("n")),
            ("n", json!(1), None),
            ("logprobs", json!(true), Some("logprobs")),
            ("response_format", json!({"type": "json_object"}), Some("response_format")),
            ("response_format", json!({"type": "text"}), None),
            ("modalities", json!(["text", "audio"]), Some("modalities")),
            ("messages", picture, Some("messages")),
            ("messages", message.clone(), None),
        ] {
            let mut body = fields(json!({"messages": message}));
            body.insert(name.to_owned(), value.clone());
            assert_eq!(unsupported(&body).map(|(param, _)| param), expected, "{name}: {value}");
        }
    }

    #[test]
    fn reads_sampling_fields_and_names_the_wrong_one() {
        let good = generation(&fields(json!({
            "messages": [{"role": "developer", "content": [{"type": "text", "text": "a"},
                                                           {"type": "text", "text": "b"}]}],
            "temperature": 0, "seed": -1, "max_tokens": 9, "max_completion_tokens": 5,
            "stop": "x", "logit_bias": {"7": -100}
        })))
        .ok()
        .unwrap();
        assert_eq!(good.sampling.temperature, Some(0.0));
        assert_eq!(good.sampling.seed, Some(u64::MAX));
        assert_eq!(good.sampling.logit_bias, [(7, -100.0)]);
        assert_eq!((good.max_tokens, good.stop), (Some(5), vec!["x".to_owned()]));
        let PromptInput::Messages(messages) = good.prompt else { panic!("not messages") };
        assert_eq!((&*messages[0].role, &*messages[0].content), ("system", "a\nb"));

        for (name, value) in [
            ("temperature", json!("hot")),
            ("max_tokens", json!(-1)),
            ("seed", json!("x")),
            ("stop", json!(3)),
            ("logit_bias", json!({"token": 1})),
        ] {
            let body = fields(json!({"messages": [], name: value}));
            match generation(&body) {
                Err(UpstreamError::Invalid { param, .. }) => assert_eq!(param, name),
                _ => panic!("{name} was accepted"),
            }
        }
    }
}
