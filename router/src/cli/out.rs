//! The only place that writes to the terminal: results on stdout, notes on stderr.
//!
//! The print macros are banned in this workspace because they panic on a closed pipe and hide where
//! output comes from. Results return their write error, so that `sluice … | head` ends quietly; notes
//! are for a person, and a person who closed stderr does not want them.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde::Serialize;

/// Writes one line of a result.
pub(super) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes part of a line and shows it at once, for text that streams.
pub(super) fn piece(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes one JSON document, indented for reading.
pub(super) fn json(document: &impl Serialize) -> io::Result<()> {
    let mut stdout = lock();
    serde_json::to_writer_pretty(&mut stdout, document)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Stdout, buffered, for output of many lines; the caller flushes.
pub(super) fn lock() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 * 1024, io::stdout().lock())
}

/// Writes one line for the person at the terminal, beside the result.
pub(super) fn note(text: impl Display) {
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether a person reads stdout.
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
