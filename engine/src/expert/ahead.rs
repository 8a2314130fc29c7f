//! Reads ahead what the next layer's gate would choose already, as far as its guesses are right.
//!
//! The next layer's gate, given what is known of its input, guesses most of what it will choose
//! (published: 60 to 89 % of the experts). A right guess is read while the disk would rest; a wrong one
//! makes the disk late for what is really wanted. The guesses differ: the likeliest of a row is right
//! more often than the next. So each place in that order is judged by itself, by what the next layer then
//! wanted, whether it was read or not; only places that were right at least [`PRECISION_MIN`] of the time
//! are read. Where no place is, guessing rests for a while and then tries again.
//!
//! Invariants: reads ahead use only places that this layer's own misses leave free; nothing here
//! changes what is computed. Not here: the guess itself (`model::moe`).
//! Source: a break-even precision of about 0.6 as sqliteai/warp measured it, `docs/LEARNED.md`; with 0.5 a
//! synthetic model read an eighth more and wrote no faster.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Expert, ExpertId};

/// Experts read ahead for a layer at most.
pub(super) const AHEAD_MAX: usize = 4;
/// Rows of a pass at most: a prompt's layers want nearly everything, in file order.
const ROWS_MAX: usize = 4;
/// Least share of the guesses of a place that must turn out wanted.
const PRECISION_MIN: f64 = 0.6;
/// Guesses of a place before it is judged; at twice as many the past counts half.
const JUDGED_AFTER: u32 = 32;
/// Places in the order of a row's guesses that are judged; later ones are worth less.
const PLACES: usize = 8;
/// Layers that pass before another try.
const REST: u32 = 8192;

/// An expert that the next layer may want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guess {
    pub(crate) id: ExpertId,
    /// How many of its row are likelier.
    pub(crate) place: usize,
}

/// How often guesses of one place were right.
#[derive(Clone, Copy, Default)]
struct Tally {
    guessed: u32,
    wanted: u32,
}

impl Tally {
    fn add(&mut self, wanted: bool) {
        if self.guessed == 2 * JUDGED_AFTER {
            (self.guessed, self.wanted) = (self.guessed / 2, self.wanted / 2);
        }
        self.guessed += 1;
        self.wanted += u32::from(wanted);
    }

    /// Too few to judge, or right often enough.
    fn pays(self) -> bool {
        let judged = self.guessed >= JUDGED_AFTER;
        !judged || f64::from(self.wanted) >= PRECISION_MIN * f64::from(self.guessed)
    }
}

/// What is read ahead, and how well it went.
pub(super) struct Ahead {
    enabled: bool,
    in_flight: HashSet<ExpertId>,
    ready: Vec<(ExpertId, Arc<Expert>)>,
    /// Guesses for the next layer of experts that were not in memory.
    guesses: Vec<Guess>,
    places: [Tally; PLACES],
    resting: u32,
    /// In all.
    pub(super) read_total: u64,
    pub(super) useful_total: u64,
}

impl Ahead {
    pub(super) fn new(enabled: bool) -> Ahead {
        Ahead {
            enabled,
            in_flight: HashSet::new(),
            ready: Vec::new(),
            guesses: Vec::new(),
            places: [Tally::default(); PLACES],
            resting: 0,
            read_total: 0,
            useful_total: 0,
        }
    }

    /// Whether guesses are wanted for the next layer of a pass of so many rows.
    pub(super) fn is_on(&self, rows: usize) -> bool {
        self.enabled && self.resting == 0 && rows <= ROWS_MAX
    }

    /// Whether an expert is being read, or was and waits.
    pub(super) fn has(&self, id: ExpertId) -> bool {
        self.in_flight.contains(&id) || self.ready.iter().any(|(ready, _)| *ready == id)
    }

    /// Experts that may wait beside those that wait already.
    pub(super) fn room(&self) -> usize {
        AHEAD_MAX.saturating_sub(self.in_flight.len() + self.ready.len())
    }

    /// Takes a guess of an expert that is not in memory, to be judged. Returns whether it is worth reading.
    pub(super) fn guessed(&mut self, guess: Guess) -> bool {
        let Some(place) = self.places.get(guess.place) else { return false };
        let known = self.guesses.iter().any(|other| other.id == guess.id);
        if !known {
            self.guesses.push(guess);
        }
        !known && place.pays()
    }

