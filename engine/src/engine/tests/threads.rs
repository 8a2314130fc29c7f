//! The engine's own thread: errors, panics, the end.

use super::*;

fn start(model: Scripted, running_max: usize) -> Engine {
    let again = Scripted { panics_at: None, ..model.clone() };
    Engine::start(model, text_side(), &options(running_max, 64), move || Ok(again.clone())).unwrap()
}

#[test]
fn reply_does_not_depend_on_who_else_is_served() {
    let request = |index: u64| GenerationRequest {
        sampling: SamplingOptions {
            temperature: Some(1.0),
            top_p: Some(0.9),
            seed: Some(index),
            repetition_penalty: Some(1.1),
            ..Default::default()
        },
        max_tokens: Some(40 + index as usize),
        ..plain(&long_prompt(1 + 90 * index as usize))
    };
    let engine = start(Scripted::default(), 1);
    let alone: Vec<_> =
        (0..6).map(|i| text_of(&read_all(engine.submit(request(i)).unwrap()))).collect();
    let engine = start(Scripted::default(), 3);
    let streams: Vec<_> = (0..6).map(|i| engine.submit(request(i)).unwrap()).collect();
    let readers: Vec<_> =
        streams.into_iter().map(|s| std::thread::spawn(|| text_of(&read_all(s)))).collect();
    let together: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    assert_eq!(alone, together);
    assert!(alone.iter().all(|text| text.len() >= 40));
}

#[test]
fn failed_read_ends_the_round_s_replies_and_nothing_else() {
    let bad = toy_tokenizer().encode_text("5").unwrap()[0];
    let model = Scripted { fails_at: Some(bad), ..Scripted::saying("1", "2") };
    let engine = start(model, 1);
    let (failed, fine) = (engine.submit(plain("5")).unwrap(), engine.submit(plain("1")).unwrap());
    let end = end_of(&read_all(failed));
    assert_eq!(end, "failed to read expert 2 of layer 1: scripted failure");
    assert_eq!(text_of(&read_all(fine)), "2");
}

#[test]
fn panic_fails_what_ran_and_serves_who_waited() {
    let bad = toy_tokenizer().encode_text("5").unwrap()[0];
    let model = Scripted { panics_at: Some(bad), ..Scripted::saying("1", "2") };
    let engine = start(model, 1);
    let (failed, fine) = (engine.submit(plain("5")).unwrap(), engine.submit(plain("1")).unwrap());
    assert!(end_of(&read_all(failed)).contains("starts anew; ask again"));
    assert_eq!(text_of(&read_all(fine)), "2");
}

#[test]
fn model_that_keeps_panicking_is_given_up() {
    let bad = toy_tokenizer().encode_text("5").unwrap()[0];
    let model = Scripted { panics_at: Some(bad), ..Default::default() };
    let again = model.clone();
    let engine =
        Engine::start(model, text_side(), &options(1, 64), move || Ok(again.clone())).unwrap();
    let streams: Vec<_> = (0..5).filter_map(|_| engine.submit(plain("5")).ok()).collect();
    let ends: Vec<_> = streams.into_iter().map(|s| end_of(&read_all(s))).collect();
    assert!(ends[..3].iter().all(|end| end.contains("starts anew")), "{ends:?}");
    assert!(ends[3..].iter().all(|end| end == "the engine has stopped"), "{ends:?}");
    assert!(matches!(engine.submit(plain("1")), Err(EngineError::Stopped)));
}

#[test]
fn model_that_cannot_be_loaded_anew_stops_the_engine() {
    let bad = toy_tokenizer().encode_text("5").unwrap()[0];
    let model = Scripted { panics_at: Some(bad), ..Default::default() };
    let gone = || Err(EngineError::Tokenizer("gone".into()));
    let engine = Engine::start(model, text_side(), &options(1, 64), gone).unwrap();
    assert!(end_of(&read_all(engine.submit(plain("5")).unwrap())).contains("starts anew"));
    let after = engine.submit(plain("1"));
    let end = after.map_or_else(|error| error.to_string(), |stream| end_of(&read_all(stream)));
    assert_eq!(end, "the engine has stopped");
}

#[test]
fn readers_are_told_when_the_last_handle_goes() {
    let engine = start(Scripted::default(), 1);
    let second = engine.clone();
    let (mut running, waiting) =
        (engine.submit(plain("1")).unwrap(), engine.submit(plain("1")).unwrap());
    drop(engine);
    assert!(matches!(running.next_blocking(), Some(StreamEvent::Delta(_))));
    drop(second);
    assert_eq!(end_of(&read_all(running)), "the engine has stopped");
    assert_eq!(end_of(&read_all(waiting)), "the engine has stopped");
}

#[test]
fn tokenizer_of_another_model_is_refused_at_load() {
    let measure = |vocabulary_size| {
        let speeds = Speeds::new(1);
        loading::measure(&mut Scripted::default(), vocabulary_size, &speeds, &Clock::System)
    };
    assert!(measure(266).is_ok());
    let error = measure(300).unwrap_err().to_string();
    assert_eq!(
        error,
        "failed to load the tokenizer: tokenizer.json: expected token ids below 266, the model's \
         vocabulary, got 299; use the tokenizer that came with the model"
    );
}
