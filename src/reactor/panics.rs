//! Panics of the crate's own code: they close the connection that was being served, and the loop
//! continues.
//!
//! Panics of user code are caught where it is called ([`catch_panic`]). Any other panic is a bug of
//! this crate: an assertion, an index, an overflow. It is caught around the turn, and attributed to
//! the connection that was looked up last. ([`Reactor::run`] catches once for all turns, so no turn
//! pays for it.) Another turn then finishes the work:
//!
//! - The connection closes with [`CloseReason::Internal`], whatever state the panic has left it in.
//!   If closing it panics too, it is removed without a callback.
//! - Work lists survive a panic: commands, dials and closed connections are removed one by one;
//!   events, the pending-flush list and a stop request stay until all of it is done. Readiness is a
//!   hint, so an event that is handled twice costs one read that would block.
//! - A panic that belongs to no connection (in the poller, in an accept) is passed on, since the
//!   state that it leaves is unknown.

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
    /// Runs one turn or many. After a panic one connection is closed, and another turn finishes the
    /// work without waiting.
    ///
    /// This terminates: each panic closes a connection, removes a closed one, or is passed on.
    #[inline]
    pub(super) fn catching_panics(
        &mut self,
        mut run: impl FnMut(&mut Self) -> Result<Turn, Error>,
    ) -> Result<Turn, Error> {
        loop {
            match catch(|| run(self)) {
                Ok(outcome) => return outcome,
                Err(payload) => self.close_after_panic(payload),
            }
            self.poll_again = true; // the next turn does not wait: work may be left
        }
    }

    /// Closes the connection that a panic is attributed to, counts the panic, and logs it as a bug.
    ///
    /// # Panics
    /// With the same payload, if the panic belongs to no connection.
    #[cold]
    pub(super) fn close_after_panic(&mut self, payload: Payload) {
        let Some(id) = self.slots.panic_suspect() else {
            resume_unwind(payload)
        };
        let message = message_of(&payload);
        catch_panic(|| {
            log::error!(
                "bug in glassloop: closing connection {id} after a panic: {message}; \
                 please report this line and the panic's location from stderr"
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
        self.slots.clear_panic_suspect();
    }

    /// Closes a connection after its own data may have become inconsistent; `reap` calls
    /// [`Handler::close`]. A closed one is removed.
    fn close_broken(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else {
            return self.forget(id); // the panic came while it was being removed
        };
        if let State::Closed(_) = slot.connection.state() {
            return self.remove_broken(id);
        }
        slot.connection.fail_internally(&mut self.shared);
        self.reschedule(id);
    }

    /// Removes a connection that could not be closed.
    fn remove_broken(&mut self, id: ConnectionId) {
        if let Some(mut slot) = self.slots.remove(id) {
            self.buffered = self.buffered.saturating_sub(slot.counted_bytes as usize);
            if let Some(stream) = &mut slot.stream {
                catch_panic(|| self.net.deregister(stream));
            }
            catch_panic(|| drop(slot));
            // The timer index itself may be inconsistent, so it is rebuilt.
            let checks = self
                .slots
                .iter()
                .filter_map(|slot| Some((slot.connection.id().slot(), slot.deadline_check?.get())));
            self.shared.timers.reset_deadline_checks(checks);
        }
        self.forget(id);
    }

    /// Drops what is stored for a connection outside of its slot, which is free already.
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

    /// Echoes lines, and counts the calls of `close`.
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

    /// Connects a client, and waits until the loop has `number` connections.
    fn connect(addr: &str, reactor: &mut Reactor<Echo>, number: usize) -> TcpStream {
        let client = TcpStream::connect(addr).expect("the loop listens");
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a valid timeout");
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
    fn connection_is_removed_without_callback_if_closing_panics() {
        let mut reactor = Reactor::bind("127.0.0.1:0", Echo::default()).expect("a port is free");
        let addr = reactor.local_addrs()[0].to_string();
        let mut clients: Vec<TcpStream> = (1..=3)
            .map(|number| connect(&addr, &mut reactor, number))
            .collect();
        // Its slot and the timer index disagree. Whatever moves its deadline finds that out and
        // panics, closing it included.
        let broken = reactor.slots.ids()[2]; // the first in its deadline's list
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

        // The next connection takes its slot, and the loop continues.
        clients[2] = connect(&addr, &mut reactor, 3);
        assert!(
            reactor
                .slots
                .ids()
                .iter()
                .any(|id| id.slot() == broken.slot() && *id != broken)
        );
        let written = reactor.counters().bytes_written;
        for client in &mut clients {
            client.write_all(b"alive\n").expect("the loop lives");
        }
        turn_until(&mut reactor, |reactor| {
            reactor.counters().bytes_written == written + 18
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

    /// An underflow of the memory sum stands for any bug in the code of a command.
    #[test]
    #[cfg(debug_assertions)]
    fn commands_after_a_panic_are_still_carried_out() {
        let mut reactor = Reactor::bind("127.0.0.1:0", Echo::default()).expect("a port is free");
        let addr = reactor.local_addrs()[0].to_string();
        let mut clients: Vec<TcpStream> = (1..=3)
            .map(|number| connect(&addr, &mut reactor, number))
            .collect();
        let ids = reactor.slots.ids();
        reactor
            .slots
            .get(ids[1])
            .expect("it is there")
            .counted_bytes = 5;
        reactor.with(ids[0], |_, cx| {
            cx.send_to(ids[1], &b"lost"[..]);
            cx.send_to(ids[2], &b"told"[..]);
            cx.connect(Vec::new(), Duration::from_secs(1), 0); // fails at once: `close` is called
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
    fn panic_in_immediate_stop_still_closes_all_connections() {
        let mut reactor = Reactor::bind("127.0.0.1:0", Echo::default()).expect("a port is free");
        let addr = reactor.local_addrs()[0].to_string();
        let _clients: Vec<TcpStream> = (1..=3)
            .map(|number| connect(&addr, &mut reactor, number))
            .collect();
        let first = reactor.slots.ids()[0];
        reactor.slots.get(first).expect("it is there").counted_bytes = 5;
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
