//! The alarms of a loop: timers of handlers, and deadline checks of connections.
//!
//! Both are kept in exact order. A connection or a timer that is gone leaves nothing behind that
//! would wake the loop.
//!
//! Deadlines that move with every byte are not kept here. A connection has one check, at or before
//! the first of its deadlines. When the check is due, the loop reads where the deadlines are now.
//! So moving a deadline costs one store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::id::ConnectionId;
use crate::time::Clock;

/// Identifies one timer of one loop. An id is never used again.
///
/// Returned by [`Context::set_timer`](crate::Context::set_timer) and the other functions that set
/// timers. Ids are ordered by the time at which the timers fire; timers of the same tick are
/// ordered as they were set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    /// First field, so that the derived order is the order in which timers fire.
    tick: u64,
    serial: u64,
    owner: Option<ConnectionId>,
}

impl TimerId {
    /// Returns the connection that the timer belongs to; `None` for a timer of the loop.
    pub fn owner(self) -> Option<ConnectionId> {
        self.owner
    }
}

/// What is to be done when an alarm is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// Check the deadlines of the connection in this slot.
    DeadlineCheck(usize),
    /// Call the handler.
    Timer(TimerId),
}

/// All alarms of a loop, in order.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    deadlines: DeadlineIndex,
    ordered: BTreeSet<TimerId>,
    /// The timers of connections. They are removed with their connection.
    owned: BTreeSet<(ConnectionId, TimerId)>,
    serial: u64,
    /// The tick of the first alarm, stored so that a turn need not search for it.
    first: Option<u64>,
}

impl Timers {
    /// Sets a timer for `at`. A time in the past counts as the next tick, so that a timer that sets
    /// itself again cannot block its turn.
    pub(crate) fn set(
        &mut self,
        at: Instant,
        owner: Option<ConnectionId>,
        clock: &Clock,
    ) -> TimerId {
        self.serial += 1;
        let timer = TimerId {
            tick: clock.tick_at(at).max(clock.tick() + 1),
            serial: self.serial,
            owner,
        };
        self.ordered.insert(timer);
        self.first = self.first.into_iter().chain([timer.tick]).min();
        self.owned.extend(owner.map(|owner| (owner, timer)));
        timer
    }

    /// Cancels a timer. Returns true if it had not fired yet.
    pub(crate) fn cancel(&mut self, timer: TimerId) -> bool {
        if let Some(owner) = timer.owner {
            self.owned.remove(&(owner, timer));
        }
        let was = self.ordered.remove(&timer);
        self.update_first();
        was
    }

    /// Cancels all timers of a connection.
    pub(crate) fn cancel_all(&mut self, owner: ConnectionId) {
        while let Some((_, timer)) = self
            .owned
            .range(
                (
                    owner,
                    TimerId {
                        tick: 0,
                        serial: 0,
                        owner: None,
                    },
                )..,
            )
            .next()
        {
            if timer.owner != Some(owner) {
                break;
            }
            self.cancel(*timer);
        }
    }

    /// Moves the deadline check of a connection from one tick to another. `None` is no check.
    pub(crate) fn move_deadline_check(
        &mut self,
        id: ConnectionId,
        from: Option<u64>,
        to: Option<u64>,
    ) {
        if let Some(from) = from {
            self.deadlines.remove(id.slot(), from);
        }
        if let Some(to) = to {
            self.deadlines.insert(id.slot(), to);
        }
        self.update_first();
    }

    /// Reserves memory for the checks of this many connections.
    pub(crate) fn reserve(&mut self, connections: usize) {
        self.deadlines.links.reserve(connections);
    }

    /// Replaces all deadline checks with these, each a slot and a tick.
    pub(crate) fn reset_deadline_checks(&mut self, checks: impl Iterator<Item = (usize, u64)>) {
        self.deadlines.lists.clear();
        for (slot, tick) in checks {
            self.deadlines.insert(slot, tick);
        }
        self.update_first();
    }

    fn update_first(&mut self) {
        let check = self.deadlines.first().map(|(tick, _)| tick);
        self.first = check
            .into_iter()
            .chain(self.ordered.first().map(|timer| timer.tick))
            .min();
    }

    /// Returns the tick of the first alarm.
    #[inline]
    pub(crate) fn next(&self) -> Option<u64> {
        self.first
    }

    /// Removes the first alarm that is due.
    #[inline]
    pub(crate) fn pop(&mut self, clock: &Clock) -> Option<Alarm> {
        let tick = self.first.filter(|tick| *tick <= clock.tick())?;
        let alarm = self.pop_at(tick);
        self.update_first();
        alarm
    }

    fn pop_at(&mut self, tick: u64) -> Option<Alarm> {
        if let Some((_, slot)) = self.deadlines.first().filter(|(at, _)| *at == tick) {
            self.deadlines.remove(slot, tick);
            return Some(Alarm::DeadlineCheck(slot));
        }
        let timer = self.ordered.pop_first()?;
        if let Some(owner) = timer.owner {
            self.owned.remove(&(owner, timer));
        }
        Some(Alarm::Timer(timer))
    }
}

