//! A reactor under test, as a process of its own: it may hang or spin, and is killed afterwards.

use std::fs;
use std::io::BufRead;
use std::os::fd::AsRawFd;
use std::process;
use std::sync::atomic::Ordering;

use super::{Setting, Wrong};
use crate::linux::parts::Player;
use crate::linux::prelude::*;
use crate::linux::service::submit;

/// The loop counts as sleeping if this many looks in a row find it asleep.
pub(super) const LOOKS: u32 = 10;
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// With nothing to do, a count this high means that the loop spins.
const TOO_MANY: usize = 1000;
/// The requested size of small buffers. The kernel doubles it.
const BUFFER: usize = 4096;
/// How many clients find a descriptor, where descriptors are few.
const DESCRIPTORS: i32 = 4;
/// The name of the part that such a process plays.
pub(super) const PART: &str = "reactor";

pub(super) struct Subject {
    player: Player,
    addr: SocketAddr,
    setting: Setting,
}

impl Subject {
    /// Starts the process, with the mistake or with the fix. It listens; it serves after `go`.
    pub(super) fn start(wrong: &Wrong, version: usize) -> io::Result<Self> {
        let mut player = Player::start(PART, &[wrong.id, &version.to_string()])?;
        let addr = player.line()?.parse().map_err(io::Error::other)?;
        Ok(Self {
            player,
            addr,
            setting: wrong.setting,
        })
    }

    /// Lets it serve.
    pub(super) fn go(&mut self) -> io::Result<()> {
        self.player.tell("go")
    }

    /// What the reactor has counted.
    pub(super) fn count(&mut self) -> io::Result<usize> {
        self.player.tell("count")?;
        self.player.line()?.parse().map_err(io::Error::other)
    }

    /// A new client.
    pub(super) fn connect(&self) -> io::Result<TcpStream> {
        let size = self.setting.buffer();
        let stream = connected(self.addr, size, size)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Bytes of a client that have reached the reactor's socket and are unread. The end counts as
    /// 1.
    pub(super) fn unread(&self, client: &TcpStream) -> io::Result<usize> {
        Ok(queues(self.addr, Some(client.local_addr()?))?.received)
    }

    /// Waits until all that a client has sent is there.
    pub(super) fn await_unread(&self, client: &TcpStream, bytes: usize) -> io::Result<()> {
        await_that("what the client has sent does not arrive", || {
            self.unread(client).is_ok_and(|unread| unread == bytes)
        })
    }

    /// Waits until the loop sleeps in several looks, one after the other.
    ///
    /// A woken thread is not asleep, even while it waits for a CPU. So a loop that is found asleep
    /// has nothing to do, however busy the machine is.
    pub(super) fn sleeps(&self) -> io::Result<()> {
        let mut looks = 0;
        await_that("the loop does not come to rest", || {
            thread::sleep(BETWEEN_LOOKS);
            looks = if self.is_asleep() { looks + 1 } else { 0 };
            looks == LOOKS
        })
    }

    /// Whether the loop's thread, the process's first, waits for something (proc(5)).
    pub(super) fn is_asleep(&self) -> bool {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.player.id())).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('S'))
    }

    /// With nothing to do, whether its count still rises: how far and how fast; `None` if it
    /// sleeps.
    pub(super) fn spins(&mut self, what: &str) -> io::Result<Option<String>> {
        let (begun, first) = (Instant::now(), self.count()?);
        let mut looks = 0;
        while looks < LOOKS {
            let counted = self.count()? - first;
            if counted >= TOO_MANY {
                let (count, took) = (thousands(counted), millis(begun.elapsed()));
                return Ok(Some(format!("{count} {what} in {took:.0} ms")));
            }
            if begun.elapsed() > PATIENCE {
                return Err(fail("it neither sleeps nor spins"));
            }
            thread::sleep(BETWEEN_LOOKS);
            looks = if self.is_asleep() { looks + 1 } else { 0 };
        }
        Ok(None)
    }
}

impl Setting {
    fn buffer(self) -> usize {
        if self == Self::SmallBuffers {
            BUFFER
        } else {
            0
        }
    }
}

/// Waits until everything that a client and the reactor have sent each other has arrived.
///
/// It reads the table of all sockets of the machine, which may be long: do not call it in a loop.
pub(super) fn nothing_is_in_flight(client: &TcpStream) -> io::Result<()> {
    let (there, here) = (client.peer_addr()?, client.local_addr()?);
    let sending = |from, to| queues(from, Some(to)).map_or(0, |queues| queues.sending);
    await_that("what was sent does not arrive", || {
        sending(here, there) == 0 && sending(there, here) == 0
    })
}

/// Bytes that have come to a client and are unread.
pub(super) fn unread_by(client: &TcpStream) -> io::Result<usize> {
    Ok(rustix::io::ioctl_fionread(client)? as usize)
}

/// This many submits of 13 bytes each.
pub(super) fn submits(count: usize) -> Vec<u8> {
    (1..=count as u64).flat_map(|n| submit(n, b"")).collect()
}

/// The part: is a reactor, prints its address, serves after the first line of input, and prints its
/// count for each further line. It ends with its input.
pub(super) fn play(args: &[String]) -> io::Result<()> {
    let [id, version] = args else {
        return Err(fail("which reactor, and which version?"));
    };
    let wrong = super::find(id).map_err(io::Error::other)?;
    let serve = wrong.serve[usize::from(version == "1")];
    let (listener, addr) = listening(wrong.setting.buffer(), 0)?;
    listener.set_nonblocking(true)?;
    println!("{addr}");
    io::stdin().lock().read_line(&mut String::new())?;
    if wrong.setting == Setting::FewDescriptors {
        // Those below are taken, and epoll takes one more.
        let most = listener.as_raw_fd() + 2 + DESCRIPTORS;
        let most = u64::try_from(most).map_err(io::Error::other)?;
        rlimit::Resource::NOFILE.set(most, most)?;
    }
    thread::spawn(move || {
        for _ in io::stdin().lock().lines() {
            let count = wrong
                .counter
                .map_or(0, |counter| counter.load(Ordering::Relaxed));
            let _ = writeln!(io::stdout(), "{count}");
        }
        process::exit(0);
    });
    serve(listener)
}
