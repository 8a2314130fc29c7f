//! Turns of conversations: what is read again and what is not, and for whom.

use super::*;
use crate::checkpoint::{CheckpointDisk, CheckpointOptions, Reuse};

/// Every token counts four bytes here.
const BYTES: u64 = 1 << 20;

fn bench(checkpoints: CheckpointOptions) -> Bench {
    let mut text = text_side();
    text.info.plan.checkpoint_bytes = checkpoints.memory_bytes.unwrap_or(BYTES);
    let options = EngineOptions { checkpoints, ..options(4, 8) };
    Bench::of(text, Scripted::default(), &options, Clock::manual())
}

fn every(tokens: usize) -> CheckpointOptions {
    CheckpointOptions { every_tokens: Some(tokens), ..CheckpointOptions::default() }
}

fn by(scope: &str, request: GenerationRequest) -> GenerationRequest {
    let reuse = Some(Reuse { scope: scope.as_bytes().into(), on_disk: true });
    GenerationRequest { reuse, max_tokens: Some(6), ..request }
}

fn chat(messages: &[(&str, &str)]) -> GenerationRequest {
    let messages = messages.iter().map(|(role, text)| ChatMessage::new(role, text)).collect();
    GenerationRequest::new(PromptInput::messages(messages))
}

/// The reply, and how many tokens were not read again.
fn answer(bench: &mut Bench, request: GenerationRequest) -> (String, usize) {
    let mut stream = bench.engine.submit(request).unwrap();
    let mut events = Vec::new();
    while !events.iter().any(|event| !matches!(event, StreamEvent::Delta(_))) {
        if !bench.round() {
            // A state is on its way from disk.
            std::thread::sleep(Duration::from_millis(1));
        }
        events.extend(take(&mut stream));
    }
    let Some(StreamEvent::Finished(finish)) = events.last() else { panic!("no end") };
    (text_of(&events), finish.cached_tokens)
}

const SYSTEM: &str = "0123456789012345678901234567890123456789";
const QUESTION: &str = "5555555555555555555555555555555555555555555555555555555555555";

/// Tokens of a conversation up to where a reply would begin.
fn tokens_of(bench: &Bench, messages: &[(&str, &str)]) -> usize {
    bench.engine.count_tokens(&chat(messages).prompt).unwrap()
}

#[test]
fn the_next_turn_reads_only_what_is_new() {
    let mut bench = bench(CheckpointOptions::default());
    let mut messages = vec![("system", SYSTEM), ("user", QUESTION)];
    let (first, cached) = answer(&mut bench, by("a", chat(&messages)));
    assert_eq!(cached, 0);
    let before = tokens_of(&bench, &messages);
    let rounds = bench.model.rounds.lock().unwrap().clone();
    assert_eq!(rounds[0], [before], "states on the way cost no pass of their own");
    messages.extend([("assistant", &*first), ("user", "6")]);
    let afresh = GenerationRequest { reuse: None, ..by("a", chat(&messages)) };
    let (again, _) = answer(&mut bench, afresh);
    let (second, cached) = answer(&mut bench, by("a", chat(&messages)));
    assert_eq!(second, again, "the same reply as from nothing");
    // The reply, but its last token, which the model has not read.
    assert_eq!(cached, before + 5);
    let counts = bench.engine.checkpoint_use();
    assert_eq!((counts.hits, counts.misses), (1, 1));
    assert_eq!(counts.restored_tokens, cached as u64);
}

#[test]
fn a_reply_that_comes_back_changed_is_read_again_and_nothing_before_it() {
    let mut bench = bench(CheckpointOptions::default());
    let mut messages = vec![("system", SYSTEM), ("user", QUESTION)];
    answer(&mut bench, by("a", chat(&messages)));
    let reply_marks = tokens_of(&bench, &[]);
    let said = tokens_of(&bench, &messages) - reply_marks;
    // Asked once more as it was; then with another reply; then with another question.
    assert_eq!(answer(&mut bench, by("a", chat(&messages))).1, said);
    messages.extend([("assistant", "trimmed"), ("user", "6")]);
    assert_eq!(answer(&mut bench, by("a", chat(&messages))).1, said);
    let other = [("system", SYSTEM), ("user", "77777")];
    let cached = answer(&mut bench, by("a", chat(&other))).1;
    let system = tokens_of(&bench, &[("system", SYSTEM)]) - reply_marks;
    assert!((system..said).contains(&cached), "{cached}: the system prompt's {system}");
}

#[test]
fn nobody_goes_on_from_what_another_said() {
    let mut bench = bench(CheckpointOptions::default());
    let request = || chat(&[("system", SYSTEM), ("user", QUESTION)]);
    answer(&mut bench, by("a", request()));
    assert_eq!(answer(&mut bench, by("b", request())).1, 0, "another scope");
    assert_eq!(answer(&mut bench, request()).1, 0, "no scope at all");
    let kept = bench.engine.checkpoint_use().kept;
    answer(&mut bench, request());
    assert_eq!(bench.engine.checkpoint_use().kept, kept, "without a scope nothing is kept");
    assert!(answer(&mut bench, by("a", request())).1 > 0);
}

