//! The packets on the wire, served: D10, and D12 to D18.

use super::prelude::*;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use glassloop::internals::{Connection, Shared};
use glassloop::submit::{Ack, Id, Kind, Outcome as Answer, Request, ServerCodec};
use glassloop::{Config, Context, Handler, Origin, Stop};

use super::demos::{Demo, Served, decode_frame, decode_packet};
use super::servers::Model;
use super::servers::child::Server;
use super::service::{Client, Loop, Service, hex, quietly, request, service, submit};

pub(super) fn d10(_: Lab) -> io::Result<Outcome> {
    let demanding = Service {
        require_conn: true,
        ..service()
    };
    let server = Loop::start(
        demanding,
        Config {
            handshake_timeout: Some(Duration::from_millis(100)),
            ..Config::default()
        },
    )?;
    let (conn, submit) = (request(Kind::Conn, Id::nth(0), b""), submit(1, b"hello"));
    // What is sent; the results that come back, up to the end.
    let results = |packets: &[&[u8]]| {
        let mut client = Client::connect(server.addr)?;
        client.send(&packets.concat())?;
        client.stream.shutdown(Shutdown::Write)?;
        let acks = client.rest()?;
        io::Result::Ok((
            acks.chunks(Ack::LEN)
                .map(|ack| ack[Ack::LEN - 1])
                .collect::<Vec<_>>(),
            server.next_end()?,
        ))
    };
    let orders = [
        (
            "conn, submit",
            results(&[&conn, &submit])?,
            vec![0, 0],
            "closed by the peer",
        ),
        (
            "submit, conn",
            results(&[&submit, &conn])?,
            vec![1],
            "closed by the handler",
        ),
        (
            "conn, conn, submit",
            results(&[&conn, &conn, &submit])?,
            vec![0, 0, 0],
            "closed by the peer",
        ),
        (
            "conn alone",
            results(&[&conn])?,
            vec![0],
            "closed by the peer",
        ),
    ];
    let begun = Instant::now();
    let silent = Client::connect(server.addr)?;
    let end = server.next_end()?;
    let waited = begun.elapsed();
    drop(silent);
    let lenient = Client::connect(Loop::submit()?.addr).is_ok();
    let as_wanted = orders
        .iter()
        .all(|(_, (results, end), wanted, why)| results == wanted && end == why);
    let holds = as_wanted
        && lenient
        && end.starts_with("handshake deadline passed")
        && waited >= Duration::from_millis(100);
    let mut outcome = Outcome::new(Verdict::reproduced_if(holds), values![]);
    for (order, (results, end), ..) in orders {
        outcome = outcome.with(order, format!("results {results:?}, then {end}"));
    }
    Ok(outcome.with(
        "nothing at all",
        format!("closed after {:.0} ms: {end}", millis(waited)),
    ))
}

