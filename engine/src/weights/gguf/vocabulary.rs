//! The tokenizer inside a GGUF file, written down as a `tokenizer.json`.
//!
//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`) with one of the known ways to split a text into
//! words (`tokenizer.ggml.pre`). GGUF does not store the split nor the normaliser: both follow from
//! that name, as the published tokenizers have them.
//! Sources: llama.cpp `src/llama-vocab.cpp` (names, token types, end tokens); `tokenizer.json` of
//! Qwen2, Qwen3.5 and Llama 3 (patterns, normaliser, ignore_merges).

use serde_json::{Map, Value as Json, json};

use super::header::{Header, Value};
use super::malformed;
use crate::error::EngineError;
use crate::tokenizer::END_TOKENS;

/// How a text is split into words before merging.
struct Splitter {
    /// Names in GGUF files.
    names: &'static [&'static str],
    pattern: &'static str,
    /// The published tokenizer normalises to NFC first.
    nfc: bool,
    /// A word that is a token is taken whole, whatever the merges say.
    ignore_merges: bool,
    /// Prompts begin with the first special token unless a key says otherwise.
    add_bos: bool,
}

const SPLITTERS: [Splitter; 3] = [
    Splitter {
        names: &["qwen2"],
        pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        nfc: true,
        ignore_merges: false,
        add_bos: false,
    },
    Splitter {
        names: &["qwen35"],
        pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        nfc: true,
        ignore_merges: false,
        add_bos: false,
    },
    Splitter {
        names: &["llama-bpe", "llama3", "llama-v3"],
        pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        nfc: false,
        ignore_merges: true,
        add_bos: true,
    },
];

/// Token types of GGUF.
mod kind {
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const UNUSED: i64 = 5;
}

/// The tokenizer as the `tokenizers` library reads it.
pub(super) fn tokenizer_json(header: &Header) -> Result<Json, EngineError> {
    let splitter = splitter(header)?;
    let tokens = strings(header, "tokenizer.ggml.tokens")?;
    let merges = strings(header, "tokenizer.ggml.merges")?;
    let kinds = kinds(header, tokens.len())?;
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
        match kind {
            kind::UNUSED => continue,
            kind::CONTROL | kind::USER_DEFINED => {
                added.push(json!({
                    "id": id, "content": token, "special": kind == kind::CONTROL,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false
                }));
            }
            _ => {}
        }
        if vocab.insert(token.clone(), json!(id)).is_some() {
            let what = format!("key \"tokenizer.ggml.tokens\": token {id} stands there twice");
            return Err(malformed(header, what));
        }
    }
    let merges = merges.iter().map(|merge| pair(header, merge)).collect::<Result<Vec<_>, _>>()?;
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false
    });
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": splitter.nfc.then(|| json!({"type": "NFC"})),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": splitter.pattern}, "behavior": "Isolated",
             "invert": false},
            &byte_level
        ]},
        "post_processor": null,
        "decoder": &byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": splitter.ignore_merges, "vocab": vocab, "merges": merges
        }
    }))
}

/// End tokens and sampling defaults, as `generation_config.json` has them.
pub(super) fn generation_config(header: &Header) -> Result<Json, EngineError> {
    let mut ends: Vec<i64> = ["eos_token_id", "eot_token_id", "eom_token_id"]
        .iter()
        .filter_map(|key| header.integer(&format!("tokenizer.ggml.{key}")))
        .collect();
    let tokens = strings(header, "tokenizer.ggml.tokens")?;
    let kinds = kinds(header, tokens.len())?;
    for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
        if kind == kind::CONTROL && END_TOKENS.contains(&token.as_str()) {
            ends.push(id as i64);
        }
    }
    let mut seen = Vec::new();
    ends.retain(|id| {
        (0..tokens.len() as i64).contains(id) && !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });
    let mut config = Map::new();
    config.insert("eos_token_id".to_owned(), json!(ends));
    for (key, name) in [("temp", "temperature"), ("top_p", "top_p"), ("min_p", "min_p")] {
        if let Some(value) = header.float(&format!("general.sampling.{key}")) {
            config.insert(name.to_owned(), json!(value));
        }
    }
    if let Some(top_k) = header.integer("general.sampling.top_k").filter(|k| *k >= 0) {
        config.insert("top_k".to_owned(), json!(top_k));
    }
    Ok(Json::Object(config))
}

/// The special tokens of prompts, as `tokenizer_config.json` has them.
pub(super) fn tokenizer_config(header: &Header) -> Result<Json, EngineError> {
    let tokens = strings(header, "tokenizer.ggml.tokens")?;
    let token = |key: &str| {
        let id = header.integer(&format!("tokenizer.ggml.{key}"))?;
        tokens.get(usize::try_from(id).ok()?)
    };
    let mut config = Map::new();
    for (key, name) in [("bos_token_id", "bos_token"), ("eos_token_id", "eos_token")] {
        if let Some(token) = token(key) {
            config.insert(name.to_owned(), json!(token));
        }
    }
    let add_bos = match header.metadata.get("tokenizer.ggml.add_bos_token") {
        Some(Value::Bool(add)) => *add,
        _ => splitter(header)?.add_bos,
    };
    config.insert("add_bos_token".to_owned(), json!(add_bos));
    Ok(Json::Object(config))
}

fn splitter(header: &Header) -> Result<&'static Splitter, EngineError> {
    let expect = |key: &str, known: &[&str]| {
        let given = header.string(key).unwrap_or("nothing");
        let known = known.join(", ");
        malformed(header, format!("key {key:?}: is {given:?}; this version reads {known}"))
    };
    let model = "tokenizer.ggml.model";
    if header.string(model) != Some("gpt2") {
        return Err(expect(model, &["gpt2"]));
    }
    let pre = "tokenizer.ggml.pre";
    let name = header.string(pre).unwrap_or_default();
    SPLITTERS.iter().find(|s| s.names.contains(&name)).ok_or_else(|| {
        let known: Vec<_> = SPLITTERS.iter().map(|s| s.names[0]).collect();
        expect(pre, &known)
    })
}

fn strings<'a>(header: &'a Header, key: &str) -> Result<&'a [String], EngineError> {
    match header.metadata.get(key) {
        Some(Value::Strings(list)) => Ok(list),
        _ => Err(malformed(header, format!("key {key:?}: expected a list of strings"))),
    }
}

/// The type of every token; files without types have plain tokens only.
fn kinds(header: &Header, tokens: usize) -> Result<impl Iterator<Item = i64>, EngineError> {
    let key = "tokenizer.ggml.token_type";
    let list: &[i64] = match header.metadata.get(key) {
        None => &[],
        Some(Value::Integers(list)) if list.len() == tokens => list,
        Some(_) => {
            let what = format!("key {key:?}: expected a type for each of {tokens} tokens");
            return Err(malformed(header, what));
        }
    };
    Ok(list.iter().copied().chain(std::iter::repeat_n(1, tokens - list.len())))
}

/// The halves of a merge. Letters of byte-level tokens are never spaces.
fn pair(header: &Header, merge: &str) -> Result<[String; 2], EngineError> {
    match merge.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => {
            Ok([left.to_owned(), right.to_owned()])
        }
        _ => Err(malformed(
            header,
            "key \"tokenizer.ggml.merges\": a merge is no pair of tokens".to_owned(),
        )),
    }
}
