//! Keeps a gateway up with its files: at the start, when a file changes, at SIGHUP, when an operator asks.
//!
//! One task reads the files, so that two readings never overlap. While no policies are in force it waits
//! for files that can be; afterwards it takes what changed (`reload`) or tells why not. Policies, keys
//! and certificates are looked at; the config itself is read at a signal and when it is asked for.
//! Reading and testing run on a thread of their own and never hold up requests.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::active_policy::watch::{LOOK_EVERY, Watch};
use crate::active_policy::{ActivePolicy, Files, Refused};
use crate::config::Config;
use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::reload::{Reloader, Report};
use crate::server::{AskedReload, Probes, Stage};

/// Questions of operators that may wait.
const ASKED_MAX: usize = 4;

/// Watches files and listens for SIGHUP and for operators.
pub(crate) struct Follower {
    watch: Watch,
    hangups: Hangups,
    asked: mpsc::Receiver<AskedReload>,
}

/// Why files are to be read.
enum Wake {
    Changed,
    Hangup,
    Asked(AskedReload),
}

impl Follower {
    /// Begins to watch the files of a config; to be called before they are read.
    pub(crate) fn new(
        config: &Config,
    ) -> Result<(Follower, mpsc::Sender<AskedReload>), ServeError> {
        let files = Files::new(config).watched_without(None);
        let hangups = Hangups::listen().map_err(ServeError::Signals)?;
        let (ask, asked) = mpsc::channel(ASKED_MAX);
        Ok((Follower { watch: Watch::new(files), hangups, asked }, ask))
    }

    /// Puts the present or the last good policies in force.
    pub(crate) async fn open(
        &mut self,
        config: &Config,
        metrics: &Arc<Metrics>,
    ) -> Result<ActivePolicy, Arc<Refused>> {
        let (config, metrics) = (config.clone(), metrics.clone());
        let open = move || {
            let opened = ActivePolicy::open(&config, metrics);
            let watched = match &opened {
                Ok(policy) => policy.watched(),
                Err(refused) => Files::new(&config).watched_without(Some(refused)),
            };
            (opened, watched)
        };
        let (opened, watched) = tokio::task::spawn_blocking(open)
            .await
            .unwrap_or_else(|died| std::panic::resume_unwind(died.into_panic()));
        self.watch.follow(watched);
        match &opened {
            Err(error) => {
                tracing::error!(%error, "policies refused; nothing is served without any")
            }
            Ok(policy) => {
                if let Some(error) = policy.refused() {
                    let since = policy.in_force().since;
                    tracing::error!(%error, last_good_since = %since, "policies refused; the last good set serves on");
                }
            }
        }
        opened
    }

    /// Waits for files that can be put in force, and tells the probes what is wrong until then.
    pub(crate) async fn wait_for_policies(
        &mut self,
        config: &Config,
        metrics: &Arc<Metrics>,
        probes: &Probes,
    ) -> ActivePolicy {
        loop {
            let wake = self.wait_for_change().await;
            let opened = self.open(config, metrics).await;
            if let Wake::Asked(asked) = wake {
                let mut report = Report::default();
                match &opened {
                    Ok(_) => report.reloaded.push("policies"),
                    Err(refused) => report.problems.push(refused.to_string()),
                }
                let _ = asked.send(report);
            }
            match opened {
                Ok(policy) => return policy,
                Err(refused) => probes.show(Stage::Starting(Some(refused))),
            }
        }
    }

    /// Reads the files again at every change, for as long as the returned task runs.
    #[expect(
        clippy::disallowed_methods,
        reason = "it holds no request; the caller ends it after the drain"
    )]
    pub(crate) fn follow(mut self, reloader: Reloader) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            let mut reloader = Some(reloader);
            self.look_at(reloader.as_ref());
            while let Some(reloading) = reloader.take() {
                let wake = self.wait_for_change().await;
                reloader = self.reload(reloading, wake).await;
            }
        })
    }

    /// Watches all files that a gateway rests on.
    fn look_at(&mut self, reloader: Option<&Reloader>) {
        if let Some(reloader) = reloader {
            let mut files = reloader.server.gateway().policy().watched();
            files.extend(reloader.watched());
            self.watch.follow(files);
        }
    }

    /// Reads files on a thread of its own; `None` if that died, and then nothing is reloaded any more.
    async fn reload(&mut self, mut reloader: Reloader, wake: Wake) -> Option<Reloader> {
        let only_files = matches!(wake, Wake::Changed);
        let before = reloader.server.gateway().policy().current().digest().to_owned();
        let reload = move || {
            let mut report = Report::default();
            match only_files {
                true => reloader.files(&mut report),
                false => report = reloader.everything(),
            }
            (reloader, report)
        };
        let Ok((reloader, report)) = tokio::task::spawn_blocking(reload).await else {
            tracing::error!("a reload died; what was in force stays in force until a restart");
            return None;
        };
        self.look_at(Some(&reloader));
        let set = reloader.server.gateway().policy().current();
        if set.digest() != before {
            tracing::info!(digest = set.digest(), "policies activated");
        }
        tracing::info!(reloaded = report.reloaded.join(", "), "files were read again");
        for problem in &report.problems {
            tracing::error!(problem, "what is in force stays in force");
        }
        if let Wake::Asked(asked) = wake {
            let _ = asked.send(report);
        }
        Some(reloader)
    }

    /// Waits until a file has changed, or a signal or an operator asks to read them again.
    async fn wait_for_change(&mut self) -> Wake {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.hangups.next() => {
                    self.watch.reread();
                    return Wake::Hangup;
                }
                Some(asked) = self.asked.recv() => {
                    self.watch.reread();
                    return Wake::Asked(asked);
                }
                _ = looks.tick() => {}
            }
            // A look may hang on a network mount: on a thread of its own it holds up nothing.
            let mut watch = std::mem::take(&mut self.watch);
            let look = move || (watch.changed(), watch);
            let Ok((changed, watch)) = tokio::task::spawn_blocking(look).await else { continue };
            self.watch = watch;
            if changed {
                return Wake::Changed;
            }
        }
    }
}

/// SIGHUPs, where there are any.
struct Hangups {
    #[cfg(unix)]
    signals: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Hangups {
    fn listen() -> std::io::Result<Hangups> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Hangups { signals: signal(SignalKind::hangup())? })
    }

    async fn next(&mut self) {
        if self.signals.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
impl Hangups {
    fn listen() -> std::io::Result<Hangups> {
        Ok(Hangups {})
    }

    async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}
