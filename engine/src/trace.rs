//! Gate traces: which experts every layer wanted, recorded from a model at work, to choose by.
//!
//! A trace is a text file of JSON Lines: a header, then one line for each visit of a layer, in order:
//! `[layer, rows, [[expert, rows], …]]`. It holds no text. [`replay`] runs it against every policy of the
//! cache and against the best that any policy could have done.

mod belady;
mod replay;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::engine::EngineOptions;
use crate::error::EngineError;
use crate::eval::{self, WINDOW_TOKENS};
use crate::model::{LoadedModel, Step};
use crate::pack::Progress;

pub(crate) use replay::reply_hit_rate;
pub use replay::{PolicyReplay, Replay, ReplayOptions, replay};

/// Name of the format in the header.
const FORMAT: &str = "sluice-trace";
/// Version of the format.
const VERSION: u32 = 1;
/// Layers, and experts of a layer, that are believed.
const COUNT_MAX: u32 = 1 << 16;
/// Bytes of a line that are believed: all experts of a layer with their rows.
const LINE_BYTES_MAX: u64 = 8 << 20;

/// What to record.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// The model and how to run it.
    pub engine: EngineOptions,
    /// Prompts and answers or text, as for [`eval::eval`]: prompts are read at once, answers token by
    /// token, as they would be generated.
    pub data: PathBuf,
    /// The trace; replaced if it exists.
    pub destination: PathBuf,
    /// At most so many records.
    pub limit: Option<usize>,
}

/// What was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TraceReport {
    /// Prompts with their answers, or windows of text.
    pub records: usize,
    /// Tokens that passed through the model.
    pub tokens: usize,
    /// Visits of layers.
    pub visits: usize,
}

/// A trace in memory.
pub(crate) struct Trace {
    pub(crate) header: Header,
    pub(crate) visits: Vec<Visit>,
}

/// What a trace says of its model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    format: String,
    version: u32,
    /// Name of the model.
    pub(crate) model: String,
    /// Experts of each layer; 0 for a layer without.
    pub(crate) experts: Vec<u32>,
    /// Bytes of a cache's slot: of the largest expert in whole pages.
    pub(crate) slot_bytes: u64,
}

/// One visit of a layer: layer, rows of the pass, experts with the rows that wanted each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Visit(pub(crate) u32, pub(crate) u32, pub(crate) Vec<(u32, u32)>);

/// Runs a model over prompts and answers and writes down what its gates chose. `progress` counts
/// records.
pub fn record(
    options: &TraceOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<TraceReport, EngineError> {
    let mut model = LoadedModel::load(&options.engine)?;
    let mut records = eval::read_records(&options.data, &model)?;
    records.truncate(options.limit.unwrap_or(usize::MAX));
    let visits = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&visits);
    model.record(Box::new(move |layer, rows, experts| {
        let visit = Visit(layer, rows as u32, experts.to_vec());
        told.lock().unwrap_or_else(PoisonError::into_inner).push(visit);
    }));
    let wrote = |source| EngineError::Write { path: options.destination.clone(), source };
    let mut out = BufWriter::new(File::create(&options.destination).map_err(wrote)?);
    line(&mut out, &Header::of(&model)).map_err(wrote)?;
    let mut report = TraceReport { records: records.len(), tokens: 0, visits: 0 };
    for (done, record) in records.iter().enumerate() {
        pass(&mut model, record)?;
        report.tokens += record.tokens.len() - 1;
        for visit in visits.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            report.visits += 1;
            line(&mut out, &visit).map_err(wrote)?;
        }
        progress(Progress { done: done as u64 + 1, total: records.len() as u64 });
    }
    out.flush().map_err(wrote)?;
    Ok(report)
}

/// Reads the prompt in one go, the rest token by token; the last token is never read.
fn pass(model: &mut LoadedModel, record: &eval::Record) -> Result<(), EngineError> {
    let mut sequence = model.new_sequence();
    let (prompt, answer) = record.tokens[..record.tokens.len() - 1].split_at(record.counted_from);
    for tokens in prompt.chunks(WINDOW_TOKENS).chain(answer.chunks(1)) {
        model.forward(&mut [Step::new(&mut sequence, tokens, None)])?;
    }
    Ok(())
}

fn line(out: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

impl Header {
    fn of(model: &LoadedModel) -> Header {
        let store = model.store();
        Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            model: model.info().name.clone(),
            experts: (0..store.layers()).map(|layer| store.count(layer) as u32).collect(),
            slot_bytes: store.slot_bytes() as u64,
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT || self.version != VERSION {
            return Err(format!("expected {FORMAT:?} version {VERSION}; record the trace again"));
        }
        let believed = |count: &u32| *count < COUNT_MAX;
        if self.experts.len() >= COUNT_MAX as usize || !self.experts.iter().all(believed) {
            return Err("claims more layers or experts than any model has".to_owned());
        }
        if !(1..1 << 40).contains(&self.slot_bytes) {
            return Err(format!("claims experts of {} bytes", self.slot_bytes));
        }
        Ok(())
    }

    fn check_visit(&self, Visit(layer, rows, experts): &Visit) -> Result<(), String> {
        let count = self.experts.get(*layer as usize).copied().unwrap_or(0);
        let distinct = experts.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let inside = experts.iter().all(|(expert, n)| *expert < count && n <= rows);
        if distinct && inside {
            return Ok(());
        }
        Err(format!("layer {layer} has no such experts, each once and in order"))
    }
}

impl Trace {
    /// Reads a trace. Errors name the line that is wrong.
    pub(crate) fn read(path: &Path) -> Result<Trace, EngineError> {
        let read = |source| EngineError::Read { path: path.to_owned(), source };
        let malformed = |line: usize, what: String| EngineError::Malformed {
            path: path.to_owned(),
            what: format!("line {line}: {what}"),
        };
        let mut file = BufReader::new(File::open(path).map_err(read)?);
        let (mut header, mut visits, mut text) = (None::<Header>, Vec::new(), Vec::new());
        for number in 1.. {
            text.clear();
            let limited = &mut std::io::Read::take(&mut file, LINE_BYTES_MAX);
            if limited.read_until(b'\n', &mut text).map_err(read)? == 0 {
                break;
            }
            let wrong = |e: serde_json::Error| malformed(number, e.to_string());
            match &header {
                None => {
                    let first: Header = serde_json::from_slice(&text).map_err(wrong)?;
                    first.check().map_err(|what| malformed(number, what))?;
                    header = Some(first);
                }
                Some(header) => {
                    let visit: Visit = serde_json::from_slice(&text).map_err(wrong)?;
                    header.check_visit(&visit).map_err(|what| malformed(number, what))?;
                    visits.push(visit);
                }
            }
        }
        let header = header.ok_or_else(|| malformed(1, "is empty".to_owned()))?;
        Ok(Trace { header, visits })
    }

    /// Experts of all layers.
    pub(crate) fn experts(&self) -> usize {
        self.header.experts.iter().map(|n| *n as usize).sum()
    }

    /// The number through all layers of each layer's first expert.
    pub(crate) fn first_numbers(&self) -> Vec<u32> {
        let start = |next: &mut u32, count: &u32| {
            let first = *next;
            *next += count;
            Some(first)
        };
        self.header.experts.iter().scan(0, start).collect()
    }
}

#[cfg(test)]
mod tests;
