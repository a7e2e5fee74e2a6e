//! Two protocols on one loop: a handler made of two, each with its own codec and its own state.

use std::error::Error;
use std::fmt;

use bytes::BytesMut;

use crate::codec::{Codec, Input};
use crate::error::CloseReason;
use crate::error::panics::catch_panic;
use crate::handler::{
    Callback, ConnectionAccess, Context, FrameOf, Handler, LoopContext, Origin, Shared,
};
use crate::id::ConnectionId;
use crate::state::{Direction, Verdict};
use crate::time::TimerId;

/// One of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<L, R> {
    /// The first one's.
    Left(L),
    /// The second one's.
    Right(R),
}

impl<L: fmt::Display, R: fmt::Display> fmt::Display for Either<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Either::Left(left) => left.fmt(f),
            Either::Right(right) => right.fmt(f),
        }
    }
}

impl<L: Error, R: Error> Error for Either<L, R> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Either::Left(left) => left.source(),
            Either::Right(right) => right.source(),
        }
    }
}

/// Two handlers on one loop: each connection belongs to one of them, from its first moment on.
///
/// Which one, a function of the connection's [`Origin`] says, as a rule by the number of its listener. Each handler sees
/// connections of its own only, and nothing of the other. No boxes, no `dyn`: what it costs is a branch a call. Pairs can be made of pairs.
///
/// A codec's error reaches [`Handler::close`] as that codec's own, and not as an [`Either`]. Mail goes to the one it is addressed to. Of a loop timer both are told; each knows its own by the [`TimerId`].
///
/// **Trap:** a dial carries a key only ([`Origin::Dialed`]): the two must choose theirs from ranges that the function can tell apart.
///
/// **Trap:** [`Context::send_to`] and [`Context::send_to_many`] encode with the sender's codec.
/// Sent to a connection of the other handler, that is another protocol's frame.
///
/// ```
/// # use glassloop::{Codec, Context, Handler, Origin, Verdict, codec::Line};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Codec = Line;
/// #     type State = ();
/// #     type Mail = ();
/// #     fn connection(&mut self, _: &Origin) -> (Line, ()) { (Line::default(), ()) }
/// #     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict { cx.send(line); Verdict::Continue }
/// # }
/// use glassloop::{Config, Either, Pair, Reactor};
///
/// let both = Pair::new(Echo, Echo, |origin| match origin {
///     Origin::Accepted { listener: 0, .. } => Either::Left(()),
///     _ => Either::Right(()),
/// });
/// let mut reactor = Reactor::new(both, Config::default())?;
/// reactor.listen("127.0.0.1:0")?; // number 0: the first one's
/// reactor.listen("127.0.0.1:0")?; // number 1: the second one's
/// # Ok::<(), glassloop::Error>(())
/// ```
#[derive(Debug)]
pub struct Pair<L, R> {
    /// The first handler.
    pub left: L,
    /// The second one.
    pub right: R,
    route: fn(&Origin) -> Either<(), ()>,
}

impl<L: Handler, R: Handler> Pair<L, R> {
    /// Puts two handlers together; `route` says whose a new connection is.
    pub fn new(left: L, right: R, route: fn(&Origin) -> Either<(), ()>) -> Self {
        Self { left, right, route }
    }
}

/// A frame of one of the two protocols.
type FrameOfEither<'a, L, R> = Either<<L as Codec>::Frame<'a>, <R as Codec>::Frame<'a>>;

impl<L: Codec, R: Codec> Codec for Either<L, R> {
    type Frame<'a> = Either<L::Frame<'a>, R::Frame<'a>>;
    type Message<'a> = Either<L::Message<'a>, R::Message<'a>>;
    type Error = Either<L::Error, R::Error>;

    fn decode<'a>(
        &mut self,
        input: &mut Input<'a>,
    ) -> Result<Option<FrameOfEither<'a, L, R>>, Self::Error> {
        match self {
            Either::Left(codec) => codec
                .decode(input)
                .map(|frame| frame.map(Either::Left))
                .map_err(Either::Left),
            Either::Right(codec) => codec
                .decode(input)
                .map(|frame| frame.map(Either::Right))
                .map_err(Either::Right),
        }
    }

    fn encode(
        &mut self,
        message: Self::Message<'_>,
        out: &mut BytesMut,
    ) -> Result<(), Self::Error> {
        match (self, message) {
            (Either::Left(codec), Either::Left(message)) => {
                codec.encode(message, out).map_err(Either::Left)
            }
            (Either::Right(codec), Either::Right(message)) => {
                codec.encode(message, out).map_err(Either::Right)
            }
            _ => panic!("a message of one protocol for a connection of the other"),
        }
    }

    fn boxed(error: Self::Error) -> Box<dyn Error + Send + Sync> {
        match error {
            Either::Left(error) => L::boxed(error),
            Either::Right(error) => R::boxed(error),
        }
    }

    fn max_frame(&self) -> usize {
        match self {
            Either::Left(codec) => codec.max_frame(),
            Either::Right(codec) => codec.max_frame(),
        }
    }
}

