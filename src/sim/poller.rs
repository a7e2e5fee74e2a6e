//! The simulated poller: blocks in virtual time, then reports events.

use std::cmp::Reverse;
use std::io;
use std::mem;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Fault;
use super::link::{Dial, Tail};
use super::world::{Source, World};
use crate::id::Token;
use crate::net::Event;

/// The virtual time that a poll with a zero timeout takes.
const EMPTY_POLL_TIME: Duration = Duration::from_nanos(250);

impl World {
    /// Blocks for at most `timeout` while the world goes on, then reports events.
    pub(super) fn poll(
        &mut self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<Instant> {
        let before = self.now;
        // mio and epoll_wait(2) count milliseconds, rounded up.
        let until = timeout.map(|timeout| {
            self.now.saturating_add(Duration::from_millis(
                timeout.as_nanos().div_ceil(1_000_000) as u64,
            ))
        });
        self.blocked_forever = false;
        let waits = self.ready.is_empty()
            && !self.wake_flag.load(Ordering::Relaxed)
            && timeout != Some(Duration::ZERO);
        let mut interrupted = false;
        if waits && self.inject(Fault::PollInterrupted) {
            interrupted = true;
            let end = until
                .unwrap_or(self.now + Duration::from_secs(1))
                .min(self.poll_deadline.unwrap_or(Duration::MAX));
            let early = self.rng.duration(end.saturating_sub(self.now));
            self.advance_to(self.now + early);
        } else if waits && self.inject(Fault::Stopped) {
            interrupted = true;
            let stopped = Duration::from_millis(self.rng.magnitude(100, 200_000) as u64);
            self.advance_to(self.now + stopped);
        } else {
            self.block(until);
        }
        if timeout == Some(Duration::ZERO) {
            // Busy-polling takes time, too.
            self.advance_to(self.now.saturating_add(EMPTY_POLL_TIME));
        } else {
            // Polls with a zero timeout keep the flag. Otherwise a loop that busy-polls and then
            // blocks would block past the moment when a peer must answer.
            self.peer_changed = false;
        }
        if !interrupted {
            self.wake_late();
            self.collect_events(events);
        }
        self.connection_time += self.now.saturating_sub(before) * self.sockets as u32;
        if interrupted {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            Ok(self.instant())
        }
    }

    /// Advances the clock until something is ready, or `until`, or nothing more is scheduled.
    fn block(&mut self, until: Option<Duration>) {
        let until = [until, self.poll_deadline].into_iter().flatten().min();
        while self.ready.is_empty() && !self.peer_changed && !self.wake_flag.load(Ordering::Relaxed)
        {
            match (self.scheduled.peek(), until) {
                (Some(Reverse((at, _, _))), until) if until.is_none_or(|until| *at <= until) => {
                    self.run_next_event();
                }
                (_, Some(until)) => return self.now = self.now.max(until),
                (_, None) => return self.blocked_forever = true,
            }
        }
    }

    /// Injects faults that wake the loop late.
    fn wake_late(&mut self) {
        if self.would_inject(Fault::LateWake) {
            let steps = self.now.as_nanos().div_ceil(self.clock_step.as_nanos()) as u32;
            self.fault_counts[Fault::LateWake] += u64::from(self.clock_step * steps > self.now);
            self.advance_to(self.clock_step * steps);
        }
        if self.inject(Fault::TimeJump) {
            let jump = Duration::from_millis(self.rng.magnitude(100, 200_000) as u64);
            self.advance_to(self.now + jump);
        }
    }

    /// Collects the events of one poll.
    fn collect_events(&mut self, events: &mut Vec<Event>) {
        let cap = self.events_cap;
        if self.wake_flag.swap(false, Ordering::Relaxed) || self.inject(Fault::SpuriousWake) {
            events.push(Event {
                token: Token::Waker.pack(),
                readable: true,
                ..Event::default()
            });
        }
        let mut count = self.ready.len().min(cap - events.len());
        if count > 1 && self.inject(Fault::BatchOfOne) {
            count = 1;
        }
        let shuffled = count > 1 && self.inject(Fault::BatchShuffled);
        for _ in 0..count {
            let place = if shuffled {
                self.rng.below(self.ready.len())
            } else {
                0
            };
            let source = self.ready.remove(place).expect("as many as were counted");
            events.extend(self.event_for(source));
        }
        if events.len() < cap && !self.former_tokens.is_empty() && self.inject(Fault::StaleEvent) {
            let token = self.former_tokens[self.rng.below(self.former_tokens.len())];
            let (closed, broken) = (self.rng.one_in(2), self.rng.one_in(2));
            events.push(Event {
                token,
                readable: true,
                writable: true,
                read_closed: closed,
                write_closed: broken,
                broken,
                ..Event::default()
            });
        }
        if events.len() < cap && !self.registered.is_empty() && self.inject(Fault::SpuriousEvent) {
            let end = self.registered[self.rng.below(self.registered.len())];
            let (readable, writable) = (self.rng.one_in(2), self.rng.one_in(2));
            let token = self.end(end).loop_socket().and_then(|socket| socket.token);
            events.extend(token.map(|token| Event {
                token,
                readable,
                writable,
                ..Event::default()
            }));
        }
    }

    /// The event of one source. `None` if it is not registered any more.
    fn event_for(&mut self, source: Source) -> Option<Event> {
        let id = match source {
            Source::Listener(number) => {
                let listener = &mut self.listeners[number];
                listener.queued = false;
                return listener.token.map(|token| Event {
                    token,
                    readable: true,
                    ..Event::default()
                });
            }
            Source::End(id) => id,
        };
        let (full, no_hints) = (
            self.would_inject(Fault::FullEvent),
            self.would_inject(Fault::HintWithheld),
        );
        let buffer = self.links[id.link].path.send_buffer;
        let (outgoing, incoming) = self.pipes(id);
        let (room, waiting, ended) = (
            outgoing.in_flight() * 3 <= buffer * 2,
            incoming.arrived > 0,
            incoming.tail == Tail::Delivered,
        );
        let strict = self.short_read_is_empty;
        let end = self.end(id);
        let (broken, shut) = (end.broken, end.shut);
        let socket = end.loop_socket()?;
        socket.queued = false;
        let mut event = mem::take(&mut socket.pending_event);
        event.token = socket.token?;
        let new = event;
        if full && socket.dial == Dial::Done {
            event.readable |= waiting || ended || broken;
            event.writable |= room || broken || shut; // a write would fail, not block
        }
        // If a short read means that the socket is empty, the FIN must be reported by then.
        event.read_closed = (ended || broken) && (!no_hints || strict);
        // EPOLLHUP: both directions are shut down.
        (event.write_closed, event.broken) = (
            (broken || (ended && shut)) && !no_hints,
            broken && !no_hints,
        );
        socket.hint_reported |= event.read_closed || event.urgent;
        self.fault_counts[Fault::FullEvent] +=
            u64::from((event.readable, event.writable) != (new.readable, new.writable));
        self.fault_counts[Fault::HintWithheld] +=
            u64::from(no_hints && (broken || (ended && !strict)));
        Some(event)
    }
}
