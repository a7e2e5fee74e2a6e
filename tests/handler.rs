//! What a handler can ask for, and what becomes of it.

mod util;

use std::collections::HashMap;
use std::io::Read;
use std::time::{Duration, Instant};

use glassloop::codec::{Line, LineError};
use glassloop::internals::{Shared, State};
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Handler, Origin, Reactor, Step, Turn, Verdict,
};
use util::{Client, Server, TIMEOUT, addr_of, bound, turn_until};

/// Does what each line says, and remembers who is there.
#[derive(Default)]
struct Obedient {
    named: HashMap<Vec<u8>, ConnectionId>,
    calls: Vec<String>,
    keep_open_at_eof: bool,
}

impl Handler for Obedient {
    type Codec = Line;
    type State = Vec<u8>;
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, Vec<u8>) {
        (Line::default(), Vec::new())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.calls.push("open".into());
        cx.send(&b"welcome"[..]);
        Verdict::Continue
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        self.calls.push(String::from_utf8_lossy(line).into());
        let mut words = line.split(|byte| *byte == b' ');
        let (verb, word) = (words.next().unwrap(), words.next().unwrap_or_default());
        match verb {
            b"name" => {
                *cx.state() = word.to_vec();
                self.named.insert(word.to_vec(), cx.id());
            }
            b"who" => {
                let name = cx.state().clone();
                cx.send(&*name);
            }
            b"tell" => cx.send_to(self.named[word], line),
            b"kick" => cx.close(self.named[word]),
            b"wake" => cx.resume(self.named[word]),
            b"echo" => cx.send(line),
            b"half" => {
                cx.send(&b"before"[..]);
                cx.send(&b"two\nlines"[..]);
                cx.send(&b"after"[..]);
            }
            b"fill" => (0..word.len()).for_each(|_| cx.send(&*vec![b'x'; 60_000])),
            b"pause" => return Verdict::Pause,
            b"close" => return Verdict::Close,
            b"abort" => return Verdict::Abort,
            b"stop" => return Verdict::Stop,
            b"panic" => {
                cx.send(&b"last words"[..]);
                panic!("as asked");
            }
            _ => cx.send(&b"what?"[..]),
        }
        Verdict::Continue
    }

    fn eof(&mut self, _: &mut Context<'_, Self>) -> Verdict {
        self.calls.push("eof".into());
        if self.keep_open_at_eof {
            Verdict::Continue
        } else {
            Verdict::Close
        }
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        self.calls.push(format!("close: {reason}"));
        cx.send(&b"nobody reads this"[..]);
        if let Some(id) = self.named.get(&b"heir"[..]) {
            cx.send_to(*id, &b"somebody left"[..]);
        }
    }
}

/// Two clients, greeted; the first is called `heir`.
fn pair(server: &Server) -> (Client, Client) {
    let (mut heir, mut other) = (server.connect(), server.connect());
    heir.expect(b"welcome\n");
    other.expect(b"welcome\n");
    heir.send(b"name heir\nwho\n");
    heir.expect(b"heir\n");
    (heir, other)
}

fn obedient() -> Server {
    Server::start(Obedient::default(), Config::default())
}

#[test]
fn state_belongs_to_one_connection() {
    let server = obedient();
    let (mut heir, mut other) = pair(&server);
    other.send(b"who\nname other\nwho\n");
    other.expect(b"\nother\n");
    heir.send(b"who\n");
    heir.expect(b"heir\n");
}

#[test]
fn messages_to_other_connections_arrive_even_from_close() {
    let server = obedient();
    let (mut heir, mut other) = pair(&server);
    other.send(b"tell heir one\ntell heir two\necho x\n");
    heir.expect(b"tell heir one\ntell heir two\n");
    other.expect(b"echo x\n");
    drop(other);
    heir.expect(b"somebody left\n");
}

