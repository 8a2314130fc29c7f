//! Takes a few values out of JSON and reads over the rest, without a tree of all of it.
//!
//! A value of another kind than the one that is looked for counts as absent, and of a name that stands
//! twice the last counts: as in a tree that is asked for the same.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::reply_scan::{NUMBER_MIN, Place, is_no_text};

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

/// The name of a field.
pub(super) type Name = Place;

struct NameVisitor;

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_identifier(NameVisitor)
    }
}

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(Place::of(name))
    }
}

/// A text, and where it stands below what was looked into.
pub(super) type Found = (Place, String);

/// Takes every text of a value, wherever it stands in it.
pub(super) struct EveryText<'f> {
    pub(super) at: Place,
    pub(super) found: &'f mut Vec<Found>,
}

impl EveryText<'_> {
    fn number(self, is_long: bool, number: impl fmt::Display) {
        if is_long {
            self.found.push((self.at, number.to_string()));
        }
    }
}

impl<'de> DeserializeSeed<'de> for EveryText<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for EveryText<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.number(number >= NUMBER_MIN, number);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.number(number.unsigned_abs() >= NUMBER_MIN, number);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.number(number.abs() >= NUMBER_MIN as f64, number);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if !text.is_empty() {
            self.found.push((self.at, text.to_owned()));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let EveryText { at, found } = self;
        let mut index = 0;
        while list.next_element_seed(EveryText { at: at.item(index), found })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let EveryText { at, found } = self;
        while let Some(NameBelow { name, at }) = object.next_key_seed(Below(at))? {
            match is_no_text(name) {
                true => drop(object.next_value::<IgnoredAny>()?),
                false => object.next_value_seed(EveryText { at, found })?,
            }
        }
        Ok(())
    }
}

/// Reads a name as such, and as a place below another.
struct Below(Place);

struct NameBelow {
    name: Name,
    at: Place,
}

impl<'de> DeserializeSeed<'de> for Below {
    type Value = NameBelow;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<NameBelow, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Below {
    type Value = NameBelow;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<NameBelow, E> {
        Ok(NameBelow { name: Place::of(name), at: self.0.below(name) })
    }
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
