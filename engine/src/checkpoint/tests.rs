//! What is kept, found, and let go, with states that hold nothing but their tokens.

use super::store::PIECE_BYTES;
use super::*;
use crate::clock::Clock;

const BLOCK: usize = 64;
const BLOCK_BYTES: u64 = 1000;
const OWN_BYTES: u64 = 100;

/// A state of blocks of tokens, each counted as some bytes; copies share them.
#[derive(Clone, PartialEq, Debug)]
struct Blocks {
    blocks: Vec<Arc<Vec<TokenId>>>,
    rewinds: bool,
}

impl Blocks {
    fn tokens(&self) -> Vec<TokenId> {
        self.blocks.iter().flat_map(|block| block.iter().copied()).collect()
    }

    /// This state after more tokens; whole blocks are shared.
    fn then(&self, more: &[TokenId]) -> Blocks {
        let tokens = [self.tokens(), more.to_vec()].concat();
        let mut blocks: Vec<_> = tokens.chunks(BLOCK).map(|c| Arc::new(c.to_vec())).collect();
        for (new, old) in blocks.iter_mut().zip(&self.blocks) {
            if new == old {
                *new = old.clone();
            }
        }
        Blocks { blocks, rewinds: self.rewinds }
    }
}

impl State for Blocks {
    fn position(&self) -> usize {
        self.blocks.iter().map(|block| block.len()).sum()
    }

    fn pieces(&self, piece: &mut dyn FnMut(usize, u64)) -> u64 {
        self.blocks.iter().for_each(|block| piece(Arc::as_ptr(block).addr(), BLOCK_BYTES));
        OWN_BYTES
    }

    fn rewound(&self, position: usize) -> Option<Blocks> {
        let fresh = Blocks { blocks: Vec::new(), rewinds: true };
        self.rewinds.then(|| fresh.then(&self.tokens()[..position]))
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        // Longer than a piece of a file.
        out.write_all(&vec![7; 3 << 19])?;
        self.tokens().iter().try_for_each(|token| out.write_all(&token.to_le_bytes()))
    }

    fn written_bytes_max(&self) -> u64 {
        (3 << 19) + 4 * self.position() as u64
    }

    fn read(&mut self, input: &mut dyn Read) -> io::Result<()> {
        let mut all = Vec::new();
        input.read_to_end(&mut all)?;
        let tokens: Vec<_> = all[3 << 19..].chunks_exact(4).collect();
        let tokens: Vec<_> =
            tokens.iter().map(|b| TokenId::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        *self = self.then(&tokens);
        Ok(())
    }
}

fn fresh() -> Blocks {
    Blocks { blocks: Vec::new(), rewinds: false }
}

fn text(seed: u32, tokens: usize) -> Vec<TokenId> {
    (0..tokens as u32).map(|i| seed * 1000 + i).collect()
}

fn reuse(scope: &str) -> Reuse {
    Reuse { scope: scope.as_bytes().into(), on_disk: true }
}

/// A store with a clock that is moved by hand.
struct Bench {
    store: Checkpoints<Blocks>,
    counts: Counts,
    clock: Clock,
    turn: u64,
}

impl Bench {
    fn new(bytes: u64) -> Bench {
        Bench::with(bytes, CheckpointOptions::default())
    }

    fn with(bytes: u64, options: CheckpointOptions) -> Bench {
        let counts = Counts::default();
        let store = Checkpoints::new(bytes, &options, &counts, || ()).expect("starts");
        Bench { store, counts, clock: Clock::manual(), turn: 0 }
    }

    fn keep(&mut self, scope: &str, kind: Kind, state: &Blocks) {
        self.turn += 1;
        self.keep_in_turn(scope, kind, state, self.turn);
    }

    fn keep_in_turn(&mut self, scope: &str, kind: Kind, state: &Blocks, turn: u64) {
        let (reuse, tokens) = (reuse(scope), state.tokens().into());
        let kept = Kept { reuse: &reuse, tokens, kind, turn, state: state.clone() };
        self.store.keep(kept, self.clock.now());
        self.check();
    }

