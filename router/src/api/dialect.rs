//! Which endpoint speaks which dialect, and what turns a reply into it.
//!
//! The gateway answers in the internal form, the scan of replies included. A [`Voice`] is the last thing
//! that a reply goes through: it knows nothing of decisions and changes no text.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper::HeaderMap;
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{ApiError, Hints, Request, chat, completions, embeddings, messages, responses, said};
use crate::identity::Caller;
use crate::reply::{ByteStream, Reply, ReplyBody};
use crate::upstream::sse;

/// A way to ask, by its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's legacy completions.
    Completions,
    /// OpenAI's embeddings.
    Embeddings,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
}

/// Writes the reply to one request in its dialect.
pub enum Voice {
    /// The internal form is the dialect.
    Plain,
    /// OpenAI's legacy completions.
    Completions,
    /// OpenAI's responses, which repeat settings of the request.
    Responses {
        /// What was asked for.
        model: String,
        /// Knows the settings.
        writer: Box<responses::ReplyWriter>,
    },
    /// Anthropic's messages.
    Messages {
        /// What was asked for.
        model: String,
    },
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Dialect; 5] = [
        Dialect::Chat,
        Dialect::Completions,
        Dialect::Embeddings,
        Dialect::Responses,
        Dialect::Messages,
    ];

    /// Where it is spoken.
    pub fn path(self) -> &'static str {
        match self {
            Dialect::Chat => "/v1/chat/completions",
            Dialect::Completions => "/v1/completions",
            Dialect::Embeddings => "/v1/embeddings",
            Dialect::Responses => "/v1/responses",
            Dialect::Messages => "/v1/messages",
        }
    }

    /// Where its requests are counted in tokens, if it has such an endpoint.
    pub fn count_path(self) -> Option<&'static str> {
        match self {
            Dialect::Responses => Some("/v1/responses/input_tokens"),
            Dialect::Messages => Some("/v1/messages/count_tokens"),
            _ => None,
        }
    }

    /// Reads a body, and makes what writes its reply.
    pub fn read(
        self,
        body: &[u8],
        hints: Hints,
        caller: Caller,
    ) -> Result<(Request, Voice), ApiError> {
        Ok(match self {
            Dialect::Chat => (chat::read(body, hints, caller)?, Voice::Plain),
            Dialect::Embeddings => (embeddings::read(body, hints, caller)?, Voice::Plain),
            Dialect::Completions => (completions::read(body, hints, caller)?, Voice::Completions),
            Dialect::Messages => {
                let request = messages::read(body, hints, caller)?;
                let model = request.chat.model.clone();
                (request, Voice::Messages { model })
            }
            Dialect::Responses => {
                let (request, writer) = responses::read(body, hints, caller)?;
                let (model, writer) = (request.chat.model.clone(), Box::new(writer));
                (request, Voice::Responses { model, writer })
            }
        })
    }

    /// Reads a body that may hold several requests, each with what writes its reply. Several are answered
    /// by [`answer`].
    pub fn read_all(
        self,
        body: &[u8],
        hints: Hints,
        caller: Caller,
    ) -> Result<Vec<(Request, Voice)>, ApiError> {
        match self {
            Dialect::Completions => {
                let all = completions::read_all(body, hints, caller)?;
                Ok(all.into_iter().map(|request| (request, Voice::Completions)).collect())
            }
            other => Ok(vec![other.read(body, hints, caller)?]),
        }
    }

    /// Reads a body whose tokens are to be counted.
    pub fn read_to_count(
        self,
        body: &[u8],
        hints: Hints,
        caller: Caller,
    ) -> Result<Request, ApiError> {
        match self {
            Dialect::Messages => messages::read_to_count(body, hints, caller),
            other => other.read(body, hints, caller).map(|(request, _)| request),
        }
    }

    /// The number of tokens, as the dialect tells it.
    pub fn counted(self, tokens: usize) -> Value {
        match self {
            Dialect::Responses => {
                json!({"object": "response.input_tokens", "input_tokens": tokens})
            }
            _ => json!({"input_tokens": tokens}),
        }
    }
}

