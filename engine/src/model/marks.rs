//! States that are kept on the way give the bits that computing anew gives.

use super::families::{BACKENDS, texts};
use super::parity::load;
use super::tests::chunked;
use super::tiny::{FAMILIES, checkpoint};
use super::{LoadedModel, Sequence, Step};
use crate::checkpoint::{Mark, State};
use crate::engine::BackendChoice;
use crate::tokenizer::TokenId;

/// Reads tokens in chunks and takes the states after some of them.
fn marked(
    model: &mut LoadedModel,
    tokens: &[TokenId],
    sizes: &[usize],
    wanted: &[usize],
) -> (Vec<f32>, Vec<Sequence>) {
    let mut sequence = model.new_sequence();
    let (mut logits, mut taken, mut read) = (Vec::new(), Vec::new(), 0);
    for size in sizes.iter().chain(std::iter::repeat(&sizes[sizes.len() - 1])) {
        let end = (read + size).min(tokens.len());
        let here = wanted.iter().filter(|&&at| read < at && at <= end);
        let mut marks: Vec<Mark<Sequence>> =
            here.map(|at| Mark { at: at - read, taken: None }).collect();
        // A neighbour with a mark of its own.
        let (mut other, mut other_marks) = (model.new_sequence(), [Mark { at: 2, taken: None }]);
        let step = Step {
            sequence: &mut sequence,
            tokens: &tokens[read..end],
            logits: Some(&mut logits),
            marks: &mut marks,
        };
        let neighbour = Step {
            sequence: &mut other,
            tokens: &[3, 200, 77],
            logits: None,
            marks: &mut other_marks,
        };
        model.forward(&mut [neighbour, step]).expect("runs");
        taken.extend(marks.into_iter().map(|mark| mark.taken.expect("the pass fills it")));
        read = end;
        if read == tokens.len() {
            break;
        }
    }
    (logits, taken)
}

fn go_on(model: &mut LoadedModel, mut from: Sequence, tokens: &[TokenId]) -> Vec<f32> {
    let (mut logits, left) = (Vec::new(), &tokens[from.position()..]);
    model.forward(&mut [Step::new(&mut from, left, Some(&mut logits))]).expect("runs");
    logits
}

/// A text that is longer than a block of keys and values.
fn long_text(family: &str) -> Vec<TokenId> {
    let ids = &texts(family)[0].ids;
    ids.iter().copied().cycle().take(150).collect()
}

#[test]
fn going_on_from_a_kept_state_changes_no_bit_of_any_family() {
    for (family, (backend, _)) in FAMILIES.iter().flat_map(|f| BACKENDS.map(|b| (*f, b))) {
        // The oracle is slow.
        let wanted: &[usize] = match backend {
            BackendChoice::Reference => &[2, 64, 149],
            _ => &[1, 2, 63, 64, 65, 100, 128, 149],
        };
        let mut model = load(checkpoint(family), backend);
        let tokens = long_text(family);
        let whole = chunked(&mut model, &tokens, &[tokens.len()]);
        for sizes in [&[150][..], &[64], &[7, 60, 1]] {
            let (logits, taken) = marked(&mut model, &tokens, sizes, wanted);
            assert_eq!(logits, whole, "{family} {backend:?} {sizes:?}: marks change nothing");
            assert_eq!(taken.iter().map(State::position).collect::<Vec<_>>(), wanted);
            for state in taken {
                let at = state.position();
                // Twice: the first must leave the kept state as it is.
                for _ in 0..2 {
                    let logits = go_on(&mut model, state.clone(), &tokens);
                    assert_eq!(logits, whole, "{family} {backend:?} {sizes:?} from {at}");
                }
            }
        }
    }
}

#[test]
fn what_was_written_and_read_again_is_the_same_state() {
    for family in FAMILIES {
        let mut model = load(checkpoint(family), BACKENDS[1].0);
        let tokens = long_text(family);
        let whole = chunked(&mut model, &tokens, &[tokens.len()]);
        let (_, taken) = marked(&mut model, &tokens, &[150], &[40, 64, 130]);
        for state in taken {
            let mut bytes = Vec::new();
            state.write(&mut bytes).expect("memory takes all");
            assert!(bytes.len() as u64 <= state.written_bytes_max(), "{family}");
            let mut again = model.new_sequence();
            again.read(&mut &*bytes).expect("whole");
            assert_eq!(again.position(), state.position());
            assert_eq!(go_on(&mut model, again, &tokens), whole, "{family}");
            let mut cut = model.new_sequence();
            assert!(cut.read(&mut &bytes[..bytes.len() - 1]).is_err());
        }
    }
}

#[test]
fn full_attention_rewinds_and_recurrent_states_say_that_they_cannot() {
    for family in FAMILIES {
        let mut model = load(checkpoint(family), BACKENDS[1].0);
        let tokens = long_text(family);
        let (_, taken) = marked(&mut model, &tokens, &[150], &[149]);
        let recurrent = matches!(family, "qwen3_5_moe" | "qwen3_next");
        let rewound = taken[0].rewound(70);
        assert_eq!(rewound.is_none(), recurrent, "{family}");
        let Some(rewound) = rewound else { continue };
        let other: Vec<TokenId> = tokens[..70].iter().copied().chain([9, 8, 7]).collect();
        let whole = chunked(&mut model, &other, &[other.len()]);
        assert_eq!(go_on(&mut model, rewound, &other), whole, "{family}");
    }
}

#[test]
fn a_state_and_the_sequence_that_goes_on_share_their_keys_and_values() {
    let mut model = load(checkpoint("qwen3_moe"), BACKENDS[1].0);
    let tokens = long_text("qwen3_moe");
    let (_, taken) = marked(&mut model, &tokens, &[150], &[128, 149]);
    let pieces = |state: &Sequence| {
        let mut all = Vec::new();
        state.pieces(&mut |address, _| all.push(address));
        all
    };
    let (short, long) = (pieces(&taken[0]), pieces(&taken[1]));
    assert!(!short.is_empty() && short.iter().all(|piece| long.contains(piece)));
}
