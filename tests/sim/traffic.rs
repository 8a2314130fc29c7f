//! What the simulated clients ask, in every dialect, and which of it must never leave.

use std::time::Duration;

use serde_json::{Value, json};

use super::Dice;
use crate::dialect::Dialect;
use crate::gateway::{CARD, Reply};

/// Conversations that each client goes on with through a run.
const SESSIONS: usize = 3;
/// Stands in every text of a run that may leave, and in nothing that a model says of itself.
pub(crate) const PLAIN: &str = "vurnik";
/// Whose address is told; her name, like it, goes to a cloud as a placeholder or not at all.
pub(crate) const PERSON: &str = "Annika Thorvald";

/// Chat twice: it is what most clients speak.
const DIALECTS: [Dialect; 6] = [
    Dialect::Chat,
    Dialect::Chat,
    Dialect::Completions,
    Dialect::Responses,
    Dialect::Messages,
    Dialect::Embeddings,
];

/// One request.
pub(crate) struct Call {
    pub(crate) dialect: Dialect,
    pub(crate) body: Value,
    pub(crate) patience: Patience,
    pub(crate) text: String,
    /// What names this request in its text, and nothing else does.
    pub(crate) marker: String,
    /// Its text never goes to a cloud.
    pub(crate) private: bool,
    /// Its text is of a kind that keeps the rest of its conversation private.
    taints: bool,
    tags: &'static str,
    latency: &'static str,
    key: Option<String>,
    session: Option<usize>,
    session_name: String,
}

/// How long a client waits for its reply.
pub(crate) enum Patience {
    Waits,
    Leaves(Duration),
}

/// One client, which asks one thing after another.
pub(crate) struct Client {
    number: usize,
    dice: Dice,
    asked: u64,
    /// What stands in every private text of this run, and nowhere else.
    canary: String,
    /// Shown with each request, if it has one.
    pub(crate) key: Option<String>,
    sessions: [Session; SESSIONS],
}

/// A conversation.
#[derive(Clone, Copy, Default)]
struct Session {
    number: u64,
    /// It is known to have held private text.
    tainted: bool,
}

pub(crate) fn canary(seed: u64) -> String {
    format!("canary{}", letters(seed, 4))
}

/// A number as the last letters of a word: digits in a name look like a password to some detectors.
/// So many of them that no number begins another.
fn letters(number: u64, count: u32) -> String {
    let letter = |place| char::from(b'a' + (number / 26_u64.pow(place) % 26) as u8);
    (0..count).rev().map(letter).collect()
}

impl Client {
    pub(crate) fn new(seed: u64, number: usize) -> Client {
        let mut dice = Dice(seed.wrapping_mul(1000) + number as u64);
        dice.roll(2);
        let (canary, sessions) = (canary(seed), [Session::default(); SESSIONS]);
        Client { number, dice, asked: 0, canary, key: None, sessions }
    }

    pub(crate) fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// The next request; `guards` says that the policies in force keep what is tagged `guarded`.
    pub(crate) fn next(&mut self, guards: bool) -> Call {
        self.asked += 1;
        let dice = &mut self.dice;
        let patience = match dice.roll(8) {
            0 => Patience::Leaves(Duration::from_millis(dice.roll(60))),
            _ => Patience::Waits,
        };
        let stays = matches!(patience, Patience::Waits);
        let session = (stays && dice.one_in(3)).then(|| dice.roll(SESSIONS as u64) as usize);
        let tags = if dice.one_in(8) { "guarded" } else { "" };
        let model = *dice.pick(&["auto", "auto", "auto", "fast", "best", "private", "llm-9"]);
        let kept = model == "private"
            || (tags == "guarded" && guards)
            || session.is_some_and(|session| self.sessions[session].tainted);
        let says = dice.roll(8);
        let taints = says == 0 || (tags == "guarded" && guards);
        let private = kept || taints;
        let number = letters(self.number as u64, 2) + &letters(self.asked, 4);
        let secret = format!("{}{number}", self.canary);
        let marker = if private { secret.clone() } else { format!("{PLAIN}{number}") };
        let text = match says {
            0 => format!("{marker}: refund {CARD}"),
            1 | 2 => format!(
                "Write to {PERSON}, annika.{secret}@northmill.se, about the harbour tour {marker}"
            ),
            _ => format!("{marker}: name a river"),
        };
        let (dialect, body) = body(model, &text, dice);
        let latency = *dice.pick(&["", "", "", "", "interactive", "relaxed", "batch"]);
        let name = |session: usize| {
            format!("talk-{}-{session}-{}", self.number, self.sessions[session].number)
        };
        let session_name = session.map(name).unwrap_or_default();
        let (marker, key) = (number, self.key.clone());
        Call {
            dialect,
            body,
            patience,
            text,
            marker,
            private,
            taints,
            tags,
            latency,
            key,
            session,
            session_name,
        }
    }

