//! From a directory to a model that runs: files, family, backend.

use std::path::Path;
#[cfg(test)]
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::layers::Loader;
use super::{Blueprint, Model, Parts, Sequence, Step};
use crate::backend::{Cpu, Reference};
use crate::chat::SpecialTokens;
use crate::engine::{BackendChoice, EngineOptions, ExpertUse, ModelInfo, SamplingOptions};
use crate::error::EngineError;
use crate::expert::{ExpertOptions, ExpertStore, Experts, ReadCounts, Recorder, probe};
#[cfg(test)]
use crate::io::ReadAt;
use crate::io::Reading;
use crate::plan::machine::{Machine, resident_now};
use crate::plan::{self, MemoryPlan, Sizes, Wishes};
use crate::tokenizer::{END_TOKENS, TokenId};
use crate::weights::Weights;
use crate::weights::side_files::{self, SideFiles};

/// A model on one of the backends, with what its directory says besides weights.
pub(crate) struct LoadedModel {
    info: ModelInfo,
    files: ModelFiles,
    running: Running,
}

enum Running {
    Reference(Box<Model<Reference>>),
    Cpu(Box<Model<Cpu>>),
}

/// Runs the same code on whichever backend is loaded.
macro_rules! on_backend {
    ($running:expr, $model:ident => $body:expr) => {
        match $running {
            Running::Reference($model) => $body,
            Running::Cpu($model) => $body,
        }
    };
}

/// What a model's directory says besides weights.
#[derive(Clone)]
pub(crate) struct ModelFiles {
    /// `tokenizer.json`.
    pub(crate) tokenizer_json: Vec<u8>,
    /// Jinja template of the conversation, if there is one.
    pub(crate) chat_template: Option<String>,
    /// Tokens that end a reply; the first is the one that the model was trained to end with.
    pub(crate) eos_token_ids: Vec<TokenId>,
    /// Tokens that templates write and prompts begin with.
    pub(crate) special: SpecialTokens,
    /// `generation_config.json`, as defaults for requests.
    pub(crate) generation_defaults: SamplingOptions,
}

impl LoadedModel {
    /// Loads a pack, a Hugging Face directory or GGUF files and starts the compute and reading threads.
    pub(crate) fn load(options: &EngineOptions) -> Result<Self, EngineError> {
        let dir = &options.model;
        let weights = Weights::open(dir)?;
        let config = weights.side().config()?;
        let parts = load_parts(&weights, &config, options)?;
        let files = ModelFiles::read(weights.side(), &config)?;
        let mut info = describe(dir, &weights, &parts, options);
        let threads = options.threads.unwrap_or_else(default_threads);
        let running = match options.backend {
            BackendChoice::Reference => Running::Reference(Box::new(Model::new(parts, Reference))),
            BackendChoice::Auto | BackendChoice::Cpu => {
                Running::Cpu(Box::new(Model::new(parts, Cpu::new(threads))))
            }
        };
        info.backend = on_backend!(&running, m => m.backend_name());
        Ok(LoadedModel { info, files, running })
    }

    /// What is loaded.
    pub(crate) fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Tokenizer, template and defaults.
    pub(crate) fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// What was counted of experts since the model was loaded.
    pub(crate) fn read_counts(&self) -> ReadCounts {
        on_backend!(&self.running, m => m.experts().counts())
    }

    /// The same as callers of the engine see it; the time of computing is not known here.
    pub(crate) fn expert_use(&self) -> ExpertUse {
        let counts = self.read_counts();
        ExpertUse {
            hits: counts.hits,
            misses: counts.misses,
            bytes_read: counts.bytes_read,
            read_ahead: counts.read_ahead,
            read_ahead_useful: counts.read_ahead_useful,
            stalled: counts.stalled,
            computed: Duration::ZERO,
        }
    }

    /// Where the experts lie.
    pub(crate) fn store(&self) -> &ExpertStore {
        on_backend!(&self.running, m => m.experts().store())
    }

    /// See [`Experts::wrap_files`].
    #[cfg(test)]
    pub(crate) fn wrap_files(&mut self, wrap: impl Fn(Arc<dyn ReadAt>) -> Arc<dyn ReadAt>) {
        on_backend!(&mut self.running, m => m.experts_mut().wrap_files(wrap));
    }

    /// Has every visit of a layer's experts told to `recorder` from now on.
    pub(crate) fn record(&mut self, recorder: Recorder) {
        on_backend!(&mut self.running, m => m.record(recorder));
    }

