//! Compares the simulator with the kernel: each behavior that the simulator models runs on both,
//! and must give the same results.
//!
//! A behavior is one function, written for any [`Backend`]. It returns its results as text, in
//! order and without times.
//!
//! The tests run on Linux only, because the simulator models Linux where systems differ. A
//! [`Fault`] is what any system may do besides. One fault is no choice on Linux: epoll reports all
//! current readiness, not only what is new ([`Fault::FullEvent`]). So that fault always happens in
//! the simulator here.
//!
//! What is not compared, and why:
//!
//! - A dial that is undecided for some time, or forever: on the loopback interface connect(2)
//!   decides it before it returns, and no packet is dropped. Nor a full backlog: the client tries
//!   again after a second.
//! - Faults that a test cannot cause on purpose and alone: interrupted calls, spurious or stale
//!   events, a lack of descriptors or memory, a listener that fails.
//! - Further events of a socket that is connected to itself: the simulator has no such connection,
//!   since the loop closes it at once.
//! - Writable events although no write was blocked: epoll reports one if it was asked while there
//!   was little room. [`Net`] does not promise it, so the simulator, which is the harsher one
//!   there, does not report it.
//! - What a peer sees that sends to a closed socket: [`Peer::state`](glassloop::sim::Peer::state)
//!   is a summary, not the result of its reads.
//! - Urgent data without other bytes before it: in the simulator other bytes always precede it.
//! - Unix domain sockets, which are not simulated.
//! - Times, sizes and the segmentation of bytes: no program may rely on them.

#![cfg(target_os = "linux")]
#![allow(unreachable_pub)] // the modules belong to this file only

#[path = "reality/backend.rs"]
mod backend;
#[path = "reality/kernel.rs"]
mod kernel;
#[path = "reality/simulated.rs"]
mod simulated;

use std::time::Duration;

use backend::{Arrival, Backend, ListenerOf, StreamOf, established, fill, read, write};
use glassloop::internals::{Net, Token};
use glassloop::sim::Fault;
use kernel::Kernel;
use simulated::Simulated;

/// The tokens that the tests register.
const SOCKET: usize = 1;
const OTHER: usize = 2;
const LISTENER: usize = 3;

/// Runs a behavior on the simulator and on the kernel: both must give the expected results.
macro_rules! assert_same {
    ($behavior:ident, $expected:expr) => {
        assert_same!($behavior, [], $expected)
    };
    ($behavior:ident, $faults:expr, $expected:expr) => {
        let real = $behavior(Kernel::new());
        let simulated = $behavior(Simulated::new(&$faults));
        assert_eq!(simulated, real, "left: simulator, right: kernel");
        assert_eq!(real, $expected, "left: kernel, right: expected");
    };
}

/// A registered listener.
fn registered_listener<W: Backend>(backend: &mut W) -> (ListenerOf<W>, glassloop::Address) {
    let (mut listener, addr) = backend.listener();
    backend.net().listen(&mut listener, LISTENER).unwrap();
    (listener, addr)
}

/// A connection that is accepted and not registered.
fn accepted<W: Backend>(backend: &mut W) -> (StreamOf<W>, W::Peer) {
    let (mut listener, addr) = registered_listener(backend);
    let peer = backend.client(&addr).unwrap();
    backend.event(LISTENER);
    let stream = backend.accept(&mut listener).unwrap();
    (stream, peer)
}

/// A connection that is accepted and registered, and whose first event, writable, is taken.
fn connected<W: Backend>(backend: &mut W) -> (StreamOf<W>, W::Peer) {
    let (mut stream, peer) = accepted(backend);
    backend.register(&mut stream, SOCKET);
    assert_eq!(backend.event(SOCKET), "writable");
    (stream, peer)
}

// ---- Registrations.

#[test]
fn registration_reports_current_readiness() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = accepted(&mut backend);
        backend.send(&mut peer, b"early");
        backend.wait_for(&stream, Arrival::Bytes(5));
        backend.register(&mut stream, SOCKET);
        vec![
            backend.event(SOCKET),
            backend.no_event(SOCKET),
            read(&mut stream, 9),
        ]
    }
    let expected = ["readable writable", "nothing", "\"early\""];
    assert_same!(behavior, expected);
    assert_eq!(
        behavior(Simulated::new_only()),
        expected,
        "all of it is new"
    );
}

