//! What a detector found: its name, the place and how sure it is; never the matched text.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How sure a detector is, in the words that officers use in their files.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Likelihood {
    /// The shape fits; nothing else speaks for it.
    Possible,
    /// The shape is rare or a context word stands near.
    Likely,
    /// A validator passed and the context fits, or the shape alone is unmistakable.
    VeryLikely,
}

impl Likelihood {
    /// The word of policy files, as people read it.
    pub fn in_words(self) -> &'static str {
        match self {
            Likelihood::Possible => "possible",
            Likelihood::Likely => "likely",
            Likelihood::VeryLikely => "very likely",
        }
    }
}

/// One thing found in one text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Detector id, as policy files name it: `us_ssn`, `payment_card`.
    pub detector: String,
    /// Path of the text in the request body: `messages[2].content`.
    pub place: String,
    /// How sure the detector is, context words counted in.
    pub likelihood: Likelihood,
    /// Index into [`crate::Prompt::texts`].
    #[serde(skip)]
    pub text: usize,
    /// Byte range in the text as it was written, also of what shows only in a normalised view of it.
    #[serde(default, rename = "bytes")]
    pub span: Range<usize>,
}