    /// Prompt tokens of a pass.
    pub(crate) fn prefill_tokens(&self) -> usize {
        self.info.plan.prefill_tokens
    }

    /// A fresh sequence.
    pub(crate) fn new_sequence(&self) -> Sequence {
        on_backend!(&self.running, m => m.new_sequence())
    }

    /// See [`Model::forward`].
    pub(crate) fn forward(&mut self, batch: &mut [Step<'_>]) -> Result<(), EngineError> {
        on_backend!(&mut self.running, m => m.forward(batch))
    }

    /// See [`Model::forward_all`].
    pub(crate) fn forward_all(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[TokenId],
    ) -> Result<Vec<f32>, EngineError> {
        on_backend!(&mut self.running, m => m.forward_all(sequence, tokens))
    }
}

/// Cores that this process may use.
pub(crate) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn load_parts(
    weights: &Weights,
    config: &Value,
    options: &EngineOptions,
) -> Result<Parts, EngineError> {
    let mut blueprint = Blueprint::of(weights, config)?;
    if let Some(chosen) = options.active_experts {
        blueprint.limit_experts(chosen)?;
    }
    let loader = Loader::new(&blueprint, weights);
    let (layers, head) = (loader.layers()?, loader.head()?);
    let verify = options.verify_experts.unwrap_or(true);
    let store = weights.experts(&blueprint.expert_layers(), verify)?;
    let plan = plan_memory(&blueprint, weights, &store, options)?;
    let cache_bytes = plan.cache_bytes;
    let fits = plan.experts_cached >= plan.experts;
    let (store, probed) = probe(store, options.io, fits)?;
    let experts = Experts::new(
        store,
        ExpertOptions {
            reading: Reading {
                depth: options.io_depth.unwrap_or(probed.reading.depth),
                ..probed.reading
            },
            cache_bytes,
            look_ahead: options.look_ahead.unwrap_or(true),
        },
    );
    Ok(Parts {
        embedding: loader.embedding()?,
        norm: loader.norm()?,
        layers,
        head,
        reading: experts.reading(),
        read_bytes_per_second: probed.bytes_per_second,
        experts,
        plan,
        experts_per_token: blueprint.experts_per_token(),
        lossy: blueprint.lossy(),
        config: blueprint.config().clone(),
    })
}

/// Divides memory when the dense weights are loaded: what the process takes is known then.
fn plan_memory(
    blueprint: &Blueprint,
    weights: &Weights,
    store: &ExpertStore,
    options: &EngineOptions,
) -> Result<MemoryPlan, EngineError> {
    let tokenizer_bytes = weights.side().required(side_files::TOKENIZER)?.len() as u64;
    let sizes = Sizes::of(blueprint, weights, store, tokenizer_bytes);
    let wishes = Wishes {
        memory_bytes: options.memory_bytes,
        cache_bytes: options.expert_cache_bytes,
        context_tokens: options.context_tokens,
        running_max: options.running_max,
        io_depth: options.io_depth,
        checkpoint_bytes: options.checkpoints.memory_bytes,
    };
    let process_bytes = resident_now().saturating_sub(sizes.dense_bytes);
    plan::fit(&sizes, &wishes, process_bytes, Machine::measure().budget())
}

fn describe(dir: &Path, weights: &Weights, parts: &Parts, options: &EngineOptions) -> ModelInfo {
    let store = parts.experts.store();
    let types = |named: Option<&str>, fallback: String| named.map_or(fallback, str::to_owned);
    let source = weights.manifest().map(|m| &m.source);
    let dense = types(source.map(|s| s.dense.as_str()), parts.embedding.shape().dtype.to_string());
    let first = store.layouts().next().expect("a model has layers with experts");
    let experts = types(source.map(|s| s.experts.as_str()), first.gate.dtype.to_string());
    let fewer = match options.active_experts {
        Some(_) => format!(", {} active", parts.experts_per_token),
        None => String::new(),
    };
    ModelInfo {
        name: weights.manifest().map_or_else(|| folder_name(dir), |m| m.name.clone()),
        architecture: parts.config.architecture.clone(),
        quality: weights.manifest().map_or("general", |m| m.quality.as_str()).to_owned(),
        context_tokens: parts.plan.context_tokens,
        parameters: parts.dense_parameters() + store.parameters(),
        dense_bytes: parts.dense_bytes(),
        expert_bytes: store.bytes(),
        quantisation: format!("{dense} dense, {experts} experts{fewer}"),
        backend: String::new(),
        io: parts.reading.choice,
        io_depth: parts.reading.depth,
        read_bytes_per_second: parts.read_bytes_per_second,
        expert_cache_bytes: parts.plan.cache_bytes,
        plan: parts.plan.clone(),
        experts_per_token: parts.experts_per_token,
        lossy: parts.lossy.clone(),
    }
}

/// The last part of a path, after links such as `.` are resolved, without a model file's ending.
pub(crate) fn folder_name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = full.file_name().map(|n| n.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "model".to_owned());
    crate::weights::model_name(&name).to_owned()
}

