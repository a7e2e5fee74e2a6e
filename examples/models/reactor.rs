//! The reactor: the library.
//!
//! ```text
//!   turn:  poll ─ waits ─► events ─► read ─► decode ─► frame() ─► encode ─► flush ─► deadlines ─► …
//!                                                        └── all that is left to be written
//! ```
//!
//! **Who waits, where:** one thread, in `epoll_wait` (kqueue, …), for everybody, for the next deadline, and for other threads.
//!
//! **Price:** one who computes in `frame` keeps all others waiting; and code that would wait in the middle has to be cut at that place, what it
//! remembers put into a state of its own. `netpoll.rs` takes that back.

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

/// Runs a loop for as long as the process lives. It counts its calls itself, but for a few that do not depend on requests: the accept that
/// says that nobody waits any more, one for each time that somebody came; and the `epoll_ctl`s of the listener and of the bell, at the start.
pub(crate) fn run<H: Handler>(handler: H, listener: &TcpListener) -> Result<(), Box<dyn Error>> {
    // Without the deadlines that the other models do not have: idle clients are kept.
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
