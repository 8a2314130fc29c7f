//! Decoding against the values of another implementation, and quantisers against theory.

use proptest::prelude::*;

use super::*;

/// The tensors of `testdata/quant/blocks.safetensors`, which `make.py` beside it wrote.
struct Fixture {
    header: serde_json::Value,
    data: Vec<u8>,
}

impl Fixture {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/quant/blocks.safetensors");
        let bytes = std::fs::read(path).expect("a committed file");
        let (length, rest) = bytes.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
        let header = serde_json::from_slice(&rest[..length]).expect("a safetensors header");
        Fixture { header, data: rest[length..].to_vec() }
    }

    fn bytes(&self, name: &str) -> &[u8] {
        let at = |i: usize| self.header[name]["data_offsets"][i].as_u64().expect("an offset");
        &self.data[at(0) as usize..at(1) as usize]
    }
}

/// Random blocks, and hostile ones: scales that are zero, subnormal, huge, infinite or not numbers.
#[test]
fn every_type_decodes_to_the_bits_of_the_gguf_package() {
    let fixture = Fixture::read();
    for dtype in DType::ALL {
        let blocks = fixture.bytes(&format!("{dtype}.blocks"));
        let expected = fixture.bytes(&format!("{dtype}.values")).as_chunks::<4>().0;
        assert!(expected.len() >= 8 * dtype.block().0, "{dtype}: blocks are missing");
        let mut decoded = vec![0.0; expected.len()];
        dequantise_row(dtype, blocks, &mut decoded);
        for (j, (value, expected)) in decoded.iter().zip(expected).enumerate() {
            let expected = f32::from_le_bytes(*expected);
            let same = value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
            assert!(same, "{dtype} value {j}: {value:e} instead of {expected:e}");
        }
    }
}

/// The same blocks, each alone: refused where a value is no number, and nowhere else.
#[test]
fn blocks_without_finite_values_are_found_by_their_scales() {
    let fixture = Fixture::read();
    for dtype in DType::ALL {
        let (values, bytes) = dtype.block();
        let mut refused = 0;
        for block in fixture.bytes(&format!("{dtype}.blocks")).chunks(bytes) {
            let mut decoded = vec![0.0; values];
            dequantise_row(dtype, block, &mut decoded);
            let finite = decoded.iter().all(|v| v.abs() < 1e30);
            // A power of two as scale may be absurd and all values zero.
            assert!(is_finite(dtype, block) == finite || finite && dtype == DType::Mxfp4);
            refused += usize::from(!finite);
        }
        assert!(refused > 0, "{dtype}: no hostile block");
    }
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let good = vec![1.5; 600];
        for (wrong, at) in [(f32::NAN, 0), (f32::INFINITY, 300), (f32::NEG_INFINITY, 599)] {
            let mut bytes = vec![0; dtype.row_bytes(600).expect("any length")];
            quantise_row(dtype, &good, &mut bytes);
            assert!(is_finite(dtype, &bytes));
            let bad = Vec::from_iter((0..600).map(|i| if i == at { wrong } else { 1.5 }));
            quantise_row(dtype, &bad, &mut bytes);
            assert!(!is_finite(dtype, &bytes), "{dtype} {wrong} at {at}");
        }
    }
}

fn round_trip(dtype: DType, x: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; dtype.row_bytes(x.len()).expect("whole blocks")];
    quantise_row(dtype, x, &mut bytes);
    let mut out = vec![0.0; x.len()];
    dequantise_row(dtype, &bytes, &mut out);
    out
}

#[test]
fn q4_0_block_decodes_as_the_format_says() {
    // d = 0.5; low nibbles 0..15 are values 0..15, high nibbles 15..0 are values 16..31.
    let mut bytes = f16::from_f32(0.5).to_le_bytes().to_vec();
    bytes.extend((0..16_u8).map(|j| j | ((15 - j) << 4)));
    let mut out = [0.0; 32];
    dequantise_row(DType::Q4_0, &bytes, &mut out);
    for j in 0..16 {
        assert_eq!(out[j], 0.5 * (j as f32 - 8.0));
        assert_eq!(out[j + 16], 0.5 * (7.0 - j as f32));
    }
}

