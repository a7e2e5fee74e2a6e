//! What the server does with a request: acknowledge it.

use glassloop::submit::{Ack, Dialect, Id, Kind, Outcome, Request, ServerCodec};
use glassloop::{Context, Handler, Origin, Verdict};

/// The submit/ack service, for all connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    pub(crate) dialect: Dialect,
    /// The longest request that is taken, in bytes of `totalLength`.
    pub(crate) max_frame: u32,
    /// Whether a connection must begin with a `conn`.
    pub(crate) require_conn: bool,
}

/// How far a connection's session has come.
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

/// A submit came before the conn.
// By itself, so that a request which nobody prints need not be kept in memory.
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
