//! Both directions of a connection, and the buffers between its ends: C39 and C40.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::{Config, Context, Handler, Origin, Reactor, Verdict};
use socket2::{Domain, Socket, Type};

use super::claim::{Claim, Lab, Outcome, State, Verdict as Finding};
use super::tools::{PATIENCE, Queues, fill, pair, queues_of, thousands, wait_for};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C39",
        says: "“通信双方通过各自获得的Socket，可以在向对方发送数据包的同时，接收来自对方的数据包” Both sides send and receive at the same \
              time",
        asks: "A client sends 4 MiB to an echo server and reads only afterwards; the server never holds more than 64 KiB of replies. Does \
              it finish?",
        why: "The two directions of a TCP connection are two streams that share nothing but the port numbers, so one socket may be \
              written by one thread while another reads it, and an event loop does both in one turn. They are coupled by programs: an \
              echo server that does not read while it cannot write, and a client that does not read while it writes, wait for each other \
              as soon as all buffers between them are full. A larger buffer only moves that point. What ends it is a client that reads \
              meanwhile, in a goroutine of its own say; a server ends it with a write deadline.",
        look: "strace -f -s 4 -e trace=recvfrom,sendto,/epoll_wait target/release/examples/lab run C39 2>&1 | head -40",
        exercise: "Write an echo server with a blocking read and write_all, and a client that writes 16 MiB, then reads. See both wait in \
              write. Then let the client read in a second thread.",
        state: State::Runs(c39),
    },
    Claim {
        id: "C40",
        says: "“任何一方的操作系统，都会为已建立的连接分配一个发送缓冲区和一个接收缓冲区” Each side has a send buffer and a receive \
              buffer, and what is sent passes through both",
        asks: "Neither side reads. Where are the bytes that write has accepted?",
        why: "write(2) copies into the sender's send buffer; the kernel sends from there as far as the other side's receive window lets \
              it, and a byte leaves the send buffer only when the other kernel has acknowledged it. So at rest each byte is in one of two \
              places, and the two add up to what was accepted, exactly; a read takes bytes from the receive buffer and from nowhere else. \
              SIOCOUTQ and SIOCINQ (tcp(7)) say how many there are, as ss -t does in Send-Q and Recv-Q. Go's Write and Rust's write know \
              nothing of it: they return when the copy is made.",
        look: "strace -s 4 -e trace=sendto,recvfrom,openat target/release/examples/lab run C40 2>&1 | grep -B3 -A3 net/tcp",
        exercise: "Fill a connection in both directions, sleep, and look at it with `ss -tn`. Read 10,000 bytes at one end: which of the \
              four numbers change?",
        state: State::Runs(c40),
    },
];

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
    fn flood(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let line = vec![b'x'; LINE - 1];
        while self.floods && cx.has_room() {
            cx.send(&line[..]);
        }
        Verdict::Continue
    }
}

impl Handler for Service {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.flood(cx)
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.flood(cx)
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        if self.echoes {
            cx.send(line);
        }
        Verdict::Continue
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
    Ok(Outcome::new(Finding::reproduced_if(holds))
        .with(
            "both sides flood",
            format!(
                "{} of {} turns of the loop read and wrote",
                together.both, together.turns
            ),
        )
        .with(
            "to the client",
            format!(
                "{}; alone {}",
                together.rate(together.down),
                down.rate(down.down)
            ),
        )
        .with(
            "to the server",
            format!("{}; alone {}", together.rate(together.up), up.rate(up.up)),
        )
        .with(
            "echo, server stops reading at 64 KiB of replies",
            tell(stuck),
        )
        .with("echo, server never stops reading", tell(unbounded))
        .with("echo, server stops, client reads meanwhile", tell(duplex)))
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
    Ok(Outcome::new(Finding::reproduced_if(
        exact && exact_after && count == 10_000,
    ))
    .with("client's send buffer", bar(at_client.sending))
    .with("server's receive buffer", bar(at_server.received))
    .with(
        "the client's writes took",
        sum(sent, at_client.sending + at_server.received),
    )
    .with("server's send buffer", bar(at_server.sending))
    .with("client's receive buffer", bar(at_client.received))
    .with(
        "the server's writes took",
        sum(answered, at_server.sending + at_client.received),
    )
    .with(
        "the same once the server has read 10,000",
        sum(sent - count, after[0].sending + after[1].received),
    ))
}
