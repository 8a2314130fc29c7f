//! Fuzz target: see [`targets::safetensors`].
#![no_main]

#[expect(dead_code, reason = "each target uses one of its functions")]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::safetensors(input));
