//! Where the thoughts of a whole reply stood among what else it says.
//!
//! A provider takes its thoughts back only as they were: each with its own signature, in their order. The
//! internal form has one text for all of them, so their blocks say where they stood (`upstream::anthropic`).

use serde_json::Value;

/// A block of thoughts, and what came between it and the one before.
#[derive(Debug, PartialEq)]
pub(super) struct Placed<'a> {
    pub(super) text_before: &'a str,
    pub(super) calls_before: usize,
    pub(super) thought: &'a str,
    /// Its signature, or the thought that is encrypted.
    pub(super) block: Value,
}

/// The blocks in their places, and the text behind them; `None` if it is not known what of the thought is
/// whose, as when the scan has changed it.
pub(super) fn placed<'a>(
    blocks: &Value,
    mut thought: &'a str,
    mut text: &'a str,
) -> Option<(Vec<Placed<'a>>, &'a str)> {
    let blocks = blocks.as_array().filter(|blocks| !blocks.is_empty())?;
    let (mut bytes_said, mut calls_said) = (0, 0);
    let mut placed = Vec::with_capacity(blocks.len());
    for block in blocks {
        let number = |name: &str| block[name].as_u64().and_then(|n| usize::try_from(n).ok());
        let (its, rest) = thought.split_at_checked(number("bytes")?)?;
        thought = rest;
        let content_before = number("content_before")?.saturating_sub(bytes_said);
        // In a text that the scan has changed, it does not matter much where a thought came.
        let (text_before, rest) = text.split_at_checked(content_before).unwrap_or((text, ""));
        text = rest;
        bytes_said += text_before.len();
        let calls_before = number("calls_before")?.saturating_sub(calls_said);
        calls_said += calls_before;
        let block = without_place(block);
        placed.push(Placed { text_before, calls_before, thought: its, block });
    }
    thought.is_empty().then_some((placed, text))
}

/// A block without what says where it stood.
pub(super) fn without_place(block: &Value) -> Value {
    let mut block = block.clone();
    if let Some(fields) = block.as_object_mut() {
        fields.retain(|name, _| !matches!(&**name, "bytes" | "content_before" | "calls_before"));
    }
    block
}
