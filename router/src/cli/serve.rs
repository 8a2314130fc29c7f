//! `sluice serve`: flags laid over the config, then the gateway, until a signal ends it.
//!
//! Says once on stdout what is being served; what happens afterwards goes to the log on stderr.

use std::fmt;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use sluice::active_policy::origin::Origin;
use sluice::config::{Config, UpstreamKind};
use sluice::upstream::Upstream;
use sluice::{Reread, ServeError, Started};
use sluice_policies::Mode;

use tracing_subscriber::EnvFilter;

use super::{Failure, OrUsage, Outcome, Status, locate, out, policy};

/// Flags of `sluice serve`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The gateway's sluice.yaml; default: trial mode with the embedded model and no cloud
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model of the edge, over the config's; default: SLUICE_MODEL, else the embedded demo model
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The site.yaml, or its folder, to decide with, over the config's; default: the policies in the binary
    #[arg(long, value_name = "FILE")]
    policies: Option<PathBuf>,
    /// Where clients connect, over the config's; default: 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    pub(super) listen: Option<SocketAddr>,
    /// Where metrics and probes connect, over the config's; default: 127.0.0.1:9464
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Where operators connect, over the config's; default: 127.0.0.1:8081
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// How log lines on stderr look; SLUICE_LOG chooses which: `info` (default), `sluice=debug`
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For a person
    Text,
    /// One JSON object a line, for a collector
    Json,
}

/// What the line says that is printed when requests are taken; scripts wait for it.
pub(super) const READY: &str = "Try it:";

/// Environment variable that chooses which events are logged.
const LOG_VARIABLE: &str = "SLUICE_LOG";

/// Serves until a signal ends it.
pub(super) fn run(args: &Args) -> Outcome {
    let config = args.config()?;
    start_log(args.log_format)?;
    let about = About::new(&config);
    let announce = |started: &Started| {
        // A closed stdout is no reason not to serve.
        let _ = out::piece(&Announcement { about: &about, started }.to_string());
    };
    // Requests are served by threads of their own: this one accepts, answers operators and follows files.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?
        .block_on(sluice::serve(config, args.reread(), announce))
        .map_err(failure)?;
    Ok(Status::Done)
}

/// Files and flags are the person's to mend; ports and disks are not.
fn failure(error: ServeError) -> Failure {
    match error {
        ServeError::Policy(_)
        | ServeError::Model { .. }
        | ServeError::NoModel
        | ServeError::Identity(_)
        | ServeError::SharedState(_)
        | ServeError::Tls(_)
        | ServeError::Admin(_)
        | ServeError::Upstream(_) => Failure::Usage(error.into()),
        ServeError::Audit(_)
        | ServeError::Taint(_)
        | ServeError::NoRandomness(_)
        | ServeError::Bind { .. }
        | ServeError::Threads(_)
        | ServeError::Signals(_) => Failure::Failed(error.into()),
    }
}

impl Args {
    /// Reads the config again while it is served; without a file there is nothing to read.
    fn reread(&self) -> Option<Reread> {
        self.config.as_ref()?;
        let args = self.clone();
        Some(Box::new(move || {
            args.config().map_err(|failure| match failure {
                Failure::Usage(error) | Failure::Failed(error) => format!("{error:#}"),
            })
        }))
    }

    /// The config with the flags laid over it.
    fn config(&self) -> Result<Config, Failure> {
        let mut config = match &self.config {
            Some(path) => Config::load(path).or_usage()?,
            None => Config::trial(),
        };
        if let Some(address) = self.listen {
            config.listen.traffic = address;
        }
        if let Some(address) = self.metrics {
            config.listen.metrics = address;
        }
        if let Some(address) = self.admin {
            config.listen.admin.address = address;
            config.listen.admin.is_named = true;
            config
                .listen
                .admin
                .check()
                .map_err(|what| anyhow!("listen.admin: {what}"))
                .or_usage()?;
        }
        if let Some(site) = &self.policies {
            config.policy.site = Some(policy::site_file(site));
            config.policy.bundle = None;
        }
        locate_models(&mut config, self.model.as_deref())?;
        Ok(config)
    }
}

