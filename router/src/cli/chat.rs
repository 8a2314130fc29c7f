//! `sluice chat`: a conversation with the embedded model, in the terminal and nowhere else.
//!
//! One thread reads lines (a blocking read cannot be interrupted), the rest is one task that waits for
//! a line, a piece of the reply or ctrl-c. Ctrl-c during a reply ends the reply: dropping its stream
//! stops the engine at the next token. Ctrl-c at the prompt leaves.
//!
//! Not here: policy, audit, the network. Nothing that is said is written anywhere.

use std::io;
use std::sync::Arc;

use anyhow::Context;
use sluice_engine::{
    ChatMessage, Engine, EngineError, GenerationRequest, PromptInput, Reuse, StreamEvent,
    TokenStream,
};
use tokio::sync::mpsc;

use super::engine::{ModelArgs, SamplingArgs, message};
use super::{Outcome, Status, out};

/// Flags of `sluice chat`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Loads the model and talks until the person leaves.
pub(super) fn run(args: &Args) -> Outcome {
    let loaded = args.model.load_to_talk()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    out::note(format_args!(
        "talking to {}; /reset forgets the conversation, /exit leaves, ctrl-c stops a reply",
        loaded.engine.info().name
    ));
    runtime.block_on(talk(&loaded.engine, &args.sampling))?;
    // The reading thread may sit in a blocking read: the process ends without waiting for it.
    runtime.shutdown_background();
    Ok(Status::Done)
}

/// What a typed line means.
#[derive(Debug, PartialEq, Eq)]
enum Input<'a> {
    Nothing,
    Say(&'a str),
    Reset,
    Exit,
    Unknown(&'a str),
}

impl<'a> Input<'a> {
    fn parse(line: &'a str) -> Self {
        match line.trim() {
            "" => Input::Nothing,
            "/exit" | "/quit" => Input::Exit,
            "/reset" => Input::Reset,
            command if command.starts_with('/') => Input::Unknown(command),
            text => Input::Say(text),
        }
    }
}

async fn talk(engine: &Engine, sampling: &SamplingArgs) -> anyhow::Result<()> {
    let mut lines = lines_of_stdin();
    let mut conversation = sampling.conversation();
    loop {
        prompt()?;
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(line) = line else { break };
        match Input::parse(&line?) {
            Input::Nothing => {}
            Input::Exit => return Ok(()),
            Input::Reset => conversation = sampling.conversation(),
            Input::Unknown(command) => {
                out::note(format_args!("unknown command {command}; there are /reset and /exit"));
            }
            Input::Say(text) => say(engine, sampling, &mut conversation, text).await?,
        }
    }
    if out::is_terminal() {
        out::line("")?
    }
    Ok(())
}

/// Lines as they are typed. The channel holds one: typing ahead waits in the terminal.
fn lines_of_stdin() -> mpsc::Receiver<io::Result<String>> {
    let (send, receive) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lines() {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receive
}

fn prompt() -> io::Result<()> {
    if out::is_terminal() { out::piece("> ") } else { Ok(()) }
}

/// One turn. What the engine refuses leaves the conversation as it was.
async fn say(
    engine: &Engine,
    sampling: &SamplingArgs,
    conversation: &mut Vec<ChatMessage>,
    text: &str,
) -> anyhow::Result<()> {
    conversation.push(message("user", text));
    let request = GenerationRequest {
        sampling: sampling.options(),
        max_tokens: sampling.max_tokens,
        reuse: Some(Reuse { scope: Arc::default(), on_disk: false }),
        ..GenerationRequest::new(PromptInput::messages(conversation.clone()))
    };
    match engine.submit(request) {
        Ok(stream) => {
            let reply = show(stream).await?;
            conversation.push(message("assistant", &reply));
        }
        Err(error) => {
            conversation.pop();
            out::note(format_args!("error: {error}"));
            if matches!(error, EngineError::ContextLengthExceeded { .. }) {
                out::note("hint: /reset starts a new conversation");
            }
        }
    }
    Ok(())
}

/// Prints the reply as it comes and returns it, cut short by ctrl-c or by an error of the engine.
async fn show(mut stream: TokenStream) -> anyhow::Result<String> {
    let mut reply = String::new();
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            _ = tokio::signal::ctrl_c() => None,
        };
        match event {
            Some(StreamEvent::Delta(delta)) => {
                out::piece(&delta.content)?;
                reply.push_str(&delta.content);
            }
            Some(StreamEvent::Failed(error)) => {
                out::note(format_args!("\nerror: {error}"));
                break;
            }
            Some(StreamEvent::Finished(_)) | None => break,
        }
    }
    out::line("")?;
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_only_if_it_starts_with_a_slash() {
        let cases = [
            ("  ", Input::Nothing),
            ("/exit", Input::Exit),
            (" /reset \r", Input::Reset),
            ("/help", Input::Unknown("/help")),
            ("what is 1/2?", Input::Say("what is 1/2?")),
        ];
        for (line, expected) in cases {
            assert_eq!(Input::parse(line), expected, "{line:?}");
        }
    }
}