/// The deadline checks by tick: a list of slots for each tick, linked through a table of all slots.
///
/// Checks need not be exact, so many share a tick. A set of ids for each tick would take four times
/// the memory.
#[derive(Debug, Default)]
struct DeadlineIndex {
    /// The first slot in the list of each tick.
    lists: BTreeMap<u64, u32>,
    /// The neighbours of each slot in its list.
    links: Vec<Links>,
}

/// The neighbours of a slot in its list.
#[derive(Clone, Copy, Debug)]
struct Links {
    before: u32,
    after: u32,
}

/// The end of a list. No slot has this number, because a token could not hold it.
const END: u32 = u32::MAX;

impl DeadlineIndex {
    /// Returns the tick of the first list, and the first slot in it.
    fn first(&self) -> Option<(u64, usize)> {
        self.lists
            .first_key_value()
            .map(|(tick, slot)| (*tick, *slot as usize))
    }

    fn insert(&mut self, slot: usize, tick: u64) {
        if slot >= self.links.len() {
            self.links.resize(
                slot + 1,
                Links {
                    before: END,
                    after: END,
                },
            );
        }
        let after = self.lists.insert(tick, slot as u32).unwrap_or(END);
        self.links[slot] = Links { before: END, after };
        if let Some(next) = self.links.get_mut(after as usize) {
            next.before = slot as u32;
        }
    }

    fn remove(&mut self, slot: usize, tick: u64) {
        let Links { before, after } = self.links[slot];
        if let Some(next) = self.links.get_mut(after as usize) {
            next.before = before;
        }
        if let Some(last) = self.links.get_mut(before as usize) {
            last.after = after;
            return;
        }
        // The slot is the first of its list.
        let first = if after == END {
            self.lists.remove(&tick)
        } else {
            self.lists.insert(tick, after)
        };
        assert_eq!(
            first,
            Some(slot as u32),
            "slot {slot} is not listed for a check at tick {tick}"
        );
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
    fn alarms_fire_in_order_and_never_early() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut clock, mut timers) = (Clock::new(start), Timers::default());
        let late = timers.set(at(20), Some(id(1)), &clock);
        let first = timers.set(at(10), None, &clock);
        let second = timers.set(at(10), Some(id(2)), &clock);
        timers.move_deadline_check(id(3), None, Some(15));
        assert_eq!((timers.next(), timers.pop(&clock)), (Some(10), None));
        clock.advance(at(30), None);
        let order: Vec<Alarm> = std::iter::from_fn(|| timers.pop(&clock)).collect();
        assert_eq!(
            order,
            [
                Alarm::Timer(first),
                Alarm::Timer(second),
                Alarm::DeadlineCheck(3),
                Alarm::Timer(late)
            ]
        );
        assert_eq!((timers.next(), timers.owned.len()), (None, 0));
    }

    #[test]
    fn cancelled_timer_never_fires_and_leaves_nothing() {
        let start = Instant::now();
        let (clock, mut timers) = (Clock::new(start), Timers::default());
        let timer = timers.set(start, Some(id(1)), &clock);
        assert!(timers.cancel(timer));
        assert!(!timers.cancel(timer));
        for _ in 0..10 {
            timers.set(start + Duration::from_secs(1), Some(id(1)), &clock);
            timers.set(start, Some(id(2)), &clock);
        }
        timers.move_deadline_check(id(1), None, Some(7));
        timers.cancel_all(id(1));
        assert_eq!(
            (
                timers.deadlines.lists.len(),
                timers.ordered.len(),
                timers.owned.len()
            ),
            (1, 10, 10)
        );
        timers.move_deadline_check(id(1), Some(7), None);
        timers.cancel_all(id(2));
        assert_eq!(
            (
                timers.deadlines.lists.len(),
                timers.ordered.len(),
                timers.owned.len()
            ),
            (0, 0, 0)
        );
    }

    #[test]
    fn deadline_checks_move_between_lists_from_any_position() {
        let (mut clock, mut timers) = (Clock::new(Instant::now()), Timers::default());
        for slot in 0..5 {
            timers.move_deadline_check(id(slot), None, Some(7));
        }
        for slot in [2, 4, 0] {
            // From the middle, the front and the end.
            timers.move_deadline_check(id(slot), Some(7), Some(9));
        }
        timers.move_deadline_check(id(3), Some(7), None);
        clock.advance(clock.now() + Duration::from_millis(8), None);
        let due = |timers: &mut Timers, clock: &Clock| {
            std::iter::from_fn(|| timers.pop(clock)).collect::<Vec<_>>()
        };
        assert_eq!(
            (due(&mut timers, &clock), timers.next()),
            (vec![Alarm::DeadlineCheck(1)], Some(9))
        );
        clock.advance(clock.now() + Duration::from_millis(1), None);
        let mut late = due(&mut timers, &clock);
        late.sort_by_key(|alarm| format!("{alarm:?}"));
        assert_eq!(
            (late, timers.next()),
            ([0, 2, 4].map(Alarm::DeadlineCheck).to_vec(), None)
        );
    }

    #[test]
    fn timer_in_the_past_fires_at_the_next_tick() {
        let start = Instant::now();
        let (mut clock, mut timers) = (Clock::new(start), Timers::default());
        clock.advance(start + Duration::from_millis(5), None);
        timers.set(start, None, &clock);
        assert_eq!((timers.pop(&clock), timers.next()), (None, Some(6)));
    }
}
