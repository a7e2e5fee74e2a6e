//! [`SimNet`]: the [`Net`] trait over the simulated world.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::link::{Dial, EndId};
use super::world::World;
use super::{Blame, Fault};
use crate::net::{Address, Established, Event, Net, Stream, Wake};

/// ENFILE, EMFILE and ENOBUFS. They have no [`ErrorKind`].
const NO_DESCRIPTOR: [i32; 2] = [23, 24];
const NO_BUFFER: i32 = 105;

/// Simulated sockets, readiness and clock.
///
/// With `SHORT_READ_IS_EMPTY` it keeps the promise of epoll and kqueue
/// ([`Net::SHORT_READ_IS_EMPTY`]). Without it, any read may be short.
#[derive(Debug)]
pub struct SimNet<const SHORT_READ_IS_EMPTY: bool = true> {
    pub(super) world: Rc<RefCell<World>>,
}

/// A socket of the loop in the simulated world.
pub struct SimStream {
    world: Rc<RefCell<World>>,
    id: EndId,
}

/// A listener of the loop in the simulated world.
#[derive(Debug)]
pub struct SimListener {
    pub(super) number: usize,
}

impl SimStream {
    fn new(world: &Rc<RefCell<World>>, id: EndId) -> Self {
        world.borrow_mut().sockets += 1;
        Self {
            world: world.clone(),
            id,
        }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        world.sockets -= 1;
        world.close(self.id, Blame::Loop);
    }
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimStream").field(&self.id).finish()
    }
}

impl Read for SimStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.world
            .borrow_mut()
            .recv(self.id, &mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.world.borrow_mut().recv(self.id, bufs)
    }
}

impl Write for SimStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.world.borrow_mut().send(self.id, buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for SimStream {
    fn established(&mut self) -> io::Result<Established> {
        let mut world = self.world.borrow_mut();
        let end = world.end(self.id);
        if let Some(error) = end.error.take() {
            return Err(error.into());
        }
        let broken = end.broken;
        let socket = end.loop_socket().expect("a socket of the loop");
        Ok(match socket.dial {
            // Its error was already reported, and the peer is no longer known: getpeername(2)
            // fails.
            Dial::Done if broken => Established::NotYet,
            Dial::Done => Established::Yes,
            Dial::SelfConnected => Established::WithItself,
            Dial::Pending => {
                socket.write_armed = true;
                Established::NotYet
            }
        })
    }

    fn shut_write(&mut self) -> io::Result<()> {
        self.world.borrow_mut().shut(self.id)
    }
}

/// Makes a poll return.
struct WakeFlag(Arc<AtomicBool>);

impl Wake for WakeFlag {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl<const SHORT_READ_IS_EMPTY: bool> Net for SimNet<SHORT_READ_IS_EMPTY> {
    type Listener = SimListener;
    type Stream = SimStream;
    const SHORT_READ_IS_EMPTY: bool = SHORT_READ_IS_EMPTY;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Instant> {
        self.world.borrow_mut().poll(events, timeout)
    }

    fn accept(&mut self, listener: &mut SimListener) -> io::Result<(SimStream, Address)> {
        let mut guard = self.world.borrow_mut();
        let world = &mut *guard;
        if world.inject(Fault::AcceptInterrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        let Some(waiting) = world.listeners[listener.number].backlog.front().copied() else {
            world.listeners[listener.number].armed = true;
            return Err(ErrorKind::WouldBlock.into());
        };
        if world.inject(Fault::AcceptNoDescriptor) || world.now < world.exhausted_until {
            if world.now >= world.exhausted_until && world.rng.one_in(2) {
                world.exhausted_until = world.now + world.short_delay();
            }
            return Err(io::Error::from_raw_os_error(world.rng.pick(&NO_DESCRIPTOR)));
        }
        if world.inject(Fault::AcceptNoMemory) {
            let no_buffer = world.rng.one_in(2);
            return Err(if no_buffer {
                io::Error::from_raw_os_error(NO_BUFFER)
            } else {
                ErrorKind::OutOfMemory.into()
            });
        }
        if world.inject(Fault::AcceptFailed) {
            return Err(ErrorKind::InvalidInput.into());
        }
        world.listeners[listener.number].backlog.pop_front();
        if world.inject(Fault::AcceptAborted) {
            world.abort(waiting, Blame::Net);
            return Err(world
                .rng
                .pick(&[
                    ErrorKind::ConnectionAborted,
                    ErrorKind::ConnectionReset,
                    ErrorKind::TimedOut,
                ])
                .into());
        }
        if world.inject(Fault::ResetBeforeAccept) {
            world.reset_link(waiting.link);
        }
        let peer = world.end(waiting.other()).addr.clone();
        drop(guard);
        Ok((SimStream::new(&self.world, waiting), peer))
    }

    fn connect(&mut self, addr: &Address) -> io::Result<SimStream> {
        let id = self.world.borrow_mut().dial(addr)?;
        Ok(SimStream::new(&self.world, id))
    }

    fn register(&mut self, stream: &mut SimStream, token: usize) -> io::Result<()> {
        self.world.borrow_mut().register(stream.id, token)
    }

    fn deregister(&mut self, stream: &mut SimStream) -> io::Result<()> {
        self.world.borrow_mut().deregister(stream.id)
    }

    fn listen(&mut self, listener: &mut SimListener, token: usize) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        let listener = &mut world.listeners[listener.number];
        (listener.token, listener.armed) = (Some(token), true);
        Ok(())
    }

    fn unlisten(&mut self, listener: SimListener) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        let listener = &mut world.listeners[listener.number];
        let (token, backlog) = (listener.token.take(), std::mem::take(&mut listener.backlog));
        if let Some(token) = token {
            world.add_former_token(token);
        }
        for waiting in backlog {
            world.abort(waiting, Blame::Net);
        }
        Ok(())
    }

    fn now(&self) -> Instant {
        self.world.borrow().instant()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(WakeFlag(self.world.borrow().wake_flag.clone()))
    }

    fn descriptor_limit(&self) -> Option<usize> {
        None
    }
}
