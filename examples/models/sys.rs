//! The system calls that the servers make, each counted: a model's cost is mainly its system calls.
//!
//! A thin layer: every function is one call, with its name from section 2 of the manual.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::event::{FdSetElement, PollFd, Timespec, epoll};

/// A kind of system call.
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

/// How often each was made, by all threads, in the order of [`Call::ALL`].
static COUNTS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
/// True once no further call may be made.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Counts a call that is about to be made. Parks the thread for good after [`stop_calls`].
fn count(call: Call) {
    while STOPPED.load(Ordering::Relaxed) {
        thread::park();
    }
    COUNTS[call as usize].fetch_add(1, Ordering::Relaxed);
}

/// Returns the counts so far, in the order of [`Call::ALL`].
pub(crate) fn counts() -> [u64; 5] {
    Call::ALL.map(|call| COUNTS[call as usize].load(Ordering::Relaxed))
}

/// Stops all further calls, so that the counts stay exact until the process ends, even for a server
/// that never blocks.
pub(crate) fn stop_calls() {
    STOPPED.store(true, Ordering::Relaxed);
}

/// Replaces the counts, for a server that makes and counts its calls elsewhere.
pub(crate) fn set_counts(counts: [u64; 5]) {
    for (call, value) in Call::ALL.into_iter().zip(counts) {
        COUNTS[call as usize].store(value, Ordering::Relaxed);
    }
}

/// `accept(2)`. Sets `TCP_NODELAY` on the new socket.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    count(Call::Accept);
    let (stream, _) = listener.accept()?;
    // Else a reply waits until the client's TCP acknowledges the one before (tcp(7)).
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// `read(2)`, repeated if a signal interrupts it.
pub(crate) fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        count(Call::Read);
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// `write(2)`, repeated if a signal interrupts it.
pub(crate) fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        count(Call::Write);
        match stream.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// `poll(2)` without a timeout. Returns 0 if a signal interrupts it.
pub(crate) fn poll(fds: &mut [PollFd<'_>]) -> io::Result<usize> {
    count(Call::Wait);
    ignore_interrupt(rustix::event::poll(fds, None))
}

/// `select(2)` without a timeout. Replaces the sets by their ready members. Returns 0 if a signal
/// interrupts it.
///
/// All members of the sets must be open descriptors.
pub(crate) fn select(
    highest: i32,
    read: &mut [FdSetElement],
    write: &mut [FdSetElement],
) -> io::Result<usize> {
    count(Call::Wait);
    // SAFETY: a descriptor in a set must be open, and stay open. The caller has just inserted the
    // descriptors of sockets that it owns, and is blocked in this call meanwhile.
    #[allow(unsafe_code)] // select(2) takes bare numbers, which is the point of the example
    let ready = unsafe { rustix::event::select(highest + 1, Some(read), Some(write), None, None) };
    ignore_interrupt(ready.map(i32::unsigned_abs).map(|count| count as usize))
}

/// `epoll_wait(2)`, without a timeout if `waits`, else with a timeout of zero. Appends to `events`,
/// up to its capacity. Returns 0 if a signal interrupts it.
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
    ignore_interrupt(epoll::wait(
        epoll,
        rustix::buffer::spare_capacity(events),
        timeout.as_ref(),
    ))
}

/// `epoll_ctl(2)` with `EPOLL_CTL_ADD`.
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

/// `epoll_ctl(2)` with `EPOLL_CTL_MOD`.
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

/// Replaces the error `EINTR` by 0 ready descriptors.
fn ignore_interrupt(result: rustix::io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(rustix::io::Errno::INTR) => Ok(0),
        result => Ok(result?),
    }
}
