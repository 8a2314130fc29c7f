//! Readers, requests and rounds in any order: every reply is whole and ends once.

use proptest::prelude::*;

use super::*;

/// What may happen between rounds.
#[derive(Clone, Debug)]
enum Event {
    Submit { prompt: usize, max_tokens: usize },
    Leave { stream: usize },
    Read { stream: usize, events: usize },
    Round,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0usize..600, 1usize..150)
            .prop_map(|(prompt, max_tokens)| Event::Submit { prompt, max_tokens }),
        1 => (0usize..8).prop_map(|stream| Event::Leave { stream }),
        6 => (0usize..8, 1usize..80).prop_map(|(stream, events)| Event::Read { stream, events }),
        12 => Just(Event::Round),
    ]
}

fn babble(prompt: usize, max_tokens: usize) -> GenerationRequest {
    GenerationRequest { max_tokens: Some(max_tokens), ..plain(&long_prompt(prompt + 1)) }
}

/// A reader in the order of events, and what it has read.
struct Reader {
    stream: TokenStream,
    request: (usize, usize),
    text: String,
    ends: usize,
}

impl Reader {
    fn read(&mut self, events: usize) {
        for _ in 0..events {
            let Ok(event) = self.stream.events.try_recv() else { return };
            match self.stream.took(Some(event)) {
                Some(StreamEvent::Delta(delta)) => self.text.push_str(&delta.content),
                _ => self.ends += 1,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_readers_do_every_reply_is_whole_and_ends_once(
        events in prop::collection::vec(event(), 1..300),
        running_max in 1usize..4,
    ) {
        let mut bench = Bench::new(Scripted::default(), running_max, 4);
        let mut readers: Vec<Reader> = Vec::new();
        for event in events {
            match event {
                Event::Submit { prompt, max_tokens } => {
                    match bench.engine.submit(babble(prompt, max_tokens)) {
                        Ok(stream) => {
                            let request = (prompt, max_tokens);
                            readers.push(Reader { stream, request, text: String::new(), ends: 0 });
                        }
                        Err(EngineError::Busy { .. }) => {}
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Event::Leave { stream } if stream < readers.len() => drop(readers.remove(stream)),
                Event::Read { stream, events } if stream < readers.len() => {
                    readers[stream].read(events);
                }
                Event::Leave { .. } | Event::Read { .. } => {}
                Event::Round => {
                    bench.round();
                    prop_assert!(bench.last_round().len() <= running_max);
                    prop_assert!(bench.running() <= 2 * running_max);
                    prop_assert!(bench.engine.forecast().waiting <= 4 + running_max);
                }
            }
        }
        loop {
            let computed = bench.round();
            readers.iter_mut().for_each(|reader| reader.read(usize::MAX));
            if !computed && bench.running() == 0 {
                break;
            }
        }
        for reader in readers {
            let (prompt, max_tokens) = reader.request;
            let alone = babble(prompt, max_tokens);
            prop_assert_eq!(reader.ends, 1);
            prop_assert_eq!(reader.text, spoken_alone(alone));
        }
    }
}