#[test]
fn no_second_event_without_new_bytes() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"one two");
        backend.wait_for(&stream, Arrival::Bytes(7));
        let mut results = vec![backend.event(SOCKET), backend.no_event(SOCKET)];
        results.extend([read(&mut stream, 4), backend.no_event(SOCKET)]);
        results.extend([
            read(&mut stream, 9),
            read(&mut stream, 9),
            backend.no_event(SOCKET),
        ]);
        results
    }
    assert_same!(
        behavior,
        [
            "readable writable",
            "nothing",
            "\"one \"",
            "nothing",
            "\"two\"",
            "WouldBlock",
            "nothing"
        ]
    );
}

#[test]
fn bytes_after_partial_read_cause_a_new_event() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"one");
        backend.wait_for(&stream, Arrival::Bytes(3));
        let mut results = vec![backend.event(SOCKET), read(&mut stream, 1)];
        backend.send(&mut peer, b"two");
        backend.wait_for(&stream, Arrival::Bytes(5));
        results.extend([backend.event(SOCKET), read(&mut stream, 9)]);
        results
    }
    assert_same!(
        behavior,
        [
            "readable writable",
            "\"o\"",
            "readable writable",
            "\"netwo\""
        ]
    );
}

#[test]
fn bytes_after_short_read_cause_a_new_event() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"one");
        backend.wait_for(&stream, Arrival::Bytes(3));
        let mut results = vec![backend.event(SOCKET), read(&mut stream, 9)];
        backend.send(&mut peer, b"two");
        results.extend([
            backend.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
        ]);
        results
    }
    assert_same!(
        behavior,
        [
            "readable writable",
            "\"one\"",
            "readable writable",
            "\"two\"",
            "WouldBlock"
        ]
    );
}

#[test]
fn deregistered_socket_reports_no_events() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"waits already");
        backend.wait_for(&stream, Arrival::Bytes(13));
        backend.net().deregister(&mut stream).unwrap();
        let mut results = vec![backend.no_event(SOCKET)];
        backend.shut_write(&mut peer);
        backend.wait_for(&stream, Arrival::End);
        results.extend([
            backend.no_event(SOCKET),
            read(&mut stream, 99),
            read(&mut stream, 99),
        ]);
        results
    }
    assert_same!(behavior, ["nothing", "nothing", "\"waits already\"", "end"]);
}

#[test]
fn fin_after_partial_read_causes_a_new_event() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"words");
        backend.wait_for(&stream, Arrival::Bytes(5));
        let mut results = vec![backend.event(SOCKET), read(&mut stream, 1)];
        backend.shut_write(&mut peer);
        results.extend([
            backend.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
        ]);
        results
    }
    assert_same!(
        behavior,
        [
            "readable writable",
            "\"w\"",
            "readable writable read_closed",
            "\"ords\"",
            "end"
        ]
    );
}

// ---- FINs.

#[test]
fn bytes_and_fin_are_one_event() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"last words");
        backend.shut_write(&mut peer);
        backend.wait_for(&stream, Arrival::End);
        let mut results = vec![
            backend.event(SOCKET),
            read(&mut stream, 4),
            backend.no_event(SOCKET),
        ];
        results.extend([
            read(&mut stream, 99),
            read(&mut stream, 99),
            read(&mut stream, 99),
        ]);
        results
    }
    assert_same!(
        behavior,
        [
            "readable writable read_closed",
            "\"last\"",
            "nothing",
            "\" words\"",
            "end",
            "end"
        ]
    );
    assert_same!(
        behavior,
        [Fault::EndWithData],
        [
            "readable writable read_closed",
            "\"last\"",
            "nothing",
            "\" words\"",
            "end",
            "end"
        ]
    );
}

#[test]
fn fin_without_bytes_is_readable_and_read_closed() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        let mut results = vec![read(&mut stream, 9)];
        backend.shut_write(&mut peer);
        results.extend([
            backend.event(SOCKET),
            read(&mut stream, 9),
            backend.no_event(SOCKET),
        ]);
        results
    }
    assert_same!(
        behavior,
        [
            "WouldBlock",
            "readable writable read_closed",
            "end",
            "nothing"
        ]
    );
}