impl ModelFiles {
    /// Reads tokenizer, template and generation defaults. Only the tokenizer must exist.
    pub(crate) fn read(side: &SideFiles, config: &Value) -> Result<Self, EngineError> {
        let tokenizer_config = side.json(side_files::TOKENIZER_CONFIG)?;
        let generation = side.json(side_files::GENERATION_CONFIG)?.unwrap_or_default();
        let chat_template = match side.read(side_files::CHAT_TEMPLATE)? {
            Some(text) => Some(String::from_utf8_lossy(&text).into_owned()),
            None => tokenizer_config.as_ref().and_then(template_of),
        };
        let tokenizer_json = side.required(side_files::TOKENIZER)?;
        let special = special_tokens(tokenizer_config.as_ref().unwrap_or(&Value::Null));
        let text_config = config.get("text_config").unwrap_or(config);
        let named =
            [&generation, text_config, config].map(|file| token_ids(file.get("eos_token_id")));
        let mut eos_token_ids = Vec::new();
        let ends = named.into_iter().flatten().chain(end_tokens(&tokenizer_json, &special));
        for id in ends {
            if !eos_token_ids.contains(&id) {
                eos_token_ids.push(id);
            }
        }
        Ok(ModelFiles {
            tokenizer_json,
            chat_template,
            eos_token_ids,
            special,
            generation_defaults: generation_defaults(&generation),
        })
    }
}

/// `chat_template`: one template, or a list of named ones of which `default` is taken.
fn template_of(tokenizer_config: &Value) -> Option<String> {
    let template = tokenizer_config.get("chat_template")?;
    let named = |list: &Vec<Value>| {
        let default = list.iter().find(|t| t.get("name").is_some_and(|n| n == "default"));
        default.or(list.first()).and_then(|t| t.get("template")).cloned()
    };
    let one = template.as_array().map_or_else(|| Some(template.clone()), named)?;
    one.as_str().map(str::to_owned)
}

/// The special tokens that `tokenizer_config.json` names: texts, or objects with one.
fn special_tokens(tokenizer_config: &Value) -> SpecialTokens {
    let text = |name: &str| {
        let token = tokenizer_config.get(name)?;
        token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
    };
    SpecialTokens {
        bos: text("bos_token"),
        eos: text("eos_token"),
        add_bos: tokenizer_config.get("add_bos_token") == Some(&Value::Bool(true)),
    }
}

/// Added tokens of a tokenizer that end a reply: its `eos_token`, and those that always do.
fn end_tokens(tokenizer_json: &[u8], special: &SpecialTokens) -> Vec<TokenId> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: TokenId,
        content: String,
        #[serde(default)]
        special: bool,
    }
    // A file that cannot be read is refused when the tokenizer is made of it.
    let added = serde_json::from_slice::<File>(tokenizer_json).map(|f| f.added_tokens);
    let added = added.unwrap_or_default();
    let eos = added.iter().filter(|token| special.eos.as_ref() == Some(&token.content));
    let always = added.iter().filter(|t| t.special && END_TOKENS.contains(&t.content.as_str()));
    eos.chain(always).map(|token| token.id).collect()
}

/// A token id or a list of them.
fn token_ids(value: Option<&Value>) -> Vec<TokenId> {
    let as_id = |v: &Value| v.as_u64().and_then(|id| TokenId::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(as_id).collect(),
        Some(one) => as_id(one).into_iter().collect(),
        None => Vec::new(),
    }
}