/// Gives every edge upstream a model.
fn locate_models(config: &mut Config, flag: Option<&Path>) -> Result<(), Failure> {
    for upstream in &mut config.upstreams {
        if let UpstreamKind::Edge(edge) = &mut upstream.kind {
            edge.model = Some(locate::model(flag, edge.model.as_deref()).or_usage()?);
        }
    }
    Ok(())
}

/// What the announcement says that is known before the start.
struct About {
    mode: Mode,
    policies: String,
}

impl About {
    fn new(config: &Config) -> Self {
        let origin = Origin::of(&config.policy);
        let path = origin.path().map(|path| path.display().to_string());
        About { mode: config.mode, policies: path.unwrap_or_else(|| "in the binary".to_owned()) }
    }
}

/// What is being served, and how to try it.
struct Announcement<'a> {
    about: &'a About,
    started: &'a Started,
}

impl fmt::Display for Announcement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Announcement { about, started } = self;
        let mode = match about.mode {
            Mode::Trial => "trial mode: a demo model may answer what must stay private",
            Mode::Production => "production mode",
        };
        writeln!(f, "sluice {}, {mode}\n", env!("CARGO_PKG_VERSION"))?;
        for upstream in started.gateway.upstreams() {
            writeln!(f, "  upstream  {}", upstream_words(upstream))?;
        }
        let policy = started.gateway.policy().current();
        let digest = policy.digest();
        writeln!(f, "  policies  {}, digest {digest:.12}", about.policies)?;
        match started.gateway.audit().path() {
            Some(path) => writeln!(f, "  audit     {}", path.display())?,
            None => writeln!(f, "  audit     off: nothing is recorded (audit.off in the config)")?,
        }
        let scheme = if started.traffic_by_tls { "https" } else { "http" };
        writeln!(f, "  traffic   {scheme}://{}", started.traffic)?;
        if let Some(admin) = started.admin {
            writeln!(f, "  admin     {admin}")?;
        }
        writeln!(f, "  metrics   http://{}/metrics", started.metrics)?;
        writeln!(f, "\n{READY}")?;
        writeln!(f, "  curl -i {scheme}://{}/v1/chat/completions \\", reachable(started.traffic))?;
        writeln!(f, "    -H 'content-type: application/json' \\")?;
        let edge = started.gateway.upstreams().iter().find_map(|upstream| match upstream {
            Upstream::Edge(edge) => Some(edge.engine().info().name.as_str()),
            Upstream::Server(_) => None,
        });
        let messages = r#"[{"role": "user", "content": "Who are you?"}]"#;
        let model = edge.unwrap_or("auto");
        writeln!(f, r#"    -d '{{"model": "{model}", "messages": {messages}}}'"#)
    }
}

fn upstream_words(upstream: &Upstream) -> String {
    match upstream {
        Upstream::Edge(edge) => {
            let model = edge.engine().info();
            let millions = model.parameters as f64 / 1e6;
            format!(
                "{}: {} in this process ({}, {millions:.1} M parameters, {}, {} quality)",
                edge.id(),
                model.name,
                model.architecture,
                model.quantisation,
                model.quality
            )
        }
        Upstream::Server(server) => format!("{}: {}", server.id(), upstream.address()),
    }
}

/// An address that a client on this machine can connect to: `0.0.0.0` is only for listening.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Sends events to stderr, so that stdout stays for what was asked.
fn start_log(format: LogFormat) -> Result<(), Failure> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(chosen) => EnvFilter::try_new(chosen)
            .with_context(|| format!("failed to read {LOG_VARIABLE}"))
            .or_usage()?,
        Err(_) => EnvFilter::new("info"),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_try_names_an_address_that_can_be_reached() {
        let cases = [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:1", "[::1]:1"),
            ("10.1.2.3:8443", "10.1.2.3:8443"),
        ];
        for (listen, expected) in cases {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn a_busy_port_is_a_failure_and_a_missing_model_is_wrong_usage() {
        let busy = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let address = "127.0.0.1:8080".parse().unwrap();
        let bind = failure(ServeError::Bind { address, source: busy });
        assert!(matches!(bind, Failure::Failed(_)));
        assert!(matches!(failure(ServeError::NoModel), Failure::Usage(_)));
    }
}
