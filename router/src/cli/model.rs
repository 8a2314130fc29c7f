//! `sluice model`: convert models, look into them, measure how well they predict. Fetching one from a
//! hub is `pull`; what its gates choose is `gates`; what memory it would need is `plan`.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use sluice_engine::eval::{EvalOptions, EvalReport, eval};
use sluice_engine::pack::{self, Fallback, Inspection, PackOptions, PackReport, TensorClass};
use sluice_engine::synth::{SynthOptions, synth};

use super::engine::EngineArgs;
use super::progress::{Progress, Unit, bytes};
use super::rows::rows;
use super::{OrUsage, Outcome, Status, gates, out, plan, pull, tune};

/// What to do with a model.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Convert a Hugging Face directory (quantising it) or GGUF files (as they are) into a pack
    Pack(PackArgs),
    /// Fetch a model from a hub and pack it while it arrives
    Pull(pull::Args),
    /// Say what a model is: architecture, sizes, types of its weights
    Inspect(InspectArgs),
    /// Measure perplexity over prompts and answers, or over a text
    Eval(EvalArgs),
    /// Write a model of random weights with the layer shapes of a published one, to measure speed
    Synth(SynthArgs),
    /// Say how a model would share memory, and the speed that this machine would give it
    Plan(plan::Args),
    /// Find by measured speed which threads, reads and memory suit this machine, and remember them
    Tune(tune::Args),
    /// Record which experts a model's gates choose over prompts and answers
    Trace(gates::TraceArgs),
    /// Replay a trace against every cache policy and the best possible one
    Replay(gates::ReplayArgs),
}

/// Flags of `sluice model pack`.
#[derive(clap::Args, Debug)]
pub(super) struct PackArgs {
    /// A Hugging Face directory (config.json, tokenizer.json, *.safetensors), a GGUF file, or a folder
    /// with one
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// The pack's directory; must not exist
    #[arg(value_name = "DST")]
    destination: PathBuf,
    #[command(flatten)]
    flags: PackFlags,
}

/// What a pack is to be, wherever its model comes from.
#[derive(clap::Args, Debug, Clone)]
pub(super) struct PackFlags {
    /// Type of the experts: q4_0, q4_k, q5_0, q5_k, q6_k, q8_0, bf16, f16 or f32; auto: the types of a
    /// GGUF model bit for bit, q4_0 for others
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    quant: String,
    /// Type of attention, delta net, embedding and shared experts; auto: the types of a GGUF model bit
    /// for bit, q8_0 for others. Gates, convolutions and norms always keep their own
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dense: String,
    /// Type of attention and delta nets alone; default: what --dense says
    #[arg(long, value_name = "TYPE")]
    attention: Option<String>,
    /// Type of shared experts and of layers without experts alone; default: what --dense says
    #[arg(long, value_name = "TYPE")]
    feed_forward: Option<String>,
    /// Type of the embedding alone; default: what --dense says
    #[arg(long, value_name = "TYPE")]
    embedding: Option<String>,
    /// Type of the output matrix alone; default: what --dense says
    #[arg(long, value_name = "TYPE")]
    output: Option<String>,
    /// Name that clients see; default: the name of DST
    #[arg(long)]
    name: Option<String>,
    /// What the model is good for; production serves nothing private on a demo
    #[arg(long, value_enum, default_value_t = Quality::General)]
    quality: Quality,
}

impl PackFlags {
    /// The engine's options for a pack from `source` at `destination`.
    pub(super) fn options(&self, source: PathBuf, destination: PathBuf) -> PackOptions {
        PackOptions {
            source,
            destination,
            experts: self.quant.clone(),
            dense: self.dense.clone(),
            classes: self.classes(),
            name: self.name.clone(),
            quality: self.quality.to_possible_value().map(|word| word.get_name().to_owned()),
        }
    }

    /// The classes that have a type of their own.
    fn classes(&self) -> Vec<(TensorClass, String)> {
        let flags = [&self.attention, &self.feed_forward, &self.embedding, &self.output];
        let chosen = TensorClass::DENSE.into_iter().zip(flags);
        chosen.filter_map(|(class, flag)| Some((class, flag.clone()?))).collect()
    }
}

/// Quality words of a pack.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Quality {
    /// A demonstration: it answers, and may be wrong
    Demo,
    /// Good for general use
    General,
    /// Approved for regulated work
    Approved,
}

