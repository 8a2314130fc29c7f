//! What upstreams can do, what a request needs, and what is missing between the two.
//!
//! A server's capabilities are what the platform declares of it; what nobody denies it is taken to have,
//! since a server says no itself. The edge's come from its model. Who lacks something is not asked: the
//! decision gets the missing words as a fact and leaves it out, inside what policy allows and never beyond.
//!
//! Two needs are estimates, and err on the side of asking: the length of the prompt is counted from below
//! (the upstream counts exactly, and says so), and a language counts only where it is plain to see.
//! Not here: fields that a protocol has no words for (each translation refuses them by name).

mod language;

use serde::Deserialize;
use serde_json::{Map, Value};
use sluice_policies::{Capability, ContentKind, Endpoint, Prompt, Quality, RequestFacts, Role};

/// No tokenizer of today makes fewer tokens of a text: of six ASCII letters, and of two other letters.
const ASCII_BYTES_A_TOKEN_MAX: u64 = 6;
const OTHER_CHARS_A_TOKEN_MAX: u64 = 2;

/// `capabilities`: what one upstream can do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// Longest prompt plus reply, tokens. Default: unknown, and then nothing is too long.
    pub context_tokens: Option<u64>,
    /// It calls tools. Default `true`.
    pub tools: bool,
    /// It sees pictures. Default `true`.
    pub vision: bool,
    /// It keeps a reply to a schema. Default `true`.
    pub structured_output: bool,
    /// It makes vectors of texts. Default `true`.
    pub embeddings: bool,
    /// Languages that it reads and writes, as ISO 639-1 codes. Default: all.
    pub languages: Vec<String>,
    /// How good its replies are, for the model `best`. A vouch of compliance goes before. Default: unknown.
    pub quality: Option<Quality>,
}

impl Default for Capabilities {
    fn default() -> Self {
        Capabilities {
            context_tokens: None,
            tools: true,
            vision: true,
            structured_output: true,
            embeddings: true,
            languages: Vec::new(),
            quality: None,
        }
    }
}

impl Capabilities {
    /// What both can do: a config may say less of an upstream than is built into it, never more.
    pub fn within(&self, built_in: &Capabilities) -> Capabilities {
        let shorter = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Capabilities {
            context_tokens: shorter(self.context_tokens, built_in.context_tokens),
            tools: self.tools && built_in.tools,
            vision: self.vision && built_in.vision,
            structured_output: self.structured_output && built_in.structured_output,
            embeddings: self.embeddings && built_in.embeddings,
            languages: match self.languages.is_empty() {
                true => built_in.languages.clone(),
                false => self.languages.clone(),
            },
            quality: self.quality.or(built_in.quality),
        }
    }

    /// The engine in this process: text in, text out, every form kept by construction.
    pub fn of_engine(context_tokens: Option<u64>, tools: bool) -> Capabilities {
        let text = Capabilities { vision: false, embeddings: false, ..Capabilities::default() };
        Capabilities { context_tokens, tools, ..text }
    }
}

/// Needs that cost a reading of the text, so that they are looked for only where an upstream may lack them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    length: bool,
    languages: bool,
    /// How hard the work is.
    pub work: bool,
}

impl Look {
    /// Everything, for whoever does not know the upstreams yet.
    pub const ALL: Look = Look { length: true, languages: true, work: true };

    /// What decides between upstreams of these capabilities; the work is policy's to ask about.
    pub fn for_upstreams<'c>(all: impl Iterator<Item = &'c Capabilities>) -> Look {
        let none = Look { length: false, languages: false, work: false };
        all.fold(none, |look, can| Look {
            length: look.length || can.context_tokens.is_some(),
            languages: look.languages || !can.languages.is_empty(),
            work: look.work,
        })
    }
}