pub(super) fn d12(_: Lab) -> io::Result<Outcome> {
    const CLIENTS: usize = 5;
    // Each client's bytes, and the size of the pieces in which it sends them.
    let sent: Vec<Vec<u8>> = (1..=CLIENTS)
        .map(|size| {
            (1..=20)
                .flat_map(|n| submit(n, &vec![b'x'; size * 7]))
                .collect()
        })
        .collect();
    let serve = |model| {
        let mut server = Server::start(model)?;
        server.calls()?; // from its first answer on the reporter has its name, and is not counted as a thread
        let mut clients = (0..CLIENTS)
            .map(|_| Client::connect(server.addr))
            .collect::<io::Result<Vec<_>>>()?;
        for (client, bytes) in clients.iter_mut().zip(&sent) {
            bytes
                .chunks(bytes.len() / 9)
                .try_for_each(|piece| client.send(piece))?;
        }
        let mut came = vec![vec![0; 20 * Ack::LEN]; CLIENTS];
        clients
            .iter_mut()
            .zip(&mut came)
            .try_for_each(|(client, acks)| client.stream.read_exact(acks))?;
        let threads = server.usage()?.threads;
        for (client, acks) in clients.iter_mut().zip(&mut came) {
            client.stream.shutdown(Shutdown::Write)?;
            acks.extend(client.rest()?);
        }
        io::Result::Ok((came, threads))
    };
    let ((by_threads, threads), (by_reactor, one)) =
        (serve(Model::Threads)?, serve(Model::Reactor)?);
    let same = by_threads
        .iter()
        .zip(&by_reactor)
        .filter(|(one, other)| one == other)
        .count();
    let whole = by_reactor.iter().all(|acks| acks.len() == 20 * Ack::LEN);
    Verdict::reproduced_if(same == CLIENTS && whole && threads == CLIENTS as u64 + 1 && one == 1)
        .measured(values![
            clients = CLIENTS,
            threads,
            one,
            same,
            bytes = by_reactor[0].len()
        ])
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What one client has seen of the end.
#[derive(Default)]
struct Seen {
    sent: usize,
    acked: usize,
    /// The end came in order, and not as a reset.
    orderly: bool,
}

/// Sends 16 requests at once and reads their acks, again and again, until the server ends.
fn load(mut client: Client, acked: &AtomicUsize) -> Seen {
    let (requests, mut seen, mut buffer) = (
        submit(1, b"hello").repeat(16),
        Seen::default(),
        [0; 16 * Ack::LEN],
    );
    while client.send(&requests).is_ok() {
        seen.sent += 16;
        let mut filled = 0;
        while filled < buffer.len() {
            match client.stream.read(&mut buffer[filled..]) {
                Ok(count @ 1..) => filled += count,
                end => {
                    return Seen {
                        acked: seen.acked + filled / Ack::LEN,
                        orderly: end.is_ok() && filled % Ack::LEN == 0,
                        ..seen
                    };
                }
            }
        }
        seen.acked += 16;
        acked.fetch_add(16, Ordering::Relaxed);
    }
    seen
}

pub(super) fn d13(_: Lab) -> io::Result<Outcome> {
    let (server, acked) = (Loop::submit()?, AtomicUsize::new(0));
    let (addr, acked) = (server.addr, &acked);
    let clients = (0..4)
        .map(|_| Client::connect(addr))
        .collect::<io::Result<Vec<_>>>()?;
    let (under_load, took, counters, seen) = thread::scope(|scope| {
        let loads: Vec<_> = clients
            .into_iter()
            .map(|client| scope.spawn(move || load(client, acked)))
            .collect();
        let under_load = wait_for(|| acked.load(Ordering::Relaxed) > 1_000);
        let (took, counters) = timed(|| server.stop(Stop::Gracefully));
        let seen: Vec<Seen> = loads
            .into_iter()
            .filter_map(|load| load.join().ok())
            .collect();
        (under_load, took, counters, seen)
    });
    let counters = counters?;
    let sum = |of: fn(&Seen) -> usize| seen.iter().map(of).sum::<usize>();
    let (sent, acks, orderly) = (
        sum(|seen| seen.sent),
        sum(|seen| seen.acked),
        sum(|seen| usize::from(seen.orderly)),
    );
    let taken = counters.frames as usize;
    let newcomer = Client::connect(addr)
        .err()
        .map_or("accepted".into(), |error| name_of(&error));
    let holds = under_load
        && acks == taken
        && counters.bytes_dropped == 0
        && orderly == 4
        && newcomer == "ECONNREFUSED";
    Verdict::reproduced_if(holds && took < Config::default().drain_timeout).measured(values![
        sent,
        taken,
        acks,
        dropped = counters.bytes_dropped,
        late = counters.bytes_discarded,
        orderly,
        newcomer,
        took
    ])
}

/// Has a bug.
struct Fragile;

impl Handler for Fragile {
    type Codec = ServerCodec;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (ServerCodec, ()) {
        Default::default()
    }

    fn frame(&mut self, request: Request<'_>, cx: &mut Context<'_, Self>) -> glassloop::Verdict {
        assert!(request.payload != b"boom", "the bug");
        cx.send(request.ack(Answer::Done));
        glassloop::Verdict::Continue
    }
}

pub(super) fn d14(_: Lab) -> io::Result<Outcome> {
    quietly(|| {
        let server = Loop::start(Fragile, Config::default())?;
        let (mut honest, mut bad) = (Client::connect(server.addr)?, Client::connect(server.addr)?);
        honest.ask(&submit(1, b"hello"))?;
        bad.send(&[submit(1, b"hello"), submit(2, b"boom"), submit(3, b"hello")].concat())?;
        bad.stream.shutdown(Shutdown::Write)?;
        let acked_before = bad.rest()?.len() / Ack::LEN;
        let end = server.next_end()?;
        let still_served = honest.ask(&submit(2, b"hello"))?.id == Id::nth(2);
        let newcomer_served =
            Client::connect(server.addr)?.ask(&submit(1, b"hello"))?.id == Id::nth(1);
        drop(honest);
        let panics = server.stop(Stop::Gracefully)?.panics;
        let other_thread = thread::spawn(bug).join();
        let holds = panics == 1
            && end == "the handler panicked"
            && still_served
            && newcomer_served
            && other_thread.is_err();
        Verdict::reproduced_if(holds).measured(values![
            panics,
            acked_before,
            end,
            still_served,
            newcomer_served,
            thread_ended = other_thread.is_err()
        ])
    })
}

fn bug() {
    panic!("the bug");
}

pub(super) fn d15(_: Lab) -> io::Result<Outcome> {
    const PAUSE: Duration = Duration::from_millis(5); // a second in the lesson
    let server = Loop::submit()?;
    let addr = server.addr;
    let talk = move |number: u64| {
        let mut client = Client::connect(addr)?;
        let mut ids = Vec::new();
        for n in 1..=10 {
            ids.push(
                client
                    .ask(&submit(
                        n,
                        format!("gentle-otter-{number:02}{n:02}").as_bytes(),
                    ))?
                    .id,
            );
            thread::sleep(PAUSE);
        }
        io::Result::Ok(ids)
    };
    let threads: Vec<_> = (1..=5)
        .map(|number| thread::spawn(move || talk(number)))
        .collect();
    let ids: Vec<Vec<Id>> = threads
        .into_iter()
        .map(|thread| {
            thread
                .join()
                .map_err(|_| io::Error::other("a client panicked"))?
        })
        .collect::<io::Result<_>>()?;
    let wanted: Vec<Id> = (1..=10).map(Id::nth).collect();
    let complete = ids.iter().filter(|ids| **ids == wanted).count();

    let (by_deadline, heard_late) = deadlines_until_quit(Some(Duration::from_millis(200)))?;
    let (by_shutdown, heard_soon) = deadlines_until_quit(None)?;
    let silent = Client::connect(addr)?;
    let (stopped, counters) = timed(|| server.stop(Stop::AtOnce));
    drop(silent);
    let by_waker = counters?.deadlines;
    Verdict::Refined
        .only_if(complete == 5 && by_deadline >= 1 && (by_shutdown, by_waker) == (0, 0))
        .measured(values![
            complete,
            acks = ids.iter().map(Vec::len).sum::<usize>(),
            by_deadline,
            by_shutdown,
            by_waker,
            heard_late,
            heard_soon,
            stopped
        ])
}

/// How many deadlines pass, and milliseconds, until a reader with nothing to read has heard that it is to end.
fn deadlines_until_quit(deadline: Option<Duration>) -> io::Result<(usize, f64)> {
    let ((client, _server), reads, quit) =
        (pair()?, AtomicBool::new(false), AtomicBool::new(false));
    client.set_read_timeout(deadline)?;
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut passed = 0;
            while !quit.load(Ordering::Relaxed) {
                reads.store(true, Ordering::Relaxed);
                if (&client).read(&mut [0; 64]).is_ok() {
                    break;
                }
                passed += 1;
            }
            passed
        });
        wait_for(|| reads.load(Ordering::Relaxed));
        let told = Instant::now();
        quit.store(true, Ordering::Relaxed);
        if deadline.is_none() {
            client.shutdown(Shutdown::Both)?;
        }
        let passed = reader
            .join()
            .map_err(|_| io::Error::other("the reader panicked"))?;
        Ok((passed, millis(told.elapsed())))
    })
}

