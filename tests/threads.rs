//! Other threads and a loop: what a handle can ask for, and what it is told when that cannot be.

mod util;

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Handle, Handler, LoopContext, Origin, PostError,
    Reactor, Stop, TimerId, Turn, Verdict,
};
use util::{Client, PATIENCE, Server, turn_until};

/// Mail that says itself what is to be done with it.
struct Job(Box<Work>);
type Work = dyn FnOnce(&mut LoopContext<'_, Desk>) + Send;

fn job(work: impl FnOnce(&mut LoopContext<'_, Desk>) + Send + 'static) -> Job {
    Job(Box::new(work))
}

/// Does its mail, sends every line back, and tells who came.
struct Desk {
    came: Sender<ConnectionId>,
    /// With it, a line is not sent back but handed to the loop's own handle; and so is a last word.
    handle: Option<Handle<Job>>,
    last_word: Option<PostError<bytes::Bytes>>,
}

impl Handler for Desk {
    type Codec = Line;
    type State = ();
    type Mail = Job;

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let _ = self.came.send(cx.id());
        Verdict::Continue
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        match &self.handle {
            Some(handle) => handle.send(cx.id(), [line, b"\n"].concat()).unwrap(),
            None => cx.send(line),
        }
        Verdict::Continue
    }

    fn mail(&mut self, job: Job, cx: &mut LoopContext<'_, Self>) {
        job.0(cx);
    }

    fn loop_timer(&mut self, _: TimerId, _: &mut LoopContext<'_, Self>) {
        panic!("as asked");
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, _: &CloseReason) {
        self.last_word = self
            .handle
            .as_ref()
            .and_then(|handle| handle.send(cx.id(), &b"too late\n"[..]).err());
    }
}

fn desk() -> (Desk, Receiver<ConnectionId>) {
    let (came, comes) = mpsc::channel();
    (
        Desk {
            came,
            handle: None,
            last_word: None,
        },
        comes,
    )
}

/// A loop in a thread of its own.
fn office(config: Config) -> (Server<Job>, Receiver<ConnectionId>) {
    let (desk, comes) = desk();
    (Server::start(desk, config), comes)
}

/// A loop in the test's own hands, and one client in it.
fn by_hand(config: Config) -> (Reactor<Desk>, Client, ConnectionId) {
    let (mut reactor, addr, comes) = empty(config);
    let client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    (reactor, client, comes.recv().unwrap())
}

fn empty(config: Config) -> (Reactor<Desk>, SocketAddr, Receiver<ConnectionId>) {
    let (desk, comes) = desk();
    let (reactor, addr) = util::reactor(desk, config);
    (reactor, addr, comes)
}

fn turn(reactor: &mut Reactor<Desk>) -> Turn {
    reactor.turn(Some(Duration::ZERO)).unwrap()
}

/// Posts it, however full the mailbox is.
fn post_patiently(handle: &Handle<Job>, mut mail: Job) {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = handle.post(mail) {
        assert!(
            matches!(error, PostError::Full(_)) && Instant::now() < end,
            "{error:?}"
        );
        mail = error.into_inner();
        thread::yield_now();
    }
}

/// Mail that tells its number when it is read.
fn numbered(tell: &Sender<(usize, usize)>, thread: usize, n: usize) -> Job {
    let tell = tell.clone();
    job(move |_| tell.send((thread, n)).unwrap())
}

/// Runs `work` in eight threads at once, each with its number.
fn eight_threads(work: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for number in 0..8 {
            let work = &work;
            scope.spawn(move || work(number));
        }
    });
}

#[track_caller]
fn next<T>(from: &Receiver<T>) -> T {
    from.recv_timeout(PATIENCE).expect("something was to come")
}

#[test]
fn handle_is_clone_send_and_sync_even_if_its_mail_is_not() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Handle<()>>();
    shared::<Handle<Cell<u8>>>();
}

