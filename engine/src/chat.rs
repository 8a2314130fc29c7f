//! Renders a conversation by the chat template that comes with the model.
//!
//! Templates are Jinja programs written for Python, and they come from strangers. So minijinja runs
//! them with the Python methods that they use (`python`), with bounded fuel and recursion, and without
//! files or environment: the same messages give the same prompt, on the same day where a template
//! writes the date.
//!
//! Invariants: roles come from a fixed list, and whatever callers write (texts, tools, names) is
//! shielded (`tokenizer::shield`), so it can neither write nor complete markup; errors never quote a
//! message. Inside: `json` (JSON as templates expect it), `markup` (what a model's marks are),
//! `reply` (the way back: thoughts, text and calls). Not here: tokens (`tokenizer`).

mod json;
mod json_call;
mod markup;
mod python;
mod reply;
mod xml_call;

use std::error::Error as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Value as Json, json};

use crate::engine::{ChatMessage, Conversation, Tool, ToolChoice};
use crate::error::EngineError;
use crate::tokenizer::{TokenId, Tokenizer};
pub(crate) use json_call::Nesting;
pub(crate) use markup::{CallForm, Marker, Markup};
pub(crate) use reply::{Flow, Phase, ReplyReader};
pub(crate) use xml_call::{ParameterKind, parameter_kind};

const TEMPLATE_NAME: &str = "chat_template";
/// Steps of one rendering; a step is an instruction or 64 bytes of text. Some 200 steps a message
/// are usual; the whole is worth about 0.2 s and at most 256 MB.
const FUEL: u64 = 4_000_000;
/// Nested macros and loops; published templates need about ten.
const RECURSION_MAX: usize = 100;
/// Templates print roles next to markup, so a role is one of these and nothing else.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// A question that nobody asks.
const PROBE: &str = "\u{1}";

/// A compiled chat template.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    special: SpecialTokens,
}

/// Tokens that a model's files name for prompts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpecialTokens {
    /// `bos_token`, which templates may write.
    pub(crate) bos: Option<String>,
    /// `eos_token`, the same.
    pub(crate) eos: Option<String>,
    /// Every prompt begins with the first.
    pub(crate) add_bos: bool,
}

impl SpecialTokens {
    /// The token that every prompt begins with, if the model wants one.
    pub(crate) fn first_token(&self, tokenizer: &Tokenizer) -> Option<TokenId> {
        self.bos.as_deref().filter(|_| self.add_bos).and_then(|bos| tokenizer.added_token(bos))
    }

    /// Puts that token before a prompt, unless it is there: a template may have written it.
    pub(crate) fn begin(&self, tokens: &mut Vec<TokenId>, tokenizer: &Tokenizer) {
        if let Some(first) = self.first_token(tokenizer)
            && tokens.first() != Some(&first)
        {
            tokens.insert(0, first);
        }
    }
}

impl ChatTemplate {
    /// Compiles a template as found in `tokenizer_config.json` or `chat_template.jinja`.
    /// It may write the special tokens.
    pub(crate) fn new(source: &str, special: &SpecialTokens) -> Result<ChatTemplate, EngineError> {
        let mut environment = Environment::new();
        // What the transformers library sets, for which templates are written.
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .expect("the delimiters are the default ones"),
        );
        python::add_to(&mut environment);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", json::filter);
        environment
            .add_template_owned(TEMPLATE_NAME, python::translated(source).into_owned())
            .map_err(|error| EngineError::Template(describe(&error, source)))?;
        Ok(ChatTemplate { environment, source: source.to_owned(), special: special.clone() })
    }

    /// The template itself.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// A conversation as tokens, ending where the model's answer begins.
    pub(crate) fn encode(
        &self,
        conversation: &Conversation,
        tokenizer: &Tokenizer,
    ) -> Result<Rendered, EngineError> {
        let rendered = self.render(conversation, tokenizer, true)?;
        // A typed mark is shielded: this one is the template's.
        let thinks = rendered.trim_end().ends_with(Marker::ThinkOpen.text());
        let mut tokens = tokenizer.encode_rendered(&rendered)?;
        self.special.begin(&mut tokens, tokenizer);
        Ok(Rendered { tokens, thinks })
    }

    /// Where the system prompt and the messages end in a conversation's tokens, if that can be told.
    ///
    /// Many templates refuse a conversation without a question, so the system prompt ends where another
    /// question would lead elsewhere; what follows the messages is what the template adds for the reply.
    pub(crate) fn ends(
        &self,
        conversation: &Conversation,
        tokenizer: &Tokenizer,
        tokens: &[TokenId],
    ) -> Ends {
        let system = |message: &&ChatMessage| matches!(&*message.role, "system" | "developer");
        let mut begin = Conversation {
            messages: conversation.messages.iter().take_while(system).cloned().collect(),
            tools: conversation.tools.clone(),
            tool_choice: conversation.tool_choice.clone(),
            thinking: conversation.thinking,
            reasoning_effort: conversation.reasoning_effort.clone(),
            ..Conversation::default()
        };
        let has_system = !begin.messages.is_empty() || !begin.tools.is_empty();
        begin.messages.push(ChatMessage::new("user", PROBE));
        let other = has_system.then(|| self.encode(&begin, tokenizer).ok()).flatten();
        let alike =
            |other: Rendered| other.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        Ends {
            system: other.map(alike),
            messages: self.messages_end(conversation, tokenizer, tokens),
        }
    }

    fn messages_end(
        &self,
        conversation: &Conversation,
        tokenizer: &Tokenizer,
        tokens: &[TokenId],
    ) -> Option<usize> {
        let whole = self.render(conversation, tokenizer, true).ok()?;
        let said = self.render(conversation, tokenizer, false).ok()?;
        let added = tokenizer.encode_rendered(whole.strip_prefix(&said)?).ok()?;
        tokens.strip_suffix(&*added).map(<[TokenId]>::len)
    }

    /// The conversation as one string in which what callers wrote is still shielded; at its end the
    /// beginning of a reply, if one is wanted.
    fn render(
        &self,
        conversation: &Conversation,
        tokenizer: &Tokenizer,
        reply: bool,
    ) -> Result<String, EngineError> {
        let shield = |text: &str| tokenizer.shield(text).into_owned();
        let messages = conversation.messages.iter().enumerate();
        let messages: Vec<Json> = messages
            .map(|(index, message)| message_json(index, message, &shield))
            .collect::<Result<_, EngineError>>()?;
        let mut inputs = json!({ "messages": messages, "add_generation_prompt": reply });
        if !conversation.tools.is_empty() && conversation.tool_choice != ToolChoice::None {
            inputs["tools"] = conversation.tools.iter().map(|t| tool_json(t, &shield)).collect();
        }
        let special = [("bos_token", &self.special.bos), ("eos_token", &self.special.eos)];
        for (name, token) in special {
            if let Some(token) = token {
                inputs[name] = json!(token);
            }
        }
        if let Some(effort) = &conversation.reasoning_effort {
            inputs["reasoning_effort"] = json!(shield(effort));
        }
        if let Some(thinking) = conversation.thinking {
            inputs["enable_thinking"] = json!(thinking);
        }
        self.environment
            .get_template(TEMPLATE_NAME)
            .and_then(|template| template.render(Value::from(Serde(inputs))))
            .map_err(|error| match is_refusal(&error) {
                true => EngineError::InvalidRequest(format!(
                    "messages: the chat template refuses them: {}",
                    describe(&error, &self.source)
                )),
                false => EngineError::Template(describe(&error, &self.source)),
            })
    }
}

