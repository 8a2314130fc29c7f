//! Decides, round by round, which generations the model computes together.
//!
//! A round is one forward pass: a token for each generation that is decoding, and a share of the
//! prompts that are still being read. Reading a prompt in shares costs a little speed and buys
//! that nobody who is being answered waits longer than one share.
//!
//! Invariants: at most `running_max` generations are computed in a round, and as many again may
//! stand still because their readers are slow (several replies to one prompt may be more, if they are
//! alone); generations take turns, first come first served; one
//! whose reader left is dropped before the next round. What a generation says depends on nothing
//! here, since the model gives the same logits in any batch. Not here: threads and panics
//! (`worker`), what happens inside one reply (`generation`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::checkpoint::{Checkpoints, Found, Mark, State};
use crate::clock::Clock;
use crate::engine::ExpertUse;
use crate::engine::generation::{Generation, Job, Vocabulary};
use crate::engine::queue::Queue;
use crate::error::EngineError;
use crate::forecast::{Round, Speeds};
use crate::sampler::Scratch;
use crate::tokenizer::TokenId;

/// How long a round may take that reads a prompt when nobody is being answered: until it ends nobody
/// is admitted, and a reader that left is not noticed.
const PREFILL_ALONE_MAX: Duration = Duration::from_secs(20);
/// Prompt tokens of a round that is always worth its time.
const PREFILL_TOKENS_USUAL: usize = 256;
/// How long generations that decode may stand still while prompts are read beside them.
const PREFILL_BESIDE_MAX: Duration = Duration::from_millis(200);
/// The least share of a prompt: smaller ones would read the same experts for few tokens.
const PREFILL_SHARE_MIN: usize = 16;
/// How long a reader may take nothing when all places are taken by such readers and others wait.
const STALL_MAX: Duration = Duration::from_secs(10);

/// What the scheduler needs of a model; tests put a scripted one in its place.
pub(super) trait Forward {
    /// The state of one conversation. Replies to the same prompt each get a copy.
    type Sequence: State;

    /// A state that has read nothing.
    fn new_sequence(&self) -> Self::Sequence;

    /// How experts were found and read since the model was loaded.
    fn expert_use(&self) -> ExpertUse {
        ExpertUse::default()
    }

    /// Prompt tokens of a round that nothing else asks for less of: many where each expert is read from
    /// flash once for all of them.
    fn prefill_tokens(&self) -> usize {
        PREFILL_TOKENS_USUAL
    }

    /// Reads each step's tokens into its sequence. Steps do not influence each other's results.
    fn forward(&mut self, batch: &mut [Step<'_, Self::Sequence>]) -> Result<(), EngineError>;
}

/// What is computed for one sequence in a round.
pub(super) struct Step<'a, S> {
    pub(super) sequence: &'a mut S,
    /// At least one token.
    pub(super) tokens: &'a [TokenId],
    /// Filled with the logits of the last token, f32 `[vocabulary]`.
    pub(super) logits: Option<&'a mut Vec<f32>>,
    /// Where the state is wanted on the way, in order; filled.
    pub(super) marks: &'a mut [Mark<S>],
}

impl<'a, S> Step<'a, S> {
    /// A step whose states on the way are not wanted.
    pub(super) fn new(
        sequence: &'a mut S,
        tokens: &'a [TokenId],
        logits: Option<&'a mut Vec<f32>>,
    ) -> Step<'a, S> {
        Step { sequence, tokens, logits, marks: &mut [] }
    }
}

/// The running generations of one model.
pub(super) struct Scheduler<S> {
    running: Vec<Generation<S>>,
    running_max: usize,
    /// Which generation comes first when not all can be computed.
    turn: usize,
    /// Generations that were started.
    started: u64,
    pub(super) checkpoints: Checkpoints<S>,
    scratch: Scratch,
    shared: Shared,
}

/// What the scheduler shares with callers.
pub(super) struct Shared {
    pub(super) queue: Arc<Queue>,
    pub(super) vocabulary: Arc<Vocabulary>,
    pub(super) speeds: Arc<Speeds>,
    pub(super) clock: Clock,
}

impl<S: State> Scheduler<S> {
    pub(super) fn new(shared: Shared, checkpoints: Checkpoints<S>) -> Scheduler<S> {
        Scheduler {
            running: Vec::new(),
            running_max: shared.queue.running_max(),
            turn: 0,
            started: 0,
            checkpoints,
            scratch: Scratch::default(),
            shared,
        }
    }

