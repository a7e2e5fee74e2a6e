//! When it is right to wait awake.
//!
//! ```text
//!   asleep   poll ──── falls asleep ········ event ──── wakes up ────► turn       costs SLEEP, however long the wait
//!   awake    poll poll poll poll poll poll ► event ► turn                         costs as long as the wait is
//! ```
//!
//! Falling asleep and being woken takes the processor a few microseconds, and whoever waits for an answer waits for that too. If the
//! next event comes sooner than that, polling until it is there is the cheaper way. Nobody knows beforehand, so the
//! loop keeps an account: a wait that found its event awake has earned what the sleep would have cost, less what it took; one that found
//! none has spent what it took. It waits awake only while there is credit, and now and then to try whether it would pay again.

use std::io;
use std::time::Duration;

use crate::handler::Handler;
use crate::net::Net;
use crate::observe::Step;
use crate::reactor::{Reactor, sooner};

/// What falling asleep and being woken cost, in polls that find nothing.
///
/// Counted in polls, and not in time, since a machine that is slow is slow at both. Measured: 16 to 18.
const SLEEP_COST: u32 = 20;
/// No more is saved up than pays for so many waits in vain.
const MAX_MISSES: u32 = 8;
/// Without credit, one wait in so many is a try; after a try in vain one in twice as many, up to the last number.
const TRY_INTERVALS: (u32, u32) = (64, 4096);

/// No poll takes less time than this, in nanoseconds: so a clock that stands still does not keep the loop awake.
const MIN_POLL_NANOS: u128 = 100;

/// The account.
#[derive(Debug)]
pub(super) struct Spin {
    /// How long to wait awake at most; not at all, if this is zero.
    max_time: Duration,
    /// How many polls that can be at most.
    polls: u32,
    /// Polls that waiting awake has saved lately.
    credit: u32,
    /// Waits until the next try.
    until_try: u32,
    /// From one try to the next.
    interval: u32,
}

impl Spin {
    pub(super) fn new(max_time: Duration) -> Self {
        let polls = u32::try_from(max_time.as_nanos() / MIN_POLL_NANOS).unwrap_or(u32::MAX);
        Self {
            max_time,
            polls,
            credit: 0,
            until_try: TRY_INTERVALS.0,
            interval: TRY_INTERVALS.0,
        }
    }

    /// Whether the next wait begins awake.
    #[inline]
    fn should_spin(&mut self) -> bool {
        self.polls > 0 && (self.credit > 0 || self.should_try())
    }

    fn should_try(&mut self) -> bool {
        self.until_try -= 1;
        let is_due = self.until_try == 0;
        if is_due {
            self.until_try = self.interval;
        }
        is_due
    }

    /// A wait that began awake took so many polls, and has found its event, or has not.
    fn record(&mut self, polls: u32, hit: bool) {
        if hit {
            self.credit = (self.credit + SLEEP_COST)
                .saturating_sub(polls)
                .min(MAX_MISSES * self.polls.min(100));
            self.interval = TRY_INTERVALS.0;
        } else {
            if self.credit == 0 {
                self.interval = (2 * self.interval).min(TRY_INTERVALS.1);
            }
            self.credit = self.credit.saturating_sub(polls);
        }
    }
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Waits for events, and lets the clock go on: awake for a short while, if that has paid lately; then asleep, until something is due.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let due = self.due();
        let timeout = sooner(timeout, due.map(|due| self.shared.clock.left(due)));
        if timeout == Some(Duration::ZERO) || !self.spin.should_spin() {
            self.poll(timeout, due)
        } else {
            self.busy_poll(timeout)
        }
    }

    /// The same, beginning awake. What is due ends this waiting as it would a sleep.
    #[inline(never)]
    fn busy_poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut begun = None;
        let mut polls = 0;
        loop {
            let due = self.due();
            self.poll(Some(Duration::ZERO), due)?;
            if polls == 0 && !self.events.is_empty() {
                return Ok(()); // the loop would not have slept
            }
            polls += 1;
            let now = self.shared.now();
            let took = now.saturating_duration_since(*begun.get_or_insert(now));
            let due = self.due(); // it may be sooner by now: another thread has sent something
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

    const LONGEST: Duration = Duration::from_micros(8);
    /// Polls that find nothing in that time.
    const IN_VAIN: u32 = 30;

    /// How many of so many waits begin awake, if each that does comes out like this.
    fn awake(spin: &mut Spin, waits: u32, polls: u32, hit: bool) -> u32 {
        let mut awake = 0;
        for _ in 0..waits {
            if spin.should_spin() {
                spin.record(polls, hit);
                awake += 1;
            }
        }
        awake
    }

    #[test]
    fn what_pays_is_done_each_time_and_what_does_not_is_tried_ever_more_rarely() {
        let spin = &mut Spin::new(LONGEST);
        assert_eq!(
            awake(spin, 1_000, 12, true),
            1_000 - 63,
            "all but those before the first try"
        );
        let in_vain = awake(spin, 100_000, IN_VAIN, false);
        assert!((30..60).contains(&in_vain), "{in_vain}");
        assert_eq!(
            awake(spin, 1_000_000, IN_VAIN, false),
            1_000_000 / TRY_INTERVALS.1
        );
    }

    #[test]
    fn an_event_that_comes_later_than_a_sleep_costs_earns_nothing() {
        let spin = &mut Spin::new(LONGEST);
        assert_eq!(
            awake(spin, 64_000, SLEEP_COST + 5, true),
            1_000,
            "tries only"
        );
    }

    #[test]
    fn half_of_the_waits_in_vain_is_too_many() {
        let spin = &mut Spin::new(LONGEST);
        let mut awake = 0;
        for n in 0..100_000 {
            if spin.should_spin() {
                awake += 1;
                spin.record(if n % 2 == 0 { 5 } else { IN_VAIN }, n % 2 == 0);
            }
        }
        assert!(awake < 20_000, "{awake}");
    }

    #[test]
    fn no_time_at_all_is_never_awake() {
        assert_eq!(awake(&mut Spin::new(Duration::ZERO), 100_000, 1, true), 0);
    }
}