    /// What a store says of its bytes is what a count of all that it holds gives.
    fn check(&self) {
        let mut bytes = 0;
        for scope in self.store.scopes.values() {
            let mut shared = HashMap::new();
            for entry in &scope.entries {
                shared.insert(entry.tokens.as_ptr().addr(), size_of_val(&*entry.tokens) as u64);
                bytes += (2 * size_of::<Entry<Blocks>>()) as u64;
                if let Place::Memory { state, .. } = &entry.place {
                    bytes += state.pieces(&mut |address, bytes| {
                        shared.insert(address, bytes);
                    });
                }
            }
            bytes += shared.values().map(|bytes| bytes + PIECE_BYTES).sum::<u64>();
        }
        assert_eq!(self.store.bytes(), bytes);
        assert!(bytes <= self.store.memory_bytes_max);
    }

    /// How many tokens of a prompt a kept state has read. Waits for the disk.
    fn found(&mut self, scope: &str, prompt: &[TokenId]) -> usize {
        let found = self.store.find(&reuse(scope), prompt, fresh, self.clock.now());
        let state = match found {
            Found::Nothing => None,
            Found::Here(state) => Some(state),
            Found::Coming(coming) => {
                let state = coming.0.recv().expect("the thread answers");
                self.store.count_arrival(state.as_ref());
                state
            }
        };
        let Some(state) = state else { return 0 };
        assert_eq!(state.tokens(), prompt[..state.position()], "never another text's state");
        state.position()
    }

    /// Waits until the disk's thread has nothing to do.
    fn settle(&mut self) {
        while self.store.disk.as_ref().is_some_and(|disk| !disk.is_idle() && !disk.is_full()) {
            self.store.tidy(self.clock.now());
            std::thread::yield_now();
        }
        self.check();
    }

