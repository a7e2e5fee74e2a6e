//! The reactor: a server on the library.
//!
//! ```text
//!   turn:  poll ─ waits ─► events ─► read ─► decode ─► frame() ─► encode ─► flush ─► …
//!                                                        └── the only code to write
//! ```
//!
//! **Which thread waits, and where:** one thread, in `epoll_wait` (kqueue, …), for all sockets, for
//! the next deadline, and for other threads.
//!
//! **Price:** a `frame` that computes for long delays all other connections. Code that would wait
//! in the middle must be split there, and its local variables move into the connection's state.
//! `netpoll.rs` avoids the split.

use std::error::Error;
use std::net::TcpListener;

use glassloop::submit::{Request, ServerCodec};
use glassloop::{Config, Context, Counters, Handler, Origin, Reactor, Turn, Verdict};

use super::session::answer;
use super::sys;

struct Service;

impl Handler for Service {
    type Codec = ServerCodec;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (ServerCodec, ()) {
        Default::default()
    }

    fn frame(&mut self, request: Request<'_>, cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(answer(&request));
        Verdict::Continue
    }
}

pub(crate) fn serve(listener: &TcpListener) -> Result<(), Box<dyn Error>> {
    run(Service, listener)
}

/// Runs a reactor until the process ends, and publishes the calls that it counts.
///
/// A few calls that do not depend on requests are not counted: the `accept` that finds the backlog
/// empty, once per accept event; and at the start the `epoll_ctl` calls for the listener and the
/// waker.
pub(crate) fn run<H: Handler>(handler: H, listener: &TcpListener) -> Result<(), Box<dyn Error>> {
    // The other models have no deadlines, so idle clients are kept here too.
    let config = Config {
        idle_timeout: None,
        ..Config::default()
    };
    let mut reactor = Reactor::new(handler, config)?;
    reactor.listen_on(listener.try_clone()?)?;
    while reactor.turn(None)? == Turn::Running {
        let Counters {
            accepted,
            accept_errors,
            reads,
            writes,
            polls,
            registrations,
            ..
        } = reactor.counters();
        sys::set_counts([
            accepted + accept_errors,
            reads,
            writes,
            polls,
            registrations,
        ]);
    }
    Ok(())
}
