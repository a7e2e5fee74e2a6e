//! The reactor inside another loop: a `mio::Poll` that also has a UDP socket on the same port.
//!
//! Run `cargo run --example embed_nested`, and `nc 127.0.0.1 PORT` in another terminal, with the
//! port that it prints: it echoes every line. With `nc -u 127.0.0.1 PORT` each datagram is answered
//! with the number of open connections. A connection that is idle for two seconds is closed.

#[cfg(unix)]
mod unix {
    use std::error::Error;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    use glassloop::codec::Line;
    use glassloop::{Config, Context, Handler, Origin, Reactor, Turn, Verdict};
    use mio::net::UdpSocket;
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};

    const INNER: Token = Token(0);
    const COUNT: Token = Token(1);

    struct Echo;

    impl Handler for Echo {
        type Codec = Line;
        type State = ();
        type Mail = ();

        fn connection(&mut self, _: &Origin) -> (Line, ()) {
            (Line::default(), ())
        }

        fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
            cx.send(line);
            Verdict::Continue
        }
    }

    /// The time that the outer loop may sleep: until the inner loop's next deadline.
    fn poll_timeout(inner: &Reactor<Echo>) -> Option<Duration> {
        inner
            .next_deadline()
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Answers all waiting datagrams with the number of open connections.
    fn answer(socket: &UdpSocket, connections: usize) {
        // Until an error, usually `WouldBlock`: before that there is no new edge.
        while let Ok((_, sender)) = socket.recv_from(&mut [0; 64]) {
            let _ = socket.send_to(format!("{connections}\n").as_bytes(), sender);
        }
    }

    pub(super) fn main() -> Result<(), Box<dyn Error>> {
        let addr = std::env::args()
            .nth(1)
            .unwrap_or_else(|| "127.0.0.1:0".into());
        let config = Config {
            idle_timeout: Some(Duration::from_secs(2)),
            ..Config::default()
        };
        let mut inner = Reactor::new(Echo, config)?;
        let addr = inner.listen(addr)?;
        let mut count = UdpSocket::bind(addr)?;

        let mut outer = Poll::new()?;
        outer
            .registry()
            .register(&mut SourceFd(&inner.as_raw_fd()), INNER, Interest::READABLE)?;
        outer
            .registry()
            .register(&mut count, COUNT, Interest::READABLE)?;
        println!("listening on {addr}");

        let mut events = Events::with_capacity(16);
        loop {
            match outer.poll(&mut events, poll_timeout(&inner)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            // After every wake-up: a turn with nothing to do costs one call. If a turn leaves work
            // undone, its next deadline is now, and the outer poll does not sleep.
            if inner.turn(Some(Duration::ZERO))? == Turn::Stopped {
                return Ok(());
            }
            if events.iter().any(|event| event.token() == COUNT) {
                answer(&count, inner.connections());
            }
        }
    }
}

#[cfg(unix)]
fn main() {
    if let Err(error) = unix::main() {
        eprintln!("embed_nested: {error}");
        std::process::exit(1);
    }
}

#[cfg(not(unix))]
fn main() {
    eprintln!("embed_nested: only on Unix does a poller have a descriptor to wait for");
}
