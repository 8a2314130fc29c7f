//! Several texts in one request: each is answered by itself, and the client gets one reply.
//!
//! All were classified together, so none goes where another may not. Choices are numbered as OpenAI has it:
//! those of the first text, then those of the second. A few are answered at a time, streams side by side:
//! as they come, each choice in its order. They are read only as fast as the client reads.
//!
//! Each text has a decision of its own. A whole reply names them all in its header; a stream has begun by the
//! time the later ones are taken, so they come in it, as comments before what they are about.
//!
//! What fails before a reply has begun fails all of them; what breaks off later ends the stream.

use std::future::ready;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::api::{Request, Voice};
use crate::reply::{Reply, ReplyBody};
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
        true => streamed(asked, each, ask).await,
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

const DECISION: &str = "x-sluice-decision";

/// The decision that a reply names, if one was taken.
fn decision(reply: &Reply) -> Option<&str> {
    reply.headers.get(DECISION)?.to_str().ok()
}

fn add_decision(first: &mut Reply, next: &Reply) {
    if let (Some(all), Some(next)) = (decision(first), decision(next)) {
        let all = format!("{all},{next}");
        first.set(DECISION, &all);
    }
}

/// What comes of one text.
enum Part {
    /// Whole events.
    Events(Bytes),
    /// An error instead of a stream.
    Failed(Bytes),
}

/// A reply in the stream of another: its decision, then what it says.
fn told_parts(reply: Reply) -> BoxStream<'static, Part> {
    let comment = decision(&reply).map(|id| Part::Events(format!(": {DECISION} {id}\n\n").into()));
    stream::iter(comment).chain(parts(reply.body)).boxed()
}

fn parts(body: ReplyBody) -> BoxStream<'static, Part> {
    match body {
        ReplyBody::Stream(events) => {
            events.filter_map(|Ok(frame)| ready(frame.into_data().ok().map(Part::Events))).boxed()
        }
        ReplyBody::Whole(error) => stream::once(ready(Part::Failed(error))).boxed(),
    }
}

async fn streamed<F, R>(asked: Vec<(Request, Voice)>, each: u64, ask: F) -> Reply
where
    F: Fn(Request) -> R + Send + 'static,
    R: Future<Output = Reply> + Send + 'static,
{
    let mut asked = asked.into_iter();
    let Some((request, voice)) = asked.next() else {
        return Reply::error(&crate::api::ApiError::internal());
    };
    let mut reply = voice.say(ask(request).await);
    let first = match reply.body {
        ReplyBody::Stream(_) => parts(reply.body),
        ReplyBody::Whole(_) => return reply,
    };
    let rest = asked.map(move |(request, voice)| {
        let reply = ask(request);
        stream::once(async move { voice.say(reply.await) }).flat_map(told_parts).boxed()
    });
    let all = stream::iter(std::iter::once(first).chain(rest).zip(0_u64..));
    let parts = all.flat_map_unordered(AT_ONCE, |(parts, number)| {
        parts.map(move |part| (number, part)).boxed()
    });
    let merged = Merged { parts: parts.boxed(), each, id: None, usage: None, over: false };
    reply.body = ReplyBody::Stream(Box::pin(stream::unfold(merged, |mut merged| async {
        let bytes = merged.next().await?;
        Some((Ok(Frame::data(bytes)), merged))
    })));
    reply
}

/// Streams side by side.
struct Merged {
    /// Of each text, by its number.
    parts: BoxStream<'static, (u64, Part)>,
    each: u64,
    /// The reply's name, which all events carry.
    id: Option<Value>,
    usage: Option<Value>,
    over: bool,
}

impl Merged {
    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            let mut out = Vec::new();
            match self.parts.next().await {
                Some((number, Part::Events(bytes))) => self.relay(number, &bytes, &mut out),
                Some((_, Part::Failed(error))) => {
                    self.over = true;
                    let error = serde_json::from_slice(&error);
                    sse::write(&mut out, None, &error.unwrap_or_else(|_| json!({"error": {}})));
                }
                None => {
                    self.over = true;
                    if let Some(usage) = self.usage.take() {
                        sse::write(&mut out, None, &usage);
                    }
                    out.extend_from_slice(b"data: [DONE]\n\n");
                }
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
        None
    }

    /// Passes whole events on; the end and the counts wait for those of all.
    fn relay(&mut self, number: u64, bytes: &[u8], out: &mut Vec<u8>) {
        for event in sse::events(bytes) {
            let data = sse::data(event);
            if data.as_deref() == Some("[DONE]") {
                continue;
            }
            let json = data.and_then(|data| serde_json::from_str::<Value>(&data).ok());
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
            renumber(&mut json, number.saturating_mul(self.each));
            sse::write(out, None, &json);
        }
    }
}
