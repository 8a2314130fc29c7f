//! Random walks through forms: whatever is chosen, what comes out is valid.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::*;
use crate::chat::{CallForm, Markup, ReplyReader};
use crate::engine::{Delta, Tool};

/// The shipped model's vocabulary; its ends are tokens 2 and 0.
fn nano() -> &'static (Tokenizer, Arc<Grammars>) {
    static NANO: LazyLock<(Tokenizer, Arc<Grammars>)> = LazyLock::new(|| {
        let json = include_bytes!("../../models/nano/tokenizer.json");
        let tokenizer = Tokenizer::from_json(json).unwrap();
        let grammars = Arc::new(Grammars::new(&tokenizer, &[2, 0]).unwrap());
        (tokenizer, grammars)
    });
    &NANO
}

fn schema(schema: Json, strict: bool) -> Schema {
    Schema { schema, strict, field: "response_format.json_schema.schema".into() }
}

fn person() -> Json {
    json!({"type": "object", "additionalProperties": false,
        "properties": {
            "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
            "address": {"anyOf": [{"$ref": "#/$defs/address"}, {"type": "null"}]}},
        "required": ["name", "age", "tags", "address"],
        "$defs": {"address": {"type": "object", "properties": {"street": {"type": "string"}},
                  "required": ["street"], "additionalProperties": false}}})
}

/// Walks by random choices for some tokens and then takes the short way out.
fn walk(tokenizer: &Tokenizer, at: Constraint, choices: &[u32]) -> Vec<TokenId> {
    walk_within(tokenizer, at, choices, 80)
}

/// The same; the short way has fewer than so many tokens.
fn walk_within(
    tokenizer: &Tokenizer,
    mut at: Constraint,
    choices: &[u32],
    short: usize,
) -> Vec<TokenId> {
    let mut tokens = Vec::new();
    for choice in choices {
        let allowed: Vec<TokenId> = at.allowed().unwrap().iter().collect();
        assert!(!allowed.is_empty(), "a way is always open");
        let token = allowed[*choice as usize % allowed.len()];
        if token == 2 || token == 0 {
            return tokens;
        }
        tokens.push(token);
        if at.take(token).unwrap() {
            return tokens;
        }
    }
    let way = at.closing(CLOSING_TOKENS_MAX).expect("there is a short way out");
    assert!(way.len() < short, "{} tokens: {}", way.len(), tokenizer.decode(&way));
    tokens.extend(way);
    tokens
}

fn is_person(value: &Json) -> bool {
    let Json::Object(fields) = value else { return false };
    let address_fits = match &value["address"] {
        Json::Null => true,
        Json::Object(address) => address.len() == 1 && address["street"].is_string(),
        _ => false,
    };
    let tags = value["tags"].as_array();
    fields.len() == 4
        && value["name"].is_string()
        && value["age"].as_i64().is_some_and(|age| (0..=150).contains(&age))
        && tags.is_some_and(|t| t.len() <= 3 && t.iter().all(|t| t == "red" || t == "green"))
        && address_fits
}

fn tool(name: &str, parameters: Json, strict: bool) -> Tool {
    Tool { name: name.into(), description: None, parameters: Some(parameters), strict }
}

fn marks(form: CallForm) -> CallMarks {
    CallMarks { form, open: Some(5), close: Some(6) }
}

#[test]
fn keywords_that_cannot_be_enforced_are_named_with_their_place() {
    let (_, grammars) = nano();
    let refusal = |form: &Form| grammars.compile(form).err().unwrap().to_string();
    let cases = [
        (
            json!({"not": {"type": "string"}}),
            "the keyword \"not\" cannot be enforced; leave it out",
        ),
        (
            json!({"type": "array", "uniqueItems": true}),
            "the keyword \"uniqueItems\" cannot be enforced; leave it out",
        ),
        (
            json!({"type": "string", "format": "secret-thing"}),
            "the keyword \"format\" cannot be enforced with \"secret-thing\"; leave it out",
        ),
        (
            json!({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}),
            "the keyword \"oneOf\" cannot be enforced here; use \"anyOf\"",
        ),
        (
            json!({"$ref": "https://elsewhere.example/secret.json"}),
            "a \"$ref\" leads nowhere; only places in the schema itself count",
        ),
        (json!(7), "expected a JSON Schema"),
    ];
    for (wrong, reason) in cases {
        let expected = format!("response_format.json_schema.schema: {reason}");
        assert_eq!(refusal(&Form::json(schema(wrong, true))), expected);
    }
    let tools = [
        tool("good", person(), true),
        tool("bad", json!({"properties": {"x": {"not": {}}}}), true),
    ];
    let form = Form::calls(&tools, marks(CallForm::Json), true, None).unwrap();
    assert_eq!(
        refusal(&form),
        "tools[1].function.parameters: the keyword \"not\" cannot be enforced; leave it out"
    );
    let text = json!({"properties": {"x": {"type": "string", "pattern": "a+"}}});
    let error =
        Form::calls(&[tool("t", text, true)], marks(CallForm::Xml), true, None).err().unwrap();
    assert_eq!(
        error.to_string(),
        "tools[0].function.parameters.properties.x: the keyword \"pattern\" cannot be enforced in \
         this model's calls"
    );
}