    /// Judges the guesses for a layer by what it wants.
    pub(super) fn judge(&mut self, layer: u32, wanted: &[u32]) {
        let of_layer = self.guesses.drain(..).filter(|guess| guess.id.layer == layer);
        for guess in of_layer {
            self.places[guess.place].add(wanted.contains(&guess.id.expert));
        }
        // A gate that chooses few experts has fewer places.
        let mut tried = self.places.iter().filter(|place| place.guessed > 0).peekable();
        if self.resting == 0 && tried.peek().is_some() && !tried.any(|place| place.pays()) {
            tracing::debug!("reading ahead does not pay; resting");
            self.resting = REST;
            self.places = [Tally::default(); PLACES];
        }
    }

    /// An expert is being read.
    pub(super) fn asked(&mut self, id: ExpertId) {
        self.in_flight.insert(id);
        self.read_total += 1;
    }

    /// Whether an expert that landed had been read ahead; it is no longer under way then.
    pub(super) fn landed(&mut self, id: ExpertId) -> bool {
        self.in_flight.remove(&id)
    }

    /// Whether an expert that is wanted now is under way.
    pub(super) fn is_in_flight(&self, id: ExpertId) -> bool {
        self.in_flight.contains(&id)
    }

    /// Keeps an expert until its layer comes.
    pub(super) fn keep(&mut self, id: ExpertId, expert: Arc<Expert>) {
        self.ready.push((id, expert));
    }

    /// An expert that is wanted now, if it waits.
    pub(super) fn take(&mut self, id: ExpertId) -> Option<Arc<Expert>> {
        let at = self.ready.iter().position(|(ready, _)| *ready == id)?;
        self.was_useful();
        Some(self.ready.swap_remove(at).1)
    }

    /// An expert that was read ahead was wanted.
    pub(super) fn was_useful(&mut self) {
        self.useful_total += 1;
    }

    /// A layer is over: gives back what was read for it in vain.
    pub(super) fn layer_over(&mut self, layer: u32) -> Vec<Arc<Expert>> {
        self.resting = self.resting.saturating_sub(1);
        self.ready.extract_if(.., |(id, _)| id.layer == layer).map(|(_, expert)| expert).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: u32 = 1000;

    /// So many guesses of a place, of which so many are wanted. Returns whether the last was worth reading.
    fn guess(ahead: &mut Ahead, place: usize, count: u32, wanted: u32) -> bool {
        let mut worth = false;
        for number in 0..count {
            let expert = if number < wanted { WANTED } else { 0 };
            worth = ahead.guessed(Guess { id: ExpertId { layer: 1, expert }, place });
            ahead.judge(1, &[WANTED]);
        }
        worth
    }

    #[test]
    fn each_place_is_read_as_long_as_its_guesses_are_right() {
        let mut ahead = Ahead::new(true);
        assert!(guess(&mut ahead, 0, JUDGED_AFTER + 1, JUDGED_AFTER), "nearly all");
        assert!(guess(&mut ahead, 1, JUDGED_AFTER, 0), "not judged yet");
        assert!(!guess(&mut ahead, 1, 1, 0), "none of the second place");
        assert!(guess(&mut ahead, 0, 1, 1), "the first is not judged by it");
        assert!(
            guess(&mut ahead, 1, 2 * JUDGED_AFTER, 2 * JUDGED_AFTER),
            "what is not read is judged on"
        );
        assert!(!ahead.guessed(Guess { id: ExpertId { layer: 1, expert: 7 }, place: PLACES }));
    }

    #[test]
    fn wrong_guesses_rest_and_try_again() {
        let mut ahead = Ahead::new(true);
        ahead.judge(1, &[WANTED]);
        assert!(ahead.is_on(1), "nothing was guessed yet");
        // As many places as the gate of a small model has.
        (0..4).for_each(|place| _ = guess(&mut ahead, place, 1, 1));
        (0..4).for_each(|place| _ = guess(&mut ahead, place, JUDGED_AFTER, JUDGED_AFTER / 3));
        assert!(!ahead.is_on(1), "no place pays");
        (0..REST).for_each(|_| _ = ahead.layer_over(0));
        assert!(ahead.is_on(1), "another try");
    }

    #[test]
    fn an_expert_that_several_rows_guess_is_read_once() {
        let mut ahead = Ahead::new(true);
        let guess = Guess { id: ExpertId { layer: 1, expert: 7 }, place: 0 };
        assert!(ahead.guessed(guess));
        assert!(!ahead.guessed(Guess { place: 1, ..guess }));
    }

    #[test]
    fn prompts_are_not_guessed() {
        assert!(!Ahead::new(true).is_on(ROWS_MAX + 1));
        assert!(!Ahead::new(false).is_on(1));
    }
}
