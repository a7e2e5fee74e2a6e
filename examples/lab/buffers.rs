//! Both directions of a connection, and the buffers between its ends: C39 and C40.

use glassloop::{Config, Context, Reactor};

use super::lines::Lines;
use super::prelude::*;

pub(crate) const RUNS: Runs = runs! { c39 c40 };

/// A line of the floods and of the echo: close to the longest that the codec takes.
const LINE: usize = 60_000;
/// What each direction of a flood carries at least, and what the echo gets.
const MUCH: usize = 4 << 20;

/// A service that sends without being asked.
fn flooding() -> Lines {
    fn flood(_: &mut Lines, cx: &mut Context<'_, Lines>) {
        let line = vec![b'x'; LINE - 1];
        while cx.has_room() {
            cx.send(&line[..]);
        }
    }
    Lines {
        on_open: flood,
        on_drained: flood,
        ..silent()
    }
}

/// A service that only reads.
fn silent() -> Lines {
    Lines {
        on_line: |_, _, _| (),
        ..Lines::new(())
    }
}

/// A loop and a client of it, with buffers of 64 KiB in the kernel, which doubles them.
fn served(service: Lines, config: Config) -> io::Result<(Reactor<Lines>, TcpStream)> {
    let (listener, addr) = listening(65_536, 65_536)?;
    let client = connected(addr, 65_536, 65_536)?;
    let mut reactor = Reactor::new(service, config)?;
    reactor.listen_on(listener)?;
    Ok((reactor, client))
}

/// Writes lines until the socket has taken this many bytes, or fails. Returns how many it took.
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

/// Reads until this many bytes have come, or the socket fails. Returns how many have come.
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
#[derive(Default)]
struct Flow {
    down: usize,
    up: usize,
    /// All turns, and those that both read and wrote.
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
    let service = if down { flooding() } else { silent() };
    let (mut reactor, peer) = served(service, Config::default())?;
    let (begun, mut flow) = (Instant::now(), Flow::default());
    thread::scope(|scope| {
        scope.spawn(|| take(&peer, usize::MAX));
        if up {
            scope.spawn(|| give(&peer, usize::MAX));
        }
        while ((down && flow.down < MUCH) || (up && flow.up < MUCH)) && begun.elapsed() < PATIENCE {
            let _ = reactor.turn(Some(Duration::from_millis(10)))?;
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
        drop(reactor); // and its socket: so the client's threads end
        Ok(flow)
    })
}

/// What came of the echo: the bytes that the client wrote and read, and the most that the loop
/// held.
struct Echo {
    written: usize,
    read: usize,
    held: usize,
}

/// A client with an echo server that reads no further once `cap` bytes of replies are waiting.
fn echo(cap: usize, reads_meanwhile: bool, patience: Duration) -> io::Result<Echo> {
    let config = Config {
        write_low: cap / 2,
        write_high: cap,
        write_cap: 2 * cap.max(1 << 20),
        ..Config::default()
    };
    let service = Lines {
        on_line: |_, line, cx| cx.send(line),
        ..Lines::new(())
    };
    let (mut reactor, peer) = served(service, config)?;
    peer.set_write_timeout(Some(patience))?;
    let total = MUCH.next_multiple_of(LINE);
    let client = thread::spawn(move || {
        thread::scope(|scope| {
            let reading = reads_meanwhile.then(|| scope.spawn(|| take(&peer, total)));
            let written = give(&peer, total);
            let read = match reading {
                Some(reading) => reading.join().unwrap_or(0),
                None if written == total => take(&peer, total),
                None => 0,
            };
            (written, read)
        })
    });
    let mut held = 0;
    while !client.is_finished() {
        let _ = reactor.turn(Some(Duration::from_millis(5)))?;
        held = reactor.buffered().max(held);
    }
    let (written, read) = joined(client)?;
    Ok(Echo {
        written,
        read,
        held,
    })
}

fn c39(_: Lab) -> io::Result<Outcome> {
    let (together, one, other) = (flood(true, true)?, flood(true, false)?, flood(false, true)?);
    let stuck = echo(65_536, false, Duration::from_millis(150))?;
    let unbounded = echo(64 << 20, false, PATIENCE)?;
    let duplex = echo(65_536, true, PATIENCE)?;
    let total = MUCH.next_multiple_of(LINE);
    let flooded = together.both > 0 && together.down >= MUCH && together.up >= MUCH;
    let deadlocked = stuck.written < total && stuck.read == 0 && stuck.held < unbounded.held;
    let holds = flooded && deadlocked && unbounded.read == total && duplex.read == total;
    let [stuck, unbounded, duplex] =
        [stuck, unbounded, duplex].map(|echo| [echo.written, total, echo.read, echo.held]);
    let (down, down_alone) = (together.rate(together.down), one.rate(one.down));
    let (up, up_alone) = (together.rate(together.up), other.rate(other.up));
    let (both, turns) = (together.both, together.turns);
    Verdict::reproduced_if(holds).measured(values![
        both, turns, down, down_alone, up, up_alone, stuck, unbounded, duplex
    ])
}

fn c40(_: Lab) -> io::Result<Outcome> {
    let (client, server) = pair()?;
    let sent = fill(&client, 65_536)?.iter().sum::<usize>();
    let answered = fill(&server, 65_536)?.iter().sum::<usize>();
    // A byte that has come and is not acknowledged yet is in both queues, for a moment.
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
    let (exact_after, [client_after, server_after]) = at_rest(sent - count, answered);
    let four = [
        at_client.sending,
        at_server.received,
        at_server.sending,
        at_client.received,
    ];
    let most = four.into_iter().fold(1, usize::max);
    let [client_sends, server_holds, server_sends, client_holds] = four.map(|bytes| {
        let bar = "#".repeat((bytes * 40).div_ceil(most));
        format!("{bar} {}", thousands(bytes))
    });
    let [sent, answered, after] = [
        [sent, four[0] + four[1]],
        [answered, four[2] + four[3]],
        [sent - count, client_after.sending + server_after.received],
    ]
    .map(|both| {
        let [accepted, held] = both.map(thousands);
        format!("{accepted} bytes; both together: {held}")
    });
    let values = values![
        client_sends,
        server_holds,
        sent,
        server_sends,
        client_holds,
        answered,
        after
    ];
    Verdict::reproduced_if(exact && exact_after && count == 10_000).measured(values)
}
