//! Memory after a burst: the loop's shared buffers shrink again, and no message is held twice.
//! Counted by the allocator.

mod util;

use std::io::Read;
use std::thread;
use std::time::Duration;

use allocation_counter::measure;
use glassloop::codec::Line;
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Handler, LoopContext, Origin, Reactor, Verdict,
};
use util::{Client, TIMEOUT, reactor, turn_until};

const MIB: usize = 1 << 20;

/// Sends its text to the connection that asks for it, or to all connections.
struct Sender {
    text: Vec<u8>,
    all: Vec<ConnectionId>,
    closed: usize,
}

impl Sender {
    fn new(bytes: usize) -> Self {
        Self {
            text: vec![b'x'; bytes],
            all: Vec::new(),
            closed: 0,
        }
    }
}

impl Handler for Sender {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default().max(1 << 30), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.all.push(cx.id());
        Verdict::Continue
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        match line {
            b"text" => cx.send(&*self.text),
            b"each" => self.all.iter().for_each(|id| cx.send_to(*id, &*self.text)),
            b"dials" => (0..100_000).for_each(|_| cx.connect(Vec::new(), TIMEOUT, 0)),
            b"many" => cx.send_to_many(self.all.iter().copied(), &*self.text),
            _ => cx.send(line),
        }
        Verdict::Continue
    }

    fn mail(&mut self, (): (), cx: &mut LoopContext<'_, Self>) {
        assert_eq!(
            cx.send_to_many(self.all.iter().copied(), &*self.text),
            self.all.len()
        );
    }

    fn close(&mut self, _: &mut Context<'_, Self>, reason: &CloseReason) {
        self.closed += usize::from(matches!(
            reason,
            CloseReason::PeerClosed | CloseReason::Reset
        ));
    }
}

/// The most bytes that the shared buffers may hold while they are empty: see
/// `Reactor::shared_memory`.
fn bound<H: Handler>(reactor: &Reactor<H>) -> usize {
    let Config {
        scratch,
        events_per_turn,
        retained_capacity,
        ..
    } = *reactor.config();
    scratch + 16 * events_per_turn + 9 * retained_capacity + 16 * 1024
}

#[test]
fn shared_memory_shrinks_after_a_large_reply() {
    const REPLY: usize = 64 * MIB;
    let config = Config {
        write_cap: 1 << 30,
        ..Config::default()
    };
    let (mut reactor, addr) = reactor(Sender::new(REPLY), config);
    let mut client = Client::connect(addr);
    client.send(b"warm\n");
    turn_until(&mut reactor, |reactor| {
        reactor.counters().bytes_written == 5
    });
    client.expect(b"warm\n");
    let before = reactor.shared_memory();

    let info = measure(|| {
        client.send(b"text\n");
        let mut reader = client.stream.try_clone().unwrap();
        let reading = thread::spawn(move || {
            std::io::copy(
                &mut Read::by_ref(&mut reader).take(REPLY as u64 + 1),
                &mut std::io::sink(),
            )
        });
        turn_until(&mut reactor, |_| reading.is_finished());
        assert_eq!(reading.join().unwrap().unwrap(), REPLY as u64 + 1);
        for n in 1..=2_000 {
            client.send(b"small\n");
            turn_until(&mut reactor, |reactor| reactor.counters().frames == 2 + n);
            client.expect(b"small\n");
        }
    });
    let (live, peak) = (info.bytes_current, usize::try_from(info.bytes_max).unwrap());
    println!(
        "a reply of {REPLY} bytes: peak {peak} bytes, {live} bytes kept; \
         shared memory {before} before, {} after",
        reactor.shared_memory()
    );
    assert!(live < 512 * 1024, "{live} bytes kept");
    // The reply once, and half of it again when its unsent part moves to memory of its own size.
    assert!(
        peak < REPLY + REPLY * 3 / 4,
        "peak {peak} bytes for a reply of {REPLY}"
    );
    assert_eq!(reactor.buffered(), 0);
    assert!(
        reactor.shared_memory() <= before + reactor.config().retained_capacity,
        "{}",
        reactor.shared_memory()
    );
    assert!(reactor.shared_memory() <= bound(&reactor));
}

