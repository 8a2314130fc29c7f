//! Tests of the tokenizer, and a toy tokenizer small enough to read.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Markup of the toy tokenizer, ids 0 to 3.
const MARKUP: [(&str, bool); 4] =
    [("<|endoftext|>", true), ("<|im_start|>", true), ("<|im_end|>", true), ("<think>", false)];

/// A byte-level BPE tokenizer with ids 0 to 3 for markup, then 256 single bytes, then a few merges.
pub(crate) fn toy_tokenizer() -> &'static Tokenizer {
    static TOY: LazyLock<Tokenizer> =
        LazyLock::new(|| Tokenizer::from_json(&toy_json()).expect("the toy tokenizer is valid"));
    &TOY
}

/// The toy tokenizer's file.
pub(crate) fn toy_json() -> Vec<u8> {
    let letters: Vec<char> =
        (0u32..0x200).filter_map(char::from_u32).filter(is_byte_letter).collect();
    let merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w"), ("a", "a"), ("Ċ", "Ċ")];
    let mut vocab = serde_json::Map::new();
    for (id, (markup, _)) in MARKUP.iter().enumerate() {
        vocab.insert(markup.to_string(), json!(id));
    }
    for letter in letters {
        let id = vocab.len();
        vocab.insert(letter.to_string(), json!(id));
    }
    for (left, right) in merges {
        let id = vocab.len();
        vocab.insert(format!("{left}{right}"), json!(id));
    }
    let added: Vec<_> = MARKUP
        .iter()
        .enumerate()
        .map(|(id, (content, special))| {
            json!({"id": id, "content": content, "special": special, "single_word": false,
                   "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let byte_level = |use_regex: bool| {
        json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": use_regex})
    };
    let pattern = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            byte_level(false)]},
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": vocab,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                  "byte_fallback": false, "ignore_merges": false,
                  "merges": merges.iter().map(|(l, r)| json!([l, r])).collect::<Vec<_>>()},
    });
    serde_json::to_vec(&file).expect("JSON values can be written")
}

fn is_byte_letter(letter: &char) -> bool {
    matches!(*letter as u32, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF | 0x100..=0x143)
}

/// What the library itself makes of a text, markup included.
fn library_ids(text: &str) -> Vec<TokenId> {
    static LIBRARY: LazyLock<tokenizers::Tokenizer> =
        LazyLock::new(|| tokenizers::Tokenizer::from_bytes(toy_json()).unwrap());
    LIBRARY.encode_fast(text, false).unwrap().get_ids().to_vec()
}

const MULTILINGUAL: [&str; 12] = [
    "hello world, hello  hell",
    "Größe, naïve, Ærø, İstanbul",
    "Καλημέρα κόσμε",
    "Привет, мир! Ёлка",
    "שלום עולם",
    "مرحبا بالعالم ١٢٣",
    "नमस्ते दुनिया क्षेत्र",
    "สวัสดีชาวโลก",
    "你好，世界。漢字かな交じり文",
    "안녕하세요 세계",
    "👩‍👩‍👧‍👦 🇸🇪 🏳️‍🌈 e\u{301}",
    "\t\r\n \n\n  x\u{a0}\u{200b}\u{0}",
];

#[test]
fn multilingual_text_survives_byte_for_byte() {
    let tokenizer = toy_tokenizer();
    for text in MULTILINGUAL {
        let tokens = tokenizer.encode_text(text).unwrap();
        assert_eq!(tokenizer.decode(&tokens), text);
        assert_eq!(tokens, library_ids(text), "{text:?}");
    }
}

#[test]
fn shipped_tokenizer_reads_as_the_library_does() {
    let json = include_bytes!("../../models/nano/tokenizer.json");
    let tokenizer = Tokenizer::from_json(json).unwrap();
    let library = tokenizers::Tokenizer::from_bytes(json).unwrap();
    for text in MULTILINGUAL {
        let tokens = tokenizer.encode_text(text).unwrap();
        assert_eq!(tokens, library.encode_fast(text, false).unwrap().get_ids(), "{text:?}");
        assert_eq!(tokenizer.decode(&tokens), text);
        let turn = format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n");
        let tokens = tokenizer.encode_rendered(&turn).unwrap();
        assert_eq!(tokens, library.encode_fast(turn, false).unwrap().get_ids());
    }
}

#[test]
fn merges_apply_across_a_word_only() {
    let tokenizer = toy_tokenizer();
    assert_eq!(tokenizer.encode_text("hell").unwrap().len(), 1);
    assert_eq!(tokenizer.encode_text("he ll").unwrap().len(), 3);
}

#[test]
fn markup_in_plain_text_stays_text() {
    let tokenizer = toy_tokenizer();
    for (markup, _) in MARKUP {
        let tokens = tokenizer.encode_text(markup).unwrap();
        assert!(tokens.iter().all(|&token| token > 3), "{markup}: {tokens:?}");
        assert_eq!(tokenizer.decode(&tokens), markup);
    }
}

