//! OpenAI's embeddings: vectors of texts.
//!
//! The body travels as it is: no other protocol has vectors. Each text is scanned as a message of its
//! own. Vectors of a text say what the text says, so they come from where the text may go; the embedded
//! model makes none, and then the request is refused by name.
//!
//! Source: OpenAI's published API schema (its Python SDK 3.54), as of November 2026.

use sluice_policies::Endpoint;

use super::chat::{self, Lowered};
use super::{ApiError, Hints, Native, Request};
use crate::identity::Caller;

/// Reads a body.
pub(super) fn read(body: &[u8], hints: Hints, caller: Caller) -> Result<Request, ApiError> {
    let fields = super::object(body)?;
    let endpoint = Endpoint::Embeddings;
    let lowered = Lowered { fields, endpoint, stream: false, include_usage: false };
    chat::request(lowered, Native::default(), hints, caller)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};
    use sluice_policies::ContentKind;

    use super::*;

    fn asked(input: Value) -> Request {
        let hints = Hints::read(&hyper::HeaderMap::new(), "/v1/embeddings", "").unwrap();
        let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
        let body = json!({"model": "m", "input": input, "new": "w-new"}).to_string();
        read(body.as_bytes(), hints, caller).ok().unwrap()
    }

    #[test]
    fn every_text_is_scanned_by_itself_and_token_ids_are_named() {
        let texts = |request: &Request| {
            let texts = request.prompt.texts.iter().filter(|text| text.place.starts_with("input"));
            texts.map(|t| (t.place.clone(), t.message, t.text.clone())).collect::<Vec<_>>()
        };
        let place = |place: &str, message: usize, text: &str| {
            (place.to_owned(), Some(message), text.to_owned())
        };
        assert_eq!(texts(&asked(json!("one"))), [place("input", 0, "one")]);
        let two = asked(json!(["one", "two"]));
        assert_eq!(texts(&two), [place("input[0]", 0, "one"), place("input[1]", 1, "two")]);
        let kinds = |request: &Request| {
            request.prompt.unscanned.iter().map(|it| it.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&two), [ContentKind::UnknownField]);
        let ids = [ContentKind::TokenIds, ContentKind::UnknownField];
        for input in [json!([1, 2]), json!([[1], [2]]), json!(["a", 7])] {
            assert_eq!(kinds(&asked(input)), ids);
        }
    }
}
