//! Readers that leave or stall.

use super::*;

#[test]
fn dropped_stream_ends_at_the_next_round() {
    for rounds_before in [0, 1, 3] {
        // Not admitted yet, in the middle of its prompt, decoding.
        let mut bench = Bench::new(Scripted::default(), 1, 1);
        let stream = bench.submit(&long_prompt(300));
        bench.rounds(rounds_before);
        let computed = bench.model.rounds.lock().unwrap().len();
        drop(stream);
        assert!(!bench.round(), "after {rounds_before} rounds");
        assert_eq!((bench.running(), bench.engine.forecast().waiting), (0, 0));
        assert_eq!(bench.model.rounds.lock().unwrap().len(), computed);
    }
}

#[test]
fn slow_reader_stands_still_and_others_go_on() {
    let mut bench = Bench::new(Scripted::default(), 2, 4);
    let mut slow = bench.submit("1");
    let mut quick = bench.submit("2");
    for _ in 0..200 {
        bench.rounds(1);
        take(&mut quick);
    }
    assert_eq!(bench.last_round(), [1], "only the quick one is computed");
    let said = take(&mut slow);
    assert!(said.len() < EVENTS_MAX, "room is left for the end");
    bench.rounds(1);
    assert_eq!(bench.last_round(), [1, 1], "it goes on where it stood");
    let together = text_of(&said) + &text_of(&take(&mut slow));
    let alone = GenerationRequest { max_tokens: Some(together.len()), ..plain("1") };
    assert_eq!(together, spoken_alone(alone), "and no token is lost");
}

#[test]
fn stalled_reader_does_not_keep_its_place_in_the_round() {
    let mut bench = Bench::new(Scripted::saying("9", "1"), 1, 4);
    let _stalled = bench.submit("1");
    while bench.round() {}
    let mut next = bench.submit("9");
    bench.rounds(2);
    assert_eq!(end_of(&take(&mut next)), "Stop");
}

#[test]
fn woken_readers_take_turns_when_they_are_too_many() {
    let mut bench = Bench::new(Scripted::default(), 1, 4);
    let (mut a, mut b) = (bench.submit("1"), bench.submit("2"));
    while bench.round() {}
    assert_eq!(bench.running(), 2, "both stalled, one of them in the extra place");
    take(&mut a);
    take(&mut b);
    let mut turns = [0, 0];
    for _ in 0..20 {
        bench.rounds(1);
        assert_eq!(bench.last_round(), [1]);
        turns[0] += take(&mut a).len();
        turns[1] += take(&mut b).len();
    }
    assert_eq!(turns, [10, 10]);
}

#[test]
fn readers_that_take_nothing_give_way_in_the_end_if_others_wait() {
    let mut bench = Bench::new(Scripted::default(), 1, 4);
    let mut stalled = [bench.submit("1"), bench.submit("2")];
    while bench.round() {}
    bench.clock.advance(Duration::from_secs(60));
    assert!(!bench.round(), "nobody waits: they may take their time");
    let mut next = bench.submit("3");
    bench.rounds(1);
    assert_eq!(take(&mut next).len(), 1);
    let ends: Vec<_> = stalled.iter_mut().map(|stream| end_of(&take(stream))).collect();
    let told = "ended the reply: its reader took nothing for 10 s while others waited";
    assert_eq!(ends, [told, "open"]);
}

#[test]
fn stalled_readers_are_waited_for_before_they_give_way() {
    let mut bench = Bench::new(Scripted::default(), 1, 4);
    let _stalled = [bench.submit("1"), bench.submit("2")];
    while bench.round() {}
    let _next = bench.submit("3");
    bench.clock.advance(Duration::from_secs(9));
    assert!(!bench.round());
    bench.clock.advance(Duration::from_secs(1));
    assert!(bench.round());
}