#[test]
fn frames_from_eight_threads_never_mix_and_keep_order() {
    const EACH: usize = 100;
    let (server, comes) = office(Config {
        write_cap: 64 << 20,
        mailbox_cap: 20_000,
        ..Config::default()
    });
    let client = server.connect();
    let id = next(&comes);
    let reading = thread::spawn(move || {
        let mut lines = BufReader::new(client.stream).lines();
        let mut lengths = [const { Vec::new() }; 8];
        for _ in 0..8 * EACH {
            let line = lines
                .next()
                .expect("no end before the last line")
                .unwrap()
                .into_bytes();
            assert!(
                line.iter().all(|byte| *byte == line[0]),
                "two threads' bytes in one line"
            );
            lengths[usize::from(line[0] - b'a')].push(line.len());
        }
        lengths
    });
    eight_threads(|number| {
        for n in 0..EACH {
            let mut frame = vec![b'a' + u8::try_from(number).unwrap(); 1 + number + 17 * n];
            frame.push(b'\n');
            let (mut frame, end) = (bytes::Bytes::from(frame), Instant::now() + PATIENCE);
            while let Err(error) = server.handle.send(id, frame) {
                assert!(
                    matches!(error, PostError::Full(_)) && Instant::now() < end,
                    "{error:?}"
                );
                frame = error.into_inner();
                thread::yield_now();
            }
        }
    });
    for (number, lengths) in reading.join().unwrap().into_iter().enumerate() {
        assert_eq!(
            lengths,
            (0..EACH).map(|n| 1 + number + 17 * n).collect::<Vec<_>>()
        );
    }
}

/// The mail of eight threads, `each` of theirs, to a loop that sleeps and wakes as it comes.
fn exchange(config: Config, each: usize) {
    let (server, _) = office(config);
    let (tell, told) = mpsc::channel();
    eight_threads(|number| {
        (0..each).for_each(|n| post_patiently(&server.handle, numbered(&tell, number, n)));
    });
    let mut seen = [0; 8];
    for _ in 0..8 * each {
        let (number, n) = next(&told);
        assert_eq!(n, seen[number], "out of order, or lost, or twice");
        seen[number] += 1;
    }
    assert_eq!(server.stop().posts, 8 * each as u64);
    assert!(told.try_recv().is_err(), "a letter came twice");
}

#[test]
fn mail_from_eight_threads_arrives_once_and_in_order() {
    exchange(Config::default(), 5000);
}

#[test]
fn full_mailbox_loses_no_mail() {
    exchange(
        Config {
            mailbox_cap: 500,
            ..Config::default()
        },
        500,
    );
}

#[test]
fn mail_sent_while_earlier_mail_is_read_wakes_the_loop() {
    exchange(
        Config {
            calls_per_turn: 1,
            ..Config::default()
        },
        300,
    );
}

#[test]
fn wake_up_during_leftover_mail_is_not_lost() {
    let (mut reactor, _, _) = empty(Config {
        calls_per_turn: 2,
        ..Config::default()
    });
    let handle = reactor.handle();
    (0..3).for_each(|_| handle.post(job(|_| ())).unwrap());
    let _ = turn(&mut reactor);
    assert_eq!(reactor.counters().posts, 2, "one is left");
    handle.post(job(|_| ())).unwrap();
    let _ = turn(&mut reactor);
    assert_eq!(
        reactor.counters().posts,
        3,
        "the bell was heard, but the rest came first"
    );
    let (begun, patience) = (Instant::now(), PATIENCE);
    let _ = reactor.turn(Some(patience)).unwrap();
    assert!(
        begun.elapsed() < patience,
        "it slept although a letter lay there"
    );
    assert_eq!(reactor.counters().posts, 4);
}

#[test]
fn busy_loop_is_woken_once_for_many_messages() {
    let (server, _) = office(Config::default());
    let ((open, gate), (tell, told)) = (mpsc::channel::<()>(), mpsc::channel());
    let (tell_busy, is_busy) = mpsc::channel();
    let busy = job(move |_| {
        tell_busy.send(()).unwrap();
        let _ = gate.recv_timeout(PATIENCE);
    });
    server.handle.post(busy).ok().unwrap();
    next(&is_busy);
    eight_threads(|number| {
        (0..1000).for_each(|n| server.handle.post(numbered(&tell, number, n)).unwrap());
    });
    drop(open);
    for _ in 0..8000 {
        next(&told);
    }
    let counters = server.stop();
    assert_eq!(counters.posts, 8001);
    assert!(
        counters.turns * 100 < counters.posts,
        "{} turns for {} letters",
        counters.turns,
        counters.posts
    );
}

