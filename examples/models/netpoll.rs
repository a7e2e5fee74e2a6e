//! Straight-line code on the reactor, on one thread: the programming model of Go's netpoller.
//!
//! ```text
//!   handle(conn):  read().await ┄ parked ┄► feed ─► write().await ─► read().await ┄ …
//!                       ▲ │                         a task per client (Go: goroutine)
//!                  wake │ │ park
//!                       │ ▼
//!   the reactor:   poll ─ waits ─► events ─► read ─► frame() ─► … ─► flush
//!                                                      one thread for all clients
//! ```
//!
//! **Which thread waits, and where:** each task appears to wait in `read().await`. In fact one
//! thread waits, in `epoll_wait`. A parked task is a value on the heap: about a kilobyte, half of
//! it its buffer.
//!
//! **Price:** an allocation for each client, and a copy of each chunk of bytes. A task that
//! computes delays all others; Go has more threads for that.
//!
//! Compare [`handle`] with the function of the same name in `threads.rs`.

use std::cell::RefCell;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll, Waker};

use bytes::{BufMut, BytesMut};
use glassloop::{Context, Handler, Origin, Verdict};

use super::chunks::Chunks;
use super::reactor::run;
use super::session::Session;

async fn handle(stream: Stream) {
    let (mut session, mut buffer) = (Session::default(), [0; 512]);
    while !session.is_done() {
        let count = stream.read(&mut buffer).await; // waits
        session.feed(&buffer[..count]);
        while session.wants_write() {
            let count = stream.write(session.output()).await; // waits
            session.sent(count);
        }
    }
}

/// A task's connection: the task's side of two byte pipes, from the reactor and to it. Go's
/// `pollDesc`.
#[derive(Clone, Default)]
struct Stream(Rc<RefCell<Pipes>>);

#[derive(Default)]
struct Pipes {
    incoming: BytesMut,
    eof: bool,
    outgoing: BytesMut,
    has_room: bool,
}

impl Stream {
    /// Reads some bytes, or 0 at the end of the stream, as read(2). Parks the task while there are
    /// none.
    async fn read(&self, buffer: &mut [u8]) -> usize {
        poll_fn(|_| {
            let Pipes { incoming, eof, .. } = &mut *self.0.borrow_mut();
            if incoming.is_empty() && !*eof {
                return Poll::Pending;
            }
            let count = incoming.len().min(buffer.len());
            buffer[..count].copy_from_slice(&incoming.split_to(count));
            Poll::Ready(count)
        })
        .await
    }

    /// Writes all of `bytes`, once there is room. A peer that does not read parks the task.
    async fn write(&self, bytes: &[u8]) -> usize {
        poll_fn(|_| {
            let Pipes {
                outgoing, has_room, ..
            } = &mut *self.0.borrow_mut();
            if !*has_room {
                return Poll::Pending;
            }
            outgoing.put_slice(bytes);
            *has_room = false; // until the reactor has counted these bytes
            Poll::Ready(bytes.len())
        })
        .await
    }
}

/// The executor. It polls a task when its connection has an event. Nothing else can wake a task, so
/// it keeps no queue of ready tasks.
struct Executor;

/// A parked task.
struct Task {
    stream: Stream,
    code: Pin<Box<dyn Future<Output = ()>>>,
}

impl Executor {
    /// Polls the connection's task until it is parked or done, and sends what it has written.
    fn poll_task(cx: &mut Context<'_, Self>) -> Verdict {
        loop {
            let has_room = cx.has_room();
            let Task { stream, code } = cx.state();
            stream.0.borrow_mut().has_room = has_room;
            let is_done = code
                .as_mut()
                .poll(&mut task::Context::from_waker(Waker::noop()))
                .is_ready();
            let (outgoing, has_input) = {
                let mut pipes = stream.0.borrow_mut();
                (pipes.outgoing.split(), !pipes.incoming.is_empty())
            };
            cx.send(&outgoing[..]);
            match (is_done, outgoing.is_empty(), has_input) {
                (true, ..) => return Verdict::Close,
                (_, false, _) => {} // it has written, and may have more to write
                (_, true, true) => return Verdict::Pause, // it waits for room, and does not read
                (_, true, false) => return Verdict::Continue, // it waits for input
            }
        }
    }
}

impl Handler for Executor {
    type Codec = Chunks;
    type State = Task;
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Chunks, Task) {
        let stream = Stream::default();
        (
            Chunks,
            Task {
                stream: stream.clone(),
                code: Box::pin(handle(stream)),
            },
        )
    }

    fn frame(&mut self, bytes: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        cx.state().stream.0.borrow_mut().incoming.put_slice(bytes);
        Self::poll_task(cx)
    }

    fn eof(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        cx.state().stream.0.borrow_mut().eof = true;
        Self::poll_task(cx)
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let verdict = Self::poll_task(cx);
        if verdict == Verdict::Continue {
            let id = cx.id();
            cx.resume(id);
        }
        verdict
    }
}

pub(crate) fn serve(listener: &TcpListener) -> Result<(), Box<dyn Error>> {
    run(Executor, listener)
}