    fn entries(&self) -> usize {
        self.store.scopes.values().map(|scope| scope.entries.len()).sum()
    }
}

#[test]
fn the_longest_beginning_is_found_and_never_the_whole_prompt() {
    let mut bench = Bench::new(1 << 20);
    let prompt = text(1, 300);
    for end in [100, 299, 300] {
        bench.keep("a", Kind::Messages, &fresh().then(&prompt[..end]));
    }
    bench.keep("a", Kind::Messages, &fresh().then(&text(2, 250)));
    for (length, found) in [(400, 0), (301, 300), (300, 299), (299, 100), (101, 100), (100, 0)] {
        let asked = if length == 400 { text(3, 400) } else { text(1, length) };
        assert_eq!(bench.found("a", &asked), found, "{length}");
    }
    let mut other = prompt.clone();
    other[50] += 1;
    assert_eq!(bench.found("a", &other), 0, "one token differs");
    let counts = bench.counts.now();
    assert_eq!((counts.hits, counts.misses, counts.restored_tokens), (4, 3, 300 + 299 + 200));
}

#[test]
fn a_state_that_rewinds_serves_up_to_where_texts_part() {
    let mut bench = Bench::new(1 << 20);
    bench.store.rewinds = Some(true);
    let state = Blocks { rewinds: true, ..fresh() };
    bench.keep("a", Kind::Reply, &state.then(&text(1, 300)));
    let mut prompt = text(1, 310);
    prompt[130] = 0;
    assert_eq!(bench.found("a", &prompt), 130);
    prompt[TOKENS_MIN - 1] = 0;
    assert_eq!(bench.found("a", &prompt), 0, "too little to look after");
}

#[test]
fn nobody_finds_another_scope_s_states() {
    let mut bench = Bench::new(1 << 20);
    bench.keep("tenant a, caller 1", Kind::Messages, &fresh().then(&text(1, 300)));
    for scope in ["tenant a, caller 2", "tenant b, caller 1", ""] {
        assert_eq!(bench.found(scope, &text(1, 400)), 0, "{scope}");
    }
    assert_eq!(bench.found("tenant a, caller 1", &text(1, 400)), 300);
}

#[test]
fn states_of_one_conversation_share_what_they_have_in_common() {
    let mut bench = Bench::new(1 << 20);
    let mut state = fresh();
    for turn in 0..10 {
        state = state.then(&text(turn, 640));
        bench.keep("a", Kind::Messages, &state);
    }
    let blocks = 100 * (BLOCK_BYTES + PIECE_BYTES);
    let bytes = bench.store.bytes() - blocks;
    // Ten lists of tokens and ten times what is a state's own; not 550 blocks.
    let tokens: u64 = (1..=10).map(|turn| turn * 640 * 4 + PIECE_BYTES).sum();
    assert_eq!(bytes, tokens + 10 * (OWN_BYTES + 2 * size_of::<Entry<Blocks>>() as u64));
    assert_eq!(bench.counts.now().memory_bytes, bench.store.bytes());
}

#[test]
fn what_has_no_room_goes_superseded_states_first_then_the_one_used_longest_ago() {
    let mut bench = Bench::new(8000);
    let (old, other) = (fresh().then(&text(1, 128)), fresh().then(&text(2, 128)));
    bench.keep("a", Kind::Messages, &old);
    bench.keep("a", Kind::Messages, &other);
    assert_eq!(bench.found("a", &text(1, 200)), 128, "used now");
    let next = other.then(&text(3, 64));
    bench.keep("a", Kind::Messages, &next);
    assert_eq!(bench.entries(), 2, "no room for three");
    let whole = [text(2, 128), text(3, 100)].concat();
    assert_eq!(bench.found("a", &text(1, 200)), 128);
    assert_eq!(bench.found("a", &whole), 192);
    assert_eq!(bench.found("a", &text(2, 190)), 0, "a later turn went on from it");
    // Too large for all of it: nobody is pushed out.
    bench.keep("a", Kind::Messages, &fresh().then(&text(4, 640)));
    assert_eq!((bench.entries(), bench.counts.now().evicted), (2, 1));
}

#[test]
fn a_system_prompt_in_use_stays_and_copies_between_go_first() {
    let mut bench = Bench::new(16_000);
    let system = fresh().then(&text(1, 64));
    bench.keep("a", Kind::System, &system);
    for conversation in 2..8 {
        let state = system.then(&text(conversation, 128));
        let between = system.then(&text(conversation, 64));
        bench.turn += 1;
        bench.keep_in_turn("a", Kind::Between, &between, bench.turn);
        bench.keep_in_turn("a", Kind::Messages, &state, bench.turn);
        let next = [state.tokens(), text(99, 10)].concat();
        assert_eq!(bench.found("a", &next), 192, "{conversation}");
    }
    assert_eq!(bench.found("a", &[text(1, 64), text(50, 64)].concat()), 64, "still there");
    assert!(bench.counts.now().evicted >= 6);
}

#[test]
fn one_scope_s_many_states_do_not_push_out_another_s_few() {
    let mut bench = Bench::new(30_000);
    bench.keep("modest", Kind::Messages, &fresh().then(&text(1, 128)));
    for seed in 2..40 {
        bench.keep("greedy", Kind::Messages, &fresh().then(&text(seed, 128)));
    }
    assert_eq!(bench.found("modest", &text(1, 200)), 128);
    assert!(bench.entries() > 5, "all of it is used");
}

#[test]
fn a_copy_that_a_pass_takes_has_its_room_beforehand() {
    let mut bench = Bench::new(8000);
    bench.keep("a", Kind::Messages, &fresh().then(&text(1, 128)));
    assert!(!bench.store.reserve(8001));
    assert_eq!(bench.entries(), 1, "nothing goes in vain");
    assert!(bench.store.reserve(4000) && !bench.store.reserve(4001));
    assert!(bench.store.bytes() >= 4000);
    bench.store.end_reservations();
    bench.check();
}

#[test]
fn unused_states_expire_and_used_ones_stay() {
    let expire = Some(Duration::from_secs(60));
    let mut bench = Bench::with(1 << 20, CheckpointOptions { expire, ..Default::default() });
    bench.keep("a", Kind::Messages, &fresh().then(&text(1, 128)));
    bench.keep("b", Kind::Messages, &fresh().then(&text(2, 128)));
    let begun = bench.clock.now();
    bench.clock.advance(Duration::from_secs(40));
    assert_eq!(bench.found("a", &text(1, 200)), 128);
    assert_eq!(bench.store.next_expiry(), Some(begun + Duration::from_secs(60)));
    bench.clock.advance(Duration::from_secs(30));
    bench.store.tidy(bench.clock.now());
    bench.check();
    assert_eq!(bench.found("a", &text(1, 200)), 128);
    assert_eq!(bench.found("b", &text(2, 200)), 0);
    bench.clock.advance(Duration::from_secs(61));
    bench.store.tidy(bench.clock.now());
    assert_eq!((bench.entries(), bench.store.bytes()), (0, 0));
    assert_eq!((bench.counts.now().expired, bench.store.next_expiry()), (2, None));
}

#[test]
fn a_store_without_bytes_keeps_nothing() {
    let mut bench = Bench::new(0);
    bench.keep("a", Kind::Messages, &fresh().then(&text(1, 128)));
    assert!(!bench.store.is_on() && bench.entries() == 0 && bench.store.scopes.is_empty());
}

#[test]
fn a_model_that_is_loaded_anew_finds_nothing_of_the_old_one() {
    let mut bench = Bench::new(1 << 20);
    bench.keep("a", Kind::Messages, &fresh().then(&text(1, 128)));
    bench.store.clear();
    assert_eq!((bench.found("a", &text(1, 200)), bench.store.bytes()), (0, 0));
}

mod on_disk {
    use std::fs;
    use std::io::{Seek, SeekFrom};
    use std::path::Path;

