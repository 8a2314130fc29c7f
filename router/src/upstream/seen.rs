//! What a reply in the internal form says: its texts for the scan, its usage, whether it is over.
//!
//! Whatever a server speaks, its reply is a chat completion here, whole or as events, and is read by
//! this file alone. Only what is asked for is taken out of it (`pick`): events come by the hundred for one
//! request, and a tree of each was more than half of what a stream cost.

mod pick;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess};
use serde_json::Value;

use super::{Usage, sse};
use crate::reply_scan::{Channel, Place, ReplyText, is_no_text};
use pick::{EveryText, Found, Name, Pick, Picked};

/// What has come so far.
#[derive(Default)]
pub(super) struct Seen {
    /// `[DONE]` came.
    pub(super) done: bool,
    /// A choice said why it ended.
    pub(super) finished: bool,
    /// An event came that cannot be read, and so cannot be scanned.
    pub(super) broken: bool,
    /// The upstream said that it failed.
    pub(super) failed: bool,
    /// What the upstream counted.
    pub(super) usage: Usage,
}

impl Seen {
    /// Notes one event; `true` if it is the usage event and nothing else.
    pub(super) fn event(&mut self, event: &[u8], texts: &mut Vec<ReplyText>) -> bool {
        let Some(data) = sse::data(event) else {
            self.broken |= std::str::from_utf8(event).is_err();
            return false;
        };
        if data == "[DONE]" {
            self.done = true;
            return false;
        }
        let Some(said) = Said::read(&data) else {
            self.broken = true;
            return false;
        };
        self.failed |= said.is_error();
        self.finished |= said.choices.iter().any(|choice| choice.finish_reason.is_some());
        let is_usage_alone = said.usage.is_there && said.choices.is_empty();
        if said.usage.is_there {
            self.usage = said.usage();
        }
        said.texts(Part::Delta, texts);
        is_usage_alone
    }
}

/// Where a choice says what it says.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// In an event.
    Delta,
    /// In a whole reply.
    Message,
}

/// What is read of a whole reply, or of one of its events.
#[derive(Default)]
pub(super) struct Said {
    is_object: bool,
    error: Given,
    choices: Vec<Choice>,
    usage: Counted,
}

/// Whether something is there: an object or a text.
#[derive(Default)]
struct Given(bool);

#[derive(Default)]
struct Choice {
    index: Option<u64>,
    delta: Texts,
    message: Texts,
    finish_reason: Option<String>,
}

/// What a choice says, thinks and hands to tools: every text of it.
#[derive(Default)]
struct Texts {
    found: Vec<Found>,
    tool_calls: Vec<Call>,
}

#[derive(Default)]
struct Call {
    index: Option<u64>,
    id: Option<String>,
    function: Function,
    found: Vec<Found>,
}

#[derive(Default)]
struct Function {
    found: Vec<Found>,
}

/// The `usage` object.
#[derive(Default)]
struct Counted {
    is_there: bool,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    details: Details,
}

