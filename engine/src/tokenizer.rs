//! Text to token ids and back, with markup kept apart from what people write.
//!
//! A model's added tokens (`<|im_end|>`, `<think>`, …) steer it: they end turns and open tools.
//! Only the chat template may write them. A caller who types one must get plain letters, or he
//! could end his own turn and speak as the system. So there are two ways in:
//! [`Tokenizer::encode_text`] knows no added tokens at all, and [`Tokenizer::encode_rendered`]
//! finds them in a rendered template whose message texts went through [`Tokenizer::shield`].
//!
//! Invariants: no bytes of a message ever become an added token; for texts without added tokens
//! the ids are those of the `tokenizers` library; decoding the ids of a text gives its bytes.
//! Not here: the template (`chat`), holding back half characters in a stream (`reply_text`),
//! truncation, padding and post-processors of `tokenizer.json` (templates write their own).

mod shield;
mod token_bytes;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use tokenizers::models::bpe::BPE;
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, tokenizer::Normalizer,
};

use crate::error::EngineError;
use shield::Shield;
use token_bytes::TokenBytes;

/// Index of a token in the model's vocabulary.
pub type TokenId = u32;

/// Control tokens that end a reply even if no file of a model names them: conversions keep one end token
/// of the several that a model has.
pub(crate) const END_TOKENS: [&str; 4] =
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"];

/// A byte-level BPE tokenizer, read from `tokenizer.json`.
pub(crate) struct Tokenizer {
    parts: tokenizers::Tokenizer,
    shield: Shield,
    bytes: TokenBytes,
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// Errors when the file is broken or is not byte-level BPE, which is what all supported
    /// families use.
    pub(crate) fn from_json(json: &[u8]) -> Result<Tokenizer, EngineError> {
        // The library panics on some files that are no JSON (found by fuzzing: a file cut within its
        // decoder), so they are kept from it.
        serde_json::from_slice::<serde_json::Value>(json)
            .map_err(|error| EngineError::Tokenizer(format!("tokenizer.json: {error}")))?;
        let mut parts = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|error| EngineError::Tokenizer(format!("tokenizer.json: {error}")))?;
        let bpe = plain_bpe(&parts)?;
        parts.with_model(bpe);
        if !matches!(parts.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            let what = "tokenizer.json: decoder: expected ByteLevel; convert the model again with \
                        a byte-level BPE tokenizer";
            return Err(EngineError::Tokenizer(what.to_owned()));
        }
        let added = parts.get_added_tokens_decoder();
        let shield = Shield::for_tokens(added.values().map(|token| token.content.as_str()))?;
        let bytes = TokenBytes::new(&parts)?;
        Ok(Tokenizer { parts, shield, bytes })
    }

    /// Token ids of a text in which nothing is markup: not even `<|im_end|>` becomes its token.
    pub(crate) fn encode_text(&self, text: &str) -> Result<Vec<TokenId>, EngineError> {
        let mut tokens = Vec::with_capacity(text.len() / 3);
        self.encode_into(text, &mut tokens)?;
        Ok(tokens)
    }

    /// Token ids of a rendered template: added tokens that the template wrote become theirs,
    /// shielded characters become plain text again.
    pub(crate) fn encode_rendered(&self, rendered: &str) -> Result<Vec<TokenId>, EngineError> {
        let mut tokens = Vec::with_capacity(rendered.len() / 3);
        let pieces = self
            .parts
            .get_added_vocabulary()
            .extract_and_normalize(None::<&NormalizerWrapper>, rendered);
        for (text, _, markup) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            match markup {
                Some(markup) => tokens.extend(markup.iter().map(|token| token.id)),
                None => self.encode_into(&self.shield.remove(text), &mut tokens)?,
            }
        }
        Ok(tokens)
    }

    /// The text of a message with the characters that could form an added token replaced by
    /// stand-ins, which [`Tokenizer::encode_rendered`] turns back.
    pub(crate) fn shield<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.shield.apply(text)
    }

    /// The text that was shielded.
    #[cfg(test)]
    pub(crate) fn unshielded(&self, text: &str) -> String {
        self.shield.remove(text).into_owned()
    }

    /// The bytes that a token stands for: nothing for special tokens and ids without a token. A
    /// single token can be part of a character.
    pub(crate) fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.bytes.of(token)
    }

    /// The added token with this text.
    pub(crate) fn added_token(&self, text: &str) -> Option<TokenId> {
        self.added_tokens().find(|(_, added)| added == text).map(|(id, _)| id)
    }

    /// All added tokens and their texts, special ones included.
    pub(crate) fn added_tokens(&self) -> impl Iterator<Item = (TokenId, String)> + '_ {
        let added = self.parts.get_added_tokens_decoder().into_iter();
        added.map(|(id, token)| (id, token.content))
    }

    /// The text of some tokens, special ones left out; broken UTF-8 becomes U+FFFD.
    #[cfg(test)]
    pub(crate) fn decode(&self, tokens: &[TokenId]) -> String {
        let bytes: Vec<u8> =
            tokens.iter().flat_map(|&token| self.token_bytes(token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// One more than the largest token id.
    pub(crate) fn vocabulary_size(&self) -> usize {
        self.bytes.len()
    }

    /// A lower bound of the tokens in a text, without reading it: no token covers more bytes than
    /// the longest one.
    pub(crate) fn tokens_at_least(&self, text_bytes: usize) -> usize {
        text_bytes / self.bytes.longest().max(1)
    }

    fn encode_into(&self, text: &str, tokens: &mut Vec<TokenId>) -> Result<(), EngineError> {
        if text.is_empty() {
            return Ok(());
        }
        // The library's own steps, but for the added vocabulary.
        let pieces = self.split(text).map_err(|_| unreadable())?;
        // Words repeat. The library keeps its words for ever; these go with the call.
        let mut known: HashMap<&str, Range<usize>> = HashMap::new();
        for (piece, _, _) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if let Some(found) = known.get(piece) {
                tokens.extend_from_within(found.clone());
                continue;
            }
            let found = self.parts.get_model().tokenize(piece).map_err(|_| unreadable())?;
            let start = tokens.len();
            tokens.extend(found.iter().map(|token| token.id));
            known.insert(piece, start..tokens.len());
        }
        Ok(())
    }

    fn split(&self, text: &str) -> tokenizers::Result<PreTokenizedString> {
        let mut pieces = PreTokenizedString::from(text);
        if let Some(normalizer) = self.parts.get_normalizer() {
            pieces.normalize(|piece| normalizer.normalize(piece))?;
        }
        if let Some(pre_tokenizer) = self.parts.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        Ok(pieces)
    }
}

/// The BPE model without dropout, which would make ids random, and without the library's cache of
/// recent words, which would keep pieces of private prompts in the memory of every thread.
fn plain_bpe(parts: &tokenizers::Tokenizer) -> Result<BPE, EngineError> {
    let ModelWrapper::BPE(bpe) = parts.get_model() else {
        let what = "tokenizer.json: model: expected BPE; convert the model again with a \
                    byte-level BPE tokenizer";
        return Err(EngineError::Tokenizer(what.to_owned()));
    };
    let mut bpe = bpe.clone();
    bpe.dropout = None;
    bpe.resize_cache(0);
    Ok(bpe)
}

/// The library's message may quote the text, so it is not passed on.
fn unreadable() -> EngineError {
    let what = "failed to split the text into tokens: a run of one kind of character is too long \
                for the tokenizer; break the run up";
    EngineError::InvalidRequest(what.to_owned())
}

#[cfg(test)]
pub(crate) mod tests;
