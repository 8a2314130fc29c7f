//! What the gateway costs: CPU, latency and memory beside nginx and a bare hyper proxy, in one run.
//!
//! All of them stand before the same upstream, which answers at once. They take turns, round by round, so
//! that a machine that gets busier is busier for all; ratios are what to read. CPU is that of whole
//! processes, from the kernel's accounts: the number that holds on a noisy machine. CPU and its ratio are
//! medians over the rounds, so that a round in which the machine was slower does not count. Each serves with as many
//! threads: with more of them than the load needs, each request costs all but nginx more. Texts are ordinary
//! prose, each request and each reply another, so that no memory of earlier scans helps. Events carry the moment at which
//! they were written, so that what is added to each is seen. Beside the gateway with
//! the whole set stands one without any pack, which looks for nothing but what cannot be scanned, and one
//! that does not mind that and keeps no audit log either: detection and audit are off.
//! Inside: `peers` (what is started), `load` (clients), `upstream`, `proxy`.
//!
//! `cargo bench -p sluice-tests --bench gateway`; the gateway is `$SLUICE_BINARY`, or the release build.
//! `-- --seconds 1 --rounds 3 --connections 16 --sizes 1,32,400` (KiB) `--threads 1` changes how much; nginx is left out where there is none.
//! Not part of the tests: it measures, and asserts only that everything answered.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench ends where an unwrap fails")]

mod load;
mod peers;
mod proxy;
mod upstream;

use std::net::SocketAddr;
use std::time::Duration;

use load::{Kind, Measured};
use peers::Peer;
use tokio::runtime::{Builder, Runtime};

/// Body sizes, KiB.
const SIZES: [usize; 3] = [1, 32, 400];
/// As many clients as the memory is measured with.
const MANY: usize = 256;

struct Args {
    seconds: f64,
    rounds: usize,
    connections: usize,
    threads: usize,
    sizes: Vec<usize>,
}

impl Args {
    fn read(mut words: impl Iterator<Item = String>) -> Args {
        let sizes = SIZES.to_vec();
        let mut args = Args { seconds: 1.0, rounds: 3, connections: 16, threads: 1, sizes };
        while let Some(word) = words.next() {
            let mut value = || words.next().expect("a value after the flag");
            match word.as_str() {
                "--seconds" => args.seconds = value().parse().unwrap(),
                "--rounds" => args.rounds = value().parse().unwrap(),
                "--connections" => args.connections = value().parse().unwrap(),
                "--threads" => args.threads = value().parse().unwrap(),
                "--sizes" => {
                    args.sizes = value().split(',').map(|size| size.parse().unwrap()).collect();
                }
                // What cargo says to every bench.
                "--bench" => {}
                other => panic!("unknown flag {other}"),
            }
        }
        args
    }
}

fn main() {
    let mut words = std::env::args().skip(1).peekable();
    let role = words.next_if(|word| matches!(word.as_str(), "upstream" | "proxy"));
    match role.as_deref() {
        Some("upstream") => runtime(2).block_on(upstream::serve()),
        Some("proxy") => {
            let to: SocketAddr = words.next().unwrap().parse().unwrap();
            let threads = words.next().unwrap().parse().unwrap();
            runtime(threads).block_on(proxy::serve(to));
        }
        _ => runtime(2).block_on(compare(&Args::read(words))),
    }
}

fn runtime(threads: usize) -> Runtime {
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(threads).enable_all().build().unwrap()
}

async fn compare(args: &Args) {
    let upstream = peers::start_self(&["upstream"]);
    let peers = peers::start_all(upstream.address, args.threads);
    println!("load before: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    println!(
        "{} rounds of {} s for each, {} connections, {} threads each; ratios of CPU are to {}",
        args.rounds, args.seconds, args.connections, args.threads, peers[0].name
    );
    for kind in [Kind::Whole, Kind::Streamed, Kind::Paced] {
        for size in &args.sizes {
            measure(&peers, upstream.address, size << 10, kind, args).await;
        }
    }
    println!("\nresident memory after {MANY} connections at 1 KiB");
    for peer in &peers {
        let length = Duration::from_secs_f64(args.seconds);
        load::run(peer.address, 1 << 10, Kind::Whole, MANY, length).await;
        println!("  {:<26} {:>7.1} MiB", peer.name, peer.resident_mib());
    }
}

async fn measure(peers: &[Peer], upstream: SocketAddr, size: usize, kind: Kind, args: &Args) {
    println!("\n{} KiB, {}", size >> 10, kind.in_words());
    println!(
        "  {:<26} {:>9} {:>7} {:>8} {:>7} {:>8} {:>7} {:>8} {:>7} {:>8} {:>7}",
        "", "CPU s/1k", "ratio", "p50 ms", "+", "p99 ms", "+", "first ms", "+", "chunk ms", "+"
    );
    let length = Duration::from_secs_f64(args.seconds);
    let mut direct = Measured::default();
    let mut all: Vec<Measured> = peers.iter().map(|_| Measured::default()).collect();
    let mut costs = Vec::new();
    for round in 0..=args.rounds {
        let bare = load::run(upstream, size, kind, args.connections, length).await;
        let mut measured = Vec::new();
        for peer in peers {
            let before = peer.cpu_seconds();
            let mut one = load::run(peer.address, size, kind, args.connections, length).await;
            one.cpu_seconds = peer.cpu_seconds() - before;
            measured.push(one);
        }
        // The first round warms up.
        if round > 0 {
            direct.add(bare);
            costs.push(measured.iter().map(Measured::cpu_per_thousand).collect());
            all.iter_mut().zip(measured).for_each(|(sum, one)| sum.add(one));
        }
    }
    println!("  {:<26} {:>9} {:>7} {}", "nobody between", "", "", direct.latencies(None));
    for (index, (peer, measured)) in peers.iter().zip(&mut all).enumerate() {
        let cpu = median(costs.iter().map(|round: &Vec<f64>| round[index]));
        let ratio = median(costs.iter().map(|round| round[index] / round[0]));
        let latencies = measured.latencies(Some(&mut direct));
        println!("  {:<26} {cpu:>9.3} {ratio:>7.1} {latencies}", peer.name);
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
