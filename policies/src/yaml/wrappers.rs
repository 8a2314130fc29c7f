//! Wrappers that the types of the policy language use: a value with its place, one or many, lists and
//! maps that go on after a broken element.
//!
//! Each asks the deserializer for a newtype of a reserved name; `typed` knows the names and answers
//! with what the wrapper needs. Other deserializers cannot read them, and none is asked to.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::Complaint;

pub(super) const AT: &str = "sluice::At";
pub(super) const LIST: &str = "sluice::List";
pub(super) const EACH: &str = "sluice::Each";
pub(super) const NAMED: &str = "sluice::Named";

/// A value and where it stood; line 0 when it was not read from a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl<T> At<T> {
    /// A complaint that points at this value.
    pub(crate) fn complaint(&self, message: impl Into<String>, hint: Option<String>) -> Complaint {
        Complaint { line: self.line, column: self.column, message: message.into(), hint }
    }
}

/// One value or a list of them: `zone: edge` means `zone: [edge]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

/// A list whose broken elements are reported one by one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Each<T>(pub(crate) Vec<T>);

/// A map from names to values, in the order of the file; broken values are reported one by one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Named<T>(pub(crate) Vec<(At<String>, T)>);

impl<T> Default for List<T> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<T> Default for Each<T> {
    fn default() -> Self {
        Each(Vec::new())
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(AT, AtVisitor(PhantomData))
    }
}

struct AtVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AtVisitor<T> {
    type Value = At<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<At<T>, D::Error> {
        Ok(At { value: T::deserialize(inner)?, line: 0, column: 0 })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<At<T>, A::Error> {
        let missing = || de::Error::custom("a placed value has three parts");
        let line = parts.next_element()?.ok_or_else(missing)?;
        let column = parts.next_element()?.ok_or_else(missing)?;
        Ok(At { value: parts.next_element()?.ok_or_else(missing)?, line, column })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(LIST, ListVisitor(PhantomData)).map(List)
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(list)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Each<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(EACH, TolerantVisitor(PhantomData)).map(Each)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(NAMED, TolerantVisitor(PhantomData)).map(Named)
    }
}

/// Keeps the elements that could be read; the complaints about the others are in the sink.
struct TolerantVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TolerantVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        for _ in 0..items.size_hint().unwrap_or(0) {
            if let Ok(Some(item)) = items.next_element() {
                list.push(item);
            }
        }
        Ok(list)
    }
}

/// Editors see through the wrappers: a place is no part of the file.
macro_rules! inline_schema {
    ($wrapper:ident, $schema:expr) => {
        impl<T: JsonSchema> JsonSchema for $wrapper<T> {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                format!("{}_{}", stringify!($wrapper), T::schema_name()).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let describe: fn(Schema) -> Schema = $schema;
                describe(generator.subschema_for::<T>())
            }
        }
    };
}

inline_schema!(At, |item| item);
inline_schema!(List, |item| {
    json_schema!({"anyOf": [item.clone(), {"type": "array", "items": item}]})
});
inline_schema!(Each, |item| json_schema!({"type": "array", "items": item}));
inline_schema!(Named, |item| json_schema!({"type": "object", "additionalProperties": item}));
