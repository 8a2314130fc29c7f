//! The marks with which a model sets apart its thoughts and its calls.
//!
//! Where the vocabulary has a token of its own for a mark, only that token is the mark: letters that
//! look like it are text, whoever wrote them. Models without such a token write the mark as text,
//! and then text is all there is to go by; it counts only if the model's own template uses it.
//! Source: the chat templates of Qwen3, Qwen3-Coder and Qwen3.5 (tool calls in XML form since Coder),
//! of Hermes 2 Pro (JSON form).

use crate::tokenizer::{TokenId, Tokenizer};

/// One of the marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    ThinkOpen,
    ThinkClose,
    CallOpen,
    CallClose,
}

/// How a model writes a call between its marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallForm {
    /// `{"name": …, "arguments": {…}}`, the Hermes form.
    Json,
    /// `<function=…><parameter=…>…`, the Qwen form.
    Xml,
}

/// The marks of one model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Markup {
    tokens: Vec<(TokenId, Marker)>,
    texts: Vec<Marker>,
    /// `None`: the template knows no tools.
    pub(crate) call_form: Option<CallForm>,
}

impl Marker {
    pub(crate) const ALL: [Marker; 4] =
        [Marker::ThinkOpen, Marker::ThinkClose, Marker::CallOpen, Marker::CallClose];

    /// How it is written.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Marker::ThinkOpen => "<think>",
            Marker::ThinkClose => "</think>",
            Marker::CallOpen => "<tool_call>",
            Marker::CallClose => "</tool_call>",
        }
    }
}

impl Markup {
    /// The marks of a vocabulary and a template; none without a template.
    pub(crate) fn new(tokenizer: &Tokenizer, template: Option<&str>) -> Markup {
        let Some(template) = template else { return Markup::default() };
        let mut markup = Markup { call_form: call_form(template), ..Markup::default() };
        for marker in Marker::ALL {
            match tokenizer.added_token(marker.text()) {
                Some(token) => markup.tokens.push((token, marker)),
                None if template.contains(marker.text()) => markup.texts.push(marker),
                None => {}
            }
        }
        markup
    }

    /// Which mark a token is.
    pub(crate) fn marker(&self, token: TokenId) -> Option<Marker> {
        self.tokens.iter().find(|(known, _)| *known == token).map(|(_, marker)| *marker)
    }

    /// The token of a mark, if it has one.
    pub(crate) fn token(&self, marker: Marker) -> Option<TokenId> {
        self.tokens.iter().find(|(_, known)| *known == marker).map(|(token, _)| *token)
    }

    /// Marks that are only text.
    pub(crate) fn texts(&self) -> &[Marker] {
        &self.texts
    }
}

fn call_form(template: &str) -> Option<CallForm> {
    if !template.contains("tools") || !template.contains(Marker::CallOpen.text()) {
        return None;
    }
    Some(if template.contains("<function=") { CallForm::Xml } else { CallForm::Json })
}

#[cfg(test)]
impl Markup {
    /// A model whose vocabulary has no token for these.
    pub(super) fn texts_for_tests(&mut self, texts: &[Marker]) {
        self.texts = texts.to_vec();
    }
}
