//! Time that the loop itself lost is not charged to its peers: a stopped process, a callback that blocks, more ready than one poll reports.

#[cfg(unix)]
#[path = "util/process.rs"]
mod process;
#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use glassloop::codec::{Framed, LengthField, Line};
use glassloop::{Config, Context, Handler, Origin, Stop, Verdict};
use scripted::{Harness, NetState, ms};
use util::{Client, Server, TIMEOUT};

/// Answers each line with the same line.
struct Echo;

impl Handler for Echo {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(line);
        Verdict::Continue
    }
}

const EINTR: i32 = 4;

/// No guard is on; a test turns on the one that it is about.
fn unguarded() -> Config {
    Config {
        idle_timeout: None,
        frame_timeout: None,
        handshake_timeout: None,
        write_timeout: None,
        ..Config::default()
    }
}

fn idle(time: Duration) -> Config {
    Config {
        idle_timeout: Some(time),
        ..unguarded()
    }
}

/// The process is stopped in the poll for `time`, and continued: the poll comes back with nothing.
fn stop_and_continue<H: Handler>(harness: &mut Harness<H>, time: Duration) {
    harness.skip(time);
    harness.net.borrow_mut().poll_error = Some(EINTR);
    harness.turn();
    harness.net.borrow_mut().poll_error = None;
}

#[test]
fn request_pending_after_an_interrupted_poll_is_answered() {
    let mut harness = Harness::on(NetState::with_listeners(1), Echo, idle(ms(1000)));
    let peer = harness.accept(1);
    stop_and_continue(&mut harness, ms(1300));
    assert!(
        harness.is_open(peer),
        "closed before its socket was looked at"
    );
    harness.peer_sends(peer, b"in time\n");
    harness.turn();
    assert_eq!(harness.received(peer), b"in time\n");
    let before = harness.now();
    harness.run_for(ms(3000));
    assert!(
        !harness.is_open(peer),
        "a silent connection is closed all the same"
    );
    assert!(harness.now() - before >= ms(1000));
}

#[test]
fn request_that_arrives_between_poll_and_clock_is_answered() {
    let mut harness = Harness::on(NetState::with_listeners(1), Echo, idle(ms(1000)));
    let peer = harness.accept(1);
    harness.peer_sends(peer, b"in time\n");
    let arrived = std::mem::take(&mut harness.net.borrow_mut().events);
    // Back soon after the deadline: so little delay counts as watched time.
    harness.net.borrow_mut().stopped_after_poll = Some((ms(1050), arrived));
    harness.turn();
    assert!(
        harness.is_open(peer),
        "closed before its socket was looked at"
    );
    harness.turn();
    assert_eq!(harness.received(peer), b"in time\n");
}

#[test]
fn slow_frame_is_closed_on_time_with_a_small_read_budget() {
    let config = Config {
        frame_timeout: Some(ms(1000)),
        scratch: 64,
        ..unguarded()
    };
    let mut harness = Harness::on(NetState::with_listeners(1), Echo, config);
    let peer = harness.accept(1);
    for _ in 0..3 {
        harness.peer_sends(peer, &[b'x'; 130]); // more than a turn reads, so each time it is put off
        harness.run_for(ms(400));
    }
    assert!(
        !harness.is_open(peer),
        "the frame has had more than its time"
    );
}

#[test]
fn silent_connection_is_closed_by_the_first_complete_poll() {
    let mut harness = Harness::on(NetState::with_listeners(1), Echo, idle(ms(1000)));
    let peer = harness.accept(1);
    stop_and_continue(&mut harness, ms(1050)); // a signal came when the time was over, and little of it was lost
    stop_and_continue(&mut harness, ms(1));
    assert!(
        harness.is_open(peer),
        "closed before its socket was looked at"
    );
    harness.run_for(ms(5));
    assert!(
        !harness.is_open(peer),
        "nothing is there, and nothing is lost"
    );
}

