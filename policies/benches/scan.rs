//! Throughput of the scanner with every shipped detector: ordinary prose, a chat request, hard input.
//!
//! Run with `cargo bench -p sluice-policies --bench scan`. Prose should stay above 100 MB/s on one
//! core and a 2 KB chat request below 200 µs. Allocations of each are counted too.

#![forbid(unsafe_code)]

use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use sluice_policies::{PolicySet, Prompt, Role, ScanCache, ScanMemory, Text};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn shipped() -> PolicySet {
    PolicySet::shipped().expect("the shipped policies are valid")
}

/// Paragraphs of ordinary business English.
fn prose(bytes: usize) -> String {
    const PARAGRAPHS: [&str; 4] = [
        "Please read the draft below and suggest a shorter version that keeps the main points. We want to \
         explain to our readers how the new release makes their daily work easier, and why upgrading now is \
         worth the effort even if the old version still works well for them.\n\n",
        "The parser reads the file line by line, collects what it finds, and reports every problem with its \
         place. A second pass joins the results and writes them to the output folder. Nothing is kept in \
         memory that is not needed later, so that large inputs cost no more than small ones.\n\n",
        "In the garden behind the old mill the roses had begun to open, and people from the village came in \
         the evening to sit on the low wall and talk about the weather, the harvest and the fair that was to \
         be held at the end of the month.\n\n",
        "When you compare the two proposals, look first at the cost of running each of them for three years, \
         then at the skills that the team already has, and only then at the features that somebody might \
         want some day. Write the result as a table with one row for each criterion.\n\n",
    ];
    let mut text: String = PARAGRAPHS.iter().copied().cycle().take(bytes / 200 + 1).collect();
    text.truncate(bytes);
    text
}

fn chat() -> Prompt {
    conversation(vec![
        (Role::System, prose(500)),
        (Role::User, prose(700)),
        (Role::Assistant, prose(400)),
        (Role::User, prose(448)),
    ])
}

/// A conversation whose turns all differ.
fn long_chat(turns: usize) -> Prompt {
    let role = |turn| if turn % 2 == 0 { Role::User } else { Role::Assistant };
    let said = |turn| format!("Turn {turn}. {}", prose(500 + turn * 7 % 300));
    conversation((0..turns).map(|turn| (role(turn), said(turn))).collect())
}

fn conversation(turns: Vec<(Role, String)>) -> Prompt {
    let texts = turns.into_iter().enumerate().map(|(i, (role, text))| Text {
        place: format!("messages[{i}].content"),
        message: Some(i),
        role,
        text,
    });
    Prompt { texts: texts.collect(), ..Prompt::default() }
}

#[divan::bench]
fn classify_chat_request_of_2_kb(bencher: Bencher<'_, '_>) {
    let (set, prompt) = (shipped(), chat());
    bencher.bench(|| set.classify(black_box(&prompt)));
}

/// What the bench of the gateway sends: one message, and the model's name.
#[divan::bench]
fn classify_request_of_1_kb(bencher: Bencher<'_, '_>) {
    let mut prompt = conversation(vec![(Role::User, prose(1000))]);
    prompt.texts.push(Text {
        place: "model".to_owned(),
        message: None,
        role: Role::Other,
        text: "m".to_owned(),
    });
    let set = shipped();
    bencher.bench(|| set.classify(black_box(&prompt)));
}

/// The next turn of a long conversation whose earlier turns were scanned before.
#[divan::bench(args = [10, 100])]
fn classify_next_turn(bencher: Bencher<'_, '_>, turns: usize) {
    let (set, cache) = (shipped(), ScanCache::new(64 << 20, &[7; 32]));
    let memory = ScanMemory { cache: &cache, scope: "bench" };
    set.classify_with(&long_chat(turns), memory);
    let mut next = 0;
    bencher
        .with_inputs(|| {
            next += 1;
            let mut prompt = long_chat(turns + 1);
            prompt.texts.last_mut().expect("there are turns").text.push_str(&next.to_string());
            prompt
        })
        .bench_local_refs(|prompt| set.classify_with(black_box(prompt), memory));
}

/// The same without memory.
#[divan::bench(args = [10, 100])]
fn classify_whole_conversation(bencher: Bencher<'_, '_>, turns: usize) {
    let (set, prompt) = (shipped(), long_chat(turns + 1));
    bencher.bench(|| set.classify(black_box(&prompt)));
}

#[divan::bench]
fn classify_clinical_note_of_2_kb(bencher: Bencher<'_, '_>) {
    let note = "Patient Maria Kowalczyk, DOB 03/14/1962, MRN 00482913, was admitted with pneumonia and \
                started on ceftriaxone 1 g IV daily. Call her daughter at (617) 482-3391. ";
    let (set, prompt) = (shipped(), Prompt::from_user_text(note.repeat(12)));
    bencher.bench(|| set.classify(black_box(&prompt)));
}

#[divan::bench(args = [64 << 10, 1 << 20], sample_count = 20)]
fn classify_prose(bencher: Bencher<'_, '_>, bytes: usize) {
    let (set, prompt) = (shipped(), Prompt::from_user_text(prose(bytes)));
    bencher.counter(BytesCount::new(bytes)).bench(|| set.classify(black_box(&prompt)));
}

#[divan::bench(args = [64 << 10], sample_count = 10)]
fn classify_numbers(bencher: Bencher<'_, '_>, bytes: usize) {
    let row = "2026-01-03,482913,17.25,EUR,4711,ok\n";
    let (set, prompt) = (shipped(), Prompt::from_user_text(row.repeat(bytes / row.len())));
    bencher.counter(BytesCount::new(bytes)).bench(|| set.classify(black_box(&prompt)));
}