/// Answers several requests of one body, and makes one reply of theirs.
pub async fn answer<F, R>(asked: Vec<(Request, Voice)>, ask: F) -> Reply
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Reply> + Send + 'static,
{
    completions::answer(asked, ask).await
}

/// Whether a path belongs to a dialect or to the list of models, and so to no passthrough.
pub fn is_served(path: &str) -> bool {
    let own = |served: &str| path == served || path.starts_with(&format!("{served}/"));
    Dialect::ALL.iter().any(|dialect| own(dialect.path())) || own("/v1/models")
}

impl Voice {
    /// Says a reply in the dialect. Errors keep their shape ([`in_anthropics_words`] is for that) and name
    /// the field at fault as the client knows it.
    pub fn say(self, mut reply: Reply) -> Reply {
        if !reply.status.is_success() {
            return self.naming_the_field(reply);
        }
        let reader = said::Reader::new(self.head(&reply.headers));
        reply.body = match (reply.body, self) {
            (body, Voice::Plain) => body,
            (ReplyBody::Whole(bytes), voice) => ReplyBody::Whole(voice.whole(bytes, reader)),
            (ReplyBody::Stream(events), voice) => ReplyBody::Stream(voice.events(events, reader)),
        };
        reply
    }

    /// Who answers if the upstream does not say: the model that was asked for, by the decision's name.
    fn head(&self, headers: &HeaderMap) -> said::Head {
        let model = match self {
            Voice::Plain | Voice::Completions => "",
            Voice::Responses { model, .. } | Voice::Messages { model } => model,
        };
        let id = headers.get("x-sluice-decision").and_then(|id| id.to_str().ok());
        said::Head {
            id: id.unwrap_or_default().to_owned(),
            model: model.to_owned(),
            created: jiff::Timestamp::now().as_second(),
        }
    }

    fn naming_the_field(&self, mut reply: Reply) -> Reply {
        let names = match self {
            Voice::Plain => return reply,
            Voice::Completions => completions::NAMES,
            Voice::Responses { .. } => responses::NAMES,
            Voice::Messages { .. } => messages::NAMES,
        };
        let ReplyBody::Whole(bytes) = &reply.body else { return reply };
        let Ok(mut json) = serde_json::from_slice::<Value>(bytes) else { return reply };
        let param = json["error"]["param"].as_str().and_then(|param| super::renamed(param, names));
        if let Some(param) = param {
            json["error"]["param"] = param.into();
            reply.body = ReplyBody::Whole(json.to_string().into());
        }
        reply
    }

    fn whole(self, bytes: Bytes, reader: said::Reader) -> Bytes {
        let Ok(json) = serde_json::from_slice::<Value>(&bytes) else { return bytes };
        let said = match self {
            Voice::Plain => return bytes,
            Voice::Completions => completions::ReplyWriter::default().whole(json),
            Voice::Messages { .. } => messages::whole(reader.whole(&json)),
            Voice::Responses { writer, .. } => writer.whole(reader.whole(&json)),
        };
        said.to_string().into()
    }

    fn events(self, events: ByteStream, reader: said::Reader) -> ByteStream {
        let writer = match self {
            Voice::Plain => return events,
            Voice::Completions => Writer::Completions(completions::ReplyWriter::default()),
            Voice::Messages { .. } => Writer::Steps(
                Box::new(reader),
                StepWriter::Messages(messages::EventWriter::default()),
            ),
            Voice::Responses { writer, .. } => {
                Writer::Steps(Box::new(reader), StepWriter::Responses(writer))
            }
        };
        Box::pin(stream::unfold((events, Some(writer)), |(mut events, writer)| async move {
            let mut writer = writer?;
            let mut out = Vec::new();
            while out.is_empty() {
                let Some(Ok(frame)) = events.next().await else {
                    writer.end(&mut out);
                    return (!out.is_empty())
                        .then(|| (Ok(Frame::data(out.into())), (events, None)));
                };
                if let Ok(bytes) = frame.into_data() {
                    writer.push(&bytes, &mut out);
                }
            }
            Some((Ok(Frame::data(out.into())), (events, Some(writer))))
        }))
    }
}

