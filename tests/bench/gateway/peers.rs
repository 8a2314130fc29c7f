//! The processes under comparison: how they are started, what the kernel says of them.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// A running process; dropped, it ends.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
    _folder: Option<TempDir>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx's workers end with their master only if it is asked, not killed.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

impl Peer {
    /// CPU of the process and its workers so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        // Linux counts in hundredths, whatever the kernel's own tick.
        self.family().iter().filter_map(|&pid| ticks(pid)).sum::<u64>() as f64 / 100.0
    }

    pub(crate) fn resident_mib(&self) -> f64 {
        let of = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches(" kB").parse::<f64>().ok()
        };
        self.family().iter().filter_map(of).sum::<f64>() / 1024.0
    }

    fn family(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(id).chain(children).collect()
    }
}

/// User and system time of a process, in the kernel's hundredths of a second.
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces; what follows its bracket does not.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Starts this program in another role; it says where it listens.
pub(crate) fn start_self(words: &[&str]) -> Peer {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut child = command.args(words).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().parse().unwrap();
    Peer { name: "hyper, bare", address, child, _folder: None }
}

/// All peers before an upstream; the first is what ratios are to.
///
/// Each serves with so many threads (nginx: processes).
pub(crate) fn start_all(upstream: SocketAddr, threads: usize) -> Vec<Peer> {
    let mut peers: Vec<Peer> = nginx(upstream, threads).into_iter().collect();
    peers.push(start_self(&["proxy", &upstream.to_string(), &threads.to_string()]));
    let gateway = |name, detection, audit| gateway(upstream, threads, name, detection, audit);
    peers.push(gateway("sluice, all packs, audit", Detection::All, Audit::Kept));
    peers.push(gateway("sluice, no packs, audit", Detection::None, Audit::Kept));
    peers.push(gateway("sluice, no packs, no audit", Detection::None, Audit::Off));
    peers
}

fn nginx(upstream: SocketAddr, threads: usize) -> Option<Peer> {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let at = folder.path().display();
    let config = format!(
        "worker_processes {threads}; daemon off; pid {at}/pid; error_log {at}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path {at}; proxy_temp_path {at};\n\
         fastcgi_temp_path {at}; uwsgi_temp_path {at}; scgi_temp_path {at};\n\
         client_max_body_size 10m; client_body_buffer_size 1m; keepalive_requests 1000000;\n\
         upstream u {{ server {upstream}; keepalive 256; keepalive_requests 1000000; }}\n\
         server {{ listen {address}; location / {{ proxy_pass http://u; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_buffering off; }} }} }}\n"
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let child = Command::new("nginx").arg("-c").arg(file).arg("-e").arg("stderr").spawn().ok()?;
    wait_for(address);
    Some(Peer { name: "nginx", address, child, _folder: Some(folder) })
}

/// What the gateway looks for.
enum Detection {
    All,
    None,
}

/// Whether the gateway keeps a log.
enum Audit {
    Kept,
    Off,
}

fn gateway(
    upstream: SocketAddr,
    threads: usize,
    name: &'static str,
    detection: Detection,
    audit: Audit,
) -> Peer {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let site = include_str!("../../../policies/site.yaml");
    let tests = site.find("# Where requests go").unwrap();
    let site = &site[..tests];
    let site = match (&detection, &audit) {
        (Detection::All, _) => site.to_owned(),
        (Detection::None, Audit::Kept) => site.replace("packs: [default]", "packs: []"),
        // Nor does it look for what nobody can read.
        (Detection::None, Audit::Off) => site
            .replace("packs: [default]", "packs: []")
            .replace("image: private", "image: internal")
            .replace("audio: private", "audio: internal")
            .replace("encrypted_file: private", "encrypted_file: internal"),
    };
    std::fs::write(folder.path().join("site.yaml"), site).unwrap();
    let audit = match audit {
        Audit::Kept => "{path: audit, fsync: never}",
        Audit::Off => "{off: true}",
    };
    let config = format!(
        "mode: trial\nlisten: {{traffic: \"{address}\", metrics: \"{}\", threads: {threads}}}\npolicy: {{site: site.yaml, last_good: {{path: policy}}}}\n\
         audit: {audit}\ntaint: {{path: taint}}\n\
         upstreams:\n  cloud: {{kind: openai, base_url: \"http://{upstream}/v1\"}}\n",
        free_address()
    );
    let file = folder.path().join("sluice.yaml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(binary());
    command.arg("serve").arg("--config").arg(&file).stdout(Stdio::null());
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    wait_for(address);
    Peer { name, address, child, _folder: Some(folder) }
}

fn binary() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/sluice");
    std::env::var_os("SLUICE_BINARY").map_or_else(built, PathBuf::from)
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn wait_for(address: SocketAddr) {
    for _ in 0..600 {
        if TcpStream::connect(address).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("nothing listens on {address}");
}
