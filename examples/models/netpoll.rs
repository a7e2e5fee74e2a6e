//! The netpoller's illusion: straight-line code on the reactor, on one thread.
//!
//! ```text
//!   handle(conn):  read().await ┄ parked ┄► feed ─► write().await ─► read().await ┄ parked ┄► …      a task for each client
//!                       ▲ │                                                                          (Go: a goroutine)
//!                  wake │ │ park
//!                       │ ▼
//!   the reactor:   poll ─ waits ─► events ─► read ─► frame() ─► … ─► flush                           one thread for all
//! ```
//!
//! **Who waits, where:** each task, in `read().await`, as it seems. In truth one thread, in `epoll_wait`: what waits is a value on the heap, about a kilobyte, half of it its buffer.
//!
//! **Price:** an allocation for each client, a copy of each chunk of bytes; and a task that computes keeps all others waiting. Go has more threads for that.
//!
//! Compare [`handle`] with its namesake in `threads.rs`.

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

/// What a task knows of its connection: its end of two pipes, to the reactor and from it. Go's `pollDesc`.
#[derive(Clone, Default)]
struct Stream(Rc<RefCell<Pipes>>);

#[derive(Default)]
struct Pipes {
    came: BytesMut,
    ended: bool,
    goes: BytesMut,
    has_room: bool,
}

impl Stream {
    /// Some bytes, or none at the end: as read(2), but while there is nothing the task is parked.
    async fn read(&self, buffer: &mut [u8]) -> usize {
        poll_fn(|_| {
            let Pipes { came, ended, .. } = &mut *self.0.borrow_mut();
            if came.is_empty() && !*ended {
                return Poll::Pending;
            }
            let count = came.len().min(buffer.len());
            buffer[..count].copy_from_slice(&came.split_to(count));
            Poll::Ready(count)
        })
        .await
    }

    /// Takes all of them, once there is room: a peer that does not read parks the task.
    async fn write(&self, bytes: &[u8]) -> usize {
        poll_fn(|_| {
            let Pipes { goes, has_room, .. } = &mut *self.0.borrow_mut();
            if !*has_room {
                return Poll::Pending;
            }
            goes.put_slice(bytes);
            *has_room = false; // until the reactor has seen how much that was
            Poll::Ready(bytes.len())
        })
        .await
    }
}

/// The executor: it lets the task go on whose connection has news. Nothing else can wake one, so it needs no list of those who are awake.
struct Executor;

/// A parked task.
struct Task {
    stream: Stream,
    code: Pin<Box<dyn Future<Output = ()>>>,
}

impl Executor {
    fn wake(cx: &mut Context<'_, Self>) -> Verdict {
        loop {
            let has_room = cx.has_room();
            let Task { stream, code } = cx.state();
            stream.0.borrow_mut().has_room = has_room;
            let over = code
                .as_mut()
                .poll(&mut task::Context::from_waker(Waker::noop()))
                .is_ready();
            let (goes, is_full) = {
                let mut pipes = stream.0.borrow_mut();
                (pipes.goes.split(), !pipes.came.is_empty())
            };
            cx.send(&goes[..]);
            match (over, goes.is_empty(), is_full) {
                (true, ..) => return Verdict::Close,
                (_, false, _) => {} // it had something to say, and may have more
                (_, true, true) => return Verdict::Pause, // it waits for room, and reads nothing meanwhile
                (_, true, false) => return Verdict::Continue, // it waits for the peer
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
        cx.state().stream.0.borrow_mut().came.put_slice(bytes);
        Self::wake(cx)
    }

    fn eof(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        cx.state().stream.0.borrow_mut().ended = true;
        Self::wake(cx)
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let verdict = Self::wake(cx);
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