#[derive(Default)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Said {
    /// Reads JSON; `None` if it is none.
    pub(super) fn read(json: &str) -> Option<Said> {
        serde_json::from_str::<Picked<Said>>(json).ok().map(|Picked(said)| said)
    }

    /// Reads what was parsed already.
    pub(super) fn of(json: &Value) -> Said {
        // No value is of a kind that is not read over.
        Picked::deserialize(json).map(|Picked(said)| said).unwrap_or_default()
    }

    /// Whether it is an object, as every reply is.
    pub(super) fn is_object(&self) -> bool {
        self.is_object
    }

    /// Whether it says that the upstream failed, and nothing else.
    pub(super) fn is_error(&self) -> bool {
        self.error.0 && self.choices.is_empty()
    }

    /// What the upstream counted, as far as it says so here.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.usage.prompt_tokens,
            completion_tokens: self.usage.completion_tokens,
            cached_tokens: self.usage.details.cached_tokens,
        }
    }

    /// Adds what every choice says, thinks and hands to tools.
    pub(super) fn texts(self, part: Part, texts: &mut Vec<ReplyText>) {
        let number = |index: Option<u64>, place: usize| {
            index.and_then(|n| u32::try_from(n).ok()).unwrap_or(place as u32)
        };
        let mut add = |channel, text: String| {
            texts.extend(Some(text).filter(|t| !t.is_empty()).map(|t| ReplyText::new(channel, t)));
        };
        for (place, choice) in self.choices.into_iter().enumerate() {
            let index = number(choice.index, place);
            let said = match part {
                Part::Delta => choice.delta,
                Part::Message => choice.message,
            };
            for (at, text) in said.found {
                let channel = match is_content(at) {
                    true => Channel::Content(index),
                    false => Channel::Aside(index, at),
                };
                add(channel, text);
            }
            for (place, call) in said.tool_calls.into_iter().enumerate() {
                let number = number(call.index, place);
                add(Channel::CallId(index, number), call.id.unwrap_or_default());
                for (at, text) in call.function.found.into_iter().chain(call.found) {
                    let channel = match at {
                        ARGUMENTS => Channel::Arguments(index, number),
                        at => Channel::Aside(index, at.item(number as usize)),
                    };
                    add(channel, text);
                }
            }
        }
    }
}

/// Whether a choice's content stands here, whole or in parts.
fn is_content(at: Place) -> bool {
    const PARTS_MAX: usize = 16;
    at == CONTENT || (0..PARTS_MAX).any(|part| at == CONTENT.item(part).below("text"))
}