/// A context of the pair, as one of the two sees it.
macro_rules! seen_by {
    ($side:ident, $handler:ty, $cx:expr, $call:expr) => {{
        let cx = $cx;
        let (Either::$side(codec), Either::$side(state)) = (&mut *cx.codec, &mut *cx.state) else {
            panic!("connection {} is not the one's it was said to be", cx.id)
        };
        let send_state = std::mem::replace(&mut cx.send_state, crate::handler::SendState::Closed);
        let (out, deadlines, check_from) = (&mut *cx.out, &mut *cx.deadlines, cx.check_from);
        let mut seen: Context<'_, $handler> = Context {
            id: cx.id,
            peer: cx.peer,
            codec,
            state,
            out,
            shared: &mut *cx.shared,
            send_state,
            check_from,
            deadlines,
        };
        let answer = $call(&mut seen);
        cx.send_state = seen.send_state;
        answer
    }};
}

/// Hands a callback to whose connection it is.
macro_rules! whose {
    ($pair:expr, $cx:expr, $handler:ident, $seen:ident => $call:expr) => {
        match $cx.state() {
            Either::Left(_) => {
                let $handler = &mut $pair.left;
                seen_by!(Left, L, $cx, |$seen: &mut Context<'_, L>| $call)
            }
            Either::Right(_) => {
                let $handler = &mut $pair.right;
                seen_by!(Right, R, $cx, |$seen: &mut Context<'_, R>| $call)
            }
        }
    };
}

impl<L: Handler, R: Handler> Handler for Pair<L, R> {
    type Codec = Either<L::Codec, R::Codec>;
    type State = Either<L::State, R::State>;
    type Mail = Either<L::Mail, R::Mail>;

    fn connection(&mut self, origin: &Origin) -> (Self::Codec, Self::State) {
        match (self.route)(origin) {
            Either::Left(()) => {
                let (codec, state) = self.left.connection(origin);
                (Either::Left(codec), Either::Left(state))
            }
            Either::Right(()) => {
                let (codec, state) = self.right.connection(origin);
                (Either::Right(codec), Either::Right(state))
            }
        }
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        whose!(self, cx, handler, seen => handler.open(seen))
    }

    #[inline]
    fn frame(&mut self, frame: FrameOf<'_, Self>, cx: &mut Context<'_, Self>) -> Verdict {
        match frame {
            Either::Left(frame) => seen_by!(Left, L, cx, |seen: &mut Context<'_, L>| self
                .left
                .frame(frame, seen)),
            Either::Right(frame) => seen_by!(Right, R, cx, |seen: &mut Context<'_, R>| self
                .right
                .frame(frame, seen)),
        }
    }

    fn eof(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        whose!(self, cx, handler, seen => handler.eof(seen))
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        whose!(self, cx, handler, seen => handler.drained(seen))
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        whose!(self, cx, handler, seen => handler.deadline(which, seen))
    }

    fn timer(&mut self, timer: TimerId, cx: &mut Context<'_, Self>) -> Verdict {
        whose!(self, cx, handler, seen => handler.timer(timer, seen))
    }

    fn loop_timer(&mut self, timer: TimerId, cx: &mut LoopContext<'_, Self>) {
        let LoopContext {
            shared,
            connections,
        } = cx;
        // A panic of the one is no reason not to tell the other.
        let told = catch_panic(|| {
            self.left.loop_timer(
                timer,
                &mut LoopContext {
                    shared,
                    connections: &mut LeftOf(&mut **connections),
                },
            );
        });
        self.right.loop_timer(
            timer,
            &mut LoopContext {
                shared,
                connections: &mut RightOf(&mut **connections),
            },
        );
        assert!(
            told.is_some(),
            "the first of the two handlers panicked over a timer of the loop"
        );
    }

    fn mail(&mut self, mail: Self::Mail, cx: &mut LoopContext<'_, Self>) {
        let LoopContext {
            shared,
            connections,
        } = cx;
        match mail {
            Either::Left(mail) => {
                let mut connections = LeftOf(&mut **connections);
                self.left.mail(
                    mail,
                    &mut LoopContext {
                        shared,
                        connections: &mut connections,
                    },
                );
            }
            Either::Right(mail) => {
                let mut connections = RightOf(&mut **connections);
                self.right.mail(
                    mail,
                    &mut LoopContext {
                        shared,
                        connections: &mut connections,
                    },
                );
            }
        }
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        whose!(self, cx, handler, seen => handler.close(seen, reason));
    }
}

/// Those connections of a pair that are its first handler's.
struct LeftOf<'c, L: Handler, R: Handler>(&'c mut (dyn ConnectionAccess<Pair<L, R>> + 'c));

impl<L: Handler, R: Handler> ConnectionAccess<L> for LeftOf<'_, L, R> {
    fn call(
        &mut self,
        id: ConnectionId,
        shared: &mut Shared,
        callback: &mut Callback<'_, L>,
    ) -> bool {
        let mut its_own = false;
        self.0.call(id, shared, &mut |cx| match cx.state() {
            Either::Left(_) => {
                its_own = true;
                seen_by!(Left, L, cx, &mut *callback)
            }
            Either::Right(_) => Verdict::Continue,
        });
        its_own
    }
}

/// Those that are its second one's.
struct RightOf<'c, L: Handler, R: Handler>(&'c mut (dyn ConnectionAccess<Pair<L, R>> + 'c));

impl<L: Handler, R: Handler> ConnectionAccess<R> for RightOf<'_, L, R> {
    fn call(
        &mut self,
        id: ConnectionId,
        shared: &mut Shared,
        callback: &mut Callback<'_, R>,
    ) -> bool {
        let mut its_own = false;
        self.0.call(id, shared, &mut |cx| match cx.state() {
            Either::Right(_) => {
                its_own = true;
                seen_by!(Right, R, cx, &mut *callback)
            }
            Either::Left(_) => Verdict::Continue,
        });
        its_own
    }
}
