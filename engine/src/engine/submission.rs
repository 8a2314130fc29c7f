//! From a request to jobs for the queue: tokens, limits, the reply's form.
//!
//! All of it happens on the caller's thread: the engine's thread only computes. What is wrong with a
//! request is found here and named, before anything waits.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::chat::{CallForm, Marker, Rendered, ReplyReader};
use crate::checkpoint::{Kind, Point, TOKENS_MIN};
use crate::engine::form::{Form, Scope};
use crate::engine::generation::{EVENTS_MAX, Job};
use crate::engine::scores::Scores;
use crate::engine::{
    Conversation, GenerationRequest, PromptInput, ReplyFormat, Shared, StreamEvent, Tool,
    ToolChoice, WANTED_WITHIN_DEFAULT,
};
use crate::error::{EngineError, PromptLength};
use crate::grammar::{self, CallMarks, Schema};
use crate::tokenizer::TokenId;

/// Jobs, and where each one's events come out.
pub(super) struct Submission {
    pub(super) jobs: Vec<Job>,
    pub(super) events: Vec<mpsc::Receiver<StreamEvent>>,
}

impl Shared {
    /// Jobs for several replies to one prompt.
    pub(super) fn submission(
        &self,
        request: GenerationRequest,
        choices: usize,
    ) -> Result<Submission, EngineError> {
        let Rendered { tokens, thinks } = self.rendered(&request.prompt)?;
        let points = request.reuse.as_ref().map(|_| self.points(&request.prompt, &tokens));
        let points = points.unwrap_or_default();
        let prompt: Arc<[_]> = tokens.into();
        let tokens_max = self.reply_tokens_max(prompt.len(), request.max_tokens)?;
        let chat = match &request.prompt {
            PromptInput::Chat(conversation) => Some(conversation),
            PromptInput::Text(_) | PromptInput::Tokens(_) => None,
        };
        let tools = chat.map(callable).unwrap_or_default();
        let form = self.form(&request.format, chat, &tools)?;
        let tools: Arc<[Tool]> = tools.into();
        let (mut jobs, mut events) = (Vec::new(), Vec::new());
        let submitted = self.clock.now();
        let due = submitted + request.wanted_within.unwrap_or(WANTED_WITHIN_DEFAULT);
        for choice in 0..choices {
            let mut reader = ReplyReader::new(request.stop.clone())?;
            if let Some(chat) = chat {
                let markup = &self.vocabulary.markup;
                reader = reader.in_chat(markup, tools.clone(), calls_once(chat), thinks);
            }
            let (sender, receiver) = mpsc::channel(EVENTS_MAX);
            jobs.push(Job {
                prompt: prompt.clone(),
                tokens_max,
                sampler: self.sampler(&request.sampling, &prompt, choice)?,
                reader,
                form: form.clone(),
                scores: request.logprobs.map(Scores::new).transpose()?,
                events: sender,
                submitted,
                due,
                siblings: Vec::new(),
                reuse: request.reuse.clone(),
                points: points.clone(),
            });
            events.push(receiver);
        }
        Ok(Submission { jobs, events })
    }

    /// Where states of a prompt are worth keeping, in order: at the end of the system prompt and of the
    /// messages, and every so many tokens between. A prompt without a template has no such ends: the
    /// same text may come again, or a longer one, so it is kept short of its last token.
    fn points(&self, prompt: &PromptInput, tokens: &[TokenId]) -> Vec<Point> {
        if self.info.plan.checkpoint_bytes == 0 {
            return Vec::new();
        }
        let last = tokens.len() - 1;
        let mut points: Vec<Point> = match (prompt, &self.template) {
            (PromptInput::Chat(chat), Some(template)) => {
                let ends = template.ends(chat, &self.vocabulary.tokenizer, tokens);
                let system = ends.system.map(|at| Point { at, kind: Kind::System });
                let messages = ends.messages.unwrap_or(last).min(last);
                let messages = Point { at: messages, kind: Kind::Messages };
                system.into_iter().chain([messages]).collect()
            }
            _ => vec![Point { at: last, kind: Kind::Messages }],
        };
        let every = self.checkpoint_every;
        let between = (1..).map(|i| i * every).take_while(|&at| at < last);
        let near = |at: usize| points.iter().any(|point| point.at.abs_diff(at) < TOKENS_MIN);
        let between: Vec<Point> =
            between.filter(|&at| !near(at)).map(|at| Point { at, kind: Kind::Between }).collect();
        points.extend(between);
        points.retain(|point| (TOKENS_MIN..=last).contains(&point.at));
        points.sort_by_key(|point| point.at);
        points.dedup_by_key(|point| point.at);
        points
    }