    /// Computes rounds until the queue is closed.
    pub(super) fn run<M: Forward<Sequence = S>>(&mut self, model: &mut M) {
        while !self.shared.queue.is_closed() {
            if !self.round(model) {
                self.shared.queue.wait(self.patience());
            }
        }
    }

    /// Computes one round; `false` when there was nothing to compute.
    pub(super) fn round<M: Forward<Sequence = S>>(&mut self, model: &mut M) -> bool {
        self.checkpoints.tidy(self.shared.clock.now());
        self.look_at_readers();
        self.admit(model);
        let round = self.deal(model.prefill_tokens());
        if round == Round::default() {
            return false;
        }
        let before = model.expert_use();
        let started = self.shared.clock.now();
        self.running.iter_mut().for_each(|g| g.set_marks(&mut self.checkpoints));
        let mut steps: Vec<_> = self.running.iter_mut().filter_map(Generation::step).collect();
        let result = model.forward(&mut steps);
        self.checkpoints.end_reservations();
        let now = self.shared.clock.now();
        match result {
            Ok(()) => {
                let elapsed = now.saturating_duration_since(started);
                let mut used = model.expert_use().since(&before);
                used.computed = elapsed.saturating_sub(used.stalled);
                self.shared.speeds.record_round(round, elapsed);
                self.shared.speeds.record_experts(round, &used);
                let shared = self.running.iter_mut().filter(|generation| generation.share() > 0);
                shared.for_each(|generation| generation.note_experts(&used));
                self.keep(now);
                self.advance(now);
            }
            // The states of this round may be half written; the others' are whole.
            Err(error) => self.fail_where(|generation| generation.share() > 0, error),
        }
        true
    }

    /// Ends all generations, waiting ones not included, and forgets what was kept: the model that goes on
    /// may be another one.
    pub(super) fn fail_running(&mut self, error: EngineError) {
        self.checkpoints.clear();
        self.fail_where(|_| true, error);
    }

    /// Generations that are held, those that stand still included.
    #[cfg(test)]
    pub(super) fn running_count(&self) -> usize {
        self.running.len()
    }

    /// Drops generations whose readers left, and looks who stands still. Someone who waits is not
    /// held up for ever by readers that take nothing.
    fn look_at_readers(&mut self) {
        let now = self.shared.clock.now();
        for left in self.running.extract_if(.., |generation| !generation.is_wanted()) {
            left.keep_end(&mut self.checkpoints, now);
        }
        for generation in &mut self.running {
            generation.look_for_state(&mut self.checkpoints);
            generation.note_stall(now);
        }
        if let Some((index, since)) = self.first_to_give_up()
            && now.saturating_duration_since(since) >= STALL_MAX
        {
            let error = EngineError::ReaderStalled { seconds: STALL_MAX.as_secs() };
            self.running.remove(index).fail(Arc::new(error));
        }
        self.note_running();
    }

    /// Of readers that take nothing, the one that has done so longest, if all places are taken by
    /// such readers and somebody waits.
    fn first_to_give_up(&self) -> Option<(usize, Instant)> {
        if self.running.len() < self.places() || self.shared.queue.load().waiting == 0 {
            return None;
        }
        let stalls: Option<Vec<Instant>> =
            self.running.iter().map(Generation::stalled_since).collect();
        stalls?.into_iter().enumerate().min_by_key(|&(_, since)| since)
    }

    /// How long the thread may sleep when there is nothing to compute.
    fn patience(&self) -> Option<Duration> {
        let now = self.shared.clock.now();
        let stall = self.first_to_give_up().map(|(_, since)| since + STALL_MAX);
        let first = stall.into_iter().chain(self.checkpoints.next_expiry()).min();
        first.map(|due| due.saturating_duration_since(now))
    }

    /// Generations that may be held at once, those that stand still included.
    fn places(&self) -> usize {
        2 * self.running_max
    }

    fn admit<M: Forward<Sequence = S>>(&mut self, model: &M) {
        let going = self.running.iter().filter(|g| g.stalled_since().is_none());
        let mut active: usize = going.map(Generation::replies).sum();
        while active < self.running_max && self.running.len() < self.places() {
            // Several replies to one prompt wait until there is room for all, or for nobody else.
            let Some(replies) = self.shared.queue.first_replies() else { break };
            if active > 0 && active + replies > self.running_max {
                break;
            }
            // Made first: if it panics, the job is still in the queue and gets its turn or its end.
            let sequence = model.new_sequence();
            let Some(job) = self.shared.queue.pop() else { break };
            active += job.replies();
            self.start(job, sequence, model);
        }
        self.note_running();
    }

