//! A model comes from a hub on loopback that redirects, cuts transfers and refuses.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser;
use sluice_engine::pack::{Inspection, inspect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::Failure;
use super::*;

const COMMIT: &str = "0123abcd";
const TOKEN: &str = "hf_example";

/// What the hub saw of a request for bytes.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    path: String,
    range: Option<String>,
    authorised: bool,
    /// At the storage host, behind the redirect.
    storage: bool,
}

/// How the hub misbehaves.
#[derive(Clone, Copy, Default)]
struct Manners {
    /// Bytes after which the storage host cuts a transfer, and how many transfers it cuts.
    cut_after: usize,
    cuts: usize,
    /// After the cuts, transfers bring nothing any more.
    then_nothing: bool,
    /// The storage host knows no ranges.
    without_ranges: bool,
    /// A wrong SHA-256 in the listing.
    wrong_sum: bool,
    /// Demands the token.
    gated: bool,
}

/// A hub and its storage host.
struct FakeHub {
    files: BTreeMap<String, Vec<u8>>,
    manners: Manners,
    storage: String,
    state: Mutex<(Vec<Seen>, usize)>,
}

impl FakeHub {
    async fn start(folder: &Path, names: &[&str], manners: Manners) -> (Arc<FakeHub>, String) {
        let read = |name: &&str| {
            let bytes = std::fs::read(folder.join(name)).expect("testdata");
            ((*name).to_owned(), bytes)
        };
        let front = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let store = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = |l: &TcpListener| format!("http://{}", l.local_addr().expect("bound"));
        let (base, storage) = (address(&front), address(&store));
        let files = names.iter().map(read).collect();
        let state = Mutex::new((Vec::new(), 0));
        let hub = Arc::new(FakeHub { files, manners, storage, state });
        for (listener, storage) in [(front, false), (store, true)] {
            let hub = Arc::clone(&hub);
            #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // One connection after another is enough; an answer closes it.
                    let _ = hub.answer(stream, storage).await;
                }
            });
        }
        (hub, base)
    }

    async fn answer(&self, mut stream: TcpStream, storage: bool) -> std::io::Result<()> {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).await?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let header = |name: &str| {
            let find = |line: &str| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            };
            head.lines().find_map(find)
        };
        let target = head.split(' ').nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let range = header("range");
        let authorised = header("authorization").is_some_and(|v| v == format!("Bearer {TOKEN}"));
        let seen = Seen { path: path.clone(), range: range.clone(), authorised, storage };
        self.state.lock().expect("no panics").0.push(seen);
        let reply = if self.manners.gated && !storage && !authorised {
            b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
        } else if storage {
            self.bytes_of(&path, range.as_deref())
        } else if path == "/api/models/org/tiny/revision/main" {
            whole(&self.listing())
        } else if let Some(name) = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")) {
            let to = format!("{}/store/{name}?signature=secret", self.storage);
            format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .into_bytes()
        } else {
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
        };
        stream.write_all(&reply).await?;
        stream.shutdown().await
    }

    fn listing(&self) -> Vec<u8> {
        let sibling = |(name, bytes): (&String, &Vec<u8>)| {
            let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
            let mut sum: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
            if self.manners.wrong_sum {
                sum = "0".repeat(64);
            }
            let large = !name.ends_with(".json");
            let lfs = large.then(|| serde_json::json!({"sha256": sum, "size": bytes.len()}));
            serde_json::json!({"rfilename": name, "size": bytes.len(), "lfs": lfs})
        };
        let siblings: Vec<_> = self.files.iter().map(sibling).collect();
        serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes()
    }

    fn bytes_of(&self, path: &str, range: Option<&str>) -> Vec<u8> {
        let file = &self.files[path.strip_prefix("/store/").expect("an address of ours")];
        let range = range.filter(|_| !self.manners.without_ranges);
        let (from, to) = match range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-')) {
            Some((from, to)) => (from.parse().expect("a number"), to.parse().expect("a number")),
            None => (0, file.len() - 1),
        };
        let mut reply = match range {
            None => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", file.len()),
            Some(_) => format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\n\
                 content-range: bytes {from}-{to}/{}\r\n",
                to - from + 1,
                file.len()
            ),
        }
        .into_bytes();
        reply.extend(b"connection: close\r\n\r\n");
        let body = &file[from..=to];
        let mut state = self.state.lock().expect("no panics");
        if state.1 < self.manners.cuts && body.len() > self.manners.cut_after {
            state.1 += 1;
            reply.extend(&body[..self.manners.cut_after]);
        } else if !self.manners.then_nothing {
            reply.extend(body);
        }
        reply
    }

    fn seen(&self) -> Vec<Seen> {
        self.state.lock().expect("no panics").0.clone()
    }
}

/// An answer with a body.
fn whole(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/testdata/tiny")
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    flags: PackFlags,
}

fn flags() -> PackFlags {
    Flags::parse_from(["pull", "--name", "tiny"]).flags
}

