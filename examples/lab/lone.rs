//! A loop with one connection, whose handler writes down what it is told: for what one does with Go's deadlines.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Direction, Handler, Origin, Reactor, Verdict,
};
use socket2::{Domain, Socket, Type};

use super::tools::PATIENCE;

/// The loop, its connection, and the other end of it.
pub(crate) struct Lone {
    pub(crate) reactor: Reactor<Diary>,
    pub(crate) peer: TcpStream,
    id: ConnectionId,
}

/// What the handler was told.
#[derive(Default)]
pub(crate) struct Diary {
    pub(crate) lines: Vec<String>,
    /// Deadlines that passed, and when.
    pub(crate) passed: Vec<(Direction, Instant)>,
    pub(crate) ended: Option<String>,
    id: Option<ConnectionId>,
    on_deadline: Option<OnDeadline>,
}

/// What is done when a deadline has passed.
pub(crate) type OnDeadline = fn(&mut Context<'_, Diary>) -> Verdict;

impl Handler for Diary {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.id = Some(cx.id());
        Verdict::Continue
    }

    fn frame(&mut self, line: &[u8], _: &mut Context<'_, Self>) -> Verdict {
        self.lines.push(String::from_utf8_lossy(line).into_owned());
        Verdict::Continue
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        self.passed.push((which, cx.now()));
        self.on_deadline.map_or(Verdict::Continue, |act| act(cx))
    }

    fn close(&mut self, _: &mut Context<'_, Self>, reason: &CloseReason) {
        self.ended = Some(reason.to_string());
    }
}

impl Lone {
    /// Connected, with no time limit but those that are set, and buffers of 64 KiB in the kernel, which doubles them.
    pub(crate) fn new(on_deadline: OnDeadline) -> io::Result<Self> {
        let config = Config {
            idle_timeout: None,
            frame_timeout: None,
            handshake_timeout: None,
            write_timeout: None,
            linger_timeout: Duration::ZERO,
            ..Config::default()
        };
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_send_buffer_size(65_536)?; // whom it accepts has it from the beginning
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(1)?;
        let peer = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        peer.set_recv_buffer_size(65_536)?;
        peer.connect(&socket.local_addr()?)?;
        peer.set_read_timeout(Some(PATIENCE))?;
        let mut reactor = Reactor::new(
            Diary {
                on_deadline: Some(on_deadline),
                ..Diary::default()
            },
            config,
        )
        .map_err(io::Error::other)?;
        reactor.listen_on(socket.into()).map_err(io::Error::other)?;
        turn(&mut reactor, |diary| diary.id.is_some())?;
        let id = reactor
            .handler()
            .id
            .ok_or_else(|| io::Error::other("the loop has let nobody in"))?;
        Ok(Self {
            reactor,
            peer: peer.into(),
            id,
        })
    }

    pub(crate) fn diary(&mut self) -> &mut Diary {
        self.reactor.handler()
    }

    /// Does something with the connection, between two turns, and brings back what comes of it.
    pub(crate) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Context<'_, Diary>) -> T,
    ) -> io::Result<T> {
        let mut result = None;
        self.reactor.with(self.id, |_, cx| {
            result = Some(work(cx));
            Verdict::Continue
        });
        result.ok_or_else(|| io::Error::other("the connection is over"))
    }

    /// Turns the loop until something was written down, at most for as long as anybody waits. Says whether it was.
    pub(crate) fn until(&mut self, is_so: impl FnMut(&Diary) -> bool) -> io::Result<bool> {
        turn(&mut self.reactor, is_so)
    }

    /// Turns the loop for so long.
    pub(crate) fn during(&mut self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let _ = self
                .reactor
                .turn(Some(left.max(Duration::from_millis(1))))
                .map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// What the loop sends is read here, so many bytes of it.
    pub(crate) fn read(&mut self, total: usize) -> io::Result<usize> {
        let (mut buffer, mut count) = (vec![0; 65_536], 0);
        self.peer.set_nonblocking(true)?;
        let end = Instant::now() + PATIENCE;
        while count < total && Instant::now() < end {
            match self.peer.read(&mut buffer) {
                Ok(0) => break,
                Ok(some) => count += some,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.during(Duration::from_millis(1))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// The peer sends this.
    pub(crate) fn say(&mut self, line: &str) -> io::Result<()> {
        self.peer.write_all(line.as_bytes())
    }
}

fn turn(reactor: &mut Reactor<Diary>, mut is_so: impl FnMut(&Diary) -> bool) -> io::Result<bool> {
    let end = Instant::now() + PATIENCE;
    while !is_so(reactor.handler()) {
        if Instant::now() > end {
            return Ok(false);
        }
        let _ = reactor
            .turn(Some(Duration::from_millis(100)))
            .map_err(io::Error::other)?;
    }
    Ok(true)
}
