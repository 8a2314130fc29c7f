//! A gateway that meets the same fault again and again keeps no memory of it.
//!
//! It runs in a process of its own, which is this program once more, so that its resident memory is
//! nobody else's: not that of the fake cloud, which keeps every byte, nor of the tests beside this one.
//! Requests come in waves of many at once. A process grows at first, until it has what it needs for one
//! (stacks, pools, caches, the allocator's spare room); a leak grows with every wave. So some waves in a row
//! must leave memory as it was, sooner or later.
//!
//! A bound needs something to stand out from noise: each request carries a long text, so that one which is
//! kept, as it came or as it would leave, costs four times its share of [`CHANGE_MAX`].

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sluice::config::Config;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::cloud::{Cloud, Script};
use crate::dialect::{DIALECTS, Dialect};
use crate::faults::{Fault, config, faults};

const AT_ONCE: usize = 32;
/// Waves in a row, and how many such rows there may be until one leaves nothing.
const WAVES: usize = 3;
const ROWS_MAX: usize = 12;
/// Bytes of a text; the gateway remembers that it has seen it, so that only the first costs its scan.
const TEXT: usize = 32 << 10;
/// How far memory may change over a row: a quarter of its texts.
const CHANGE_MAX: usize = WAVES * AT_ONCE * TEXT / 4;

const CONFIG: &str = "SLUICE_TEST_CONFIG";
const READY: &str = "serves on ";

/// A gateway in a process of its own; dropped, it stops.
struct Process {
    child: Child,
    /// It serves until this is closed.
    _open: ChildStdin,
    traffic: SocketAddr,
    metrics: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    _folder: TempDir,
}

impl Process {
    fn start(config: &str) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sluice.yaml");
        let text = config.replace("$FOLDER", folder.path().to_str().unwrap());
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["memory::serves_in_a_process_of_its_own", "--exact", "--ignored"]);
        command.arg("--nocapture").env(CONFIG, path);
        // One heap for all threads: several grow by turns, and look like a leak.
        command.env("MALLOC_ARENA_MAX", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = said
            .map(Result::unwrap)
            .find_map(|line| line.split_once(READY).map(|(_, addresses)| addresses.to_owned()));
        let ready = ready.expect("the gateway starts");
        let (traffic, metrics) = ready.split_once(' ').unwrap();
        Process {
            _open: child.stdin.take().unwrap(),
            child,
            traffic: traffic.parse().unwrap(),
            metrics: metrics.parse().unwrap(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            _folder: folder,
        }
    }

    /// Asks and reads what comes, to its end or for as long as a client that leaves has patience.
    async fn ask(&self, dialect: Dialect, text: &str, stream: bool, leaves: bool) {
        let uri = format!("http://{}{}", self.traffic, dialect.path());
        let body = Full::new(Bytes::from(dialect.body(text, stream)));
        let request = Request::post(uri).body(body).unwrap();
        let response = self.client.request(request).await.unwrap();
        if !leaves {
            response.into_body().collect().await.unwrap();
        }
    }

    /// Many requests at once, in all dialects, streamed and not; then all is quiet.
    async fn wave(&self, text: &str, leaves: bool) {
        let asks = (0..AT_ONCE).map(|number| {
            let dialect = DIALECTS[number % DIALECTS.len()];
            self.ask(dialect, text, leaves || number % 2 == 0, leaves)
        });
        join_all(asks).await;
        for _ in 0..1000 {
            if self.metrics().await.contains("\nsluice_requests_in_flight 0\n") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("requests stay in flight");
    }

    async fn metrics(&self) -> String {
        let uri = format!("http://{}/metrics", self.metrics).parse().unwrap();
        let body = self.client.get(uri).await.unwrap().into_body().collect().await.unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }

    /// Resident memory, bytes.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the tests of memory start it"]
async fn serves_in_a_process_of_its_own() {
    let Some(path) = std::env::var_os(CONFIG) else { return };
    let config = Config::load(path.as_ref()).unwrap();
    let (stop, stopped) = oneshot::channel();
    let tell = |at: &sluice::Started| println!("{READY}{} {}", at.traffic, at.metrics);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        let _ = stop.send(());
    });
    let stop = async {
        let _ = stopped.await;
    };
    sluice::serve_reloading(config, None, tell, stop).await.unwrap();
}

/// Asks until some waves in a row leave memory as it was; gives back what it was after each such row, KiB.
async fn check(process: &Process, what: &str, leaves: bool) -> Vec<usize> {
    let text = "words and words ".repeat(TEXT / 16);
    process.wave(&text, leaves).await;
    let mut resident = vec![process.resident()];
    for _ in 0..ROWS_MAX {
        for _ in 0..WAVES {
            process.wave(&text, leaves).await;
        }
        let (before, after) = (resident[resident.len() - 1], process.resident());
        resident.push(after);
        // Nor less than it was: what shrinks was not at rest, and could hide what is left.
        if after.abs_diff(before) <= CHANGE_MAX {
            return resident.iter().map(|bytes| bytes >> 10).collect();
        }
    }
    panic!("{what}: memory never rests, bytes: {resident:?}");
}

fn start(cloud: &Cloud, fault: &Fault) -> Process {
    Process::start(&config(cloud, fault, "limits: {in_flight: 64}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_that_comes_again_and_again_leaves_no_memory_behind() {
    let cloud = Cloud::start(Script::Answer).await;
    let (elsewhere, here): (Vec<_>, Vec<_>) =
        faults().into_iter().partition(|fault| fault.address.is_some());
    let one_after_another = async {
        let process = start(&cloud, &here[0]);
        let left = ("clients that leave within a stream", Script::StallMidStream, true);
        let well = ("replies without a fault", Script::Answer, false);
        let here = here.into_iter().map(|fault| (fault.name, fault.script, false));
        for (name, script, leaves) in here.chain([left, well]) {
            cloud.follow(script);
            let asked = cloud.requests();
            let resident = check(&process, name, leaves).await;
            println!("{name}: {resident:?} KiB");
            let all = (1 + WAVES * (resident.len() - 1)) * AT_ONCE;
            // A connection that the cloud is about to close may fail another request without a byte.
            let asked = cloud.requests() - asked;
            assert!(asked > all * 9 / 10, "{name}: only {asked} of {all} met the fault");
        }
    };
    let elsewhere = elsewhere.iter().map(async |fault| {
        let process = start(&cloud, fault);
        println!("{}: {:?} KiB", fault.name, check(&process, fault.name, false).await);
    });
    tokio::join!(one_after_another, join_all(elsewhere));
}
