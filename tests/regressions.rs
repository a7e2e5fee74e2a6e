//! Tests for bugs that the crate once had.

mod util;

use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use glassloop::codec::{Codec, Input, Line};
use glassloop::{CloseReason, Config, ConnectionId, Context, Handler, Origin, Reactor, Verdict};
use util::{Client, TIMEOUT, ack, addr_of, id, reactor, service, submit, turn_until};

/// Does what each line asks for, and keeps the ids of all connections.
#[derive(Default)]
struct CommandHandler {
    ids: Vec<ConnectionId>,
    close_reasons: Vec<String>,
    busy_frames: u64,
    quiet_frames: u64,
}

impl Handler for CommandHandler {
    type Codec = Line;
    type State = Bomb;
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, Bomb) {
        (Line::default(), Bomb(false))
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.ids.push(cx.id());
        Verdict::Continue
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        match line {
            b"busy" => {
                self.busy_frames += 1;
                (0..100).for_each(|_| cx.resume(cx.id()));
            }
            b"quiet" => {
                self.quiet_frames += 1;
                cx.send(line);
            }
            b"arm" => cx.state().0 = true,
            b"throw" => std::panic::panic_any(Bomb(true)),
            b"stop" | b"abort" => {
                cx.send(&b"two\nlines"[..]);
                return if line == b"stop" {
                    Verdict::Stop
                } else {
                    Verdict::Abort
                };
            }
            _ => {}
        }
        Verdict::Continue
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        self.close_reasons.push(reason.to_string());
        for id in &self.ids {
            cx.send_to(*id, &b"another connection has been closed."[..]);
        }
    }
}

/// Panics in its destructor if it is armed.
struct Bomb(bool);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.0, "panic in a destructor");
    }
}

/// A loop with one connection, the client of it, and its id.
fn with_client(config: Config) -> (Reactor<CommandHandler>, Client, ConnectionId) {
    let (mut reactor, addr) = reactor(CommandHandler::default(), config);
    let client = Client::connect(addr);
    turn_until_idle(&mut reactor, 1);
    let id = reactor.handler().ids[0];
    (reactor, client, id)
}

/// Turns until there are `connections` connections and a turn brings no event.
fn turn_until_idle<H: Handler>(reactor: &mut Reactor<H>, connections: usize) {
    turn_until(reactor, |reactor| reactor.connections() == connections);
    turn_until(reactor, |reactor| {
        let events = reactor.counters().events;
        let _ = reactor.turn(Some(Duration::from_millis(1))).unwrap();
        reactor.counters().events == events
    });
}

#[test]
fn verdict_given_between_turns_takes_effect_without_an_event() {
    for verdict in [Verdict::Abort, Verdict::Close] {
        let (mut reactor, mut client, id) = with_client(Config::default());
        assert!(reactor.with(id, |_, _| verdict));
        let _ = reactor.turn(None).unwrap(); // without the fix it never returns
        client.expect_closed();
    }
}

#[test]
fn linger_that_begins_between_turns_has_its_full_time() {
    let linger_timeout = Duration::from_millis(200);
    let (mut reactor, _client, id) = with_client(Config {
        linger_timeout,
        ..Config::default()
    });
    // The loop does not turn for longer than the linger timeout.
    let begun = Instant::now();
    while begun.elapsed() < linger_timeout {
        std::hint::spin_loop();
    }
    assert!(reactor.with(id, |_, _| Verdict::Close));
    let closed = Instant::now();
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    assert!(closed.elapsed() >= linger_timeout);
}

#[test]
fn connection_with_many_commands_does_not_delay_the_next() {
    let (mut reactor, mut busy, _) = with_client(Config {
        command_high: 1000,
        ..Config::default()
    });
    let mut quiet = Client::connect(busy.stream.peer_addr().unwrap());
    turn_until_idle(&mut reactor, 2);
    busy.send(&b"busy\n".repeat(10_000));
    turn_until(&mut reactor, |reactor| reactor.handler().busy_frames > 0);
    quiet.send(b"quiet\n");
    turn_until(&mut reactor, |reactor| reactor.handler().quiet_frames == 1);
    assert!(
        reactor.handler().busy_frames < 1000,
        "{} frames of the busy connection came first",
        reactor.handler().busy_frames
    );
    quiet.expect(b"quiet\n");
}

#[test]
fn commands_from_many_close_callbacks_use_bounded_memory() {
    const PEERS: usize = 300;
    let config = Config {
        command_high: 10_000,
        ..Config::default()
    };
    let (mut reactor, addr) = reactor(CommandHandler::default(), config);
    let mut clients: Vec<Client> = (0..PEERS).map(|_| Client::connect(addr)).collect();
    turn_until_idle(&mut reactor, PEERS);
    let stays = clients.pop().unwrap();
    drop(clients);
    let (mut peak, end) = (0, Instant::now() + TIMEOUT);
    while reactor.connections() > 1 {
        assert!(Instant::now() < end, "connections stay open: {reactor:?}");
        let turn = allocation_counter::measure(|| {
            let _ = reactor.turn(Some(Duration::from_millis(1))).unwrap();
        });
        peak = peak.max(turn.bytes_max);
    }
    // Without a bound: 300 callbacks × 300 messages × 60 bytes, 5 MB. With it: the mark, the
    // commands of one callback, and the messages to the connection that stays.
    assert!(peak < 400_000, "{peak} bytes");
    drop(stays);
}

