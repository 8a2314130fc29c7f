//! How well a model predicts a text: perplexity, the check of a pack against its source.
//!
//! Two kinds of data: JSON Lines of `{"prompt", "answer"}` (the file is named so, or its first line is
//! such a record), where the answers' tokens and the end token are counted, given the prompt in the
//! model's own chat template; or any other text, counted from its second token on in windows. Either
//! may be gzipped. Speeds are measured beside it: of reading, over all records, and of writing, some
//! tokens after the first record. A logit that is no finite number ends the measurement.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::chat::ChatTemplate;
use crate::clock::Clock;
use crate::engine::{ChatMessage, Conversation, EngineOptions};
use crate::error::{EngineError, PromptLength};
use crate::model::{LoadedModel, Step};
use crate::pack::Progress;
use crate::tokenizer::{TokenId, Tokenizer};

/// Largest data file, unpacked.
const DATA_BYTES_MAX: u64 = 1 << 30;
/// Tokens of one pass, and of one window of plain text: logits of a pass are kept, [n, vocab] in f32.
pub(crate) const WINDOW_TOKENS: usize = 512;
/// Tokens that are written one after another to see how fast that goes.
const WRITTEN_TOKENS: usize = 32;

/// What to measure.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// The model and how to run it.
    pub engine: EngineOptions,
    /// Prompt/answer records or text, gzipped or not.
    pub data: PathBuf,
    /// At most so many records or windows.
    pub limit: Option<usize>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalReport {
    /// Name of the model.
    pub model: String,
    /// Its family: `qwen3_moe`.
    pub architecture: String,
    /// Types of its weights.
    pub quantisation: String,
    /// Experts that a token used in a layer.
    pub experts_per_token: usize,
    /// Backend that computed.
    pub backend: String,
    /// Records or windows.
    pub records: usize,
    /// Tokens that were counted.
    pub tokens: usize,
    /// exp(mean negative log-likelihood of those tokens, natural logarithm).
    pub perplexity: f64,
    /// Share of those tokens that the model would have chosen itself.
    pub top1: f64,
    /// Tokens read a second, many in a pass: all that passed through the model, prompts included.
    pub prompt_tokens_per_second: f64,
    /// Tokens written a second, one after another, behind the first record.
    pub decode_tokens_per_second: f64,
    /// Share of expert look-ups that found theirs in memory, while reading.
    pub expert_hit_rate: f64,
    /// Share of all choices of the gates that were left out, while reading.
    pub experts_left_out: f64,
}

/// One sequence, and the first token that counts.
pub(crate) struct Record {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) counted_from: usize,
}

#[derive(Deserialize)]
struct PromptAnswer {
    prompt: String,
    answer: String,
}

/// Measures perplexity. `progress` counts records.
///
/// Errors if the model or the data cannot be read, a record is longer than the model's context, or a
/// logit is no finite number.
pub fn eval(
    options: &EvalOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<EvalReport, EngineError> {
    let mut model = LoadedModel::load(&options.engine)?;
    let mut records = read_records(&options.data, &model)?;
    records.truncate(options.limit.unwrap_or(usize::MAX));
    let clock = Clock::System;
    let started = clock.now();
    let mut sums = Sums::default();
    for (done, record) in records.iter().enumerate() {
        sums.add(&mut model, record).map_err(|e| e.in_record(done, &options.engine.model))?;
        progress(Progress { done: done as u64 + 1, total: records.len() as u64 });
    }
    let seconds = clock.since(started).as_secs_f64();
    let counts = model.read_counts();
    let written = write_some(&mut model, &records[0].tokens, &clock);
    let decode_tokens_per_second = written.map_err(|e| e.in_record(0, &options.engine.model))?;
    Ok(EvalReport {
        model: model.info().name.clone(),
        architecture: model.info().architecture.clone(),
        quantisation: model.info().quantisation.clone(),
        experts_per_token: model.info().experts_per_token,
        backend: model.info().backend.clone(),
        records: records.len(),
        tokens: sums.counted,
        perplexity: (sums.negative_log_likelihood / sums.counted as f64).exp(),
        top1: sums.top1 as f64 / sums.counted as f64,
        prompt_tokens_per_second: sums.passed as f64 / seconds,
        decode_tokens_per_second,
        expert_hit_rate: counts.hit_rate(),
        experts_left_out: counts.left_out(),
    })
}

/// Why a record could not be measured.
enum Failed {
    Engine(EngineError),
    /// A logit is NaN or infinite.
    NoNumber,
}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        Failed::Engine(error)
    }
}

