//! Takes a reply apart as it comes: thoughts, text, tool calls.
//!
//! Tokens go through three stages. Bytes become characters (`reply_text`); marks and what stands
//! between them decide where characters belong; what is text goes through the stop texts. Nothing is
//! held longer than it is uncertain, so calls and thoughts stream like text does.
//!
//! Invariants: text that only looks like markup stays text, to the letter: what begins like a call and
//! names no known tool is given back; a call is announced once, by its name, before its arguments;
//! thoughts come before what is said. Not here: what marks a model has (`markup`), which tokens may
//! come (`grammar`).

use std::sync::Arc;

use super::json_call::JsonCall;
use super::markup::{Marker, Markup};
use super::xml_call::XmlCall;
use crate::engine::{CallDelta, Delta, Tool};
use crate::error::EngineError;
pub(crate) use crate::reply_text::Flow;
use crate::reply_text::{Characters, Stops, overlap_bytes};

/// Where in a reply one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The model thinks.
    Thoughts,
    /// It speaks.
    Content,
    /// It calls a tool.
    Call,
}

/// What one more character makes of a call.
pub(super) enum Step {
    More,
    Done,
    /// It is no call, or no call any more.
    Broken,
}

/// Where the pieces of a call go.
pub(super) struct CallOut<'a> {
    index: usize,
    calls: &'a mut Vec<CallDelta>,
}

impl CallOut<'_> {
    pub(super) fn announce(&mut self, name: &str) {
        let (index, name) = (self.index, Some(name.to_owned()));
        self.calls.push(CallDelta { index, name, arguments: String::new() });
    }

    pub(super) fn arguments(&mut self, json: &str) {
        match self.calls.last_mut() {
            Some(last) if last.index == self.index => last.arguments.push_str(json),
            _ => {
                let arguments = json.to_owned();
                self.calls.push(CallDelta { index: self.index, name: None, arguments });
            }
        }
    }
}

/// A call in one of its forms, which its first character tells apart.
#[derive(Default)]
struct CallReader {
    /// All of it, until it is announced.
    raw: String,
    form: Form,
}

#[derive(Default)]
enum Form {
    #[default]
    Unknown,
    Json(JsonCall),
    Xml(XmlCall),
}

impl CallReader {
    fn announced(&self) -> bool {
        match &self.form {
            Form::Unknown => false,
            Form::Json(call) => call.announced(),
            Form::Xml(call) => call.announced(),
        }
    }

    fn take(&mut self, c: char, tools: &[Tool], out: &mut CallOut<'_>) -> Step {
        if !self.announced() {
            self.raw.push(c);
        }
        if matches!(self.form, Form::Unknown) {
            match c {
                '{' => self.form = Form::Json(JsonCall::default()),
                '<' => self.form = Form::Xml(XmlCall::default()),
                c if c.is_ascii_whitespace() => return Step::More,
                _ => return Step::Broken,
            }
        }
        match &mut self.form {
            Form::Json(call) => call.take(c, tools, out),
            Form::Xml(call) => call.take(c, tools, out),
            Form::Unknown => unreachable!("the first character decided"),
        }
    }

    /// Completes what can be completed of an announced call that is cut off.
    fn close(&mut self, out: &mut CallOut<'_>) {
        if let Form::Xml(call) = &mut self.form {
            call.close(out);
        }
    }
}

/// Reads one reply.
pub(crate) struct ReplyReader {
    characters: Characters,
    stops: Stops,
    /// Marks that are text in this model.
    texts: Vec<Marker>,
    /// What may be called; empty: nothing is a call.
    tools: Arc<[Tool]>,
    one_call: bool,
    phase: Phase,
    call: CallReader,
    /// Calls that were announced.
    calls: usize,
    /// Letters that may begin a mark.
    pending: String,
    /// Blanks that go if a mark follows.
    blanks: String,
    /// Blanks at the beginning do not count.
    trims: bool,
    /// Something was said or thought.
    begun: bool,
}

