//! Endpoints that no dialect knows, passed on as they are because the config names them.
//!
//! A body of JSON is scanned as text, its keys included, and sent as it was read, so that what was scanned
//! is what leaves; anything else is content that cannot be scanned, and policy answers for it. What a
//! body refers to (data inside an address, a file by its id, an address to fetch) is named, since no table
//! says what the endpoint does with it. Where it may go, and that text that never goes to a cloud goes
//! nowhere through here, is the gateway's.

use bytes::Bytes;
use hyper::header::HeaderValue;
use serde_json::{Map, Value};
use sluice_policies::{ContentKind, Endpoint, Prompt, Role, Text, Unscanned};

use super::flat::{flat, is_data_url};
use super::{ApiError, ChatBody, Hints, Native, Request};
use crate::config::Passthrough;
use crate::identity::Caller;
use crate::upstream::UpstreamId;

/// The content type of a body that says nothing.
const NOTHING_SAID: HeaderValue = HeaderValue::from_static("application/octet-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A body that goes on as it is.
#[derive(Clone)]
pub struct RawBody {
    /// The one upstream that may get it.
    pub upstream: UpstreamId,
    /// The path below its `base_url`.
    pub path: String,
    /// What is sent.
    pub bytes: Bytes,
    /// What it is.
    pub content_type: HeaderValue,
}

/// Reads a body for a passthrough.
pub fn read(
    body: Bytes,
    content_type: Option<HeaderValue>,
    mut hints: Hints,
    caller: Caller,
    to: &Passthrough,
) -> Result<Request, ApiError> {
    let json = serde_json::from_slice::<Value>(&body).ok();
    let mut prompt = Prompt { context: std::mem::take(&mut hints.context), ..Prompt::default() };
    let place = || "body".to_owned();
    let (bytes, content_type) = match &json {
        Some(value) => {
            let text = flat(value, None);
            prompt.texts.push(Text { place: place(), message: Some(0), role: Role::User, text });
            refers_to(value, "", &mut |kind| {
                prompt.unscanned.push(Unscanned { kind, place: place() });
            });
            (Bytes::from(value.to_string()), JSON)
        }
        None if body.is_empty() => (body, content_type.unwrap_or(NOTHING_SAID)),
        None => {
            prompt.unscanned.push(Unscanned { kind: ContentKind::EncryptedFile, place: place() });
            (body, content_type.unwrap_or(NOTHING_SAID))
        }
    };
    prompt.texts.extend(hints.client.texts());
    let model = json.as_ref().and_then(|value| value["model"].as_str()).unwrap_or_default();
    prompt.context.model = model.to_owned();
    prompt.context.caller = caller.id.clone();
    prompt.context.tenant = caller.tenant.to_string();
    prompt.context.key_tags = caller.tags.clone();
    let path = to.path.trim_start_matches("/v1/").to_owned();
    let chat = ChatBody {
        fields: Map::new(),
        model: model.to_owned(),
        stream: false,
        include_usage: false,
        endpoint: Endpoint::Chat,
        raw: Some(RawBody { upstream: to.upstream.clone(), path, bytes, content_type }),
        unknown: Vec::new(),
        native: Native::default(),
    };
    Ok(Request::new(hints, prompt, chat, caller))
}

/// Tells what a value refers to that is not in its text.
fn refers_to(value: &Value, key: &str, tell: &mut impl FnMut(ContentKind)) {
    match value {
        Value::String(text) if is_data_url(text) => tell(ContentKind::EncryptedFile),
        Value::String(_) if key.ends_with("file_id") || key.ends_with("file_ids") => {
            tell(ContentKind::FileReference);
        }
        Value::String(text) if key.ends_with("url") && text.contains("://") => {
            tell(ContentKind::RemoteUrl);
        }
        Value::Array(list) => list.iter().for_each(|value| refers_to(value, key, tell)),
        Value::Object(map) => map.iter().for_each(|(key, value)| refers_to(value, key, tell)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hyper::HeaderMap;

    use super::*;

    fn request(body: &'static str) -> Request {
        let hints = Hints::read(&HeaderMap::new(), "/v1/moderations", "").unwrap();
        let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
        let upstream = UpstreamId::new("cloud");
        let to = Passthrough { path: "/v1/moderations".into(), upstream };
        read(Bytes::from_static(body.as_bytes()), None, hints, caller, &to).unwrap()
    }

    #[test]
    fn json_is_scanned_with_its_keys_and_sent_as_it_was_read() {
        let asked =
            request(r#"{"model": "m", "input": "first", "input": "sec\u006fnd", "n": 12345678}"#);
        assert_eq!(asked.prompt.texts[0].text, "input: second\nmodel: m\nn: 12345678\n");
        let raw = asked.chat.raw.unwrap();
        assert_eq!(raw.path, "moderations");
        let sent: Value = serde_json::from_slice(&raw.bytes).unwrap();
        assert_eq!(sent, serde_json::json!({"model": "m", "input": "second", "n": 12345678}));
        assert!(asked.prompt.unscanned.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        use ContentKind::{EncryptedFile, FileReference, RemoteUrl};
        for (body, kinds) in [
            ("--x\r\ncontent-disposition: form-data", vec![EncryptedFile]),
            (r#"{"image": "data:image/png;base64,AAAA"}"#, vec![EncryptedFile]),
            (
                r#"[{"input_file_id": "f"}, {"image_url": {"url": "https://a.example"}}]"#,
                vec![FileReference, RemoteUrl],
            ),
            (r#"{"file_ids": ["a", "b"]}"#, vec![FileReference, FileReference]),
            ("", vec![]),
        ] {
            let found: Vec<_> = request(body).prompt.unscanned.iter().map(|it| it.kind).collect();
            assert_eq!(found, kinds, "{body}");
        }
    }
}