#[test]
fn mail_posted_before_run_is_delivered() {
    let (mut reactor, _, _) = empty(Config::default());
    reactor
        .handle()
        .post(job(|cx| cx.stop(Stop::Gracefully)))
        .unwrap();
    reactor.run().unwrap();
    assert_eq!(reactor.counters().posts, 1);
}

#[test]
fn commands_of_one_thread_keep_their_order_including_stop() {
    let (mut reactor, mut client, id) = by_hand(Config {
        calls_per_turn: 10,
        ..Config::default()
    });
    let handle = reactor.handle();
    for n in 0..100 {
        handle.send(id, format!("{n}\n")).unwrap();
    }
    handle.stop(Stop::Gracefully);
    let reading = thread::spawn(move || {
        for n in 0..100 {
            client.expect(format!("{n}\n").as_bytes());
        }
        client.expect_end();
    });
    turn_until(&mut reactor, |reactor| turn(reactor) == Turn::Stopped);
    assert_eq!(reactor.counters().stale, 0);
    reading.join().unwrap();
}

#[test]
fn mail_posted_before_a_stop_is_delivered_before_it() {
    let (mut reactor, _, _) = empty(Config {
        calls_per_turn: 10,
        ..Config::default()
    });
    let handle = reactor.handle();
    (0..100).for_each(|_| handle.post(job(|_| ())).unwrap());
    handle.shutdown(PATIENCE);
    reactor.run().unwrap();
    assert_eq!(reactor.counters().posts, 100);
}

#[test]
fn close_flushes_frames_sent_before_it() {
    let (server, comes) = office(Config::default());
    let mut client = server.connect();
    let id = next(&comes);
    server.handle.send(id, &b"one\ntwo\n"[..]).unwrap();
    server.handle.close(id).unwrap();
    client.expect(b"one\ntwo\n");
    client.expect_end();
    drop(client);
    assert_eq!(server.next_end(), "closed by the handler");
    assert_eq!(server.handle.close(id), Err(PostError::Gone(id)));
}

#[test]
fn send_to_a_closed_connection_is_returned_and_never_misdelivered() {
    let (server, comes) = office(Config::default());
    let client = server.connect();
    let gone = next(&comes);
    drop(client);
    assert_eq!(server.next_end(), "closed by the peer");
    let mut newcomer = server.connect();
    let here = next(&comes);
    assert_eq!((here.slot(), here == gone), (gone.slot(), false));
    let frame = bytes::Bytes::from_static(b"secret\n");
    assert_eq!(
        server.handle.send(gone, frame.clone()),
        Err(PostError::Gone(frame.clone()))
    );
    assert_eq!(server.handle.close(gone), Err(PostError::Gone(gone)));
    // Names that this loop never gave.
    for (slot, generation) in [(0, 77), (4000, 1), (u32::MAX, u32::MAX)] {
        let nobody = ConnectionId::new(slot, generation.try_into().unwrap());
        assert_eq!(
            server.handle.send(nobody, frame.clone()),
            Err(PostError::Gone(frame.clone()))
        );
        assert_eq!(server.handle.close(nobody), Err(PostError::Gone(nobody)));
    }
    server.handle.send(here, &b"hello\n"[..]).unwrap();
    newcomer.expect(b"hello\n");
    assert_eq!(server.stop().posts, 1);
}

#[test]
fn message_for_a_connection_closed_meanwhile_is_counted_as_stale() {
    let (mut reactor, client, id) = by_hand(Config::default());
    let handle = reactor.handle();
    handle.close(id).unwrap();
    handle.send(id, &b"too late\n"[..]).unwrap();
    handle.close(id).unwrap();
    let _ = turn(&mut reactor);
    assert_eq!((reactor.counters().posts, reactor.counters().stale), (3, 2));
    drop(client);
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
}

