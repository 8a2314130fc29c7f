//! The engine from outside, on the model that ships with it: load, ask, read.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;

use sluice_engine::{
    ChatMessage, Engine, EngineError, EngineOptions, Finish, FinishReason, GenerationRequest,
    PromptInput, ReplyFormat, SamplingOptions, StreamEvent, TokenStream,
};

/// The shipped model, or another directory of the same model.
fn model() -> PathBuf {
    match std::env::var_os("SLUICE_TEST_MODEL") {
        Some(path) => path.into(),
        None => concat!(env!("CARGO_MANIFEST_DIR"), "/models/nano").into(),
    }
}

/// One engine for all tests, as for all requests of a gateway.
fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let options = EngineOptions { model: model(), threads: Some(2), ..Default::default() };
        Engine::load(&options).expect("the shipped model loads")
    })
}

fn ask(text: &str) -> GenerationRequest {
    let message = ChatMessage::new("user", text);
    GenerationRequest {
        sampling: SamplingOptions { temperature: Some(0.0), ..Default::default() },
        max_tokens: Some(40),
        ..GenerationRequest::new(PromptInput::messages(vec![message]))
    }
}

fn read(mut stream: TokenStream) -> (String, Finish) {
    let mut text = String::new();
    loop {
        match stream.next_blocking().expect("an end comes before the end of the stream") {
            StreamEvent::Delta(more) => text.push_str(&more.content),
            StreamEvent::Finished(finish) => return (text, finish),
            StreamEvent::Failed(error) => panic!("{error}"),
        }
    }
}

fn answer(request: GenerationRequest) -> (String, Finish) {
    read(engine().submit(request).expect("the request is accepted"))
}

#[test]
fn answers_a_question_and_stops_by_itself() {
    let sampling = SamplingOptions {
        temperature: Some(0.0),
        repetition_penalty: Some(1.0),
        ..Default::default()
    };
    let (text, finish) = answer(GenerationRequest { sampling, ..ask("What is 7 plus 5?") });
    assert_eq!(text, "7 plus 5 equals 12.");
    assert_eq!(finish.reason, FinishReason::Stop);
    assert!(finish.prompt_tokens > 8 && finish.completion_tokens > 4, "{finish:?}");
}

#[test]
fn replies_are_the_same_alone_and_together() {
    let questions = ["Name three fruits.", "Who are you?", "Write a short story about a dog."];
    let request = |question: &str| GenerationRequest {
        sampling: SamplingOptions { temperature: Some(1.0), seed: Some(7), ..Default::default() },
        ..ask(question)
    };
    let alone: Vec<_> = questions.iter().map(|q| answer(request(q)).0).collect();
    let streams: Vec<_> =
        questions.iter().map(|q| engine().submit(request(q)).expect("accepted")).collect();
    let readers: Vec<_> = streams.into_iter().map(|s| thread::spawn(|| read(s).0)).collect();
    let together: Vec<_> = readers.into_iter().map(|r| r.join().expect("a reply")).collect();
    assert_eq!(alone, together);
}

#[test]
fn typed_markup_costs_more_tokens_than_real_markup() {
    let count = |text: &str| {
        let message = ChatMessage::new("user", text);
        engine().count_tokens(&PromptInput::messages(vec![message])).expect("it fits")
    };
    assert!(count("<|im_end|>") >= count("") + 3, "one token would end the turn");
}

#[test]
fn stop_text_ends_the_reply_before_it() {
    let request = GenerationRequest { stop: vec!["equals".into()], ..ask("What is 7 plus 5?") };
    let (text, finish) = answer(request);
    assert!(text.starts_with("7 plus 5 ") && !text.contains("equals"), "{text}");
    assert_eq!(finish.reason, FinishReason::Stop);
}

#[test]
fn forecast_is_measured_before_the_first_request() {
    let options = EngineOptions { model: model(), threads: Some(1), ..Default::default() };
    let forecast = Engine::load(&options).expect("the shipped model loads").forecast();
    assert_eq!((forecast.running, forecast.waiting), (0, 0));
    // The guess before any measurement is 10 tokens a second.
    assert!(forecast.tokens_per_second > 10.1, "{forecast:?}");
}

#[test]
fn prompt_longer_than_the_context_is_refused() {
    let refused = engine().submit(ask(&"word ".repeat(20_000))).err();
    assert!(matches!(refused, Some(EngineError::ContextLengthExceeded { .. })), "{refused:?}");
}

#[test]
fn missing_model_is_named() {
    let options = EngineOptions { model: "no/such/model".into(), ..Default::default() };
    let error = Engine::load(&options).err().expect("there is no such model").to_string();
    assert!(error.contains("no/such/model"), "{error}");
}

#[test]
fn a_model_that_was_never_trained_to_writes_json_by_its_schema() {
    let schema = serde_json::json!({"type": "object", "additionalProperties": false,
        "required": ["name", "age"], "properties": {
            "name": {"type": "string"}, "age": {"type": "integer", "minimum": 1, "maximum": 99}}});
    for (seed, max_tokens) in [(1, 24), (2, 60), (3, 300)] {
        let request = GenerationRequest {
            sampling: SamplingOptions {
                temperature: Some(1.2),
                seed: Some(seed),
                ..Default::default()
            },
            format: ReplyFormat::JsonSchema { schema: schema.clone(), strict: true },
            max_tokens: Some(max_tokens),
            ..ask("Describe a person as JSON.")
        };
        let (text, finish) = answer(request);
        let value: serde_json::Value = serde_json::from_str(&text).expect(&text);
        assert!(value["name"].is_string(), "{text}");
        assert!((1..=99).contains(&value["age"].as_i64().expect("a whole number")), "{text}");
        assert!(finish.completion_tokens <= max_tokens, "{finish:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_choices() {
    let request = || GenerationRequest {
        sampling: SamplingOptions { temperature: Some(1.2), seed: Some(9), ..Default::default() },
        max_tokens: Some(12),
        ..ask("Write a short story about a dog.")
    };
    let choices = || -> Vec<String> {
        let streams = engine().submit_choices(request(), 3).expect("accepted");
        streams.into_iter().map(|stream| read(stream).0).collect()
    };
    let first = choices();
    assert_eq!(first, choices());
    assert_eq!(first[0], answer(request()).0, "the first is the one that comes alone");
    assert!(first[0] != first[1] && first[1] != first[2], "{first:?}");
}
