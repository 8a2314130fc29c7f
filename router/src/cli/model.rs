//! `sluice model`: convert models, look into them, measure how well they predict. Fetching one from a
//! hub is `pull`; what its gates choose is `gates`; what memory it would need is `plan`.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use sluice_engine::eval::{EvalOptions, EvalReport, eval};
use sluice_engine::pack::{
    self, ClassTypes, Fallback, Inspection, PackOptions, PackReport, TensorClass,
};
use sluice_engine::synth::{SynthOptions, synth};

use super::engine::EngineArgs;
use super::progress::{Progress, Unit, bytes};
use super::{OrUsage, Outcome, Status, gates, out, plan, pull};

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
    /// JSON Lines {"prompt", "answer"}, of which the answers count, or any text; gzip is fine
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
    let PackReport { bytes: size, classes, fallbacks, files_kept, .. } = report;
    for class in classes {
        out::line(format_args!("{:<14}{}", class_word(class.class), types_line(&class.types)))?;
    }
    for fallback in fallbacks {
        out::line(format_args!("{}", fallback_line(fallback)))?;
    }
    if *files_kept > 0 {
        out::line(format_args!("kept {files_kept} files of an earlier attempt"))?;
    }
    out::line(format_args!("wrote {}, {}", destination.display(), bytes(*size)))
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
        print(&model)?
    }
    Ok(Status::Done)
}

fn print(model: &Inspection) -> std::io::Result<()> {
    let row = |name: &str, value: String| out::line(format_args!("{name:<14}{value}"));
    let quality = model.quality.as_deref().unwrap_or("unstated");
    row("name", format!("{} ({}, {quality} quality)", model.name, model.format))?;
    row("architecture", model.architecture.clone())?;
    row("layers", format!("{} of width {}", model.layers, model.hidden))?;
    row("vocabulary", format!("{} tokens", model.vocabulary))?;
    row("context", format!("{} tokens", model.context_tokens))?;
    row("dense", format!("{}: {}", bytes(model.dense_bytes), types_line(&model.dense_types)))?;
    for ClassTypes { class, types } in &model.classes {
        if *class != TensorClass::Experts {
            row(&format!("  {}", class_word(*class)), types_line(types))?;
        }
    }
    row("experts", format!("{}: {}", bytes(model.experts_bytes), per_layer(model)))?;
    row("one expert", format!("{}, {}", bytes(model.expert_bytes), expert_types(model)))?;
    row("a token reads", format!("{} of experts", bytes(model.expert_bytes_per_token)))?;
    for fallback in &model.fallbacks {
        row("fallback", fallback_line(fallback))?;
    }
    if let Some(count) = model.files_verified {
        row("verified", format!("{count} files"))?;
    }
    match &model.chat_template {
        None => row("chat template", "none".to_owned()),
        Some(template) => {
            row("chat template", format!("{} lines", template.lines().count()))?;
            template.lines().try_for_each(|line| out::line(format_args!("  {line}")))
        }
    }
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
    let EvalReport { model, quantisation, backend, records, tokens, .. } = report;
    out::line(format_args!("{model} ({quantisation}), backend {backend}"))?;
    out::line(format_args!("perplexity  {:.4}", report.perplexity))?;
    out::line(format_args!("first guess right  {:.1} %", report.top1 * 100.0))?;
    out::line(format_args!("over {tokens} tokens of {records} records"))?;
    out::line(format_args!("{:.1} tokens/s", report.tokens_per_second))
}
