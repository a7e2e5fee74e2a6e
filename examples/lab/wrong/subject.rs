//! A reactor that is looked at, as a process of its own: it may hang or spin, and is killed afterwards.

use std::fs;
use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use glassloop::Codec;
use glassloop::submit::{ClientCodec, Id, Kind, Request};
use socket2::{Domain, Socket, Type};

use super::{Setting, Version, Wrong};
use crate::linux::parts::Player;
use crate::linux::tools::{PATIENCE, queues, wait_for};

/// So often it must be found asleep, one look after the other, to be taken for one that waits.
pub(super) const LOOKS: u32 = 10;
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// So many of anything, while there is nothing to do, are too many.
const TOO_MANY: usize = 1000;
/// What the kernel is asked for, where buffers are to be small. It doubles the figure.
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
    /// Starts the process. It listens; it serves when it is told to.
    pub(super) fn start(wrong: &Wrong, version: Version) -> io::Result<Self> {
        let mut player = Player::start(PART, &[wrong.name, version.name()])?;
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
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if self.setting == Setting::SmallBuffers {
            socket.set_send_buffer_size(BUFFER)?;
            socket.set_recv_buffer_size(BUFFER)?;
        }
        socket.connect(&self.addr.into())?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Bytes of a client's that have come to the reactor's socket, and that it has not read. The end counts as one.
    pub(super) fn unread(&self, client: &TcpStream) -> io::Result<usize> {
        Ok(queues(self.addr, Some(client.local_addr()?))?.received)
    }

    /// Waits until all that a client has sent is there.
    pub(super) fn await_unread(&self, client: &TcpStream, bytes: usize) -> io::Result<()> {
        let there = wait_for(|| self.unread(client).is_ok_and(|unread| unread == bytes));
        if there {
            Ok(())
        } else {
            Err(io::Error::other("what the client has sent does not arrive"))
        }
    }

    /// Waits until the loop sleeps, found so by one look after the other.
    ///
    /// A thread that is woken is not asleep from that moment on, also where it has to wait for a processor. So one that is found asleep
    /// has nothing to do, however busy the machine is.
    pub(super) fn sleeps(&self) -> io::Result<()> {
        let mut looks = 0;
        let sleeps = wait_for(|| {
            thread::sleep(BETWEEN_LOOKS);
            looks = if self.is_asleep() { looks + 1 } else { 0 };
            looks == LOOKS
        });
        if sleeps {
            Ok(())
        } else {
            Err(io::Error::other("the loop does not come to rest"))
        }
    }

    /// Whether the loop's thread, the process's first, waits for something (proc(5)).
    pub(super) fn is_asleep(&self) -> bool {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.player.id())).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('S'))
    }

    /// With nothing to be done: does it count on and on? Says how far and how long, or None, if it sleeps.
    pub(super) fn spins(&mut self) -> io::Result<Option<(usize, Duration)>> {
        let (begun, first) = (Instant::now(), self.count()?);
        let mut looks = 0;
        while looks < LOOKS {
            let counted = self.count()? - first;
            if counted >= TOO_MANY {
                return Ok(Some((counted, begun.elapsed())));
            }
            if begun.elapsed() > PATIENCE {
                return Err(io::Error::other("it neither sleeps nor spins"));
            }
            thread::sleep(BETWEEN_LOOKS);
            looks = if self.is_asleep() { looks + 1 } else { 0 };
        }
        Ok(None)
    }
}

/// Waits until what a client and the reactor have sent each other has arrived.
///
/// It looks into the table of all the machine's sockets, which may be long: for the end of an experiment, not for a loop.
pub(super) fn nothing_is_under_way(client: &TcpStream) -> io::Result<()> {
    let (there, here) = (client.peer_addr()?, client.local_addr()?);
    let sending = |from, to| queues(from, Some(to)).map_or(0, |queues| queues.sending);
    let arrived = wait_for(|| sending(here, there) == 0 && sending(there, here) == 0);
    if arrived {
        Ok(())
    } else {
        Err(io::Error::other("what was sent does not arrive"))
    }
}

/// Bytes that have come to a client, and that it has not read.
pub(super) fn unread_by(client: &TcpStream) -> io::Result<usize> {
    Ok(rustix::io::ioctl_fionread(client)? as usize)
}

/// So many submits as a client sends them, 13 bytes each.
pub(super) fn submits(count: usize) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for number in 1..=count {
        let request = Request {
            kind: Kind::Submit,
            id: Id::nth(number as u64),
            payload: b"",
        };
        ClientCodec::default()
            .encode(request, &mut bytes)
            .expect("a request without payload always fits");
    }
    bytes.to_vec()
}

/// The part: is a reactor, prints its address, serves when it is told to, and says what it has counted as often as it is asked. It ends with its input.
pub(super) fn play(args: &[String]) -> io::Result<()> {
    let [name, version] = args else {
        return Err(io::Error::other("which one?"));
    };
    let wrong = super::find(name).map_err(io::Error::other)?;
    let version = Version::named(version).ok_or_else(|| io::Error::other("wrong or right?"))?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if wrong.setting == Setting::SmallBuffers {
        socket.set_send_buffer_size(BUFFER)?; // those whom it accepts inherit it
    }
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(16)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    io::stdin().lock().read_line(&mut String::new())?;
    if wrong.setting == Setting::FewDescriptors {
        // Those below are taken, and epoll takes one more.
        let most =
            u64::try_from(listener.as_raw_fd() + 2 + DESCRIPTORS).map_err(io::Error::other)?;
        rlimit::Resource::NOFILE.set(most, most)?;
    }
    thread::spawn(move || {
        for _ in io::stdin().lock().lines() {
            let _ = writeln!(
                io::stdout(),
                "{}",
                wrong
                    .counter
                    .map_or(0, |counter| counter.load(Ordering::Relaxed))
            );
        }
        process::exit(0);
    });
    wrong.serve[version as usize](listener)
}