#[test]
fn half_closed_peer_still_receives() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.shut_write(&mut peer);
        let mut results = vec![
            backend.event(SOCKET),
            read(&mut stream, 9),
            write(&mut stream, b"answer"),
        ];
        shut_write(&mut stream, &mut results);
        results.push(recv_all(&mut backend, &mut peer));
        results
    }
    assert_same!(
        behavior,
        [
            "readable writable read_closed",
            "end",
            "all",
            "shut",
            "answer end"
        ]
    );
}

#[test]
fn half_close_ends_only_our_sending() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        let mut results = vec![write(&mut stream, b"request")];
        shut_write(&mut stream, &mut results);
        results.push(write(&mut stream, b"too late"));
        shut_write(&mut stream, &mut results);
        results.push(recv_all(&mut backend, &mut peer));
        backend.send(&mut peer, b"answer");
        backend.wait_for(&stream, Arrival::Bytes(6));
        results.extend([
            backend.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
        ]);
        results
    }
    assert_same!(
        behavior,
        [
            "all",
            "shut",
            "BrokenPipe",
            "shut",
            "request end",
            "readable writable",
            "\"answer\"",
            "WouldBlock"
        ]
    );
}

#[test]
fn nothing_is_sent_after_both_sides_half_close() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        let mut results = Vec::new();
        shut_write(&mut stream, &mut results);
        results.push(backend.recv_to_end(&mut peer).1.into());
        backend.send(&mut peer, b"bye");
        backend.shut_write(&mut peer);
        backend.wait_for(&stream, Arrival::End);
        results.extend([
            backend.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
            write(&mut stream, b"too late"),
        ]);
        results
    }
    assert_same!(
        behavior,
        [
            "shut",
            "end",
            "readable writable read_closed write_closed",
            "\"bye\"",
            "end",
            "BrokenPipe"
        ]
    );
}

/// Everything that the peer receives, and how it ends.
fn recv_all<W: Backend>(backend: &mut W, peer: &mut W::Peer) -> String {
    let (bytes, how) = backend.recv_to_end(peer);
    format!("{} {how}", String::from_utf8_lossy(&bytes))
}

/// Shuts down our sending side.
fn shut_write(stream: &mut impl glassloop::internals::Stream, results: &mut Vec<String>) {
    results.push(
        stream
            .shut_write()
            .map_or_else(|error| format!("{:?}", error.kind()), |()| "shut".into()),
    );
}

// ---- Resets.

#[test]
fn bytes_before_a_reset_stay_readable() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"last words");
        backend.wait_for(&stream, Arrival::Bytes(10));
        backend.reset(peer);
        backend.wait_for(&stream, Arrival::Reset);
        let mut results = vec![backend.event(SOCKET)];
        results.extend([
            read(&mut stream, 4),
            read(&mut stream, 99),
            read(&mut stream, 99),
            read(&mut stream, 99),
        ]);
        results.extend([write(&mut stream, b"x"), backend.no_event(SOCKET)]);
        results
    }
    let event = "readable writable read_closed write_closed broken";
    assert_same!(
        behavior,
        [
            event,
            "\"last\"",
            "\" words\"",
            "ConnectionReset",
            "end",
            "BrokenPipe",
            "nothing"
        ]
    );
    // Linux keeps those bytes. Other systems may not, so the simulator can do both.
    let purged = behavior(Simulated::new(&[Fault::ResetPurges]));
    assert_eq!(
        purged,
        [
            event,
            "ConnectionReset",
            "end",
            "end",
            "end",
            "BrokenPipe",
            "nothing"
        ]
    );
}

#[test]
fn reset_with_full_send_buffer_fails_one_write() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, peer) = connected(&mut backend);
        fill_both_buffers(&mut backend, &mut stream, &peer);
        backend.reset(peer);
        backend.wait_for(&stream, Arrival::Reset);
        let mut results = vec![backend.event(SOCKET)];
        results.extend([
            write(&mut stream, b"x"),
            write(&mut stream, b"x"),
            read(&mut stream, 9),
            established(&mut stream),
        ]);
        shut_write(&mut stream, &mut results);
        results
    }
    let event = "readable writable read_closed write_closed broken";
    assert_same!(
        behavior,
        [
            event,
            "ConnectionReset",
            "BrokenPipe",
            "end",
            "NotYet",
            "NotConnected"
        ]
    );
}

