//! The loop's time: that of its turn, counted in ticks.

use std::time::{Duration, Instant};

/// The time of a turn, as the instant that users see and as the number of milliseconds that deadlines are kept in.
///
/// A tick is one millisecond: pollers count in no smaller unit. Rounding is always to the late
/// side, so nothing comes before its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
    now: Instant,
    /// From `epoch` to `now`.
    since: Duration,
    /// The same in whole ticks.
    tick: u64,
}

/// The lower half of a tick: enough to remember when something was last seen, in half the room.
///
/// Only differences to the present are taken, and those of up to [`Clock::LONGEST`] are right.
pub(crate) type Stamp = u32;

impl Clock {
    /// What takes longer than this (about 24 days) counts as for ever, where stamps are compared.
    pub(crate) const LONGEST: Duration = Duration::from_millis(1 << 31);

    /// A clock that begins at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self { epoch: now, now, since: Duration::ZERO, tick: 0 }
    }

    /// Goes on to `now`, and never back.
    pub(crate) fn advance(&mut self, now: Instant) {
        if now > self.now {
            self.now = now;
            self.since = now.duration_since(self.epoch);
            self.tick = whole_millis(self.since);
        }
    }

    /// The time.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// The last tick that has passed.
    pub(crate) fn tick(&self) -> u64 {
        self.tick
    }

    /// The present, as a stamp.
    #[inline]
    pub(crate) fn stamp(&self) -> Stamp {
        self.tick as Stamp
    }

    /// The first tick at which `at` is over. What lies before the beginning was over then.
    pub(crate) fn tick_at(&self, at: Instant) -> u64 {
        begun_millis(at.saturating_duration_since(self.epoch))
    }

    /// The first tick at which `time` has passed since `stamp` was taken; `None` if that is for ever.
    pub(crate) fn after(&self, stamp: Stamp, time: Duration) -> Option<u64> {
        if time >= Self::LONGEST {
            return None;
        }
        let age = u64::from(self.age(stamp));
        // A stamp is rounded down: one tick more, so as not to be early.
        Some((self.tick - age.min(self.tick)) + begun_millis(time) + 1)
    }

    /// The same to about a 64th of the time, on the late side: for many who need not be told apart, so that one wake-up does for all.
    pub(crate) fn about_after(&self, stamp: Stamp, time: Duration) -> Option<u64> {
        let tick = self.after(stamp, time)?;
        let grain = 1 << (begun_millis(time) / 64).max(1).ilog2();
        Some(tick.next_multiple_of(grain))
    }

    /// The later of two stamps.
    pub(crate) fn later(&self, one: Stamp, other: Stamp) -> Stamp {
        if self.age(one) < self.age(other) { one } else { other }
    }

    fn age(&self, stamp: Stamp) -> u32 {
        self.stamp().wrapping_sub(stamp)
    }

    /// How long it is until a tick comes.
    pub(crate) fn left(&self, tick: u64) -> Duration {
        Duration::from_millis(tick).saturating_sub(self.since)
    }
}

fn whole_millis(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1000).saturating_add(time.subsec_millis().into())
}

/// Rounded up.
fn begun_millis(time: Duration) -> u64 {
    whole_millis(time).saturating_add(u64::from(time.subsec_nanos() % 1_000_000 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_over_before_its_time_and_all_is_at_most_a_tick_later() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        for micros in [0, 1, 999, 1000, 1001, 60_000_000] {
            let at = epoch + Duration::from_micros(micros);
            let tick = clock.tick_at(at);
            let came = epoch + Duration::from_millis(tick);
            assert!(came >= at && came < at + Duration::from_millis(1), "{micros}");
        }
        assert_eq!(clock.tick_at(epoch.checked_sub(Duration::from_secs(1)).unwrap_or(epoch)), 0);
        clock.advance(epoch + Duration::from_micros(1900));
        let stamp = clock.stamp();
        let tick = clock.after(stamp, Duration::from_millis(5)).expect("5 ms are not for ever");
        assert!(epoch + Duration::from_millis(tick) >= clock.now() + Duration::from_millis(5));
        assert!(clock.left(tick) >= Duration::from_millis(5) && clock.left(0) == Duration::ZERO);
    }

    #[test]
    fn many_times_that_are_near_each_other_come_together() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut ticks = std::collections::BTreeSet::new();
        for ms in 0..1000 {
            clock.advance(epoch + Duration::from_millis(ms));
            let tick = clock.about_after(clock.stamp(), minute).expect("a minute is not for ever");
            assert!(tick > ms + 60_000 && tick < ms + 61_000);
            ticks.insert(tick);
        }
        assert!(ticks.len() <= 3, "{ticks:?}");
        assert_eq!(clock.about_after(clock.stamp(), second / 100), clock.after(clock.stamp(), second / 100));
    }

    #[test]
    fn stamps_live_through_the_wrap_of_their_counter() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        clock.advance(epoch + Duration::from_millis(u64::from(u32::MAX) - 10));
        let stamp = clock.stamp();
        clock.advance(epoch + Duration::from_millis(u64::from(u32::MAX) + 10));
        assert_eq!(clock.after(stamp, Duration::from_millis(100)), Some(u64::from(u32::MAX) - 10 + 101));
        assert_eq!(clock.after(stamp, Duration::MAX), None);
    }

    #[test]
    fn time_never_goes_back() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        clock.advance(epoch + Duration::from_secs(1));
        clock.advance(epoch);
        assert_eq!(clock.tick(), 1000);
    }
}
