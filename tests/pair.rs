//! Two handlers on one loop: each sees all of its own connections, timers and mail, and none of the
//! other's.

mod util;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glassloop::codec::{Line, LineError};
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Direction, Either, Handler, LoopContext, Origin,
    Pair, Reactor, Step, TimerId, Verdict, submit,
};
use util::{Client, Service, TIMEOUT, ack, id, request, service, turn_until};

/// Records every call, and does what each line asks for.
#[derive(Default)]
struct Recorder {
    calls: Vec<String>,
    ids: Vec<ConnectionId>,
    /// The loop timer that belongs to this handler.
    timer: Option<TimerId>,
}

/// An action on a connection, which may belong to the other handler; the recorder notes its result.
type Action = (
    ConnectionId,
    fn(&mut LoopContext<'_, Recorder>, ConnectionId) -> bool,
);

impl Recorder {
    fn note(&mut self, call: impl Into<String>) {
        self.calls.push(call.into());
    }

    /// Takes the notes so far.
    fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.calls)
    }
}

impl Handler for Recorder {
    type Codec = Line;
    type State = usize;
    type Mail = Action;

    fn connection(&mut self, origin: &Origin) -> (Line, usize) {
        self.note(match origin {
            Origin::Accepted { listener, .. } => format!("accepted by {listener}"),
            other => format!("not accepted: {other:?}"),
        });
        (Line::default().max(60_001), 0)
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.note("open");
        self.ids.push(cx.id());
        Verdict::Continue
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        *cx.state() += 1;
        match line {
            b"count" => {
                let count = cx.state().to_string();
                cx.send(count.as_bytes());
            }
            b"deadline" => cx.set_read_deadline(Some(cx.now())),
            b"fill" => (0..2).for_each(|_| cx.send(&*vec![b'x'; 60_000])),
            b"garble" => cx.send(&b"two\nlines"[..]),
            b"panic" => panic!("as asked"),
            b"tell" => cx.send_to(self.ids[0], line),
            b"timer" => drop(cx.set_timer(cx.now())),
            _ => cx.send(line),
        }
        Verdict::Continue
    }

    fn eof(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.note("eof");
        cx.send(&b"goodbye"[..]);
        Verdict::Close
    }

    fn drained(&mut self, _: &mut Context<'_, Self>) -> Verdict {
        self.note("drained");
        Verdict::Continue
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        self.note(format!("deadline {which:?}"));
        cx.set_deadline(None);
        cx.send(&b"in time"[..]);
        Verdict::Continue
    }

    fn timer(&mut self, timer: TimerId, cx: &mut Context<'_, Self>) -> Verdict {
        assert_eq!(timer.owner(), Some(cx.id()));
        self.note("timer");
        cx.send(&b"tick"[..]);
        Verdict::Continue
    }

    fn loop_timer(&mut self, timer: TimerId, cx: &mut LoopContext<'_, Self>) {
        let owner = if self.timer == Some(timer) {
            "own"
        } else {
            "other's"
        };
        self.note(format!("{owner} loop timer"));
        if owner == "own" {
            assert_eq!(
                cx.send_to_many(self.ids.iter().copied(), &b"tock"[..]),
                self.ids.len()
            );
        }
    }

    fn mail(&mut self, (id, action): Action, cx: &mut LoopContext<'_, Self>) {
        let outcome = action(cx, id);
        self.note(format!("mail: {outcome}"));
    }

    fn close(&mut self, _: &mut Context<'_, Self>, reason: &CloseReason) {
        self.note(format!("close: {reason}"));
    }
}

/// Gives connections of the first listener to the left handler, all others to the right one.
fn first_is_left(origin: &Origin) -> Either<(), ()> {
    match origin {
        Origin::Accepted { listener: 0, .. } => Either::Left(()),
        _ => Either::Right(()),
    }
}

/// A loop with `N` listeners, and a client connected to each.
fn with_clients<H: Handler, const N: usize>(handler: H) -> (Reactor<H>, [Client; N]) {
    let mut reactor = Reactor::new(handler, Config::default()).unwrap();
    let addrs = [(); N].map(|()| reactor.listen("127.0.0.1:0").unwrap());
    let mut accepted = 0;
    let clients = addrs.map(|addr| {
        let client = Client::connect(addr);
        accepted += 1;
        turn_until(&mut reactor, |reactor| reactor.connections() == accepted);
        client
    });
    (reactor, clients)
}

type Recorders = Pair<Recorder, Recorder>;