impl Failed {
    fn in_record(self, index: usize, model: &Path) -> EngineError {
        match self {
            Failed::Engine(error) => error,
            Failed::NoNumber => EngineError::Malformed {
                path: model.to_owned(),
                what: format!(
                    "gave a logit that is no finite number in record {}; its weights are damaged",
                    index + 1
                ),
            },
        }
    }
}

/// Lets the model go on by itself after some tokens; tokens written a second.
fn write_some(model: &mut LoadedModel, after: &[TokenId], clock: &Clock) -> Result<f64, Failed> {
    let context_tokens = model.info().context_tokens;
    let mut tokens = after[..after.len().min(WINDOW_TOKENS).min(context_tokens - 1)].to_vec();
    let count = WRITTEN_TOKENS.min(context_tokens - tokens.len());
    let mut sequence = model.new_sequence();
    let (mut logits, mut started) = (Vec::new(), clock.now());
    for step in 0..=count {
        let logits = &mut logits;
        let sequence = &mut sequence;
        model.forward(&mut [Step::new(sequence, &tokens, Some(logits))])?;
        let largest = largest(logits)?;
        let best = logits.iter().position(|logit| *logit == largest);
        tokens = vec![best.expect("the largest is one of them") as TokenId];
        if step == 0 {
            started = clock.now();
        }
    }
    Ok(count as f64 / clock.since(started).as_secs_f64())
}

/// The largest of some logits, all of which must be finite.
fn largest(logits: &[f32]) -> Result<f32, Failed> {
    match logits.iter().all(|logit| logit.is_finite()) {
        true => Ok(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)),
        false => Err(Failed::NoNumber),
    }
}

#[derive(Default)]
struct Sums {
    negative_log_likelihood: f64,
    counted: usize,
    top1: usize,
    passed: usize,
}

impl Sums {
    fn add(&mut self, model: &mut LoadedModel, record: &Record) -> Result<(), Failed> {
        let mut sequence = model.new_sequence();
        // The last token predicts nothing that is known, and only the last of the prompt something that
        // counts: the output matrix is spared the others.
        let (inputs, targets) =
            (&record.tokens[..record.tokens.len() - 1], &record.tokens[record.counted_from..]);
        let (uncounted, counted) = inputs.split_at(record.counted_from - 1);
        for tokens in uncounted.chunks(WINDOW_TOKENS) {
            model.forward(&mut [Step::new(&mut sequence, tokens, None)])?;
        }
        // What is left out depends on the rows of a pass: replies have one.
        let step = if model.drops_experts() { 1 } else { WINDOW_TOKENS };
        for (tokens, targets) in counted.chunks(step).zip(targets.chunks(step)) {
            let logits = model.forward_all(&mut sequence, tokens)?;
            let rows = logits.chunks_exact(logits.len() / tokens.len());
            rows.zip(targets).try_for_each(|(row, target)| self.count(row, *target as usize))?;
        }
        self.passed += inputs.len();
        Ok(())
    }

    fn count(&mut self, logits: &[f32], target: usize) -> Result<(), Failed> {
        let max = largest(logits)?;
        let total: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
        self.negative_log_likelihood += total.ln() - f64::from(logits[target] - max);
        self.counted += 1;
        self.top1 += usize::from(logits[target] == max);
        Ok(())
    }
}