/// What a request needs, and what it says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Its wish and its look, for the decision.
    pub said: RequestFacts,
    prompt_tokens_min: u64,
    tools: bool,
    structured_output: bool,
    embeddings: bool,
    /// Where the first picture stands.
    picture: Option<String>,
    /// Codes of the language that it is written in, if that is plain; some scripts serve several.
    languages: &'static [&'static str],
}

impl Needs {
    /// Reads the needs of a body in the internal form, and of the prompt that was made of it. What is not
    /// looked for counts as not needed.
    pub fn of(
        fields: &Map<String, Value>,
        prompt: &Prompt,
        endpoint: Endpoint,
        look: Look,
    ) -> Needs {
        let filled =
            |name| fields.get(name).and_then(Value::as_array).is_some_and(|l| !l.is_empty());
        let format = fields.get("response_format").and_then(|format| format["type"].as_str());
        let pictures = prompt.unscanned.iter().find(|it| it.kind == ContentKind::Image);
        let asked = prompt.texts.iter().filter(|text| text.role == Role::User);
        Needs {
            said: match look.work {
                true => RequestFacts::of(prompt),
                false => RequestFacts::unread(prompt),
            },
            prompt_tokens_min: match look.length {
                true => prompt.texts.iter().map(|text| tokens_min(&text.text)).sum(),
                false => 0,
            },
            tools: filled("tools") || filled("functions"),
            structured_output: matches!(format, Some("json_object" | "json_schema")),
            embeddings: endpoint == Endpoint::Embeddings,
            picture: pictures.map(|picture| picture.place.clone()),
            languages: match look.languages {
                true => language::of(asked.map(|text| text.text.as_str())),
                false => &[],
            },
        }
    }

    /// What an upstream of these capabilities lacks.
    pub fn lacking(&self, can: &Capabilities) -> Vec<Capability> {
        let too_long = can.context_tokens.is_some_and(|most| self.prompt_tokens_min > most);
        let speaks = can.languages.is_empty()
            || self.languages.is_empty()
            || can.languages.iter().any(|code| self.languages.contains(&code.as_str()));
        let all = [
            (Capability::ContextTokens, too_long),
            (Capability::Tools, self.tools && !can.tools),
            (Capability::Vision, self.picture.is_some() && !can.vision),
            (Capability::StructuredOutput, self.structured_output && !can.structured_output),
            (Capability::Languages, !speaks),
            (Capability::Embeddings, self.embeddings && !can.embeddings),
        ];
        all.into_iter().filter(|(_, is_missing)| *is_missing).map(|(what, _)| what).collect()
    }

    /// The field of the internal form that asks for something.
    pub fn field(&self, what: Capability) -> &str {
        match what {
            Capability::Vision => self.picture.as_deref().unwrap_or("messages"),
            Capability::ContextTokens | Capability::Languages if self.embeddings => "input",
            Capability::ContextTokens | Capability::Languages => "messages",
            Capability::Tools => "tools",
            Capability::StructuredOutput => "response_format",
            Capability::Embeddings => "input",
        }
    }
}

