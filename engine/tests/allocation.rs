//! A file that claims huge counts, lengths and sizes makes its reader allocate no more than the file is
//! worth.
//!
//! A test of its own process: its allocator counts what is allocated at a time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use sluice_engine::untrusted::{read_gguf, read_safetensors, read_tokenizer};

/// The system's allocator with a count.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; the counters are atomic and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a parsed file may take for each of its bytes: JSON values of two letters, empty strings of eight
/// bytes, in tables that grow by doubling.
const BYTES_PER_BYTE: usize = 128;
/// What readers take whatever the file is: tables of a pattern, a page of a header.
const FIXED: usize = 8 << 20;

type Reader = fn(&[u8]) -> Result<(), sluice_engine::EngineError>;

/// Reads a file, which may fail, and holds what was allocated against its size. Says whether it failed.
fn check(reader: Reader, bytes: &[u8], what: &str) -> bool {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let refused = reader(bytes).is_err();
    let most = MOST.load(Ordering::Relaxed) - before;
    let allowed = FIXED + BYTES_PER_BYTE * bytes.len();
    assert!(most <= allowed, "{what}: {most} bytes for a file of {}", bytes.len());
    refused
}

/// Numbers that nothing has as many of, from those that overflow to those that an allocator would give.
const HUGE: [u64; 5] = [u64::MAX, i64::MAX as u64, 1 << 40, 1 << 32, 1 << 28];

/// A model file as tests have them.
fn testdata(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    std::fs::read(path).expect("a committed file")
}

/// Every number of a header in turn becomes huge: counts of tensors, keys, items and dimensions, lengths
/// of strings, sizes, offsets.
fn gguf() {
    let whole = testdata("tiny/qwen3_moe.gguf");
    assert!(!check(read_gguf, &whole, "the whole"), "a valid file");
    let tensors = b"blk.1.ffn_down_exps.weight";
    let table = whole.windows(tensors.len()).rposition(|w| w == tensors).expect("a tensor");
    // The first keys, and the last entries of the table of tensors.
    let places = (8..600).step_by(2).chain(table - 100..table + 80);
    let mut refused = 0;
    for at in places {
        for huge in &HUGE[1..4] {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&huge.to_le_bytes());
            refused += usize::from(check(read_gguf, &bytes, &format!("{huge} at {at}")));
        }
    }
    assert!(refused > 300, "most of these are refused: {refused}");
}

fn safetensors() {
    let file = |header: &str| [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    for huge in HUGE {
        let mut length = file("{}");
        length[..8].copy_from_slice(&huge.to_le_bytes());
        assert!(check(read_safetensors, &length, "a header's length"));
        for entry in [
            format!(r#"{{"dtype":"F32","shape":[{huge},{huge}],"data_offsets":[0,8]}}"#),
            format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":[0,{huge}]}}"#),
            format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":[{huge},{huge}]}}"#),
        ] {
            let bytes = [file(&format!(r#"{{"a":{entry}}}"#)), vec![0; 8]].concat();
            assert!(check(read_safetensors, &bytes, &entry), "{entry}");
        }
    }
    let many = format!("{{{}}}", ["\"__metadata__\":{}"; 100_000].join(","));
    check(read_safetensors, &file(&many), "many keys");
}

fn tokenizers() {
    let text = String::from_utf8(testdata("tiny/qwen3_moe/tokenizer.json")).expect("UTF-8");
    assert!(!check(read_tokenizer, text.as_bytes(), "the whole"), "a valid file");
    let (id, token) = ("\"id\": 264", "\"<|endoftext|>\": 264");
    assert!(text.contains(id) || text.contains("\"id\":264"), "an added token");
    for huge in HUGE {
        for from in [id, "\"id\":264", token, "\"<|endoftext|>\":264"] {
            let key = from.trim_end_matches("264");
            let bytes = text.replace(from, &format!("{key}{huge}"));
            if bytes != text {
                check(read_tokenizer, bytes.as_bytes(), &format!("{from} as {huge}"));
            }
        }
    }
    // A file of a few bytes with one token that stands far behind all others.
    let mut far: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    far["model"]["vocab"]["a"] = 4_000_000.into();
    assert!(check(read_tokenizer, far.to_string().as_bytes(), "a token far behind"), "refused");
    check(read_tokenizer, "[".repeat(100_000).as_bytes(), "deep");
    check(read_tokenizer, format!("[{}0]", "0,".repeat(100_000)).as_bytes(), "long");
}

#[test]
fn what_a_file_claims_is_never_allocated() {
    gguf();
    safetensors();
    tokenizers();
}