pub(super) fn d16(_: Lab) -> io::Result<Outcome> {
    let talk = |bytes: &[u8]| {
        let mut served = Served::by(Demo::Direct)?;
        io::Write::write_all(&mut served.client, bytes)?;
        Ok(served.end()?.1)
    };
    let whole = [
        submit(1, b"credible-deathstrike"),
        submit(2, b"certain-deadpool"),
    ]
    .concat();
    let lines: Vec<String> = (0..5)
        .map(|_| talk(&whole))
        .collect::<io::Result<Vec<_>>>()?
        .concat();
    let torn = talk(&whole[..whole.len() - 3])?;
    let (received, ends) = (
        count(&lines, "recv submit: id = "),
        count(&lines, "handleConn: frame decode error: EOF"),
    );

    let server = Loop::submit()?;
    let ours = |bytes: &[u8]| {
        let mut client = Client::connect(server.addr)?;
        client.send(bytes)?;
        client.stream.shutdown(Shutdown::Write)?;
        client.rest()?;
        server.next_end()
    };
    let clean = (0..5)
        .map(|_| ours(&whole))
        .collect::<io::Result<Vec<_>>>()?;
    let torn_here = ours(&whole[..whole.len() - 3])?;
    let closed = count(&clean, "closed by the peer");
    let torn_line = torn.last().cloned().unwrap_or_default();
    let told_apart =
        torn_line.ends_with("unexpected EOF") && torn_here.contains("bytes into a frame");
    Verdict::Refined
        .only_if((received, ends, closed) == (10, 5, 5) && told_apart)
        .measured(values![
            line = lines.first().cloned().unwrap_or_default(),
            received,
            ends,
            closed,
            reason = clean[0],
            torn_line,
            torn_here
        ])
}