#[test]
fn reset_fails_one_read() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, peer) = connected(&mut backend);
        backend.reset(peer);
        let mut results = vec![
            backend.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
        ];
        results.extend([write(&mut stream, b"x"), write(&mut stream, b"x")]);
        results
    }
    let event = "readable writable read_closed write_closed broken";
    let expected = [event, "ConnectionReset", "end", "BrokenPipe", "BrokenPipe"];
    assert_same!(behavior, expected);
    assert_eq!(
        behavior(Simulated::new_only()),
        expected,
        "all of it is new"
    );
}

#[test]
fn reset_after_fin_is_a_broken_pipe_for_writes_only() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.shut_write(&mut peer);
        let mut results = vec![backend.event(SOCKET), read(&mut stream, 9)];
        backend.reset(peer);
        results.extend([
            backend.event(SOCKET),
            read(&mut stream, 9),
            established(&mut stream),
            write(&mut stream, b"x"),
        ]);
        results
    }
    let event = "readable writable read_closed write_closed broken";
    assert_same!(
        behavior,
        [
            "readable writable read_closed",
            "end",
            event,
            "end",
            "BrokenPipe",
            "BrokenPipe"
        ]
    );
    // A system that purges unread bytes does not know that all were read.
    let purged = behavior(Simulated::new(&[Fault::ResetPurges]));
    assert_eq!(
        purged,
        [
            "readable writable read_closed",
            "end",
            event,
            "ConnectionReset",
            "NotYet",
            "BrokenPipe"
        ]
    );
}

#[test]
fn first_write_after_peer_close_succeeds() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, peer) = connected(&mut backend);
        backend.close(peer);
        let mut results = vec![
            backend.event(SOCKET),
            read(&mut stream, 9),
            write(&mut stream, b"x"),
        ];
        backend.wait_for(&stream, Arrival::Reset);
        results.extend([
            backend.event(SOCKET),
            write(&mut stream, b"x"),
            write(&mut stream, b"x"),
            read(&mut stream, 9),
        ]);
        results
    }
    let event = "readable writable read_closed write_closed broken";
    assert_same!(
        behavior,
        [
            "readable writable read_closed",
            "end",
            "all",
            event,
            "BrokenPipe",
            "BrokenPipe",
            "end"
        ]
    );
}

#[test]
fn close_with_unread_bytes_resets_the_peer() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"unread");
        backend.wait_for(&stream, Arrival::Bytes(6));
        let mut results = vec![backend.event(SOCKET), read(&mut stream, 2)];
        drop(stream);
        results.push(backend.recv_to_end(&mut peer).1.into());
        results
    }
    assert_same!(behavior, ["readable writable", "\"un\"", "reset"]);
}

#[test]
fn close_with_all_bytes_read_sends_fin() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"read");
        backend.wait_for(&stream, Arrival::Bytes(4));
        let mut results = vec![read(&mut stream, 9), write(&mut stream, b"bye")];
        drop(stream);
        results.push(recv_all(&mut backend, &mut peer));
        results
    }
    assert_same!(behavior, ["\"read\"", "all", "bye end"]);
}

#[test]
fn send_buffer_is_delivered_after_close() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        let sum = fill_both_buffers(&mut backend, &mut stream, &peer);
        drop(stream);
        let (bytes, how) = backend.recv_to_end(&mut peer);
        vec![format!("all of it: {}, then {how}", bytes.len() == sum)]
    }
    assert_same!(behavior, ["all of it: true, then end"]);
}

#[test]
fn peer_close_with_unread_bytes_resets_our_socket() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, peer) = connected(&mut backend);
        let mut results = vec![write(&mut stream, b"unread")];
        backend.wait_for_peer(&peer);
        backend.close(peer);
        results.extend([backend.event(SOCKET), read(&mut stream, 9)]);
        results
    }
    assert_same!(
        behavior,
        [
            "all",
            "readable writable read_closed write_closed broken",
            "ConnectionReset"
        ]
    );
}

#[test]
fn delivered_bytes_survive_the_reset_of_our_close() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"unread");
        backend.wait_for(&stream, Arrival::Bytes(6));
        let mut results = vec![write(&mut stream, b"answer")];
        backend.wait_for_peer(&peer);
        drop(stream);
        results.push(recv_all(&mut backend, &mut peer));
        results
    }
    assert_same!(behavior, ["all", "answer reset"]);
}