#[test]
fn messages_to_a_closed_connection_are_dropped_and_counted() {
    let server = obedient();
    let (heir, mut other) = pair(&server);
    drop(heir);
    assert_eq!(server.next_close_reason(), "closed by the peer");
    // Its slot is taken by a newcomer, who must not get them.
    let mut newcomer = server.connect();
    newcomer.expect(b"welcome\n");
    other.send(b"tell heir secret\nkick heir\nwake heir\necho x\n");
    other.expect(b"echo x\n");
    newcomer.send(b"echo y\n");
    newcomer.expect(b"echo y\n");
    assert_eq!(
        server.stop().stale,
        4,
        "those three, and what the heir's own end sent to the heir"
    );
}

#[test]
fn close_sends_queued_replies_and_abort_does_not() {
    let server = obedient();
    let (mut heir, mut other) = pair(&server);
    other.send(b"echo 1\nclose\necho 2\n");
    other.expect(b"echo 1\n");
    other.expect_eof();
    drop(other);
    assert_eq!(server.next_close_reason(), "closed by the handler");
    heir.send(b"abort\n");
    heir.stream.read_to_end(&mut Vec::new()).ok();
    assert_eq!(server.next_close_reason(), "aborted by the handler");
}

#[test]
fn one_connection_can_close_another() {
    let server = obedient();
    let (mut heir, mut other) = pair(&server);
    other.send(b"kick heir\n");
    heir.expect_eof();
}

#[test]
fn paused_connection_gets_no_frames_until_resumed() {
    let server = obedient();
    let (mut heir, mut other) = pair(&server);
    // The first is behind the pause in the same read, the second comes later.
    heir.send(b"echo 1\npause\necho 2\n");
    heir.expect(b"echo 1\n");
    heir.send(b"echo 3\n");
    // What comes later is answered: so the loop has had its chance to read the third.
    for _ in 0..2 {
        other.send(b"echo later\n");
        other.expect(b"echo later\n");
    }
    heir.stream.set_nonblocking(true).unwrap();
    assert!(
        heir.stream.read(&mut [0; 8]).is_err(),
        "nothing may come through a pause"
    );
    heir.stream.set_nonblocking(false).unwrap();
    other.send(b"wake heir\nwake heir\n");
    heir.expect(b"echo 2\necho 3\n");
}

#[test]
fn frames_received_before_a_reset_are_handled() {
    let mut reactor = Reactor::bind("127.0.0.1:0", Obedient::default()).unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    client.send(b"echo 1\necho 2\n");
    client.reset();
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
    assert_eq!(
        reactor.handler().calls,
        ["open", "echo 1", "echo 2", "close: reset by the peer"]
    );
}

#[test]
fn reset_is_noticed_without_reads_or_writes() {
    // Together with the pause, and long after it.
    for wait_for_the_pause in [false, true] {
        let mut reactor = Reactor::bind("127.0.0.1:0", Obedient::default()).unwrap();
        let mut client = Client::connect(addr_of(&reactor));
        client.send(b"pause\n");
        if wait_for_the_pause {
            turn_until(&mut reactor, |reactor| {
                reactor
                    .handler()
                    .calls
                    .last()
                    .is_some_and(|call| call == "pause")
            });
        }
        client.reset();
        turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
        assert_eq!(
            reactor.handler().calls,
            ["open", "pause", "close: reset by the peer"]
        );
    }
}

#[test]
fn encode_error_closes_after_earlier_replies_are_sent() {
    let server = obedient();
    let (_heir, mut other) = pair(&server);
    other.send(b"half\necho never\n");
    other.expect(b"before\n");
    other.expect_eof();
    drop(other);
    assert_eq!(
        server.next_close_reason(),
        "reply could not be encoded: delimiter inside a message, at byte 3"
    );
}

#[test]
fn write_cap_closes_a_connection_with_too_much_queued() {
    let server = obedient();
    let (_heir, mut other) = pair(&server);
    other.send(b"fill xxxxxxxxxxxxxxxxxxxx\n");
    let mut got = Vec::new();
    other.stream.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 17 * 60_001, "whole messages up to the cap");
    drop(other);
    assert_eq!(
        server.next_close_reason(),
        "write buffer full: 1080018 bytes to queue, 1048576 allowed"
    );
}

