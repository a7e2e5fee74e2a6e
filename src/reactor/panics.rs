//! The last resort: a panic in the crate's own code ends the connection that it happened for, and
//! not the loop.
//!
//! User code is contained where it is called ([`guard::catch_panic`](crate::error::panics::catch_panic)).
//! Everything else that can panic is a bug of this crate: an assertion, an index, an overflow. It
//! is caught where a turn is ([`Reactor::run`] does it once for all turns, so that it costs nothing
//! in any of them), blamed on the connection that was looked up last, and another turn does the
//! rest:
//!
//! - The connection closes with [`CloseReason::Internal`], whatever state the panic has left it in.
//!   If that panics too it is removed, and the handler is not told.
//! - What a turn iterates over is taken off one by one, or stays until all of it is done: commands
//!   and dials, events, touched connections, a wish to stop. Readiness is a hint, so an event that
//!   is handled twice costs a read that finds nothing.
//! - A panic that no connection can be blamed for (in the poller, in an accept) is passed on:
//!   what it has left behind is not known.

use std::panic::resume_unwind;

use crate::error::panics::{Payload, catch, catch_panic, drop_payload, message_of};
use crate::error::{CloseReason, Error};
use crate::handler::Handler;
use crate::id::ConnectionId;
use crate::net::Net;
use crate::observe::Step;
use crate::reactor::{Reactor, Turn};
use crate::state::State;

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Runs one turn or many. A panic ends one connection, and another turn does what was left
    /// undone, without a wait.
    ///
    /// This ends: each panic closes a connection, removes one that was closed already, or is passed on.
    #[inline]
    pub(super) fn catching_panics(
        &mut self,
        mut run: impl FnMut(&mut Self) -> Result<Turn, Error>,
    ) -> Result<Turn, Error> {
        loop {
            match catch(|| run(self)) {
                Ok(outcome) => return outcome,
                Err(payload) => self.close_culprit(payload),
            }
            self.poll_again = true; // the next turn is due at once, whatever was left undone
        }
    }

    /// Closes the connection that a panic is blamed on, counts it, and logs it as a bug.
    ///
    /// # Panics
    /// With the same panic, if no connection can be blamed.
    #[cold]
    pub(super) fn close_culprit(&mut self, payload: Payload) {
        let Some(id) = self.slots.last_lookup() else {
            resume_unwind(payload)
        };
        let message = message_of(&payload);
        catch_panic(|| {
            log::error!(
                "bug in glassloop: panic in the work for connection {id}, which is closed: {message}; \
                 please report this line, and the panic's location from stderr"
            );
        });
        self.shared
            .observe
            .note(|| Step::InternalError { id, message });
        drop_payload(payload);
        if let Err(another) = catch(|| self.close_broken(id)) {
            drop_payload(another);
            self.remove_broken(id);
        }
        self.slots.clear_last_lookup();
    }

    /// Closes a connection whose own data may be wrong; `reap` tells the handler. One that is closed already is removed.
    fn close_broken(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else {
            return self.forget(id);
        }; // it was being removed
        if let State::Closed(_) = slot.connection.state() {
            return self.remove_broken(id);
        }
        slot.connection.fail_internally(&mut self.shared);
        self.reschedule(id);
    }

    /// Removes a connection that could not even be closed.
    fn remove_broken(&mut self, id: ConnectionId) {
        if let Some(mut slot) = self.slots.remove(id) {
            self.buffered = self.buffered.saturating_sub(slot.counted as usize);
            if let Some(stream) = &mut slot.stream {
                catch_panic(|| self.net.deregister(stream));
            }
            catch_panic(|| drop(slot));
            // Where its deadlines stand in the order of all may be what is wrong.
            let checks = self
                .slots
                .iter()
                .filter_map(|slot| Some((slot.connection.id().slot(), slot.deadline_check?.get())));
            self.shared.timers.reset_deadline_checks(checks);
        }
        self.forget(id);
    }

    /// Drops what is kept of a connection outside of its slot, which is free by now.
    fn forget(&mut self, id: ConnectionId) {
        self.dials.remove(&id);
        self.mailbox.with(|state| state.connection_closed(id));
        self.shared.timers.cancel_all(id);
        self.shared.observe.note(|| Step::Closed {
            id,
            reason: &CloseReason::Internal,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::num::NonZeroU64;
    use std::time::Duration;

    use crate::codec::Line;
    use crate::{CloseReason, Context, Handler, Origin, Reactor, Stop, Turn, Verdict};

    /// Echoes, and counts the ends that it is told of.
    #[derive(Default)]
    struct Echo(u32);

    impl Handler for Echo {
        type Codec = Line;
        type State = ();
        type Mail = ();

        fn connection(&mut self, _: &Origin) -> (Line, ()) {
            (Line::default(), ())
        }

        fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
            cx.send(line);
            Verdict::Continue
        }

        fn close(&mut self, _: &mut Context<'_, Self>, _: &CloseReason) {
            self.0 += 1;
        }
    }

    /// A client, which makes it so many connections.
    fn connect(addr: &str, reactor: &mut Reactor<Echo>, number: usize) -> TcpStream {
        let client = TcpStream::connect(addr).expect("the loop listens");
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a time to wait");
        turn_until(reactor, |reactor| reactor.connections() == number);
        client
    }

    fn turn_until(reactor: &mut Reactor<Echo>, done: impl Fn(&Reactor<Echo>) -> bool) {
        for _ in 0..10_000 {
            if done(reactor) {
                return;
            }
            let _ = reactor
                .turn(Some(Duration::from_millis(10)))
                .expect("the poller works");
        }
        panic!("not done: {reactor:?}");
    }

    #[test]
    fn connection_whose_closing_panics_too_is_removed_in_silence() {
        let mut reactor = Reactor::bind("127.0.0.1:0", Echo::default()).expect("a port is free");
        let addr = reactor.local_addrs()[0].to_string();
        let mut clients: Vec<TcpStream> = (1..=3)
            .map(|number| connect(&addr, &mut reactor, number))
            .collect();
        // The order of all deadlines and this connection do not agree: all that moves its deadline
        // finds out, its closing included.
        let broken = reactor.slots.ids()[2]; // the first of those with its deadline
        reactor
            .slots
            .get(broken)
            .expect("it is there")
            .deadline_check = NonZeroU64::new(u64::MAX);
        clients[2]
            .write_all(b"moves its deadline")
            .expect("the loop lives");
        turn_until(&mut reactor, |reactor| reactor.connections() == 2);
        let counters = reactor.counters();
        assert_eq!(
            (
                counters.internal_errors,
                counters.closed,
                counters.panics,
                reactor.buffered()
            ),
            (1, 1, 0, 0)
        );
        assert_eq!(reactor.handler().0, 0, "no callback for it");
        assert_eq!(
            clients[2].read(&mut [0; 8]).unwrap_or(0),
            0,
            "its socket is closed"
        );

        // The next one takes its slot, and everything goes on.
        clients[2] = connect(&addr, &mut reactor, 3);
        assert!(
            reactor
                .slots
                .ids()
                .iter()
                .any(|id| id.slot() == broken.slot() && *id != broken)
        );
        let requested_stop = reactor.counters().bytes_written;
        for client in &mut clients {
            client.write_all(b"alive\n").expect("the loop lives");
        }
        turn_until(&mut reactor, |reactor| {
            reactor.counters().bytes_written == requested_stop + 18
        });
        drop(clients);
        turn_until(&mut reactor, |reactor| reactor.connections() == 0);
        assert_eq!(
            (
                reactor.counters().internal_errors,
                reactor.handler().0,
                reactor.next_deadline()
            ),
            (1, 3, None)
        );
    }

    /// A sum that goes below zero stands in for any bug in what a command does.
    #[test]
    #[cfg(debug_assertions)]
    fn panic_over_a_command_leaves_the_commands_behind_it() {
        let mut reactor = Reactor::bind("127.0.0.1:0", Echo::default()).expect("a port is free");
        let addr = reactor.local_addrs()[0].to_string();
        let mut clients: Vec<TcpStream> = (1..=3)
            .map(|number| connect(&addr, &mut reactor, number))
            .collect();
        let ids = reactor.slots.ids();
        reactor.slots.get(ids[1]).expect("it is there").counted = 5;
        reactor.with(ids[0], |_, cx| {
            cx.send_to(ids[1], &b"lost"[..]);
            cx.send_to(ids[2], &b"told"[..]);
            cx.connect(Vec::new(), Duration::from_secs(1), 0); // fails at once, which is told
            Verdict::Continue
        });
        turn_until(&mut reactor, |reactor| reactor.connections() == 2);
        let mut told = [0; 5];
        clients[2].read_exact(&mut told).expect("the loop lives");
        assert_eq!(
            (
                &told,
                reactor.counters().internal_errors,
                reactor.handler().0
            ),
            (b"told\n", 1, 1)
        );
    }

    #[test]
    #[cfg(debug_assertions)]
    fn panic_while_all_are_dropped_leaves_nobody_behind() {
        let mut reactor = Reactor::bind("127.0.0.1:0", Echo::default()).expect("a port is free");
        let addr = reactor.local_addrs()[0].to_string();
        let _clients: Vec<TcpStream> = (1..=3)
            .map(|number| connect(&addr, &mut reactor, number))
            .collect();
        let first = reactor.slots.ids()[0];
        reactor.slots.get(first).expect("it is there").counted = 5;
        reactor.stop(Stop::AtOnce);
        assert_eq!(reactor.turn(None).expect("the poller works"), Turn::Stopped);
        assert_eq!(
            (
                reactor.connections(),
                reactor.counters().internal_errors,
                reactor.handler().0
            ),
            (0, 1, 2)
        );
    }
}
