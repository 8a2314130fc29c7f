//! One reply in the making: what is still to be read, what was said, and where it goes.
//!
//! A generation reads its prompt in shares that the scheduler deals out, then takes one token per
//! round. It owns everything that belongs to one reply, so that dropping it ends the reply and
//! nothing of it stays behind.
//!
//! Invariants: events are texts, then exactly one end; there is always room left in the channel for
//! that end, because a step sends at most [`EVENTS_PER_STEP_MAX`] events and runs only when that
//! many fit; the end token is neither shown nor counted. Not here: who runs when (`scheduler`).

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::mpsc;

use crate::chat::{Flow, Markup, Phase, ReplyReader};
use crate::checkpoint::{Checkpoints, Coming, Kept, Kind, Mark, Point, Reuse, State};
use crate::engine::{Delta, ExpertUse, Finish, FinishReason, StreamEvent};
use crate::error::EngineError;
use crate::grammar::Grammars;
use crate::sampler::{Sampler, Scratch};
use crate::tokenizer::{TokenId, Tokenizer};

use super::form::Form;
use super::scheduler::Step;
use super::scores::Scores;

/// Events that may wait for a slow reader. Beyond it the generation stands still.
pub(super) const EVENTS_MAX: usize = 64;
/// A last piece and the end.
const EVENTS_PER_STEP_MAX: usize = 2;

/// A generation that waits for its turn.
pub(super) struct Job {
    pub(super) prompt: Arc<[TokenId]>,
    /// At least 1; prompt and reply together fit in the context.
    pub(super) tokens_max: usize,
    pub(super) sampler: Sampler,
    pub(super) reader: ReplyReader,
    pub(super) form: Option<Form>,
    pub(super) scores: Option<Scores>,
    pub(super) events: mpsc::Sender<StreamEvent>,
    pub(super) submitted: Instant,
    /// When its first token is wanted.
    pub(super) due: Instant,
    /// Other replies to the same prompt, which is read once for all.
    pub(super) siblings: Vec<Job>,
    /// Whose kept states it may use.
    pub(super) reuse: Option<Reuse>,
    /// Where its prompt's states are kept, in order.
    pub(super) points: Vec<Point>,
}

impl Job {
    /// Whether anybody still reads.
    pub(super) fn is_wanted(&self) -> bool {
        !self.events.is_closed() || self.siblings.iter().any(Job::is_wanted)
    }

    /// Replies in all.
    pub(super) fn replies(&self) -> usize {
        1 + self.siblings.len()
    }

    /// Ends it before it ran or in between.
    pub(super) fn fail(self, error: Arc<EngineError>) {
        self.siblings.into_iter().for_each(|sibling| sibling.fail(error.clone()));
        send(&self.events, StreamEvent::Failed(error));
    }
}

/// What tokens mean: the same for all generations of a model.
pub(super) struct Vocabulary {
    pub(super) tokenizer: Tokenizer,
    /// Tokens that end a reply.
    pub(super) ends: Vec<TokenId>,
    /// The marks of its replies.
    pub(super) markup: Markup,
    /// Made when the first form is asked for.
    pub(super) grammars: OnceLock<Arc<Grammars>>,
}

impl Vocabulary {
    pub(super) fn new(tokenizer: Tokenizer, ends: Vec<TokenId>, markup: Markup) -> Vocabulary {
        Vocabulary { tokenizer, ends, markup, grammars: OnceLock::new() }
    }

    /// The grammars of this vocabulary. Takes about 0.1 s the first time for 250,000 tokens.
    pub(super) fn grammars(&self) -> Result<&Arc<Grammars>, EngineError> {
        if self.grammars.get().is_none() {
            let grammars = Grammars::new(&self.tokenizer, &self.ends)?;
            // Another thread may have been faster; its grammars are the same.
            let _ = self.grammars.set(Arc::new(grammars));
        }
        Ok(self.grammars.get().expect("it was set above"))
    }
}

