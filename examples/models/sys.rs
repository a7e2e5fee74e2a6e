//! The system calls that the servers make, each counted: what a model costs is how often it goes to the kernel.
//!
//! A thin layer: every function is one call, under the name that it has in the manual (section 2).

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::event::{FdSetElement, PollFd, Timespec, epoll};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Accept,
    Read,
    Write,
    /// `select`, `poll` or `epoll_wait`.
    Wait,
    /// `epoll_ctl`.
    Control,
}

impl Call {
    pub(crate) const ALL: [Call; 5] = [
        Call::Accept,
        Call::Read,
        Call::Write,
        Call::Wait,
        Call::Control,
    ];
}

/// How often each was made, by all threads.
static COUNTS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
static OVER: AtomicBool = AtomicBool::new(false);

fn count(call: Call) {
    while OVER.load(Ordering::Relaxed) {
        thread::park();
    }
    COUNTS[call as usize].fetch_add(1, Ordering::Relaxed);
}

/// So far, in the order of [`Call::ALL`].
pub(crate) fn counts() -> [u64; 5] {
    Call::ALL.map(|call| COUNTS[call as usize].load(Ordering::Relaxed))
}

/// From here on no call is made: the counts stay true to the end of the process, also of who never waits.
pub(crate) fn make_no_more() {
    OVER.store(true, Ordering::Relaxed);
}

/// For who makes calls elsewhere and counts them there.
pub(crate) fn set_counts(counts: [u64; 5]) {
    for (call, value) in Call::ALL.into_iter().zip(counts) {
        COUNTS[call as usize].store(value, Ordering::Relaxed);
    }
}

pub(crate) fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    count(Call::Accept);
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?; // an ack is not to wait for the ack of the one before (tcp(7))
    Ok(stream)
}

pub(crate) fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        count(Call::Read);
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

pub(crate) fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        count(Call::Write);
        match stream.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// `poll(2)`, for as long as it takes.
pub(crate) fn poll(fds: &mut [PollFd<'_>]) -> io::Result<usize> {
    count(Call::Wait);
    interrupted_is_nothing(rustix::event::poll(fds, None))
}

/// `select(2)`, for as long as it takes. The sets are replaced by what is ready in them.
///
/// All of their members must be open descriptors.
pub(crate) fn select(
    highest: i32,
    read: &mut [FdSetElement],
    write: &mut [FdSetElement],
) -> io::Result<usize> {
    count(Call::Wait);
    // SAFETY: a descriptor in a set must be open, and stay so. Who calls has just put in those of sockets that it owns, and waits meanwhile.
    #[allow(unsafe_code)] // select(2) takes bare numbers: just that is the lesson
    let ready = unsafe { rustix::event::select(highest + 1, Some(read), Some(write), None, None) };
    interrupted_is_nothing(ready.map(i32::unsigned_abs).map(|count| count as usize))
}

/// `epoll_wait(2)`, for as long as it takes, or not at all. Adds to `events`, up to their capacity.
pub(crate) fn epoll_wait(
    epoll: &OwnedFd,
    events: &mut Vec<epoll::Event>,
    waits: bool,
) -> io::Result<usize> {
    count(Call::Wait);
    let timeout = (!waits).then_some(Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    });
    interrupted_is_nothing(epoll::wait(
        epoll,
        rustix::buffer::spare_capacity(events),
        timeout.as_ref(),
    ))
}

pub(crate) fn epoll_add(
    epoll: &OwnedFd,
    fd: impl AsFd,
    key: u64,
    interest: epoll::EventFlags,
) -> io::Result<()> {
    count(Call::Control);
    Ok(epoll::add(
        epoll,
        fd,
        epoll::EventData::new_u64(key),
        interest,
    )?)
}

pub(crate) fn epoll_modify(
    epoll: &OwnedFd,
    fd: impl AsFd,
    key: u64,
    interest: epoll::EventFlags,
) -> io::Result<()> {
    count(Call::Control);
    Ok(epoll::modify(
        epoll,
        fd,
        epoll::EventData::new_u64(key),
        interest,
    )?)
}

fn interrupted_is_nothing(result: rustix::io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(rustix::io::Errno::INTR) => Ok(0),
        result => Ok(result?),
    }
}
