//! Which tokens may come next, so that a reply keeps its form by construction.
//!
//! A JSON schema or a tool's call becomes a grammar; `llguidance` walks the vocabulary's trie with it
//! and says which tokens keep the reply on one of its paths. A tiny model then writes JSON as valid as
//! a large one does. A form can also be *closed*: [`Constraint::closing`] finds a short way to its end,
//! so that a reply that is about to be cut off ends as valid JSON.
//!
//! Invariants: added tokens are never text (a quoted `<tool_call>` is spelled in letters); what a
//! constraint allows depends on its form and the tokens before, not on time; errors name keywords of
//! JSON Schema and places in the request, never the schema's own words.
//! Inside: `form` (schemas and calls as grammars). Not here: when a form holds (`engine::form`).
//! Source: github.com/guidance-ai/llguidance 1.9, docs.rs.

mod form;

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use crate::chat::Nesting;
use crate::error::EngineError;
use crate::tokenizer::{TokenId, Tokenizer};
use form::NAMES_MAX;
pub(crate) use form::{CallMarks, Form, Schema};

/// Longest way to the end that is looked for.
const CLOSING_TOKENS_MAX: usize = 512;
/// Stack of the thread that compiles; a level of nesting takes some tens of KiB in a test build.
const COMPILE_STACK_BYTES: usize = 64 << 20;
/// Outside of a text, what brings JSON to its end soonest.
const CLOSERS: [&[u8]; 10] = [b"}", b"]", b",", b"0", b"1", b"\"", b"null", b"true", b"[", b"{"];

/// What ends a text parameter of a call in the Qwen form.
pub(crate) const PARAMETER_END: &str = "\n</parameter>\n";
/// What ends such a call's function; it comes before parameters that may be left out.
const FUNCTION_END: &str = "</function>";
/// What a line begins with behind which a parameter's value stands.
const PARAMETER_BEGIN: &[u8] = b"<parameter=";

/// The grammars of one vocabulary.
pub(crate) struct Grammars {
    factory: ParserFactory,
    vocabulary: TokEnv,
    quote: Option<TokenId>,
    closers: Vec<TokenId>,
}

impl Grammars {
    /// Sorts a vocabulary; about 0.1 s for 250,000 tokens. `ends` are the tokens that end a reply.
    pub(crate) fn new(tokenizer: &Tokenizer, ends: &[TokenId]) -> Result<Grammars, EngineError> {
        let size = tokenizer.vocabulary_size();
        let mut words: Vec<Vec<u8>> =
            (0..size).map(|id| tokenizer.token_bytes(id as TokenId).to_vec()).collect();
        for (id, text) in tokenizer.added_tokens() {
            words[id as usize] = [&[TokTrie::SPECIAL_TOKEN_MARKER], text.as_bytes()].concat();
        }
        let ends: Vec<TokenId> = ends.iter().copied().filter(|&e| (e as usize) < size).collect();
        let Some(&first) = ends.first() else {
            let what = "this model has no end token, so nothing could end the form".to_owned();
            return Err(EngineError::Unsupported { field: "response_format".to_owned(), what });
        };
        let info = TokRxInfo::new(size as u32, first);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        let single = |bytes: &[u8]| trie.token_id_at_bytes(bytes);
        let (quote, closers) = (single(b"\""), CLOSERS.iter().filter_map(|c| single(c)).collect());
        let vocabulary: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let broken = |_| EngineError::Tokenizer("its tokens cannot be sorted".to_owned());
        let mut factory = ParserFactory::new_simple(&vocabulary).map_err(broken)?;
        factory.quiet();
        // Errors would quote the reply.
        factory.limits_mut().verbose_errors = false;
        Ok(Grammars { factory, vocabulary, quote, closers })
    }

    /// A constraint at the beginning of a form.
    pub(crate) fn compile(self: &Arc<Self>, form: &Form) -> Result<Constraint, EngineError> {
        if let Some(Schema { field, .. }) = form.schemas.iter().find(|s| s.has_too_many_names()) {
            let what = format!("an object has more than {NAMES_MAX} names; ask for fewer");
            return Err(EngineError::Unsupported { field: field.clone(), what });
        }
        match self.start(&form.lark) {
            Ok(matcher) => Ok(self.constraint(matcher)),
            Err(error) => Err(self.blame(form, &error)),
        }
    }

    fn start(&self, lark: &str) -> Result<Matcher, String> {
        let grammar = TopLevelGrammar::from_lark(lark.to_owned());
        // A schema comes from outside, and is read by recursion: what is deep needs room, and what the
        // library did not think of must not end a thread that does more than this.
        let parser = std::thread::scope(|scope| {
            let create = || self.factory.create_parser(grammar);
            let thread = std::thread::Builder::new().stack_size(COMPILE_STACK_BYTES);
            let thread = thread.spawn_scoped(scope, create).map_err(|_| "failed".to_owned())?;
            thread.join().map_err(|_| "failed".to_owned())
        });
        let matcher = Matcher::new(parser?);
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(matcher),
        }
    }

    fn constraint(self: &Arc<Self>, matcher: Matcher) -> Constraint {
        let (nesting, lines) = (Nesting::default(), Lines::default());
        Constraint { grammars: self.clone(), matcher, nesting, lines }
    }

    /// Finds the schema that is at fault.
    fn blame(&self, form: &Form, error: &str) -> EngineError {
        for schema in &form.schemas {
            if let Err(error) = self.start(&schema.alone()) {
                let field = schema.field.clone();
                return EngineError::Unsupported { field, what: form::reason(&error) };
            }
        }
        EngineError::Unsupported { field: form.field.to_owned(), what: form::reason(error) }
    }
}