/// A generation that runs. `S` is the model's state of one conversation.
pub(super) struct Generation<S> {
    job: Job,
    sequence: S,
    /// Of the last token that was computed, f32 `[vocabulary]`.
    logits: Vec<f32>,
    /// Prompt tokens that the model has read.
    prompt_read: usize,
    /// The token chosen last, which the model has not seen yet.
    last: TokenId,
    completion_tokens: usize,
    /// Tokens to compute in this round; 0: not its turn.
    share: usize,
    /// Where this round's states are kept.
    marks: Vec<Mark<S>>,
    /// Tokens of the reply that the model has seen, or sees next.
    said: Vec<TokenId>,
    /// Prompt tokens that a kept state had read.
    cached_tokens: usize,
    /// A kept state that is on its way.
    coming: Option<Coming<S>>,
    /// Its number among all generations.
    turn: u64,
    /// The last event, once it is known and until it is sent.
    end: Option<StreamEvent>,
    times: Times,
    experts: ExpertUse,
}

struct Times {
    started: Instant,
    first_token: Instant,
    last_token: Instant,
    /// Since when its reader has taken nothing and the channel is full.
    stalled: Option<Instant>,
}

impl<S: State> Generation<S> {
    /// Starts a job on a sequence that has read nothing, or the beginning of its prompt.
    pub(super) fn start(job: Job, sequence: S, turn: u64, now: Instant) -> Generation<S> {
        let times = Times { started: now, first_token: now, last_token: now, stalled: None };
        let cached_tokens = sequence.position();
        Generation {
            job,
            sequence,
            logits: Vec::new(),
            prompt_read: cached_tokens,
            last: 0,
            completion_tokens: 0,
            share: 0,
            marks: Vec::new(),
            said: Vec::new(),
            cached_tokens,
            coming: None,
            turn,
            end: None,
            times,
            experts: ExpertUse::default(),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.job.is_wanted()
    }

    /// Replies that it holds or will hold.
    pub(super) fn replies(&self) -> usize {
        self.job.replies()
    }

    /// Prompt tokens that the model has not read; 0: it is decoding.
    pub(super) fn prompt_left(&self) -> usize {
        self.job.prompt.len() - self.prompt_read
    }

    /// Looks whether the events of a step would fit, and keeps since when they do not.
    pub(super) fn note_stall(&mut self, now: Instant) {
        let fits = self.job.events.capacity() >= EVENTS_PER_STEP_MAX;
        self.times.stalled = if fits { None } else { self.times.stalled.or(Some(now)) };
    }

    /// Since when its reader has taken nothing.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.times.stalled
    }

    /// Has it wait for a kept state.
    pub(super) fn expect(&mut self, coming: Coming<S>) {
        self.coming = Some(coming);
    }

    /// Whether it waits for a kept state.
    pub(super) fn is_waiting(&self) -> bool {
        self.coming.is_some()
    }

    /// Goes on from the state that it waits for, if that has come; without it from nothing.
    pub(super) fn look_for_state(&mut self, checkpoints: &mut Checkpoints<S>) {
        let Some(state) = self.coming.as_ref().and_then(Coming::poll) else { return };
        self.coming = None;
        checkpoints.count_arrival(state.as_ref());
        if let Some(state) = state {
            self.cached_tokens = state.position();
            self.prompt_read = self.cached_tokens;
            self.sequence = state;
        }
    }

    /// Says where states of this round are wanted, as far as there is room for copies.
    pub(super) fn set_marks(&mut self, checkpoints: &mut Checkpoints<S>) {
        self.marks.clear();
        let read = self.prompt_read..self.prompt_read + self.share.min(self.prompt_left());
        for point in self.job.points.iter().filter(|p| read.start < p.at && p.at <= read.end) {
            if checkpoints.reserve(self.sequence.own_bytes()) {
                self.marks.push(Mark { at: point.at - read.start, taken: None });
            }
        }
    }

    /// Hands over the states of this round, which has gone well.
    pub(super) fn keep_marks(&mut self, checkpoints: &mut Checkpoints<S>, now: Instant) {
        let Some(reuse) = &self.job.reuse else { return };
        for state in self.marks.drain(..).filter_map(|mark| mark.taken) {
            let point = self.job.points.iter().find(|point| point.at == state.position());
            let kind = point.map_or(Kind::Between, |point| point.kind);
            let tokens = self.job.prompt.clone();
            checkpoints.keep(Kept { reuse, tokens, kind, turn: self.turn, state }, now);
        }
    }