#[test]
fn full_mailbox_returns_the_message_and_works_again_after_a_turn() {
    let (mut reactor, mut client, id) = by_hand(Config {
        mailbox_cap: 5000,
        ..Config::default()
    });
    let handle = reactor.handle();
    for round in 1..=3 {
        let frame = bytes::Bytes::from(format!("{round}{}\n", "x".repeat(500)));
        let mut taken = 0;
        let refusal = loop {
            match handle.send(id, frame.clone()) {
                Ok(()) => taken += 1,
                Err(refusal) => break refusal,
            }
            assert!(taken < 10, "the mailbox has no bottom");
        };
        assert_eq!(refusal, PostError::Full(frame.clone()));
        assert!(
            taken >= 5,
            "{taken} letters of 503 bytes are all that go into 5,000"
        );
        // As full as it is for a large one: a small one may still fit in, and a stop always does.
        assert_eq!(
            handle.send(id, frame.clone()),
            Err(PostError::Full(frame.clone()))
        );
        let before = reactor.counters().posts;
        let _ = turn(&mut reactor);
        assert_eq!(reactor.counters().posts - before, taken);
        client.expect(&frame.repeat(taken as usize));
    }
    // What is heavier than the whole mailbox goes in alone.
    let huge = [vec![b'y'; 10_000], vec![b'\n']].concat();
    handle.send(id, huge.clone()).unwrap();
    assert!(matches!(handle.post(job(|_| ())), Err(PostError::Full(_))));
    handle.stop(Stop::Gracefully);
    let _ = turn(&mut reactor);
    client.expect(&huge);
    client.expect_end();
}

#[test]
fn stopped_loop_refuses_and_returns_every_message() {
    let refused = |handle: &Handle<Job>, id: ConnectionId| {
        assert_eq!(
            handle.send(id, &b"x\n"[..]),
            Err(PostError::Stopped(bytes::Bytes::from_static(b"x\n")))
        );
        assert_eq!(handle.close(id), Err(PostError::Stopped(id)));
        assert!(matches!(
            handle.post(job(|_| ())),
            Err(PostError::Stopped(_))
        ));
        handle.shutdown(Duration::ZERO);
        handle.stop(Stop::AtOnce);
    };
    for how in [Stop::Gracefully, Stop::Within(PATIENCE), Stop::AtOnce] {
        let (mut reactor, client, id) = by_hand(Config::default());
        let handle = reactor.handle();
        handle.stop(how);
        drop(client);
        turn_until(&mut reactor, |reactor| turn(reactor) == Turn::Stopped);
        refused(&handle, id);
        assert_eq!(turn(&mut reactor), Turn::Stopped);
        drop(reactor);
        refused(&handle, id);
    }
    // Never stopped, and dropped or taken apart instead.
    let (reactor, _client, id) = by_hand(Config::default());
    let handle = reactor.handle();
    drop(reactor);
    refused(&handle, id);
    let (reactor, _client, id) = by_hand(Config::default());
    let handle = reactor.handle();
    let _desk = reactor.into_handler();
    refused(&handle, id);
}

#[test]
fn unread_mail_is_dropped_with_the_loop() {
    for stopped in [false, true] {
        let (mut reactor, _, _) = empty(Config::default());
        let handle = reactor.handle();
        if stopped {
            // It asks for the end, and writes one more letter that nobody will read.
            let own = handle.clone();
            let (promise, answer) = mpsc::channel::<()>();
            let last = job(move |cx| {
                cx.stop(Stop::AtOnce);
                own.post(job(move |_| drop(promise))).unwrap();
            });
            handle.post(last).unwrap();
            turn_until(&mut reactor, |reactor| turn(reactor) == Turn::Stopped);
            drop(reactor);
            assert_eq!(answer.try_recv(), Err(TryRecvError::Disconnected));
        } else {
            let (promise, answer) = mpsc::channel::<()>();
            handle.post(job(move |_| drop(promise))).unwrap();
            drop(reactor);
            assert_eq!(answer.try_recv(), Err(TryRecvError::Disconnected));
        }
    }
}

/// When the loop would give up, counted from its last turn at the latest.
fn left(reactor: &Reactor<Desk>) -> Duration {
    reactor
        .next_deadline()
        .expect("a stopping loop has a time")
        .saturating_duration_since(Instant::now())
}

