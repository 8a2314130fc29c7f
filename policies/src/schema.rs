//! JSON Schema of the policy files, generated from the types that read them, so that editors complete
//! keys and check values while an officer types.
//!
//! The schemas in `policies/schema/` are this module's output; a test keeps them so. What a schema
//! cannot say (that a class exists, that a date is one) the loader says.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema, schema_for};
use serde_json::Value;

use crate::condition::Near;
use crate::demand::{Demand, GoesTo};
use crate::latency::Wait;
use crate::pack::{DetectorFileSpec, PackSpec};
use crate::site::SiteSpec;

/// The kinds of policy files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSchema {
    /// `packs/*.yaml`
    Pack,
    /// `site.yaml`
    Site,
    /// `detectors/*.yaml`
    Detectors,
}

impl FileSchema {
    /// All kinds.
    pub const ALL: [FileSchema; 3] = [FileSchema::Pack, FileSchema::Site, FileSchema::Detectors];

    /// Name of the file in `policies/schema/`.
    pub fn file_name(self) -> &'static str {
        match self {
            FileSchema::Pack => "policy.schema.json",
            FileSchema::Site => "site.schema.json",
            FileSchema::Detectors => "detectors.schema.json",
        }
    }

    /// The schema as JSON, indented, with a line end.
    pub fn json(self) -> String {
        let schema = match self {
            FileSchema::Pack => schema_for!(PackSpec),
            FileSchema::Site => schema_for!(SiteSpec),
            FileSchema::Detectors => schema_for!(DetectorFileSpec),
        };
        let json = serde_json::to_string_pretty(&sorted(schema.into()));
        format!("{}\n", json.expect("a schema is plain JSON"))
    }
}

/// A value with the keys of all its objects in order, whether or not this build keeps another.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<String, Value> = map.into_iter().collect();
            Value::Object(map.into_iter().map(|(key, inner)| (key, sorted(inner))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        other => other,
    }
}

impl JsonSchema for GoesTo {
    fn schema_name() -> Cow<'static, str> {
        "GoesTo".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let demand = generator.subschema_for::<Demand>();
        json_schema!({"anyOf": [
            {"enum": ["anywhere", "nowhere"]},
            demand.clone(),
            {"type": "array", "items": demand, "minItems": 1},
        ]})
    }
}

impl JsonSchema for Near {
    fn schema_name() -> Cow<'static, str> {
        "Near".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(sentence|message|request|conversation|[1-9][0-9]* characters)$",
        })
    }
}

impl JsonSchema for Wait {
    fn schema_name() -> Cow<'static, str> {
        "Wait".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[1-9][0-9]* ?(ms|s|m|h)$"})
    }
}
