//! Reads what a person hands over: a file, or stdin for `-`, never more than a bound.
//!
//! More than the bound is an error, not a cut: a text that was only half read must not look decided.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, bail};

use super::out;

/// The file, or stdin for `-` and for nothing.
pub(super) fn open(file: Option<&Path>) -> anyhow::Result<Box<dyn Read>> {
    match file {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path);
            Ok(Box::new(file.with_context(|| format!("failed to open {}", path.display()))?))
        }
        _ => {
            if io::stdin().is_terminal() {
                out::note("reading from the terminal; ctrl-d ends the text");
            }
            Ok(Box::new(io::stdin()))
        }
    }
}

/// All of the input as text. Bytes that are no UTF-8 become U+FFFD: none is dropped silently.
pub(super) fn text(input: impl Read, bytes_max: u64) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    input.take(bytes_max + 1).read_to_end(&mut bytes).context("failed to read the input")?;
    if bytes.len() as u64 > bytes_max {
        bail!("expected at most {bytes_max} bytes of input, got more");
    }
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_bound_is_an_error_and_no_cut() {
        assert_eq!(text("abc".as_bytes(), 3).unwrap(), "abc");
        let error = text("abcd".as_bytes(), 3).unwrap_err().to_string();
        assert_eq!(error, "expected at most 3 bytes of input, got more");
    }

    #[test]
    fn bytes_that_are_no_text_stay_visible() {
        assert_eq!(text(&b"a\xffb"[..], 10).unwrap(), "a\u{fffd}b");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = open(Some(Path::new("/no/such/file"))).err().expect("refused");
        assert!(format!("{error:#}").starts_with("failed to open /no/such/file"), "{error:#}");
    }
}