#[test]
fn verdict_holds_after_a_message_that_cannot_be_encoded() {
    let (mut reactor, mut client, _) = with_client(Config::default());
    client.send(b"stop\n");
    client.shut_write();
    turn_until(&mut reactor, |reactor| {
        reactor.connections() == 0 && reactor.local_addrs().is_empty()
    });

    let (mut reactor, mut client, _) = with_client(Config::default());
    client.send(b"abort\n");
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    assert_eq!(reactor.handler().close_reasons, ["aborted by the handler"]);
}

#[test]
fn panics_in_destructors_are_contained() {
    for line in [&b"arm\n"[..], b"throw\n"] {
        let (mut reactor, mut client, _) = with_client(Config::default());
        client.send(line);
        client.shut_write();
        turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
        assert_eq!(reactor.counters().panics, 1);
    }
}

#[test]
fn codec_that_clears_earlier_output_is_contained() {
    struct Clearing;
    impl Codec for Clearing {
        type Frame<'a> = &'a [u8];
        type Message<'a> = &'a [u8];
        type Error = std::fmt::Error;
        fn decode<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<&'a [u8]>, Self::Error> {
            Ok(Some(input.take(1)))
        }
        fn encode(&mut self, message: &[u8], out: &mut BytesMut) -> Result<(), Self::Error> {
            out.clear();
            out.put_slice(message);
            Ok(())
        }
        fn max_frame(&self) -> usize {
            1
        }
    }
    struct Sends;
    impl Handler for Sends {
        type Codec = Clearing;
        type State = ();
        type Mail = ();
        fn connection(&mut self, _: &Origin) -> (Clearing, ()) {
            (Clearing, ())
        }
        fn frame(&mut self, byte: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
            for message in [&b"long message"[..], b"x"] {
                if byte == b"o" {
                    cx.send_to(cx.id(), message);
                } else {
                    cx.send(message);
                }
            }
            Verdict::Continue
        }
    }
    let mut reactor = Reactor::bind("127.0.0.1:0", Sends).unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    client.send(b"o");
    turn_until(&mut reactor, |reactor| {
        reactor.counters().bytes_written == 13
    });
    client.expect(b"long messagex");
    client.send(b"s");
    turn_until(&mut reactor, |reactor| reactor.counters().panics == 1);
}

#[test]
fn timeout_may_be_unlimited() {
    let config = Config {
        drain_timeout: Duration::MAX,
        linger_timeout: Duration::MAX,
        ..Config::default()
    };
    let (mut reactor, addr) = reactor(service(), config);
    let mut client = Client::connect(addr);
    client.send(&[0; 4]);
    turn_until(&mut reactor, |reactor| reactor.counters().bytes_read == 4);
    client.expect_eof();
    reactor.stop(glassloop::Stop::Gracefully);
    let _ = reactor.turn(None).unwrap();
    assert_eq!(reactor.connections(), 1);
    drop(client);
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
}

#[test]
fn connection_is_not_counted_as_accepted_if_the_handler_panics() {
    struct Refuses;
    impl Handler for Refuses {
        type Codec = Line;
        type State = ();
        type Mail = ();
        fn connection(&mut self, _: &Origin) -> (Line, ()) {
            panic!("as asked")
        }
        fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
            Verdict::Continue
        }
    }
    let mut reactor = Reactor::bind("127.0.0.1:0", Refuses).unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    turn_until(&mut reactor, |reactor| reactor.counters().panics == 1);
    client.expect_closed();
    let counters = reactor.counters();
    assert_eq!(
        (counters.accepted, counters.closed, counters.accept_errors),
        (0, 0, 1)
    );
}

#[test]
fn closed_connection_leaves_the_shared_write_buffer_in_use() {
    let (mut reactor, addr) = reactor(service(), Config::default());
    let requests = submit(id(1), b"").repeat(500);
    let acks = ack(id(1)).repeat(500);
    let (mut stays, mut leaves) = (Client::connect(addr), Client::connect(addr));
    turn_until_idle(&mut reactor, 2);
    let serve = |reactor: &mut Reactor<_>, client: &mut Client| {
        client.send(&requests);
        let done = reactor.counters().bytes_written + acks.len() as u64;
        let info = allocation_counter::measure(|| {
            while reactor.counters().bytes_written < done {
                let _ = reactor.turn(Some(TIMEOUT)).unwrap();
            }
        });
        client.expect(&acks);
        info.count_total
    };
    for _ in 0..3 {
        serve(&mut reactor, &mut stays);
    }
    serve(&mut reactor, &mut leaves);
    drop(leaves);
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
    assert_eq!(serve(&mut reactor, &mut stays), 0);
}

#[test]
fn listeners_take_turns_at_the_connection_limit() {
    let mut reactor = Reactor::new(
        service(),
        Config {
            max_connections: Some(1),
            ..Config::default()
        },
    )
    .unwrap();
    let (first, second) = (
        reactor.listen("127.0.0.1:0").unwrap(),
        reactor.listen("127.0.0.1:0").unwrap(),
    );
    // All peers have shut their sending side, so that each is served and closed within a few turns.
    for addr in [first; 20].into_iter().chain([second; 20]) {
        Client::connect(addr).shut_write();
    }
    let mut accepted = [0, 0];
    let listeners = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let log = listeners.clone();
    reactor.set_observer(move |step: &glassloop::Step<'_>| {
        if let glassloop::Step::Accepted { listener, .. } = step {
            log.borrow_mut().push(*listener);
        }
    });
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 40);
    for listener in &listeners.borrow()[..30] {
        accepted[*listener] += 1;
    }
    assert!(
        accepted[0] > 5 && accepted[1] > 5,
        "{accepted:?} of the first 30"
    );
}
