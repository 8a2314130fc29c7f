//! Keeps the policies in force up with their files: at the start, when a file changes, at SIGHUP.
//!
//! One task reads the files, so that two readings never overlap. While nothing is in force it waits for
//! files that can be; afterwards it replaces the set in force or tells why not. Reading and testing run
//! on a thread of their own and never hold up requests.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};

use crate::active_policy::watch::{LOOK_EVERY, Watch};
use crate::active_policy::{ActivePolicy, Files, Refused};
use crate::config::Config;
use crate::error::ServeError;
use crate::gateway::Gateway;
use crate::metrics::Metrics;
use crate::server::{Probes, Stage};

/// Watches policy files and listens for SIGHUP.
pub(crate) struct Follower {
    watch: Watch,
    hangups: Hangups,
}

impl Follower {
    /// Begins to watch the files of a config; to be called before they are read.
    pub(crate) fn new(config: &Config) -> Result<Follower, ServeError> {
        let files = Files::new(config).watched_without(None);
        let hangups = Hangups::listen().map_err(ServeError::Signals)?;
        Ok(Follower { watch: Watch::new(files), hangups })
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
            self.wait_for_change().await;
            match self.open(config, metrics).await {
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
    pub(crate) fn follow(mut self, gateway: Arc<Gateway>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                self.wait_for_change().await;
                self.reload(gateway.clone()).await;
            }
        })
    }

    async fn reload(&mut self, gateway: Arc<Gateway>) {
        let before = gateway.policy().current().digest().to_owned();
        let reload = move || (gateway.policy().reload(), gateway.policy().watched());
        match tokio::task::spawn_blocking(reload).await {
            Ok((reloaded, watched)) => {
                self.watch.follow(watched);
                match reloaded {
                    Ok(set) if set.digest() == before => tracing::info!("policies unchanged"),
                    Ok(set) => tracing::info!(digest = set.digest(), "policies activated"),
                    Err(error) => {
                        tracing::error!(%error, "policies refused; the last good set stays in force");
                    }
                }
            }
            Err(_) => tracing::error!("policy reload died; the last good set stays in force"),
        }
    }

    /// Waits until a file has changed or a signal asks to read them again.
    async fn wait_for_change(&mut self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.hangups.next() => {
                    self.watch.reread();
                    return;
                }
                _ = looks.tick() => {}
            }
            // A look may hang on a network mount: on a thread of its own it holds up nothing.
            let mut watch = std::mem::take(&mut self.watch);
            let look = move || (watch.changed(), watch);
            let Ok((changed, watch)) = tokio::task::spawn_blocking(look).await else { continue };
            self.watch = watch;
            if changed {
                return;
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