#[test]
fn what_is_not_strict_leaves_out_what_it_cannot_enforce() {
    let (tokenizer, grammars) = nano();
    let loose = schema(json!({"type": "array", "uniqueItems": true, "items": {"const": 1}}), false);
    let at = grammars.compile(&Form::json(loose)).unwrap();
    let text = tokenizer.decode(&walk(tokenizer, at, &[]));
    assert_eq!(text, "[]");
}

#[test]
fn hostile_schemas_are_refused_or_followed_and_never_panic() {
    let (_, grammars) = nano();
    let deep = (0..100).fold(json!({"type": "null"}), |inner, _| json!({"anyOf": [inner]}));
    let nested = (0..100).fold(json!(1), |inner, _| json!({"const": [inner]}));
    let (mut refused, mut followed) = (0, 0);
    for hostile in [
        deep,
        nested,
        json!({"$ref": "#"}),
        json!({"type": "array", "minItems": 1_000_000_000}),
        json!({"type": "string", "maxLength": 1_000_000_000}),
        json!({"type": "string", "pattern": "((a{1000}){1000}){1000}"}),
        json!({"type": "string", "pattern": "(?=a)("}),
        json!({"type": "object", "required": (0..20_000).map(|i| i.to_string()).collect::<Vec<_>>()}),
        json!({"enum": []}),
        json!({"properties": 7, "required": {}, "type": ["x", 1]}),
    ] {
        let start = grammars.compile(&Form::json(schema(hostile, true)));
        match start.and_then(|mut at| at.allowed()) {
            Ok(tokens) if !tokens.is_zero() => followed += 1,
            _ => refused += 1,
        }
    }
    assert!(refused >= 4 && followed >= 1, "{refused} refused, {followed} followed");
}

/// The library takes time by the square of their number: 20,000 once took half a minute.
#[test]
fn objects_with_more_names_than_any_reply_needs_are_refused_before_they_cost_anything() {
    let (_, grammars) = nano();
    let names = |count: usize| (0..count).map(|i| i.to_string()).collect::<Vec<_>>();
    let object = |count: usize| -> Json {
        names(count).into_iter().map(|name| (name, json!(true))).collect::<Map<_, _>>().into()
    };
    for (large, largest) in [
        (json!({"type": "object", "required": names(1001)}), json!({"required": names(1000)})),
        (json!({"items": {"properties": object(1001)}}), json!({"properties": object(1000)})),
    ] {
        let compile = |schema_json| grammars.compile(&Form::json(schema(schema_json, false)));
        let error = compile(large).err().expect("refused").to_string();
        assert!(error.contains("1000 names"), "{error}");
        assert!(compile(largest).is_ok());
    }
}

#[test]
fn marks_in_texts_are_spelled_in_letters() {
    let (_, grammars) = nano();
    let mut at = grammars.compile(&Form::json(schema(json!({"type": "string"}), true))).unwrap();
    let quote = grammars.quote.unwrap();
    at.take(quote).unwrap();
    let allowed = at.allowed().unwrap();
    assert!((0..7).all(|added| !allowed.is_allowed(added)), "added tokens are no text");
    assert!(allowed.is_allowed(quote));
}