/// What writes the events of one stream.
enum Writer {
    Completions(completions::ReplyWriter),
    /// By the steps that a reader finds in them.
    Steps(Box<said::Reader>, StepWriter),
}

/// What writes the steps of a reply in a dialect's words.
enum StepWriter {
    Messages(messages::EventWriter),
    Responses(Box<responses::ReplyWriter>),
}

impl Writer {
    /// Whole events.
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Writer::Completions(writer) => writer.push(bytes, out),
            Writer::Steps(reader, writer) => {
                sse::events(bytes).for_each(|event| writer.write(reader.event(event), out));
            }
        }
    }

    /// The stream is over.
    fn end(&mut self, out: &mut Vec<u8>) {
        match self {
            Writer::Completions(_) => {}
            Writer::Steps(reader, writer) => writer.write(reader.end(), out),
        }
    }
}

impl StepWriter {
    fn write(&mut self, steps: Vec<said::Said>, out: &mut Vec<u8>) {
        for said in steps {
            match self {
                StepWriter::Messages(writer) => writer.write(said, out),
                StepWriter::Responses(writer) => writer.write(said, out),
            }
        }
    }
}

/// Whether a client expects Anthropic's words: of the messages' endpoints always, of what both have (the
/// list of models, paths that do not exist) by the header that its SDKs send.
pub fn expects_anthropic(path: &str, headers: &HeaderMap) -> bool {
    let is_messages = path == Dialect::Messages.path() || path.starts_with("/v1/messages/");
    let is_openais = Dialect::ALL.iter().any(|dialect| dialect.path() == path);
    is_messages || (!is_openais && headers.contains_key("anthropic-version"))
}