async fn pull(base: &str, wanted: Option<&str>, to: &Path) -> anyhow::Result<PackReport> {
    let hub = Hub::new(base, Some(TOKEN))?;
    let repository = hub.repository("org/tiny", "main").await?;
    let model = Model::choose(&repository.files, &repository.name, wanted)?;
    let pause = Duration::from_millis(1);
    let mut puller = Puller { hub: &hub, repository: &repository, pause };
    puller.pull(&model, &flags(), to.to_owned()).await
}

fn opened(to: &Path) -> Inspection {
    inspect(to, true).expect("a whole pack")
}

const GGUF: &[&str] = &["qwen3_5_moe.gguf"];

#[tokio::test(flavor = "multi_thread")]
async fn a_gguf_model_comes_through_redirects_and_the_token_stays_at_the_hub() {
    let dir = tempfile::tempdir().expect("a folder");
    let to = dir.path().join("pack");
    let manners = Manners { gated: true, ..Manners::default() };
    let (hub, base) = FakeHub::start(&testdata(), GGUF, manners).await;
    pull(&base, None, &to).await.expect("comes");
    assert_eq!(opened(&to).architecture, "qwen3_5_moe");
    let seen = hub.seen();
    assert!(seen.iter().all(|request| request.authorised != request.storage), "{seen:?}");
    assert!(seen.iter().any(|request| request.storage && request.range.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_transfers_go_on_at_the_byte_where_they_ended() {
    let dir = tempfile::tempdir().expect("a folder");
    let to = dir.path().join("pack");
    let manners = Manners { cut_after: 100_000, cuts: 3, ..Manners::default() };
    let (hub, base) = FakeHub::start(&testdata(), GGUF, manners).await;
    pull(&base, Some("qwen3_5_moe.gguf"), &to).await.expect("comes in the end");
    opened(&to);
    let seen = hub.seen();
    let starts: Vec<&str> = seen
        .iter()
        .filter(|request| request.storage)
        .filter_map(|request| request.range.as_deref()?.strip_prefix("bytes=")?.split('-').next())
        .collect();
    assert_eq!(starts, ["0", "100000", "200000", "300000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_call_goes_on_where_the_first_gave_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let to = dir.path().join("pack");
    let manners = Manners { cut_after: 150_000, cuts: 1, then_nothing: true, ..Manners::default() };
    let (_, base) = FakeHub::start(&testdata(), GGUF, manners).await;
    let error = pull(&base, None, &to).await.expect_err("gives up");
    assert!(format!("{error:#}").contains("kept for the next attempt"), "{error:#}");
    let (hub, base) = FakeHub::start(&testdata(), GGUF, Manners::default()).await;
    pull(&base, None, &to).await.expect("comes");
    opened(&to);
    let first = hub.seen().into_iter().find_map(|request| request.range);
    assert!(first.expect("ranges").starts_with("bytes=150000-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hugging_face_model_in_shards_comes_with_its_small_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let to = dir.path().join("pack");
    let names = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    // The storage host sends whole files, whatever is asked.
    let manners =
        Manners { without_ranges: true, cut_after: 90_000, cuts: 2, ..Manners::default() };
    let (_, base) = FakeHub::start(&testdata().join("qwen3_next"), &names, manners).await;
    pull(&base, None, &to).await.expect("comes");
    let found = opened(&to);
    assert_eq!(found.expert_types[0], "q4_0");
    assert!(found.chat_template.is_some() && found.name == "tiny");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_and_wrong_names_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let to = dir.path().join("pack");
    let manners = Manners { wrong_sum: true, ..Manners::default() };
    let (_, base) = FakeHub::start(&testdata(), GGUF, manners).await;
    let refused =
        |result: anyhow::Result<PackReport>| format!("{:#}", result.expect_err("refused"));
    let error = refused(pull(&base, None, &to).await);
    assert!(error.contains("SHA-256"), "{error}");
    assert!(!to.exists() && !dir.path().join("pack.partial").exists());

    let names = ["qwen3_5_moe.gguf", "qwen3_moe.gguf"];
    let (_, base) = FakeHub::start(&testdata(), &names, Manners::default()).await;
    let error = refused(pull(&base, None, &to).await);
    assert!(
        error.contains("org/tiny:qwen3_5_moe") && error.contains("org/tiny:qwen3_moe"),
        "{error}"
    );
    let error = refused(pull(&base, Some("Q9"), &to).await);
    assert!(error.contains("no such model"), "{error}");
    let hub = Hub::new(&base, None).expect("an address");
    let error = hub.repository("org/other", "main").await.err().expect("not there");
    assert!(format!("{error:#}").contains("not found"), "{error:#}");
    assert!(hub.repository("../etc", "main").await.is_err());
}

/// The verb as it is called, outside of this test's runtime.
async fn called(arguments: Vec<String>) -> Outcome {
    #[derive(Parser)]
    struct Verb {
        #[command(flatten)]
        args: Args,
    }
    let line = [vec!["pull".to_owned()], arguments].concat();
    let args = Verb::try_parse_from(line).expect("flags that exist").args;
    std::thread::scope(|scope| {
        tokio::task::block_in_place(|| scope.spawn(|| run(&args)).join().expect("no panic"))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_is_the_one_that_the_flag_names_and_failures_have_their_status() {
    let dir = tempfile::tempdir().expect("a folder");
    let to = dir.path().join("pack").display().to_string();
    let (hub, base) = FakeHub::start(&testdata(), GGUF, Manners::default()).await;
    let call = |reference: &str, hub: &str| {
        called([reference, &to, "--hub", hub].map(str::to_owned).to_vec())
    };
    let done = call("org/tiny", &base).await;
    assert!(matches!(done, Ok(Status::Done)), "{done:?}");
    assert!(!hub.seen().is_empty());
    assert_eq!(opened(Path::new(&to)).name, "pack");
    // What the person wrote is wrong: status 2. What the hub says, or what is there: status 1.
    for (reference, address) in [("org/tiny:", &*base), ("org/tiny", "ftp://hub.invalid")] {
        let refused = call(reference, address).await;
        assert!(matches!(refused, Err(Failure::Usage(_))), "{reference} {address}: {refused:?}");
    }
    for reference in ["org/other", "org/tiny:Q9", "org/tiny"] {
        let failed = call(reference, &base).await;
        assert!(matches!(failed, Err(Failure::Failed(_))), "{reference}: {failed:?}");
    }
}

#[test]
fn the_hub_may_come_from_the_environment_and_the_pack_goes_where_the_model_is_called() {
    use clap::Args as _;
    let command = Args::augment_args(clap::Command::new("pull"));
    let hub = command.get_arguments().find(|arg| arg.get_id() == "hub").expect("a flag");
    assert_eq!(hub.get_env(), Some(std::ffi::OsStr::new("SLUICE_HUB")));
    let parsed = |line: &[&str]| {
        #[derive(Parser)]
        struct Verb {
            #[command(flatten)]
            args: Args,
        }
        Verb::try_parse_from(line).expect("flags that exist").args
    };
    let model = Model { name: "m-Q4".to_owned(), weights: Vec::new(), side: Vec::new() };
    assert_eq!(parsed(&["pull", "o/m"]).destination(&model), PathBuf::from("m-Q4"));
    assert_eq!(parsed(&["pull", "o/m", "there"]).destination(&model), PathBuf::from("there"));
}

#[test]
fn models_are_found_in_repositories_as_people_lay_them_out() {
    let files = |paths: &[&str]| -> Vec<RemoteFile> {
        let file = |path: &&str| RemoteFile { path: (*path).to_owned(), bytes: 1, sha256: None };
        paths.iter().map(file).collect()
    };
    let quants = [
        "m-Q4_K_M.gguf",
        "mmproj-F16.gguf",
        "BF16/m-BF16-00002-of-00002.gguf",
        "BF16/m-BF16-00001-of-00002.gguf",
        "config.json",
    ];
    let hub = ["config.json", "tokenizer.json", "model.safetensors", "original/x.safetensors"];
    /// Paths, what is wanted, and the model's name and file count or what the error says.
    type Case<'a> = (&'a [&'a str], Option<&'a str>, Result<(&'a str, usize), &'a str>);
    let shards = ["config.json", "a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors"];
    let cases: [Case<'_>; 11] = [
        (&quants, Some("q4_k_m"), Ok(("m-Q4_K_M", 1))),
        (&quants, Some("BF16"), Ok(("m-BF16", 2))),
        (&quants, Some("m-Q4_K_M.gguf"), Ok(("m-Q4_K_M", 1))),
        (&quants, Some("m-"), Err("several")),
        (&quants[..3], Some("BF16"), Err("all 2 files")),
        (&hub, None, Ok(("m", 1))),
        (&hub, Some("model.safetensors"), Ok(("m", 1))),
        (&hub, Some("original/x.safetensors"), Err("beside config.json")),
        (&shards, Some(shards[1]), Err("one of 2 files of a model, which come together: pull o/m")),
        (&shards[1..], Some(shards[1]), Err("beside config.json")),
        (&["README.md"], None, Err("no such model")),
    ];
    for (paths, wanted, expected) in cases {
        match (Model::choose(&files(paths), "o/m", wanted), expected) {
            (Ok(model), Ok((name, count))) => {
                assert_eq!((model.name.as_str(), model.weights.len()), (name, count));
            }
            (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{error}"),
            (found, expected) => panic!("{wanted:?}: {found:?}, expected {expected:?}"),
        }
    }
    assert_eq!(parse_reference("o/m:Q4").expect("fine"), ("o/m", Some("Q4")));
    assert!(parse_reference("o/m:").is_err());
}
