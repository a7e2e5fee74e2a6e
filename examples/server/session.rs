//! The submit/ack service: acknowledges each request.

use glassloop::submit::{Ack, Dialect, Id, Kind, Outcome, Request, ServerCodec};
use glassloop::{Context, Handler, Origin, Verdict};

/// The handler of all connections of the submit/ack service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    pub(crate) dialect: Dialect,
    /// Longest accepted request, in bytes of `totalLength`.
    pub(crate) max_frame: u32,
    /// Whether a connection must begin with a `conn`.
    pub(crate) require_conn: bool,
}

/// The state of a connection's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    AwaitsConn,
    Ready,
}

impl Handler for Service {
    type Codec = ServerCodec;
    type State = Session;
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (ServerCodec, Session) {
        let session = if self.require_conn {
            Session::AwaitsConn
        } else {
            Session::Ready
        };
        (
            ServerCodec::with_max_frame(self.dialect, self.max_frame),
            session,
        )
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        if self.require_conn {
            cx.expect_handshake();
        }
        Verdict::Continue
    }

    #[inline]
    fn frame(&mut self, request: Request<'_>, cx: &mut Context<'_, Self>) -> Verdict {
        if let Session::AwaitsConn = cx.state() {
            match request.kind {
                Kind::Conn => *cx.state() = Session::Ready,
                Kind::Submit => return refuse(request.id, cx),
            }
        }
        cx.send(request.ack(Outcome::Done));
        Verdict::Continue
    }
}

/// Refuses a submit that came before the conn.
// A function of its own, so that `frame` need not keep the request in memory for the log line.
#[cold]
fn refuse(id: Id, cx: &mut Context<'_, Service>) -> Verdict {
    log::debug!("connection {}: submit {id} before conn is refused", cx.id());
    cx.send(Ack {
        kind: Kind::Submit,
        id,
        outcome: Outcome::Failed,
    });
    Verdict::Close
}
