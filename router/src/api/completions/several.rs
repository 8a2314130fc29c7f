//! Several texts in one request: each is answered by itself, and the client gets one reply.
//!
//! All were classified together, so none goes where another may not. Choices are numbered as OpenAI has it:
//! those of the first text, then those of the second. Whole replies come a few at a time; streams come one
//! after the other, so that a reader holds back one upstream and not many.
//!
//! What fails before a reply has begun fails all of them; what breaks off later ends the stream.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::api::{Request, Voice};
use crate::reply::{ByteStream, Reply, ReplyBody};
use crate::upstream::sse;

/// Texts that are answered at the same time.
const AT_ONCE: usize = 4;

/// Answers requests, of which there is at least one, as one.
pub(in crate::api) async fn answer<F, R>(asked: Vec<(Request, Voice)>, ask: F) -> Reply
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Reply> + Send + 'static,
{
    let first = asked.first().map(|(request, _)| &request.chat);
    let streams = first.is_some_and(|chat| chat.stream);
    let each = first.and_then(|chat| chat.fields.get("n")).and_then(Value::as_u64).unwrap_or(1);
    match streams {
        true => streamed(asked.into(), each, ask).await,
        false => whole(asked, each, ask).await,
    }
}

async fn whole<R: Future<Output = Reply>>(
    asked: Vec<(Request, Voice)>,
    each: u64,
    ask: impl Fn(Request) -> R,
) -> Reply {
    let replies = asked.into_iter().map(|(request, voice)| {
        let reply = ask(request);
        async move { voice.say(reply.await) }
    });
    let mut replies = stream::iter(replies).buffered(AT_ONCE);
    let mut merged: Option<(Reply, Value)> = None;
    let mut number = 0;
    while let Some(reply) = replies.next().await {
        let json = match &reply.body {
            ReplyBody::Whole(bytes) if reply.status.is_success() => serde_json::from_slice(bytes),
            _ => return reply,
        };
        let Ok(mut json) = json else { return reply };
        renumber(&mut json, number * each);
        number += 1;
        match &mut merged {
            None => merged = Some((reply, json)),
            Some((first, all)) => {
                add_choices(all, &mut json);
                add_usage(&mut all["usage"], &json["usage"]);
                add_decision(first, &reply);
            }
        }
    }
    match merged {
        Some((mut reply, json)) => {
            reply.body = ReplyBody::Whole(json.to_string().into());
            reply
        }
        None => Reply::error(&crate::api::ApiError::internal()),
    }
}

fn renumber(json: &mut Value, from: u64) {
    for choice in json["choices"].as_array_mut().into_iter().flatten() {
        let index = choice["index"].as_u64().unwrap_or(0);
        choice["index"] = from.saturating_add(index).into();
    }
}

fn add_choices(all: &mut Value, more: &mut Value) {
    if let (Some(all), Some(more)) = (all["choices"].as_array_mut(), more["choices"].as_array_mut())
    {
        all.append(more);
    }
}

/// Adds counts to counts; what only one of them has stays as it is.
fn add_usage(all: &mut Value, more: &Value) {
    match (all, more) {
        (Value::Object(all), Value::Object(more)) => {
            for (name, more) in more {
                add_usage(all.entry(name).or_insert(Value::Null), more);
            }
        }
        (all @ Value::Null, more) => *all = more.clone(),
        (all, more) => {
            if let (Some(one), Some(other)) = (all.as_u64(), more.as_u64()) {
                *all = one.saturating_add(other).into();
            }
        }
    }
}

/// Each text has a decision of its own on record.
fn add_decision(first: &mut Reply, next: &Reply) {
    const NAME: &str = "x-sluice-decision";
    let word = |reply: &Reply| {
        reply.headers.get(NAME).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    if let (Some(all), Some(next)) = (word(first), word(next)) {
        first.set(NAME, &format!("{all},{next}"));
    }
}

/// Streams one after the other.
struct Chain<F> {
    ask: F,
    rest: VecDeque<(Request, Voice)>,
    current: ByteStream,
    number: u64,
    each: u64,
    /// The reply's name, which all events carry.
    id: Option<Value>,
    usage: Option<Value>,
    over: bool,
}

async fn streamed<F, R>(mut asked: VecDeque<(Request, Voice)>, each: u64, ask: F) -> Reply
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Reply> + Send + 'static,
{
    let Some((request, voice)) = asked.pop_front() else {
        return Reply::error(&crate::api::ApiError::internal());
    };
    let mut reply = voice.say(ask(request).await);
    let current = match reply.body {
        ReplyBody::Stream(events) => events,
        ReplyBody::Whole(_) => return reply,
    };
    let (number, over) = (0, false);
    let chain = Chain { ask, rest: asked, current, number, each, id: None, usage: None, over };
    reply.body = ReplyBody::Stream(Box::pin(stream::unfold(chain, |mut chain| async {
        let bytes = chain.next().await?;
        Some((Ok(Frame::data(bytes)), chain))
    })));
    reply
}

impl<F, R> Chain<F>
where
    F: Fn(Request) -> R,
    R: Future<Output = Reply>,
{
    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            let mut out = Vec::new();
            match self.current.next().await {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.relay(&bytes, &mut out);
                    }
                }
                None => self.go_on(&mut out).await,
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
        None
    }

    /// Passes whole events on; the end and the counts wait for those of all.
    fn relay(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for event in sse::events(bytes) {
            let data = sse::data(event);
            if data == Some("[DONE]") {
                continue;
            }
            let json = data.and_then(|data| serde_json::from_str::<Value>(data).ok());
            let Some(mut json) = json else {
                out.extend_from_slice(event);
                continue;
            };
            if !json["error"].is_null() {
                self.over = true;
                return out.extend_from_slice(event);
            }
            if json["id"].is_string() {
                json["id"] = self.id.get_or_insert_with(|| json["id"].clone()).clone();
            }
            if json["usage"].is_object() && json["choices"].as_array().is_none_or(Vec::is_empty) {
                match &mut self.usage {
                    None => self.usage = Some(json),
                    Some(all) => add_usage(&mut all["usage"], &json["usage"]),
                }
                continue;
            }
            renumber(&mut json, self.number.saturating_mul(self.each));
            sse::write(out, None, &json);
        }
    }

    /// The stream of one text has ended: the next begins, or all is said.
    async fn go_on(&mut self, out: &mut Vec<u8>) {
        let Some((request, voice)) = self.rest.pop_front() else {
            self.over = true;
            if let Some(usage) = self.usage.take() {
                sse::write(out, None, &usage);
            }
            return out.extend_from_slice(b"data: [DONE]\n\n");
        };
        self.number += 1;
        match voice.say((self.ask)(request).await).body {
            ReplyBody::Stream(events) => self.current = events,
            ReplyBody::Whole(error) => {
                self.over = true;
                let error = serde_json::from_slice(&error).unwrap_or_else(|_| json!({"error": {}}));
                sse::write(out, None, &error);
            }
        }
    }
}
