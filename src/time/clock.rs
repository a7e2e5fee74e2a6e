//! The loop's time: that of its turn, counted in ticks.

use std::time::{Duration, Instant};

/// The time of a turn, as the instant that users see and as the number of milliseconds that deadlines are kept in.
///
/// A tick is one millisecond: pollers count in no smaller unit. Rounding is always to the late
/// side, so no deadline expires early.
///
/// # Watched time
///
/// Deadlines that a handler sets are absolute. Guards ([`Config::idle_timeout`](crate::Config::idle_timeout) and its like) measure
/// a peer, so they count *watched* time: time in which the loop was there to see what the peer does. A process that was stopped and
/// continued, or a callback that blocked, is not. Two rules follow, both kept here:
///
/// - Between two turns that are further apart than they have to be, watched time advances by [`Clock::MAX_LATE`] at most.
/// - A guard is carried out only if it had expired before the poller last reported everything ([`Clock::seen`]): what has arrived in
///   time is then read already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
    now: Instant,
    /// From `epoch` to `now`.
    since: Duration,
    /// The same in whole ticks.
    tick: u64,
    /// Watched time, in ticks. Never more than `tick`.
    watched: u64,
    /// The tick up to which `watched` was counted.
    counted: u64,
    /// Watched time up to which all that sockets had to report is known.
    seen: u64,
}

/// The lower half of watched time: enough to remember when something last happened, in half the room.
///
/// Only differences to the present are taken, and those of up to [`Clock::FOREVER`] are right.
pub(crate) type Timestamp = u32;

impl Clock {
    /// What takes longer than this (about 24 days) counts as for ever, where stamps are compared.
    pub(crate) const FOREVER: Duration = Duration::from_millis(1 << 31);

    /// Ticks by which a turn may begin late, or work, before the rest is the loop's own time: 100.
    ///
    /// Scheduling on a busy machine takes tens of milliseconds; a peer has no reason to profit from that.
    pub(crate) const MAX_LATE: u64 = 100;

    /// A clock that begins at `now`.
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

    /// Advances to `now`, and never back; the loop was to be there at the tick `due` (`None`: whenever it likes).
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

    /// A turn has worked until `now`. What exceeds [`MAX_LATE`](Self::MAX_LATE) is not watched time.
    pub(crate) fn worked_until(&mut self, now: Instant) {
        let worked = millis_rounded_down(now.saturating_duration_since(self.epoch))
            .saturating_sub(self.tick);
        self.counted = self
            .counted
            .max(self.tick + worked.saturating_sub(Self::MAX_LATE));
    }

    /// The time.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// The last tick that has passed.
    pub(crate) fn tick(&self) -> u64 {
        self.tick
    }

    /// Watched time, in ticks.
    #[inline]
    pub(crate) fn watched(&self) -> u64 {
        self.watched
    }

    /// Takes note that what sockets had to report up to this watched time is known.
    #[inline]
    pub(crate) fn set_seen(&mut self, watched: u64) {
        self.seen = watched;
    }

    /// Watched time up to which all that sockets had to report is known: guards that expired until then are carried out.
    #[inline]
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// The tick at which watched time comes to `watched`, if no more of it is lost.
    pub(crate) fn tick_of(&self, watched: u64) -> u64 {
        watched.saturating_add(self.tick - self.watched)
    }

    /// Watched time at which `time` has passed from now on, or less than a tick before that: the present is rounded down.
    pub(crate) fn watched_after(&self, time: Duration) -> u64 {
        self.watched.saturating_add(millis_rounded_up(time))
    }

    /// The present, as a stamp.
    #[inline]
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.watched as Timestamp
    }

    /// The first tick at which `at` is over. What lies before the beginning was over then.
    pub(crate) fn tick_at(&self, at: Instant) -> u64 {
        millis_rounded_up(at.saturating_duration_since(self.epoch))
    }

    /// The first tick at which `time` has passed since `timestamp` was taken, if no more watched time is lost; `None` if that is for ever.
    pub(crate) fn after(&self, timestamp: Timestamp, time: Duration) -> Option<u64> {
        if time >= Self::FOREVER {
            return None;
        }
        let age = u64::from(self.age(timestamp));
        // A stamp is rounded down: one tick more, so as not to be early.
        Some((self.tick - age.min(self.tick)) + millis_rounded_up(time) + 1)
    }

    /// The same to about a 64th of the time, on the late side: for many that need not be told apart, so that one wake-up does for all.
    pub(crate) fn after_rounded(&self, timestamp: Timestamp, time: Duration) -> Option<u64> {
        let tick = self.after(timestamp, time)?;
        let grain = 1 << (millis_rounded_up(time) / 64).max(1).ilog2();
        Some(tick.next_multiple_of(grain))
    }

    /// The later of two stamps.
    pub(crate) fn later(&self, one: Timestamp, other: Timestamp) -> Timestamp {
        if self.age(one) < self.age(other) {
            one
        } else {
            other
        }
    }

    /// The time `ticks` after `timestamp`, or now if that is not over yet.
    pub(crate) fn later_by(&self, timestamp: Timestamp, ticks: u64) -> Timestamp {
        let age = u64::from(self.age(timestamp)).saturating_sub(ticks);
        self.timestamp().wrapping_sub(age as Timestamp)
    }

    fn age(&self, timestamp: Timestamp) -> u32 {
        self.timestamp().wrapping_sub(timestamp)
    }

    /// How long it is until a tick comes.
    pub(crate) fn left(&self, tick: u64) -> Duration {
        Duration::from_millis(tick).saturating_sub(self.since)
    }
}

fn millis_rounded_down(time: Duration) -> u64 {
    time.as_secs()
        .saturating_mul(1000)
        .saturating_add(time.subsec_millis().into())
}

/// Rounded up.
fn millis_rounded_up(time: Duration) -> u64 {
    millis_rounded_down(time).saturating_add(u64::from(time.subsec_nanos() % 1_000_000 != 0))
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
            .expect("5 ms are not for ever");
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
            clock.advance(epoch + Duration::from_millis(ms), None);
            let tick = clock
                .after_rounded(clock.timestamp(), minute)
                .expect("a minute is not for ever");
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
    fn stamps_live_through_the_wrap_of_their_counter() {
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
    fn time_never_goes_back() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        clock.advance(epoch + Duration::from_secs(1), None);
        clock.advance(epoch, None);
        assert_eq!(clock.tick(), 1000);
    }
}
