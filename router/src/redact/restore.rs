//! Values back in place of placeholders: in a whole reply, or in the events of a stream.
//!
//! The end of a text is held while it may be the beginning of a placeholder: at most a placeholder's
//! length, and only once a `[` has been said. Arguments of a tool call get the values only if the site
//! names the tool, written as JSON text; all other tools see the placeholders.

use bytes::Bytes;
use serde_json::Value;

use super::{Redaction, Tools};
use crate::reply_edit::{Edited, EventEditor, TextEdit, edit_whole};
use crate::reply_scan::Channel;

/// Restores the texts of a whole chat completion; bytes that hold no placeholder stay as they are.
pub(crate) fn restore_whole(redaction: &Redaction, tools: &Tools, bytes: Bytes) -> Bytes {
    edit_whole(Restore { redaction: redaction.clone(), tools: tools.clone() }, bytes).0
}

/// Restores the events of a streamed chat completion.
pub(crate) type EventRestorer = EventEditor<Restore>;

/// A restorer of the values that a redaction took out.
pub(crate) fn restorer(redaction: Redaction, tools: Tools) -> EventRestorer {
    EventEditor::new(Restore { redaction, tools })
}

/// Puts values back.
pub(crate) struct Restore {
    redaction: Redaction,
    tools: Tools,
}

impl TextEdit for Restore {
    fn edit(&mut self, channel: Channel, tool: Option<&str>, text: &str, ends: bool) -> Edited {
        let is_json = matches!(channel, Channel::Arguments(..));
        if is_json && !tool.is_some_and(|name| self.tools.contains(name)) {
            return Edited { out: text.to_owned(), held: String::new() };
        }
        let (mut out, rest) = self.restored(text, is_json);
        if ends {
            out.push_str(rest);
        }
        Edited { out, held: if ends { String::new() } else { rest.to_owned() } }
    }

    fn passes(&self, text: &str) -> bool {
        !text.contains('[')
    }

    fn hides(&self) -> bool {
        false
    }
}

impl Restore {
    /// The text with its values, and its end that may begin a placeholder.
    fn restored<'t>(&self, text: &'t str, is_json: bool) -> (String, &'t str) {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('[') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let end = rest.find(']').map(|end| end + 1);
            if let Some(value) = end.and_then(|end| self.redaction.values.get(&rest[..end])) {
                out.push_str(&if is_json { json_text(value) } else { value.clone() });
                rest = &rest[end.unwrap_or_default()..];
            } else if end.is_none() && self.redaction.begins(rest) {
                return (out, rest);
            } else {
                out.push('[');
                rest = &rest[1..];
            }
        }
        out.push_str(rest);
        (out, "")
    }
}

impl Redaction {
    /// Whether some placeholder begins so.
    fn begins(&self, text: &str) -> bool {
        let next = self.values.range(text.to_owned()..).next();
        next.is_some_and(|(placeholder, _)| placeholder.starts_with(text))
    }
}

/// A value as it stands inside a JSON string.
fn json_text(value: &str) -> String {
    let quoted = Value::String(value.to_owned()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