#[test]
fn reset_after_half_close_fails_one_read() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        let mut results = Vec::new();
        shut_write(&mut stream, &mut results);
        results.push(recv_all(&mut backend, &mut peer));
        backend.reset(peer);
        results.extend([
            backend.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
            write(&mut stream, b"x"),
        ]);
        results
    }
    let event = "readable writable read_closed write_closed broken";
    assert_same!(
        behavior,
        [
            "shut",
            " end",
            event,
            "ConnectionReset",
            "end",
            "BrokenPipe"
        ]
    );
}

// ---- Room in the send buffer.

/// Writes until our send buffer and the peer's receive buffer are full. Returns the number of
/// bytes.
fn fill_both_buffers<W: Backend>(
    backend: &mut W,
    stream: &mut StreamOf<W>,
    peer: &W::Peer,
) -> usize {
    let mut sum = 0;
    for round in 0..backend::MAX_POLLS {
        let more = fill(stream);
        sum += more;
        if more == 0 && round > 0 {
            return sum;
        }
        backend.wait_for_peer(peer); // which makes room for more
    }
    panic!("the buffers never fill up");
}

#[test]
fn partial_write_continues_when_the_peer_reads() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        let much = vec![b'x'; 1 << 22];
        let mut results = vec![write(&mut stream, &much)];
        fill_both_buffers(&mut backend, &mut stream, &peer);
        results.extend([write(&mut stream, b"x"), backend.no_event(SOCKET)]);
        let mut taken = 0;
        let event = (0..backend::MAX_POLLS).find_map(|_| {
            taken += backend.recv_some(&mut peer);
            backend.poll_once(SOCKET)
        });
        results.extend([
            backend::describe(&event.expect("an event should have come")),
            write(&mut stream, b"x"),
        ]);
        assert!(taken > 0);
        results
    }
    assert_same!(
        behavior,
        ["a part", "WouldBlock", "nothing", "writable", "all"]
    );
}

#[test]
fn writable_is_reported_when_a_third_of_the_buffer_is_free() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        let whole = fill_both_buffers(&mut backend, &mut stream, &peer)
            - backend.arrived_at_peer(&mut peer);
        let mut taken_before = false;
        let mut room = None;
        for _ in 0..backend::MAX_POLLS {
            backend.recv_some(&mut peer);
            if backend.poll_once(SOCKET).is_some() {
                room = Some(fill(&mut stream));
                break;
            }
            taken_before |= write(&mut stream, b"x") == "all";
        }
        let much = room.expect("an event should have come") > whole / 5;
        vec![format!(
            "room before the event: {taken_before}; much room then: {much}"
        )]
    }
    assert_same!(
        behavior,
        ["room before the event: true; much room then: true"]
    );
}

#[test]
fn room_is_not_reported_without_a_blocked_write() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        let results = write(&mut stream, &[b'x'; 4096]);
        vec![
            results,
            backend.recv_exact(&mut peer, 4096).len().to_string(),
            backend.no_event(SOCKET),
        ]
    }
    assert_same!(behavior, ["all", "4096", "nothing"]);
}

#[test]
fn full_socket_is_writable_after_half_close() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        fill_both_buffers(&mut backend, &mut stream, &peer);
        backend.send(&mut peer, b"one");
        backend.wait_for(&stream, Arrival::Bytes(3));
        let mut results = vec![backend.event(SOCKET)];
        shut_write(&mut stream, &mut results);
        backend.send(&mut peer, b"two");
        backend.wait_for(&stream, Arrival::Bytes(6));
        results.push(backend.event(SOCKET));
        results
    }
    assert_same!(behavior, ["readable", "shut", "readable writable"]);
}

// ---- Listeners.

#[test]
fn backlog_is_one_event_until_it_is_empty() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut listener, addr) = registered_listener(&mut backend);
        let mut peers: Vec<_> = (0..3).map(|_| backend.client(&addr).unwrap()).collect();
        let mut results = vec![backend.event(LISTENER), backend.no_event(LISTENER)];
        let mut accept = |backend: &mut W| {
            backend
                .accept(&mut listener)
                .map_or_else(|error| error, |_| "one".into())
        };
        results.extend([accept(&mut backend), backend.no_event(LISTENER)]);
        // One more connection, while some are still in the backlog.
        peers.extend(backend.client(&addr));
        results.push(backend.event(LISTENER));
        results.extend((0..4).map(|_| accept(&mut backend)));
        peers.extend(backend.client(&addr));
        results.extend([
            backend.event(LISTENER),
            accept(&mut backend),
            accept(&mut backend),
        ]);
        results
    }
    assert_same!(
        behavior,
        [
            "readable",
            "nothing",
            "one",
            "nothing",
            "readable",
            "one",
            "one",
            "one",
            "WouldBlock",
            "readable",
            "one",
            "WouldBlock"
        ]
    );
}

