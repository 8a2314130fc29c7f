//! Reads typed values from a located tree: serde's derives, with places in every error.
//!
//! The types of the policy language are plain structs with `deny_unknown_fields`. This deserializer
//! gives them what a YAML crate's own cannot: an unknown key points at the key and suggests the
//! nearest one; `At` remembers where a value stood, for errors that only a later check can find;
//! `Each` and `Named` go on after a broken element, so that one load reports them all.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::wrappers::{AT, EACH, LIST, NAMED};
use super::{Complaint, Key, Kind, Node};
use crate::error::suggest;

/// Reads a value of type `T`; every mistake that can be found alone is reported.
pub(crate) fn read<T: DeserializeOwned>(node: &Node) -> Result<T, Vec<Complaint>> {
    let sink = RefCell::new(Vec::new());
    let value = T::deserialize(Reader { node, sink: &sink });
    let mut complaints = sink.into_inner();
    match value {
        Ok(value) if complaints.is_empty() => Ok(value),
        Ok(_) => Err(complaints),
        Err(complaint) => {
            complaints.push(complaint);
            Err(complaints)
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Complaint {}

impl Complaint {
    fn unplaced(message: String, hint: Option<String>) -> Self {
        Complaint { line: 0, column: 0, message, hint }
    }

    /// Places the complaint unless something deeper already did.
    fn or_at(mut self, line: u32, column: u32) -> Self {
        if self.line == 0 {
            (self.line, self.column) = (line, column);
        }
        self
    }
}

impl de::Error for Complaint {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Complaint::unplaced(message.to_string(), None)
    }

    fn invalid_type(got: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let hint = match got {
            de::Unexpected::Str(word) => word_hint(word),
            de::Unexpected::Bool(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => {
                Some("put quotes around it if you mean the text".to_owned())
            }
            _ => None,
        };
        let message = format!("expected {}, got {}", expected_in_words(expected), in_words(got));
        Complaint::unplaced(message, hint)
    }

    fn invalid_value(got: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let message = format!("expected {}, got {}", expected_in_words(expected), in_words(got));
        Complaint::unplaced(message, None)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let message = format!("expected one of {}, got \"{variant}\"", expected.join(", "));
        let near = suggest(variant, expected.iter().copied());
        Complaint::unplaced(message, near.filter(|hint| hint.starts_with("did you")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let hint = suggest(field, expected.iter().copied());
        Complaint::unplaced(format!("unknown key \"{field}\""), hint)
    }

    fn missing_field(field: &'static str) -> Self {
        let hint = format!("add {field}: …");
        Complaint::unplaced(format!("missing key \"{field}\""), Some(hint))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Complaint::unplaced(format!("duplicate key \"{field}\""), None)
    }
}

/// What a reader expects, without the names that only programmers know.
fn expected_in_words(expected: &dyn de::Expected) -> String {
    let words = expected.to_string();
    let plain = match words.split_once(' ').map_or(words.as_str(), |(first, _)| first) {
        "struct" => "a map of keys",
        "enum" | "variant" => "one word",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        _ => match words.as_str() {
            "a boolean" => "true or false",
            "a string" => "text",
            "a sequence" => "a list",
            _ => return words,
        },
    };
    plain.to_owned()
}

fn in_words(got: de::Unexpected<'_>) -> String {
    match got {
        de::Unexpected::Str(text) => format!("\"{text}\""),
        de::Unexpected::Signed(number) => number.to_string(),
        de::Unexpected::Float(number) => number.to_string(),
        de::Unexpected::Bool(value) => value.to_string(),
        de::Unexpected::Unit | de::Unexpected::Option => "nothing".to_owned(),
        de::Unexpected::Seq => "a list".to_owned(),
        de::Unexpected::Map => "a map".to_owned(),
        other => other.to_string(),
    }
}

fn word_hint(word: &str) -> Option<String> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "on" | "y" | "true" => Some("write true, without quotes".to_owned()),
        "no" | "off" | "n" | "false" => Some("write false, without quotes".to_owned()),
        _ => None,
    }
}

/// A node about to be read.
#[derive(Clone, Copy)]
struct Reader<'de> {
    node: &'de Node,
    sink: &'de RefCell<Vec<Complaint>>,
}

impl<'de> Reader<'de> {
    fn of(&self, node: &'de Node) -> Reader<'de> {
        Reader { node, sink: self.sink }
    }

    fn visit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Complaint> {
        match &self.node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(*value),
            Kind::Int(value) => visitor.visit_i64(*value),
            Kind::Float(value) => visitor.visit_f64(*value),
            Kind::Text(text) => visitor.visit_borrowed_str(text),
            Kind::List(items) => visitor.visit_seq(Items { reader: self, items: items.iter() }),
            Kind::Map(entries) => {
                visitor.visit_map(Entries { reader: self, entries: entries.iter(), value: None })
            }
        }
    }

    fn placed<T>(self, result: Result<T, Complaint>) -> Result<T, Complaint> {
        result.map_err(|complaint| complaint.or_at(self.node.line, self.node.column))
    }

    /// The elements of a list, or the node itself as the only element.
    fn items_or_self(&self) -> std::slice::Iter<'de, Node> {
        match &self.node.kind {
            Kind::List(items) => items.iter(),
            _ => std::slice::from_ref(self.node).iter(),
        }
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Complaint;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Complaint> {
        self.placed(self.visit(visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Complaint> {
        match self.node.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Complaint> {
        let result = match name {
            AT => visitor.visit_seq(Place { reader: self, step: 0 }),
            LIST => visitor.visit_seq(Items { reader: self, items: self.items_or_self() }),
            EACH if matches!(self.node.kind, Kind::List(_)) => {
                visitor.visit_seq(Collect(Items { reader: self, items: self.items_or_self() }))
            }
            EACH => Err(Complaint::unplaced("expected a list".to_owned(), None)),
            NAMED => match &self.node.kind {
                Kind::Map(entries) => {
                    visitor.visit_seq(NamedItems { reader: self, entries: entries.iter() })
                }
                _ => Err(Complaint::unplaced("expected a map of names".to_owned(), None)),
            },
            _ => visitor.visit_newtype_struct(self),
        };
        self.placed(result)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Complaint> {
        let result = match &self.node.kind {
            Kind::Text(_) => visitor.visit_enum(Variant { tag: None, reader: self }),
            Kind::Map(entries) if entries.len() == 1 => {
                let (key, value) = &entries[0];
                visitor.visit_enum(Variant { tag: Some(key), reader: self.of(value) })
            }
            _ => self.visit(visitor),
        };
        self.placed(result)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de> {
    reader: Reader<'de>,
    items: std::slice::Iter<'de, Node>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Complaint;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Complaint> {
        let Some(node) = self.items.next() else { return Ok(None) };
        seed.deserialize(self.reader.of(node)).map(Some)
    }
}

/// Like [`Items`], but the complaint of a broken element goes to the sink and reading goes on.
struct Collect<'de>(Items<'de>);

impl<'de> SeqAccess<'de> for Collect<'de> {
    type Error = Complaint;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Complaint> {
        let sink = self.0.reader.sink;
        self.0.next_element_seed(seed).inspect_err(|complaint| {
            sink.borrow_mut().push(complaint.clone());
        })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.items.len())
    }
}

/// The entries of a map as pairs of a placed name and a value.
struct NamedItems<'de> {
    reader: Reader<'de>,
    entries: std::slice::Iter<'de, (Key, Node)>,
}

impl<'de> SeqAccess<'de> for NamedItems<'de> {
    type Error = Complaint;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Complaint> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        let pair = Pair { key: Some(key), reader: self.reader.of(node) };
        seed.deserialize(PairReader(pair)).map(Some).inspect_err(|complaint| {
            self.reader.sink.borrow_mut().push(complaint.clone());
        })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

struct PairReader<'de>(Pair<'de>);

impl<'de> Deserializer<'de> for PairReader<'de> {
    type Error = Complaint;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Complaint> {
        visitor.visit_seq(self.0)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

/// A name, then its value.
struct Pair<'de> {
    key: Option<&'de Key>,
    reader: Reader<'de>,
}

impl<'de> SeqAccess<'de> for Pair<'de> {
    type Error = Complaint;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Complaint> {
        match self.key.take() {
            Some(key) => seed.deserialize(KeyReader { key }).map(Some),
            None => seed.deserialize(self.reader).map(Some),
        }
    }
}

struct Entries<'de> {
    reader: Reader<'de>,
    entries: std::slice::Iter<'de, (Key, Node)>,
    value: Option<&'de Node>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Complaint;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Complaint> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(KeyReader { key }).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Complaint> {
        let value = self.value.take().expect("serde asks for a value only after its key");
        seed.deserialize(self.reader.of(value))
    }
}