#[test]
fn long_prompts_and_long_replies_are_kept_on_the_way() {
    let mut bench = bench(every(100));
    let prompt = long_prompt(530);
    answer(&mut bench, by("a", plain(&prompt)));
    for (same, cached) in [(450, 400), (99, 0), (530, 529)] {
        let text = long_prompt(same) + "123";
        let request = GenerationRequest { reuse: by("a", plain("")).reuse, ..plain(&text) };
        let request = GenerationRequest { max_tokens: Some(170), ..request };
        assert_eq!(answer(&mut bench, request).1, cached, "{same}");
    }
    // 533 tokens and 67 of the reply.
    let said = answer(
        &mut bench,
        GenerationRequest { max_tokens: Some(69), ..by("b", plain(&(long_prompt(530) + "123"))) },
    );
    let text = long_prompt(530) + "123" + &said.0[..68] + "0";
    assert!(answer(&mut bench, by("a", plain(&text))).1 >= 600);
}

#[test]
fn what_a_reader_left_in_the_middle_is_kept() {
    let mut bench = bench(CheckpointOptions::default());
    let stream = bench.engine.submit(by("a", plain(&long_prompt(600)))).unwrap();
    bench.rounds(1);
    drop(stream);
    bench.round();
    assert_eq!(answer(&mut bench, by("a", plain(&long_prompt(600)))).1, 256);
}

#[test]
fn several_replies_to_one_prompt_all_say_what_was_not_read() {
    let mut bench = bench(CheckpointOptions::default());
    let prompt = long_prompt(100);
    answer(&mut bench, by("a", plain(&prompt)));
    let mut streams = bench.engine.submit_choices(by("a", plain(&prompt)), 3).unwrap();
    while bench.round() {}
    for stream in &mut streams {
        let events = take(stream);
        let Some(StreamEvent::Finished(finish)) = events.last() else { panic!("no end") };
        assert_eq!((finish.cached_tokens, finish.prompt_tokens), (99, 100));
    }
}

#[test]
fn a_failed_pass_leaves_nothing_that_is_half_written() {
    let bad = toy_tokenizer().encode_text("8").unwrap()[0];
    let mut bench = bench(every(64));
    bench.model.fails_at = Some(bad);
    let mut stream = bench.engine.submit(by("a", plain(&(long_prompt(300) + "8")))).unwrap();
    while bench.round() {}
    assert!(end_of(&take(&mut stream)).contains("scripted failure"));
    bench.model.fails_at = None;
    let (text, cached) = answer(&mut bench, by("a", plain(&(long_prompt(300) + "8"))));
    assert_eq!(cached, 256, "of the round before");
    let alone = GenerationRequest { max_tokens: Some(6), ..plain(&(long_prompt(300) + "8")) };
    assert_eq!(text, spoken_alone(alone));
}

#[test]
fn what_went_to_disk_comes_back_while_others_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Some(CheckpointDisk { folder: folder.path().to_owned(), bytes: BYTES });
    let memory_bytes = Some(12_000);
    let mut bench = bench(CheckpointOptions { disk, memory_bytes, ..Default::default() });
    let asked = |first: char| by("a", plain(&(first.to_string() + &long_prompt(400))));
    let (first, _) = answer(&mut bench, asked('0'));
    // A third would need the room of what the store remembers of the first.
    for other in '1'..'3' {
        answer(&mut bench, asked(other));
        let deadline = Clock::System.now() + Duration::from_secs(20);
        while bench.scheduler.checkpoints.is_writing() {
            assert!(Clock::System.now() < deadline, "{:?}", bench.engine.checkpoint_use());
            std::thread::sleep(Duration::from_millis(5));
            bench.round();
        }
    }
    let before = bench.engine.checkpoint_use();
    assert!(before.disk_bytes > 0 && before.memory_bytes <= 12_000, "{before:?}");
    let (again, cached) = answer(&mut bench, asked('0'));
    assert_eq!((again, cached), (first, 400), "{before:?}");
    assert_eq!(bench.engine.checkpoint_use().from_disk, 1);
}

#[test]
fn an_engine_that_sleeps_wakes_to_let_go_of_what_expired() {
    let expire = Some(Duration::from_millis(30));
    let mut text = text_side();
    text.info.plan.checkpoint_bytes = BYTES;
    let checkpoints = CheckpointOptions { expire, ..CheckpointOptions::default() };
    let options = EngineOptions { checkpoints, ..options(1, 8) };
    let gone = || Err(EngineError::Stopped);
    let engine = Engine::start(Scripted::default(), text, &options, gone).unwrap();
    read_all(engine.submit(by("a", plain(&long_prompt(100)))).unwrap());
    assert!(engine.checkpoint_use().kept > 0);
    let deadline = Clock::System.now() + Duration::from_secs(20);
    while engine.checkpoint_use().memory_bytes > 0 {
        assert!(Clock::System.now() < deadline, "{:?}", engine.checkpoint_use());
        std::thread::sleep(Duration::from_millis(5));
    }
}
