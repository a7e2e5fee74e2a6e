//! Both directions of a connection, and the buffers between its ends: C39 and C40.

use super::prelude::*;
use std::net::Ipv4Addr;

use glassloop::codec::Line;
use glassloop::{Config, Context, Handler, Origin, Reactor, Verdict as Next};
use socket2::{Domain, Socket, Type};

pub(crate) const RUNS: &[(&str, Run)] = &[("C39", c39), ("C40", c40)];

/// A line of the floods and of the echo: close to the longest that the codec takes.
const LINE: usize = 60_000;
/// What each direction of a flood is to carry at least, and what the echo is given.
const MUCH: usize = 4 << 20;

/// A server that sends without being asked, or echoes, or only listens.
struct Service {
    floods: bool,
    echoes: bool,
}

impl Service {
    fn flood(&mut self, cx: &mut Context<'_, Self>) -> Next {
        let line = vec![b'x'; LINE - 1];
        while self.floods && cx.has_room() {
            cx.send(&line[..]);
        }
        Next::Continue
    }
}

impl Handler for Service {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Next {
        self.flood(cx)
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Next {
        self.flood(cx)
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Next {
        if self.echoes {
            cx.send(line);
        }
        Next::Continue
    }
}

/// A loop and a client of it, with buffers of 64 KiB in the kernel, which doubles them.
fn served(service: Service, config: Config) -> io::Result<(Reactor<Service>, TcpStream)> {
    let narrow = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_send_buffer_size(65_536)?;
        socket.set_recv_buffer_size(65_536)?;
        io::Result::Ok(socket)
    };
    let listener = narrow()?; // those whom it accepts have its sizes
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(1)?;
    let client = narrow()?;
    client.connect(&listener.local_addr()?)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut reactor = Reactor::new(service, config).map_err(io::Error::other)?;
    reactor
        .listen_on(listener.into())
        .map_err(io::Error::other)?;
    Ok((reactor, client.into()))
}

/// Writes lines until so many bytes are taken, or until something fails. Returns how many were.
fn give(mut stream: &TcpStream, total: usize) -> usize {
    let mut line = vec![b'y'; LINE];
    line[LINE - 1] = b'\n';
    let mut given = 0;
    while given < total {
        match stream.write(&line[given % LINE..]) {
            Ok(count) => given += count,
            Err(_) => break,
        }
    }
    given
}

/// Reads until so many bytes have come, or until something fails. Returns how many have.
fn take(mut stream: &TcpStream, total: usize) -> usize {
    let (mut buffer, mut taken) = (vec![0; 65_536], 0);
    while taken < total {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => taken += count,
            _ => break,
        }
    }
    taken
}

/// What went over one connection, as the loop counted it.
struct Flow {
    down: usize,
    up: usize,
    /// Turns in all, and those that both read and wrote.
    turns: usize,
    both: usize,
    time: Duration,
}

impl Flow {
    fn rate(&self, bytes: usize) -> String {
        format!("{:.0} MB/s", bytes as f64 / self.time.as_secs_f64() / 1e6)
    }
}

/// Lets the server flood the client, or the client the server, or both.
fn flood(down: bool, up: bool) -> io::Result<Flow> {
    let (mut reactor, peer) = served(
        Service {
            floods: down,
            echoes: false,
        },
        Config::default(),
    )?;
    let begun = Instant::now();
    let mut flow = Flow {
        down: 0,
        up: 0,
        turns: 0,
        both: 0,
        time: Duration::ZERO,
    };
    thread::scope(|scope| {
        scope.spawn(|| take(&peer, usize::MAX));
        if up {
            scope.spawn(|| give(&peer, usize::MAX));
        }
        while ((down && flow.down < MUCH) || (up && flow.up < MUCH)) && begun.elapsed() < PATIENCE {
            let _ = reactor
                .turn(Some(Duration::from_millis(10)))
                .map_err(io::Error::other)?;
            let counters = reactor.counters();
            let (written, read) = (
                counters.bytes_written as usize,
                counters.bytes_read as usize,
            );
            flow.turns += 1;
            flow.both += usize::from(written > flow.down && read > flow.up);
            (flow.down, flow.up) = (written, read);
        }
        flow.time = begun.elapsed();
        drop(reactor); // its socket with it: so the client's threads end
        Ok(flow)
    })
}

/// What came of the echo: bytes that the client could write, that it got back, and that the loop held at most.
struct Echo {
    written: usize,
    read: usize,
    held: usize,
}