#[test]
fn bytes_sent_before_accept_are_readable_after_it() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut listener, addr) = registered_listener(&mut backend);
        let mut peer = backend.client(&addr).unwrap();
        backend.send(&mut peer, b"sent early");
        backend.close(peer);
        backend.event(LISTENER);
        let mut stream = backend.accept(&mut listener).unwrap();
        backend.wait_for(&stream, Arrival::End);
        backend.register(&mut stream, SOCKET);
        vec![
            backend.event(SOCKET),
            read(&mut stream, 99),
            read(&mut stream, 99),
        ]
    }
    assert_same!(
        behavior,
        ["readable writable read_closed", "\"sent early\"", "end"]
    );
}

#[test]
fn connection_reset_before_accept_fails_after_it() {
    fn behavior<W: Backend>(backend: W) -> Vec<String> {
        with_reset_before_accept(backend, |backend, stream| {
            backend.wait_for(stream, Arrival::Reset);
        })
    }
    fn with_reset_before_accept<W: Backend>(
        mut backend: W,
        wait: impl Fn(&mut W, &StreamOf<W>),
    ) -> Vec<String> {
        let (mut listener, addr) = registered_listener(&mut backend);
        let peer = backend.client(&addr).unwrap();
        let from = backend.addr(&peer);
        backend.reset(peer);
        backend.event(LISTENER);
        backend.no_event(LISTENER);
        let (mut stream, named) = backend.net().accept(&mut listener).unwrap();
        wait(&mut backend, &stream);
        backend.register(&mut stream, SOCKET);
        let mut results = vec![
            (named == from).to_string(),
            backend.event(SOCKET),
            read(&mut stream, 9),
        ];
        results.extend([
            backend.no_event(SOCKET),
            read(&mut stream, 9),
            write(&mut stream, b"x"),
        ]);
        results
    }
    let event = "readable writable read_closed write_closed broken";
    let expected = [
        "true",
        event,
        "ConnectionReset",
        "nothing",
        "end",
        "BrokenPipe",
    ];
    assert_same!(behavior, expected);
    // Here a second reset, from the network, is in flight when the first one is read. It must not
    // be reported.
    assert_eq!(
        with_reset_before_accept(Simulated::new(&[Fault::ResetBeforeAccept]), |_, _| {}),
        expected
    );
}

#[test]
fn closed_listener_resets_its_backlog_and_refuses() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (listener, addr) = registered_listener(&mut backend);
        let mut peer = backend.client(&addr).unwrap();
        backend.net().unlisten(listener).unwrap();
        let how = backend.recv_to_end(&mut peer).1.to_string();
        vec![
            how,
            backend
                .client(&addr)
                .map_or("refused", |_| "accepted")
                .into(),
            backend.no_event(LISTENER),
        ]
    }
    assert_same!(behavior, ["reset", "refused", "nothing"]);
}

// ---- Outgoing connections.

#[test]
fn dial_is_established_before_the_accept() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let host = backend.host();
        let mut stream = backend.net().connect(&host).unwrap();
        backend.register(&mut stream, SOCKET);
        let mut results = vec![
            backend.event(SOCKET),
            established(&mut stream),
            write(&mut stream, b"hello"),
            read(&mut stream, 9),
        ];
        let mut peer = backend.accept_at(&host);
        results.push(String::from_utf8(backend.recv_exact(&mut peer, 5)).unwrap());
        results
    }
    assert_same!(behavior, ["writable", "Yes", "all", "WouldBlock", "hello"]);
}

#[test]
fn refused_dial_reports_its_error_once() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let refusing_addr = backend.refusing_addr();
        let mut stream = backend.net().connect(&refusing_addr).unwrap();
        backend.register(&mut stream, SOCKET);
        let mut results = vec![
            backend.event(SOCKET),
            established(&mut stream),
            established(&mut stream),
        ];
        results.extend([
            write(&mut stream, b"x"),
            read(&mut stream, 9),
            backend.no_event(SOCKET),
        ]);
        results
    }
    let event = "readable writable read_closed write_closed broken";
    let expected = [
        event,
        "ConnectionRefused",
        "NotYet",
        "BrokenPipe",
        "end",
        "nothing",
    ];
    assert_same!(behavior, expected);
    assert_eq!(
        behavior(Simulated::new_only()),
        expected,
        "all of it is new"
    );
}