#[test]
fn markup_of_the_template_becomes_its_token() {
    let tokenizer = toy_tokenizer();
    let rendered = "<|im_start|>user\nhello<|im_end|>\n<think>";
    assert_eq!(tokenizer.encode_rendered(rendered).unwrap(), library_ids(rendered));
    assert_eq!(tokenizer.encode_rendered("<think>").unwrap(), [3]);
}

#[test]
fn shielded_text_has_the_ids_of_plain_text() {
    let tokenizer = toy_tokenizer();
    let text = "a < b > c <|im_end|> <think> |>";
    let shielded = tokenizer.shield(text);
    assert_eq!(tokenizer.encode_rendered(&shielded).unwrap(), tokenizer.encode_text(text).unwrap());
}

#[test]
fn text_without_markup_is_not_copied_by_the_shield() {
    assert!(matches!(toy_tokenizer().shield("plain words"), Cow::Borrowed("plain words")));
}

#[test]
fn special_tokens_have_no_text_but_other_added_tokens_do() {
    let tokenizer = toy_tokenizer();
    assert_eq!(tokenizer.decode(&[0, 1, 2]), "");
    assert_eq!(tokenizer.decode(&[3]), "<think>");
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
}

#[test]
fn no_text_has_fewer_tokens_than_the_lower_bound() {
    let tokenizer = toy_tokenizer();
    let text = "hell".repeat(50);
    assert!(tokenizer.encode_text(&text).unwrap().len() >= tokenizer.tokens_at_least(text.len()));
    assert!(tokenizer.tokens_at_least(text.len()) > 0);
}

#[test]
fn long_runs_of_one_character_are_read_or_refused() {
    let tokenizer = toy_tokenizer();
    for run in [" ", "\n", "a", "é", "1", " \n"] {
        let text = run.repeat(100_000) + "x";
        match tokenizer.encode_text(&text) {
            Ok(tokens) => assert_eq!(tokenizer.decode(&tokens), text),
            Err(error) => assert!(matches!(error, EngineError::InvalidRequest(_))),
        }
    }
}

#[test]
fn unusable_files_are_refused_with_a_reason() {
    let refusal = |json: &[u8]| Tokenizer::from_json(json).err().unwrap().to_string();
    assert!(refusal(b"{}").starts_with("failed to load the tokenizer: tokenizer.json: "));
    let mut file: serde_json::Value = serde_json::from_slice(&toy_json()).unwrap();
    file["decoder"] = serde_json::Value::Null;
    assert!(refusal(file.to_string().as_bytes()).contains("decoder: expected ByteLevel"));
    file["model"]["vocab"]["zz"] = json!(u32::MAX);
    file["decoder"] = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
    assert!(refusal(file.to_string().as_bytes()).contains("expected token ids below"));
}

/// Replaces the `index`-th value of a JSON tree, counted depth first.
fn replace_value(value: &mut serde_json::Value, index: &mut usize, with: &serde_json::Value) {
    if *index == 0 {
        *value = with.clone();
    }
    *index = index.wrapping_sub(1);
    match value {
        serde_json::Value::Array(items) => {
            items.iter_mut().for_each(|item| replace_value(item, index, with));
        }
        serde_json::Value::Object(fields) => {
            // The 266 entries of the vocabulary are alike; a few are enough.
            fields.values_mut().take(20).for_each(|field| replace_value(field, index, with));
        }
        _ => {}
    }
}

#[test]
fn damaged_files_are_refused_or_work_and_never_panic() {
    let file: serde_json::Value = serde_json::from_slice(&toy_json()).unwrap();
    let damages =
        [json!(null), json!(-1), json!(u32::MAX), json!(""), json!("<"), json!([]), json!({})];
    let (mut refused, mut worked) = (0, 0);
    for index in 0..140 {
        let mut damaged = file.clone();
        replace_value(&mut damaged, &mut { index }, &damages[index % damages.len()]);
        match Tokenizer::from_json(damaged.to_string().as_bytes()) {
            Err(_) => refused += 1,
            Ok(tokenizer) => {
                let tokens = tokenizer.encode_rendered("<|im_start|>hello\n é 12");
                worked += usize::from(tokens.is_ok_and(|tokens| tokens.len() < 100));
            }
        }
    }
    assert!(refused > 40 && worked > 20, "{refused} refused, {worked} worked");
}

proptest! {
    #[test]
    fn any_text_has_the_library_s_ids_and_survives(text in "[hela w\\n<|>éж漢0-9]{0,60}|\\PC{0,40}") {
        let tokenizer = toy_tokenizer();
        let tokens = tokenizer.encode_text(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&tokens), text.clone());
        if !MARKUP.iter().any(|(markup, _)| text.contains(markup)) {
            prop_assert_eq!(tokens, library_ids(&text));
        }
    }

    #[test]
    fn rendered_text_without_messages_has_the_library_s_ids(
        parts in prop::collection::vec("<\\|im_end\\|>|<think>|<\\|im_|hell| w|\\n", 0..12)
    ) {
        let rendered = parts.concat();
        prop_assert_eq!(toy_tokenizer().encode_rendered(&rendered).unwrap(), library_ids(&rendered));
    }
}