/// An error, or a list of models, in Anthropic's words.
pub fn in_anthropics_words(mut reply: Reply, path: &str, request_id: &str) -> Reply {
    reply.set("request-id", request_id);
    let ReplyBody::Whole(bytes) = &reply.body else { return reply };
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return reply };
    let status = reply.status;
    if !status.is_success() {
        let error = messages::error(status.as_u16(), &json, request_id);
        reply.body = ReplyBody::Whole(error.to_string().into());
    } else if path.starts_with("/v1/models") {
        reply.body = ReplyBody::Whole(messages::models(&json).to_string().into());
    }
    reply
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::api::testing::words;

    /// A body of each dialect that holds every kind of thing.
    fn bodies() -> Vec<(Dialect, Value)> {
        let golden = |name: &str| -> Value {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
            let file = std::fs::read(format!("{folder}/{name}.json")).expect("a golden");
            serde_json::from_slice::<Value>(&file).expect("JSON")["request"].take()
        };
        vec![
            (Dialect::Chat, golden("chat_to_openai")),
            (Dialect::Completions, golden("completions_to_openai")),
            (Dialect::Embeddings, golden("embeddings_to_openai")),
            (Dialect::Responses, golden("responses_to_openai")),
            (Dialect::Messages, golden("messages_to_openai")),
            (
                Dialect::Messages,
                json!({"model": "m", "max_tokens": 9, "messages": [
                {"role": "user", "content": [
                    {"type": "document", "title": "t", "context": "c", "citations": {"enabled": true},
                     "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
                    {"type": "document", "source": {"type": "content", "content": [
                        {"type": "text", "text": "words", "citations": []}]}},
                    {"type": "search_result", "title": "t", "source": "s", "content": [
                        {"type": "text", "text": "words"}]}]},
                {"role": "assistant", "content": [{"type": "text", "text": "words"}]}],
                "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
                "tool_choice": {"type": "tool", "name": "f"}, "metadata": {"user_id": "u"},
                "tools": [{"name": "f", "input_schema": {}, "input_examples": [{"a": 1}]}]}),
            ),
            (
                Dialect::Responses,
                json!({"model": "m", "include": [], "input": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "words"}],
                 "content": [{"type": "reasoning_text", "text": "words"}]},
                {"type": "message", "role": "assistant", "content": [
                    {"type": "output_text", "text": "words", "annotations": [], "logprobs": []},
                    {"type": "refusal", "refusal": "words"}]},
                {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "words"},
                {"type": "custom_tool_call_output", "call_id": "c", "output": [
                    {"type": "input_text", "text": "words"}]}],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [
                    {"type": "custom", "name": "f"}]},
                "tools": [{"type": "custom", "name": "f", "description": "words", "format": {
                    "type": "grammar", "syntax": "lark", "definition": "words"}}]}),
            ),
        ]
    }

    /// JSON whose strings and keys are words like no other, and words that dialects know.
    fn anything() -> impl Strategy<Value = Value> {
        let word = prop_oneof![
            "w-[a-z]{6}",
            prop::sample::select(vec![
                "text",
                "image",
                "file",
                "user",
                "tool_result",
                "message",
                "reasoning",
                "content",
                "input_text",
                "function_call",
                "thinking",
                "source",
                "data",
                "url",
                "custom",
            ])
            .prop_map(str::to_owned),
        ];
        let leaf = prop_oneof![
            word.clone().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, move |inner| {
            let fields = prop::collection::vec((word.clone(), inner.clone()), 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// Puts a value somewhere into a body: in place of what is there, or beside it.
    fn put(body: &mut Value, steps: &[u8], value: Value) {
        let Some((step, rest)) = steps.split_first() else {
            *body = value;
            return;
        };
        let step = usize::from(*step);
        match body {
            Value::Object(fields) if step.is_multiple_of(5) => {
                drop(fields.insert("w-planted".to_owned(), value));
            }
            Value::Object(fields) if !fields.is_empty() => {
                let place = step % fields.len();
                let inner = fields.values_mut().nth(place).expect("a field");
                put(inner, rest, value);
            }
            Value::Array(list) if step.is_multiple_of(5) => list.push(value),
            Value::Array(list) if !list.is_empty() => {
                let place = step % list.len();
                put(&mut list[place], rest, value);
            }
            other => *other = value,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Whatever a client sends is turned away, or all of it is scanned: every word that could leave
        /// and every word that is left behind, unless it is named as what cannot be.
        #[test]
        fn nothing_gets_past_the_scan(
            which in 0usize..7,
            steps in prop::collection::vec(any::<u8>(), 0..8),
            value in anything(),
        ) {
            let (dialect, mut body) = bodies().swap_remove(which);
            put(&mut body, &steps, value);
            let hints = Hints::read(&HeaderMap::new(), dialect.path(), "").unwrap();
            let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
            let Ok((request, _)) = dialect.read(body.to_string().as_bytes(), hints, caller) else {
                return Ok(());
            };
            let scanned: String =
                request.prompt.texts.iter().map(|text| format!("{}\n", text.text)).collect();
            let mut all = BTreeSet::new();
            words(&body, &mut all);
            words(&Value::Object(request.chat.fields.clone()), &mut all);
            for word in all.iter().filter(|word| word.starts_with("w-")) {
                let is_seen = scanned.contains(word) || !request.prompt.unscanned.is_empty();
                prop_assert!(is_seen, "{word} in {body}");
            }
        }
    }

    #[test]
    fn anthropics_words_are_for_its_endpoints_and_its_clients() {
        let mut theirs = HeaderMap::new();
        theirs.insert("anthropic-version", hyper::header::HeaderValue::from_static("2023-06-01"));
        for (path, plain, with_header) in [
            ("/v1/messages", true, true),
            ("/v1/messages/count_tokens", true, true),
            ("/v1/models", false, true),
            ("/v1/nothing", false, true),
            ("/v1/chat/completions", false, false),
            ("/v1/messagesx", false, true),
        ] {
            assert_eq!(expects_anthropic(path, &HeaderMap::new()), plain, "{path}");
            assert_eq!(expects_anthropic(path, &theirs), with_header, "{path}");
        }
    }
}