    /// Starts a generation, on what is kept of its prompt if there is something.
    fn start<M: Forward<Sequence = S>>(&mut self, job: Job, fresh: S, model: &M) {
        let now = self.shared.clock.now();
        self.started += 1;
        let found = match &job.reuse {
            Some(reuse) if self.checkpoints.is_on() => {
                self.checkpoints.find(reuse, &job.prompt, || model.new_sequence(), now)
            }
            _ => Found::Nothing,
        };
        let begin = |sequence| Generation::start(job, sequence, self.started, now);
        self.running.push(match found {
            Found::Nothing => begin(fresh),
            Found::Here(state) => begin(state),
            Found::Coming(coming) => {
                let mut generation = begin(fresh);
                generation.expect(coming);
                generation
            }
        });
    }

    /// Keeps the states that the round has reached.
    fn keep(&mut self, now: Instant) {
        for generation in self.running.iter_mut().filter(|generation| generation.share() > 0) {
            generation.keep_marks(&mut self.checkpoints, now);
            generation.keep_between(&mut self.checkpoints, now);
        }
    }

    fn note_running(&self) {
        self.shared.queue.set_running(self.running.iter().map(Generation::replies).sum());
    }

    /// Deals every generation its tokens of this round, of a prompt at most `prefill_max`.
    fn deal(&mut self, prefill_max: usize) -> Round {
        let ready = self.next_in_turn();
        let reading = ready.iter().filter(|&&index| self.running[index].prompt_left() > 0).count();
        let decoding = ready.len() - reading;
        let prefill = match decoding {
            0 => prefill_max.min(
                self.shared.speeds.prefill_tokens_in(PREFILL_ALONE_MAX).max(PREFILL_TOKENS_USUAL),
            ),
            _ => self.shared.speeds.prefill_tokens_in(PREFILL_BESIDE_MAX).min(PREFILL_TOKENS_USUAL),
        };
        let share_max = (prefill / reading.max(1)).max(PREFILL_SHARE_MIN);
        let mut round = Round { prefill_tokens: 0, decoding };
        for index in ready {
            let prompt_share = self.running[index].prompt_left().min(share_max);
            round.prefill_tokens += prompt_share;
            self.running[index].set_share(prompt_share.max(1));
        }
        round
    }

    /// Indices of the generations of this round: at most `running_max` of those that can go on.
    /// When readers wake up there can be more; then they take turns.
    fn next_in_turn(&mut self) -> Vec<usize> {
        let count = self.running.len();
        let ready = (0..count)
            .map(|offset| (self.turn + offset) % count)
            .filter(|&index| self.running[index].stalled_since().is_none())
            .filter(|&index| !self.running[index].is_waiting())
            .take(self.running_max)
            .collect::<Vec<_>>();
        if let Some(last) = ready.last() {
            self.turn = (last + 1) % count;
        }
        ready
    }

    /// Hands every generation its results and lets go of those that ended. Readers are told once their
    /// places are counted as free: one may ask for the forecast, or submit again, at once.
    fn advance(&mut self, now: Instant) {
        let siblings: Vec<_> =
            self.running.iter_mut().flat_map(Generation::take_siblings).collect();
        self.running.extend(siblings);
        let Shared { vocabulary, speeds, .. } = &self.shared;
        let ended: Vec<Generation<S>> = self
            .running
            .extract_if(.., |generation| generation.advance(vocabulary, &mut self.scratch, now))
            .collect();
        ended.iter().filter_map(Generation::finish).for_each(|finish| speeds.record_reply(finish));
        self.note_running();
        for generation in ended {
            generation.end(&mut self.checkpoints, now);
        }
    }

    fn fail_where(&mut self, ends: impl Fn(&Generation<S>) -> bool, error: EngineError) {
        let error = Arc::new(error);
        let ended: Vec<_> = self.running.extract_if(.., |generation| ends(generation)).collect();
        self.note_running();
        ended.into_iter().for_each(|generation| generation.fail(error.clone()));
    }
}