#[test]
fn shortest_grace_wins_over_earlier_ones_and_the_config() {
    let secs = Duration::from_secs;
    // All other times are longer than these.
    let config = Config {
        drain_timeout: secs(3000),
        linger_timeout: secs(3000),
        idle_timeout: None,
        ..Config::default()
    };
    let (mut reactor, _client, _) = by_hand(config);
    let handle = reactor.handle();
    let mut after = |asked: &[Stop]| {
        for how in asked {
            handle.stop(*how);
        }
        assert_eq!(turn(&mut reactor), Turn::Running);
        left(&reactor)
    };
    let within = |time: Duration, at_most: u64| {
        assert!(
            time <= secs(at_most) && time > secs(at_most - 100),
            "{time:?}"
        );
    };
    within(after(&[Stop::Gracefully]), 3000);
    within(after(&[Stop::Within(secs(2000))]), 2000);
    within(after(&[Stop::Within(secs(2500)), Stop::Gracefully]), 2000);
    within(
        after(&[
            Stop::Within(secs(1800)),
            Stop::Within(secs(1000)),
            Stop::Within(secs(1700)),
            Stop::Gracefully,
        ]),
        1000,
    );
    handle.shutdown(Duration::ZERO);
    assert_eq!(turn(&mut reactor), Turn::Stopped);
}

#[test]
fn short_grace_ends_a_loop_with_peers_that_never_read() {
    let hour = Duration::from_secs(3600);
    let config = Config {
        drain_timeout: hour,
        write_timeout: None,
        idle_timeout: None,
        write_cap: 64 << 20,
        ..Config::default()
    };
    let (server, comes) = office(config);
    let client = server.connect();
    server
        .handle
        .send(next(&comes), vec![b'\n'; 32 << 20])
        .unwrap();
    server.handle.shutdown(Duration::from_millis(50));
    assert!(server.next_end().starts_with("drain deadline passed"));
    drop(client);
}

#[test]
fn long_grace_overrides_a_short_drain_timeout() {
    let frame = vec![b'\n'; 20 << 20];
    let config = Config {
        drain_timeout: Duration::from_millis(250),
        write_cap: 64 << 20,
        ..Config::default()
    };
    let (server, comes) = office(config);
    let mut client = server.connect();
    server.handle.send(next(&comes), frame.clone()).unwrap();
    server.handle.shutdown(PATIENCE);
    let begun = Instant::now();
    for chunk in frame.chunks(128 << 10) {
        thread::sleep(Duration::from_millis(4)); // that is what makes it slow
        client.expect(chunk);
    }
    client.expect_end();
    drop(client);
    assert_eq!(server.next_end(), "shut down");
    assert!(
        begun.elapsed() > Duration::from_millis(500),
        "the test was meant to take several drain times"
    );
}

#[test]
fn long_grace_allows_pauses_longer_than_the_drain_timeout() {
    let (pause, frame) = (Duration::from_millis(400), vec![b'\n'; 20 << 20]);
    let config = Config {
        drain_timeout: pause / 10,
        write_cap: 64 << 20,
        ..Config::default()
    };
    let (server, comes) = office(config);
    let mut client = server.connect();
    server.handle.send(next(&comes), frame.clone()).unwrap();
    server.handle.shutdown(PATIENCE);
    thread::sleep(pause); // that is what makes it slow
    client.expect(&frame);
    client.expect_end();
    drop(client);
    assert_eq!(server.next_end(), "shut down");
}

#[test]
fn flood_of_mail_does_not_starve_sockets() {
    const FLOOD: u64 = 10_000;
    let (mut reactor, mut client, _) = by_hand(Config {
        calls_per_turn: 10,
        ..Config::default()
    });
    let handle = reactor.handle();
    (0..FLOOD).for_each(|_| handle.post(job(|_| ())).unwrap());
    for round in 1..=20 {
        client.send(b"still there?\n");
        turn_until(&mut reactor, |reactor| reactor.counters().frames == round);
        client.expect(b"still there?\n");
    }
    let letters = reactor.counters().posts;
    assert!(
        letters * 10 < FLOOD,
        "{letters} letters came before twenty lines"
    );
    turn_until(&mut reactor, |reactor| reactor.counters().posts == FLOOD);
}

