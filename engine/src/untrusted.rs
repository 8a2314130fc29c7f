//! The readers of files from strangers, each as one function of bytes: for fuzzing and nothing else.
//!
//! They do what loading a model does with such a file, without the rest of a model.

use std::sync::Arc;

use crate::error::EngineError;
use crate::io::MemoryAt;
use crate::model::{Blueprint, ModelFiles};
use crate::tokenizer::Tokenizer;
use crate::weights::safetensors::SafetensorsFile;
use crate::weights::{Weights, side_files};

/// Text that has letters, marks, digits, spaces and markup.
const TEXT: &str = "Hello wörld, it's 12 <|im_end|>\n\n e\u{301} 漢字 \u{1F1F8}\u{1F1EA}";

/// Reads a GGUF file: header, config, tokenizer, places and types of all tensors.
pub fn read_gguf(bytes: &[u8]) -> Result<(), EngineError> {
    let weights = Weights::from_gguf(vec![Arc::new(MemoryAt::new(bytes))])?;
    let config = weights.side().config()?;
    for (name, _, shape) in weights.dense() {
        // Norms and biases are decoded, and so is everything else that is small.
        if shape.iter().product::<usize>() <= 1 << 12 {
            weights.vector(name, shape)?;
        }
    }
    // What the keys claim is computed with, whether or not the tensors bear it out.
    Blueprint::read(&weights.side().path(side_files::CONFIG), &config)?.footprint();
    let blueprint = Blueprint::of(&weights, &config)?;
    weights.experts(&blueprint.expert_layers(), false)?;
    let files = ModelFiles::read(weights.side(), &config)?;
    read_tokenizer(&files.tokenizer_json)
}

/// Reads the header of a safetensors file.
pub fn read_safetensors(bytes: &[u8]) -> Result<(), EngineError> {
    SafetensorsFile::from_reader(Arc::new(MemoryAt::new(bytes))).map(|_| ())
}

/// Reads a `tokenizer.json` and lets it encode a text.
pub fn read_tokenizer(json: &[u8]) -> Result<(), EngineError> {
    let tokenizer = Tokenizer::from_json(json)?;
    for tokens in
        [tokenizer.encode_text(TEXT)?, tokenizer.encode_rendered(&tokenizer.shield(TEXT))?]
    {
        for token in tokens {
            tokenizer.token_bytes(token);
        }
    }
    Ok(())
}