/// The records of a data file, each no longer than the model's context.
pub(crate) fn read_records(path: &Path, model: &LoadedModel) -> Result<Vec<Record>, EngineError> {
    let text = read_text(path)?;
    let tokenizer = Tokenizer::from_json(&model.files().tokenizer_json)?;
    let malformed = |what: String| EngineError::Malformed { path: path.to_owned(), what };
    let context_tokens = model.info().context_tokens;
    let records = if holds_records(path, &text) {
        let template = model.files().chat_template.as_deref().ok_or_else(|| {
            malformed("holds prompts and answers, but the model has no chat template".to_owned())
        })?;
        let template = ChatTemplate::new(template, &model.files().special)?;
        let end = *model.files().eos_token_ids.first().ok_or_else(|| {
            malformed("holds prompts and answers, but the model has no end token".to_owned())
        })?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(i, line)| {
                let record = serde_json::from_str(line)
                    .map_err(|e| malformed(format!("line {}: {e}", i + 1)))?;
                chat_record(&record, &template, &tokenizer, end)
            })
            .collect::<Result<Vec<_>, _>>()?
    } else {
        let tokens = tokenizer.encode_text(&text)?;
        let first = model.files().special.first_token(&tokenizer);
        let window_tokens = WINDOW_TOKENS.min(context_tokens) - first.iter().len();
        let windows = tokens.chunks(window_tokens.max(1)).map(|window| Record {
            tokens: first.iter().chain(window).copied().collect(),
            counted_from: 1,
        });
        windows.filter(|record| record.tokens.len() > 1).collect()
    };
    if records.is_empty() {
        return Err(malformed("holds nothing to measure".to_owned()));
    }
    match records.iter().find(|r| r.tokens.len() > context_tokens) {
        Some(r) => Err(EngineError::ContextLengthExceeded {
            prompt_tokens: PromptLength::Exactly(r.tokens.len()),
            context_tokens,
        }),
        None => Ok(records),
    }
}

/// Whether a file holds prompts and answers: by its name, or by its first line. A text may begin with a
/// brace, too.
fn holds_records(path: &Path, text: &str) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
    let name = name.unwrap_or_default();
    let first = text.lines().find(|line| !line.trim().is_empty());
    let is_record = |line| serde_json::from_str::<PromptAnswer>(line).is_ok();
    name.trim_end_matches(".gz").ends_with(".jsonl") || first.is_some_and(is_record)
}

fn chat_record(
    record: &PromptAnswer,
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    end: TokenId,
) -> Result<Record, EngineError> {
    let messages = vec![ChatMessage::new("user", &record.prompt)];
    let conversation = Conversation { messages, ..Conversation::default() };
    let mut tokens = template.encode(&conversation, tokenizer)?.tokens;
    let counted_from = tokens.len();
    tokens.extend(tokenizer.encode_text(&record.answer)?);
    tokens.push(end);
    Ok(Record { tokens, counted_from })
}

