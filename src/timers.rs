//! Who wants to be called, and when.
//!
//! Two things have a time: the next look at a connection's own deadlines, and the timers of
//! handlers. Both are kept in order and exactly, so a connection or a timer that is gone leaves
//! nothing behind that would wake the loop. What makes it cheap is that deadlines which move with
//! every byte are not in it: a connection has one look, at or before the first of its deadlines,
//! and only when that comes does it find out where they have moved to. Moving them is a store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::clock::Clock;
use crate::id::ConnectionId;

/// Names one timer of one loop, for its whole life and never another one of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    /// First, so that timers are in the order in which they come; those of one tick in the order in which they were set.
    tick: u64,
    serial: u64,
    owner: Option<ConnectionId>,
}

impl TimerId {
    /// The connection it belongs to; `None` for a timer of the loop.
    pub fn owner(self) -> Option<ConnectionId> {
        self.owner
    }
}

/// What is to be done when a time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// Look at the deadlines of this connection.
    Look(ConnectionId),
    /// Call the handler.
    Timer(TimerId),
}

/// All alarms of a loop, in order.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// Who is to be looked at with which tick: many with the same one, since such times are about right only.
    looks: BTreeMap<u64, BTreeSet<ConnectionId>>,
    ordered: BTreeSet<TimerId>,
    /// The timers that belong to connections: they go when it goes.
    owned: BTreeSet<(ConnectionId, TimerId)>,
    serial: u64,
    /// The tick of the first of all, so that each turn need not look for it.
    first: Option<u64>,
}

impl Timers {
    /// Sets a timer for `at`, or for the next tick if that is over: so a timer that sets itself anew cannot hold up its turn.
    pub(crate) fn set(&mut self, at: Instant, owner: Option<ConnectionId>, clock: &Clock) -> TimerId {
        self.serial += 1;
        let timer = TimerId { tick: clock.tick_at(at).max(clock.tick() + 1), serial: self.serial, owner };
        self.ordered.insert(timer);
        self.first = self.first.into_iter().chain([timer.tick]).min();
        self.owned.extend(owner.map(|owner| (owner, timer)));
        timer
    }

    /// Takes a timer back; whether it was still to come.
    pub(crate) fn cancel(&mut self, timer: TimerId) -> bool {
        if let Some(owner) = timer.owner {
            self.owned.remove(&(owner, timer));
        }
        let was = self.ordered.remove(&timer);
        self.find_first();
        was
    }

    /// Takes back all timers of a connection.
    pub(crate) fn forget(&mut self, owner: ConnectionId) {
        while let Some((_, timer)) = self.owned.range((owner, TimerId { tick: 0, serial: 0, owner: None })..).next() {
            if timer.owner != Some(owner) {
                break;
            }
            self.cancel(*timer);
        }
    }

    /// Moves the look at a connection's deadlines from one tick to another; `None` is never.
    pub(crate) fn look(&mut self, id: ConnectionId, from: Option<u64>, to: Option<u64>) {
        if let Some(from) = from {
            let waiting = self.looks.get_mut(&from).expect("a look that is moved was there");
            let was = waiting.remove(&id);
            assert!(was, "connection {id} was to be looked at, and nobody knew");
            if waiting.is_empty() {
                self.looks.remove(&from);
            }
        }
        if let Some(to) = to {
            self.looks.entry(to).or_default().insert(id);
        }
        self.find_first();
    }

    fn find_first(&mut self) {
        let look = self.looks.first_key_value().map(|(tick, _)| *tick);
        self.first = look.into_iter().chain(self.ordered.first().map(|timer| timer.tick)).min();
    }

    /// The tick of the first alarm.
    #[inline]
    pub(crate) fn next(&self) -> Option<u64> {
        self.first
    }

    /// Takes out the first alarm whose tick has passed.
    #[inline]
    pub(crate) fn pop(&mut self, clock: &Clock) -> Option<Alarm> {
        let tick = self.first.filter(|tick| *tick <= clock.tick())?;
        let alarm = self.pop_at(tick);
        self.find_first();
        alarm
    }

    fn pop_at(&mut self, tick: u64) -> Option<Alarm> {
        let Some(mut waiting) = self.looks.first_entry().filter(|waiting| *waiting.key() == tick) else {
            let timer = self.ordered.pop_first()?;
            if let Some(owner) = timer.owner {
                self.owned.remove(&(owner, timer));
            }
            return Some(Alarm::Timer(timer));
        };
        let id = waiting.get_mut().pop_first()?;
        if waiting.get().is_empty() {
            waiting.remove();
        }
        Some(Alarm::Look(id))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId::new(slot, NonZeroU32::MIN)
    }

    #[test]
    fn alarms_come_in_order_and_never_early() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let (mut clock, mut timers) = (Clock::new(begun), Timers::default());
        let late = timers.set(at(20), Some(id(1)), &clock);
        let first = timers.set(at(10), None, &clock);
        let second = timers.set(at(10), Some(id(2)), &clock);
        timers.look(id(3), None, Some(15));
        assert_eq!((timers.next(), timers.pop(&clock)), (Some(10), None));
        clock.advance(at(30));
        let order: Vec<Alarm> = std::iter::from_fn(|| timers.pop(&clock)).collect();
        assert_eq!(order, [Alarm::Timer(first), Alarm::Timer(second), Alarm::Look(id(3)), Alarm::Timer(late)]);
        assert_eq!((timers.next(), timers.owned.len()), (None, 0));
    }

    #[test]
    fn what_is_taken_back_never_comes_and_leaves_nothing() {
        let begun = Instant::now();
        let (clock, mut timers) = (Clock::new(begun), Timers::default());
        let timer = timers.set(begun, Some(id(1)), &clock);
        assert!(timers.cancel(timer));
        assert!(!timers.cancel(timer));
        for _ in 0..10 {
            timers.set(begun + Duration::from_secs(1), Some(id(1)), &clock);
            timers.set(begun, Some(id(2)), &clock);
        }
        timers.look(id(1), None, Some(7));
        timers.forget(id(1));
        assert_eq!((timers.looks.len(), timers.ordered.len(), timers.owned.len()), (1, 10, 10));
        timers.look(id(1), Some(7), None);
        timers.forget(id(2));
        assert_eq!((timers.looks.len(), timers.ordered.len(), timers.owned.len()), (0, 0, 0));
    }

    #[test]
    fn a_timer_set_for_the_past_comes_with_the_next_tick_and_not_in_this_one() {
        let begun = Instant::now();
        let (mut clock, mut timers) = (Clock::new(begun), Timers::default());
        clock.advance(begun + Duration::from_millis(5));
        timers.set(begun, None, &clock);
        assert_eq!((timers.pop(&clock), timers.next()), (None, Some(6)));
    }
}