/// Makes a struct take its fields out of an object; of the others it notes every text in `others`, or reads
/// over them.
macro_rules! picks {
    ($struct:ident: $($name:ident => $field:ident),*
     $(; is_there: $flag:ident)? $(; others: $others:ident)?) => {
        impl Pick for $struct {
            $(fn object(&mut self) {
                self.$flag = true;
            })?

            fn field<'de, A: MapAccess<'de>>(
                &mut self,
                name: Name,
                object: &mut A,
            ) -> Result<(), A::Error> {
                match name {
                    $($name => self.$field = Picked::next(object)?,)*
                    $(name if !is_no_text(name) => every_text(&mut self.$others, name, object)?,)?
                    _ => {
                        object.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(())
            }
        }
    };
}

picks!(Said: CHOICES => choices, ERROR => error, USAGE => usage; is_there: is_object);
picks!(Choice: INDEX => index, DELTA => delta, MESSAGE => message, FINISH_REASON => finish_reason);
picks!(Counted: PROMPT_TOKENS => prompt_tokens, COMPLETION_TOKENS => completion_tokens,
    PROMPT_TOKENS_DETAILS => details; is_there: is_there);
picks!(Details: CACHED_TOKENS => cached_tokens);
picks!(Texts: TOOL_CALLS => tool_calls; others: found);
picks!(Call: INDEX => index, ID => id, FUNCTION => function; others: found);
picks!(Function: ; others: found);

/// Adds every text of one field.
fn every_text<'de, A: MapAccess<'de>>(
    found: &mut Vec<Found>,
    name: Name,
    object: &mut A,
) -> Result<(), A::Error> {
    let mut texts = Vec::new();
    object.next_value_seed(EveryText { at: name, found: &mut texts })?;
    // Of a text that stands twice, the last counts.
    found.retain(|(at, _)| *at != name);
    found.append(&mut texts);
    Ok(())
}

impl Pick for Given {
    fn text(&mut self, _: &str) {
        self.0 = true;
    }

    fn object(&mut self) {
        self.0 = true;
    }
}

/// Names of fields that mean something here.
macro_rules! names {
    ($($name:ident = $text:literal),+ $(,)?) => {
        $(const $name: Name = Place::of($text);)+
    };
}

names! {
    ARGUMENTS = "arguments",
    CACHED_TOKENS = "cached_tokens",
    CHOICES = "choices",
    COMPLETION_TOKENS = "completion_tokens",
    CONTENT = "content",
    DELTA = "delta",
    ERROR = "error",
    FINISH_REASON = "finish_reason",
    FUNCTION = "function",
    ID = "id",
    INDEX = "index",
    MESSAGE = "message",
    PROMPT_TOKENS = "prompt_tokens",
    PROMPT_TOKENS_DETAILS = "prompt_tokens_details",
    TOOL_CALLS = "tool_calls",
    USAGE = "usage",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_json_is_read_as_a_tree_of_it_would_be() {
        let content = |text: &str| vec![(Channel::Content(0), text.to_owned())];
        for (data, texts, ends) in [
            (r#"{"choices":[{"delta":{"content":"a"}}]}"#, content("a"), false),
            // Names and texts may be written with escapes.
            (r#"{"cho\u0069ces":[{"delta":{"content":"\u0061\n"}}]}"#, content("a\n"), false),
            // Of a name that stands twice, the last counts, whatever it holds.
            (r#"{"choices":[{"delta":{"content":"a","content":"b"}}]}"#, content("b"), false),
            (r#"{"choices":[{"delta":{"content":"a","content":[1]}}]}"#, vec![], false),
            (r#"{"choices":[{"delta":{"content":"a"}}],"choices":{}}"#, vec![], false),
            // What stands where nothing of its kind is expected is read over.
            (r#"{"choices":{"delta":{"content":"a"}}}"#, vec![], false),
            (r#"{"choices":[[{"content":"a"}],7,null,{"delta":"a"}]}"#, vec![], false),
            (r#"{"choices":[{"finish_reason":false,"delta":{"content":-1.5}}]}"#, vec![], false),
            (r#"["choices", true, {"usage": {}}]"#, vec![], false),
            ("7", vec![], false),
            // A place in the list stands for an index that is none.
            (
                r#"{"choices":[1,{"index":-3,"delta":{"refusal":"a"}}]}"#,
                vec![(Channel::Aside(1, Place::of("refusal")), "a".to_owned())],
                false,
            ),
            (
                r#"{"choices":[{"delta":{"content":"b"},"index":4294967296,"finish_reason":"x"}]}"#,
                content("b"),
                true,
            ),
        ] {
            let (mut seen, mut found) = (Seen::default(), Vec::new());
            assert!(!seen.event(format!("data: {data}\n\n").as_bytes(), &mut found), "{data}");
            let found: Vec<_> = found.into_iter().map(|t| (t.channel, t.text)).collect();
            assert_eq!((found, seen.finished, seen.broken), (texts, ends, false), "{data}");
        }
    }

    #[test]
    fn what_is_no_json_breaks_a_stream() {
        for data in [r#"{"choices":[}"#, r#"{"id":"a} "#, r#"{"a":1}{"#, "", "tru", r#"{"a":[1,]}"#]
        {
            let mut seen = Seen::default();
            seen.event(format!("data: {data}\n\n").as_bytes(), &mut Vec::new());
            assert!(seen.broken, "{data}");
        }
    }

    #[test]
    fn usage_is_an_object_that_stands_alone_or_beside_choices() {
        for (data, alone, prompt) in [
            (r#"{"usage":{"prompt_tokens":3}}"#, true, Some(3)),
            (r#"{"usage":{"prompt_tokens":-3},"choices":[]}"#, true, None),
            (r#"{"usage":{"prompt_tokens":3},"choices":[{}]}"#, false, Some(3)),
            (r#"{"usage":null,"choices":[]}"#, false, None),
            (r#"{"usage":[{"prompt_tokens":3}]}"#, false, None),
        ] {
            let mut seen = Seen::default();
            let found = seen.event(format!("data: {data}\n\n").as_bytes(), &mut Vec::new());
            assert_eq!((found, seen.usage.prompt_tokens), (alone, prompt), "{data}");
        }
    }
}