    use super::*;

    fn bench(folder: &Path, disk_bytes: u64) -> Bench {
        let disk = CheckpointDisk { folder: folder.to_owned(), bytes: disk_bytes };
        Bench::with(9000, CheckpointOptions { disk: Some(disk), ..Default::default() })
    }

    /// Keeps conversations until the first is on disk alone.
    fn push_out(bench: &mut Bench) {
        for seed in 1..5 {
            bench.keep("a", Kind::Messages, &fresh().then(&text(seed, 128)));
            bench.settle();
        }
        let entries = bench.store.scopes.values().flat_map(|scope| &scope.entries);
        let mut gone = entries.filter(|entry| matches!(entry.place, Place::Disk(_)));
        assert!(gone.any(|entry| entry.tokens[0] == 1000));
    }

    fn break_files(bench: &Bench, change: impl Fn(&mut fs::File)) {
        let entries = bench.store.scopes.values().flat_map(|scope| &scope.entries);
        entries.filter_map(Entry::file).for_each(|file| file.with(&change));
    }

    #[test]
    fn a_state_that_memory_has_no_room_for_comes_back_from_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("crashed.checkpoint"), "left over").expect("written");
        let mut bench = bench(folder.path(), 1 << 30);
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0, "cleaned at start");
        push_out(&mut bench);
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0, "files have no name");
        assert_eq!(bench.found("b", &text(1, 200)), 0, "another scope");
        assert_eq!(bench.found("a", &text(1, 200)), 128);
        let counts = bench.counts.now();
        assert!(counts.from_disk == 1 && counts.disk_bytes > 3 << 19, "{counts:?}");
        bench.store.clear();
        assert_eq!(bench.counts.now().disk_bytes, 0, "what is forgotten leaves the disk");
    }

    #[test]
    fn nothing_can_be_read_in_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut bench = bench(folder.path(), 1 << 30);
        push_out(&mut bench);
        break_files(&bench, |file| {
            file.seek(SeekFrom::Start(0)).expect("seeks");
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).expect("reads");
            assert!(bytes.len() > 3 << 19);
            assert!(!bytes.windows(16).any(|w| w == [7; 16]), "the padding shows");
            let tokens: Vec<u8> = (1000..1004_u32).flat_map(u32::to_le_bytes).collect();
            assert!(!bytes.windows(16).any(|w| w == tokens), "tokens show");
        });
    }

    #[test]
    fn a_file_that_was_changed_or_cut_is_a_miss() {
        type Change = fn(&mut fs::File);
        let changes: [Change; 4] = [
            |file| {
                file.seek(SeekFrom::Start(5)).expect("seeks");
                file.write_all(b"x").expect("writes");
            },
            |file| file.set_len(1 << 20).expect("cut"),
            |file| file.set_len(0).expect("cut"),
            |file| {
                // Two pieces change places.
                let mut bytes = vec![0; 3 << 19];
                file.seek(SeekFrom::Start(0)).expect("seeks");
                file.read_exact(&mut bytes).expect("reads");
                bytes.rotate_left((1 << 20) + 16);
                file.seek(SeekFrom::Start(0)).expect("seeks");
                file.write_all(&bytes).expect("writes");
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let folder = tempfile::tempdir().expect("a folder");
            let mut bench = bench(folder.path(), 1 << 30);
            push_out(&mut bench);
            break_files(&bench, change);
            assert_eq!(bench.found("a", &text(1, 200)), 0, "{number}");
            // Its thread tells of it a moment later; then it is gone.
            let now = bench.clock.now();
            let (asked, reuse) = (text(1, 200), reuse("a"));
            while matches!(bench.store.find(&reuse, &asked, fresh, now), Found::Coming(_)) {
                std::thread::sleep(Duration::from_millis(5));
                bench.store.tidy(now);
            }
            bench.check();
        }
    }

    #[test]
    fn a_disk_that_is_full_is_left_alone_and_what_is_there_is_still_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("inside");
        let mut bench = bench(&inside, 1 << 30);
        push_out(&mut bench);
        fs::remove_dir(&inside).expect("it is empty");
        for seed in 10..14 {
            bench.keep("a", Kind::Messages, &fresh().then(&text(seed, 128)));
            bench.settle();
        }
        assert!(bench.store.disk.as_ref().expect("one").is_full());
        assert_eq!(bench.found("a", &text(13, 200)), 128, "memory serves on");
        assert_eq!(bench.found("a", &text(1, 200)), 128);
    }

    #[test]
    fn files_stay_within_their_bytes_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let one = Seal::file_bytes(fresh().then(&text(1, 128)).written_bytes_max());
        let mut bench = bench(folder.path(), 3 * one);
        for seed in 1..12 {
            bench.keep("a", Kind::Messages, &fresh().then(&text(seed, 128)));
            bench.settle();
            assert!(bench.store.disk.as_ref().expect("one").bytes_used() <= 3 * one);
        }
        assert_eq!(bench.found("a", &text(1, 200)), 0);
        assert!(bench.counts.now().disk_bytes > one);
    }

    #[test]
    fn only_what_was_judged_and_allowed_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut bench = bench(folder.path(), 1 << 30);
        for seed in 1..6 {
            let state = fresh().then(&text(seed, 128));
            match seed {
                1 | 2 => bench.keep("a", Kind::Reply, &state),
                _ => {
                    let reuse = Reuse { on_disk: false, ..reuse("a") };
                    let (tokens, turn) = (state.tokens().into(), 99);
                    let kept = Kept { reuse: &reuse, tokens, kind: Kind::Messages, turn, state };
                    bench.store.keep(kept, bench.clock.now());
                }
            }
            bench.settle();
        }
        assert_eq!(bench.counts.now().disk_bytes, 0);
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        let disk = Some(CheckpointDisk { folder: file.clone(), bytes: 1 << 30 });
        let options = CheckpointOptions { disk, ..Default::default() };
        let made = Checkpoints::<Blocks>::new(9000, &options, &Counts::default(), || ());
        let error = made.err().expect("refused").to_string();
        assert!(error.contains(&*file.to_string_lossy()), "{error}");
    }
}
