//! Reads a call in the Hermes form, `{"name": …, "arguments": {…}}`, one character at a time.
//!
//! The arguments are passed on as they come, so that a client sees them grow; the name has to be known
//! first, and what comes before it waits. The reader keeps count of quotes and brackets and leaves it
//! to the caller of the tool to judge the arguments, as OpenAI does.
//!
//! Invariant: nothing is passed on before the name of a known tool and the start of an object.

use serde_json::Value as Json;

use super::reply::{CallOut, Step};
use crate::engine::Tool;

/// A call that is being read.
#[derive(Default)]
pub(super) struct JsonCall {
    state: State,
    key: String,
    /// The value so far; of arguments that are passed on, nothing.
    value: String,
    nesting: Nesting,
    name: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    announced: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Start,
    /// Before a key or the end.
    Between,
    Key,
    Colon,
    /// Before a value's first character.
    ValueStart,
    Value,
    /// Inside arguments that are passed on.
    Arguments,
}

/// Where in a JSON text one is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    pub(crate) fn take(&mut self, c: char) {
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' if self.in_string => self.escaped = true,
            '"' => self.in_string = !self.in_string,
            '{' | '[' if !self.in_string => self.depth += 1,
            '}' | ']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    /// Between a string's quotes.
    pub(crate) fn in_string(&self) -> bool {
        self.in_string
    }

    /// Right after a backslash.
    pub(crate) fn escaped(&self) -> bool {
        self.escaped
    }

    fn is_outside(&self) -> bool {
        self.depth == 0 && !self.in_string
    }
}

impl JsonCall {
    pub(super) fn announced(&self) -> bool {
        self.announced
    }

    pub(super) fn take(&mut self, c: char, tools: &[Tool], out: &mut CallOut<'_>) -> Step {
        let blank = c.is_ascii_whitespace();
        match (self.state, c) {
            (State::Start | State::Between | State::Colon | State::ValueStart, _) if blank => {}
            (State::Between, ',') => {}
            (State::Start, '{') => self.state = State::Between,
            (State::Between, '"') => self.begin_key(),
            (State::Between, '}') => return self.end(out),
            (State::Key, _) => self.key_character(c),
            (State::Colon, ':') => self.state = State::ValueStart,
            (State::ValueStart, '{') if self.is_arguments() && self.name.is_some() => {
                self.announce(out);
                self.state = State::Arguments;
                self.argument_character(c, out);
            }
            (State::Arguments, _) => self.argument_character(c, out),
            (State::ValueStart | State::Value, ',' | '}') if self.nesting.is_outside() => {
                if self.end_value(tools, out).is_none() {
                    return Step::Broken;
                }
                self.state = State::Between;
                return if c == '}' { self.end(out) } else { Step::More };
            }
            (State::ValueStart | State::Value, _) => {
                self.state = State::Value;
                self.nesting.take(c);
                self.value.push(c);
            }
            _ => return Step::Broken,
        }
        Step::More
    }

    fn begin_key(&mut self) {
        self.state = State::Key;
        self.key.clear();
        self.value.clear();
        self.nesting = Nesting { in_string: true, ..Nesting::default() };
    }

    fn key_character(&mut self, c: char) {
        self.nesting.take(c);
        if self.nesting.in_string() {
            self.key.push(c);
        } else {
            self.state = State::Colon;
        }
    }

    fn is_arguments(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
    }

    fn argument_character(&mut self, c: char, out: &mut CallOut<'_>) {
        self.nesting.take(c);
        out.arguments(c.encode_utf8(&mut [0; 4]));
        if self.nesting.is_outside() {
            self.state = State::Between;
        }
    }

    /// `None` when it is no call.
    fn end_value(&mut self, tools: &[Tool], out: &mut CallOut<'_>) -> Option<()> {
        let value: Json = serde_json::from_str(&self.value).ok()?;
        if self.key == "name" && !self.announced {
            let name = value.as_str()?;
            tools
                .iter()
                .any(|tool| tool.name == name)
                .then(|| self.name = Some(name.to_owned()))?;
        } else if self.is_arguments() && !self.announced {
            self.early = Some(match value {
                Json::Object(_) => self.value.trim_end().to_owned(),
                // Some models write the object as a text.
                Json::String(text) if is_object(&text) => text,
                Json::Null => "{}".to_owned(),
                _ => return None,
            });
        }
        if self.name.is_some() && self.early.is_some() {
            self.announce(out);
        }
        Some(())
    }

    fn end(&mut self, out: &mut CallOut<'_>) -> Step {
        if self.name.is_none() {
            return Step::Broken;
        }
        if !self.announced {
            self.early.get_or_insert_with(|| "{}".to_owned());
            self.announce(out);
        }
        Step::Done
    }

    fn announce(&mut self, out: &mut CallOut<'_>) {
        self.announced = true;
        out.announce(self.name.as_deref().expect("calls are announced by their name"));
        if let Some(early) = self.early.take() {
            out.arguments(&early);
        }
    }
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<Json>(text).is_ok_and(|json| json.is_object())
}
