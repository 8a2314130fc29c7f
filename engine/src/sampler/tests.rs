//! The sampler against a sampler that sorts everything.

use proptest::prelude::*;

use super::candidates::{Cut, Scratch, at_point_of_all, best};
use super::weight::weight;
use super::*;

fn sampler(options: SamplingOptions, prompt: &[TokenId], vocabulary: usize) -> Sampler {
    Sampler::new(&options, &SamplingOptions::default(), prompt, vocabulary, 0).unwrap()
}

fn greedy() -> SamplingOptions {
    SamplingOptions { temperature: Some(0.0), ..Default::default() }
}

fn choose(sampler: &mut Sampler, logits: &[f32]) -> Option<TokenId> {
    let token = sampler.choose(&mut logits.to_vec(), None, &mut Scratch::default())?;
    sampler.count(token);
    Some(token)
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_lowest_id() {
    let cases: [(&[f32], Option<TokenId>); 7] = [
        (&[1.0, 3.0, 2.0], Some(1)),
        (&[3.0, 1.0, 3.0], Some(0)),
        (&[f32::NAN, -1.0, f32::NAN, -0.5], Some(3)),
        (&[f32::NAN, f32::NEG_INFINITY], None),
        (&[f32::NEG_INFINITY, f32::INFINITY, 1.0, f32::INFINITY], Some(1)),
        (&[-0.0, 0.0], Some(0)),
        (&[], None),
    ];
    for (logits, expected) in cases {
        assert_eq!(choose(&mut sampler(greedy(), &[], 8), logits), expected, "{logits:?}");
        let hot = SamplingOptions { top_k: Some(1), ..Default::default() };
        assert_eq!(choose(&mut sampler(hot, &[], 8), logits), expected, "{logits:?}");
    }
}

#[test]
fn repetition_counts_prompt_and_reply_and_pulls_both_signs_down() {
    let options = SamplingOptions { repetition_penalty: Some(2.0), ..greedy() };
    let mut sampler = sampler(options, &[0, 0], 3);
    assert_eq!(choose(&mut sampler, &[3.0, 2.0, 0.0]), Some(1), "3 / 2 is less than 2");
    assert_eq!(choose(&mut sampler, &[3.0, 2.0, 1.2]), Some(0), "1 was said as well");
    assert_eq!(choose(&mut sampler, &[-1.0, -1.0, -1.5]), Some(2), "-1 becomes -2");
}

#[test]
fn presence_and_frequency_count_the_reply_only() {
    let options =
        SamplingOptions { presence_penalty: Some(0.5), frequency_penalty: Some(0.25), ..greedy() };
    let mut sampler = sampler(options, &[0, 0, 0, 0], 2);
    let logits = [1.0, 0.1];
    let said: Vec<_> = (0..4).map(|_| choose(&mut sampler, &logits).unwrap()).collect();
    // 0 stands at 1.0, then 0.25, then 0.0: below 0.1, until 1 has been said as well.
    assert_eq!(said, [0, 0, 1, 0]);
}

#[test]
fn bias_forbids_forces_and_comes_after_penalties() {
    let with_bias = |bias| SamplingOptions { logit_bias: bias, ..greedy() };
    assert_eq!(choose(&mut sampler(with_bias(vec![(1, -100.0)]), &[], 2), &[0.0, 9e9]), Some(0));
    assert_eq!(choose(&mut sampler(with_bias(vec![(0, 100.0)]), &[], 2), &[-30.0, 30.0]), Some(0));
    assert_eq!(choose(&mut sampler(with_bias(vec![(0, -100.0)]), &[], 1), &[0.0]), None);
    let options = SamplingOptions { repetition_penalty: Some(10.0), ..with_bias(vec![(0, 1.0)]) };
    assert_eq!(choose(&mut sampler(options, &[0], 2), &[5.0, 1.0]), Some(0), "5 / 10 + 1");
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let none = SamplingOptions::default();
    let cases = [
        (
            SamplingOptions { temperature: Some(2.5), ..none.clone() },
            "temperature: expected a number from 0 to 2, got 2.5",
        ),
        (
            SamplingOptions { temperature: Some(f32::NAN), ..none.clone() },
            "temperature: expected a number from 0 to 2, got NaN",
        ),
        (
            SamplingOptions { top_p: Some(-0.1), ..none.clone() },
            "top_p: expected a number from 0 to 1, got -0.1",
        ),
        (
            SamplingOptions { min_p: Some(1.1), ..none.clone() },
            "min_p: expected a number from 0 to 1, got 1.1",
        ),
        (
            SamplingOptions { repetition_penalty: Some(0.0), ..none.clone() },
            "repetition_penalty: expected a number from 0.01 to 10, got 0",
        ),
        (
            SamplingOptions { presence_penalty: Some(3.0), ..none.clone() },
            "presence_penalty: expected a number from -2 to 2, got 3",
        ),
        (
            SamplingOptions { frequency_penalty: Some(-3.0), ..none.clone() },
            "frequency_penalty: expected a number from -2 to 2, got -3",
        ),
        (
            SamplingOptions { logit_bias: vec![(1, 101.0)], ..none.clone() },
            "logit_bias: expected a number from -100 to 100, got 101",
        ),
        (
            SamplingOptions { logit_bias: vec![(9, 1.0)], ..none.clone() },
            "logit_bias: expected token ids below 9, got 9",
        ),
    ];
    for (options, expected) in cases {
        let error = Sampler::new(&options, &none, &[], 9, 0).err().unwrap();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn open_fields_take_the_model_s_defaults() {
    let defaults = SamplingOptions { temperature: Some(0.0), ..Default::default() };
    let mut sampler = Sampler::new(&SamplingOptions::default(), &defaults, &[], 2, 0).unwrap();
    let logits = [0.0, 0.01];
    assert!((0..50).all(|_| choose(&mut sampler, &logits) == Some(1)));
}

#[test]
fn the_same_seed_draws_the_same_tokens() {
    let draw = |seed| {
        let options = SamplingOptions { seed, ..Default::default() };
        let mut sampler = sampler(options, &[], 64);
        (0..32).map(|_| choose(&mut sampler, &[0.0; 64]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(Some(1)), draw(Some(1)));
    assert_ne!(draw(Some(1)), draw(Some(2)));
    assert_ne!(draw(None), draw(None));
}

#[test]
fn choices_draw_differently_from_one_seed() {
    let draw = |choice| {
        let options = SamplingOptions { seed: Some(1), ..Default::default() };
        let mut sampler =
            Sampler::new(&options, &SamplingOptions::default(), &[], 64, choice).unwrap();
        (0..32).map(|_| choose(&mut sampler, &[0.0; 64]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(0), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn a_form_is_kept_whatever_the_logits_and_the_bias_say() {
    let choose = |bias: Vec<(TokenId, f32)>, logits: &[f32], allowed: &[u32]| {
        let options = SamplingOptions { logit_bias: bias, ..greedy() };
        sampler(options, &[], 40).choose(
            &mut logits.to_vec(),
            Some(allowed),
            &mut Scratch::default(),
        )
    };
    let mut logits = [0.0; 40];
    logits[3] = 9.0;
    assert_eq!(choose(vec![], &logits, &[0b1000, 0]), Some(3));
    assert_eq!(choose(vec![], &logits, &[0b0110, 0]), Some(1));
    assert_eq!(choose(vec![], &logits, &[0, 0b10]), Some(33));
    assert_eq!(choose(vec![(33, -100.0)], &logits, &[0, 0b10]), Some(33), "the form wins");
    assert_eq!(choose(vec![], &logits, &[0, 0]), None);
    assert_eq!(choose(vec![], &logits, &[0]), None, "tokens past the mask are forbidden");
}

#[test]
fn logprobs_are_those_of_the_softmax() {
    let logits: Vec<f32> = (0..300).map(|i| ((i * 37 % 101) as f32) / 9.0 - 4.0).collect();
    let distribution = Distribution::new(&logits).unwrap();
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    for (token, &logit) in logits.iter().enumerate() {
        let exact = f64::from(logit) - sum.ln();
        let got = f64::from(distribution.logprob(token as TokenId));
        assert!((got - exact).abs() < 1e-4, "{token}: {got} instead of {exact}");
    }
    let mut order: Vec<TokenId> = (0..300).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    for count in [0, 1, 20] {
        assert_eq!(distribution.likeliest(count, &mut Scratch::default()), order[..count]);
    }
    let forbidden = Distribution::new(&[0.0, f32::NEG_INFINITY]).unwrap();
    assert_eq!((forbidden.logprob(0), forbidden.logprob(1)), (0.0, -9999.0));
    assert!(Distribution::new(&[f32::NAN]).is_none());
}

#[test]
fn draws_follow_the_probabilities() {
    let options = SamplingOptions { seed: Some(3), temperature: Some(2.0), ..Default::default() };
    let mut sampler = sampler(options, &[], 3);
    let logits = [0.0, 2.0 * 2f32.ln(), 2.0 * 5f32.ln()];
    let mut counts = [0u32; 3];
    (0..8000).for_each(|_| counts[choose(&mut sampler, &logits).unwrap() as usize] += 1);
    for (count, expected) in counts.iter().zip([1000, 2000, 5000]) {
        assert!(count.abs_diff(expected) < 150, "{counts:?}");
    }
}

/// What is kept, by sorting the whole vocabulary.
fn naive(logits: &[f32], cut: &Cut) -> Vec<TokenId> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut all: Vec<(TokenId, f32, f32)> = logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(id, &logit)| (id as TokenId, logit, weight(logit, largest, cut.temperature)))
        .collect();
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    if cut.top_k > 0 {
        all.truncate(cut.top_k);
    }
    if cut.top_p < 1.0 {
        let mass: f64 = all.iter().map(|c| f64::from(c.2)).sum();
        let mut before = 0.0;
        // A candidate stays while those before it have not reached p. The slack is for sums that
        // are taken in another order.
        all.retain(|c| {
            let stays = before < f64::from(cut.top_p) * mass - 1e-9 * mass;
            before += f64::from(c.2);
            stays
        });
    }
    all.retain(|c| c.2 >= cut.min_p);
    all.iter().map(|c| c.0).collect()
}

fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -8f32..8.0,
        2 => (-4i8..4).prop_map(f32::from),
        1 => Just(f32::NAN),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(-0.0f32),
    ]
}

/// The token that a walk over the candidates of the whole vocabulary, in order of their ids, finds.
fn naive_at_point(logits: &[f32], temperature: f32, unit: f64) -> TokenId {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<(TokenId, f64)> = logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(id, &logit)| (id as TokenId, f64::from(weight(logit, largest, temperature))))
        .collect();
    let mut left = unit * weights.iter().map(|(_, weight)| weight).sum::<f64>();
    let found = weights.iter().find(|(_, weight)| {
        left -= weight;
        left < 0.0
    });
    found.unwrap().0
}

proptest! {
    #[test]
    fn uncut_draws_find_what_a_list_of_candidates_would(
        logits in prop::collection::vec(logit(), 1..200),
        temperature in 0.05f32..2.0,
        unit in 0.0f64..0.999,
    ) {
        let Some(largest) = best(&logits) else { return Ok(()) };
        let drawn = at_point_of_all(&logits, largest, temperature, unit);
        prop_assert_eq!(drawn, naive_at_point(&logits, temperature, unit));
    }

    #[test]
    fn cuts_keep_what_a_full_sort_keeps(
        logits in prop::collection::vec(logit(), 1..200),
        temperature in 0.05f32..2.0,
        top_k in prop_oneof![Just(0usize), 1usize..8, 1usize..250],
        top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5],
    ) {
        let Some(largest) = best(&logits) else { return Ok(()) };
        let cut = Cut { temperature, top_k, top_p, min_p };
        let mut scratch = Scratch::default();
        let kept = scratch.keep(&logits, logits[largest as usize], &cut);
        let mut ids: Vec<TokenId> = kept.candidates.iter().map(|c| c.token).collect();
        let drawn = kept.at(0.999_999_999);
        prop_assert!(ids.contains(&drawn) && ids.contains(&kept.at(0.0)));
        let mut expected = naive(&logits, &cut);
        ids.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(ids, expected);
    }
}
