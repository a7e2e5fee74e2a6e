//! Who wants to be called, and when.
//!
//! Two things have a time: the next look at a connection's own deadlines, and the timers of
//! handlers. Both are kept in order and exactly, so a connection or a timer that is gone leaves
//! nothing behind that would wake the loop. What makes it cheap is that deadlines which move with
//! every byte are not in it: a connection has one look, at or before the first of its deadlines,
//! and only when that comes does it find out where they have moved to. Moving them is a store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::id::ConnectionId;
use crate::time::Clock;

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
    /// Look at the deadlines of the connection in this slot.
    DeadlineCheck(usize),
    /// Call the handler.
    Timer(TimerId),
}

/// All alarms of a loop, in order.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    deadlines: DeadlineIndex,
    ordered: BTreeSet<TimerId>,
    /// The timers that belong to connections: they go when it goes.
    owned: BTreeSet<(ConnectionId, TimerId)>,
    serial: u64,
    /// The tick of the first of all, so that each turn need not look for it.
    first: Option<u64>,
}

impl Timers {
    /// Sets a timer for `at`, or for the next tick if that is over: so a timer that sets itself anew cannot hold up its turn.
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

    /// Takes a timer back; whether it was still to come.
    pub(crate) fn cancel(&mut self, timer: TimerId) -> bool {
        if let Some(owner) = timer.owner {
            self.owned.remove(&(owner, timer));
        }
        let was = self.ordered.remove(&timer);
        self.update_first();
        was
    }

    /// Takes back all timers of a connection.
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

    /// Moves the look at a connection's deadlines from one tick to another; `None` is never.
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

    /// Makes room for the looks at so many connections.
    pub(crate) fn reserve(&mut self, connections: usize) {
        self.deadlines.links.reserve(connections);
    }

    /// Forgets all looks, and takes these instead, each with its slot and tick.
    pub(crate) fn reset_deadline_checks(&mut self, checks: impl Iterator<Item = (usize, u64)>) {
        self.deadlines.lists.clear();
        for (slot, tick) in checks {
            self.deadlines.insert(slot, tick);
        }
        self.update_first();
    }

    fn update_first(&mut self) {
        let look = self.deadlines.first().map(|(tick, _)| tick);
        self.first = look
            .into_iter()
            .chain(self.ordered.first().map(|timer| timer.tick))
            .min();
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

/// Who is to be looked at, and when: a list for each tick, chained through a table of all slots.
///
/// Such times are about right only, so many have the same one. A set of names for each would take four times the room.
#[derive(Debug, Default)]
struct DeadlineIndex {
    /// The first in each tick's list.
    lists: BTreeMap<u64, u32>,
    /// The neighbours of each slot in the list that it is in.
    links: Vec<Links>,
}

#[derive(Clone, Copy, Debug)]
struct Links {
    before: u32,
    after: u32,
}

/// Where a list ends. No slot has this number: a token could not name it.
const END: u32 = u32::MAX;

impl DeadlineIndex {
    /// The tick of the first list, and who is the first in it.
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
        // It is the first of its list.
        let first = if after == END {
            self.lists.remove(&tick)
        } else {
            self.lists.insert(tick, after)
        };
        assert_eq!(
            first,
            Some(slot as u32),
            "slot {slot} was to be looked at with tick {tick}, and nobody knew"
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
    fn alarms_come_in_order_and_never_early() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let (mut clock, mut timers) = (Clock::new(begun), Timers::default());
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
    fn looks_move_between_lists_from_any_place_in_them() {
        let (mut clock, mut timers) = (Clock::new(Instant::now()), Timers::default());
        for slot in 0..5 {
            timers.move_deadline_check(id(slot), None, Some(7));
        }
        for slot in [2, 4, 0] {
            timers.move_deadline_check(id(slot), Some(7), Some(9)); // from the midst, the front and the end
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
    fn a_timer_set_for_the_past_comes_with_the_next_tick_and_not_in_this_one() {
        let begun = Instant::now();
        let (mut clock, mut timers) = (Clock::new(begun), Timers::default());
        clock.advance(begun + Duration::from_millis(5), None);
        timers.set(begun, None, &clock);
        assert_eq!((timers.pop(&clock), timers.next()), (None, Some(6)));
    }
}
