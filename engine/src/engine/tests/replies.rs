//! What a reply says, and which requests are refused.

use super::*;

#[test]
fn reply_ends_at_the_end_token_which_is_not_counted() {
    let (text, end, events) = reply_to(Scripted::saying("hi", "hello world"), plain("hi"));
    assert_eq!((text.as_str(), end.as_str()), ("hello world", "Stop"));
    let Some(StreamEvent::Finished(finish)) = events.last() else { panic!("no end") };
    let reply_tokens = toy_tokenizer().encode_text("hello world").unwrap().len();
    assert_eq!((finish.prompt_tokens, finish.completion_tokens), (2, reply_tokens));
}

#[test]
fn reply_ends_at_max_tokens() {
    let request = GenerationRequest { max_tokens: Some(2), ..plain("hi") };
    let (text, end, _) = reply_to(Scripted::saying("hi", "123"), request);
    assert_eq!((text.as_str(), end.as_str()), ("12", "Length"));
}

#[test]
fn reply_ends_where_the_context_is_full() {
    let prompt = long_prompt(CONTEXT_TOKENS - 3);
    let request = GenerationRequest { max_tokens: Some(999), ..plain(&prompt) };
    let (text, end, _) = reply_to(Scripted::default(), request);
    assert_eq!((text.len(), end.as_str()), (3, "Length"));
}

#[test]
fn stop_text_spread_over_tokens_is_not_shown() {
    let request = GenerationRequest { stop: vec!["3 4".into()], ..plain("hi") };
    let (text, end, _) = reply_to(Scripted::saying("hi", "1 2 3 4 5"), request);
    assert_eq!((text.as_str(), end.as_str()), ("1 2 ", "Stop"));
}

#[test]
fn begun_stop_text_is_shown_when_the_reply_ends() {
    let request = GenerationRequest { stop: vec!["3 4".into()], ..plain("hi") };
    let (text, end, _) = reply_to(Scripted::saying("hi", "1 2 3 "), request);
    assert_eq!((text.as_str(), end.as_str()), ("1 2 3 ", "Stop"));
}

#[test]
fn every_event_holds_whole_characters() {
    let reply = "日本語 👩‍👩‍👧 é";
    let (text, _, events) = reply_to(Scripted::saying("hi", reply), plain("hi"));
    assert_eq!(text, reply);
    let texts = events.iter().filter(|event| matches!(event, StreamEvent::Delta(_))).count();
    assert_eq!(texts, reply.chars().count(), "one character an event, each of several tokens");
}

#[test]
fn messages_go_through_the_template() {
    let prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    let mut model = Scripted::default();
    let tokenizer = toy_tokenizer();
    model.replies.insert(
        tokenizer.encode_rendered(prompt).unwrap(),
        tokenizer.encode_text("hello").unwrap(),
    );
    let message = ChatMessage::new("user", "hi");
    let request = GenerationRequest { prompt: PromptInput::messages(vec![message]), ..plain("") };
    assert_eq!(reply_to(model, request).0, "hello");
}

#[test]
fn model_without_a_number_in_its_logits_fails_clearly() {
    let bias = (0..266).map(|token| (token, -100.0)).collect();
    let sampling = SamplingOptions { logit_bias: bias, ..Default::default() };
    let (_, end, _) = reply_to(Scripted::default(), GenerationRequest { sampling, ..plain("hi") });
    assert!(end.starts_with("failed to choose a token"), "{end}");
}

#[test]
fn requests_that_cannot_work_are_refused_at_once() {
    let bench = Bench::new(Scripted::default(), 1, 1);
    let refusal = |request| bench.engine.submit(request).err().unwrap().to_string();
    let tokens = |tokens| GenerationRequest { prompt: PromptInput::Tokens(tokens), ..plain("") };
    let cases = [
        (
            plain(&long_prompt(CONTEXT_TOKENS)),
            "the prompt has 4096 tokens; this model's context holds 4096",
        ),
        (plain(""), "prompt: expected at least one token, got none"),
        (tokens(vec![4, 266]), "prompt: expected token ids below 266, got 266"),
        (
            GenerationRequest { max_tokens: Some(0), ..plain("hi") },
            "max_tokens: expected at least 1, got 0",
        ),
        (
            GenerationRequest { stop: vec![String::new()], ..plain("hi") },
            "stop[0]: expected a text of 1 to 1024 bytes, got 0",
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(refusal(request), expected);
    }
    let empty = ChatMessage::new("user", "");
    let messages = PromptInput::messages(vec![empty; 100_000]);
    for prompt in [PromptInput::Text("hell".repeat(1 << 20)), messages] {
        let huge = bench.engine.submit(GenerationRequest { prompt, ..plain("") }).err().unwrap();
        assert!(huge.to_string().starts_with("the prompt has at least "), "{huge}");
    }
}

#[test]
fn tokens_are_counted_with_their_template() {
    let bench = Bench::new(Scripted::default(), 1, 1);
    let message = ChatMessage::new("user", "hell");
    let count = |prompt| bench.engine.count_tokens(&prompt).unwrap();
    assert_eq!(count(PromptInput::Text("hell".into())), 1);
    let markup = count(PromptInput::messages(Vec::new()));
    assert_eq!(count(PromptInput::messages(vec![message])), markup + 1 + "<user\n>\n".len());
}

#[test]
fn debug_of_events_shows_no_text() {
    let delta = Delta { content: "secret".into(), ..Delta::default() };
    let shown = format!("{:?}", StreamEvent::Delta(delta));
    assert!(shown.contains("content_bytes: 6") && !shown.contains("secret"), "{shown}");
}