impl ReplyReader {
    /// A reply of plain text. Errors when a stop text is unusable.
    pub(crate) fn new(stops: Vec<String>) -> Result<ReplyReader, EngineError> {
        Ok(ReplyReader {
            characters: Characters::default(),
            stops: Stops::new(stops)?,
            texts: Vec::new(),
            tools: Arc::new([]),
            one_call: false,
            phase: Phase::Content,
            call: CallReader::default(),
            calls: 0,
            pending: String::new(),
            blanks: String::new(),
            trims: false,
            begun: false,
        })
    }

    /// A reply in a chat: with the model's marks, what it may call, and whether it begins in the
    /// middle of thoughts.
    pub(crate) fn in_chat(
        mut self,
        markup: &Markup,
        tools: Arc<[Tool]>,
        one_call: bool,
        thinks: bool,
    ) -> ReplyReader {
        self.texts = markup.texts().to_vec();
        (self.tools, self.one_call) = (tools, one_call);
        if thinks {
            self.think();
        }
        self
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Calls that were announced.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// The stop text that ended the reply, if one did.
    pub(crate) fn stop(&self) -> Option<&str> {
        self.stops.found()
    }

    /// How much text the stop texts have let out, and how much they have seen.
    pub(crate) fn content_bytes(&self) -> (usize, usize) {
        self.stops.bytes()
    }

    /// Takes a token: its bytes, and its mark if it is one. Appends to `out` what is certain by now.
    pub(crate) fn push(&mut self, bytes: &[u8], mark: Option<Marker>, out: &mut Delta) -> Flow {
        let mut text = String::new();
        let Some(mark) = mark else {
            self.characters.push(bytes, &mut text);
            return self.text(text, out);
        };
        self.characters.finish(&mut text);
        match self.text(text, out) {
            Flow::Continue => self.mark(mark, &String::from_utf8_lossy(bytes), out),
            Flow::Stop => Flow::Stop,
        }
    }

    /// Lets out what was held, at the end of a reply.
    pub(crate) fn finish(&mut self, out: &mut Delta) -> Flow {
        let mut text = String::new();
        self.characters.finish(&mut text);
        let mut flow = self.text(text, out);
        let pending = std::mem::take(&mut self.pending);
        if flow == Flow::Continue {
            flow = self.say(&pending, out);
        }
        if flow == Flow::Continue && self.phase == Phase::Call {
            flow = self.cut_call(out);
        }
        if flow == Flow::Continue && self.phase == Phase::Content && self.calls == 0 {
            let blanks = std::mem::take(&mut self.blanks);
            flow = self.stops.push(&blanks, &mut out.content);
        }
        if flow == Flow::Continue { self.stops.finish(&mut out.content) } else { flow }
    }

    fn text(&mut self, mut rest: String, out: &mut Delta) -> Flow {
        while !rest.is_empty() {
            let flow;
            (rest, flow) = match self.phase {
                Phase::Call => self.call_text(&rest, out),
                _ if self.texts.is_empty() => (String::new(), self.say(&rest, out)),
                _ => self.marked_text(&rest, out),
            };
            if flow == Flow::Stop {
                return Flow::Stop;
            }
        }
        Flow::Continue
    }

    /// Text in which marks are text too; what is left of it after a mark.
    fn marked_text(&mut self, text: &str, out: &mut Delta) -> (String, Flow) {
        let text = std::mem::take(&mut self.pending) + text;
        let places = self.texts.iter().filter_map(|mark| Some((text.find(mark.text())?, *mark)));
        if let Some((at, mark)) = places.min_by_key(|(at, _)| *at) {
            let rest = text[at + mark.text().len()..].to_owned();
            return match self.say(&text[..at], out) {
                Flow::Continue => (rest, self.mark(mark, mark.text(), out)),
                Flow::Stop => (rest, Flow::Stop),
            };
        }
        let held = self.texts.iter().map(|mark| overlap_bytes(&text, mark.text())).max();
        let (certain, begun) = text.split_at(text.len() - held.unwrap_or(0));
        self.pending = begun.to_owned();
        (String::new(), self.say(certain, out))
    }

    /// Text inside a call; what is left of it after the call.
    fn call_text(&mut self, text: &str, out: &mut Delta) -> (String, Flow) {
        for (at, c) in text.char_indices() {
            let announced = self.call.announced();
            let mut pieces = CallOut { index: self.calls, calls: &mut out.calls };
            let rest = &text[at + c.len_utf8()..];
            match self.call.take(c, &self.tools, &mut pieces) {
                Step::More => {}
                Step::Broken if !announced => return self.no_call(rest, out),
                Step::Done => return (rest.to_owned(), self.end_call()),
                Step::Broken => {
                    self.call.close(&mut pieces);
                    return (rest.to_owned(), self.end_call());
                }
            }
        }
        (String::new(), Flow::Continue)
    }

    /// It only looked like a call: its mark is text, and what followed is read again.
    fn no_call(&mut self, rest: &str, out: &mut Delta) -> (String, Flow) {
        let CallReader { raw, .. } = std::mem::take(&mut self.call);
        self.phase = Phase::Content;
        (raw + rest, self.say(Marker::CallOpen.text(), out))
    }

    fn end_call(&mut self) -> Flow {
        self.call = CallReader::default();
        self.calls += 1;
        self.phase = Phase::Content;
        self.trims = true;
        if self.one_call { Flow::Stop } else { Flow::Continue }
    }

    /// The reply or the call ends before the call is complete.
    fn cut_call(&mut self, out: &mut Delta) -> Flow {
        if self.call.announced() {
            self.call.close(&mut CallOut { index: self.calls, calls: &mut out.calls });
            return self.end_call();
        }
        let (raw, flow) = self.no_call("", out);
        if flow == Flow::Continue { self.say(&raw, out) } else { flow }
    }

    fn mark(&mut self, mark: Marker, literal: &str, out: &mut Delta) -> Flow {
        match (mark, self.phase) {
            (Marker::ThinkOpen, Phase::Content) if !self.begun && self.calls == 0 => self.think(),
            (Marker::ThinkClose, Phase::Thoughts) => self.speak(),
            (Marker::CallOpen, Phase::Content | Phase::Thoughts) if !self.tools.is_empty() => {
                self.speak();
                self.phase = Phase::Call;
            }
            // The end of a call that its own text has ended already.
            (Marker::CallClose, Phase::Content) if self.calls > 0 && self.trims => {}
            (Marker::CallClose, Phase::Call) => {
                let called = self.call.announced();
                let flow = self.cut_call(out);
                return match (called, flow) {
                    (false, Flow::Continue) => self.say(mark.text(), out),
                    _ => flow,
                };
            }
            (_, Phase::Call) => return self.text(mark.text().to_owned(), out),
            _ => return self.say(literal, out),
        }
        Flow::Continue
    }

    fn think(&mut self) {
        self.phase = Phase::Thoughts;
        self.blanks.clear();
        self.trims = true;
    }

    fn speak(&mut self) {
        self.phase = Phase::Content;
        self.blanks.clear();
        self.trims = true;
    }

    /// Text of the phase. Blanks wait where a mark may swallow them.
    fn say(&mut self, text: &str, out: &mut Delta) -> Flow {
        let text = if self.trims { text.trim_start() } else { text };
        if text.is_empty() {
            return Flow::Continue;
        }
        self.trims = false;
        let holds = self.phase == Phase::Thoughts || !self.tools.is_empty();
        let (said, blanks) = text.split_at(if holds { text.trim_end().len() } else { text.len() });
        let said = match said.is_empty() {
            true => String::new(),
            false => std::mem::take(&mut self.blanks) + said,
        };
        self.blanks.push_str(blanks);
        self.begun |= !said.is_empty();
        match self.phase {
            Phase::Thoughts => {
                out.reasoning.push_str(&said);
                Flow::Continue
            }
            _ => self.stops.push(&said, &mut out.content),
        }
    }
}

#[cfg(test)]
mod tests;
