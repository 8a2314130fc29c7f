//! Replies with forms, calls, thoughts, scores; several replies to one prompt.

use serde_json::{Value as Json, json};

use super::*;

/// Tools are named, so that the template counts as one that knows them; thoughts are the model's.
const TOOL_TEMPLATE: &str = "{% for m in messages %}{{ m.role + '\\n' + m.content + '\\n' }}{% endfor %}\
    {% for t in tools %}{{ t.function.name }}{% endfor %}{# <tool_call> </tool_call> </think> #}\
    {% if enable_thinking %}{{ '<think>' }}{% endif %}";

fn tool(name: &str, parameters: Json, strict: bool) -> Tool {
    Tool { name: name.into(), description: None, parameters: Some(parameters), strict }
}

fn chat(tools: Vec<Tool>, tool_choice: ToolChoice) -> Conversation {
    let messages = vec![ChatMessage::new("user", "hi")];
    Conversation { messages, tools, tool_choice, ..Conversation::default() }
}

fn asking(chat: Conversation) -> GenerationRequest {
    GenerationRequest::new(PromptInput::Chat(chat))
}

/// The whole reply of a model that answers this chat so, if its form lets it.
fn reply(request: GenerationRequest, script: &str) -> (Delta, String) {
    reply_by(TOOL_TEMPLATE, request, script)
}

/// The same with another template.
fn reply_by(template: &str, request: GenerationRequest, script: &str) -> (Delta, String) {
    let mut bench = Bench::with_template(Scripted::default(), template);
    let prompt = bench.engine.shared.rendered(&request.prompt).unwrap().tokens;
    bench.model.replies.insert(prompt, toy_tokenizer().encode_text(script).unwrap());
    let mut stream = bench.engine.submit(request).unwrap();
    let mut events = Vec::new();
    // Read as it comes: a long reply waits for its reader.
    while bench.round() {
        events.extend(take(&mut stream));
    }
    events.extend(take(&mut stream));
    let mut whole = Delta::default();
    for event in &events {
        let StreamEvent::Delta(delta) = event else { continue };
        whole.reasoning += &delta.reasoning;
        whole.content += &delta.content;
        whole.logprobs.extend(delta.logprobs.clone());
        for piece in &delta.calls {
            match whole.calls.get_mut(piece.index) {
                Some(call) => call.arguments += &piece.arguments,
                None => whole.calls.push(piece.clone()),
            }
        }
    }
    (whole, end_of(&events))
}

fn json_of(format: ReplyFormat, max_tokens: usize) -> (Json, String) {
    let max_tokens = Some(max_tokens);
    let request = GenerationRequest { format, max_tokens, ..plain("hi") };
    let mut bench = Bench::new(Scripted::default(), 1, 1);
    let mut stream = bench.engine.submit(request).unwrap();
    let (mut text, mut end) = (String::new(), String::new());
    // Read as it comes: a long reply waits for its reader.
    while bench.round() {
        let events = take(&mut stream);
        text += &text_of(&events);
        end = end_of(&events);
    }
    (serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")), end)
}

#[test]
fn a_babbling_model_writes_json_that_is_whole_when_its_tokens_run_out() {
    let schema = json!({"type": "object", "properties": {
        "word": {"type": "string"}, "list": {"type": "array", "items": {"type": "integer"}},
        "deep": {"type": "object", "properties": {"yes": {"type": "boolean"}},
                 "required": ["yes"], "additionalProperties": false}},
        "required": ["word", "list", "deep"], "additionalProperties": false});
    let format = || ReplyFormat::JsonSchema { schema: schema.clone(), strict: true };
    for max_tokens in [60, 64, 100, 300] {
        let (value, end) = json_of(format(), max_tokens);
        assert!(value["word"].is_string() && value["deep"]["yes"].is_boolean(), "{value}");
        assert_eq!(end, "Length", "babble never ends its word by itself");
    }
    let (value, end) = json_of(ReplyFormat::JsonObject, 40);
    assert!(value.is_object() && end == "Length", "{value} {end}");
    let short = ReplyFormat::JsonSchema { schema: json!({"const": [1]}), strict: true };
    assert_eq!(json_of(short, 40), (json!([1]), "Stop".into()));
}

#[test]
fn a_limit_below_the_shortest_form_cuts_it_off() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}},
                        "required": ["a"]});
    let format = ReplyFormat::JsonSchema { schema, strict: true };
    let request = GenerationRequest { format, max_tokens: Some(5), ..plain("hi") };
    let (text, end, _) = reply_to(Scripted::default(), request);
    assert_eq!((&*text, &*end), ("{\"a\":", "Length"));
}

