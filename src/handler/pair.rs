//! Two protocols on one loop: a handler made of two, each with its own codec and state.

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

/// A value of one of two types.
///
/// A [`Pair`] uses it for codecs, states, mail, frames and messages of its two handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<L, R> {
    /// A value of the first handler.
    Left(L),
    /// A value of the second handler.
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

/// Two handlers on one loop. Each connection belongs to one of them, from its beginning.
///
/// A function of the connection's [`Origin`] chooses the handler, usually by the number of the
/// listener. Each handler sees only its own connections. There are no boxes and no `dyn`: the cost
/// is one branch a call. Pairs can be made of pairs.
///
/// - A codec's error reaches [`Handler::close`] as that codec's own type, not as an [`Either`].
/// - Mail goes to the handler that it is addressed to.
/// - A timer of the loop is passed to both handlers. Each recognizes its own by the [`TimerId`].
///
/// **Trap:** a dial carries only a key ([`Origin::Dialed`]). The two handlers must use key ranges
/// that the function can tell apart.
///
/// **Trap:** [`Context::send_to`] and [`Context::send_to_many`] encode with the sender's codec. A
/// connection of the other handler would receive a frame of the wrong protocol.
///
/// ```
/// # use glassloop::{Codec, Context, Handler, Origin, Verdict, codec::Line};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Codec = Line;
/// #     type State = ();
/// #     type Mail = ();
/// #     fn connection(&mut self, _: &Origin) -> (Line, ()) { (Line::default(), ()) }
/// #     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
/// #         cx.send(line);
/// #         Verdict::Continue
/// #     }
/// # }
/// use glassloop::{Config, Either, Pair, Reactor};
///
/// let both = Pair::new(Echo, Echo, |origin| match origin {
///     Origin::Accepted { listener: 0, .. } => Either::Left(()),
///     _ => Either::Right(()),
/// });
/// let mut reactor = Reactor::new(both, Config::default())?;
/// reactor.listen("127.0.0.1:0")?; // listener 0: the left handler
/// reactor.listen("127.0.0.1:0")?; // listener 1: the right handler
/// # Ok::<(), glassloop::Error>(())
/// ```
#[derive(Debug)]
pub struct Pair<L, R> {
    /// The first handler.
    pub left: L,
    /// The second handler.
    pub right: R,
    /// Chooses the handler of a new connection.
    route: fn(&Origin) -> Either<(), ()>,
}

impl<L: Handler, R: Handler> Pair<L, R> {
    /// Combines two handlers. `route` returns which handler a new connection belongs to.
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
            _ => panic!("message of one protocol sent to a connection of the other"),
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

/// Calls `$call` with the context that one of the two handlers sees, made from the pair's context.
macro_rules! with_side {
    ($side:ident, $handler:ty, $cx:expr, $call:expr) => {{
        let cx = $cx;
        let (Either::$side(codec), Either::$side(state)) = (&mut *cx.codec, &mut *cx.state) else {
            panic!(
                "connection {} belongs to the other handler of the pair",
                cx.id
            )
        };
        let send_state = std::mem::replace(&mut cx.send_state, crate::handler::SendState::Closed);
        let (out, deadlines, check_from) = (&mut *cx.out, &mut *cx.deadlines, cx.check_from);
        let mut view: Context<'_, $handler> = Context {
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
        let result = $call(&mut view);
        cx.send_state = view.send_state;
        result
    }};
}

/// Passes a callback to the handler that owns the connection.
macro_rules! dispatch {
    ($pair:expr, $cx:expr, $handler:ident, $view:ident => $call:expr) => {
        match $cx.state() {
            Either::Left(_) => {
                let $handler = &mut $pair.left;
                with_side!(Left, L, $cx, |$view: &mut Context<'_, L>| $call)
            }
            Either::Right(_) => {
                let $handler = &mut $pair.right;
                with_side!(Right, R, $cx, |$view: &mut Context<'_, R>| $call)
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
        dispatch!(self, cx, handler, view => handler.open(view))
    }

    #[inline]
    fn frame(&mut self, frame: FrameOf<'_, Self>, cx: &mut Context<'_, Self>) -> Verdict {
        match frame {
            Either::Left(frame) => with_side!(Left, L, cx, |view: &mut Context<'_, L>| self
                .left
                .frame(frame, view)),
            Either::Right(frame) => with_side!(Right, R, cx, |view: &mut Context<'_, R>| self
                .right
                .frame(frame, view)),
        }
    }

    fn eof(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        dispatch!(self, cx, handler, view => handler.eof(view))
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        dispatch!(self, cx, handler, view => handler.drained(view))
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        dispatch!(self, cx, handler, view => handler.deadline(which, view))
    }

    fn timer(&mut self, timer: TimerId, cx: &mut Context<'_, Self>) -> Verdict {
        dispatch!(self, cx, handler, view => handler.timer(timer, view))
    }

    fn loop_timer(&mut self, timer: TimerId, cx: &mut LoopContext<'_, Self>) {
        let LoopContext {
            shared,
            connections,
        } = cx;
        // A panic of the left handler must not keep the timer from the right one.
        let left_returned = catch_panic(|| {
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
            left_returned.is_some(),
            "the left handler of the pair panicked in `loop_timer`"
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
        dispatch!(self, cx, handler, view => handler.close(view, reason));
    }
}

/// The connections of a pair that belong to its left handler.
struct LeftOf<'c, L: Handler, R: Handler>(&'c mut (dyn ConnectionAccess<Pair<L, R>> + 'c));

impl<L: Handler, R: Handler> ConnectionAccess<L> for LeftOf<'_, L, R> {
    fn call(
        &mut self,
        id: ConnectionId,
        shared: &mut Shared,
        callback: &mut Callback<'_, L>,
    ) -> bool {
        let mut is_own = false;
        self.0.call(id, shared, &mut |cx| match cx.state() {
            Either::Left(_) => {
                is_own = true;
                with_side!(Left, L, cx, &mut *callback)
            }
            Either::Right(_) => Verdict::Continue,
        });
        is_own
    }
}

/// The connections of a pair that belong to its right handler.
struct RightOf<'c, L: Handler, R: Handler>(&'c mut (dyn ConnectionAccess<Pair<L, R>> + 'c));

impl<L: Handler, R: Handler> ConnectionAccess<R> for RightOf<'_, L, R> {
    fn call(
        &mut self,
        id: ConnectionId,
        shared: &mut Shared,
        callback: &mut Callback<'_, R>,
    ) -> bool {
        let mut is_own = false;
        self.0.call(id, shared, &mut |cx| match cx.state() {
            Either::Right(_) => {
                is_own = true;
                with_side!(Right, R, cx, &mut *callback)
            }
            Either::Left(_) => Verdict::Continue,
        });
        is_own
    }
}