/// Lets `ask` make the handler send 400 kB to each of 101 connections. Their peers read nothing and
/// then close.
fn broadcast(way: &str, ask: impl FnOnce(&mut Reactor<Sender>, &mut Client)) {
    const CONNECTIONS: usize = 101;
    const MESSAGE: usize = 400_000;
    let (mut reactor, addr) = reactor(Sender::new(MESSAGE), Config::default());
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::connect(addr)).collect();
    turn_until(&mut reactor, |reactor| reactor.connections() == CONNECTIONS);
    let before = reactor.shared_memory();

    let info = measure(|| {
        ask(&mut reactor, &mut clients[0]);
        turn_until(&mut reactor, |reactor| {
            reactor.counters().queued == CONNECTIONS as u64
        });
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
        let held = reactor.shared_memory();
        assert!(
            held <= before + 1024 * 1024,
            "{way}: shared memory {held} bytes with the message queued, {before} before"
        );
        clients.clear();
        turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    });
    assert_eq!(reactor.handler().closed, CONNECTIONS);
    let (live, peak) = (info.bytes_current, usize::try_from(info.bytes_max).unwrap());
    println!(
        "{way}: peak {peak} bytes, {live} bytes kept; shared memory {before} before, {} after",
        reactor.shared_memory()
    );
    let once = (CONNECTIONS + 2) * (MESSAGE + 1);
    assert!(
        peak < once + MIB,
        "{way}: peak {peak} bytes, {once} for one copy each"
    );
    assert!(live < 512 * 1024, "{way}: {live} bytes kept");
    assert!(
        reactor.shared_memory() <= bound(&reactor),
        "{way}: {}",
        reactor.shared_memory()
    );
}

#[test]
fn broadcast_message_is_held_once_and_freed_after_delivery() {
    broadcast("Context::send_to for each", |_, client| {
        client.send(b"each\n");
    });
    broadcast("Context::send_to_many", |_, client| client.send(b"many\n"));
    broadcast("LoopContext::send_to_many", |reactor, _| {
        reactor.handle().post(()).unwrap();
    });
}

#[test]
fn connect_queue_shrinks_after_a_burst() {
    let (mut reactor, addr) = reactor(Sender::new(1), Config::default());
    let mut client = Client::connect(addr);
    client.send(b"dials\nand then\n");
    turn_until(&mut reactor, |reactor| {
        reactor.counters().bytes_written == 9
    });
    client.expect(b"and then\n");
    assert!(
        reactor.shared_memory() <= bound(&reactor),
        "{}",
        reactor.shared_memory()
    );
}

#[test]
fn queued_posts_are_counted_and_their_queue_shrinks_afterwards() {
    let config = Config {
        retained_capacity: 1024,
        mailbox_cap: 8 * MIB,
        calls_per_turn: 100,
        ..Config::default()
    };
    let (mut reactor, addr) = reactor(Sender::new(1), config);
    let mut client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    let (id, handle) = (reactor.handler().all[0], reactor.handle());
    let before = reactor.shared_memory();
    for _ in 0..10_000 {
        handle
            .send(
                id,
                &b"a message of sixty-four bytes, the line feed at its end counted\n"[..],
            )
            .unwrap();
    }
    assert!(
        reactor.shared_memory() >= before + 640_000,
        "{} bytes",
        reactor.shared_memory()
    );
    let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
    assert!(
        reactor.shared_memory() >= before + 640_000,
        "posts that were taken and not handled yet count too"
    );
    let reading = thread::spawn(move || {
        client
            .stream
            .read_exact(&mut vec![0; 640_000])
            .map(|()| client)
    });
    turn_until(&mut reactor, |reactor| reactor.counters().posts == 10_000);
    turn_until(&mut reactor, |_| reading.is_finished());
    drop(reading.join().unwrap().unwrap());
    assert!(
        reactor.shared_memory() <= bound(&reactor),
        "{} bytes",
        reactor.shared_memory()
    );
}