    /// Hands over a copy of the state if the reply has become that much longer.
    pub(super) fn keep_between(&self, checkpoints: &mut Checkpoints<S>, now: Instant) {
        let (Some(reuse), Some(every)) = (&self.job.reuse, checkpoints.every_tokens()) else {
            return;
        };
        let position = self.sequence.position();
        let said = position.saturating_sub(self.job.prompt.len());
        if said == 0 || !position.is_multiple_of(every) {
            return;
        }
        if checkpoints.reserve(self.sequence.own_bytes()) {
            let tokens = [&*self.job.prompt, &self.said[..said]].concat().into();
            let (kind, turn, state) = (Kind::Between, self.turn, self.sequence.clone());
            checkpoints.end_reservations();
            checkpoints.keep(Kept { reuse, tokens, kind, turn, state }, now);
        }
    }

    /// Hands over the state where it ends, or where its reader left it.
    pub(super) fn keep_end(self, checkpoints: &mut Checkpoints<S>, now: Instant) {
        let Some(reuse) = &self.job.reuse else { return };
        // The token chosen last was not read.
        let tokens = match self.sequence.position().checked_sub(self.job.prompt.len()) {
            Some(said) if said > 0 => [&*self.job.prompt, &self.said[..said]].concat().into(),
            _ => self.job.prompt.clone(),
        };
        let (kind, turn, state) = (Kind::Reply, self.turn, self.sequence);
        checkpoints.keep(Kept { reuse, tokens, kind, turn, state }, now);
    }

    /// Deals it its tokens of this round.
    pub(super) fn set_share(&mut self, tokens: usize) {
        self.share = tokens;
    }

    pub(super) fn share(&self) -> usize {
        self.share
    }

    /// Counts what a round that it took part in took of the experts.
    pub(super) fn note_experts(&mut self, used: &ExpertUse) {
        self.experts.add(used);
    }

