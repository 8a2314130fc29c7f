//! The duties of one attempt: its outcome line, its breaker, its metrics, the scan of the reply and its
//! fingerprint, what limits are told of it.
//!
//! A [`Meter`] is closed once; dropped unclosed it means that the client left, whether before the answer
//! or in the middle of its stream.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::attempt::Outrun;
use crate::audit::{Ending, Outcome, Recorded};
use crate::breaker::Pass;
use crate::identity::Caller;
use crate::limit::Allowance;
use crate::metrics::Metrics;
use crate::reply_mask::Mask;
use crate::reply_scan::{Channel, ReplyScan, ReplyText};
use crate::taint::{ReplyPrint, Saved, TaintStore};
use crate::upstream::{UpstreamError, Usage};

/// Why a reply was cut by its scan, in audit and metrics.
pub(super) const REPLY_FINDING: &str = "reply_finding";

/// A reply under watch: its fingerprint, and the scan of what it holds.
pub(super) struct Watched {
    pub(super) print: ReplyPrint,
    /// The conversation held never-cloud text before.
    pub(super) never_cloud: bool,
    /// `None` where there is nothing to find out: the conversation is never-cloud already, or the policies
    /// mind nothing that a text can hold.
    pub(super) scan: Option<ReplyScan>,
    pub(super) caller: Caller,
    pub(super) session: Option<String>,
}

impl Watched {
    fn feed(&mut self, texts: &[ReplyText]) {
        for piece in texts {
            match piece.channel {
                Channel::Content(choice) => self.print.feed(choice, &piece.text),
                Channel::CallId(..) => self.print.call(&piece.text),
                Channel::Aside(..) | Channel::Arguments(..) => {}
            }
            if let Some(scan) = &mut self.scan {
                scan.feed(piece);
            }
        }
    }

    /// Remembers the reply of a conversation that is never-cloud or has just become so; `true` in
    /// the latter case.
    fn conclude(self, taint: &TaintStore) -> (bool, Option<Saved>) {
        let Watched { print, never_cloud, scan, caller, session } = self;
        if scan.is_some_and(|mut scan| scan.finish()) {
            let session = session.as_deref().map(|session| (&caller, session));
            return (true, Some(taint.remember_reply(print, session)));
        }
        (false, never_cloud.then(|| taint.remember_reply(print, None)))
    }
}

/// The duties of one attempt.
pub(super) struct Meter {
    pub(super) metrics: Arc<Metrics>,
    pub(super) taint: Arc<TaintStore>,
    pub(super) recorded: Option<Recorded>,
    pub(super) pass: Option<Pass>,
    pub(super) reply: Option<Watched>,
    pub(super) allowance: Option<Arc<Allowance>>,
    /// The model as its upstream knows it.
    pub(super) model: String,
    /// The edge costs nothing.
    pub(super) is_priced: bool,
    pub(super) upstream: String,
    pub(super) route: &'static str,
    pub(super) request_started: Instant,
    pub(super) started: Instant,
    pub(super) status: Option<u16>,
    pub(super) bytes_received: u64,
    pub(super) told: Told,
    pub(super) outrun: Outrun,
    pub(super) armed: bool,
}

/// An attempt that is closed; what its reply taints may still be on its way to disk.
#[must_use = "the end of a reply waits for what it taints"]
pub(super) struct Ended(Option<Saved>);

impl Ended {
    pub(super) async fn wait(self) {
        if let Some(saved) = self.0 {
            saved.wait().await;
        }
    }
}

/// How much was asked and said, for an estimate of tokens where an upstream could not count to the end.
pub(super) struct Told {
    pub(super) asked_bytes: usize,
    pub(super) said_bytes: usize,
}

/// Bytes of a token, as a rule of thumb for estimates.
const TOKEN_BYTES: usize = 4;

impl Told {
    /// What is missing in an upstream's count, estimated; and whether anything was.
    fn completed(&self, usage: Usage) -> (Usage, bool) {
        let tokens = |bytes: usize| bytes.div_ceil(TOKEN_BYTES) as u64;
        let whole = Usage {
            prompt_tokens: usage.prompt_tokens.or(Some(tokens(self.asked_bytes))),
            completion_tokens: usage.completion_tokens.or(Some(tokens(self.said_bytes))),
            ..usage
        };
        (whole, whole != usage)
    }
}

impl Meter {
    /// A piece of a stream.
    pub(super) fn data(&mut self, bytes: &Bytes, texts: &[ReplyText]) {
        if self.bytes_received == 0 {
            if self.pass.as_mut().is_some_and(Pass::begins_to_answer) {
                self.tell_that_it_answers();
            }
            self.metrics.first_token(self.route, self.request_started.elapsed());
        }
        self.count(bytes, texts);
    }

    pub(super) fn count(&mut self, bytes: &Bytes, texts: &[ReplyText]) {
        self.bytes_received += bytes.len() as u64;
        let said = texts.iter().filter(|piece| piece.is_said());
        self.told.said_bytes += said.map(|piece| piece.text.len()).sum::<usize>();
        if let Some(reply) = &mut self.reply {
            reply.feed(texts);
        }
    }

