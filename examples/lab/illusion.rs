//! A netpoller in fifty lines: tasks whose reads seem to wait, on one thread that waits in
//! `epoll_wait` only.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Poll, Waker};

use mio::{Events, Interest, Token};

use super::tools::{self, PATIENCE};

/// What was done, in its order.
type Steps = Rc<RefCell<Vec<String>>>;

/// Straight-line code, as a goroutine's.
async fn handle(mut stream: Stream) -> io::Result<()> {
    stream.read(&mut [0; 16]).await?; // waits, so it seems
    Ok(())
}

/// A non-blocking socket with a read that seems to wait: what `FD.Read` of Go's `internal/poll` is.
struct Stream {
    name: &'static str,
    socket: mio::net::TcpStream,
    steps: Steps,
}

impl Stream {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|_| {
            let result = self.socket.read(buffer);
            let parks = result
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            let then = if parks { ", the task is parked" } else { "" };
            self.steps.borrow_mut().push(format!(
                "{}: read, {}{then}",
                self.name,
                tools::result(&result)
            ));
            if parks {
                Poll::Pending
            } else {
                Poll::Ready(result)
            }
        })
        .await
    }
}

/// A task: Go's G.
struct Task {
    name: &'static str,
    code: Pin<Box<dyn Future<Output = io::Result<()>>>>,
}

/// Runs a task for each socket until all are over, and says what was done; meanwhile `over` counts
/// those that are.
///
/// Each goes on until it is parked, and again whenever its socket has news. Between them the thread
/// waits for all sockets at once.
pub(crate) fn run(
    sockets: Vec<(&'static str, TcpStream)>,
    over: &AtomicUsize,
) -> io::Result<Vec<String>> {
    let (mut poll, mut events) = (mio::Poll::new()?, Events::with_capacity(8));
    let (steps, mut tasks) = (Steps::default(), Vec::new());
    for (name, socket) in sockets {
        let mut socket = mio::net::TcpStream::from_std(socket);
        poll.registry()
            .register(&mut socket, Token(tasks.len()), Interest::READABLE)?; // once
        tasks.push(Task {
            name,
            code: Box::pin(handle(Stream {
                name,
                socket,
                steps: steps.clone(),
            })),
        });
    }
    let resume_connection = |task: &mut Task| match task
        .code
        .as_mut()
        .poll(&mut task::Context::from_waker(Waker::noop()))
    {
        Poll::Pending => Ok(()),
        Poll::Ready(result) => {
            over.fetch_add(1, Ordering::Relaxed);
            result
        }
    };
    tasks.iter_mut().try_for_each(resume_connection)?;
    while over.load(Ordering::Relaxed) < tasks.len() {
        poll.poll(&mut events, Some(PATIENCE))?;
        if events.is_empty() {
            return Err(ErrorKind::TimedOut.into());
        }
        for event in &events {
            let task = &mut tasks[event.token().0];
            steps
                .borrow_mut()
                .push(format!("epoll_wait, {} is woken", task.name));
            resume_connection(task)?;
        }
    }
    Ok(steps.take())
}