#[test]
fn the_short_way_out_ends_also_what_has_a_pattern() {
    let (tokenizer, grammars) = nano();
    for (wanted, shortest) in [
        (json!({"type": "string", "minLength": 3}), 8),
        (json!({"type": "string", "format": "date"}), 14),
        (json!({"type": "number"}), 2),
        (json!({"type": "array", "minItems": 2, "items": {"type": "boolean"}}), 14),
        (person(), 60),
    ] {
        let at = grammars.compile(&Form::json(schema(wanted.clone(), true))).unwrap();
        let way = at.closing(CLOSING_TOKENS_MAX).unwrap();
        let text = tokenizer.decode(&way);
        assert!(serde_json::from_str::<Json>(&text).is_ok(), "{text}");
        assert!(way.len() <= shortest, "{wanted}: {} tokens: {text}", way.len());
        assert!(at.closing(way.len() - 1).is_none(), "a limit that is too small is said");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_choices_give_what_the_schema_describes(
        choices in prop::collection::vec(any::<u32>(), 0..60)
    ) {
        let (tokenizer, grammars) = nano();
        let at = grammars.compile(&Form::json(schema(person(), true))).unwrap();
        let text = tokenizer.decode(&walk(tokenizer, at, &choices));
        let value: Json = serde_json::from_str(&text).map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
        prop_assert!(is_person(&value), "{}", text);
    }

    #[test]
    fn any_choices_give_a_call_of_a_known_tool(
        choices in prop::collection::vec(any::<u32>(), 0..40)
    ) {
        let (tokenizer, grammars) = nano();
        let tools = [tool("person", person(), true), tool("clock", json!({"additionalProperties": false}), true)];
        let form = Form::calls(&tools, marks(CallForm::Json), true, None).unwrap();
        let tokens = walk(tokenizer, grammars.compile(&form).unwrap(), &choices);
        prop_assert_eq!((tokens[0], *tokens.last().unwrap()), (5, 6));
        let call: Json = serde_json::from_str(&tokenizer.decode(&tokens)).unwrap();
        match call["name"].as_str() {
            Some("person") => prop_assert!(is_person(&call["arguments"])),
            Some("clock") => prop_assert_eq!(&call["arguments"], &json!({})),
            _ => prop_assert!(false, "{}", call),
        }
    }
}

/// Texts, JSON of several kinds, a text or null, what may be left out, and what is not described.
fn forecast() -> Json {
    json!({"type": "object",
        "properties": {
            "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "style": {"type": "string"},
            "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
            "unit": {"enum": ["celsius", "kelvin"]}, "exact": {"type": "boolean"}},
        "required": ["city", "days", "note", "tags", "unit", "hour"]})
}

fn is_forecast(value: &Json) -> bool {
    let Json::Object(fields) = value else { return false };
    let known = ["city", "days", "note", "style", "tags", "unit", "exact", "hour"];
    let text_or =
        |key: &str, other: fn(&Json) -> bool| value[key].is_string() || other(&value[key]);
    let tags = value["tags"].as_array();
    fields.keys().all(|key| known.contains(&key.as_str()))
        && value["city"].is_string()
        && value["days"].as_i64().is_some_and(|days| (1..=9).contains(&days))
        && text_or("note", Json::is_null)
        && fields.contains_key("note")
        && tags.is_some_and(|t| t.len() <= 3 && t.iter().all(|t| t == "red" || t == "green"))
        && (value["unit"] == "celsius" || value["unit"] == "kelvin")
        && fields.contains_key("hour")
        && (!fields.contains_key("style") || value["style"].is_string())
        && (!fields.contains_key("exact") || value["exact"].is_boolean())
}

/// The calls in a reply, as a client gets them: name and arguments of each.
fn calls_in(tokens: &[TokenId], tools: &[Tool]) -> Vec<(String, String)> {
    let (tokenizer, _) = nano();
    let template = "{{ tools }}<tool_call><function=></tool_call>";
    let markup = Markup::new(tokenizer, Some(template));
    assert_eq!(markup.call_form, Some(CallForm::Xml));
    let tools: Arc<[Tool]> = tools.to_vec().into();
    let reader = ReplyReader::new(Vec::new()).unwrap();
    let mut reader = reader.in_chat(&markup, tools, false, false);
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut add = |delta: Delta| {
        assert_eq!(delta.content.trim(), "", "everything belongs to a call");
        for piece in delta.calls {
            match piece.name {
                Some(name) => calls.push((name, piece.arguments)),
                None => calls[piece.index].1 += &piece.arguments,
            }
        }
    };
    for &token in tokens {
        let mut out = Delta::default();
        reader.push(tokenizer.token_bytes(token), markup.marker(token), &mut out);
        add(out);
    }
    let mut out = Delta::default();
    reader.finish(&mut out);
    add(out);
    calls
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_choices_in_xml_form_give_arguments_that_the_schema_describes(
        choices in prop::collection::vec(any::<u32>(), 0..120),
        strict in any::<bool>(),
    ) {
        let (tokenizer, grammars) = nano();
        let tools = [tool("forecast", forecast(), strict), tool("clock", json!({}), strict)];
        let form = Form::calls(&tools, marks(CallForm::Xml), true, None).unwrap();
        let tokens = walk_within(tokenizer, grammars.compile(&form).unwrap(), &choices, 300);
        let calls = calls_in(&tokens, &tools);
        prop_assert_eq!(calls.len(), 1, "{}", tokenizer.decode(&tokens));
        let arguments: Json = serde_json::from_str(&calls[0].1).unwrap();
        match calls[0].0.as_str() {
            "forecast" => prop_assert!(is_forecast(&arguments), "{}", tokenizer.decode(&tokens)),
            _ => prop_assert_eq!(arguments, json!({})),
        }
    }
}

#[test]
fn the_short_way_out_of_an_xml_call_writes_what_is_required() {
    let (tokenizer, grammars) = nano();
    let tools = [tool("forecast", forecast(), true)];
    let form = Form::calls(&tools, marks(CallForm::Xml), true, None).unwrap();
    for begun in [
        "",
        "\n<function=forecast>\n<parameter=city>\nSaid \"hi\" \\ and",
        "\n<function=forecast>\n<parameter=city>\nKiel\n</para",
        "\n<function=forecast>\n<parameter=city>\n<parameter=days>\n",
        "\n<function=forecast>\n<parameter=city>\nx\n</parameter>\n<parameter=days>\n3",
    ] {
        let mut at = grammars.compile(&form).unwrap();
        let mut tokens = vec![5];
        tokens.extend(tokenizer.encode_text(begun).unwrap());
        tokens.iter().for_each(|&token| assert!(!at.take(token).unwrap()));
        tokens.extend(at.closing(CLOSING_TOKENS_MAX).expect("a short way"));
        let calls = calls_in(&tokens, &tools);
        let arguments: Json = serde_json::from_str(&calls[0].1).unwrap();
        assert!(is_forecast(&arguments), "{}", tokenizer.decode(&tokens));
    }
}

#[test]
fn the_short_way_out_of_an_xml_call_leaves_out_what_may_be() {
    let (tokenizer, grammars) = nano();
    let optional = json!({"type": "object", "properties": {
        "a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "string"}}});
    let tools = [tool("any", optional, true)];
    let form = Form::calls(&tools, marks(CallForm::Xml), true, None).unwrap();
    for (begun, expected) in [
        ("", "{}"),
        ("\n<function=any>\n<parameter=b>\n12", "{\"b\": 12}"),
        ("\n<function=any>\n<parameter=a>\nx\n</parameter>\n", "{\"a\": \"x\"}"),
    ] {
        let mut at = grammars.compile(&form).unwrap();
        let mut tokens = vec![5];
        tokens.extend(tokenizer.encode_text(begun).unwrap());
        tokens.iter().for_each(|&token| assert!(!at.take(token).unwrap()));
        tokens.extend(at.closing(CLOSING_TOKENS_MAX).expect("a short way"));
        assert_eq!(calls_in(&tokens, &tools)[0].1, expected);
    }
}

#[test]
fn a_call_in_xml_form_is_forced_into_its_frame() {
    let (tokenizer, grammars) = nano();
    let parameters = json!({"type": "object", "required": ["unit", "days"], "properties": {
        "unit": {"enum": ["celsius"]}, "days": {"type": "integer", "minimum": 3, "maximum": 3}}});
    let form =
        Form::calls(&[tool("w", parameters, true)], marks(CallForm::Xml), true, None).unwrap();
    let mut at = grammars.compile(&form).unwrap();
    let mut tokens = Vec::new();
    loop {
        let allowed: Vec<TokenId> = at.allowed().unwrap().iter().collect();
        tokens.push(allowed[0]);
        if at.take(allowed[0]).unwrap() {
            break;
        }
    }
    assert_eq!(
        tokenizer.decode(&tokens),
        "\n<function=w>\n<parameter=unit>\ncelsius\n</parameter>\n<parameter=days>\n3\n</parameter>\n\
         </function>\n"
    );
}