/// Two recorders with a client each, and no notes yet.
fn recorders() -> (Reactor<Recorders>, [Client; 2]) {
    let (mut reactor, clients) = with_clients(Pair::new(
        Recorder::default(),
        Recorder::default(),
        first_is_left,
    ));
    assert_eq!(
        reactor.handler().left.take_notes(),
        ["accepted by 0", "open"]
    );
    assert_eq!(
        reactor.handler().right.take_notes(),
        ["accepted by 1", "open"]
    );
    (reactor, clients)
}

/// Turns until the loop has written `bytes` more bytes.
fn turn_until_written<H: Handler>(reactor: &mut Reactor<H>, bytes: usize) {
    let before = reactor.counters().bytes_written;
    turn_until(reactor, |reactor| {
        reactor.counters().bytes_written == before + bytes as u64
    });
}

/// Sends, turns and expects.
#[track_caller]
fn ask<H: Handler>(reactor: &mut Reactor<H>, client: &mut Client, question: &[u8], answer: &[u8]) {
    client.send(question);
    turn_until_written(reactor, answer.len());
    client.expect(answer);
}

#[test]
fn pair_serves_submit_and_lines_side_by_side() {
    let (mut reactor, [mut submits, mut lines]) =
        with_clients(Pair::new(service(), Recorder::default(), first_is_left));
    for n in 0..50 {
        ask(
            &mut reactor,
            &mut submits,
            &util::submit(id(n), b"\n\n"),
            &ack(id(n)),
        );
        ask(&mut reactor, &mut lines, b"hello\n", b"hello\n");
        ask(
            &mut reactor,
            &mut lines,
            b"count\n",
            format!("{}\n", 2 * n + 2).as_bytes(),
        );
    }
    assert_eq!(
        reactor.handler().right.take_notes(),
        ["accepted by 1", "open"]
    );
    // Between turns, with the pair's own types.
    let line = reactor.handler().right.ids[0];
    assert!(reactor.with(line, |pair, cx| {
        assert_eq!((pair.right.ids[0], *cx.state()), (line, Either::Right(100)));
        cx.send(Either::Right(&b"from outside"[..]));
        Verdict::Continue
    }));
    turn_until_written(&mut reactor, 13);
    lines.expect(b"from outside\n");
}

#[test]
fn handshake_timeout_applies_through_a_pair() {
    let strict = Service {
        require_conn: true,
        ..service()
    };
    let config = Config {
        handshake_timeout: Some(Duration::from_millis(30)),
        ..Config::default()
    };
    let mut reactor = Reactor::new(
        Pair::new(strict, Recorder::default(), first_is_left),
        config,
    )
    .unwrap();
    let addr = reactor.listen("127.0.0.1:0").unwrap();
    let mut silent = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
    assert_eq!(reactor.counters().deadlines, 1);
    silent.expect_eof();
}

#[test]
fn callbacks_reach_only_the_handler_of_their_connection() {
    for side in [0, 1] {
        let (mut reactor, mut clients) = recorders();
        let client = &mut clients[side];
        ask(&mut reactor, client, b"timer\n", b"tick\n");
        ask(&mut reactor, client, b"deadline\n", b"in time\n");
        ask(&mut reactor, client, b"tell\n", b"tell\n");
        client.send(b"fill\n");
        let before = reactor.counters().bytes_written;
        turn_until(&mut reactor, |reactor| {
            reactor.counters().bytes_written == before + 120_002
        });
        client.expect(&[vec![b'x'; 60_000], vec![b'\n']].concat().repeat(2));
        client.shut_write();
        turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
        client.expect(b"goodbye\n");
        client.expect_eof();
        let Pair { left, right, .. } = reactor.handler();
        let (its, other) = if side == 0 {
            (left, right)
        } else {
            (right, left)
        };
        assert_eq!(
            its.take_notes(),
            [
                "timer",
                "deadline Read",
                "drained",
                "eof",
                "close: closed by the peer"
            ]
        );
        assert_eq!(
            other.take_notes(),
            [""; 0],
            "the other handler sees none of it"
        );
    }
}

#[test]
fn dialed_connection_goes_to_the_selected_side() {
    let (mut reactor, clients) = recorders();
    let addr = reactor.local_addrs()[0].tcp().unwrap();
    let dialed = reactor.connect(addr, TIMEOUT).unwrap();
    turn_until(&mut reactor, |reactor| {
        reactor.handler().right.ids.contains(&dialed)
    });
    assert!(reactor.handler().right.take_notes()[0].starts_with("not accepted: Dialed"));
    drop(clients);
}