#[test]
fn panic_closes_its_connection_after_earlier_replies_are_sent() {
    let server = obedient();
    let (mut heir, mut other) = pair(&server);
    other.send(b"echo first\npanic\necho never\n");
    other.expect(b"echo first\nlast words\n");
    other.expect_eof();
    drop(other);
    assert_eq!(server.next_close_reason(), "the handler panicked");
    heir.expect(b"somebody left\n");
    heir.send(b"echo alive\n");
    heir.expect(b"echo alive\n");
    assert_eq!(server.stop().panics, 1);
}

#[test]
fn batch_with_many_commands_yields_and_loses_nothing() {
    // One command takes more than this: every frame ends its batch.
    let server = Server::start(
        Obedient::default(),
        Config {
            command_high: 1,
            ..Config::default()
        },
    );
    let (mut heir, mut other) = pair(&server);
    other.send(&b"tell heir x\n".repeat(100));
    heir.expect(&b"tell heir x\n".repeat(100));
    other.send(b"close\n");
    other.expect_eof();
    drop((heir, other));
    assert!(server.stop().deferred >= 99);
}

#[test]
fn handler_can_stop_the_loop() {
    let server = obedient();
    let (mut heir, mut other) = pair(&server);
    other.send(b"echo 1\nstop\necho 2\n");
    other.expect(b"echo 1\necho 2\n");
    other.expect_eof();
    heir.expect_eof();
}

#[test]
fn callbacks_come_in_order_and_close_comes_once() {
    let mut reactor = Reactor::bind("127.0.0.1:0", Obedient::default()).unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    client.send(b"echo 1\necho 2\n");
    client.shut_write();
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
    assert_eq!(
        reactor.handler().calls,
        [
            "open",
            "echo 1",
            "echo 2",
            "eof",
            "close: closed by the peer"
        ]
    );
    client.expect(b"welcome\necho 1\necho 2\n");
    client.expect_eof();
}

#[test]
fn half_closed_peer_can_be_written_to_until_the_handler_closes() {
    let mut reactor = Reactor::bind(
        "127.0.0.1:0",
        Obedient {
            keep_open_at_eof: true,
            ..Obedient::default()
        },
    )
    .unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    client.send(b"name me\n");
    client.shut_write();
    turn_until(&mut reactor, |reactor| {
        reactor
            .handler()
            .calls
            .last()
            .is_some_and(|call| call == "eof")
    });
    let id = reactor.handler().named[&b"me"[..]];
    for n in 0..3 {
        assert!(reactor.with(id, |_, cx| {
            cx.send(format!("push {n}").as_bytes());
            if n == 2 {
                Verdict::Close
            } else {
                Verdict::Continue
            }
        }));
    }
    assert!(!reactor.with(id, |_, _| unreachable!("it is closing")));
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    client.expect(b"welcome\npush 0\npush 1\npush 2\n");
    client.expect_eof();
}

