//! Names that a client may give instead of a model's: what it wishes for, not who answers.
//!
//! A wish orders what policy allows, or keeps the request at home. None ever adds an upstream.

use serde::{Deserialize, Serialize};

/// A virtual model, by its name in any dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// `auto`: whatever policy finds best.
    Auto,
    /// `fast`: the first token soonest.
    Fast,
    /// `best`: the highest quality.
    Best,
    /// `private`: the edge or the premises, whatever the text is.
    Private,
}

impl Wish {
    /// All of them.
    pub const ALL: [Wish; 4] = [Wish::Auto, Wish::Fast, Wish::Best, Wish::Private];

    /// What a model's name wishes for, if it is one of these names.
    pub fn named(model: &str) -> Option<Wish> {
        Wish::ALL.into_iter().find(|wish| wish.in_words() == model)
    }

    /// The name.
    pub fn in_words(self) -> &'static str {
        match self {
            Wish::Auto => "auto",
            Wish::Fast => "fast",
            Wish::Best => "best",
            Wish::Private => "private",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_names_are_wishes() {
        for wish in Wish::ALL {
            assert_eq!(Wish::named(wish.in_words()), Some(wish));
        }
        for name in ["", "Auto", "gpt-best", "fast "] {
            assert_eq!(Wish::named(name), None, "{name:?}");
        }
    }
}
