//! The binary `sluice`: hands the command line to [`cli`] and its verdict to the shell.
//!
//! Everything that serves requests lives in the library `sluice`, where tests reach it in process;
//! everything that prints for a person lives in [`cli`].
#![forbid(unsafe_code)]

mod cli;

/// A request allocates some two hundred times, a few of them kilobytes, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
