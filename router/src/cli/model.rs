//! `sluice model`: convert models, look into them, measure how well they predict.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use sluice_engine::eval::{EvalOptions, EvalReport, eval};
use sluice_engine::pack::{self, Fallback, Inspection, PackOptions, PackReport};

use super::engine::EngineArgs;
use super::progress::{Progress, Unit, bytes};
use super::{OrUsage, Outcome, Status, out};

/// What to do with a model.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Convert a Hugging Face directory into a pack, quantised
    Pack(PackArgs),
    /// Say what a model is: architecture, sizes, types of its weights
    Inspect(InspectArgs),
    /// Measure perplexity over prompts and answers, or over a text
    Eval(EvalArgs),
}

/// Flags of `sluice model pack`.
#[derive(clap::Args, Debug)]
pub(super) struct PackArgs {
    /// A Hugging Face directory: config.json, tokenizer.json, *.safetensors
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// The pack's directory; must not exist
    #[arg(value_name = "DST")]
    destination: PathBuf,
    /// Type of the experts: q4_0, q4_k, q5_0, q5_k, q6_k, q8_0, bf16, f16 or f32
    #[arg(long, value_name = "TYPE", default_value = "q4_0")]
    quant: String,
    /// Type of attention, delta net, embedding and shared experts, of the same list
    #[arg(long, value_name = "TYPE", default_value = "q8_0")]
    dense: String,
    /// Name that clients see; default: the name of DST
    #[arg(long)]
    name: Option<String>,
    /// What the model is good for; production serves nothing private on a demo
    #[arg(long, value_enum, default_value_t = Quality::General)]
    quality: Quality,
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
    /// A pack or a Hugging Face directory
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
    /// A pack or a Hugging Face directory
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

/// Runs the verb.
pub(super) fn run(verb: &Verb) -> Outcome {
    match verb {
        Verb::Pack(args) => pack(args),
        Verb::Inspect(args) => inspect(args),
        Verb::Eval(args) => measure(args),
    }
}

fn pack(args: &PackArgs) -> Outcome {
    let options = PackOptions {
        source: args.source.clone(),
        destination: args.destination.clone(),
        experts: args.quant.clone(),
        dense: args.dense.clone(),
        name: args.name.clone(),
        quality: args.quality.to_possible_value().map(|word| word.get_name().to_owned()),
    };
    let mut progress = Progress::new("packing", Unit::Bytes);
    let report = pack::pack(&options, &mut |at| progress.update(at.done, at.total)).or_usage()?;
    drop(progress);
    let PackReport { bytes: size, fallbacks } = report;
    for fallback in &fallbacks {
        out::line(format_args!("{}", fallback_line(fallback)))?;
    }
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
    let types = model.dense_types.iter().map(|(name, size)| format!("{} {name}", bytes(*size)));
    row(
        "dense",
        format!("{}: {}", bytes(model.dense_bytes), types.collect::<Vec<_>>().join(", ")),
    )?;
    row("experts", format!("{}: {}", bytes(model.experts_bytes), per_layer(model)))?;
    row("one expert", format!("{}, {}", bytes(model.expert_bytes), expert_types(model)))?;
    row("a token reads", format!("{} of experts", bytes(model.expert_bytes_per_token)))?;
    for fallback in &model.fallbacks {
        row("fallback", fallback_line(fallback))?;
    }
    row("chat template", if model.chat_template { "yes" } else { "no" }.to_owned())?;
    match model.files_verified {
        Some(count) => row("verified", format!("{count} files")),
        None => Ok(()),
    }
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
