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
    for dtype in DType::ALL.into_iter().filter(|t| t.is_quantised()) {
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
        assert!(round_trip(dtype, &[0.0; 64]).iter().all(|v| *v == 0.0), "{dtype}");
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