#[test]
fn q8_0_block_decodes_as_the_format_says() {
    let mut bytes = f16::from_f32(0.25).to_le_bytes().to_vec();
    bytes.extend((-16_i8..16).map(|q| q as u8));
    let mut out = [0.0; 32];
    dequantise_row(DType::Q8_0, &bytes, &mut out);
    for (j, v) in out.iter().enumerate() {
        assert_eq!(*v, 0.25 * (j as f32 - 16.0));
    }
}

#[test]
fn zero_rows_stay_zero() {
    for dtype in DType::WRITABLE {
        assert!(round_trip(dtype, &[0.0; 256]).iter().all(|v| *v == 0.0), "{dtype}");
    }
}

/// A row of the type: encoded where it can be, else random levels under scales like those of `x`.
pub(crate) fn sample(dtype: DType, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(x.len()).expect("whole blocks")];
    if dtype.is_writable() {
        quantise_row(dtype, x, &mut bytes);
        return bytes;
    }
    for (byte, x) in bytes.iter_mut().zip(x.iter().cycle()) {
        *byte = (x.to_bits() >> 3) as u8;
    }
    let scales: &[usize] = match dtype {
        DType::Q4_1 | DType::Q5_1 => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        _ => &[0],
    };
    for (block, x) in bytes.chunks_exact_mut(dtype.block().1).zip(x) {
        for at in scales {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(0.01 * x).to_le_bytes());
        }
        if dtype == DType::Mxfp4 {
            block[0] = 120 + (x.to_bits() % 16) as u8;
        }
    }
    bytes
}

/// Numbers of a normal distribution (sums of twelve even ones), the same for a seed.
fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut even = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| even()).sum::<f32>() - 6.0).collect()
}

fn rms(x: impl Iterator<Item = f32>) -> f64 {
    let (sum, count) = x.fold((0.0, 0), |(s, n), v| (s + f64::from(v).powi(2), n + 1));
    (sum / f64::from(count)).sqrt()
}

/// How far quantised normal values may be from the values, as a share of what theory says of even
/// steps without a search: each group's step / √12, the step being its range over its steps.
const RMSE_OF_THEORY_MAX: f64 = 1.0;
/// No search finds much less: that would be an error of the test.
const RMSE_OF_THEORY_MIN: f64 = 0.8;

#[test]
fn quantisers_are_at_least_as_near_as_theory_says() {
    let x = normal(1, 64 * 256);
    // Values in a group, and the step of a group from its least, greatest and farthest value.
    type Step = fn(f32, f32, f32) -> f32;
    let cases: [(DType, usize, Step); 6] = [
        (DType::Q4_0, 32, |_, _, far| far / 8.0),
        (DType::Q5_0, 32, |_, _, far| far / 16.0),
        (DType::Q8_0, 32, |_, _, far| far / 127.0),
        (DType::Q4K, 32, |least, greatest, _| (greatest - least) / 15.0),
        (DType::Q5K, 32, |least, greatest, _| (greatest - least) / 31.0),
        (DType::Q6K, 16, |_, _, far| far / 32.0),
    ];
    for (dtype, group, step) in cases {
        let theory = rms(x.chunks(group).map(|x| {
            let least = x.iter().copied().fold(f32::INFINITY, f32::min);
            let greatest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            step(least, greatest, greatest.max(-least)) / 12.0_f32.sqrt()
        }));
        let error = rms(x.iter().zip(round_trip(dtype, &x)).map(|(x, back)| x - back));
        let share = error / theory;
        let expected = RMSE_OF_THEORY_MIN..=RMSE_OF_THEORY_MAX;
        assert!(expected.contains(&share), "{dtype}: {error:.5}, theory {theory:.5}: {share:.3}");
    }
}

/// Weights of real models are small: scales of scales come near the smallest numbers of f16.
#[test]
fn small_values_are_quantised_as_well_as_large_ones() {
    let x = normal(2, 16 * 256);
    for dtype in [DType::Q4_0, DType::Q4K, DType::Q5_0, DType::Q5K, DType::Q6K, DType::Q8_0] {
        let error = |factor: f32| {
            let x: Vec<f32> = x.iter().map(|v| v * factor).collect();
            let back = round_trip(dtype, &x);
            rms(x.iter().zip(back).map(|(x, back)| (x - back) / factor))
        };
        let (large, small) = (error(1.0), error(0.01));
        assert!(small <= 1.05 * large, "{dtype}: {small} against {large}");
    }
}