#[test]
fn a_form_waits_for_the_end_of_thoughts() {
    let format = ReplyFormat::JsonSchema { schema: json!({"enum": [[1], [2]]}), strict: true };
    let thinking = Some(true);
    let request = GenerationRequest {
        format,
        ..asking(Conversation { thinking, ..chat(vec![], ToolChoice::Auto) })
    };
    let (whole, end) = reply(request, "two?\n</think>");
    assert_eq!((&*whole.reasoning, &*end), ("two?", "Stop"));
    assert!(whole.content == "[1]" || whole.content == "[2]", "{}", whole.content);
}

#[test]
fn calls_of_a_model_that_knows_how_are_told_apart_from_text() {
    let tools = vec![tool("clock", json!({"type": "object"}), false)];
    let script =
        "Let me see.\n<tool_call>{\"name\": \"clock\", \"arguments\": {\"a\": 1}}</tool_call>";
    let (whole, end) = reply(asking(chat(tools.clone(), ToolChoice::Auto)), script);
    assert_eq!((&*whole.content, &*end), ("Let me see.", "ToolCalls"));
    assert_eq!(whole.calls[0].arguments, "{\"a\": 1}");
    let (whole, end) = reply(asking(chat(tools, ToolChoice::None)), script);
    assert_eq!((whole.content.as_str(), whole.calls.len(), &*end), (script, 0, "Stop"));
}

#[test]
fn a_strict_call_follows_its_schema_whatever_the_model_wants() {
    let parameters = json!({"type": "object", "properties": {"a": {"const": 7}},
                            "required": ["a"], "additionalProperties": false});
    let tools = vec![tool("clock", parameters, true)];
    let script = "See: <tool_call>{\"name\": \"nuke\"}";
    let (whole, end) = reply(asking(chat(tools, ToolChoice::Auto)), script);
    assert_eq!((whole.calls[0].name.as_deref(), &*end), (Some("clock"), "ToolCalls"));
    assert_eq!(whole.calls[0].arguments, "{\"a\": 7}");
}

#[test]
fn an_xml_call_that_is_cut_off_has_all_its_required_parameters() {
    let template = TOOL_TEMPLATE.replace("{# ", "{# <function= ");
    let parameters = json!({"type": "object", "additionalProperties": false, "properties": {
        "city": {"type": "string"}, "more": {"type": "string"}, "days": {"type": "integer"},
        "kind": {"enum": ["a", "b"]}}, "required": ["city", "days", "kind"]});
    for (choice, max_tokens) in [(ToolChoice::Required, 220), (ToolChoice::Auto, 260)] {
        let request = GenerationRequest {
            max_tokens: Some(max_tokens),
            ..asking(chat(vec![tool("w", parameters.clone(), true)], choice.clone()))
        };
        let (whole, end) = reply_by(&template, request, "<tool_call>");
        assert_eq!(end, "Length", "babble never ends its text by itself");
        let arguments: Json = serde_json::from_str(&whole.calls[0].arguments).unwrap();
        let city = arguments["city"].as_str().expect("a text");
        assert!(city.len() > 20, "as much as there was room for: {city:?}");
        assert!(arguments["days"].is_i64() && arguments["more"].is_null(), "{arguments}");
        assert!(arguments["kind"] == "a" || arguments["kind"] == "b", "{arguments}");
    }
}

#[test]
fn a_tool_that_is_asked_for_is_called() {
    let nothing = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let tools = vec![tool("clock", nothing.clone(), false), tool("date", nothing, false)];
    let named = ToolChoice::Named("date".into());
    let (whole, end) = reply(asking(chat(tools.clone(), named)), "I will not.");
    assert_eq!((whole.calls[0].name.as_deref(), whole.calls.len()), (Some("date"), 1));
    assert_eq!((&*whole.content, &*end), ("", "ToolCalls"));
    let once = Conversation { one_call: true, ..chat(tools, ToolChoice::Required) };
    let (whole, end) = reply(asking(once), "I will not.");
    assert_eq!((whole.calls.len(), &*end), (1, "ToolCalls"));
}

