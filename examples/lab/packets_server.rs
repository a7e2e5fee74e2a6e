//! The packets on the wire, served: D10, and D12 to D18.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use glassloop::internals::{Connection, Shared};
use glassloop::submit::{Ack, Id, Kind, Outcome as Answer};
use glassloop::{Config, Stop};

use super::demos::{Demo, Served, decode_frame, decode_packet};
use super::prelude::*;
use super::servers::Model;
use super::servers::child::Server;
use super::service::{Answers, Client, Loop, Service, quietly, request, service, submit};

pub(crate) const RUNS: Runs = runs! { d10 d12 d13 d14 d15 d16 d17 d18 };

fn d10(_: Lab) -> io::Result<Outcome> {
    const LIMIT: Duration = Duration::from_millis(100);
    let demanding = Service {
        require_conn: true,
        ..service()
    };
    let config = Config {
        handshake_timeout: Some(LIMIT),
        ..Config::default()
    };
    let server = Loop::start(demanding, config)?;
    let (conn, submit) = (request(Kind::Conn, Id::nth(0), b""), submit(1, b"hello"));
    let (conn, submit) = (&conn[..], &submit[..]);
    let known = [
        (
            vec![conn, submit],
            "results [0, 0], then closed by the peer",
        ),
        (
            vec![submit, conn],
            "results [1], then closed by the handler",
        ),
        (
            vec![conn, conn, submit],
            "results [0, 0, 0], then closed by the peer",
        ),
        (vec![conn], "results [0], then closed by the peer"),
    ];
    let mut orders = Vec::new();
    for (packets, _) in &known {
        let (acks, end) = server.talk(&packets.concat())?;
        let results = acks.chunks(Ack::LEN).map(|ack| ack[Ack::LEN - 1]);
        let results: Vec<u8> = results.collect();
        orders.push(format!("results {results:?}, then {end}"));
    }
    let begun = Instant::now();
    let silent = Client::connect(server.addr)?;
    let (end, waited) = (server.next_end()?, begun.elapsed());
    drop(silent);
    let as_known = orders.iter().eq(known.iter().map(|(_, known)| known));
    let timed_out = end.starts_with("handshake deadline passed") && waited >= LIMIT;
    Verdict::reproduced_if(as_known && timed_out).measured(values![orders, waited, end])
}

fn d12(_: Lab) -> io::Result<Outcome> {
    const CLIENTS: usize = 5;
    // Each client's bytes, and the size of the pieces in which it sends them.
    let submits = |size: usize| {
        (1..=20)
            .flat_map(|n| submit(n, &vec![b'x'; size * 7]))
            .collect()
    };
    let sent: Vec<Vec<u8>> = (1..=CLIENTS).map(submits).collect();
    let serve = |model| {
        let mut server = Server::start(model)?;
        server.calls()?; // after its first answer the reporter does not count as a thread
        let clients = sent.iter().map(|_| Client::connect(server.addr));
        let mut clients = clients.collect::<io::Result<Vec<_>>>()?;
        for (client, bytes) in clients.iter_mut().zip(&sent) {
            bytes
                .chunks(bytes.len() / 9)
                .try_for_each(|piece| client.send(piece))?;
        }
        let mut came = vec![vec![0; 20 * Ack::LEN]; CLIENTS];
        for (client, acks) in clients.iter_mut().zip(&mut came) {
            client.stream.read_exact(acks)?;
        }
        let threads = server.usage()?.threads;
        for (client, acks) in clients.iter_mut().zip(&mut came) {
            acks.extend(client.rest()?);
        }
        io::Result::Ok((came, threads))
    };
    let (by_threads, threads) = serve(Model::Threads)?;
    let (by_reactor, one) = serve(Model::Reactor)?;
    let same = by_threads
        .iter()
        .zip(&by_reactor)
        .filter(|(one, other)| one == other)
        .count();
    let whole = by_reactor.iter().all(|acks| acks.len() == 20 * Ack::LEN);
    let holds = same == CLIENTS && whole && threads == CLIENTS as u64 + 1 && one == 1;
    let bytes = by_reactor[0].len();
    let values = values![clients = CLIENTS, threads, one, same, bytes];
    Verdict::reproduced_if(holds).measured(values)
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
    let (requests, mut seen) = (submit(1, b"hello").repeat(16), Seen::default());
    let mut buffer = [0; 16 * Ack::LEN];
    while client.send(&requests).is_ok() {
        seen.sent += 16;
        let mut filled = 0;
        while filled < buffer.len() {
            match client.stream.read(&mut buffer[filled..]) {
                Ok(count @ 1..) => filled += count,
                end => {
                    seen.acked += filled / Ack::LEN;
                    seen.orderly = end.is_ok() && filled % Ack::LEN == 0;
                    return seen;
                }
            }
        }
        seen.acked += 16;
        acked.fetch_add(16, Ordering::Relaxed);
    }
    seen
}

