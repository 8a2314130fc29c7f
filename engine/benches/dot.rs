//! Prints how fast each type of weights is multiplied: for one input row and for eight at once, from the
//! processor's cache and from memory.
//!
//! `cargo bench -p sluice-engine --bench dot`; a table of GB/s and weights a second on one thread.

use std::io::{self, Write};
use std::time::Duration;

use sluice_engine::speed::{SpeedOptions, measure};

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (inputs, rows) in [(1, 1024), (1, 1 << 17), (8, 1024)] {
        let duration = Duration::from_millis(150);
        let options = SpeedOptions { rows, cols: 2048, inputs, duration };
        writeln!(out, "\n{inputs} input rows, weights [{rows}, 2048], one thread")?;
        writeln!(
            out,
            "{:8} {:>8} {:>12} {:>12} {:>7}",
            "type", "GB/s", "Gweights/s", "plain", "times"
        )?;
        for speed in measure(&options) {
            let times = speed.weights_per_second / speed.plain_weights_per_second;
            writeln!(
                out,
                "{:8} {:8.2} {:12.2} {:12.2} {times:7.1}",
                speed.weight_type,
                speed.bytes_per_second / 1e9,
                speed.weights_per_second / 1e9,
                speed.plain_weights_per_second / 1e9,
            )?;
        }
    }
    Ok(())
}