    /// What takes findings out of the reply, if the site wants that.
    pub(super) fn mask(&self) -> Option<Mask> {
        self.reply.as_ref().and_then(|reply| reply.scan.as_ref()).and_then(ReplyScan::mask)
    }

    fn scan(&mut self) -> Option<&mut ReplyScan> {
        self.reply.as_mut()?.scan.as_mut()
    }

    /// Whether a finding would cut the reply.
    pub(super) fn cuts(&self) -> bool {
        self.reply.as_ref().and_then(|r| r.scan.as_ref()).is_some_and(ReplyScan::cuts)
    }

    /// Whether something was found so far.
    pub(super) fn found(&mut self) -> bool {
        self.scan().is_some_and(|scan| scan.found())
    }

    /// Whether the reply, now that all of it is here, must not go out.
    pub(super) fn must_cut_at_end(&mut self) -> bool {
        self.cuts() && self.scan().is_some_and(ReplyScan::finish)
    }

    /// Whether a reply that cannot be edited holds what the site lets nobody see.
    pub(super) fn must_withhold(&mut self) -> bool {
        (self.cuts() || self.mask().is_some()) && self.scan().is_some_and(ReplyScan::finish)
    }

    /// The reply is over, whole or cut; its end may be passed on once what it taints is kept.
    pub(super) fn end(mut self, cut: Option<&'static str>, usage: Usage) -> Ended {
        match cut {
            None => {
                self.succeed();
                self.close(Ending::Complete, None, usage)
            }
            Some(why) => {
                match why {
                    // The upstream did its part: what it said was withheld.
                    REPLY_FINDING => self.succeed(),
                    _ => self.blame(),
                }
                self.close(Ending::Cut, Some(why), usage)
            }
        }
    }

    pub(super) fn fail(mut self, error: &UpstreamError) {
        self.status = error.status();
        if error.counts_against() {
            self.blame();
            tracing::warn!(
                upstream = self.upstream,
                error = error.code(),
                cause = error.root_cause(),
                status = self.status,
                "upstream failed"
            );
        }
        let _ = self.close(Ending::Failed, Some(error.code()), Usage::default());
    }

    fn succeed(&mut self) {
        if self.pass.take().is_some_and(Pass::succeed) {
            self.tell_that_it_answers();
        }
    }

    fn tell_that_it_answers(&self) {
        tracing::info!(upstream = self.upstream, "upstream answers again");
    }

    fn blame(&mut self) {
        if self.pass.take().is_some_and(Pass::fail) {
            tracing::warn!(upstream = self.upstream, "upstream is left alone for a while");
        }
    }

    pub(super) fn close(
        &mut self,
        ending: Ending,
        error: Option<&'static str>,
        usage: Usage,
    ) -> Ended {
        if !std::mem::take(&mut self.armed) {
            return Ended(None);
        }
        // What was sent and said is accounted for although nobody counted it to the end.
        let (usage, usage_estimated) = match ending {
            Ending::Complete | Ending::Failed => (usage, false),
            Ending::Cut | Ending::ClientLeft | Ending::Outrun => self.told.completed(usage),
        };
        let concluded = self.reply.take().map(|reply| reply.conclude(&self.taint));
        let (reply_finding, saved) = concluded.unwrap_or_default();
        if reply_finding {
            self.metrics.reply_finding(&self.upstream);
        }
        self.metrics.attempt(&self.upstream, ending_word(ending));
        self.metrics.tokens(&self.upstream, usage.prompt_tokens, usage.completion_tokens);
        if !matches!(ending, Ending::Failed | Ending::Outrun) {
            self.metrics.reply_over(self.route, self.request_started.elapsed());
        }
        if ending != Ending::Failed
            && let Some(allowance) = self.allowance.take()
        {
            // What an upstream turned away costs nothing, unless it says so.
            let is_turned_away = self.status.is_some_and(|status| status >= 400);
            let or_nothing = |tokens: Option<u64>| tokens.or(is_turned_away.then_some(0));
            let prompt = or_nothing(usage.prompt_tokens);
            let completion = or_nothing(usage.completion_tokens);
            let said = self.told.said_bytes as u64;
            allowance.spend(&self.model, self.is_priced, prompt, completion, said);
        }
        if let Some(recorded) = self.recorded.take() {
            recorded.close(&Outcome {
                ending,
                status: self.status,
                error,
                bytes_received: self.bytes_received,
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                usage_estimated,
                reply_finding,
                took: self.started.elapsed(),
            });
        }
        Ended(saved)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.armed && self.outrun.is_set() {
            if self.outrun.counts_against() {
                self.blame();
            }
            let _ = self.close(Ending::Outrun, None, Usage::default());
        } else if self.armed {
            self.metrics.client_left();
            let _ = self.close(Ending::ClientLeft, None, Usage::default());
        }
    }
}

fn ending_word(ending: Ending) -> &'static str {
    match ending {
        Ending::Complete => "complete",
        Ending::Cut => "cut",
        Ending::Failed => "failed",
        Ending::ClientLeft => "client_left",
        Ending::Outrun => "outrun",
    }
}