#[test]
fn handler_deadline_expires_in_an_interrupted_poll() {
    struct Strict;
    impl Handler for Strict {
        type Codec = Line;
        type State = ();
        type Mail = ();
        fn connection(&mut self, _: &Origin) -> (Line, ()) {
            (Line::default(), ())
        }
        fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
            cx.set_read_deadline(Some(cx.now() + ms(1000)));
            Verdict::Continue
        }
        fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
            Verdict::Continue
        }
    }
    let mut harness = Harness::on(NetState::with_listeners(1), Strict, unguarded());
    let peer = harness.accept(1);
    stop_and_continue(&mut harness, ms(1300));
    assert!(!harness.is_open(peer), "what a handler sets is absolute");
}

#[test]
fn no_guard_expires_while_polls_are_full() {
    let config = Config {
        events_per_turn: 2,
        ..idle(ms(1000))
    };
    let mut harness = Harness::on(NetState::with_listeners(1), Echo, config);
    let last = harness.accept(5);
    harness.skip(ms(3000)); // a callback has blocked; all have sent meanwhile
    for pair in [[0, 1], [2, 3]] {
        for peer in &pair {
            harness.peer_sends(*peer, b"x\n");
        }
        harness.turn();
        assert_eq!(harness.open_sockets(), 5, "closed before all were reported");
    }
    harness.peer_sends(last, b"x\n");
    harness.turn();
    assert_eq!(
        (harness.open_sockets(), harness.received(last)),
        (5, b"x\n".to_vec())
    );
}

#[test]
fn silent_connection_is_closed_even_if_every_poll_is_full() {
    let config = Config {
        events_per_turn: 2,
        ..idle(ms(1000))
    };
    let mut harness = Harness::on(NetState::with_listeners(1), Echo, config);
    let silent = harness.accept(5);
    for _ in 0..200 {
        for peer in &[0, 1] {
            harness.peer_sends(*peer, b"x\n");
        }
        harness.turn();
        harness.skip(ms(10));
    }
    assert!(
        !harness.is_open(silent),
        "two peers that always have something to say keep all others open"
    );
    assert!(harness.is_open(0) && harness.is_open(1));
}

#[test]
fn slow_callbacks_delay_guards_but_do_not_suspend_them() {
    let mut harness = Harness::on(NetState::with_listeners(1), Echo, idle(ms(1000)));
    let silent = harness.accept(2);
    let begun = harness.now();
    while harness.is_open(silent) {
        assert!(harness.now() - begun < ms(20_000), "never closed");
        harness.peer_sends(0, b"x\n");
        harness.turn();
        harness.skip(ms(500)); // each turn takes as long
    }
    assert!(harness.now() - begun > ms(1000));
}

#[test]
fn time_lost_to_a_stopped_process_does_not_count_as_write_timeout() {
    let config = Config {
        write_timeout: Some(ms(1000)),
        ..unguarded()
    };
    let mut harness = Harness::on(NetState::with_listeners(1), Echo, config);
    let peer = harness.accept(1);
    harness.set_room(peer, 0);
    harness.peer_sends(peer, b"reply\n");
    harness.turn();
    harness.set_room(peer, 100);
    stop_and_continue(&mut harness, ms(5000));
    assert!(harness.is_open(peer));
    harness.report_event(peer, |event| event.writable = true);
    harness.turn();
    assert_eq!(
        (harness.is_open(peer), harness.received(peer)),
        (true, b"reply\n".to_vec())
    );
}

#[test]
fn draining_connection_gets_its_time_after_a_process_stop() {
    let config = Config {
        drain_timeout: ms(1000),
        ..unguarded()
    };
    let mut harness = Harness::on(NetState::with_listeners(1), Echo, config);
    let peer = harness.accept(1);
    harness.set_room(peer, 0);
    harness.peer_sends(peer, b"reply\n");
    harness.turn();
    harness.reactor.stop(Stop::Gracefully);
    harness.turn();
    stop_and_continue(&mut harness, ms(5000));
    harness.set_room(peer, 100);
    harness.report_event(peer, |event| event.writable = true);
    harness.turn();
    assert_eq!(
        harness.received(peer),
        b"reply\n",
        "the peer took its last reply as soon as the loop was there to give it"
    );
}

/// Echoes frames; one that begins with `block` holds the loop until the test lets it go.
struct Blocks {
    entered: Sender<()>,
    resume_connection: Receiver<()>,
}

impl Handler for Blocks {
    type Codec = LengthField;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (LengthField, ()) {
        (LengthField::rest(4).max(16 << 20), ())
    }

