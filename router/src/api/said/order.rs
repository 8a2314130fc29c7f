//! Puts what a reply says in an order in which one thing ends before the next begins.
//!
//! Servers mix the pieces of several calls, and some number all calls alike. The dialects have no words
//! for that: so while a call is open, all else waits until its arguments are whole, or the reply ends.
//!
//! Invariants: a call is said once, with its name and an id; its arguments follow at once.

use std::collections::{BTreeMap, VecDeque};

use super::Said;

/// What waits for a call to end, and the calls so far.
#[derive(Default)]
pub(super) struct Order {
    calls: Vec<Call>,
    /// The call that an index stands for now.
    by_index: BTreeMap<u64, usize>,
    open: Option<usize>,
    waiting: VecDeque<Next>,
    held_bytes: usize,
}

enum Next {
    Call(usize),
    Other(Said),
}

/// A call, or a piece of it.
#[derive(Default)]
pub(super) struct Piece {
    pub(super) index: u64,
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) arguments: String,
}

#[derive(Default)]
struct Call {
    id: String,
    /// Its id if the server gives it none.
    made_id: String,
    name: String,
    /// Arguments that wait to be said.
    unsaid: String,
    extent: Extent,
    is_begun: bool,
}

impl Order {
    pub(super) fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// About how much waits.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Says something that is no call, in its turn.
    pub(super) fn push(&mut self, said: Said, out: &mut Vec<Said>) {
        if let Said::Text(text) | Said::Thought(text) | Said::Refusal(text) = &said {
            self.held_bytes += text.len();
        }
        self.waiting.push_back(Next::Other(said));
        self.advance(out);
    }

    /// Says a call or a piece of one, in its turn.
    pub(super) fn call(&mut self, piece: Piece, reply_id: &str, out: &mut Vec<Said>) {
        self.held_bytes += piece.arguments.len();
        let at = match self.by_index.get(&piece.index) {
            Some(&at) if !self.calls[at].is_over_at(&piece) => at,
            _ => self.begin(piece.index, reply_id),
        };
        self.calls[at].add(piece);
        self.advance(out);
    }

    fn begin(&mut self, index: u64, reply_id: &str) -> usize {
        let at = self.calls.len();
        self.calls.push(Call { made_id: format!("call_{reply_id}_{at}"), ..Call::default() });
        self.by_index.insert(index, at);
        self.waiting.push_back(Next::Call(at));
        at
    }

    /// Says what can be said by now.
    fn advance(&mut self, out: &mut Vec<Said>) {
        while self.open_is_whole(out) && self.next(out) {}
        let is_said = self.open.is_none_or(|open| self.calls[open].is_begun);
        if is_said && self.waiting.is_empty() {
            self.held_bytes = 0;
        }
    }

    /// Says what has come of the open call; `true` if that is all of it, or none is open.
    fn open_is_whole(&mut self, out: &mut Vec<Said>) -> bool {
        let Some(open) = self.open else { return true };
        let call = &mut self.calls[open];
        // Without a name, nothing can be said of it.
        if !call.name.is_empty() {
            call.say(out);
        }
        call.is_begun && call.extent.is_whole
    }

    /// Says all that waits: the reply ends.
    pub(super) fn finish(&mut self, out: &mut Vec<Said>) {
        loop {
            if let Some(open) = self.open.take() {
                self.calls[open].end(out);
            }
            if !self.next(out) {
                return;
            }
        }
    }

    /// Goes on behind the open call; `false` if nothing waits there.
    fn next(&mut self, out: &mut Vec<Said>) -> bool {
        match self.waiting.pop_front() {
            None => return false,
            Some(Next::Call(next)) => self.open = Some(next),
            Some(Next::Other(said)) => {
                self.open = None;
                out.push(said);
            }
        }
        true
    }
}

impl Call {
    /// Whether a piece with this call's index belongs to another one.
    fn is_over_at(&self, piece: &Piece) -> bool {
        match &piece.id {
            Some(id) => !self.id.is_empty() && *id != self.id,
            // Without ids, a name with arguments behind whole ones is another call, or both are lost.
            None => {
                let has_both = piece.name.is_some() && !piece.arguments.is_empty();
                self.id.is_empty() && self.extent.is_whole && has_both
            }
        }
    }

    fn add(&mut self, piece: Piece) {
        let fill = |known: &mut String, piece: Option<String>| {
            if let (true, Some(text)) = (known.is_empty(), piece) {
                *known = text;
            }
        };
        fill(&mut self.id, piece.id);
        fill(&mut self.name, piece.name);
        self.extent.add(&piece.arguments);
        self.unsaid.push_str(&piece.arguments);
    }

    /// Says what has come.
    fn say(&mut self, out: &mut Vec<Said>) {
        if !std::mem::replace(&mut self.is_begun, true) {
            let id = if self.id.is_empty() { &self.made_id } else { &self.id };
            out.push(Said::Call { id: id.clone(), name: self.name.clone() });
        }
        if !self.unsaid.is_empty() {
            out.push(Said::Arguments(std::mem::take(&mut self.unsaid)));
        }
    }