/// A place in a form.
#[derive(Clone)]
pub(crate) struct Constraint {
    grammars: Arc<Grammars>,
    matcher: Matcher,
    nesting: Nesting,
    lines: Lines,
}

/// The line that a form is in, and the one before: calls in the Qwen form are made of lines.
#[derive(Clone, Default)]
struct Lines {
    before: Vec<u8>,
    at: Vec<u8>,
}

impl Lines {
    /// As much of a line as marks need.
    const BYTES_MAX: usize = 32;

    fn take(&mut self, byte: u8) {
        if byte == b'\n' {
            self.before = std::mem::take(&mut self.at);
        } else if self.at.len() < Self::BYTES_MAX {
            self.at.push(byte);
        }
    }

    /// What is left of a parameter's end: all of it, unless this line, after the line break that is its
    /// first letter, has begun it.
    fn left_of_parameter_end(&self) -> &'static [u8] {
        let end = PARAMETER_END.as_bytes();
        // The line break after a parameter's name is not yet part of its value.
        let begins = self.before.starts_with(PARAMETER_BEGIN);
        match end[1..].starts_with(&self.at) && !begins {
            true => &end[1 + self.at.len()..],
            false => end,
        }
    }

    /// What is left of the function's end.
    fn left_of_function_end(&self) -> &'static [u8] {
        FUNCTION_END.as_bytes().strip_prefix(self.at.as_slice()).unwrap_or_default()
    }
}

impl Constraint {
    /// Tokens that may come next, end tokens included where the form may end. Bit `t % 32` of word
    /// `t / 32` stands for token `t`.
    pub(crate) fn allowed(&mut self) -> Result<SimpleVob, EngineError> {
        self.matcher.compute_mask_or_eos().map_err(|_| too_complex())
    }

    /// Goes on by a token that was allowed; true when the form is over.
    pub(crate) fn take(&mut self, token: TokenId) -> Result<bool, EngineError> {
        self.matcher.consume_token(token).map_err(|_| too_complex())?;
        let word = self.grammars.vocabulary.tok_trie().token(token);
        // Only quotes, brackets and backslashes matter, and they are ASCII in any part of a text.
        for &byte in word {
            self.lines.take(byte);
            self.nesting.take(char::from(byte));
            // JSON is on one line here: what came before was another value, or a text without quotes.
            if byte == b'\n' {
                self.nesting = Nesting::default();
            }
        }
        Ok(self.matcher.is_stopped())
    }

    /// A short way from here to the end, of at most so many tokens, the end token not counted.
    pub(crate) fn closing(&self, tokens_max: usize) -> Option<Vec<TokenId>> {
        let mut ahead = self.clone();
        let mut way = Vec::new();
        loop {
            if ahead.matcher.is_stopped() || ahead.matcher.is_accepting().ok()? {
                return Some(way);
            }
            if way.len() == tokens_max.min(CLOSING_TOKENS_MAX) {
                return None;
            }
            let token = ahead.closer()?;
            ahead.take(token).ok()?;
            way.push(token);
        }
    }

    /// Of the tokens that may come next, the one that leads to the end soonest, as far as one can see
    /// from here.
    fn closer(&mut self) -> Option<TokenId> {
        let allowed = self.matcher.compute_mask().ok()?;
        // A line break is allowed in an unquoted text, or where a value is over: never within JSON.
        if let Some(token) = self.longest_of(&allowed, self.lines.left_of_parameter_end()) {
            return Some(token);
        }
        let quote = self.grammars.quote.filter(|_| !self.nesting.escaped());
        let closers = match self.nesting.in_string() {
            true => quote.as_slice(),
            false => self.grammars.closers.as_slice(),
        };
        if let Some(closer) = closers.iter().copied().find(|&closer| allowed.is_allowed(closer)) {
            return Some(closer);
        }
        if !self.nesting.in_string()
            && let Some(token) = self.longest_of(&allowed, self.lines.left_of_function_end())
        {
            return Some(token);
        }
        // Keys, words of an enum: the more of it at once the better; of equals the lowest id.
        let trie = self.grammars.vocabulary.tok_trie();
        let bytes = |token: TokenId| trie.token(token).len();
        allowed.iter().max_by_key(|&token| (bytes(token), std::cmp::Reverse(token)))
    }

    /// The longest allowed token that begins those bytes.
    fn longest_of(&self, allowed: &SimpleVob, bytes: &[u8]) -> Option<TokenId> {
        let trie = self.grammars.vocabulary.tok_trie();
        let tokens =
            (1..=bytes.len()).rev().filter_map(|len| trie.token_id_at_bytes(&bytes[..len]));
        tokens.into_iter().find(|&token| allowed.is_allowed(token))
    }
}

fn too_complex() -> EngineError {
    let what = "the reply's form became too complex to follow; ask for a simpler one".to_owned();
    EngineError::Unsupported { field: "response_format".to_owned(), what }
}

#[cfg(test)]
mod tests;