#[test]
fn panic_in_mail_or_loop_timer_is_counted_and_closes_nothing() {
    let (server, comes) = office(Config::default());
    let mut client = server.connect();
    let id = next(&comes);
    server.handle.post(job(|_| panic!("as asked"))).unwrap();
    server
        .handle
        .post(job(|cx| {
            let _ = cx.set_timer(cx.now());
        }))
        .unwrap();
    // In a call for one connection, that one ends; the call itself goes on.
    let mut victim = server.connect();
    let other = next(&comes);
    let (tell, told) = mpsc::channel();
    let harsh = job(move |cx| {
        tell.send((
            cx.with(other, |_| panic!("as asked")),
            cx.with(other, |_| Verdict::Continue),
            cx.send_to(id, &b"alive"[..]),
        ))
        .unwrap();
    });
    server.handle.post(harsh).unwrap();
    assert_eq!(next(&told), (true, false, true));
    victim.expect_end();
    drop(victim);
    assert_eq!(server.next_end(), "the handler panicked");
    client.expect(b"alive\n");
    client.send(b"and well\n");
    client.expect(b"and well\n");
    // The timer's tick has passed by now, or passes before the stop: it was set for a turn that is long over.
    assert_eq!(server.stop().panics, 3);
}

#[test]
fn message_to_many_reaches_open_connections_in_order() {
    let (server, comes) = office(Config::default());
    let (mut one, mut closing, mut other) = (server.connect(), server.connect(), server.connect());
    let ids = [next(&comes), next(&comes), next(&comes)];
    let (tell, told) = mpsc::channel();
    let first = job(move |cx| {
        cx.with(ids[1], |_| Verdict::Close);
        cx.send_to(ids[0], &b"before"[..]);
        let sent = cx.send_to_many([ids[1], ids[0], ids[2]], &b"to all"[..]);
        cx.send_to(ids[0], &b"after"[..]);
        tell.send(sent).unwrap();
    });
    server.handle.post(first).unwrap();
    assert_eq!(next(&told), 2);
    one.expect(b"before\nto all\nafter\n");
    other.expect(b"to all\n");
    closing.expect_end();
    drop(closing);
    assert_eq!(server.next_end(), "closed by the handler");
    // A message that the codec refuses ends the one whose codec that is.
    let (tell, told) = mpsc::channel();
    let refused = job(move |cx| {
        tell.send(cx.send_to_many([ids[2], ids[0]], &b"two\nlines"[..]))
            .unwrap();
    });
    server.handle.post(refused).unwrap();
    assert_eq!(next(&told), 0);
    other.expect_end();
    one.send(b"still there\n");
    one.expect(b"still there\n");
}

#[test]
fn handle_works_inside_callbacks_of_its_own_loop() {
    let (mut reactor, mut client, id) = by_hand(Config::default());
    let handle = reactor.handle();
    reactor.handler().handle = Some(handle.clone());
    client.send(b"through the mailbox\n");
    turn_until(&mut reactor, |reactor| {
        reactor.counters().posts == 1 && reactor.counters().bytes_written == 20
    });
    client.expect(b"through the mailbox\n");
    let own = handle.clone();
    let busybody = job(move |cx| {
        let again = own.clone();
        own.send(id, &b"one\n"[..]).unwrap();
        own.post(job(move |_| again.close(id).unwrap())).unwrap();
        cx.with(id, |cx| {
            own.send(cx.id(), &b"two\n"[..]).unwrap();
            Verdict::Continue
        });
    });
    handle.post(busybody).unwrap();
    turn_until(&mut reactor, |reactor| reactor.counters().posts == 6);
    client.expect(b"one\ntwo\n");
    client.expect_end();
    drop(client);
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    let frame = bytes::Bytes::from_static(b"too late\n");
    assert_eq!(reactor.handler().last_word, Some(PostError::Gone(frame)));
    handle
        .post(job({
            let own = handle.clone();
            move |_| own.shutdown(Duration::ZERO)
        }))
        .unwrap();
    turn_until(&mut reactor, |reactor| turn(reactor) == Turn::Stopped);
}