/// Error of encoding what was decoded, as a share of the first error. Not none: a group that did not
/// use its outermost level has another range the second time, and scales are found anew.
const SECOND_ERROR_MAX: f64 = 0.2;

#[test]
fn what_was_decoded_is_encoded_without_a_further_error() {
    for dtype in DType::WRITABLE {
        let x = normal(3, 32 * 256);
        let once = round_trip(dtype, &x);
        let twice = round_trip(dtype, &once);
        let first = rms(x.iter().zip(&once).map(|(a, b)| a - b));
        let second = rms(once.iter().zip(&twice).map(|(a, b)| a - b));
        assert!(second <= SECOND_ERROR_MAX * first, "{dtype}: {second} after {first}");
    }
}

/// Blocks whose groups use all their levels, and whose scales and minimums reach the largest.
#[test]
fn blocks_that_use_their_whole_range_are_encoded_bit_for_bit() {
    let level = |j: usize, top: usize| if j < 2 { j * top } else { (j * 7 + j / 3) % (top + 1) };
    let groups: Vec<usize> = vec![63, 40, 51, 33, 62, 47, 38, 55];
    for (dtype, top) in [(DType::Q4K, 15), (DType::Q5K, 31)] {
        let (d, dmin) = (0.0123_f32, 0.0456_f32);
        let (d, dmin) = (f16::from_f32(d).to_f32(), f16::from_f32(dmin).to_f32());
        let x: Vec<f32> = (0..256)
            .map(|i| {
                let (scale, min) = (groups[i / 32] as f32, groups[7 - i / 32] as f32);
                d * scale * level(i % 32, top) as f32 - dmin * min / 8.0
            })
            .collect();
        assert_eq!(round_trip(dtype, &round_trip(dtype, &x)), round_trip(dtype, &x), "{dtype}");
    }
    let d = f16::from_f32(0.003).to_f32();
    let x: Vec<f32> = (0..256)
        .map(|i| {
            let scale = if i < 16 { -128.0 } else { (i / 16 * 8) as f32 - 65.0 };
            d * scale * (level(i % 16, 63) as f32 - 32.0)
        })
        .collect();
    assert_eq!(round_trip(DType::Q6K, &x), x);
    let x: Vec<f32> = (0..32).map(|i| d * (level(i, 31) as f32 - 16.0)).collect();
    assert_eq!(round_trip(DType::Q5_0, &x), x);
}

#[test]
fn values_that_are_no_numbers_are_encoded_without_a_panic() {
    for dtype in DType::WRITABLE {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45]
        {
            let mut x = normal(4, 256);
            x[17] = odd;
            assert_eq!(round_trip(dtype, &x).len(), 256);
            assert_eq!(round_trip(dtype, &[odd; 256]).len(), 256);
        }
    }
}

proptest! {
    #[test]
    fn quantisation_error_stays_within_half_a_step(x in prop::collection::vec(-4.0_f32..4.0, 64)) {
        for (dtype, levels) in [(DType::Q4_0, 8.0), (DType::Q8_0, 127.0)] {
            for (block, back) in x.chunks(32).zip(round_trip(dtype, &x).chunks(32)) {
                let max = block.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                let rms = |f: &dyn Fn(usize) -> f32| {
                    ((0..32).map(|j| f(j).powi(2)).sum::<f32>() / 32.0).sqrt()
                };
                // The scale is an f16 (2^-11 relative), and 4 bits are asymmetric: one full step.
                let error = rms(&|j| block[j] - back[j]);
                prop_assert!(error <= max / levels * 1.01, "{dtype}: {error} of {max}");
            }
        }
    }

    #[test]
    fn encoding_what_was_decoded_changes_nothing(x in prop::collection::vec(-4.0_f32..4.0, 32)) {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0] {
            let once = round_trip(dtype, &x);
            let twice = round_trip(dtype, &once);
            for (a, b) in once.iter().zip(&twice) {
                prop_assert!((a - b).abs() <= 1e-3 * a.abs(), "{dtype}: {a} {b}");
            }
        }
    }
}