#[test]
fn dial_to_our_own_listener_is_accepted() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut listener, addr) = registered_listener(&mut backend);
        let mut one = backend.net().connect(&addr).unwrap();
        backend.register(&mut one, SOCKET);
        let mut results = vec![backend.event(SOCKET), established(&mut one)];
        let mut other = backend.accept(&mut listener).unwrap();
        backend.register(&mut other, OTHER);
        results.extend([
            backend.event(OTHER),
            write(&mut one, b"to myself"),
            backend.event(OTHER),
            read(&mut other, 99),
        ]);
        results
    }
    assert_same!(
        behavior,
        [
            "writable",
            "Yes",
            "writable",
            "all",
            "readable writable",
            "\"to myself\""
        ]
    );
}

#[test]
fn dial_to_itself_is_detected() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let mut stream = backend.dial_self();
        backend.register(&mut stream, SOCKET);
        vec![backend.event(SOCKET), established(&mut stream)]
    }
    assert_same!(
        behavior,
        [Fault::DialMeetsItself],
        ["writable", "WithItself"]
    );
}

// ---- The poller.

#[test]
fn events_beyond_the_limit_come_in_order_with_the_next_poll() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<Vec<usize>> {
        let (mut listener, addr) = registered_listener(&mut backend);
        let tokens = 10..10 + backend::EVENTS + 3;
        let mut held = Vec::new();
        for token in tokens {
            let peer = backend.client(&addr).unwrap();
            backend.event(LISTENER);
            let mut stream = backend.accept(&mut listener).unwrap();
            assert_eq!(backend.accept(&mut listener).err().unwrap(), "WouldBlock");
            backend.register(&mut stream, token);
            backend.event(token);
            held.push((stream, peer));
        }
        // The last connection first, and each event queued before the next.
        for (stream, peer) in held.iter_mut().rev() {
            backend.send(peer, b"x");
            backend.wait_for(stream, Arrival::Bytes(1));
        }
        let mut poll = || {
            let mut events = Vec::new();
            backend
                .net()
                .poll(&mut events, Some(backend::POLL_TIME))
                .unwrap();
            events.iter().map(|event| event.token).collect()
        };
        vec![poll(), poll(), poll()]
    }
    let (first, second) = ((13..21).rev().collect(), vec![12, 11, 10]);
    assert_same!(behavior, [first, second, vec![]]);
}

#[test]
fn repeated_wakes_are_one_event() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (token, waker) = (Token::Waker.pack(), backend.net().waker());
        (0..3).for_each(|_| waker.wake());
        let mut results = vec![backend.event(token), backend.no_event(token)];
        waker.wake();
        results.push(backend.event(token));
        results
    }
    assert_same!(behavior, ["readable", "nothing", "readable"]);
}

#[test]
fn poll_timeout_rounds_up_to_milliseconds() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<bool> {
        let asked = [0, 1, 999_999, 1_000_000, 1_000_001, 2_500_000].map(Duration::from_nanos);
        let slept = asked.map(|asked| {
            let (before, mut events) = (backend.net().now(), Vec::new());
            let after = backend.net().poll(&mut events, Some(asked)).unwrap();
            let full = Duration::from_millis(asked.as_nanos().div_ceil(1_000_000) as u64);
            events.is_empty() && after - before >= full
        });
        slept.into()
    }
    assert_same!(behavior, [true; 6]);
}

// ---- Urgent data.

#[test]
fn read_stops_at_the_urgent_mark() {
    fn behavior<W: Backend>(mut backend: W) -> Vec<String> {
        let (mut stream, mut peer) = connected(&mut backend);
        backend.send(&mut peer, b"before");
        backend.send_urgent(&mut peer, b'!');
        let mut results = vec![backend.event(SOCKET)];
        backend.send(&mut peer, b"behind");
        results.extend([
            read(&mut stream, 99),
            read(&mut stream, 99),
            read(&mut stream, 99),
        ]);
        results
    }
    assert_same!(
        behavior,
        [Fault::Urgent],
        [
            "readable writable urgent",
            "\"before\"",
            "\"behind\"",
            "WouldBlock"
        ]
    );
}