    /// The form of a reply, if it has one.
    fn form(
        &self,
        format: &ReplyFormat,
        chat: Option<&Conversation>,
        tools: &[Tool],
    ) -> Result<Option<Form>, EngineError> {
        let value = match format {
            ReplyFormat::Text => None,
            ReplyFormat::JsonObject => Some(Schema::any_object()),
            ReplyFormat::JsonSchema { schema, strict } => Some(Schema {
                schema: schema.clone(),
                strict: *strict,
                field: "response_format.json_schema.schema".to_owned(),
            }),
        };
        let grammars = || self.vocabulary.grammars();
        let Some(chat) = chat.filter(|_| !tools.is_empty()) else {
            let Some(schema) = value else { return Ok(None) };
            let start = grammars()?.compile(&grammar::Form::json(schema))?;
            return Ok(Some(Form::new(Scope::Reply, start)));
        };
        let marks = self.call_marks()?;
        let must = matches!(chat.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        let (scope, form) = match value {
            value if must || value.is_some() => {
                let value = value.filter(|_| !must);
                let form = grammar::Form::calls(tools, marks, calls_once(chat), value)?;
                (Scope::Reply, form)
            }
            _ if tools.iter().any(|tool| tool.strict) => {
                (Scope::Calls, grammar::Form::rest_of_call(tools, marks)?)
            }
            _ => return Ok(None),
        };
        Ok(Some(Form::new(scope, grammars()?.compile(&form)?)))
    }

    /// How the model marks calls.
    fn call_marks(&self) -> Result<CallMarks, EngineError> {
        let markup = &self.vocabulary.markup;
        let form: CallForm = markup.call_form.ok_or_else(|| EngineError::Unsupported {
            field: "tools".to_owned(),
            what: "this model's chat template knows no tools".to_owned(),
        })?;
        let token = |mark| markup.token(mark);
        Ok(CallMarks { form, open: token(Marker::CallOpen), close: token(Marker::CallClose) })
    }

    /// The prompt as tokens: at least one, each in the vocabulary.
    pub(super) fn rendered(&self, prompt: &PromptInput) -> Result<Rendered, EngineError> {
        let tokenizer = &self.vocabulary.tokenizer;
        let plain = |tokens| Rendered { tokens, thinks: false };
        let rendered = match prompt {
            PromptInput::Text(text) => {
                self.refuse_far_too_long(text.len())?;
                let mut tokens = tokenizer.encode_text(text)?;
                if !tokens.is_empty() {
                    self.special.begin(&mut tokens, tokenizer);
                }
                plain(tokens)
            }
            PromptInput::Chat(chat) => {
                self.refuse_far_too_long(text_bytes(chat))?;
                // Templates write at least one token for each message.
                self.check_fits(PromptLength::AtLeast(chat.messages.len()))?;
                check_choice(chat)?;
                let template = self.template.as_ref().ok_or_else(|| {
                    let what = "this model has no chat template; send plain text or tokens";
                    EngineError::Template(what.to_owned())
                })?;
                template.encode(chat, tokenizer)?
            }
            PromptInput::Tokens(tokens) => plain(tokens.clone()),
        };
        let (tokens, vocabulary_size) = (&rendered.tokens, tokenizer.vocabulary_size());
        match tokens.iter().find(|&&token| token as usize >= vocabulary_size) {
            Some(token) => Err(EngineError::InvalidRequest(format!(
                "prompt: expected token ids below {vocabulary_size}, got {token}"
            ))),
            None if tokens.is_empty() => Err(EngineError::InvalidRequest(
                "prompt: expected at least one token, got none".to_owned(),
            )),
            None => Ok(rendered),
        }
    }

    /// Refuses a text that cannot fit whatever its tokens are, before time is spent on it.
    fn refuse_far_too_long(&self, text_bytes: usize) -> Result<(), EngineError> {
        let prompt_tokens = self.vocabulary.tokenizer.tokens_at_least(text_bytes);
        self.check_fits(PromptLength::AtLeast(prompt_tokens))
    }

    fn check_fits(&self, prompt_tokens: PromptLength) -> Result<(), EngineError> {
        let context_tokens = self.info.context_tokens;
        // One token of the reply has to fit as well.
        if prompt_tokens.least() < context_tokens {
            return Ok(());
        }
        Err(EngineError::ContextLengthExceeded { prompt_tokens, context_tokens })
    }

    /// The most tokens that a reply may have: what was asked, or what the context leaves.
    fn reply_tokens_max(
        &self,
        prompt_tokens: usize,
        asked: Option<usize>,
    ) -> Result<usize, EngineError> {
        self.check_fits(PromptLength::Exactly(prompt_tokens))?;
        let left = self.info.context_tokens - prompt_tokens;
        match asked {
            Some(0) => Err(EngineError::InvalidRequest(
                "max_tokens: expected at least 1, got 0".to_owned(),
            )),
            asked => Ok(asked.unwrap_or(left).min(left)),
        }
    }
}

/// What the model may call.
fn callable(chat: &Conversation) -> Vec<Tool> {
    match &chat.tool_choice {
        ToolChoice::None => Vec::new(),
        ToolChoice::Named(name) => chat.tools.iter().filter(|t| t.name == *name).cloned().collect(),
        ToolChoice::Auto | ToolChoice::Required => chat.tools.clone(),
    }
}

/// A tool that is named is called once.
fn calls_once(chat: &Conversation) -> bool {
    chat.one_call || matches!(chat.tool_choice, ToolChoice::Named(_))
}

fn check_choice(chat: &Conversation) -> Result<(), EngineError> {
    let wrong = match &chat.tool_choice {
        ToolChoice::Named(name) => !chat.tools.iter().any(|tool| tool.name == *name),
        ToolChoice::Required => chat.tools.is_empty(),
        ToolChoice::Auto | ToolChoice::None => false,
    };
    match wrong {
        true => Err(EngineError::InvalidRequest(
            "tool_choice: expected the name of one of the request's tools".to_owned(),
        )),
        false => Ok(()),
    }
}

/// Bytes of the texts that a template surely writes.
fn text_bytes(chat: &Conversation) -> usize {
    chat.messages.iter().map(|message| message.content.len()).sum()
}
