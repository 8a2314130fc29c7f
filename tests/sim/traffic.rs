//! What the simulated clients ask, in every dialect, and which of it must never leave.

use std::time::Duration;

use serde_json::{Value, json};

use super::Dice;
use crate::gateway::CARD;

/// Conversations that go on through a run.
const SESSIONS: usize = 24;

/// One request.
pub(crate) struct Call {
    pub(crate) path: &'static str,
    pub(crate) body: Value,
    pub(crate) patience: Patience,
    /// Its text never goes to a cloud.
    pub(crate) private: bool,
    tags: &'static str,
    latency: &'static str,
    session: Option<usize>,
    session_name: String,
}

/// How long a client waits for its reply.
pub(crate) enum Patience {
    Waits,
    Leaves(Duration),
}

/// All traffic of a run.
pub(crate) struct Traffic {
    seed: u64,
    next: u64,
    /// Conversations that are known to have held private text.
    tainted: [bool; SESSIONS],
    /// The session of the next request that has one: no two of a batch share one.
    turn: usize,
    /// The policy in force keeps what is tagged `guarded`.
    pub(crate) guarded: bool,
}

impl Traffic {
    pub(crate) fn new(seed: u64) -> Traffic {
        Traffic { seed, next: 0, tainted: [false; SESSIONS], turn: 0, guarded: false }
    }

    /// What stands in every private text of this run, and nowhere else.
    pub(crate) fn canary(&self) -> String {
        format!("canary{}x", self.seed)
    }

    pub(crate) fn next(&mut self, dice: &mut Dice) -> Call {
        self.next += 1;
        let patience = match dice.roll(8) {
            0 => Patience::Leaves(Duration::from_millis(dice.roll(60))),
            _ => Patience::Waits,
        };
        let stays = matches!(patience, Patience::Waits);
        let session = (stays && dice.one_in(3)).then(|| {
            self.turn = (self.turn + 1) % SESSIONS;
            self.turn
        });
        let tags = if dice.one_in(6) { "guarded" } else { "" };
        let model = *dice.pick(&["auto", "auto", "fast", "best", "private", "llm-9"]);
        let kept = model == "private"
            || (tags == "guarded" && self.guarded)
            || session.is_some_and(|session| self.tainted[session]);
        let says_card = dice.one_in(4);
        let private = kept || says_card;
        let marker = match private {
            true => format!("{}{}", self.canary(), self.next),
            false => format!("plain{}", self.next),
        };
        let text = match says_card {
            true => format!("{marker}: refund the card {CARD}"),
            false => format!("{marker}: name a river"),
        };
        let (path, body) = self.body(model, &text, dice);
        let latency = *dice.pick(&["", "interactive", "relaxed", "batch"]);
        let session_name = session.map(|session| format!("talk-{session}")).unwrap_or_default();
        Call { path, body, patience, private, tags, latency, session, session_name }
    }

    fn body(&self, model: &str, text: &str, dice: &mut Dice) -> (&'static str, Value) {
        let (stream, tokens) = (dice.one_in(2), 1 + dice.roll(3));
        let messages = json!([{"role": "user", "content": text}]);
        let mut body = json!({"model": model, "stream": stream, "max_tokens": tokens});
        let path = match dice.roll(6) {
            0 => {
                body["messages"] = messages;
                "/v1/messages"
            }
            1 => {
                body = json!({"model": model, "stream": stream, "input": text});
                body["max_output_tokens"] = json!(tokens);
                "/v1/responses"
            }
            2 => {
                body["prompt"] = json!(text);
                "/v1/completions"
            }
            3 => {
                body = json!({"model": model, "input": [text]});
                "/v1/embeddings"
            }
            _ => {
                body["messages"] = messages;
                if dice.one_in(5) {
                    let function = json!({"name": "f", "parameters": {"type": "object"}});
                    body["tools"] = json!([{"type": "function", "function": function}]);
                }
                if dice.one_in(5) {
                    body["a_field_of_tomorrow"] = json!(text);
                }
                "/v1/chat/completions"
            }
        };
        (path, body)
    }

    /// A conversation is known to be tainted once a private turn of it was answered.
    pub(crate) fn learn(&mut self, call: &Call, answered: bool) {
        let says_card = call.body.to_string().contains(CARD);
        let by_rule = says_card || (call.tags == "guarded" && self.guarded);
        if let Some(session) = call.session.filter(|_| answered && by_rule) {
            self.tainted[session] = true;
        }
    }
}

impl Call {
    pub(crate) fn headers(&self) -> Vec<(&str, &str)> {
        let all = [
            ("content-type", "application/json"),
            ("x-sluice-tags", self.tags),
            ("x-sluice-latency", self.latency),
            ("x-sluice-session", self.session_name.as_str()),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}
