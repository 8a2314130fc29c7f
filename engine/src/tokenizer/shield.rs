//! Stand-ins for the characters from which added tokens are made.
//!
//! The template mixes its own markup and the callers' texts into one string, in which nobody could
//! tell a typed `<|im_end|>` from a real one. So every character with which some added token begins
//! or ends is replaced in message texts before rendering. A match in the rendered string then
//! begins and ends in what the template wrote. Cutting the rendered string afterwards would need to
//! know where each message landed, and templates trim, split and repeat them.
//!
//! The stand-ins are Unicode noncharacters, which no text should contain; where one does, it is
//! replaced by U+FFFD. A template sees the stand-ins: for it `'<think>' in message.content` is
//! false, i.e. what a message quotes is never structure.
//! Source: The Unicode Standard 15.0, section 23.7 (noncharacters are for internal use).

use std::borrow::Cow;

use crate::error::EngineError;

/// The first of 32 contiguous noncharacters, U+FDD0..=U+FDEF.
const STAND_IN_FIRST: u32 = 0xFDD0;
const STAND_INS: usize = 32;

/// Which characters are replaced; the n-th one by the n-th stand-in.
pub(super) struct Shield {
    shielded: Vec<char>,
}

impl Shield {
    /// A shield for these added tokens. Errors when they begin and end with more than 32
    /// different characters; published models have two to six.
    pub(super) fn for_tokens<'t>(
        tokens: impl Iterator<Item = &'t str>,
    ) -> Result<Shield, EngineError> {
        let mut shielded: Vec<char> = tokens
            .flat_map(|token| token.chars().next().into_iter().chain(token.chars().last()))
            .collect();
        shielded.sort_unstable();
        shielded.dedup();
        if shielded.len() > STAND_INS {
            return Err(EngineError::Tokenizer(format!(
                "tokenizer.json: added_tokens: expected tokens that begin and end with at most \
                 {STAND_INS} different characters, got {}",
                shielded.len()
            )));
        }
        Ok(Shield { shielded })
    }

    /// Replaces what could form an added token.
    pub(super) fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if !text.chars().any(|c| self.stand_in(c).is_some()) {
            return Cow::Borrowed(text);
        }
        text.chars().map(|c| self.stand_in(c).unwrap_or(c)).collect::<String>().into()
    }

    /// Puts the characters back.
    pub(super) fn remove<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if !text.chars().any(is_stand_in) {
            return Cow::Borrowed(text);
        }
        text.chars().map(|c| self.original(c)).collect::<String>().into()
    }

    fn stand_in(&self, c: char) -> Option<char> {
        if is_stand_in(c) {
            return Some(char::REPLACEMENT_CHARACTER);
        }
        let index = self.shielded.iter().position(|&shielded| shielded == c)?;
        char::from_u32(STAND_IN_FIRST + index as u32)
    }

    fn original(&self, c: char) -> char {
        if !is_stand_in(c) {
            return c;
        }
        let index = (c as u32 - STAND_IN_FIRST) as usize;
        // A template that writes noncharacters of its own gets what a message would get.
        self.shielded.get(index).copied().unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

fn is_stand_in(c: char) -> bool {
    (STAND_IN_FIRST..STAND_IN_FIRST + STAND_INS as u32).contains(&(c as u32))
}
