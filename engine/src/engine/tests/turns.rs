//! Who is computed when.

use super::*;

#[test]
fn prompts_are_read_in_large_shares_when_nobody_else_is_served() {
    let mut bench = Bench::new(Scripted::default(), 2, 4);
    let _stream = bench.submit(&long_prompt(600));
    bench.rounds(3);
    assert_eq!(*bench.model.rounds.lock().unwrap(), [[256], [256], [88]]);
}

#[test]
fn a_model_that_streams_experts_reads_long_prompts_in_few_passes_that_have_an_end() {
    for (measured_per_second, first) in [(100, 600), (20, 400), (1, 256)] {
        let model = Scripted { prefill_tokens: Some(2048), ..Scripted::default() };
        let mut bench = Bench::new(model, 1, 4);
        let round = Round { prefill_tokens: measured_per_second, decoding: 0 };
        bench.engine.shared.speeds.record_round(round, Duration::from_secs(1));
        let _stream = bench.submit(&long_prompt(600));
        bench.rounds(1);
        assert_eq!(bench.last_round(), [first], "{measured_per_second} tokens a second");
    }
}

#[test]
fn long_prompt_does_not_stall_a_running_reply() {
    let mut bench = Bench::new(Scripted::default(), 2, 4);
    let mut first = bench.submit("hi");
    bench.rounds(2);
    let _second = bench.submit(&long_prompt(1000));
    for _ in 0..15 {
        take(&mut first);
        bench.rounds(1);
        assert_eq!(bench.last_round(), [1, 16]);
        assert_eq!(take(&mut first).len(), 1, "a token in every round");
    }
}

#[test]
fn prompts_beside_a_reply_get_as_much_as_the_model_reads_in_a_moment() {
    for (measured_per_second, share) in [(10, 16), (500, 100), (100_000, 256)] {
        let mut bench = Bench::new(Scripted::default(), 2, 4);
        let _first = bench.submit("hi");
        bench.rounds(2);
        let round = Round { prefill_tokens: measured_per_second, decoding: 0 };
        bench.engine.shared.speeds.record_round(round, Duration::from_secs(1));
        let _second = bench.submit(&long_prompt(1000));
        bench.rounds(1);
        assert_eq!(bench.last_round(), [1, share]);
    }
}

#[test]
fn short_prompt_overtakes_a_long_one() {
    let mut bench = Bench::new(Scripted::saying("12", "3"), 2, 4);
    let _long = bench.submit(&long_prompt(3000));
    let mut short = bench.submit("12");
    bench.rounds(2);
    assert_eq!(end_of(&take(&mut short)), "Stop");
}

#[test]
fn at_most_running_max_are_computed_and_the_rest_wait_in_order() {
    let mut bench = Bench::new(Scripted::saying("1", "12"), 2, 8);
    let mut streams: Vec<_> = (0..5).map(|_| bench.submit("1")).collect();
    let mut ended = Vec::new();
    while bench.round() {
        assert!(bench.last_round().len() <= 2);
        for (index, stream) in streams.iter_mut().enumerate() {
            if end_of(&take(stream)) == "Stop" {
                ended.push(index);
            }
        }
    }
    assert_eq!(ended, [0, 1, 2, 3, 4]);
}

#[test]
fn engine_is_busy_when_the_queue_is_full_and_free_when_a_waiter_leaves() {
    let mut bench = Bench::new(Scripted::default(), 1, 2);
    let _running = bench.submit("1");
    bench.rounds(1);
    let (first, _second) = (bench.submit("1"), bench.submit("1"));
    let refused = bench.engine.submit(plain("1")).err().unwrap();
    assert!(matches!(refused, EngineError::Busy { waiting: 2 }), "{refused}");
    assert_eq!(bench.engine.forecast().waiting, 2);
    drop(first);
    assert_eq!(bench.engine.forecast().waiting, 1);
    let _third = bench.submit("1");
}

#[test]
fn free_places_count_even_when_nobody_may_wait() {
    let bench = Bench::new(Scripted::default(), 2, 0);
    let _both = (bench.submit("1"), bench.submit("1"));
    assert!(matches!(bench.engine.submit(plain("1")), Err(EngineError::Busy { .. })));
}

#[test]
fn who_is_wanted_soon_goes_before_who_can_wait_but_not_for_ever() {
    let mut bench = Bench::new(Scripted::saying("1", "12"), 1, 8);
    let submit = |bench: &Bench, seconds: u64| {
        let wanted_within = Some(Duration::from_secs(seconds));
        bench.engine.submit(GenerationRequest { wanted_within, ..plain("1") }).unwrap()
    };
    let running = bench.submit("1");
    bench.rounds(1);
    let patient = submit(&bench, 60);
    let soon = submit(&bench, 5);
    let also_soon = submit(&bench, 5);
    bench.clock.advance(Duration::from_secs(56));
    let too_late = submit(&bench, 5);
    let mut streams = [running, patient, soon, also_soon, too_late];
    assert_eq!(streams.each_ref().map(TokenStream::ahead), [0, 0, 0, 1, 3]);
    assert!(bench.engine.starts_in(3) > bench.engine.starts_in(0));
    let mut ended = Vec::new();
    while bench.round() {
        let ends = streams.iter_mut().map(|stream| end_of(&take(stream)) == "Stop");
        ended.extend(ends.enumerate().filter(|(_, over)| *over).map(|(index, _)| index));
    }
    assert_eq!(ended, [0, 2, 3, 1, 4]);
}