    fn frame(&mut self, frame: Framed<'_>, cx: &mut Context<'_, Self>) -> Verdict {
        if frame.body.starts_with(b"block") {
            self.entered.send(()).unwrap();
            self.resume_connection.recv_timeout(TIMEOUT).unwrap();
        }
        cx.send(Framed {
            head: &[],
            body: &frame.body[..frame.body.len().min(8)],
        });
        Verdict::Continue
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(payload);
    frame
}

fn start_blocking(config: Config) -> (Server, Receiver<()>, Sender<()>) {
    let (entered, has_entered) = mpsc::channel();
    let (let_go, resume_connection) = mpsc::channel();
    (
        Server::start(
            Blocks {
                entered,
                resume_connection,
            },
            config,
        ),
        has_entered,
        let_go,
    )
}

/// Holds the loop in a callback for at least `time`, while `meanwhile` runs.
fn while_blocked(
    server: &Server,
    entered: &Receiver<()>,
    let_go: &Sender<()>,
    time: Duration,
    meanwhile: impl FnOnce(),
) -> Client {
    let mut blocker = server.connect();
    blocker.send(&frame(b"block"));
    entered.recv_timeout(TIMEOUT).unwrap();
    let begun = Instant::now();
    meanwhile();
    thread::sleep(time.saturating_sub(begun.elapsed())); // the time has to pass, whatever else happens
    let_go.send(()).unwrap();
    blocker.expect(&frame(b"block"));
    blocker
}

#[test]
fn requests_sent_while_a_callback_blocked_are_all_answered() {
    let config = Config {
        events_per_turn: 8,
        ..idle(ms(1500))
    };
    let (server, entered, let_go) = start_blocking(config);
    let mut clients: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    // All at once: in lock-step, on a busy machine, the first would be idle for too long.
    for client in &mut clients {
        client.send(&frame(b"before"));
    }
    for client in &mut clients {
        client.expect(&frame(b"before"));
    }
    while_blocked(&server, &entered, &let_go, ms(2000), || {
        for client in &mut clients {
            client.send(&frame(b"while"));
        }
    });
    for client in &mut clients {
        client.expect(&frame(b"while"));
    }
    let counters = server.stop();
    assert_eq!(counters.frames, 100 * 2 + 1);
}

#[test]
fn long_frame_received_while_a_callback_blocked_is_answered() {
    let config = Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    };
    let (server, entered, let_go) = start_blocking(config);
    // One begins before the callback blocks and is finished meanwhile; it is far longer than the system's buffers and than a turn's budget.
    let long = frame(&vec![7; 12 << 20]);
    let mut client = server.connect();
    let (begin, rest) = long.split_at(1000);
    client.send(begin);
    let mut writer = Client {
        stream: client.stream.try_clone().unwrap(),
    };
    thread::scope(|scope| {
        while_blocked(&server, &entered, &let_go, ms(2000), || {
            scope.spawn(move || writer.send(rest));
        });
        client.expect(&frame(&[7; 8]));
    });
    drop(client);
    server.stop();
}

#[cfg(unix)]
mod stopped {
    use super::util::{ack, id, submit};
    use super::*;

    use super::process::Process;

    #[test]
    fn stopped_and_continued_server_answers_pending_requests() {
        let (mut server, addr) = Process::listening(&[
            "--idle-timeout",
            "1s",
            "--frame-timeout",
            "1s",
            "--events",
            "16",
        ]);
        let mut clients: Vec<Client> = (0..200).map(|_| Client::connect(addr)).collect();
        // All at once: in lock-step, on a busy machine, the first would be idle for too long.
        for client in &mut clients {
            client.send(&submit(id(1), b"before"));
        }
        for client in &mut clients {
            client.expect(&ack(id(1)));
        }
        server.signal("STOP");
        let begun = Instant::now();
        for client in &mut clients {
            client.send(&submit(id(2), b"while it is stopped"));
        }
        thread::sleep(ms(1300).saturating_sub(begun.elapsed()));
        server.signal("CONT");
        for client in &mut clients {
            client.expect(&ack(id(2)));
        }
        assert!(server.is_running());
    }
}