#[test]
fn mail_reaches_its_side_which_accesses_only_its_own_connections() {
    let (mut reactor, [mut left, mut right]) = recorders();
    let (handle, ids) = (
        reactor.handle(),
        [
            reactor.handler().left.ids[0],
            reactor.handler().right.ids[0],
        ],
    );
    let actions: [fn(&mut LoopContext<'_, Recorder>, ConnectionId) -> bool; 3] = [
        |cx, id| cx.send_to(id, &b"from mail"[..]),
        |cx, id| {
            cx.with(id, |cx| {
                assert_eq!(*cx.state(), 0);
                cx.send(&b"from with"[..]);
                Verdict::Continue
            })
        },
        |cx, id| cx.with(id, |_| Verdict::Close),
    ];
    // On connections of the other handler: no action has an effect.
    for action in actions {
        handle.post(Either::Left((ids[1], action))).ok().unwrap();
        handle.post(Either::Right((ids[0], action))).ok().unwrap();
    }
    turn_until(&mut reactor, |reactor| reactor.counters().posts == 6);
    assert_eq!(reactor.handler().left.take_notes(), ["mail: false"; 3]);
    assert_eq!(reactor.handler().right.take_notes(), ["mail: false"; 3]);
    // On its own connections, all have one. Bytes that the other handler had sent would come first.
    for action in actions {
        handle.post(Either::Left((ids[0], action))).ok().unwrap();
        handle.post(Either::Right((ids[1], action))).ok().unwrap();
    }
    turn_until(&mut reactor, |reactor| reactor.counters().posts == 12);
    assert_eq!(reactor.handler().left.take_notes(), ["mail: true"; 3]);
    assert_eq!(reactor.handler().right.take_notes(), ["mail: true"; 3]);
    for client in [&mut left, &mut right] {
        client.expect(b"from mail\nfrom with\n");
        client.expect_eof();
    }
    drop((left, right));
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    assert_eq!(
        reactor.handler().left.take_notes(),
        ["close: closed by the handler"]
    );
}

#[test]
fn loop_timer_reaches_both_sides_and_each_knows_its_own() {
    let (mut reactor, [mut left, mut right]) = recorders();
    let timers = [(); 2].map(|()| reactor.set_timer(Instant::now()));
    reactor.handler().left.timer = Some(timers[0]);
    reactor.handler().right.timer = Some(timers[1]);
    turn_until(&mut reactor, |reactor| reactor.counters().timers == 2);
    assert_eq!(
        reactor.handler().left.take_notes(),
        ["own loop timer", "other's loop timer"]
    );
    assert_eq!(
        reactor.handler().right.take_notes(),
        ["other's loop timer", "own loop timer"]
    );
    left.expect(b"tock\n");
    right.expect(b"tock\n");
}

#[test]
fn panic_in_a_callback_of_one_side_leaves_the_other_unaffected() {
    for side in [0, 1] {
        let (mut reactor, [left, right]) = recorders();
        let (mut victim, mut bystander) = if side == 0 {
            (left, right)
        } else {
            (right, left)
        };
        victim.send(b"panic\n");
        turn_until(&mut reactor, |reactor| reactor.counters().panics == 1);
        victim.expect_eof();
        drop(victim);
        turn_until(&mut reactor, |reactor| reactor.connections() == 1);
        ask(&mut reactor, &mut bystander, b"count\n", b"1\n");
        let Pair { left, right, .. } = reactor.handler();
        let (its, other) = if side == 0 {
            (left, right)
        } else {
            (right, left)
        };
        assert_eq!(its.take_notes(), ["close: the handler panicked"]);
        assert_eq!(other.take_notes(), [""; 0]);
    }
}

#[test]
fn panic_in_with_closes_that_connection_and_mail_continues() {
    let (mut reactor, [mut left, mut right]) = recorders();
    let ids = [
        reactor.handler().left.ids[0],
        reactor.handler().right.ids[0],
    ];
    for mail in [
        Either::Right((
            ids[1],
            (|cx, id| cx.with(id, |_| panic!("as asked")))
                as fn(&mut LoopContext<'_, Recorder>, _) -> bool,
        )),
        Either::Left((
            ids[0],
            (|_, _| panic!("as asked")) as fn(&mut LoopContext<'_, Recorder>, _) -> bool,
        )),
    ] {
        reactor.handle().post(mail).ok().unwrap();
    }
    turn_until(&mut reactor, |reactor| reactor.counters().posts == 2);
    assert_eq!(
        (
            reactor.counters().panics,
            reactor.handler().right.take_notes()
        ),
        (2, vec!["mail: true".to_string()])
    );
    right.expect_eof();
    ask(&mut reactor, &mut left, b"alive\n", b"alive\n");
}

/// Panics in every loop timer, its own or not.
struct PanicsInTimer;

impl Handler for PanicsInTimer {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }

    fn loop_timer(&mut self, _: TimerId, _: &mut LoopContext<'_, Self>) {
        panic!("as asked");
    }
}

#[test]
fn loop_timer_reaches_the_other_side_after_a_panic() {
    fn check<L: Handler, R: Handler>(pair: Pair<L, R>, notes: fn(&mut Pair<L, R>) -> Vec<String>) {
        let mut reactor = Reactor::new(pair, Config::default()).unwrap();
        reactor.set_timer(Instant::now());
        turn_until(&mut reactor, |reactor| reactor.counters().timers == 1);
        assert_eq!(reactor.counters().panics, 1);
        assert_eq!(notes(reactor.handler()), ["other's loop timer"]);
    }
    check(
        Pair::new(Recorder::default(), PanicsInTimer, first_is_left),
        |pair| pair.left.take_notes(),
    );
    check(
        Pair::new(PanicsInTimer, Recorder::default(), first_is_left),
        |pair| pair.right.take_notes(),
    );
}

#[test]
fn nested_pair_separates_three_handlers() {
    let second_is_left = |origin: &Origin| match origin {
        Origin::Accepted { listener: 1, .. } => Either::Left(()),
        _ => Either::Right(()),
    };
    let inner = Pair::new(Recorder::default(), Recorder::default(), second_is_left);
    let (mut reactor, [mut submits, mut one, mut two]) =
        with_clients(Pair::new(service(), inner, first_is_left));
    ask(
        &mut reactor,
        &mut submits,
        &util::submit(id(1), b""),
        &ack(id(1)),
    );
    ask(&mut reactor, &mut one, b"count\n", b"1\n");
    ask(&mut reactor, &mut two, b"x\ncount\n", b"x\n2\n");
    ask(&mut reactor, &mut one, b"timer\n", b"tick\n");
    let inner = &mut reactor.handler().right;
    assert_eq!(inner.left.take_notes(), ["accepted by 1", "open", "timer"]);
    assert_eq!(inner.right.take_notes(), ["accepted by 2", "open"]);
    let (one_id, two_id) = (inner.left.ids[0], inner.right.ids[0]);
    let send: fn(&mut LoopContext<'_, Recorder>, ConnectionId) -> bool =
        |cx, id| cx.send_to(id, &b"hello"[..]);
    let handle = reactor.handle();
    handle.post(Either::Left(())).ok().unwrap();
    handle
        .post(Either::Right(Either::Left((two_id, send))))
        .ok()
        .unwrap();
    handle
        .post(Either::Right(Either::Right((one_id, send))))
        .ok()
        .unwrap();
    handle
        .post(Either::Right(Either::Right((two_id, send))))
        .ok()
        .unwrap();
    turn_until_written(&mut reactor, 6);
    two.expect(b"hello\n");
    let timer = reactor.set_timer(Instant::now());
    reactor.handler().right.left.timer = Some(timer);
    turn_until_written(&mut reactor, 5);
    one.expect(b"tock\n");
    let inner = &mut reactor.handler().right;
    assert_eq!(inner.left.take_notes(), ["mail: false", "own loop timer"]);
    assert_eq!(
        inner.right.take_notes(),
        ["mail: false", "mail: true", "other's loop timer"]
    );
}

/// Sends `bytes` to the handler of one side, and returns the codec's error that closed the
/// connection.
fn error_after<E: std::error::Error + Copy + 'static>(side: usize, bytes: &[u8]) -> Option<E> {
    let (mut reactor, mut clients) =
        with_clients::<_, 2>(Pair::new(service(), Recorder::default(), first_is_left));
    let found = Rc::new(RefCell::new(None));
    let find = found.clone();
    reactor.set_observer(move |step: &Step<'_>| {
        if let Step::Closed { reason, .. } = step {
            *find.borrow_mut() = reason.protocol::<E>().copied();
        }
    });
    clients[side].send(bytes);
    clients[side].shut_write();
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
    found.take()
}

#[test]
fn decode_error_keeps_the_type_of_its_codec() {
    assert_eq!(
        error_after(0, &request(0x33, id(1), b"")),
        Some(submit::Error::UnknownCommand { command: 0x33 })
    );
    assert_eq!(
        error_after(1, &vec![b'x'; 60_001]),
        Some(LineError::TooLong {
            length: 60_001,
            max: 60_001
        })
    );
    assert_eq!(error_after::<LineError>(1, b"fine\n"), None);
    assert_eq!(
        error_after::<LineError>(0, &request(0x33, id(1), b"")),
        None
    );
}

#[test]
fn encode_error_keeps_the_type_of_its_codec() {
    assert_eq!(
        error_after(1, b"garble\n"),
        Some(LineError::DelimiterInside { at: 3 })
    );
}
