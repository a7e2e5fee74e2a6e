//! Handles used by other threads: sends, posts, closes and stops, and the errors that they return.

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
use util::{Client, Server, TIMEOUT, turn_until};

/// Mail that is a function, which the loop calls.
struct Job(Box<Work>);
type Work = dyn FnOnce(&mut LoopContext<'_, JobHandler>) + Send;

fn job(work: impl FnOnce(&mut LoopContext<'_, JobHandler>) + Send + 'static) -> Job {
    Job(Box::new(work))
}

/// Runs the jobs in its mail, echoes every line, and reports each new connection.
struct JobHandler {
    opened: Sender<ConnectionId>,
    /// If set, lines are echoed through this handle, and `close` tries to send through it too.
    handle: Option<Handle<Job>>,
    /// The error of that send in `close`.
    close_error: Option<PostError<bytes::Bytes>>,
}

impl Handler for JobHandler {
    type Codec = Line;
    type State = ();
    type Mail = Job;

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let _ = self.opened.send(cx.id());
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
        self.close_error = self
            .handle
            .as_ref()
            .and_then(|handle| handle.send(cx.id(), &b"too late\n"[..]).err());
    }
}

fn job_handler() -> (JobHandler, Receiver<ConnectionId>) {
    let (opened, opens) = mpsc::channel();
    (
        JobHandler {
            opened,
            handle: None,
            close_error: None,
        },
        opens,
    )
}

/// A loop in a thread of its own.
fn in_thread(config: Config) -> (Server<Job>, Receiver<ConnectionId>) {
    let (handler, opens) = job_handler();
    (Server::start(handler, config), opens)
}

/// A loop that the test turns, with one client.
fn with_client(config: Config) -> (Reactor<JobHandler>, Client, ConnectionId) {
    let (mut reactor, addr, opens) = without_clients(config);
    let client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    (reactor, client, opens.recv().unwrap())
}

/// A loop that the test turns.
fn without_clients(config: Config) -> (Reactor<JobHandler>, SocketAddr, Receiver<ConnectionId>) {
    let (handler, opens) = job_handler();
    let (reactor, addr) = util::reactor(handler, config);
    (reactor, addr, opens)
}

fn turn(reactor: &mut Reactor<JobHandler>) -> Turn {
    reactor.turn(Some(Duration::ZERO)).unwrap()
}

/// Posts `mail`, again and again while the mailbox is full.
fn post_with_retry(handle: &Handle<Job>, mut mail: Job) {
    let end = Instant::now() + TIMEOUT;
    while let Err(error) = handle.post(mail) {
        assert!(
            matches!(error, PostError::Full(_)) && Instant::now() < end,
            "{error:?}"
        );
        mail = error.into_inner();
        thread::yield_now();
    }
}

/// Mail that reports its thread and number when it is handled.
fn numbered(report: &Sender<(usize, usize)>, thread: usize, n: usize) -> Job {
    let report = report.clone();
    job(move |_| report.send((thread, n)).unwrap())
}

/// Runs `work` in eight threads at the same time, each with its number.
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
    from.recv_timeout(TIMEOUT)
        .expect("a value within the time limit")
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
    let (server, opens) = in_thread(Config {
        write_cap: 64 << 20,
        mailbox_cap: 20_000,
        ..Config::default()
    });
    let client = server.connect();
    let id = next(&opens);
    let reading = thread::spawn(move || {
        let mut lines = BufReader::new(client.stream).lines();
        let mut lengths = [const { Vec::new() }; 8];
        for _ in 0..8 * EACH {
            let line = lines
                .next()
                .expect("the connection ended before the last line")
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
            let (mut frame, end) = (bytes::Bytes::from(frame), Instant::now() + TIMEOUT);
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

/// Posts mail from eight threads, `each` from every thread, and checks that all arrive in order.
fn exchange(config: Config, each: usize) {
    let (server, _) = in_thread(config);
    let (report, reports) = mpsc::channel();
    eight_threads(|number| {
        (0..each).for_each(|n| post_with_retry(&server.handle, numbered(&report, number, n)));
    });
    let mut seen = [0; 8];
    for _ in 0..8 * each {
        let (number, n) = next(&reports);
        assert_eq!(n, seen[number], "out of order, lost or duplicated");
        seen[number] += 1;
    }
    assert_eq!(server.stop().posts, 8 * each as u64);
    assert!(reports.try_recv().is_err(), "mail arrived twice");
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
    let (mut reactor, _, _) = without_clients(Config {
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
        "the turn saw the wake-up, and handled the leftover mail first"
    );
    let begun = Instant::now();
    let _ = reactor.turn(Some(TIMEOUT)).unwrap();
    assert!(
        begun.elapsed() < TIMEOUT,
        "the turn slept although there was mail"
    );
    assert_eq!(reactor.counters().posts, 4);
}

#[test]
fn busy_loop_is_woken_once_for_many_messages() {
    let (server, _) = in_thread(Config::default());
    let ((release, released), (report, reports)) = (mpsc::channel::<()>(), mpsc::channel());
    let (report_busy, is_busy) = mpsc::channel();
    let busy = job(move |_| {
        report_busy.send(()).unwrap();
        let _ = released.recv_timeout(TIMEOUT);
    });
    server.handle.post(busy).ok().unwrap();
    next(&is_busy);
    eight_threads(|number| {
        (0..1000).for_each(|n| server.handle.post(numbered(&report, number, n)).unwrap());
    });
    drop(release);
    for _ in 0..8000 {
        next(&reports);
    }
    let counters = server.stop();
    assert_eq!(counters.posts, 8001);
    assert!(
        counters.turns * 100 < counters.posts,
        "{} turns for {} messages",
        counters.turns,
        counters.posts
    );
}

#[test]
fn mail_posted_before_run_is_delivered() {
    let (mut reactor, _, _) = without_clients(Config::default());
    reactor
        .handle()
        .post(job(|cx| cx.stop(Stop::Gracefully)))
        .unwrap();
    reactor.run().unwrap();
    assert_eq!(reactor.counters().posts, 1);
}

#[test]
fn commands_of_one_thread_keep_their_order_including_stop() {
    let (mut reactor, mut client, id) = with_client(Config {
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
        client.expect_eof();
    });
    turn_until(&mut reactor, |reactor| turn(reactor) == Turn::Stopped);
    assert_eq!(reactor.counters().stale, 0);
    reading.join().unwrap();
}

#[test]
fn mail_posted_before_a_stop_is_delivered_before_it() {
    let (mut reactor, _, _) = without_clients(Config {
        calls_per_turn: 10,
        ..Config::default()
    });
    let handle = reactor.handle();
    (0..100).for_each(|_| handle.post(job(|_| ())).unwrap());
    handle.shutdown(TIMEOUT);
    reactor.run().unwrap();
    assert_eq!(reactor.counters().posts, 100);
}

#[test]
fn close_flushes_frames_sent_before_it() {
    let (server, opens) = in_thread(Config::default());
    let mut client = server.connect();
    let id = next(&opens);
    server.handle.send(id, &b"one\ntwo\n"[..]).unwrap();
    server.handle.close(id).unwrap();
    client.expect(b"one\ntwo\n");
    client.expect_eof();
    drop(client);
    assert_eq!(server.next_close_reason(), "closed by the handler");
    assert_eq!(server.handle.close(id), Err(PostError::Gone(id)));
}

#[test]
fn send_to_a_closed_connection_is_returned_and_never_misdelivered() {
    let (server, opens) = in_thread(Config::default());
    let client = server.connect();
    let closed = next(&opens);
    drop(client);
    assert_eq!(server.next_close_reason(), "closed by the peer");
    let mut client = server.connect();
    let open = next(&opens);
    assert_eq!((open.slot(), open == closed), (closed.slot(), false));
    let frame = bytes::Bytes::from_static(b"secret\n");
    assert_eq!(
        server.handle.send(closed, frame.clone()),
        Err(PostError::Gone(frame.clone()))
    );
    assert_eq!(server.handle.close(closed), Err(PostError::Gone(closed)));
    // Ids that this loop never issued.
    for (slot, generation) in [(0, 77), (4000, 1), (u32::MAX, u32::MAX)] {
        let unknown = ConnectionId::new(slot, generation.try_into().unwrap());
        assert_eq!(
            server.handle.send(unknown, frame.clone()),
            Err(PostError::Gone(frame.clone()))
        );
        assert_eq!(server.handle.close(unknown), Err(PostError::Gone(unknown)));
    }
    server.handle.send(open, &b"hello\n"[..]).unwrap();
    client.expect(b"hello\n");
    assert_eq!(server.stop().posts, 1);
}

#[test]
fn message_for_a_connection_closed_meanwhile_is_counted_as_stale() {
    let (mut reactor, client, id) = with_client(Config::default());
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
    let (mut reactor, mut client, id) = with_client(Config {
        mailbox_cap: 5000,
        ..Config::default()
    });
    let handle = reactor.handle();
    for round in 1..=3 {
        let frame = bytes::Bytes::from(format!("{round}{}\n", "x".repeat(500)));
        let mut accepted = 0;
        let error = loop {
            match handle.send(id, frame.clone()) {
                Ok(()) => accepted += 1,
                Err(error) => break error,
            }
            assert!(accepted < 10, "the mailbox is never full");
        };
        assert_eq!(error, PostError::Full(frame.clone()));
        assert!(
            accepted >= 5,
            "only {accepted} messages of 503 bytes fit into 5,000"
        );
        // Full for a message of this size: a smaller one may still fit, and a stop always does.
        assert_eq!(
            handle.send(id, frame.clone()),
            Err(PostError::Full(frame.clone()))
        );
        let before = reactor.counters().posts;
        let _ = turn(&mut reactor);
        assert_eq!(reactor.counters().posts - before, accepted);
        client.expect(&frame.repeat(accepted as usize));
    }
    // A message larger than the whole mailbox is accepted if the mailbox is empty.
    let huge = [vec![b'y'; 10_000], vec![b'\n']].concat();
    handle.send(id, huge.clone()).unwrap();
    assert!(matches!(handle.post(job(|_| ())), Err(PostError::Full(_))));
    handle.stop(Stop::Gracefully);
    let _ = turn(&mut reactor);
    client.expect(&huge);
    client.expect_eof();
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
    for how in [Stop::Gracefully, Stop::Within(TIMEOUT), Stop::AtOnce] {
        let (mut reactor, client, id) = with_client(Config::default());
        let handle = reactor.handle();
        handle.stop(how);
        drop(client);
        turn_until(&mut reactor, |reactor| turn(reactor) == Turn::Stopped);
        refused(&handle, id);
        assert_eq!(turn(&mut reactor), Turn::Stopped);
        drop(reactor);
        refused(&handle, id);
    }
    // Dropped, or turned into its handler, without a stop.
    let (reactor, _client, id) = with_client(Config::default());
    let handle = reactor.handle();
    drop(reactor);
    refused(&handle, id);
    let (reactor, _client, id) = with_client(Config::default());
    let handle = reactor.handle();
    let _handler = reactor.into_handler();
    refused(&handle, id);
}

#[test]
fn unread_mail_is_dropped_with_the_loop() {
    for stopped in [false, true] {
        let (mut reactor, _, _) = without_clients(Config::default());
        let handle = reactor.handle();
        if stopped {
            // The job stops the loop, and then posts mail that will never be handled.
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

/// The time until the loop gives up its graceful stop.
fn time_left(reactor: &Reactor<JobHandler>) -> Duration {
    reactor
        .next_deadline()
        .expect("a stopping loop has a deadline")
        .saturating_duration_since(Instant::now())
}

#[test]
fn shortest_grace_wins_over_earlier_ones_and_the_config() {
    let secs = Duration::from_secs;
    // All other timeouts are longer than the graces below.
    let config = Config {
        drain_timeout: secs(3000),
        linger_timeout: secs(3000),
        idle_timeout: None,
        ..Config::default()
    };
    let (mut reactor, _client, _) = with_client(config);
    let handle = reactor.handle();
    let mut time_left_after = |stops: &[Stop]| {
        for how in stops {
            handle.stop(*how);
        }
        assert_eq!(turn(&mut reactor), Turn::Running);
        time_left(&reactor)
    };
    let assert_about = |time: Duration, expected: u64| {
        assert!(
            time <= secs(expected) && time > secs(expected - 100),
            "{time:?}"
        );
    };
    assert_about(time_left_after(&[Stop::Gracefully]), 3000);
    assert_about(time_left_after(&[Stop::Within(secs(2000))]), 2000);
    assert_about(
        time_left_after(&[Stop::Within(secs(2500)), Stop::Gracefully]),
        2000,
    );
    assert_about(
        time_left_after(&[
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
    let (server, opens) = in_thread(config);
    let client = server.connect();
    server
        .handle
        .send(next(&opens), vec![b'\n'; 32 << 20])
        .unwrap();
    server.handle.shutdown(Duration::from_millis(50));
    assert!(
        server
            .next_close_reason()
            .starts_with("drain deadline passed")
    );
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
    let (server, opens) = in_thread(config);
    let mut client = server.connect();
    server.handle.send(next(&opens), frame.clone()).unwrap();
    server.handle.shutdown(TIMEOUT);
    let begun = Instant::now();
    for chunk in frame.chunks(128 << 10) {
        thread::sleep(Duration::from_millis(4)); // a slow reader
        client.expect(chunk);
    }
    client.expect_eof();
    drop(client);
    assert_eq!(server.next_close_reason(), "shut down");
    assert!(
        begun.elapsed() > Duration::from_millis(500),
        "the test must take several drain timeouts"
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
    let (server, opens) = in_thread(config);
    let mut client = server.connect();
    server.handle.send(next(&opens), frame.clone()).unwrap();
    server.handle.shutdown(TIMEOUT);
    thread::sleep(pause); // the peer reads nothing meanwhile
    client.expect(&frame);
    client.expect_eof();
    drop(client);
    assert_eq!(server.next_close_reason(), "shut down");
}

#[test]
fn flood_of_mail_does_not_starve_sockets() {
    const FLOOD: u64 = 10_000;
    let (mut reactor, mut client, _) = with_client(Config {
        calls_per_turn: 10,
        ..Config::default()
    });
    let handle = reactor.handle();
    (0..FLOOD).for_each(|_| handle.post(job(|_| ())).unwrap());
    for round in 1..=20 {
        client.send(b"still alive?\n");
        turn_until(&mut reactor, |reactor| reactor.counters().frames == round);
        client.expect(b"still alive?\n");
    }
    let posts = reactor.counters().posts;
    assert!(
        posts * 10 < FLOOD,
        "{posts} posts were handled before twenty lines"
    );
    turn_until(&mut reactor, |reactor| reactor.counters().posts == FLOOD);
}

#[test]
fn panic_in_mail_or_loop_timer_is_counted_and_closes_nothing() {
    let (server, opens) = in_thread(Config::default());
    let mut client = server.connect();
    let id = next(&opens);
    server.handle.post(job(|_| panic!("as asked"))).unwrap();
    server
        .handle
        .post(job(|cx| {
            let _ = cx.set_timer(cx.now());
        }))
        .unwrap();
    // A panic in `with` closes that connection; the mail callback continues.
    let mut victim = server.connect();
    let other = next(&opens);
    let (report, reports) = mpsc::channel();
    let panics = job(move |cx| {
        report
            .send((
                cx.with(other, |_| panic!("as asked")),
                cx.with(other, |_| Verdict::Continue),
                cx.send_to(id, &b"alive"[..]),
            ))
            .unwrap();
    });
    server.handle.post(panics).unwrap();
    assert_eq!(next(&reports), (true, false, true));
    victim.expect_eof();
    drop(victim);
    assert_eq!(server.next_close_reason(), "the handler panicked");
    client.expect(b"alive\n");
    client.send(b"and well\n");
    client.expect(b"and well\n");
    // The timer has fired by now, or fires before the stop: it was set for the time of an earlier
    // turn.
    assert_eq!(server.stop().panics, 3);
}

#[test]
fn message_to_many_reaches_open_connections_in_order() {
    let (server, opens) = in_thread(Config::default());
    let (mut one, mut closing, mut other) = (server.connect(), server.connect(), server.connect());
    let ids = [next(&opens), next(&opens), next(&opens)];
    let (report, reports) = mpsc::channel();
    let first = job(move |cx| {
        cx.with(ids[1], |_| Verdict::Close);
        cx.send_to(ids[0], &b"before"[..]);
        let sent = cx.send_to_many([ids[1], ids[0], ids[2]], &b"to all"[..]);
        cx.send_to(ids[0], &b"after"[..]);
        report.send(sent).unwrap();
    });
    server.handle.post(first).unwrap();
    assert_eq!(next(&reports), 2);
    one.expect(b"before\nto all\nafter\n");
    other.expect(b"to all\n");
    closing.expect_eof();
    drop(closing);
    assert_eq!(server.next_close_reason(), "closed by the handler");
    // A message that the codec refuses closes the connection of that codec.
    let (report, reports) = mpsc::channel();
    let refused = job(move |cx| {
        report
            .send(cx.send_to_many([ids[2], ids[0]], &b"two\nlines"[..]))
            .unwrap();
    });
    server.handle.post(refused).unwrap();
    assert_eq!(next(&reports), 0);
    other.expect_eof();
    one.send(b"still there\n");
    one.expect(b"still there\n");
}

#[test]
fn handle_works_inside_callbacks_of_its_own_loop() {
    let (mut reactor, mut client, id) = with_client(Config::default());
    let handle = reactor.handle();
    reactor.handler().handle = Some(handle.clone());
    client.send(b"through the mailbox\n");
    turn_until(&mut reactor, |reactor| {
        reactor.counters().posts == 1 && reactor.counters().bytes_written == 20
    });
    client.expect(b"through the mailbox\n");
    let own = handle.clone();
    let uses_handle = job(move |cx| {
        let again = own.clone();
        own.send(id, &b"one\n"[..]).unwrap();
        own.post(job(move |_| again.close(id).unwrap())).unwrap();
        cx.with(id, |cx| {
            own.send(cx.id(), &b"two\n"[..]).unwrap();
            Verdict::Continue
        });
    });
    handle.post(uses_handle).unwrap();
    turn_until(&mut reactor, |reactor| reactor.counters().posts == 6);
    client.expect(b"one\ntwo\n");
    client.expect_eof();
    drop(client);
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    let frame = bytes::Bytes::from_static(b"too late\n");
    assert_eq!(reactor.handler().close_error, Some(PostError::Gone(frame)));
    handle
        .post(job({
            let own = handle.clone();
            move |_| own.shutdown(Duration::ZERO)
        }))
        .unwrap();
    turn_until(&mut reactor, |reactor| turn(reactor) == Turn::Stopped);
}