fn d13(_: Lab) -> io::Result<Outcome> {
    let (server, acked) = (Loop::submit()?, AtomicUsize::new(0));
    let (addr, acked) = (server.addr, &acked);
    let clients = (0..4)
        .map(|_| Client::connect(addr))
        .collect::<io::Result<Vec<_>>>()?;
    let (under_load, (took, counters), seen) = thread::scope(|scope| {
        let load = |client| scope.spawn(move || load(client, acked));
        let loads: Vec<_> = clients.into_iter().map(load).collect();
        let under_load = wait_for(|| acked.load(Ordering::Relaxed) > 1_000);
        let stopped = timed(|| server.stop(Stop::Gracefully));
        let seen = loads.into_iter().filter_map(|load| load.join().ok());
        (under_load, stopped, seen.collect::<Vec<Seen>>())
    });
    let counters = counters?;
    let sum = |of: fn(&Seen) -> usize| seen.iter().map(of).sum::<usize>();
    let (sent, acks) = (sum(|seen| seen.sent), sum(|seen| seen.acked));
    let orderly = sum(|seen| usize::from(seen.orderly));
    let (taken, dropped) = (counters.frames as usize, counters.bytes_dropped);
    let (late, newcomer) = (counters.bytes_discarded, TcpStream::connect(addr));
    let newcomer = error_or(&newcomer, "accepted");
    let refused = newcomer == "ECONNREFUSED" && took < Config::default().drain_timeout;
    let holds = under_load && acks == taken && dropped == 0 && orderly == 4 && refused;
    let values = values![sent, taken, acks, dropped, late, orderly, newcomer, took];
    Verdict::reproduced_if(holds).measured(values)
}

fn d14(_: Lab) -> io::Result<Outcome> {
    fn buggy(request: &glassloop::submit::Request<'_>) -> Answer {
        assert!(request.payload != b"boom", "the bug");
        Answer::Done
    }
    quietly(|| {
        let server = Loop::start(Answers(buggy), Config::default())?;
        let mut honest = Client::connect(server.addr)?;
        honest.hello()?;
        let requests = [submit(1, b"hello"), submit(2, b"boom"), submit(3, b"hello")];
        let (acks, end) = server.talk(&requests.concat())?;
        let acked_before = acks.len() / Ack::LEN;
        let still_served = honest.is_served(2)?;
        let newcomer_served = Client::connect(server.addr)?.is_served(1)?;
        drop(honest);
        let panics = server.stop(Stop::Gracefully)?.panics;
        let thread_ended = thread::spawn(|| panic!("the bug")).join().is_err();
        let others = still_served && newcomer_served && thread_ended;
        let holds = panics == 1 && end == "the handler panicked" && others;
        Verdict::reproduced_if(holds).measured(values![
            panics,
            acked_before,
            end,
            still_served,
            newcomer_served,
            thread_ended
        ])
    })
}

fn d15(_: Lab) -> io::Result<Outcome> {
    const PAUSE: Duration = Duration::from_millis(5); // a second in the lesson
    let server = Loop::submit()?;
    let addr = server.addr;
    let talk = move |number: u64| {
        let (mut client, mut ids) = (Client::connect(addr)?, Vec::new());
        for n in 1..=10 {
            let payload = format!("gentle-otter-{number:02}{n:02}");
            ids.push(client.ask(&submit(n, payload.as_bytes()))?.id);
            thread::sleep(PAUSE);
        }
        io::Result::Ok(ids)
    };
    let threads: Vec<_> = (1..=5)
        .map(|number| thread::spawn(move || talk(number)))
        .collect();
    let ids = threads.into_iter().map(|thread| joined(thread)?);
    let ids = ids.collect::<io::Result<Vec<Vec<Id>>>>()?;
    let wanted: Vec<Id> = (1..=10).map(Id::nth).collect();
    let complete = ids.iter().filter(|ids| **ids == wanted).count();
    let acks: usize = ids.iter().map(Vec::len).sum();

    let (by_deadline, heard_late) = deadlines_until_quit(Some(Duration::from_millis(200)))?;
    let (by_shutdown, heard_soon) = deadlines_until_quit(None)?;
    let silent = Client::connect(addr)?;
    let (stopped, counters) = timed(|| server.stop(Stop::AtOnce));
    drop(silent);
    let by_waker = counters?.deadlines;
    let holds = complete == 5 && by_deadline >= 1 && (by_shutdown, by_waker) == (0, 0);
    Verdict::Refined.only_if(holds).measured(values![
        complete,
        acks,
        by_deadline,
        by_shutdown,
        by_waker,
        heard_late,
        heard_soon,
        stopped
    ])
}

/// How many deadlines pass, and how long it takes, until a reader with nothing to read notices that
/// it is told to end.
fn deadlines_until_quit(deadline: Option<Duration>) -> io::Result<(usize, Duration)> {
    let (client, _server) = pair()?;
    let (reads, quit) = (AtomicBool::new(false), AtomicBool::new(false));
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
        let passed = reader.join().map_err(|_| fail("the reader panicked"))?;
        Ok((passed, told.elapsed()))
    })
}