/// A text file, gunzipped if it is gzip.
fn read_text(path: &Path) -> Result<String, EngineError> {
    let read = |source| EngineError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(read)?;
    file.take(DATA_BYTES_MAX).read_to_end(&mut bytes).map_err(read)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        let gunzip = flate2::read::GzDecoder::new(bytes.as_slice());
        gunzip.take(DATA_BYTES_MAX).read_to_end(&mut unpacked).map_err(read)?;
        bytes = unpacked;
    }
    String::from_utf8(bytes).map_err(|e| EngineError::Malformed {
        path: path.to_owned(),
        what: format!("is not UTF-8 text: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::BackendChoice;
    use crate::model::tiny;
    use crate::weights::gguf_testing::TestFile;

    fn run(name: &str, data: &[u8]) -> Result<EvalReport, EngineError> {
        run_with(name, data, EngineOptions::default())
    }

    fn run_with(
        name: &str,
        data: &[u8],
        options: EngineOptions,
    ) -> Result<EvalReport, EngineError> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        tiny::write(&dir.path().join("model"), 2);
        let path = dir.path().join(name);
        std::fs::write(&path, data).expect("written");
        let engine = EngineOptions {
            model: dir.path().join("model"),
            backend: BackendChoice::Cpu,
            threads: Some(1),
            ..options
        };
        eval(&EvalOptions { engine, data: path, limit: None }, &mut |_| {})
    }

    #[test]
    fn counts_the_answer_and_the_end_token() {
        let data = br#"{"prompt": "ab", "answer": "xyz"}
{"prompt": "a", "answer": "q"}"#;
        let report = run("data.jsonl", data).expect("measured");
        assert_eq!((report.records, report.tokens), (2, 4 + 2));
        // Random weights know nothing: about as many choices as tokens.
        assert!(report.perplexity > 20.0 && report.perplexity.is_finite(), "{report:?}");
    }

    #[test]
    fn gzipped_data_gives_the_same_figures() {
        use std::io::Write;
        let data = br#"{"prompt": "ab", "answer": "xyz"}"#;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(data).expect("in memory");
        let packed = run("data.jsonl.gz", &gzip.finish().expect("in memory")).expect("measured");
        let plain = run("data.jsonl", data).expect("measured");
        assert_eq!(packed.perplexity, plain.perplexity);
    }

    #[test]
    fn plain_text_counts_all_but_the_first_token_of_a_window() {
        let report = run("text.txt", &[b'a'; WINDOW_TOKENS + 10]).expect("measured");
        assert_eq!((report.records, report.tokens), (2, WINDOW_TOKENS + 10 - 2));
    }

    #[test]
    fn a_text_that_begins_with_a_brace_is_a_text() {
        for text in ["{\n  \"prompt\": 1\n}\n", "{ int main; }", "{\"a\": 1}\n{\"a\": 2}"] {
            let report = run("text.txt", text.as_bytes()).expect("measured");
            assert_eq!((report.records, report.tokens), (1, text.len() - 1), "{text}");
        }
        let records = br#"{"prompt": "ab", "answer": "xyz"}"#;
        assert_eq!(run("records.txt", records).expect("measured").tokens, 4);
    }

    #[test]
    fn windows_of_a_text_fit_into_a_short_context() {
        let options = EngineOptions { context_tokens: Some(64), ..EngineOptions::default() };
        let report = run_with("text.txt", &[b'a'; 130], options).expect("measured");
        assert_eq!((report.records, report.tokens), (3, 63 + 63 + 1));
    }

    #[test]
    fn the_report_says_whose_speeds_it_gives() {
        let report = run("text.txt", b"some text").expect("measured");
        assert_eq!(report.architecture, "qwen3_5_moe");
        for speed in [report.prompt_tokens_per_second, report.decode_tokens_per_second] {
            assert!(speed.is_finite() && speed > 0.0, "{report:?}");
        }
    }

    #[test]
    fn a_logit_that_is_no_number_ends_the_measurement() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (path, data) = (dir.path().join("m.gguf"), dir.path().join("text.txt"));
        let mut file = TestFile::open(&tiny::gguf("qwen3_moe"));
        let experts = file.tensors.iter_mut().find(|t| t.name == "blk.0.ffn_down_exps.weight");
        experts.expect("there").bytes.fill(0xff);
        std::fs::write(&path, file.bytes()).expect("written");
        std::fs::write(&data, "some text").expect("written");
        let run = |verify_experts| {
            let threads = Some(1);
            let model = path.clone();
            let engine = EngineOptions { model, threads, verify_experts, ..Default::default() };
            let options = EvalOptions { engine, data: data.clone(), limit: None };
            eval(&options, &mut |_| {}).expect_err("refused").to_string()
        };
        let error = run(Some(false));
        assert!(error.contains("m.gguf") && error.contains("in record 1"), "{error}");
        assert!(run(None).contains("blk.0.ffn_down_exps.weight"));
    }

    #[test]
    fn bad_data_is_named_with_its_line() {
        let error = run("data.jsonl", b"{\"prompt\": \"a\", \"answer\": \"b\"}\n{\"prompt\": 3}");
        let text = error.expect_err("refused").to_string();
        assert!(text.contains("data.jsonl") && text.contains("line 2"), "{text}");
        assert!(run("empty.txt", b"").is_err());
    }
}
