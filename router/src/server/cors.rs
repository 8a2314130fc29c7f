//! Pages of other origins that may call from a browser: those of a list, and none without one.
//!
//! Nothing is allowed by a pattern, and credentials of a browser (cookies, certificates) never are: a
//! page sends its key in a header. Source: the Fetch standard, "CORS protocol".

use hyper::header::{HeaderMap, HeaderValue, ORIGIN, VARY};
use hyper::{Method, StatusCode};

use crate::reply::{Reply, ReplyBody};

/// What a page may read beside the body.
const EXPOSED: &str = "retry-after, x-request-id, x-sluice-class, x-sluice-decision, x-sluice-labels, \
                       x-sluice-model-quality, x-sluice-offline, x-sluice-route, x-sluice-rule, \
                       x-sluice-upstream, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, \
                       x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, \
                       x-ratelimit-reset-requests, x-ratelimit-reset-tokens";
/// Longest list of headers that a preflight may ask for, bytes.
const ASKED_BYTES_MAX: usize = 1024;

/// The origin of a request, if it is on the list.
pub(super) fn allowed<'l>(list: &'l [String], headers: &HeaderMap) -> Option<&'l str> {
    let origin = headers.get(ORIGIN)?;
    list.iter().find(|known| known.as_bytes() == origin.as_bytes()).map(String::as_str)
}

/// Whether a browser asks what it may ask.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key("access-control-request-method")
}

/// The answer to that.
pub(super) fn preflight(origin: Option<&str>, headers: &HeaderMap) -> Reply {
    let status = if origin.is_some() { StatusCode::NO_CONTENT } else { StatusCode::FORBIDDEN };
    let body = ReplyBody::Whole(bytes::Bytes::new());
    let mut reply = Reply { status, headers: HeaderMap::new(), body };
    if origin.is_some() {
        reply.set("access-control-allow-methods", "GET, POST");
        reply.set("access-control-max-age", "600");
        // Which headers a request has changes nothing here, so all that it asks for are fine.
        let asked = headers.get("access-control-request-headers");
        let short = |value: &&HeaderValue| value.len() <= ASKED_BYTES_MAX;
        if let Some(asked) = asked.filter(short).and_then(|value| value.to_str().ok()) {
            reply.set("access-control-allow-headers", asked);
        }
    }
    reply
}

/// Lets the page of an origin read a reply.
pub(super) fn open(reply: &mut Reply, origin: &str) {
    reply.set("access-control-allow-origin", origin);
    reply.set("access-control-expose-headers", EXPOSED);
    reply.headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_origin_is_allowed() {
        let list = ["https://app.example".to_owned()];
        for (origin, expected) in [
            ("https://app.example", true),
            ("https://app.example:444", false),
            ("http://app.example", false),
            ("https://evil-app.example", false),
            ("https://app.example.evil", false),
            ("null", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(allowed(&list, &headers).is_some(), expected, "{origin}");
        }
        assert_eq!(allowed(&list, &HeaderMap::new()), None);
    }
}
