//! The clock of a loop: the time of a turn, counted in ticks.

use std::time::{Duration, Instant};

/// The time of a turn, as an [`Instant`] for users and as a number of ticks for deadlines.
///
/// A tick is one millisecond: pollers have no finer timeout. Rounding is always up, so no deadline
/// expires early.
///
/// # Watched time
///
/// Deadlines that a handler sets are absolute. Guard deadlines
/// ([`Config::idle_timeout`](crate::Config::idle_timeout) and others) judge a peer, so they count
/// *watched* time only: time in which the loop could see what the peer does. Time in which the
/// process was stopped, or a callback blocked, is not watched. Two rules follow, and both are kept
/// here:
///
/// - If the loop begins a turn late, watched time advances by at most [`Clock::MAX_LATE`].
/// - A guard deadline is carried out only if it had expired before the poller last reported
///   everything ([`Clock::seen`]). Then all bytes that arrived in time are read already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
    now: Instant,
    /// The time from `epoch` to `now`.
    since: Duration,
    /// `since` in whole ticks.
    tick: u64,
    /// Watched time, in ticks. Never more than `tick`.
    watched: u64,
    /// The tick up to which `watched` was counted.
    counted: u64,
    /// Watched time up to which all socket events are known.
    seen: u64,
}

/// The low half of watched time. It stores when something last happened, in half the memory.
///
/// Only differences to the present are computed. They are right up to [`Clock::FOREVER`].
pub(crate) type Timestamp = u32;

impl Clock {
    /// Times longer than this (about 24 days) count as unlimited where timestamps are compared.
    pub(crate) const FOREVER: Duration = Duration::from_millis(1 << 31);

    /// Ticks by which a turn may begin late, or work, before the rest is not watched: 100.
    ///
    /// Scheduling on a busy machine takes tens of milliseconds. A peer must not profit from that.
    pub(crate) const MAX_LATE: u64 = 100;

    /// Makes a clock that starts at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            now,
            since: Duration::ZERO,
            tick: 0,
            watched: 0,
            counted: 0,
            seen: 0,
        }
    }

    /// Advances to `now`, and never goes back.
    ///
    /// `due` is the tick at which the loop had to begin this turn; `None` means at any time.
    #[inline]
    pub(crate) fn advance(&mut self, now: Instant, due: Option<u64>) {
        if now > self.now {
            self.now = now;
            self.since = now.duration_since(self.epoch);
            self.tick = millis_rounded_down(self.since);
        }
        let passed = self.tick.saturating_sub(self.counted);
        let is_late = due.is_some_and(|due| self.tick > due.saturating_add(Self::MAX_LATE));
        self.watched += if is_late {
            passed.min(Self::MAX_LATE)
        } else {
            passed
        };
        self.counted = self.counted.max(self.tick);
    }

    /// Records that a turn has worked until `now`. Work beyond [`MAX_LATE`](Self::MAX_LATE) is not
    /// watched time.
    pub(crate) fn worked_until(&mut self, now: Instant) {
        let worked = millis_rounded_down(now.saturating_duration_since(self.epoch))
            .saturating_sub(self.tick);
        self.counted = self
            .counted
            .max(self.tick + worked.saturating_sub(Self::MAX_LATE));
    }

    /// Returns the time of the turn.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Returns the last tick that has passed.
    pub(crate) fn tick(&self) -> u64 {
        self.tick
    }

    /// Returns watched time, in ticks.
    #[inline]
    pub(crate) fn watched(&self) -> u64 {
        self.watched
    }

    /// Records that all socket events up to this watched time are known.
    #[inline]
    pub(crate) fn set_seen(&mut self, watched: u64) {
        self.seen = watched;
    }

    /// Returns the watched time up to which all socket events are known. Guard deadlines that
    /// expired until then are carried out.
    #[inline]
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Returns the tick at which watched time reaches `watched`, if no more of it is lost.
    pub(crate) fn tick_of(&self, watched: u64) -> u64 {
        watched.saturating_add(self.tick - self.watched)
    }

    /// Returns the watched time at which `time` has passed from now on. It may be less than one
    /// tick early, because the present is rounded down.
    pub(crate) fn watched_after(&self, time: Duration) -> u64 {
        self.watched.saturating_add(millis_rounded_up(time))
    }

    /// Returns the present as a timestamp.
    #[inline]
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.watched as Timestamp
    }

    /// Returns the first tick at which `at` has passed. A time before the clock's start counts as
    /// tick 0.
    pub(crate) fn tick_at(&self, at: Instant) -> u64 {
        millis_rounded_up(at.saturating_duration_since(self.epoch))
    }

    /// Returns the first tick at which `time` has passed since `timestamp`, if no more watched time
    /// is lost. `None` if `time` is unlimited.
    pub(crate) fn after(&self, timestamp: Timestamp, time: Duration) -> Option<u64> {
        if time >= Self::FOREVER {
            return None;
        }
        let age = u64::from(self.age(timestamp));
        // A timestamp is rounded down: one more tick, so that the result is not early.
        Some((self.tick - age.min(self.tick)) + millis_rounded_up(time) + 1)
    }

    /// The same as [`after`](Self::after), rounded up to about a 64th of `time`. Many deadlines
    /// then share a tick, so that one wake-up serves them all.
    pub(crate) fn after_rounded(&self, timestamp: Timestamp, time: Duration) -> Option<u64> {
        let tick = self.after(timestamp, time)?;
        let grain = 1 << (millis_rounded_up(time) / 64).max(1).ilog2();
        Some(tick.next_multiple_of(grain))
    }

    /// Returns the later of two timestamps.
    pub(crate) fn later(&self, one: Timestamp, other: Timestamp) -> Timestamp {
        if self.age(one) < self.age(other) {
            one
        } else {
            other
        }
    }

    /// Returns `timestamp` moved forward by the time since `since`, but not beyond now.
    pub(crate) fn postponed(&self, timestamp: Timestamp, since: Timestamp) -> Timestamp {
        let age = self.age(timestamp).saturating_sub(self.age(since));
        self.timestamp().wrapping_sub(age)
    }

    /// Returns the ticks of watched time since `timestamp`.
    fn age(&self, timestamp: Timestamp) -> u32 {
        self.timestamp().wrapping_sub(timestamp)
    }

    /// Returns the time that is left until a tick.
    pub(crate) fn left(&self, tick: u64) -> Duration {
        Duration::from_millis(tick).saturating_sub(self.since)
    }
}