/// Tokens that a text has at least.
fn tokens_min(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count() as u64;
    let other = if ascii == text.len() as u64 { 0 } else { text.chars().count() as u64 - ascii };
    ascii / ASCII_BYTES_A_TOKEN_MAX + other / OTHER_CHARS_A_TOKEN_MAX
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::chat::prompt_from_json;

    fn needs(body: Value, look: Look) -> Needs {
        let prompt = prompt_from_json(&body).unwrap();
        Needs::of(body.as_object().unwrap(), &prompt, Endpoint::Chat, look)
    }

    fn can(change: impl FnOnce(&mut Capabilities)) -> Capabilities {
        let mut can = Capabilities::default();
        change(&mut can);
        can
    }

    #[test]
    fn what_is_needed_and_denied_is_lacking() {
        use Capability::{ContextTokens, Languages, StructuredOutput, Tools, Vision};
        let say = |text: &str| json!({"messages": [{"role": "user", "content": text}]});
        let with = |name: &str, value: Value| {
            let mut body = say("Hello");
            body[name] = value;
            body
        };
        let picture = json!({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]});
        let tools = with("tools", json!([{"type": "function", "function": {"name": "f"}}]));
        let schema = with("response_format", json!({"type": "json_schema", "json_schema": {}}));
        let german =
            say("Was ist das und wie kann ich es mit der Hand machen, wenn es nicht geht?");
        for (body, can, lacking) in [
            (say("Hello"), can(|c| (c.tools, c.vision) = (false, false)), vec![]),
            (tools.clone(), can(|c| c.tools = false), vec![Tools]),
            (tools, can(|_| ()), vec![]),
            (with("tools", json!([])), can(|c| c.tools = false), vec![]),
            (picture, can(|c| c.vision = false), vec![Vision]),
            (schema.clone(), can(|c| c.structured_output = false), vec![StructuredOutput]),
            (
                with("response_format", json!({"type": "text"})),
                can(|c| c.structured_output = false),
                vec![],
            ),
            (say(&"long ".repeat(999)), can(|c| c.context_tokens = Some(500)), vec![ContextTokens]),
            (say(&"short ".repeat(99)), can(|c| c.context_tokens = Some(500)), vec![]),
            (german.clone(), can(|c| c.languages = vec!["en".into()]), vec![Languages]),
            (german, can(|c| c.languages = vec!["en".into(), "de".into()]), vec![]),
            (say("1 + 1"), can(|c| c.languages = vec!["en".into()]), vec![]),
        ] {
            assert_eq!(needs(body.clone(), Look::ALL).lacking(&can), lacking, "{body}");
            // Looked for only as far as these capabilities ask, the answer is the same.
            let look = Look::for_upstreams([&Capabilities::default(), &can].into_iter());
            assert_eq!(needs(body.clone(), look).lacking(&can), lacking, "{body}");
        }
    }

    #[test]
    fn a_text_is_read_only_for_what_an_upstream_may_lack() {
        let look = |can: &[Capabilities]| Look::for_upstreams(can.iter());
        let short = can(|c| c.context_tokens = Some(500));
        let english = can(|c| c.languages = vec!["en".into()]);
        for (upstreams, length, languages) in [
            (vec![], false, false),
            (vec![Capabilities::default()], false, false),
            (vec![Capabilities::default(), short.clone()], true, false),
            (vec![english.clone(), Capabilities::default()], false, true),
            (vec![english, short], true, true),
        ] {
            let expected = Look { length, languages, work: false };
            assert_eq!(look(&upstreams), expected, "{upstreams:?}");
        }
    }

    #[test]
    fn how_hard_a_request_looks_is_found_out_only_where_somebody_asks() {
        let body = json!({"messages": [{"role": "user", "content": "Prove the theorem"}]});
        let unasked = Look { work: false, ..Look::ALL };
        assert!(needs(body.clone(), Look::ALL).said.complexity.is_some());
        assert_eq!(needs(body, unasked).said.complexity, None);
    }

    #[test]
    fn a_config_narrows_what_is_built_in_and_never_widens_it() {
        let engine = Capabilities::of_engine(Some(4096), true);
        let said = can(|c| {
            (c.vision, c.tools) = (true, false);
            c.context_tokens = Some(9999);
            c.languages = vec!["en".into()];
        });
        let both = said.within(&engine);
        assert_eq!((both.vision, both.tools, both.context_tokens), (false, false, Some(4096)));
        assert_eq!(both.languages, ["en"]);
        assert_eq!(Capabilities::default().within(&engine), engine);
    }

    #[test]
    fn tokens_are_counted_from_below() {
        for (text, tokens) in [("", 0), ("abcdef", 1), ("日本語で", 2), ("abcdefüü", 2)] {
            assert_eq!(tokens_min(text), tokens, "{text}");
        }
    }
}
