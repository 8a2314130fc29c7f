//! `sluice run`: one prompt, one reply, and how fast it was. No gateway, no policy, no network.

use std::io;

use anyhow::anyhow;
use serde::Serialize;
use sluice_engine::{Finish, GenerationRequest, PromptInput, StreamEvent, TokenStream};

use super::engine::{Loaded, ModelArgs, SamplingArgs, Speeds, finish_word, message};
use super::progress::bytes;
use super::{Failure, OrUsage, Outcome, Status, input, out};

/// Flags of `sluice run`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// The prompt; `-` reads it from stdin
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Continue the prompt as plain text instead of answering it through the chat template
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// Print one JSON document: text, tokens, speeds
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    text: String,
    finish_reason: &'static str,
    tokens: Tokens,
    speeds: Speeds,
}

#[derive(Serialize)]
struct Tokens {
    prompt: usize,
    completion: usize,
}

/// Loads the model, answers the prompt, prints.
pub(super) fn run(args: &Args) -> Outcome {
    let request = request(args)?;
    let loaded = args.model.load()?;
    let mut text = String::new();
    let finish = generate(&loaded, request, |piece| {
        text.push_str(piece);
        if args.json { Ok(()) } else { out::piece(piece) }
    })?;
    let speeds = Speeds::new(&finish, loaded.load_time);
    if args.json {
        out::json(&Report {
            model: &loaded.engine.info().name,
            text,
            finish_reason: finish_word(finish.reason),
            tokens: Tokens { prompt: finish.prompt_tokens, completion: finish.completion_tokens },
            speeds,
        })?;
    } else {
        out::line("")?;
        out::note(summary(&finish, &speeds));
    }
    Ok(Status::Done)
}

fn request(args: &Args) -> Result<GenerationRequest, Failure> {
    let prompt = match args.prompt.as_str() {
        "-" => input::text(input::open(None).or_usage()?, PROMPT_BYTES_MAX).or_usage()?,
        text => text.to_owned(),
    };
    let prompt = if args.raw {
        PromptInput::Text(prompt)
    } else {
        let mut conversation = args.sampling.conversation();
        conversation.push(message("user", &prompt));
        PromptInput::messages(conversation)
    };
    Ok(GenerationRequest {
        sampling: args.sampling.options(),
        max_tokens: args.sampling.max_tokens,
        ..GenerationRequest::new(prompt)
    })
}

/// More than any model's context holds; a longer stdin is surely a mistake.
const PROMPT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Runs one generation to its end, handing each piece of text to `show`.
pub(super) fn generate(
    loaded: &Loaded,
    request: GenerationRequest,
    show: impl FnMut(&str) -> io::Result<()>,
) -> Result<Finish, Failure> {
    finished(loaded.engine.submit(request).or_usage()?, show)
}

/// Reads a reply to its end.
pub(super) fn finished(
    mut stream: TokenStream,
    mut show: impl FnMut(&str) -> io::Result<()>,
) -> Result<Finish, Failure> {
    while let Some(event) = stream.next_blocking() {
        match event {
            StreamEvent::Delta(delta) => show(&delta.content)?,
            StreamEvent::Finished(finish) => return Ok(finish),
            StreamEvent::Failed(error) => return Err(anyhow::Error::from(error).into()),
        }
    }
    Err(anyhow!("the engine ended the stream without saying why").into())
}

/// What was read from flash, if anything.
fn reading(speeds: &Speeds) -> String {
    match speeds.expert_hit_rate {
        Some(rate) if speeds.expert_bytes_read > 0 => format!(
            "\n{:.1} % of experts were in memory, {} read, {:.0} ms of {:.0} spent waiting for them",
            rate * 100.0,
            bytes(speeds.expert_bytes_read),
            speeds.stalled_ms,
            speeds.stalled_ms + speeds.computed_ms
        ),
        _ => String::new(),
    }
}

/// One line for a person.
fn summary(finish: &Finish, speeds: &Speeds) -> String {
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
    format!(
        "{} prompt tokens at {} per second, {} tokens at {} per second, first after {:.0} ms{}",
        finish.prompt_tokens,
        rate(speeds.prompt_tokens_per_second),
        finish.completion_tokens,
        rate(speeds.decode_tokens_per_second),
        speeds.first_token_ms,
        reading(speeds),
    )
}