/// A conversation as tokens.
pub(crate) struct Rendered {
    pub(crate) tokens: Vec<TokenId>,
    /// The reply begins in the middle of the model's thoughts: the template opened them.
    pub(crate) thinks: bool,
}

/// Tokens before the end of parts of a conversation.
pub(crate) struct Ends {
    /// Of the system prompt, tools included; `None` where there is none.
    pub(crate) system: Option<usize>,
    /// Of all messages.
    pub(crate) messages: Option<usize>,
}

/// Makes what a caller wrote harmless.
type Shielded<'a> = &'a dyn Fn(&str) -> String;

/// A message as templates know it from transformers.
fn message_json(
    index: usize,
    message: &ChatMessage,
    shield: Shielded<'_>,
) -> Result<Json, EngineError> {
    let role = known_role(index, &message.role)?;
    let mut object = json!({ "role": role, "content": shield(&message.content) });
    let optional = [
        ("reasoning_content", &message.reasoning),
        ("tool_call_id", &message.tool_call_id),
        ("name", &message.name),
    ];
    for (key, text) in optional {
        if let Some(text) = text {
            object[key] = json!(shield(text));
        }
    }
    let mut calls = Vec::with_capacity(message.tool_calls.len());
    for (call, made) in message.tool_calls.iter().enumerate() {
        let arguments = arguments_json(&made.arguments).ok_or_else(|| {
            EngineError::InvalidRequest(format!(
                "messages[{index}].tool_calls[{call}].function.arguments: expected a JSON object \
                 as text"
            ))
        })?;
        let arguments = json::map_texts(&arguments, shield);
        let function = json!({ "name": shield(&made.name), "arguments": arguments });
        calls.push(json!({ "id": shield(&made.id), "type": "function", "function": function }));
    }
    if !calls.is_empty() {
        object["tool_calls"] = json!(calls);
    }
    Ok(object)
}

/// Templates loop over arguments, so they get the object and not its text.
fn arguments_json(text: &str) -> Option<Json> {
    match text.trim() {
        "" => Some(json!({})),
        text => serde_json::from_str(text).ok().filter(Json::is_object),
    }
}

fn tool_json(tool: &Tool, shield: Shielded<'_>) -> Json {
    let mut function = json!({ "name": shield(&tool.name) });
    if let Some(description) = &tool.description {
        function["description"] = json!(shield(description));
    }
    function["parameters"] = match &tool.parameters {
        Some(parameters) => json::map_texts(parameters, shield),
        None => json!({ "type": "object", "properties": {} }),
    };
    json!({ "type": "function", "function": function })
}

fn known_role(index: usize, role: &str) -> Result<&'static str, EngineError> {
    ROLES.into_iter().find(|&known| known == role).ok_or_else(|| {
        EngineError::InvalidRequest(format!(
            "messages[{index}].role: expected one of {}",
            ROLES.join(", ")
        ))
    })
}

/// Marks an error as the template's own refusal: the messages are at fault, not the template.
#[derive(Debug, thiserror::Error)]
#[error("raise_exception")]
struct Refusal;

/// How templates refuse a conversation.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Refusal))
}

fn is_refusal(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.is::<Refusal>() {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// What went wrong and where. The detail is passed on only when it speaks of the template: of an
/// unknown name or syntax, or in words that the template itself holds. Any other detail may quote
/// a message.
fn describe(error: &Error, source: &str) -> String {
    let about_template = matches!(
        error.kind(),
        ErrorKind::SyntaxError
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownMethod
    );
    let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    match error.detail() {
        Some(detail) if about_template || source.contains(detail) => {
            format!("{line}{}: {detail}", error.kind())
        }
        _ => format!("{line}{}", error.kind()),
    }
}

#[cfg(test)]
mod tests;