fn d16(_: Lab) -> io::Result<Outcome> {
    let logged = |bytes: &[u8]| {
        let mut served = Served::by(Demo::Direct)?;
        served.client.write_all(bytes)?;
        io::Result::Ok(served.end()?.1)
    };
    let whole = [
        submit(1, b"credible-deathstrike"),
        submit(2, b"certain-deadpool"),
    ]
    .concat();
    let torn = &whole[..whole.len() - 3];
    let lines = (0..5)
        .map(|_| logged(&whole))
        .collect::<io::Result<Vec<_>>>()?
        .concat();
    let count = |lines: &[String], beginning: &str| {
        lines
            .iter()
            .filter(|line| line.starts_with(beginning))
            .count()
    };
    let received = count(&lines, "recv submit: id = ");
    let ends = count(&lines, "handleConn: frame decode error: EOF");
    let torn_line = logged(torn)?.pop().unwrap_or_default();

    let reactor = Loop::submit()?;
    let reasons = (0..5)
        .map(|_| Ok(reactor.talk(&whole)?.1))
        .collect::<io::Result<Vec<_>>>()?;
    let closed = count(&reasons, "closed by the peer");
    let torn_here = reactor.talk(torn)?.1;
    let told_apart =
        torn_line.ends_with("unexpected EOF") && torn_here.contains("bytes into a frame");
    let (line, reason) = (lines.first(), reasons.first());
    let holds = (received, ends, closed) == (10, 5, 5) && told_apart;
    let values = values![line, received, ends, closed, reason, torn_line, torn_here];
    Verdict::Refined.only_if(holds).measured(values)
}

fn d17(_: Lab) -> io::Result<Outcome> {
    const REQUESTS: usize = 200;
    let mut lesson = Served::by(Demo::Direct)?;
    let (mut in_pieces, mut buffer) = (0, [0; 64]);
    for n in 1..=REQUESTS {
        lesson.client.write_all(&submit(n as u64, b"hello"))?;
        let first = lesson.client.read(&mut buffer)?;
        if first < Ack::LEN {
            in_pieces += 1;
            lesson.client.read_exact(&mut buffer[first..Ack::LEN])?;
        }
    }
    let [_, writes, _] = lesson.counts.now();

    let writes_of = |talk: fn(&mut Client) -> io::Result<()>| {
        let server = Loop::submit()?;
        talk(&mut Client::connect(server.addr)?)?;
        io::Result::Ok(server.stop(Stop::Gracefully)?.writes as usize)
    };
    let one_by_one = writes_of(|client| (0..REQUESTS).try_for_each(|_| client.hello()))?;
    let at_once = writes_of(|client| {
        client.send(&submit(1, b"hello").repeat(REQUESTS))?;
        (0..REQUESTS).try_for_each(|_| client.ack().map(drop))
    })?;
    let holds = writes == 2 * REQUESTS && one_by_one == REQUESTS && at_once < REQUESTS / 10;
    let values = values![requests = REQUESTS, writes, in_pieces, one_by_one, at_once];
    Verdict::reproduced_if(holds).measured(values)
}

/// What becomes of the lesson's server with these bytes.
fn fate_of_the_lessons(bytes: &'static [u8]) -> String {
    const MIB: i32 = 1 << 20;
    let length = bytes
        .first_chunk()
        .map_or(0, |length| i32::from_be_bytes(*length));
    let wanted = length.wrapping_sub(4);
    if wanted > MIB {
        let mebibytes = f64::from(wanted) / f64::from(MIB);
        return format!("would take {mebibytes:.0} MiB, and wait (not tried)");
    }
    let served = quietly(|| {
        catch_unwind(|| {
            let frame = decode_frame(&mut &*bytes);
            frame
                .and_then(|frame| decode_packet(frame, Box::default()))
                .is_ok()
        })
    });
    served.map_or("panics".into(), |ok| format!("served: {ok}"))
}

fn d18(_: Lab) -> io::Result<Outcome> {
    const HOSTILE: [&[u8]; 6] = [
        b"\0\0\0\0",
        b"\0\0\0\x03",
        b"\0\0\0\x04",
        b"\0\0\0\x08\x02abc",
        b"\x7f\xff\xff\xff",
        b"\x80\0\0\0",
    ];
    let server = Loop::submit()?;
    let mut honest = Client::connect(server.addr)?;
    let (mut theirs, mut ours, mut others) = (Vec::new(), Vec::new(), 0);
    for bytes in HOSTILE {
        theirs.push(fate_of_the_lessons(bytes));
        let (acks, end) = server.talk(bytes)?;
        ours.push(if acks.is_empty() {
            end
        } else {
            "it is answered".into()
        });
        others += usize::from(honest.is_served(1)?);
    }
    let handler = &mut service();
    let shared = &mut Shared::new(Config::default(), Instant::now());
    let mut connection = Connection::unconnected(handler);
    connection.receive(b"\0\x01\0\0", handler, shared); // the longest allowed, without its bytes
    let held = connection.heap();
    let deadly = theirs.iter().filter(|fate| *fate == "panics").count();
    let refused = ours
        .iter()
        .filter(|end| end.starts_with("protocol error by the peer"))
        .count();
    let holds = (deadly, refused, others) == (4, 6, 6) && held <= 64;
    Verdict::reproduced_if(holds).measured(values![theirs, ours, others, held])
}
