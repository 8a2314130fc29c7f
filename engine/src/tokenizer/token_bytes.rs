//! The bytes behind every token id, in one table.
//!
//! Byte-level BPE writes each byte as a printable letter (a space is `Ġ`), so a vocabulary entry is
//! not the text it stands for. Undoing that once, at load, makes decoding a slice look-up; a reply
//! allocates nothing per token.
//!
//! Invariants: an id past the table is empty, and so is a special token, which steers and is not
//! text. Added tokens that are not special (Qwen's `<think>`) are their own text.
//! Source: the byte-to-letter map of GPT-2's `encoder.py`, as used by `ByteLevel` tokenizers.

use tokenizers::Model;

use crate::error::EngineError;
use crate::tokenizer::TokenId;

/// No published vocabulary is near this; a file that claims more is broken or hostile.
const VOCABULARY_MAX: usize = 1 << 22;

/// Ids that no token has, beside as many as there are tokens: published vocabularies leave out some
/// hundreds. What stands far behind all others would cost a table that the file is not worth.
const GAPS_MAX: usize = 1 << 14;

/// Bytes of all tokens, one after the other.
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    /// Token `t` is `bytes[starts[t]..starts[t + 1]]`.
    starts: Vec<u32>,
    longest: usize,
}

impl TokenBytes {
    /// Builds the table from a tokenizer's vocabulary and added tokens.
    pub(super) fn new(tokenizer: &tokenizers::Tokenizer) -> Result<TokenBytes, EngineError> {
        let added = tokenizer.get_added_tokens_decoder();
        let entries = tokenizer.get_model().get_vocab();
        let last = added.keys().chain(entries.values()).max().copied().unwrap_or(0) as usize;
        if last >= VOCABULARY_MAX {
            return Err(EngineError::Tokenizer(format!(
                "tokenizer.json: expected token ids below {VOCABULARY_MAX}, got {last}"
            )));
        }
        let count = entries.len() + added.len();
        if last > 2 * count + GAPS_MAX {
            return Err(EngineError::Tokenizer(format!(
                "tokenizer.json: the token id {last} is far beyond the number of tokens, {count}"
            )));
        }
        let mut bytes = vec![Vec::new(); last + 1];
        for (letters, id) in &entries {
            bytes[*id as usize] = bytes_of_letters(letters);
        }
        for (id, token) in added {
            bytes[id as usize] =
                if token.special { Vec::new() } else { token.content.into_bytes() };
        }
        Ok(TokenBytes::joined(&bytes))
    }

    fn joined(tokens: &[Vec<u8>]) -> TokenBytes {
        let mut starts = Vec::with_capacity(tokens.len() + 1);
        let mut end = 0;
        starts.push(end);
        for bytes in tokens {
            end += bytes.len() as u32;
            starts.push(end);
        }
        let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
        TokenBytes { bytes: tokens.concat(), starts, longest }
    }

    /// The bytes of one token.
    pub(super) fn of(&self, token: TokenId) -> &[u8] {
        let token = token as usize;
        match (self.starts.get(token), self.starts.get(token + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }

    /// One more than the largest id.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Bytes of the longest token.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }
}

/// Undoes the byte-to-letter map; letters outside it stand for themselves.
fn bytes_of_letters(letters: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(letters.len());
    for letter in letters.chars() {
        match byte_of_letter(letter) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// Printable Latin-1 bytes are their own letters; the other 68 are, in order, U+0100 and on.
fn byte_of_letter(letter: char) -> Option<u8> {
    match letter as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_exactly_one_letter() {
        let mut bytes: Vec<u8> =
            (0..0x200).filter_map(char::from_u32).filter_map(byte_of_letter).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn spaces_and_newlines_are_undone() {
        assert_eq!(bytes_of_letters("Ġhello"), b" hello");
        assert_eq!(bytes_of_letters("Ċ"), b"\n");
        assert_eq!(bytes_of_letters("âĤ¬"), "€".as_bytes());
    }
}