    /// Says the rest. Arguments are JSON: where there are none, they are an empty object.
    fn end(&mut self, out: &mut Vec<Said>) {
        if self.extent.is_empty {
            self.unsaid = "{}".to_owned();
        }
        self.say(out);
    }
}

/// How much of a JSON object has come.
struct Extent {
    is_empty: bool,
    is_whole: bool,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Default for Extent {
    fn default() -> Extent {
        Extent { is_empty: true, is_whole: false, depth: 0, in_string: false, is_escaped: false }
    }
}

impl Extent {
    fn add(&mut self, piece: &str) {
        self.is_empty &= piece.is_empty();
        for byte in piece.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_whole |= self.depth == 0;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What pieces of (index, id, name, arguments) say; a name of `-` is a text between them.
    fn check(pieces: &[(u64, &str, &str, &str)], expected: &[&str]) {
        let (mut order, mut out) = (Order::default(), Vec::new());
        let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        for &(index, id, name, arguments) in pieces {
            if name == "-" {
                order.push(Said::Text(arguments.to_owned()), &mut out);
                continue;
            }
            let (id, name, arguments) = (filled(id), filled(name), arguments.to_owned());
            order.call(Piece { index, id, name, arguments }, "r", &mut out);
        }
        order.finish(&mut out);
        let mut told: Vec<String> = Vec::new();
        for said in out {
            match said {
                Said::Call { id, name } => told.push(format!("{id} {name} ")),
                Said::Arguments(piece) => told.last_mut().unwrap().push_str(&piece),
                Said::Text(text) => told.push(text),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, expected, "{pieces:?}");
    }

    #[test]
    fn each_call_is_told_once_and_whole() {
        let two = ["c1 f {\"a\":1}", "c2 g {\"b\":2}"];
        for pieces in [
            // As OpenAI sends them.
            vec![
                (0, "c1", "f", ""),
                (0, "", "", "{\"a\""),
                (0, "", "", ":1}"),
                (1, "c2", "g", ""),
                (1, "", "", "{\"b\":2}"),
            ],
            // All of one index.
            vec![(0, "c1", "f", "{\"a\":1}"), (0, "c2", "g", "{\"b\":2}")],
            vec![(0, "c1", "f", "{\"a\""), (0, "", "", ":1}"), (0, "c2", "g", "{\"b\":2}")],
            // In turns.
            vec![
                (0, "c1", "f", ""),
                (1, "c2", "g", ""),
                (0, "", "", "{\"a\":1}"),
                (1, "", "", "{\"b\":2}"),
            ],
            vec![
                (0, "c1", "f", "{\"a\""),
                (1, "c2", "g", "{\"b\""),
                (0, "", "", ":1}"),
                (1, "", "", ":2}"),
            ],
            // Id and name with every piece, or the name late.
            vec![
                (0, "c1", "f", "{\"a\""),
                (0, "c1", "f", ":1}"),
                (1, "c2", "", "{\"b\""),
                (1, "c2", "g", ":2}"),
            ],
        ] {
            check(&pieces, &two);
        }
    }

    #[test]
    fn what_is_said_in_the_middle_of_a_call_comes_behind_it() {
        let call = "c f {\"a\":\"\\\"}\"}";
        check(
            &[(0, "c", "f", "{\"a\":\"\\\"}"), (0, "", "-", "text"), (0, "", "", "\"}")],
            &[call, "text"],
        );
        check(&[(0, "c", "f", "{}"), (0, "", "-", "text")], &["c f {}", "text"]);
        check(&[(0, "c", "f", "{"), (0, "", "-", "text")], &["c f {", "text"]);
    }

    #[test]
    fn a_call_without_an_id_gets_one_and_one_without_arguments_an_empty_object() {
        check(&[(0, "", "f", "")], &["call_r_0 f {}"]);
        check(
            &[(0, "", "f", "{\"a\":1}"), (0, "", "g", "{}")],
            &["call_r_0 f {\"a\":1}", "call_r_1 g {}"],
        );
    }

    #[test]
    fn a_call_that_is_whole_does_not_wait_for_the_end() {
        let (mut order, mut out) = (Order::default(), Vec::new());
        let piece = |id: &str, arguments: &str| Piece {
            id: Some(id.to_owned()),
            name: Some("f".to_owned()),
            arguments: arguments.to_owned(),
            ..Piece::default()
        };
        order.call(piece("c1", "{\"a\""), "r", &mut out);
        assert_eq!(out.len(), 2);
        order.call(Piece { arguments: ":1}".to_owned(), ..Piece::default() }, "r", &mut out);
        order.call(piece("c2", "{"), "r", &mut out);
        assert_eq!(out.len(), 5);
        assert_eq!(order.held_bytes(), 0);
        order.push(Said::Text("text".to_owned()), &mut out);
        assert_eq!((out.len(), order.held_bytes()), (5, 4));
    }
}