/// A client that has much echoed by a server that reads no further once `cap` bytes of replies are waiting.
fn echo(cap: usize, reads_meanwhile: bool, patience: Duration) -> io::Result<Echo> {
    let config = Config {
        write_low: cap / 2,
        write_high: cap,
        write_cap: 2 * cap.max(1 << 20),
        ..Config::default()
    };
    let (mut reactor, peer) = served(
        Service {
            floods: false,
            echoes: true,
        },
        config,
    )?;
    peer.set_write_timeout(Some(patience))?;
    let total = MUCH.next_multiple_of(LINE);
    thread::scope(|scope| {
        let peer = &peer;
        let client = scope.spawn(move || {
            thread::scope(|scope| {
                let reading = reads_meanwhile.then(|| scope.spawn(|| take(peer, total)));
                let written = give(peer, total);
                let read = match reading {
                    Some(reading) => reading.join().unwrap_or(0),
                    None if written == total => take(peer, total),
                    None => 0,
                };
                (written, read)
            })
        });
        let mut held = 0;
        while !client.is_finished() {
            let _ = reactor
                .turn(Some(Duration::from_millis(5)))
                .map_err(io::Error::other)?;
            held = reactor.buffered().max(held);
        }
        let (written, read) = client
            .join()
            .map_err(|_| io::Error::other("the client panicked"))?;
        Ok(Echo {
            written,
            read,
            held,
        })
    })
}

fn c39(_: Lab) -> io::Result<Outcome> {
    let (together, down, up) = (flood(true, true)?, flood(true, false)?, flood(false, true)?);
    let stuck = echo(65_536, false, Duration::from_millis(150))?;
    let unbounded = echo(64 << 20, false, PATIENCE)?;
    let duplex = echo(65_536, true, PATIENCE)?;
    let total = MUCH.next_multiple_of(LINE);
    let flooded = together.both > 0 && together.down >= MUCH && together.up >= MUCH;
    let knotted = stuck.written < total && stuck.read == 0 && stuck.held < unbounded.held;
    let holds = flooded && knotted && unbounded.read == total && duplex.read == total;
    let tell = |Echo {
                    written,
                    read,
                    held,
                }: Echo| {
        let [written, total, read, held] = [written, total, read, held].map(thousands);
        format!("client wrote {written} of {total} bytes, got {read} back; the loop held {held}")
    };
    Verdict::reproduced_if(holds).measured(values![
        both = together.both,
        turns = together.turns,
        down = together.rate(together.down),
        down_alone = down.rate(down.down),
        up = together.rate(together.up),
        up_alone = up.rate(up.up),
        stuck = tell(stuck),
        unbounded = tell(unbounded),
        duplex = tell(duplex)
    ])
}

fn c40(_: Lab) -> io::Result<Outcome> {
    let (client, server) = pair()?;
    let sent = fill(&client, 65_536)?.iter().sum::<usize>();
    let answered = fill(&server, 65_536)?.iter().sum::<usize>();
    // A byte that has come and is not acknowledged yet is in both, for a moment.
    let at_rest = |sent: usize, answered: usize| {
        let mut ends = [Queues::default(); 2];
        let exact = wait_for(|| {
            let (Ok(client), Ok(server)) = (queues_of(&client), queues_of(&server)) else {
                return false;
            };
            ends = [client, server];
            client.sending + server.received == sent && server.sending + client.received == answered
        });
        (exact, ends)
    };
    let (exact, [at_client, at_server]) = at_rest(sent, answered);
    let count = (&server).read(&mut [0; 10_000])?;
    let (exact_after, after) = at_rest(sent - count, answered);
    let most = [
        at_client.sending,
        at_server.received,
        at_server.sending,
        at_client.received,
    ]
    .into_iter()
    .fold(1, usize::max);
    let bar = |bytes: usize| {
        format!(
            "{} {}",
            "#".repeat((bytes * 40).div_ceil(most)),
            thousands(bytes)
        )
    };
    let sum = |one, other| {
        format!(
            "{} bytes; both together: {}",
            thousands(one),
            thousands(other)
        )
    };
    Verdict::reproduced_if(exact && exact_after && count == 10_000).measured(values![
        client_sends = bar(at_client.sending),
        server_holds = bar(at_server.received),
        sent = sum(sent, at_client.sending + at_server.received),
        server_sends = bar(at_server.sending),
        client_holds = bar(at_client.received),
        answered = sum(answered, at_server.sending + at_client.received),
        after = sum(sent - count, after[0].sending + after[1].received)
    ])
}
