//! Splits a stream of server-sent events at their ends and keeps the bytes as they are.
//!
//! A proxy must forward events unchanged and never half of one: if the upstream breaks off, our own
//! error event follows, and that needs a clean edge. A chunk that ends at an edge, as nearly all do,
//! is passed on without a copy.

use std::borrow::Cow;
use std::io::BufRead;

use bytes::{Bytes, BytesMut};

/// Longest event that is waited for, bytes.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// Gathers bytes until whole events are there.
#[derive(Default)]
pub(super) struct Splitter {
    rest: BytesMut,
}

/// An event is longer than [`EVENT_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Splitter {
    /// Adds bytes; gives back all events that are whole now (possibly none).
    pub(super) fn push(&mut self, chunk: Bytes) -> Result<Bytes, TooLong> {
        if self.rest.is_empty() {
            let end = events_end(&chunk);
            if end < chunk.len() {
                self.keep(&chunk[end..])?;
            }
            return Ok(chunk.slice(..end));
        }
        self.keep(&chunk)?;
        let end = events_end(&self.rest);
        Ok(self.rest.split_to(end).freeze())
    }

    /// Bytes of an event that never ended.
    pub(super) fn has_rest(&self) -> bool {
        self.rest.iter().any(|b| !b.is_ascii_whitespace())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.rest.len() + bytes.len() > EVENT_BYTES_MAX {
            return Err(TooLong);
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }
}

/// Where the last whole event ends: after its blank line (`\n\n` or `\r\n\r\n`).
fn events_end(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    while let Some(newline) = bytes[..end].iter().rposition(|&b| b == b'\n') {
        let before = &bytes[..newline];
        if before.ends_with(b"\n") || before.ends_with(b"\n\r") {
            return newline + 1;
        }
        end = newline;
    }
    0
}

/// The events in bytes that hold whole ones, blank lines included.
pub(crate) fn events(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (event, after) = rest.split_at(first_event_end(rest));
        rest = after;
        Some(event)
    })
}

fn first_event_end(bytes: &[u8]) -> usize {
    let (mut rest, mut line_start) = (bytes, 0);
    // Reading memory cannot fail, and looks for line ends in words, not in bytes.
    while let Ok(line_bytes @ 1..) = rest.skip_until(b'\n') {
        let line_end = line_start + line_bytes;
        if line_start > 0 && matches!(&bytes[line_start..line_end], b"\n" | b"\r\n") {
            return line_end;
        }
        line_start = line_end;
    }
    bytes.len()
}

/// The data of an event: mostly one line; several are one text with line breaks between (HTML standard,
/// server-sent events, section 9.2.6).
pub(crate) fn data(event: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(event).ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
    let first = lines.next()?;
    Some(match lines.next() {
        None => Cow::Borrowed(first),
        Some(second) => {
            let lines: Vec<&str> = [first, second].into_iter().chain(lines).collect();
            Cow::Owned(lines.join("\n"))
        }
    })
}

/// Writes an event of one line of JSON, with its name if the dialect gives names.
pub(crate) fn write(out: &mut Vec<u8>, name: Option<&str>, json: &serde_json::Value) {
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    // Writing JSON to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, json);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_gives_the_same_bytes_at_event_edges() {
        let whole = b"data: a\n\ndata: b\r\n\r\n: ping\n\ndata: [DONE]\n\n";
        for cut in 0..whole.len() {
            for second in cut..whole.len() {
                let mut splitter = Splitter::default();
                let mut out = Vec::new();
                for part in [&whole[..cut], &whole[cut..second], &whole[second..]] {
                    let got = splitter.push(Bytes::copy_from_slice(part)).unwrap();
                    assert!(got.is_empty() || got.ends_with(b"\n"), "cut at {cut}, {second}");
                    out.extend_from_slice(&got);
                }
                assert_eq!(out, whole, "cut at {cut}, {second}");
                assert!(!splitter.has_rest());
            }
        }
    }

    #[test]
    fn events_are_taken_apart_without_losing_a_byte() {
        let whole = b"data: a\n\nevent: x\ndata: b\r\n\r\ndata: [DONE]\n\n";
        let parts: Vec<_> = events(whole).collect();
        assert_eq!(parts.concat(), whole);
        let found: Vec<_> = parts.iter().filter_map(|event| data(event)).collect();
        assert_eq!(found, ["a", "b", "[DONE]"]);
    }

    #[test]
    fn an_event_without_end_is_refused_at_the_limit() {
        let mut splitter = Splitter::default();
        let mebibyte = Bytes::from(vec![b'x'; 1 << 20]);
        for _ in 0..4 {
            assert!(splitter.push(mebibyte.clone()).is_ok_and(|b| b.is_empty()));
        }
        assert_eq!(splitter.push(mebibyte), Err(TooLong));
    }
}