#[test]
fn what_the_model_cannot_do_is_refused_by_name() {
    let tools = vec![tool("clock", json!({}), false)];
    let refusal = |bench: &Bench, request| bench.engine.submit(request).err().unwrap().to_string();
    let plain_bench = Bench::new(Scripted::default(), 1, 1);
    assert_eq!(
        refusal(&plain_bench, asking(chat(tools.clone(), ToolChoice::Auto))),
        "tools: this model's chat template knows no tools"
    );
    let bench = Bench::with_template(Scripted::default(), TOOL_TEMPLATE);
    let unknown = chat(tools, ToolChoice::Named("x".into()));
    assert_eq!(
        refusal(&bench, asking(unknown)),
        "tool_choice: expected the name of one of the request's tools"
    );
    let scores = GenerationRequest { logprobs: Some(21), ..plain("hi") };
    assert_eq!(refusal(&bench, scores), "top_logprobs: expected at most 20, got 21");
    let many = bench.engine.submit_choices(plain("hi"), 17).err().unwrap().to_string();
    assert_eq!(many, "n: expected a number from 1 to 16, got 17");
}

#[test]
fn scores_are_those_of_the_text_that_is_shown() {
    let request = GenerationRequest {
        logprobs: Some(2),
        stop: vec!["3 4".into()],
        ..asking(chat(vec![], ToolChoice::Auto))
    };
    let (whole, _) = reply(request, "1 2 3 4 5");
    let spelled: Vec<u8> = whole.logprobs.iter().flat_map(|t| t.chosen.bytes.clone()).collect();
    assert_eq!((&*whole.content, &spelled[..]), ("1 2 ", &b"1 2 "[..]));
    for token in &whole.logprobs {
        assert_eq!(token.likeliest.len(), 2);
        assert_eq!(token.likeliest[0].bytes, token.chosen.bytes);
        assert!(token.chosen.logprob > -1e-3 && token.likeliest[1].logprob < -10.0);
    }
}

#[test]
fn several_replies_read_their_prompt_once() {
    let mut bench = Bench::new(Scripted::default(), 2, 4);
    let sampling = SamplingOptions { temperature: Some(1.0), seed: Some(1), ..Default::default() };
    let request = GenerationRequest { sampling, max_tokens: Some(6), ..plain(&long_prompt(40)) };
    let mut streams = bench.engine.submit_choices(request.clone(), 3).unwrap();
    while bench.round() {}
    let texts: Vec<String> = streams.iter_mut().map(|stream| text_of(&take(stream))).collect();
    assert_eq!(bench.model.rounds.lock().unwrap()[0], [40], "the prompt, for all three");
    let read: usize = bench.model.rounds.lock().unwrap().concat().iter().sum();
    assert_eq!(read, 40 + 3 * 5, "and then only what each one says");
    assert_eq!(texts[0], spoken_alone(request), "the first is the one that comes alone");
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
}

#[test]
fn a_reader_that_leaves_takes_only_its_own_reply() {
    let mut bench = Bench::new(Scripted::default(), 4, 4);
    let request = GenerationRequest { max_tokens: Some(6), ..plain(&long_prompt(9)) };
    let mut streams = bench.engine.submit_choices(request, 3).unwrap();
    drop(streams.remove(0));
    bench.rounds(1);
    drop(streams.remove(0));
    while bench.round() {}
    let events = take(&mut streams[0]);
    assert_eq!((text_of(&events).len(), &*end_of(&events)), (6, "Length"));
}

#[test]
fn more_replies_than_places_wait_until_they_are_alone() {
    let mut bench = Bench::new(Scripted::default(), 2, 4);
    let request = |tokens| GenerationRequest { max_tokens: Some(tokens), ..plain("hi") };
    let mut first = bench.engine.submit(request(3)).unwrap();
    let mut many = bench.engine.submit_choices(request(2), 3).unwrap();
    bench.rounds(2);
    assert_eq!(bench.running(), 1, "three more do not fit beside it");
    while bench.round() {}
    assert_eq!(end_of(&take(&mut first)), "Length");
    assert!(many.iter_mut().all(|stream| end_of(&take(stream)) == "Length"));
}
