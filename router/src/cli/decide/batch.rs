//! `sluice decide --batch`: JSON Lines in, one verdict a line out, in the same order.
//!
//! Lines are read in rounds. A round is what has already arrived, up to a bound, so a fast producer
//! fills all cores and a slow one that waits for each answer gets it at once. Within a round the cores
//! take small blocks of lines; the blocks are written in order.
//!
//! Invariants: as many lines out as in; memory is bounded by [`ROUND_BYTES_MAX`] and
//! [`LINE_BYTES_MAX`]; a line that cannot be read, or that a bug trips over, is refused and the rest
//! go on.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::Judge;
use super::verdict::Verdict;

/// A longer line is refused unread; the gateway's own limit for a body is of this order.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A round ends after this many bytes; one line more may come on top.
const ROUND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Lines that a core takes at once: enough to make taking them cheap, few enough to share evenly.
const BLOCK_LINES: usize = 16;

/// One line of input.
#[derive(Debug, PartialEq)]
enum Line {
    Read(Vec<u8>),
    TooLong,
}

/// The verdicts of one block, rendered.
struct Block {
    index: usize,
    bytes: Vec<u8>,
    bad_lines: usize,
}

/// Answers every line of `input`; returns how many could not be read.
pub(super) fn run(
    judge: &Judge,
    input: impl Read,
    output: &mut impl Write,
    threads: usize,
) -> io::Result<usize> {
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let mut bad_lines = 0;
    loop {
        let round = read_round(&mut input)?;
        if round.is_empty() {
            return Ok(bad_lines);
        }
        for block in answer_round(judge, &round, threads) {
            output.write_all(&block.bytes)?;
            bad_lines += block.bad_lines;
        }
        output.flush()?;
    }
}

/// Reads at least one line, and then those that have already arrived.
fn read_round<R: Read>(input: &mut BufReader<R>) -> io::Result<Vec<Line>> {
    let mut round = Vec::new();
    let mut bytes = 0;
    while let Some(line) = read_line(input)? {
        if let Line::Read(text) = &line {
            bytes += text.len();
        }
        round.push(line);
        if bytes >= ROUND_BYTES_MAX || !input.buffer().contains(&b'\n') {
            break;
        }
    }
    Ok(round)
}

fn read_line(input: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let count = input.take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
    if count == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > LINE_BYTES_MAX {
        input.skip_until(b'\n')?;
        return Ok(Some(Line::TooLong));
    }
    Ok(Some(Line::Read(line)))
}

/// Answers the lines of a round on all cores; the blocks come back in order.
fn answer_round(judge: &Judge, round: &[Line], threads: usize) -> Vec<Block> {
    let blocks: Vec<&[Line]> = round.chunks(BLOCK_LINES).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((index, lines)) = take(&blocks, &next) {
            done.push(answer_block(judge, index, lines));
        }
        done
    };
    let mut answered: Vec<Block> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(blocks.len())).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let theirs = others
            .into_iter()
            .flat_map(|thread| thread.join().expect("answer_block catches every panic"));
        mine.into_iter().chain(theirs).collect()
    });
    answered.sort_unstable_by_key(|block| block.index);
    answered
}

fn take<'a>(blocks: &[&'a [Line]], next: &AtomicUsize) -> Option<(usize, &'a [Line])> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    blocks.get(index).map(|lines| (index, *lines))
}

fn answer_block(judge: &Judge, index: usize, lines: &[Line]) -> Block {
    let mut block = Block { index, bytes: Vec::with_capacity(lines.len() * 256), bad_lines: 0 };
    for line in lines {
        let verdict = answer(judge, line);
        block.bad_lines += usize::from(verdict.error.is_some());
        serde_json::to_writer(&mut block.bytes, &verdict).expect("a verdict is plain JSON");
        block.bytes.push(b'\n');
    }
    block
}

fn answer(judge: &Judge, line: &Line) -> Verdict {
    let text = match line {
        Line::Read(text) => text,
        Line::TooLong => {
            let why =
                format!("expected a line of at most {LINE_BYTES_MAX} bytes, got a longer one");
            return Verdict::unreadable(Value::Null, why);
        }
    };
    // Nothing is shared but the policy set, which is read only.
    catch_unwind(AssertUnwindSafe(|| judge.line(text))).unwrap_or_else(|_| {
        Verdict::unreadable(Value::Null, "an internal error ended the scan of this line".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_with_and_without_a_last_newline() {
        for text in ["a\n\nb\n", "a\n\nb"] {
            let mut input = BufReader::new(text.as_bytes());
            let lines = read_round(&mut input).unwrap();
            // The unfinished last line may come in a round of its own.
            let rest = read_round(&mut input).unwrap();
            let all: Vec<Line> = lines.into_iter().chain(rest).collect();
            let expected: Vec<Line> =
                [b"a".to_vec(), Vec::new(), b"b".to_vec()].into_iter().map(Line::Read).collect();
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn an_overlong_line_is_skipped_and_the_next_one_read() {
        let long = vec![b'x'; LINE_BYTES_MAX + 10];
        let text = [long.as_slice(), b"\nnext\n"].concat();
        let mut input = BufReader::new(text.as_slice());
        assert_eq!(read_line(&mut input).unwrap(), Some(Line::TooLong));
        assert_eq!(read_line(&mut input).unwrap(), Some(Line::Read(b"next".to_vec())));
        assert_eq!(read_line(&mut input).unwrap(), None);
    }

    #[test]
    fn a_round_does_not_wait_for_lines_that_have_not_arrived() {
        /// Gives one line a read, and fails the test if asked for a third.
        struct OneByOne(usize);
        impl Read for OneByOne {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                assert!(self.0 < 2, "read past what had arrived");
                buffer[..2].copy_from_slice(b"a\n");
                Ok(2)
            }
        }
        let round = read_round(&mut BufReader::new(OneByOne(0))).unwrap();
        assert_eq!(round, [Line::Read(b"a".to_vec())]);
    }
}
