//! The binary `sluice`: hands the command line to [`cli`] and its verdict to the shell.
//!
//! Everything that serves requests lives in the library `sluice`, where tests reach it in process;
//! everything that prints for a person lives in [`cli`].
#![forbid(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