    /// A conversation is known to be tainted once a private turn of it was decided, or a reply gave away
    /// what is private. It goes on for a while.
    pub(crate) fn learn(&mut self, call: &Call, gave_away: bool) {
        let Some(session) = call.session else { return };
        let session = &mut self.sessions[session];
        session.tainted |= call.taints || gave_away;
        if session.tainted && self.dice.one_in(4) {
            *session = Session { number: session.number + 1, tainted: false };
        }
    }
}

fn body(model: &str, text: &str, dice: &mut Dice) -> (Dialect, Value) {
    let (dialect, stream, tokens) = (*dice.pick(&DIALECTS), dice.one_in(2), 1 + dice.roll(3));
    let mut body = json!({"model": model, "stream": stream, "max_tokens": tokens});
    match dialect {
        Dialect::Messages => body["messages"] = json!([{"role": "user", "content": text}]),
        Dialect::Responses => {
            body = json!({"model": model, "stream": stream, "max_output_tokens": tokens,
                          "input": text});
        }
        Dialect::Completions => body["prompt"] = json!(text),
        Dialect::Embeddings => body = json!({"model": model, "input": [text]}),
        Dialect::Chat => {
            body["messages"] = json!([{"role": "user", "content": text}]);
            if dice.one_in(5) {
                let function = json!({"name": "f", "parameters": {"type": "object"}});
                body["tools"] = json!([{"type": "function", "function": function}]);
            }
            if dice.one_in(5) {
                body["a_field_of_tomorrow"] = json!(text);
            }
        }
    }
    (dialect, body)
}

impl Call {
    pub(crate) fn headers(&self) -> Vec<(&str, &str)> {
        let all = [
            ("content-type", "application/json"),
            ("authorization", self.key.as_deref().unwrap_or_default()),
            ("x-sluice-tags", self.tags),
            ("x-sluice-latency", self.latency),
            ("x-sluice-session", self.session_name.as_str()),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.key.is_some()
    }
}

impl Dialect {
    /// What a reply says, streamed or not; nothing is said by embeddings.
    pub(crate) fn said(self, reply: &Reply) -> Option<String> {
        if reply.header("content-type").starts_with("application/json") {
            let json = reply.json();
            let content = match self {
                Dialect::Chat => &json["choices"][0]["message"]["content"],
                Dialect::Completions => &json["choices"][0]["text"],
                Dialect::Responses => &json["output"][0]["content"][0]["text"],
                Dialect::Messages => &json["content"][0]["text"],
                Dialect::Embeddings => return None,
            };
            return Some(content.as_str().unwrap_or_default().to_owned());
        }
        let text = reply.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        let piece = |event: Value| {
            let piece = match self {
                Dialect::Chat => &event["choices"][0]["delta"]["content"],
                Dialect::Completions => &event["choices"][0]["text"],
                Dialect::Responses if event["type"] == "response.output_text.delta" => {
                    &event["delta"]
                }
                Dialect::Messages => &event["delta"]["text"],
                _ => &Value::Null,
            };
            piece.as_str().map(str::to_owned)
        };
        Some(events.filter_map(piece).collect())
    }
}