/// A key about to be read.
#[derive(Clone, Copy)]
struct KeyReader<'de> {
    key: &'de Key,
}

impl<'de> Deserializer<'de> for KeyReader<'de> {
    type Error = Complaint;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Complaint> {
        let result = visitor.visit_borrowed_str(&self.key.name);
        result.map_err(|complaint: Complaint| complaint.or_at(self.key.line, self.key.column))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Complaint> {
        match name {
            AT => visitor.visit_seq(KeyPlace { key: self.key, step: 0 }),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Complaint> {
        let result = visitor.visit_enum(BorrowedStrDeserializer::<Complaint>::new(&self.key.name));
        result.map_err(|complaint| complaint.or_at(self.key.line, self.key.column))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// What [`At`] reads for a key: line, column, name.
struct KeyPlace<'de> {
    key: &'de Key,
    step: u8,
}

impl<'de> SeqAccess<'de> for KeyPlace<'de> {
    type Error = Complaint;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Complaint> {
        self.step += 1;
        match self.step {
            1 => seed.deserialize(self.key.line.into_deserializer()).map(Some),
            2 => seed.deserialize(self.key.column.into_deserializer()).map(Some),
            _ => seed.deserialize(KeyReader { key: self.key }).map(Some),
        }
    }
}

/// What [`At`] reads for a value: line, column, value.
struct Place<'de> {
    reader: Reader<'de>,
    step: u8,
}

impl<'de> SeqAccess<'de> for Place<'de> {
    type Error = Complaint;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Complaint> {
        self.step += 1;
        match self.step {
            1 => seed.deserialize(self.reader.node.line.into_deserializer()).map(Some),
            2 => seed.deserialize(self.reader.node.column.into_deserializer()).map(Some),
            _ => seed.deserialize(self.reader).map(Some),
        }
    }
}

/// An enum: a plain word, or a map with one key that names the variant.
struct Variant<'de> {
    tag: Option<&'de Key>,
    reader: Reader<'de>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Complaint;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Complaint> {
        let variant = match self.tag {
            Some(key) => seed.deserialize(KeyReader { key })?,
            None => seed.deserialize(self.reader)?,
        };
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Complaint;

    fn unit_variant(self) -> Result<(), Complaint> {
        match self.tag {
            None => Ok(()),
            Some(key) => {
                let message = format!("\"{}\" takes no value", key.name);
                Err(Complaint::unplaced(message, None).or_at(key.line, key.column))
            }
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Complaint> {
        self.tag.ok_or_else(|| self.reader.node.complaint("expected a map with a value"))?;
        seed.deserialize(self.reader)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Complaint> {
        self.reader.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Complaint> {
        self.reader.deserialize_any(visitor)
    }
}