fn generation_defaults(config: &Value) -> SamplingOptions {
    let number = |name: &str| config.get(name).and_then(Value::as_f64).map(|v| v as f32);
    let greedy = config.get("do_sample") == Some(&Value::Bool(false));
    SamplingOptions {
        temperature: if greedy { Some(0.0) } else { number("temperature") },
        top_k: config.get("top_k").and_then(Value::as_u64).map(|k| k as usize),
        top_p: number("top_p"),
        min_p: number("min_p"),
        repetition_penalty: number("repetition_penalty"),
        ..SamplingOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::tiny;
    use crate::weights::gguf_testing::{TestFile, Value as Key};
    use crate::{Engine, FinishReason, GenerationRequest, PromptInput, StreamEvent};

    /// The end tokens of a tiny model whose files say that; its vocabulary has `<|im_end|>` at 257.
    fn ends(config: Value, others: &[(&str, Value)]) -> Vec<TokenId> {
        let dir = tempfile::tempdir().expect("a folder");
        tiny::write(dir.path(), 1);
        for (name, value) in others {
            std::fs::write(dir.path().join(name), value.to_string()).expect("written");
        }
        let side = SideFiles::Folder(dir.path().to_owned());
        ModelFiles::read(&side, &config).expect("whole").eos_token_ids
    }

    #[test]
    fn end_tokens_are_gathered_from_every_file_that_names_one() {
        let tokenizer = side_files::TOKENIZER_CONFIG;
        let generation = side_files::GENERATION_CONFIG;
        assert_eq!(ends(json!({"eos_token_id": 7}), &[]), [7, 257]);
        assert_eq!(
            ends(json!({"text_config": {"eos_token_id": 7}, "eos_token_id": [8, 9]}), &[]),
            [7, 8, 9, 257]
        );
        assert_eq!(
            ends(json!({"eos_token_id": 7}), &[(generation, json!({"eos_token_id": [6, 7]}))]),
            [6, 7, 257]
        );
        for eos in [json!("<|im_start|>"), json!({"content": "<|im_start|>", "special": true})] {
            assert_eq!(ends(json!({}), &[(tokenizer, json!({"eos_token": eos}))]), [256, 257]);
        }
        assert_eq!(ends(json!({}), &[(tokenizer, json!({"eos_token": null}))]), [257]);
    }

    #[test]
    fn a_reply_stops_at_the_second_of_several_end_tokens() {
        let dir = tempfile::tempdir().expect("a folder");
        tiny::write(dir.path(), 2);
        let options = EngineOptions {
            model: dir.path().to_owned(),
            threads: Some(1),
            ..EngineOptions::default()
        };
        let prompt = [10, 20, 30];
        let mut model = LoadedModel::load(&options).expect("loads");
        let said = crate::model::families::greedy(&mut model, &prompt, 12);
        let new = |i: &usize| !said[..*i].contains(&said[*i]);
        let end = (1..12).rfind(new).expect("not one token twelve times");
        let config = json!({"eos_token_id": [256, said[end]], "do_sample": false});
        std::fs::write(dir.path().join(side_files::GENERATION_CONFIG), config.to_string())
            .expect("ok");
        let engine = Engine::load(&options).expect("loads");
        let request = GenerationRequest {
            max_tokens: Some(100),
            ..GenerationRequest::new(PromptInput::Tokens(prompt.to_vec()))
        };
        let mut stream = engine.submit(request).expect("accepted");
        let finish = loop {
            match stream.next_blocking() {
                Some(StreamEvent::Finished(finish)) => break finish,
                Some(StreamEvent::Delta(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(finish.reason, FinishReason::Stop);
        assert!(finish.completion_tokens <= end + 1, "{finish:?}, expected {end}");
    }

    #[test]
    fn the_first_token_of_gguf_prompts_is_the_one_that_the_file_wants() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.gguf");
        for (add, tokens) in [(Some(true), 2), (Some(false), 1), (None, 1)] {
            let mut file = TestFile::open(&tiny::gguf("qwen3_moe"));
            file.set("tokenizer.ggml.bos_token_id", Key::Integer(265));
            if let Some(add) = add {
                file.set("tokenizer.ggml.add_bos_token", Key::Bool(add));
            }
            std::fs::write(&path, file.bytes()).expect("written");
            for model in
                [path.clone(), tiny::packed(&path, dir.path().join(format!("{add:?}")), "auto")]
            {
                let options = EngineOptions { model, threads: Some(1), ..EngineOptions::default() };
                let engine = Engine::load(&options).expect("loads");
                let count = engine.count_tokens(&PromptInput::Text("a".to_owned())).expect("short");
                assert_eq!(count, tokens, "{add:?}");
            }
        }
    }
}
