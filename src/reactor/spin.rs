//! Busy-polling: when to poll without sleeping.
//!
//! ```text
//!   sleep   poll ── blocks ········ event ── wakes up ─► turn    costs SLEEP_COST
//!   spin    poll poll poll poll poll poll ► event ► turn         costs the time waited
//! ```
//!
//! Blocking in the poller and waking up costs a few microseconds of CPU, and adds the same to the
//! reply's latency. If the next event comes sooner than that, it is cheaper to poll until it is
//! there. When it comes is not known beforehand, so the loop keeps a balance:
//!
//! - A spin that found an event earns the cost of the sleep that it saved, less its own polls.
//! - A spin that found none spends its polls.
//!
//! The loop spins only while it has credit. Without credit it spins once in a while, to find out
//! whether spinning would pay again.

use std::io;
use std::time::Duration;

use crate::handler::Handler;
use crate::net::Net;
use crate::observe::Step;
use crate::reactor::{Reactor, sooner};

/// Cost of blocking and waking up, in polls that find nothing.
///
/// It is counted in polls and not in time, because a slow machine is slow at both. Measured: 16 to
/// 18.
const SLEEP_COST: u32 = 20;
/// The credit is capped at the cost of this many misses.
const MAX_MISSES: u32 = 8;
/// Without credit, one wait in this many is a trial spin. Each miss doubles the interval, up to the
/// second number.
const TRIAL_INTERVALS: (u32, u32) = (64, 4096);

/// The least time of a poll, in nanoseconds. It bounds the number of polls, so that a clock that
/// stands still cannot make the loop spin for ever.
const MIN_POLL_NANOS: u128 = 100;

/// The balance of spinning.
#[derive(Debug)]
pub(super) struct Spin {
    /// The longest spin; zero: never spin.
    max_time: Duration,
    /// The number of polls that `max_time` can hold.
    polls: u32,
    /// Polls that recent spins have saved.
    credit: u32,
    /// Waits until the next trial.
    until_trial: u32,
    /// Waits from one trial to the next.
    interval: u32,
}

impl Spin {
    pub(super) fn new(max_time: Duration) -> Self {
        let polls = u32::try_from(max_time.as_nanos() / MIN_POLL_NANOS).unwrap_or(u32::MAX);
        Self {
            max_time,
            polls,
            credit: 0,
            until_trial: TRIAL_INTERVALS.0,
            interval: TRIAL_INTERVALS.0,
        }
    }

    /// True if the next wait begins with a spin.
    #[inline]
    fn should_spin(&mut self) -> bool {
        self.polls > 0 && (self.credit > 0 || self.is_trial_due())
    }

    /// Counts a wait without credit. True if it is the next trial.
    fn is_trial_due(&mut self) -> bool {
        self.until_trial -= 1;
        let is_due = self.until_trial == 0;
        if is_due {
            self.until_trial = self.interval;
        }
        is_due
    }

    /// Records a spin: its number of polls, and whether it found an event.
    fn record(&mut self, polls: u32, hit: bool) {
        if hit {
            self.credit = (self.credit + SLEEP_COST)
                .saturating_sub(polls)
                .min(MAX_MISSES * self.polls.min(100));
            self.interval = TRIAL_INTERVALS.0;
        } else {
            if self.credit == 0 {
                self.interval = (2 * self.interval).min(TRIAL_INTERVALS.1);
            }
            self.credit = self.credit.saturating_sub(polls);
        }
    }
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Waits for events or a deadline, and advances the clock. It spins first if that has paid
    /// lately.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let due = self.due();
        let timeout = sooner(timeout, due.map(|due| self.shared.clock.left(due)));
        if timeout == Some(Duration::ZERO) || !self.spin.should_spin() {
            self.poll(timeout, due)
        } else {
            self.busy_poll(timeout)
        }
    }

    /// Spins, then sleeps if no event came. A deadline ends the spin as it would end a sleep.
    #[inline(never)]
    fn busy_poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut begun = None;
        let mut polls = 0;
        loop {
            let due = self.due();
            self.poll(Some(Duration::ZERO), due)?;
            if polls == 0 && !self.events.is_empty() {
                return Ok(()); // a sleep would not have blocked
            }
            polls += 1;
            let now = self.shared.now();
            let took = now.saturating_duration_since(*begun.get_or_insert(now));
            let due = self.due(); // again: another thread may have sent a message
            let left = sooner(
                timeout.map(|timeout| timeout.saturating_sub(took)),
                due.map(|due| self.shared.clock.left(due)),
            );
            let hit = !self.events.is_empty() || left == Some(Duration::ZERO);
            if hit || took >= self.spin.max_time || polls >= self.spin.polls {
                self.spin.record(polls, hit);
                self.shared.observe.note(|| Step::Spun { polls, hit });
                return if hit { Ok(()) } else { self.poll(left, due) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_TIME: Duration = Duration::from_micros(8);
    /// Polls that find nothing, in that time.
    const MISS_POLLS: u32 = 30;

    /// Returns how many of `waits` waits spin, if each spin has this result.
    fn count_spins(spin: &mut Spin, waits: u32, polls: u32, hit: bool) -> u32 {
        let mut spins = 0;
        for _ in 0..waits {
            if spin.should_spin() {
                spin.record(polls, hit);
                spins += 1;
            }
        }
        spins
    }

    #[test]
    fn spin_is_kept_after_hits_and_tried_more_rarely_after_misses() {
        let spin = &mut Spin::new(MAX_TIME);
        assert_eq!(
            count_spins(spin, 1_000, 12, true),
            1_000 - 63,
            "all but those before the first trial"
        );
        let misses = count_spins(spin, 100_000, MISS_POLLS, false);
        assert!((30..60).contains(&misses), "{misses}");
        assert_eq!(
            count_spins(spin, 1_000_000, MISS_POLLS, false),
            1_000_000 / TRIAL_INTERVALS.1
        );
    }

    #[test]
    fn hit_that_costs_more_than_a_sleep_earns_no_credit() {
        let spin = &mut Spin::new(MAX_TIME);
        assert_eq!(
            count_spins(spin, 64_000, SLEEP_COST + 5, true),
            1_000,
            "trials only"
        );
    }

    #[test]
    fn spin_is_rare_if_half_of_the_spins_miss() {
        let spin = &mut Spin::new(MAX_TIME);
        let mut spins = 0;
        for n in 0..100_000 {
            if spin.should_spin() {
                spins += 1;
                spin.record(if n % 2 == 0 { 5 } else { MISS_POLLS }, n % 2 == 0);
            }
        }
        assert!(spins < 20_000, "{spins}");
    }

    #[test]
    fn zero_max_time_never_spins() {
        assert_eq!(
            count_spins(&mut Spin::new(Duration::ZERO), 100_000, 1, true),
            0
        );
    }
}
