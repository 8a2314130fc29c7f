//! Takes a few values out of JSON and reads over the rest, without a tree of all of it.
//!
//! A value of another kind than the one that is looked for counts as absent, and of a name that stands
//! twice the last counts: as in a tree that is asked for the same.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What is looked for at some place. Each method is told of a value of its kind.
pub(super) trait Pick: Default {
    /// A string.
    fn text(&mut self, _text: &str) {}

    /// An integer that is not negative.
    fn number(&mut self, _number: u64) {}

    /// An object, before its fields.
    fn object(&mut self) {}

    /// Takes or reads over the value of one field of an object.
    fn field<'de, A: MapAccess<'de>>(
        &mut self,
        _name: Name,
        object: &mut A,
    ) -> Result<(), A::Error> {
        object.next_value::<IgnoredAny>().map(drop)
    }

    /// Takes or reads over one item of a list; `false` at its end.
    fn item<'de, A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<bool, A::Error> {
        Ok(list.next_element::<IgnoredAny>()?.is_some())
    }
}

/// The names of all fields that are ever looked for.
#[derive(Clone, Copy, serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
pub(super) enum Name {
    Arguments,
    CachedTokens,
    Choices,
    CompletionTokens,
    Content,
    Delta,
    FinishReason,
    Function,
    Index,
    Message,
    PromptTokens,
    PromptTokensDetails,
    Reasoning,
    ReasoningContent,
    Refusal,
    ToolCalls,
    Usage,
    #[serde(other)]
    Other,
}

impl Pick for Option<String> {
    fn text(&mut self, text: &str) {
        *self = Some(text.to_owned());
    }
}

impl Pick for Option<u64> {
    fn number(&mut self, number: u64) {
        *self = Some(number);
    }
}

impl<P: Pick> Pick for Vec<P> {
    fn item<'de, A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<bool, A::Error> {
        let item = list.next_element::<Picked<P>>()?;
        let is_there = item.is_some();
        self.extend(item.map(|Picked(item)| item));
        Ok(is_there)
    }
}

/// What was found at some place.
pub(super) struct Picked<P>(pub(super) P);

impl<P: Pick> Picked<P> {
    /// What the value of a field holds.
    pub(super) fn next<'de, A: MapAccess<'de>>(object: &mut A) -> Result<P, A::Error> {
        object.next_value::<Picked<P>>().map(|Picked(found)| found)
    }
}

impl<'de, P: Pick> Deserialize<'de> for Picked<P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Picker(PhantomData)).map(Picked)
    }
}

struct Picker<P>(PhantomData<P>);

impl<'de, P: Pick> Visitor<'de> for Picker<P> {
    type Value = P;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<P, E> {
        Ok(P::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<P, E> {
        Ok(P::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<P, E> {
        Ok(P::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<P, E> {
        Ok(P::default())
    }

    fn visit_u64<E>(self, number: u64) -> Result<P, E> {
        let mut found = P::default();
        found.number(number);
        Ok(found)
    }

    fn visit_str<E>(self, text: &str) -> Result<P, E> {
        let mut found = P::default();
        found.text(text);
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<P, A::Error> {
        let mut found = P::default();
        while found.item(&mut list)? {}
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<P, A::Error> {
        let mut found = P::default();
        found.object();
        while let Some(name) = object.next_key()? {
            found.field(name, &mut object)?;
        }
        Ok(found)
    }
}
