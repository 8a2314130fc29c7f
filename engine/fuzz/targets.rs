//! What the fuzz targets do with an input; `cargo test` does the same with every file of `corpus/`.
//!
//! A model's files come from strangers. Each function reads one as loading a model does and panics
//! where the reader does; an error must say which file is wrong.

use sluice_engine::untrusted;

/// Longest input: what matters of these formats fits.
const BYTES_MAX: usize = 1 << 20;

/// A GGUF file: header, config, tokenizer, tensors, experts.
pub(crate) fn gguf(input: &[u8]) {
    check(untrusted::read_gguf(&input[..input.len().min(BYTES_MAX)]));
}

/// A safetensors file.
pub(crate) fn safetensors(input: &[u8]) {
    check(untrusted::read_safetensors(&input[..input.len().min(BYTES_MAX)]));
}

/// A `tokenizer.json`: what it makes of a text is its bytes again.
pub(crate) fn tokenizer(input: &[u8]) {
    check(untrusted::read_tokenizer(&input[..input.len().min(BYTES_MAX)]));
}

fn check(read: Result<(), sluice_engine::EngineError>) {
    if let Err(error) = read {
        let text = error.to_string();
        assert!(text.len() > 10 && text.len() < 1 << 16, "an error says what is wrong: {text}");
    }
}