#[test]
fn write_to_a_closed_peer_closes_that_connection_only() {
    let mut reactor = Reactor::bind(
        "127.0.0.1:0",
        Obedient {
            keep_open_at_eof: true,
            ..Obedient::default()
        },
    )
    .unwrap();
    let (mut client, mut other) = (
        Client::connect(addr_of(&reactor)),
        Client::connect(addr_of(&reactor)),
    );
    client.send(b"name me\n");
    turn_until(&mut reactor, |reactor| {
        reactor.handler().named.contains_key(&b"me"[..]) && reactor.counters().writes == 2
    });
    client.expect(b"welcome\n");
    drop(client);
    turn_until(&mut reactor, |reactor| {
        reactor
            .handler()
            .calls
            .last()
            .is_some_and(|call| call == "eof")
    });
    // For all that the loop knows he may still read. The first write goes well, and a later one finds that he does not.
    let (id, written) = (
        reactor.handler().named[&b"me"[..]],
        reactor.counters().bytes_written,
    );
    let mut pushes = 0;
    while reactor.with(id, |_, cx| {
        cx.send(&b"push"[..]);
        Verdict::Continue
    }) {
        pushes += 1;
        assert!(pushes < 10_000, "he has left, and nobody notices");
        let _ = reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
    assert!(
        reactor.counters().bytes_written >= written + 5,
        "the first one went out"
    );
    let ends: Vec<&String> = reactor
        .handler()
        .calls
        .iter()
        .filter(|call| call.starts_with("close: "))
        .collect();
    assert_eq!(ends, ["close: reset by the peer"]);
    other.send(b"echo still here\n");
    turn_until(&mut reactor, |reactor| {
        reactor
            .handler()
            .calls
            .last()
            .is_some_and(|call| call == "echo still here")
    });
    other.expect(b"welcome\necho still here\n");
}

#[test]
fn panic_in_any_callback_does_not_stop_the_loop() {
    struct Brittle(&'static str);
    impl Handler for Brittle {
        type Codec = Line;
        type State = ();
        type Mail = ();
        fn connection(&mut self, _: &Origin) -> (Line, ()) {
            assert_ne!(self.0, "connection");
            (Line::default(), ())
        }
        fn open(&mut self, _: &mut Context<'_, Self>) -> Verdict {
            assert_ne!(self.0, "open");
            Verdict::Continue
        }
        fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
            assert_ne!(self.0, "frame");
            Verdict::Continue
        }
        fn eof(&mut self, _: &mut Context<'_, Self>) -> Verdict {
            assert_ne!(self.0, "eof");
            Verdict::Close
        }
        fn close(&mut self, _: &mut Context<'_, Self>, _: &CloseReason) {
            assert_ne!(self.0, "close");
        }
    }
    for place in ["connection", "open", "frame", "eof", "close"] {
        let mut reactor = Reactor::bind("127.0.0.1:0", Brittle(place)).unwrap();
        let mut client = Client::connect(addr_of(&reactor));
        client.send(b"line\n");
        client.shut_write();
        turn_until(&mut reactor, |reactor| {
            reactor.counters().panics == 1 && reactor.connections() == 0
        });
        client.expect_closed();
        assert_eq!(
            reactor.turn(Some(Duration::ZERO)).unwrap(),
            Turn::Running,
            "after a panic in {place}"
        );
    }
}

#[test]
fn panicking_observer_is_removed() {
    let mut reactor = Reactor::bind("127.0.0.1:0", Obedient::default()).unwrap();
    reactor.set_observer(|_: &Step<'_>| panic!("as asked"));
    let mut client = Client::connect(addr_of(&reactor));
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    turn_until(&mut reactor, |reactor| reactor.counters().writes == 1);
    client.expect(b"welcome\n");
}

#[test]
fn observer_sees_every_step_in_order() {
    use std::cell::RefCell;
    use std::rc::Rc;
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    let mut reactor = Reactor::bind("127.0.0.1:0", Obedient::default()).unwrap();
    reactor.set_observer(move |step: &Step<'_>| {
        log.borrow_mut().push(match step {
            Step::Turn { .. } | Step::Event { .. } => return,
            Step::Accepted { .. } => "accepted".into(),
            Step::Read { fill, .. } => format!("read {fill:?}"),
            Step::Write { flush, .. } => format!("write {flush:?}"),
            Step::Frame { bytes, .. } => format!("frame {bytes}"),
            Step::Queued { bytes, .. } => format!("queued {bytes}"),
            Step::Verdict { verdict, .. } => format!("verdict {verdict:?}"),
            Step::State { from, to, .. } => format!("{from} -> {to}"),
            Step::Closed { reason, .. } => format!("closed, {reason}"),
            other => format!("{other:?}"),
        });
    });
    let mut client = Client::connect(addr_of(&reactor));
    turn_until(&mut reactor, |reactor| reactor.counters().writes == 1);
    client.send(b"echo 1\necho 2\npar");
    turn_until(&mut reactor, |reactor| reactor.counters().writes == 2);
    client.shut_write();
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
    let wanted = [
        "accepted",
        "queued 8",
        "write Bytes(8)",
        "read Bytes(17)",
        "frame 7",
        "queued 7",
        "frame 7",
        "queued 7",
        "write Bytes(14)",
        "read End",
        "open -> open, input ended",
        "open, input ended -> draining",
        "Discarded { id: 0#1, bytes: 3 }",
        "draining -> closed",
        "closed, closed by the peer 3 bytes into a frame",
    ];
    assert_eq!(*seen.borrow(), wanted);
}

#[test]
fn dial_reports_success_or_failure_to_the_handler() {
    let server = obedient();
    let mut reactor = Reactor::new(Obedient::default(), Config::default()).unwrap();
    let id = reactor.connect(server.addr, TIMEOUT).unwrap();
    assert!(!reactor.with(id, |_, _| unreachable!("it is not established yet")));
    turn_until(&mut reactor, |reactor| reactor.handler().calls.len() >= 3);
    assert_eq!(reactor.handler().calls[..3], ["open", "welcome", "what?"]);

    let (_bound, nobody) = bound();
    let mut reactor = Reactor::new(Obedient::default(), Config::default()).unwrap();
    reactor.connect(nobody, TIMEOUT).unwrap();
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
    let calls = &reactor.handler().calls;
    assert!(
        calls.len() == 1
            && calls[0].starts_with("close: cannot connect to ")
            && calls[0].ends_with("connection refused: nothing listens there"),
        "{calls:?}"
    );
}

#[test]
fn connection_can_be_driven_without_socket() {
    use glassloop::internals::Connection;
    let shared = &mut Shared::new(
        Config {
            write_high: 20,
            write_low: 10,
            ..Config::default()
        },
        Instant::now(),
    );
    let handler = &mut Obedient::default();
    let mut connection = Connection::unconnected(handler);
    connection.receive(b"echo 1\nec", handler, shared);
    assert_eq!(connection.unsent(), b"echo 1\n");
    connection.receive(b"ho 2\necho 3\necho 4\n", handler, shared);
    // Back-pressure: the fourth waits inside.
    assert_eq!(connection.unsent(), b"echo 1\necho 2\necho 3\n");
    assert!(!connection.is_reading());
    connection.sent(10, shared);
    connection.after_flush(shared);
    assert!(!connection.is_reading() && !connection.has_backlog());
    connection.sent(1, shared);
    connection.after_flush(shared);
    assert!(connection.has_backlog());
    connection.proceed(handler, shared);
    assert_eq!(connection.unsent(), b" 2\necho 3\necho 4\n");
    connection.sent(connection.unsent().len(), shared);
    connection.after_flush(shared);
    connection.end_of_input(handler, shared);
    assert!(
        matches!(connection.state(), State::Draining { reason, linger: false } if matches!(**reason, CloseReason::PeerClosed))
    );
    connection.after_flush(shared);
    assert!(matches!(
        connection.finish_close(handler, shared),
        CloseReason::PeerClosed
    ));
    assert_eq!(handler.calls.last().unwrap(), "close: closed by the peer");
}

#[test]
fn write_cap_below_write_high_still_holds() {
    use glassloop::internals::Connection;
    let shared = &mut Shared::new(
        Config {
            write_high: 1000,
            write_low: 10,
            write_cap: 15,
            ..Config::default()
        },
        Instant::now(),
    );
    let handler = &mut Obedient::default();
    let mut connection = Connection::unconnected(handler);
    connection.receive(b"echo 1\necho 2\necho 3\necho 4\n", handler, shared);
    assert_eq!(connection.unsent(), b"echo 1\necho 2\n");
    let State::Draining { reason, .. } = connection.state() else {
        panic!("{:?}", connection.state())
    };
    assert!(
        matches!(
            **reason,
            CloseReason::OutboxFull {
                queued: 21,
                cap: 15
            }
        ),
        "{reason:?}"
    );
}

#[test]
fn close_reason_returns_the_codec_error() {
    struct Strict(Option<LineError>);
    impl Handler for Strict {
        type Codec = Line;
        type State = ();
        type Mail = ();
        fn connection(&mut self, _: &Origin) -> (Line, ()) {
            (Line::default().max(4), ())
        }
        fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
            Verdict::Continue
        }
        fn close(&mut self, _: &mut Context<'_, Self>, reason: &CloseReason) {
            self.0 = reason.protocol().copied();
        }
    }
    let mut reactor = Reactor::bind("127.0.0.1:0", Strict(None)).unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    client.send(b"too long");
    client.shut_write();
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
    assert_eq!(
        reactor.handler().0,
        Some(LineError::TooLong { length: 8, max: 4 })
    );
}