/// Flags of `sluice model inspect`.
#[derive(clap::Args, Debug)]
pub(super) struct InspectArgs {
    /// A pack, a Hugging Face directory, or a GGUF file or a folder with one
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Also check the SHA-256 of every file of a pack
    #[arg(long)]
    verify: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Flags of `sluice model eval`.
#[derive(clap::Args, Debug)]
pub(super) struct EvalArgs {
    /// A pack, a Hugging Face directory, or a GGUF file or a folder with one
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// JSON Lines {"prompt", "answer"}, of which the answers count (a file *.jsonl, or one whose first
    /// line is such a record), or any text; gzip is fine
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Records, or windows of text, to measure at most; default: all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Flags of `sluice model synth`.
#[derive(clap::Args, Debug)]
pub(super) struct SynthArgs {
    /// A pack's directory, or a file that ends in .gguf; must not exist
    #[arg(value_name = "DST")]
    destination: PathBuf,
    /// Whose layer shapes: qwen3-30b-a3b, qwen3-235b-a22b, qwen3.5-35b-a3b, qwen3.5-122b-a10b,
    /// qwen3.5-397b-a17b
    #[arg(long, value_name = "MODEL")]
    like: String,
    /// Layers; default: as many as the real model has
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Tokens of the vocabulary; default: as many as the real model has
    #[arg(long, value_name = "N")]
    vocabulary: Option<usize>,
    /// Type of the matrices: q4_0, q4_k, q5_0, q5_k, q6_k, q8_0, bf16, f16 or f32
    #[arg(long, value_name = "TYPE", default_value = "q4_0")]
    quant: String,
    /// How unevenly gates choose: 0 is nearly even, 1 lets a tenth of the experts do two fifths of the
    /// work
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    skew: f64,
    /// Other seeds give other weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Runs the verb.
pub(super) fn run(verb: &Verb) -> Outcome {
    match verb {
        Verb::Pack(args) => pack(args),
        Verb::Pull(args) => pull::run(args),
        Verb::Inspect(args) => inspect(args),
        Verb::Eval(args) => measure(args),
        Verb::Synth(args) => write_synthetic(args),
        Verb::Plan(args) => plan::run(args),
        Verb::Tune(args) => tune::run(args),
        Verb::Trace(args) => gates::trace(args),
        Verb::Replay(args) => gates::replay(args),
    }
}

fn pack(args: &PackArgs) -> Outcome {
    let options = args.flags.options(args.source.clone(), args.destination.clone());
    let mut progress = Progress::new("packing", Unit::Bytes);
    let report = pack::pack(&options, &mut |at| progress.update(at.done, at.total)).or_usage()?;
    drop(progress);
    print_pack(&report, &args.destination)?;
    Ok(Status::Done)
}

/// Says what was written, and which tensors did not take the asked type.
pub(super) fn print_pack(report: &PackReport, destination: &Path) -> std::io::Result<()> {
    out::piece(&pack_text(report, destination))
}

fn pack_text(report: &PackReport, destination: &Path) -> String {
    let PackReport { bytes: size, classes, fallbacks, files_kept, .. } = report;
    let words: Vec<String> = classes.iter().map(|class| class_word(class.class)).collect();
    let types = classes.iter().map(|class| types_line(&class.types));
    let mut text = rows(&words.iter().map(String::as_str).zip(types).collect::<Vec<_>>());
    for fallback in fallbacks {
        text += &format!("{}\n", fallback_line(fallback));
    }
    if *files_kept > 0 {
        text += &format!("kept {files_kept} files of an earlier attempt\n");
    }
    text + &format!("wrote {}, {}\n", destination.display(), bytes(*size))
}

fn write_synthetic(args: &SynthArgs) -> Outcome {
    let options = SynthOptions {
        like: args.like.clone(),
        destination: args.destination.clone(),
        layers: args.layers,
        vocabulary: args.vocabulary,
        quant: args.quant.clone(),
        skew: args.skew,
        seed: args.seed,
    };
    let mut progress = Progress::new("writing", Unit::Bytes);
    let size = synth(&options, &mut |at| progress.update(at.done, at.total)).or_usage()?;
    drop(progress);
    out::line(format_args!("wrote {}, {}", args.destination.display(), bytes(size)))?;
    Ok(Status::Done)
}

fn inspect(args: &InspectArgs) -> Outcome {
    let model = pack::inspect(&args.path, args.verify).or_usage()?;
    if args.json {
        out::json(&model)?
    } else {
        out::piece(&inspect_text(&model))?
    }
    Ok(Status::Done)
}

/// Sizes and types in rows, then the chat template as it is.
fn inspect_text(model: &Inspection) -> String {
    let quality = model.quality.as_deref().unwrap_or("unstated");
    let reads = [model.expert_bytes_per_token, model.dense_bytes_per_token].map(bytes);
    let mut lines = vec![
        ("name", format!("{} ({}, {quality} quality)", model.name, model.format)),
        ("architecture", model.architecture.clone()),
        ("layers", format!("{} of width {}", model.layers, model.hidden)),
        ("vocabulary", format!("{} tokens", model.vocabulary)),
        ("context", format!("{} tokens", model.context_tokens)),
        ("dense", format!("{}: {}", bytes(model.dense_bytes), types_line(&model.dense_types))),
    ];
    let dense = model.classes.iter().filter(|class| class.class != TensorClass::Experts);
    let words: Vec<_> = dense.map(|c| (format!("  {}", class_word(c.class)), &c.types)).collect();
    lines.extend(words.iter().map(|(word, types)| (word.as_str(), types_line(types))));
    let experts = model.classes.iter().find(|class| class.class == TensorClass::Experts);
    let types = experts.map(|class| types_line(&class.types)).unwrap_or_default();
    lines.push(("experts", format!("{}: {types}", bytes(model.experts_bytes))));
    lines.push(("  in a layer", per_layer(model)));
    lines.push(("  one expert", format!("{}, {}", expert_size(model), expert_types(model))));
    lines
        .push(("a token reads", format!("{} of experts, {} of dense weights", reads[0], reads[1])));
    lines.extend(model.fallbacks.iter().map(|fallback| ("fallback", fallback_line(fallback))));
    lines.extend(model.files_verified.map(|count| ("verified", format!("{count} files"))));
    let template = model.chat_template.as_deref();
    let length = |template: &str| format!("{} lines", template.lines().count());
    lines.push(("chat template", template.map_or_else(|| "none".to_owned(), length)));
    let template = template.into_iter().flat_map(str::lines).map(|line| format!("  {line}\n"));
    rows(&lines) + &template.collect::<String>()
}

/// `22.0 MiB q8_0, 0.6 MiB f32`.
fn types_line(types: &[(String, u64)]) -> String {
    let one = |(name, size): &(String, u64)| format!("{} {name}", bytes(*size));
    types.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A class in words that fit into a column.
fn class_word(class: TensorClass) -> String {
    class.name().replace('_', " ")
}

fn fallback_line(fallback: &Fallback) -> String {
    let Fallback { tensor, asked, used } = fallback;
    format!("{tensor}: stored as {used}, its rows are no whole number of {asked} blocks")
}

fn per_layer(model: &Inspection) -> String {
    format!("{} a layer, {} for each token", model.experts, model.experts_per_token)
}

fn expert_size(model: &Inspection) -> String {
    let [least, most] = [model.expert_bytes_min, model.expert_bytes].map(bytes);
    if least == most { most } else { format!("{least} to {most}") }
}

fn expert_types(model: &Inspection) -> String {
    let [gate, up, down] = &model.expert_types;
    if gate == up && up == down {
        return gate.clone();
    }
    format!("gate {gate}, up {up}, down {down}")
}

fn measure(args: &EvalArgs) -> Outcome {
    let options = EvalOptions {
        engine: args.engine.options(args.path.clone()),
        data: args.data.clone(),
        limit: args.limit.map(|limit| limit as usize),
    };
    let mut progress = Progress::new("measuring", Unit::Items);
    let report = eval(&options, &mut |at| progress.update(at.done, at.total)).or_usage()?;
    drop(progress);
    if args.json {
        out::json(&report)?
    } else {
        print_eval(&report)?
    }
    Ok(Status::Done)
}

fn print_eval(report: &EvalReport) -> std::io::Result<()> {
    out::piece(&eval_text(report))
}

fn eval_text(report: &EvalReport) -> String {
    let EvalReport { model, architecture, quantisation, backend, records, tokens, .. } = report;
    let [reading, writing] = [report.prompt_tokens_per_second, report.decode_tokens_per_second];
    rows(&[
        ("model", format!("{model}, {architecture} ({quantisation}), backend {backend}")),
        ("perplexity", format!("{:.4}", report.perplexity)),
        ("first guess right", format!("{:.1} %", report.top1 * 100.0)),
        ("over", format!("{tokens} tokens of {records} records")),
        ("reading", format!("{reading:.1} tokens/s")),
        ("writing", format!("{writing:.1} tokens/s")),
    ])
}

#[cfg(test)]
mod tests {
    use sluice_engine::pack::ClassTypes;

    use super::*;

    fn class(class: TensorClass, types: &[(&str, u64)]) -> ClassTypes {
        let types = types.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
        ClassTypes { class, types }
    }

    fn fallback() -> Fallback {
        Fallback { tensor: "layers.*.experts.*.down".to_owned(), asked: "q4_k", used: "q5_0" }
    }

    #[test]
    fn inspect_shows_mixed_types_of_all_layers_and_what_a_token_reads() {
        let model = Inspection {
            name: "mixed".to_owned(),
            format: "gguf".to_owned(),
            architecture: "qwen3_moe".to_owned(),
            quality: None,
            layers: 48,
            hidden: 2048,
            vocabulary: 151_936,
            context_tokens: 32_768,
            experts: 128,
            experts_per_token: 8,
            dense_types: vec![("q4_k".to_owned(), 900 << 20), ("f32".to_owned(), 50 << 20)],
            dense_bytes: 950 << 20,
            dense_bytes_per_token: 782 << 20,
            classes: vec![
                class(TensorClass::Experts, &[("q4_k", 12 << 30), ("q6_k", 3 << 30)]),
                class(TensorClass::FeedForward, &[("q4_k", 900 << 20)]),
                class(TensorClass::Small, &[("f32", 50 << 20)]),
            ],
            expert_types: ["q4_k", "q4_k", "q4_k+q6_k"].map(str::to_owned),
            expert_bytes_min: 2_654_208,
            expert_bytes: 2_985_984,
            experts_bytes: 15 << 30,
            expert_bytes_per_token: 1 << 30,
            fallbacks: vec![fallback()],
            chat_template: Some("{% for m in messages %}\n{% endfor %}".to_owned()),
            files_verified: Some(51),
        };
        assert_eq!(
            inspect_text(&model),
            "\
name            mixed (gguf, unstated quality)
architecture    qwen3_moe
layers          48 of width 2048
vocabulary      151936 tokens
context         32768 tokens
dense           950.0 MiB: 900.0 MiB q4_k, 50.0 MiB f32
  feed forward  900.0 MiB q4_k
  small         50.0 MiB f32
experts         15.0 GiB: 12.0 GiB q4_k, 3.0 GiB q6_k
  in a layer    128 a layer, 8 for each token
  one expert    2.5 MiB to 2.8 MiB, gate q4_k, up q4_k, down q4_k+q6_k
a token reads   1.0 GiB of experts, 782.0 MiB of dense weights
fallback        layers.*.experts.*.down: stored as q5_0, its rows are no whole number of q4_k blocks
verified        51 files
chat template   2 lines
  {% for m in messages %}
  {% endfor %}
"
        );
    }

    #[test]
    fn pack_says_which_tensors_took_another_type() {
        let report = PackReport {
            bytes: 20 << 20,
            classes: vec![
                class(TensorClass::Experts, &[("q4_k", 10 << 20), ("q5_0", 5 << 20)]),
                class(TensorClass::FeedForward, &[("q8_0", 5 << 20)]),
            ],
            fallbacks: vec![fallback()],
            files_kept: 2,
        };
        assert_eq!(
            pack_text(&report, Path::new("to/pack")),
            "\
experts       10.0 MiB q4_k, 5.0 MiB q5_0
feed forward  5.0 MiB q8_0
layers.*.experts.*.down: stored as q5_0, its rows are no whole number of q4_k blocks
kept 2 files of an earlier attempt
wrote to/pack, 20.0 MiB
"
        );
    }

    #[test]
    fn eval_says_the_architecture_and_both_speeds() {
        let report = EvalReport {
            model: "nano".to_owned(),
            architecture: "qwen3_5_moe".to_owned(),
            quantisation: "q8_0 dense, q4_0 experts".to_owned(),
            experts_per_token: 4,
            backend: "cpu (avx2, 2 threads)".to_owned(),
            records: 300,
            tokens: 5193,
            perplexity: 2.874_32,
            top1: 0.731,
            prompt_tokens_per_second: 751.26,
            decode_tokens_per_second: 201.04,
            expert_hit_rate: 1.0,
            experts_left_out: 0.0,
        };
        assert_eq!(
            eval_text(&report),
            "\
model              nano, qwen3_5_moe (q8_0 dense, q4_0 experts), backend cpu (avx2, 2 threads)
perplexity         2.8743
first guess right  73.1 %
over               5193 tokens of 300 records
reading            751.3 tokens/s
writing            201.0 tokens/s
"
        );
        let json = serde_json::to_value(&report).expect("plain data");
        for field in ["architecture", "prompt_tokens_per_second", "decode_tokens_per_second"] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
