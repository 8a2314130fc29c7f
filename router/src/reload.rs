//! Takes changed files into a gateway that goes on serving: all of the config at a signal, keys,
//! certificates and policies whenever they change.
//!
//! A config is read and checked as a whole and becomes a new `Gateway` beside the old one, with the same
//! audit log, taint, limits, engine and unchanged upstreams; then one pointer is swapped. A request that
//! has begun ends on what it began with. What cannot be used changes nothing, and says why.
//!
//! Not here: which policies may come into force (`active_policy`), when files are looked at
//! (`policy_follower`).

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, UpstreamKind};
use crate::identity::Callers;
use crate::server::{Admin, Server, TlsFront};

/// Reads the config again, with the flags laid over it.
pub type Reread = Box<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// What came of a reload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// What was read and is in force.
    pub(crate) reloaded: Vec<&'static str>,
    /// What was not, and why.
    pub(crate) problems: Vec<String>,
}

/// What a reload works on.
pub(crate) struct Reloader {
    pub(crate) config: Config,
    /// `None` if there is no file.
    pub(crate) reread: Option<Reread>,
    pub(crate) server: Arc<Server>,
    pub(crate) listeners: Vec<Arc<TlsFront>>,
    pub(crate) admin: Option<Arc<Admin>>,
}

impl Reloader {
    /// Reads everything again. With a config that cannot be used, nothing is touched.
    pub(crate) fn everything(&mut self) -> Report {
        let mut report = Report::default();
        if let Some(reread) = &self.reread {
            match reread().and_then(|config| self.take(config)) {
                Ok(()) => report.reloaded.push("config"),
                Err(problem) => {
                    report.problems.push(problem);
                    return report;
                }
            }
        }
        self.files(&mut report);
        report
    }

    /// Reads again what stands in files of its own: keys, certificates, the token, policies.
    pub(crate) fn files(&mut self, report: &mut Report) {
        let gateway = self.server.gateway();
        let mut note = |what, result: Result<(), String>| match result {
            Ok(()) => report.reloaded.push(what),
            Err(problem) => report.problems.push(problem),
        };
        let is_stale = gateway.upstreams().iter().any(|upstream| !upstream.is_current());
        if is_stale {
            note("certificates of upstreams", self.take(self.config.clone()));
        }
        note("identity", gateway.callers().reload().map_err(|e| with_causes(&e)));
        for listener in &self.listeners {
            note("certificates", listener.reload().map_err(|e| with_causes(&e)));
        }
        if let Some(admin) = &self.admin {
            note("admin", admin.reload().map_err(|e| with_causes(&e)));
        }
        let policy = gateway.policy().reload();
        note("policies", policy.map(drop).map_err(|e| with_causes(&*e)));
    }

    /// Files to look at, beside those of the policies.
    pub(crate) fn watched(&self) -> Vec<PathBuf> {
        let listen = &self.config.listen;
        let tls = [&listen.traffic_tls, &listen.admin.tls].into_iter().flatten();
        let identity = Callers::files(&self.config.identity).into_iter();
        let upstreams = self.config.upstreams.iter().flat_map(|upstream| match &upstream.kind {
            UpstreamKind::Server(server) => server.connection.files(),
            UpstreamKind::Edge(_) => Vec::new(),
        });
        let files = identity.chain(tls.flat_map(|tls| tls.files())).chain(upstreams);
        files.chain(listen.admin.token_file.as_deref()).map(PathBuf::from).collect()
    }

    fn take(&mut self, config: Config) -> Result<(), String> {
        if let Some(field) = needs_restart(&self.config, &config) {
            return Err(format!(
                "{field}: expected what the gateway was started with; a change needs a restart"
            ));
        }
        let before = self.server.gateway();
        let gateway = crate::compose(&config, before.kept(), Some((&self.config, &before)))
            .map_err(|e| with_causes(&e))?;
        gateway.limits().set(config.quotas.clone());
        self.server.replace(Arc::new(gateway), &config);
        for old in &self.config.upstreams {
            if config.upstreams.iter().all(|upstream| upstream.id != old.id) {
                before.kept().metrics.forget_state(old.id.as_str());
            }
        }
        self.config = config;
        Ok(())
    }
}

/// The first field that only a start can take.
fn needs_restart(old: &Config, new: &Config) -> Option<&'static str> {
    let edge = |config: &Config| {
        let edge = config.upstreams.iter().find(|u| matches!(u.kind, UpstreamKind::Edge(_)));
        edge.cloned()
    };
    let fixed = [
        ("mode", old.mode == new.mode),
        ("listen.traffic", old.listen.traffic == new.listen.traffic),
        ("listen.traffic.tls", old.listen.traffic_tls == new.listen.traffic_tls),
        ("listen.admin", old.listen.admin == new.listen.admin),
        ("listen.threads", old.listen.threads == new.listen.threads),
        ("listen.metrics", old.listen.metrics == new.listen.metrics),
        ("policy", old.policy == new.policy),
        ("upstreams of kind edge", edge(old) == edge(new)),
        ("limits.in_flight", old.limits.in_flight == new.limits.in_flight),
        ("shared_state", old.shared_state == new.shared_state),
        ("audit", old.audit == new.audit),
        ("taint", old.taint == new.taint),
        ("drain", old.drain == new.drain),
    ];
    fixed.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
}

/// An error and what is behind it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_only_a_start_can_take_is_named() {
        let parse = |source: &str| Config::parse("sluice.yaml", source, Path::new("/etc/sluice"));
        let old = parse("{}").expect("an empty config is one");
        for (changed, field) in [
            ("{}", None),
            ("prices: {m: {input: 1, output: 2}}", None),
            ("listen: {cors: [\"https://app.example\"]}", None),
            ("mode: trial", Some("mode")),
            ("listen: {threads: 2}", Some("listen.threads")),
            ("listen: {metrics: \"127.0.0.1:9\"}", Some("listen.metrics")),
            ("audit: {fsync: never}", Some("audit")),
        ] {
            let new = parse(changed).unwrap_or_else(|error| panic!("{changed}: {error}"));
            assert_eq!(needs_restart(&old, &new), field, "{changed}");
        }
    }
}
