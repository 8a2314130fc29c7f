//! Progress of long work: a bar on a terminal, a plain line every tenth of the way elsewhere.
//!
//! Both go to stderr, so that a result piped from stdout stays clean.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};

use super::out;

/// One piece of long work with a known size.
pub(super) struct Progress {
    what: &'static str,
    unit: Unit,
    /// `None` when stderr is not a terminal.
    bar: Option<ProgressBar>,
    tenths_told: u64,
}

/// What the numbers count.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    /// Shown as MiB and GiB.
    Bytes,
    /// Shown as they are.
    Items,
}

impl Progress {
    /// Starts showing; `what` is a verb in its -ing form: `packing`.
    pub(super) fn new(what: &'static str, unit: Unit) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0).with_style(style(unit));
            bar.set_message(what);
            bar
        });
        Progress { what, unit, bar, tenths_told: 0 }
    }

    /// Says how far the work is.
    pub(super) fn update(&mut self, done: u64, total: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            None => self.tell(done, total),
        }
    }

    fn tell(&mut self, done: u64, total: u64) {
        let tenths = done.saturating_mul(10).checked_div(total).unwrap_or(0);
        if tenths > self.tenths_told {
            self.tenths_told = tenths;
            let (what, percent) = (self.what, tenths * 10);
            out::note(format_args!("{what}: {percent} % of {}", amount(total, self.unit)));
        }
    }
}

impl Drop for Progress {
    /// Takes the bar away also when the work ended with an error.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Bytes => "{msg} {bar:40} {bytes} of {total_bytes}, {eta} left",
        Unit::Items => "{msg} {bar:40} {pos} of {len}, {eta} left",
    };
    ProgressStyle::with_template(template).expect("the templates above are valid")
}

fn amount(total: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => bytes(total),
        Unit::Items => total.to_string(),
    }
}

/// Bytes for a reader: `43.1 MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    let exponent = (count.ilog2() / 10).min(4);
    let scaled = count as f64 / (1u64 << (10 * exponent)) as f64;
    format!("{scaled:.1} {}", UNITS[exponent as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_fits() {
        let cases = [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (45_193_625, "43.1 MiB"),
            (224_412_000_000, "209.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ];
        for (count, expected) in cases {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn plain_progress_speaks_once_a_tenth() {
        let mut progress =
            Progress { what: "packing", unit: Unit::Items, bar: None, tenths_told: 0 };
        progress.update(5, 100);
        assert_eq!(progress.tenths_told, 0);
        progress.update(39, 100);
        assert_eq!(progress.tenths_told, 3);
        progress.update(0, 0);
        assert_eq!(progress.tenths_told, 3);
    }
}
