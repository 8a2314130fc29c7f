//! The command line: one file per verb, one place that writes, three exit statuses.
//!
//! `sluice` without a verb serves. Every verb takes plain values from its flags, does its work through
//! the libraries and returns a [`Status`] or a [`Failure`]; only [`main`] turns those into an exit status.
//!
//! Invariants: 0 is done, 1 a finding or a failure, 2 wrong usage or a wrong file that a person wrote;
//! `--json` prints one document on stdout and nothing else there; notes and progress go to stderr.
//! Not here: decisions about requests (`gateway`), anything that a test would want without a terminal.

mod bench;
mod chat;
mod decide;
mod engine;
mod gates;
mod hub;
mod input;
mod key;
mod locate;
mod model;
mod out;
mod plan;
mod policy;
mod progress;
mod pull;
mod rows;
mod run;
mod serve;
mod tune;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A hybrid edge-cloud gateway for LLM traffic.
///
/// Applications talk to Sluice as if it were OpenAI. For each request a policy decides how private the
/// text is; regulated text is answered by the model inside this process, the rest may go to a cloud.
#[derive(Parser)]
#[command(
    name = "sluice",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Without a command, sluice serves.\nExit status: 0 done, 1 a finding or a failure, 2 wrong usage or config."
)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve the gateway (what happens without a command)
    Serve(serve::Args),
    /// Say where a request would go and why, without sending it anywhere
    Decide(decide::Args),
    /// Talk to the embedded model in the terminal
    Chat(chat::Args),
    /// Answer one prompt with a model and print speeds
    Run(run::Args),
    /// Convert, look into and measure model files
    #[command(subcommand)]
    Model(model::Verb),
    /// Work on policy files
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Make, end and list the keys of callers
    #[command(subcommand)]
    Key(key::Verb),
    /// Measure start-up, memory and speed on this machine
    Bench(bench::Args),
    /// Print versions of the program, its policies and its model
    Version(version::Args),
}

/// How a verb ended that did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// All is well.
    Done,
    /// The work was done and something was found that a script should notice: a failed policy test.
    Finding,
}

/// Why a verb could not do its work.
#[derive(Debug)]
enum Failure {
    /// The person must change a flag or a file: exit status 2.
    Usage(anyhow::Error),
    /// Anything else: exit status 1.
    Failed(anyhow::Error),
}

type Outcome = Result<Status, Failure>;

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed(error.into())
    }
}

/// Marks an error as one that the person at the keyboard can mend.
trait OrUsage<T> {
    fn or_usage(self) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrUsage<T> for Result<T, E> {
    fn or_usage(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::Usage(error.into()))
    }
}

/// Today in UTC: the date that the gateway records too.
fn today() -> jiff::civil::Date {
    jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// Parses the command line, runs the verb and reports.
pub(crate) fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    exit_code(dispatch(Cli::parse()))
}

/// Says where a bug struck. The message of a panic stays unsaid: it may quote what was being read.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    out::note(format_args!("error: internal error at {place}; please report it"));
}

fn dispatch(cli: Cli) -> Outcome {
    match cli.verb {
        None => serve::run(&cli.serve),
        Some(Verb::Serve(args)) => serve::run(&args),
        Some(Verb::Decide(args)) => decide::run(&args),
        Some(Verb::Chat(args)) => chat::run(&args),
        Some(Verb::Run(args)) => run::run(&args),
        Some(Verb::Model(verb)) => model::run(&verb),
        Some(Verb::Policy(verb)) => policy::run(&verb),
        Some(Verb::Key(verb)) => key::run(verb),
        Some(Verb::Bench(args)) => bench::run(&args),
        Some(Verb::Version(args)) => version::run(&args),
    }
}

fn exit_code(outcome: Outcome) -> ExitCode {
    let (error, status) = match outcome {
        Ok(Status::Done) => return ExitCode::SUCCESS,
        Ok(Status::Finding) => return ExitCode::from(1),
        Err(Failure::Failed(error)) if is_closed_pipe(&error) => return ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => (error, 1),
        Err(Failure::Usage(error)) => (error, 2),
    };
    out::note(format_args!("error: {error:#}"));
    ExitCode::from(status)
}

/// `sluice decide --batch | head` ends early because the reader has seen enough; that is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_verb_means_serve() {
        let cli = Cli::try_parse_from(["sluice", "--listen", "127.0.0.1:0"]).unwrap();
        assert!(cli.verb.is_none());
        assert_eq!(cli.serve.listen, Some("127.0.0.1:0".parse().unwrap()));
    }

    #[test]
    fn serve_flags_do_not_mix_with_another_verb() {
        assert!(Cli::try_parse_from(["sluice", "--config", "a.yaml", "decide"]).is_err());
    }

    #[test]
    fn every_flag_of_every_verb_is_documented() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} --{}", command.get_name(), arg.get_id());
            }
            for sub in command.get_subcommands() {
                assert!(sub.get_about().is_some(), "{}", sub.get_name());
                check(sub);
            }
        }
        check(&Cli::command());
    }

    /// What follows `sluice` in each command that the README's table names; `sign` beside
    /// `sluice policy activate` is `sluice policy sign`.
    fn commands_of_the_readme() -> Vec<Vec<String>> {
        let readme = include_str!("../../README.md");
        let rows = readme.lines().filter(|line| line.starts_with("| `sluice "));
        let cells = rows.filter_map(|row| row.split(" | ").next());
        let mut all: Vec<Vec<String>> = Vec::new();
        for command in cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
            let words = command.replace(['[', ']'], "").replace("\\|", " ");
            let mut words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            match (words[0].as_str(), all.last()) {
                ("sluice", _) => drop(words.remove(0)),
                (_, Some(before)) => words.insert(0, before[0].clone()),
                (_, None) => {}
            }
            all.push(words);
        }
        all
    }

    #[test]
    fn every_command_and_flag_that_the_readme_names_is_there() {
        let commands = commands_of_the_readme();
        assert!(commands.len() > 20, "{commands:?}");
        for words in commands {
            let mut command = Cli::command();
            for word in &words {
                if let Some(flag) = word.strip_prefix("--") {
                    let is_there = command.get_arguments().any(|arg| arg.get_long() == Some(flag));
                    assert!(is_there, "{words:?}: --{flag}");
                } else if command.has_subcommands() {
                    let verb = command.find_subcommand(word).cloned();
                    command = verb.unwrap_or_else(|| panic!("{words:?}: {word}"));
                }
            }
        }
    }

    #[test]
    fn a_closed_pipe_is_not_a_failure() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(&anyhow::Error::from(closed).context("failed to write")));
        assert!(!is_closed_pipe(&anyhow::anyhow!("broken pipe")));
    }
}