    /// What the model shall compute for it in this round.
    pub(super) fn step(&mut self) -> Option<Step<'_, S>> {
        if self.share == 0 {
            return None;
        }
        let end = (self.prompt_read + self.share).min(self.job.prompt.len());
        let decoding = self.prompt_read == self.job.prompt.len();
        let tokens = match decoding {
            true => std::slice::from_ref(&self.last),
            false => &self.job.prompt[self.prompt_read..end],
        };
        // Only the last prompt token's logits say anything about the reply.
        let logits = (end == self.job.prompt.len()).then_some(&mut self.logits);
        Some(Step { sequence: &mut self.sequence, tokens, logits, marks: &mut self.marks })
    }

    /// Once the prompt is read: the other replies to it, each on a copy of what was read.
    pub(super) fn take_siblings(&mut self) -> Vec<Generation<S>> {
        if self.share == 0 || self.prompt_left() > self.share {
            return Vec::new();
        }
        let siblings = std::mem::take(&mut self.job.siblings);
        let wanted = siblings.into_iter().filter(Job::is_wanted);
        let begin = |job: Job| {
            let (sequence, started) = (self.sequence.clone(), self.times.started);
            let mut sibling = Generation::start(job, sequence, self.turn, started);
            sibling.logits.clone_from(&self.logits);
            sibling.prompt_read = self.job.prompt.len();
            sibling.cached_tokens = self.cached_tokens;
            sibling.share = 1;
            sibling.experts = self.experts;
            sibling
        };
        wanted.map(begin).collect()
    }

    /// Takes the results of its step; true when the reply has ended.
    pub(super) fn advance(
        &mut self,
        vocabulary: &Vocabulary,
        scratch: &mut Scratch,
        now: Instant,
    ) -> bool {
        let share = std::mem::take(&mut self.share);
        self.prompt_read += share.min(self.prompt_left());
        if share == 0 || self.prompt_left() > 0 {
            return false;
        }
        if self.completion_tokens == 0 {
            self.times.first_token = now;
        }
        self.times.last_token = now;
        self.end = match self.choose(vocabulary, scratch) {
            Ok((token, over)) => {
                self.last = token;
                self.said.push(token);
                self.say(token, over, vocabulary).map(|reason| self.finished(reason))
            }
            Err(error) => Some(StreamEvent::Failed(Arc::new(error))),
        };
        self.end.is_some()
    }

    /// Chooses the next token; with it, whether the reply's form is complete.
    fn choose(
        &mut self,
        vocabulary: &Vocabulary,
        scratch: &mut Scratch,
    ) -> Result<(TokenId, bool), EngineError> {
        let left = self.job.tokens_max - self.completion_tokens;
        let Job { sampler, reader, form, scores, .. } = &mut self.job;
        if let Some(scores) = scores {
            scores.look(&self.logits, scratch);
        }
        let Some(form) = form else {
            let token = sampler.choose(&mut self.logits, None, scratch);
            let token = token.ok_or(EngineError::NoToken)?;
            sampler.count(token);
            return Ok((token, false));
        };
        let allowed = form.allowed(reader.phase())?;
        for token in form.forbidden(vocabulary) {
            if let Some(logit) = self.logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let allowed = allowed.as_ref().map(|tokens| tokens.as_slice());
        let token = sampler.choose(&mut self.logits, allowed, scratch);
        let token = token.ok_or(EngineError::NoToken)?;
        let token = form.in_time(token, left, vocabulary);
        sampler.count(token);
        Ok((token, form.took(token)?))
    }

    /// Shows what is certain of the reply; `Some` when it ends here. `over`: its form is complete.
    fn say(&mut self, token: TokenId, over: bool, vocabulary: &Vocabulary) -> Option<FinishReason> {
        let mut shown = Delta::default();
        let ends = vocabulary.ends.contains(&token);
        let mut flow = Flow::Continue;
        if !ends {
            self.completion_tokens += 1;
            flow = self.read(token, vocabulary, &mut shown);
        }
        let full = self.completion_tokens == self.job.tokens_max;
        let done = ends || over;
        if flow == Flow::Continue && (done || full) {
            flow = self.job.reader.finish(&mut shown);
            if let (Some(scores), Flow::Continue) = (&mut self.job.scores, flow) {
                scores.release(usize::MAX, &mut shown);
            }
        }
        if !shown.is_empty() {
            send(&self.job.events, StreamEvent::Delta(shown));
        }
        let led = self.job.form.as_ref().is_some_and(Form::led);
        match (done || flow == Flow::Stop, full) {
            (true, _) if led => Some(FinishReason::Length),
            (true, _) if self.job.reader.calls() > 0 => Some(FinishReason::ToolCalls),
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        }
    }

    /// Takes a token apart, and notes how likely it was if it is text.
    fn read(&mut self, token: TokenId, vocabulary: &Vocabulary, shown: &mut Delta) -> Flow {
        let Vocabulary { tokenizer, markup, .. } = vocabulary;
        let Job { reader, scores, .. } = &mut self.job;
        let bytes = |token| tokenizer.token_bytes(token);
        let mark = markup.marker(token);
        let Some(scores) = scores else { return reader.push(bytes(token), mark, shown) };
        if reader.phase() == Phase::Content && mark.is_none() {
            scores.note(token, reader.content_bytes().1, bytes);
        }
        let flow = reader.push(bytes(token), mark, shown);
        match reader.phase() {
            Phase::Call => scores.forget(),
            _ => scores.release(reader.content_bytes().0, shown),
        }
        flow
    }

    fn finished(&self, reason: FinishReason) -> StreamEvent {
        let Times { started, first_token, last_token, .. } = self.times;
        let stop = self.job.reader.stop().filter(|_| reason == FinishReason::Stop);
        StreamEvent::Finished(Finish {
            reason,
            stop: stop.map(str::to_owned),
            prompt_tokens: self.job.prompt.len(),
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            queued: started.saturating_duration_since(self.job.submitted),
            prefill: first_token.saturating_duration_since(started),
            decode: last_token.saturating_duration_since(first_token),
            experts: self.experts,
        })
    }

    /// How it ended, if it ended well.
    pub(super) fn finish(&self) -> Option<&Finish> {
        match &self.end {
            Some(StreamEvent::Finished(finish)) => Some(finish),
            _ => None,
        }
    }

    /// Keeps the state of a reply that has ended and sends its last event.
    pub(super) fn end(mut self, checkpoints: &mut Checkpoints<S>, now: Instant) {
        let end = self.end.take().expect("`advance` said that the reply has ended");
        let events = self.job.events.clone();
        self.keep_end(checkpoints, now);
        send(&events, end);
    }

    /// Ends it with an error.
    pub(super) fn fail(self, error: Arc<EngineError>) {
        self.job.fail(error);
    }
}

/// Sends an event that fits; a reader that has left needs none.
fn send(events: &mpsc::Sender<StreamEvent>, event: StreamEvent) {
    match events.try_send(event) {
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
        Err(mpsc::error::TrySendError::Full(_)) => {
            unreachable!("a step runs only when all its events fit")
        }
    }
}