/// Converts to whole milliseconds, rounded down.
fn millis_rounded_down(time: Duration) -> u64 {
    time.as_secs()
        .saturating_mul(1000)
        .saturating_add(time.subsec_millis().into())
}

/// Converts to whole milliseconds, rounded up.
fn millis_rounded_up(time: Duration) -> u64 {
    millis_rounded_down(time).saturating_add(u64::from(time.subsec_nanos() % 1_000_000 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_never_early_and_at_most_a_tick_late() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        for micros in [0, 1, 999, 1000, 1001, 60_000_000] {
            let at = epoch + Duration::from_micros(micros);
            let tick = clock.tick_at(at);
            let came = epoch + Duration::from_millis(tick);
            assert!(
                came >= at && came < at + Duration::from_millis(1),
                "{micros}"
            );
        }
        assert_eq!(
            clock.tick_at(epoch.checked_sub(Duration::from_secs(1)).unwrap_or(epoch)),
            0
        );
        clock.advance(epoch + Duration::from_micros(1900), None);
        let timestamp = clock.timestamp();
        let tick = clock
            .after(timestamp, Duration::from_millis(5))
            .expect("5 ms is not unlimited");
        assert!(epoch + Duration::from_millis(tick) >= clock.now() + Duration::from_millis(5));
        assert!(clock.left(tick) >= Duration::from_millis(5) && clock.left(0) == Duration::ZERO);
    }

    #[test]
    fn rounded_deadlines_share_ticks() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut ticks = std::collections::BTreeSet::new();
        for ms in 0..1000 {
            clock.advance(epoch + Duration::from_millis(ms), None);
            let tick = clock
                .after_rounded(clock.timestamp(), minute)
                .expect("a minute is not unlimited");
            assert!(tick > ms + 60_000 && tick < ms + 61_000);
            ticks.insert(tick);
        }
        assert!(ticks.len() <= 3, "{ticks:?}");
        assert_eq!(
            clock.after_rounded(clock.timestamp(), second / 100),
            clock.after(clock.timestamp(), second / 100)
        );
    }

    #[test]
    fn timestamps_work_when_the_counter_wraps() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        clock.advance(
            epoch + Duration::from_millis(u64::from(u32::MAX) - 10),
            None,
        );
        let timestamp = clock.timestamp();
        clock.advance(
            epoch + Duration::from_millis(u64::from(u32::MAX) + 10),
            None,
        );
        assert_eq!(
            clock.after(timestamp, Duration::from_millis(100)),
            Some(u64::from(u32::MAX) - 10 + 101)
        );
        assert_eq!(clock.after(timestamp, Duration::MAX), None);
    }

    #[test]
    fn clock_never_goes_back() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        clock.advance(epoch + Duration::from_secs(1), None);
        clock.advance(epoch, None);
        assert_eq!(clock.tick(), 1000);
    }
}
