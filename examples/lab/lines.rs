//! A service of lines that is made of functions and keeps a record; and a loop with one connection.

use glassloop::codec::Line;
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Direction, Handler, Origin, Reactor,
    Verdict as Next,
};

use super::prelude::*;

/// A handler whose callbacks are functions. By default it only records.
pub(crate) struct Lines<T = ()> {
    /// What the functions keep.
    pub(crate) data: T,
    pub(crate) on_open: fn(&mut Self, &mut Context<'_, Self>),
    pub(crate) on_line: fn(&mut Self, &[u8], &mut Context<'_, Self>),
    pub(crate) on_drained: fn(&mut Self, &mut Context<'_, Self>),
    pub(crate) on_deadline: fn(&mut Context<'_, Self>) -> Next,
    /// The last connection that was opened.
    pub(crate) id: Option<ConnectionId>,
    pub(crate) received: Vec<String>,
    /// Deadlines that passed, and when.
    pub(crate) passed: Vec<(Direction, Instant)>,
    /// Why the last connection closed.
    pub(crate) ended: Option<String>,
}

impl<T> Lines<T> {
    pub(crate) fn new(data: T) -> Self {
        Self {
            data,
            on_open: |_, _| (),
            on_line: |service, line, _| {
                service
                    .received
                    .push(String::from_utf8_lossy(line).into_owned());
            },
            on_drained: |_, _| (),
            on_deadline: |_| Next::Continue,
            id: None,
            received: Vec::new(),
            passed: Vec::new(),
            ended: None,
        }
    }
}

impl<T> Handler for Lines<T> {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Next {
        self.id = Some(cx.id());
        (self.on_open)(self, cx);
        Next::Continue
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Next {
        (self.on_line)(self, line, cx);
        Next::Continue
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Next {
        (self.on_drained)(self, cx);
        Next::Continue
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Next {
        self.passed.push((which, cx.now()));
        (self.on_deadline)(cx)
    }

    fn close(&mut self, _: &mut Context<'_, Self>, reason: &CloseReason) {
        self.ended = Some(reason.to_string());
    }
}

/// Turns a loop until a client, in its own thread, is done. Returns what the client returns.
pub(crate) fn serve_while<H: Handler, T: Send + 'static>(
    reactor: &mut Reactor<H>,
    client: impl FnOnce(SocketAddr) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let addr = reactor.listen("127.0.0.1:0")?;
    let client = thread::spawn(move || client(addr));
    while !client.is_finished() {
        let _ = reactor.turn(Some(Duration::from_millis(5)))?;
    }
    joined(client)?
}

/// A loop, its only connection, and the other end of that.
pub(crate) struct Lone {
    pub(crate) reactor: Reactor<Lines>,
    pub(crate) peer: TcpStream,
    id: ConnectionId,
}

impl Lone {
    /// Connected, without any time limit, and with buffers of 64 KiB from the loop to the peer.
    pub(crate) fn new(on_deadline: fn(&mut Context<'_, Lines>) -> Next) -> io::Result<Self> {
        let config = Config {
            idle_timeout: None,
            frame_timeout: None,
            handshake_timeout: None,
            write_timeout: None,
            linger_timeout: Duration::ZERO,
            ..Config::default()
        };
        let (listener, addr) = listening(65_536, 0)?;
        let peer = connected(addr, 0, 65_536)?;
        let service = Lines {
            on_deadline,
            ..Lines::new(())
        };
        let mut reactor = Reactor::new(service, config)?;
        reactor.listen_on(listener)?;
        turn(&mut reactor, |service| service.id.is_some())?;
        let id = reactor
            .handler()
            .id
            .ok_or_else(|| fail("the loop has not accepted"))?;
        Ok(Self { reactor, peer, id })
    }

    /// What the handler has recorded.
    pub(crate) fn record(&mut self) -> &mut Lines {
        self.reactor.handler()
    }

    /// Calls a function with the connection, between two turns, and returns its result.
    pub(crate) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Context<'_, Lines>) -> T,
    ) -> io::Result<T> {
        let mut result = None;
        self.reactor.with(self.id, |_, cx| {
            result = Some(work(cx));
            Next::Continue
        });
        result.ok_or_else(|| fail("the connection is closed"))
    }

    /// Turns the loop until the record says so, or until [`PATIENCE`] ends. Returns whether it
    /// does.
    pub(crate) fn until(&mut self, is_so: impl FnMut(&Lines) -> bool) -> io::Result<bool> {
        turn(&mut self.reactor, is_so)
    }

    /// Turns the loop for this long.
    pub(crate) fn during(&mut self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let _ = self
                .reactor
                .turn(Some(left.max(Duration::from_millis(1))))?;
        }
        Ok(())
    }

    /// Reads this many bytes at the peer, and turns the loop while there are none.
    pub(crate) fn read(&mut self, total: usize) -> io::Result<usize> {
        let (mut buffer, mut count) = (vec![0; 65_536], 0);
        self.peer.set_nonblocking(true)?;
        let end = Instant::now() + PATIENCE;
        while count < total && Instant::now() < end {
            match self.peer.read(&mut buffer) {
                Ok(0) => break,
                Ok(some) => count += some,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
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

fn turn(reactor: &mut Reactor<Lines>, mut is_so: impl FnMut(&Lines) -> bool) -> io::Result<bool> {
    let end = Instant::now() + PATIENCE;
    while !is_so(reactor.handler()) {
        if Instant::now() > end {
            return Ok(false);
        }
        let _ = reactor.turn(Some(Duration::from_millis(100)))?;
    }
    Ok(true)
}