fn count(lines: &[String], beginning: &str) -> usize {
    lines
        .iter()
        .filter(|line| line.starts_with(beginning))
        .count()
}

pub(super) fn d17(_: Lab) -> io::Result<Outcome> {
    const REQUESTS: usize = 200;
    let mut served = Served::by(Demo::Direct)?;
    let (mut in_pieces, mut buffer) = (0, [0; 64]);
    for n in 1..=REQUESTS {
        io::Write::write_all(&mut served.client, &submit(n as u64, b"hello"))?;
        let first = served.client.read(&mut buffer)?;
        if first < Ack::LEN {
            in_pieces += 1;
            served.client.read_exact(&mut buffer[first..Ack::LEN])?;
        }
    }
    let [_, writes, _] = served.counts.now();

    let lock_step = Loop::submit()?;
    let mut client = Client::connect(lock_step.addr)?;
    (1..=REQUESTS as u64).try_for_each(|n| client.ask(&submit(n, b"hello")).map(|_| ()))?;
    drop(client);
    let one_by_one = lock_step.stop(Stop::Gracefully)?.writes as usize;
    let batch = Loop::submit()?;
    let mut client = Client::connect(batch.addr)?;
    client.send(&submit(1, b"hello").repeat(REQUESTS))?;
    (0..REQUESTS).try_for_each(|_| client.ack().map(|_| ()))?;
    drop(client);
    let at_once = batch.stop(Stop::Gracefully)?.writes as usize;
    let holds = writes == 2 * REQUESTS && one_by_one == REQUESTS && at_once < REQUESTS / 10;
    Verdict::reproduced_if(holds).measured(values![
        requests = REQUESTS,
        writes,
        in_pieces,
        one_by_one,
        at_once
    ])
}

pub(super) fn d18(_: Lab) -> io::Result<Outcome> {
    let hostile: [&[u8]; 6] = [
        b"\0\0\0\0",
        b"\0\0\0\x03",
        b"\0\0\0\x04",
        b"\0\0\0\x08\x02abc",
        b"\x7f\xff\xff\xff",
        b"\x80\0\0\0",
    ];
    let dies = |bytes: &[u8]| {
        let mut stream = bytes;
        let bytes_wanted =
            i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).wrapping_sub(4);
        if bytes_wanted > 1 << 20 {
            return format!(
                "would take {:.0} MiB, and wait (not tried)",
                f64::from(bytes_wanted) / f64::from(1 << 20)
            );
        }
        let served = catch_unwind(move || {
            decode_frame(&mut stream)
                .and_then(|frame| decode_packet(frame, Box::default()))
                .is_ok()
        });
        served.map_or("panics".into(), |ok| format!("served: {ok}"))
    };
    let server = Loop::submit()?;
    let mut honest = Client::connect(server.addr)?;
    let (mut rows, mut deadly, mut refused, mut others) = (Vec::new(), 0, 0, 0);
    for (n, bytes) in hostile.into_iter().enumerate() {
        let theirs = quietly(|| dies(bytes));
        let mut client = Client::connect(server.addr)?;
        client.send(bytes)?;
        client.stream.shutdown(Shutdown::Write)?;
        let silent = client.rest()?.is_empty();
        let ours = server.next_end()?;
        deadly += usize::from(theirs == "panics");
        refused += usize::from(silent && ours.starts_with("protocol error by the peer"));
        others += usize::from(honest.ask(&submit(n as u64, b"hello"))?.id == Id::nth(n as u64));
        rows.push((
            hex(bytes),
            format!("the lesson's {theirs}; the reactor's ends with: {ours}"),
        ));
    }
    let (handler, shared) = (
        &mut service(),
        &mut Shared::new(Config::default(), Instant::now()),
    );
    let mut connection = Connection::unconnected(handler);
    connection.receive(b"\0\x01\0\0", handler, shared); // the longest that is allowed, and not a byte of it
    let held = connection.heap();
    let holds = (deadly, refused, others) == (4, 6, 6) && held <= 64;
    let outcome = rows.into_iter().fold(
        Outcome::new(Verdict::reproduced_if(holds), values![]),
        |outcome, (what, value)| outcome.with(what, value),
    );
    Ok(outcome
        .with(
            "another client, after each of them",
            format!("served {others} of 6 times"),
        )
        .with(
            "held for a frame of 65,536 bytes of which 4 have come",
            format!("{held} bytes"),
        ))
}
