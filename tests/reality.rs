//! The simulator against reality: each behaviour of a system that it models is played in both, and must look the same.
//!
//! A behaviour is one function, written once for any [`World`]. It says in words what came of it, in order and without times.
//!
//! On Linux only, since that is the system that the simulator models where systems differ; [`Fault`]s are what any of them may do besides.
//! One of those is no choice there: epoll reports all that is the case and not only what is new
//! ([`Fault::FullEvent`]), so that fault always happens in the simulated world here.
//!
//! What is not compared, and why:
//!
//! - A dial that is not decided yet, or never: on the loopback interface it is decided before connect(2) returns, and nobody
//!   is there who drops packets. Nor a backlog that is full: a newcomer tries again after a second.
//! - Faults that the system cannot be made to do on purpose and alone: interrupted calls, events that nothing stands
//!   behind or that name a former registration, no descriptors or memory left, a listener that fails.
//! - What a socket that meets itself would hear of itself: the simulator has no such connection, since the loop closes it at once.
//! - Room that is told though no write found none: epoll does so after it was asked while there was little. [`Net`] does not
//!   promise it, and so the simulator, which is the harsher one there, does not do it.
//! - How a far end fares that sends to a closed socket: [`Peer::fate`](glassloop::sim::Peer::fate) is a verdict, not what its reads say.
//! - Where urgent data stands without other bytes before it; the simulated byte always comes behind some.
//! - Unix domain sockets, which are not simulated.
//! - Times, sizes and how bytes are cut: the system's own business, and no program's.

#![cfg(target_os = "linux")]
#![allow(unreachable_pub)] // the modules are this file's own

#[path = "reality/kernel.rs"]
mod kernel;
#[path = "reality/simulated.rs"]
mod simulated;
#[path = "reality/world.rs"]
mod world;

use std::time::Duration;

use glassloop::internals::{Net, Token};
use glassloop::sim::Fault;
use kernel::Kernel;
use simulated::Simulated;
use world::{ListenerOf, Sign, StreamOf, World, established, fill, read, write};

/// Under which the tests register what they have.
const SOCKET: usize = 1;
const OTHER: usize = 2;
const DOOR: usize = 3;

/// Plays a behaviour in both worlds: they must agree, and be as a program expects.
macro_rules! alike {
    ($behaviour:ident, $expected:expr) => {
        alike!($behaviour, [], $expected)
    };
    ($behaviour:ident, $faults:expr, $expected:expr) => {
        let real = $behaviour(Kernel::new());
        let simulated = $behaviour(Simulated::new(&$faults));
        assert_eq!(simulated, real, "left the simulator, right the kernel");
        assert_eq!(
            real, $expected,
            "left the kernel, right what is expected of it"
        );
    };
}

/// A listener that is registered.
fn open_door<W: World>(world: &mut W) -> (ListenerOf<W>, glassloop::Address) {
    let (mut listener, addr) = world.listener();
    world.net().listen(&mut listener, DOOR).unwrap();
    (listener, addr)
}

/// A connection that was accepted, not registered yet.
fn accepted<W: World>(world: &mut W) -> (StreamOf<W>, W::Far) {
    let (mut listener, addr) = open_door(world);
    let far = world.client(&addr).unwrap();
    world.event(DOOR);
    let stream = world.accept(&mut listener).unwrap();
    (stream, far)
}

/// The same, registered, and its first event taken: it has room for writing.
fn connected<W: World>(world: &mut W) -> (StreamOf<W>, W::Far) {
    let (mut stream, far) = accepted(world);
    world.register(&mut stream, SOCKET);
    assert_eq!(world.event(SOCKET), "writable");
    (stream, far)
}

// ---- What a registration tells.

#[test]
fn a_fresh_registration_tells_at_once_what_is_ready() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = accepted(&mut world);
        world.send(&mut far, b"early");
        world.arrives(&stream, Sign::Bytes(5));
        world.register(&mut stream, SOCKET);
        vec![
            world.event(SOCKET),
            world.silence(SOCKET),
            read(&mut stream, 9),
        ]
    }
    let expected = ["readable writable", "nothing", "\"early\""];
    alike!(behaviour, expected);
    assert_eq!(behaviour(Simulated::terse()), expected, "all of it is new");
}

#[test]
fn without_news_there_is_no_second_event_whether_all_was_read_or_not() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"one two");
        world.arrives(&stream, Sign::Bytes(7));
        let mut said = vec![world.event(SOCKET), world.silence(SOCKET)];
        said.extend([read(&mut stream, 4), world.silence(SOCKET)]);
        said.extend([
            read(&mut stream, 9),
            read(&mut stream, 9),
            world.silence(SOCKET),
        ]);
        said
    }
    alike!(
        behaviour,
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
fn new_bytes_after_a_partial_read_bring_a_new_event() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"one");
        world.arrives(&stream, Sign::Bytes(3));
        let mut said = vec![world.event(SOCKET), read(&mut stream, 1)];
        world.send(&mut far, b"two");
        world.arrives(&stream, Sign::Bytes(5));
        said.extend([world.event(SOCKET), read(&mut stream, 9)]);
        said
    }
    alike!(
        behaviour,
        [
            "readable writable",
            "\"o\"",
            "readable writable",
            "\"netwo\""
        ]
    );
}

#[test]
fn new_bytes_after_a_short_read_bring_a_new_event() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"one");
        world.arrives(&stream, Sign::Bytes(3));
        let mut said = vec![world.event(SOCKET), read(&mut stream, 9)];
        world.send(&mut far, b"two");
        said.extend([
            world.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
        ]);
        said
    }
    alike!(
        behaviour,
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
fn nothing_is_told_of_a_socket_whose_registration_has_ended() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"waits already");
        world.arrives(&stream, Sign::Bytes(13));
        world.net().deregister(&mut stream).unwrap();
        let mut said = vec![world.silence(SOCKET)];
        world.shut_write(&mut far);
        world.arrives(&stream, Sign::End);
        said.extend([
            world.silence(SOCKET),
            read(&mut stream, 99),
            read(&mut stream, 99),
        ]);
        said
    }
    alike!(
        behaviour,
        ["nothing", "nothing", "\"waits already\"", "end"]
    );
}

#[test]
fn the_end_after_a_partial_read_brings_a_new_event() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"words");
        world.arrives(&stream, Sign::Bytes(5));
        let mut said = vec![world.event(SOCKET), read(&mut stream, 1)];
        world.shut_write(&mut far);
        said.extend([
            world.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
        ]);
        said
    }
    alike!(
        behaviour,
        [
            "readable writable",
            "\"w\"",
            "readable writable read_closed",
            "\"ords\"",
            "end"
        ]
    );
}

// ---- Ends.

#[test]
fn bytes_and_the_end_behind_them_are_one_event() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"last words");
        world.shut_write(&mut far);
        world.arrives(&stream, Sign::End);
        let mut said = vec![
            world.event(SOCKET),
            read(&mut stream, 4),
            world.silence(SOCKET),
        ];
        said.extend([
            read(&mut stream, 99),
            read(&mut stream, 99),
            read(&mut stream, 99),
        ]);
        said
    }
    alike!(
        behaviour,
        [
            "readable writable read_closed",
            "\"last\"",
            "nothing",
            "\" words\"",
            "end",
            "end"
        ]
    );
    alike!(
        behaviour,
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
fn an_end_without_bytes_is_readable_and_says_that_the_peer_sends_no_more() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        let mut said = vec![read(&mut stream, 9)];
        world.shut_write(&mut far);
        said.extend([
            world.event(SOCKET),
            read(&mut stream, 9),
            world.silence(SOCKET),
        ]);
        said
    }
    alike!(
        behaviour,
        [
            "WouldBlock",
            "readable writable read_closed",
            "end",
            "nothing"
        ]
    );
}

#[test]
fn who_has_ended_its_sending_still_hears() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.shut_write(&mut far);
        let mut said = vec![
            world.event(SOCKET),
            read(&mut stream, 9),
            write(&mut stream, b"answer"),
        ];
        shut_write(&mut stream, &mut said);
        said.push(heard(&mut world, &mut far));
        said
    }
    alike!(
        behaviour,
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
fn our_half_close_ends_our_sending_and_nothing_else() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        let mut said = vec![write(&mut stream, b"request")];
        shut_write(&mut stream, &mut said);
        said.push(write(&mut stream, b"too late"));
        shut_write(&mut stream, &mut said);
        said.push(heard(&mut world, &mut far));
        world.send(&mut far, b"answer");
        world.arrives(&stream, Sign::Bytes(6));
        said.extend([
            world.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
        ]);
        said
    }
    alike!(
        behaviour,
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
fn after_both_have_ended_their_sending_nothing_goes_either_way() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        let mut said = Vec::new();
        shut_write(&mut stream, &mut said);
        said.push(world.hear_out(&mut far).1.into());
        world.send(&mut far, b"bye");
        world.shut_write(&mut far);
        world.arrives(&stream, Sign::End);
        said.extend([
            world.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
            write(&mut stream, b"too late"),
        ]);
        said
    }
    alike!(
        behaviour,
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

/// All that comes to the far end, and how it ends there.
fn heard<W: World>(world: &mut W, far: &mut W::Far) -> String {
    let (bytes, how) = world.hear_out(far);
    format!("{} {how}", String::from_utf8_lossy(&bytes))
}

/// Ends our sending.
fn shut_write(stream: &mut impl glassloop::internals::Stream, said: &mut Vec<String>) {
    said.push(
        stream
            .shut_write()
            .map_or_else(|error| format!("{:?}", error.kind()), |()| "shut".into()),
    );
}

// ---- Resets.

#[test]
fn a_reset_leaves_what_had_arrived_before_it() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"last words");
        world.arrives(&stream, Sign::Bytes(10));
        world.reset(far);
        world.arrives(&stream, Sign::Reset);
        let mut said = vec![world.event(SOCKET)];
        said.extend([
            read(&mut stream, 4),
            read(&mut stream, 99),
            read(&mut stream, 99),
            read(&mut stream, 99),
        ]);
        said.extend([write(&mut stream, b"x"), world.silence(SOCKET)]);
        said
    }
    let event = "readable writable read_closed write_closed broken";
    alike!(
        behaviour,
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
    // Linux keeps them; other systems may not, and so the simulator can do both.
    let purged = behaviour(Simulated::new(&[Fault::ResetPurges]));
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
fn a_reset_while_the_send_buffer_is_full_is_said_once_by_a_write() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, far) = connected(&mut world);
        fill_up(&mut world, &mut stream, &far);
        world.reset(far);
        world.arrives(&stream, Sign::Reset);
        let mut said = vec![world.event(SOCKET)];
        said.extend([
            write(&mut stream, b"x"),
            write(&mut stream, b"x"),
            read(&mut stream, 9),
            established(&mut stream),
        ]);
        shut_write(&mut stream, &mut said);
        said
    }
    let event = "readable writable read_closed write_closed broken";
    alike!(
        behaviour,
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
fn a_reset_is_said_once_by_a_read() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, far) = connected(&mut world);
        world.reset(far);
        let mut said = vec![
            world.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
        ];
        said.extend([write(&mut stream, b"x"), write(&mut stream, b"x")]);
        said
    }
    let event = "readable writable read_closed write_closed broken";
    let expected = [event, "ConnectionReset", "end", "BrokenPipe", "BrokenPipe"];
    alike!(behaviour, expected);
    assert_eq!(behaviour(Simulated::terse()), expected, "all of it is new");
}

#[test]
fn a_reset_behind_the_end_is_a_broken_pipe_and_no_failed_read() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.shut_write(&mut far);
        let mut said = vec![world.event(SOCKET), read(&mut stream, 9)];
        world.reset(far);
        said.extend([
            world.event(SOCKET),
            read(&mut stream, 9),
            established(&mut stream),
            write(&mut stream, b"x"),
        ]);
        said
    }
    let event = "readable writable read_closed write_closed broken";
    alike!(
        behaviour,
        [
            "readable writable read_closed",
            "end",
            event,
            "end",
            "BrokenPipe",
            "BrokenPipe"
        ]
    );
    // Who throws away what was not read cannot know that all of it was.
    let purged = behaviour(Simulated::new(&[Fault::ResetPurges]));
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
fn a_write_after_the_peer_has_closed_is_taken_once() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, far) = connected(&mut world);
        world.close(far);
        let mut said = vec![
            world.event(SOCKET),
            read(&mut stream, 9),
            write(&mut stream, b"x"),
        ];
        world.arrives(&stream, Sign::Reset);
        said.extend([
            world.event(SOCKET),
            write(&mut stream, b"x"),
            write(&mut stream, b"x"),
            read(&mut stream, 9),
        ]);
        said
    }
    let event = "readable writable read_closed write_closed broken";
    alike!(
        behaviour,
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
fn closing_with_bytes_unread_resets_the_peer() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"unread");
        world.arrives(&stream, Sign::Bytes(6));
        let mut said = vec![world.event(SOCKET), read(&mut stream, 2)];
        drop(stream);
        said.push(world.hear_out(&mut far).1.into());
        said
    }
    alike!(behaviour, ["readable writable", "\"un\"", "reset"]);
}

#[test]
fn closing_with_all_read_ends_in_good_order() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"read");
        world.arrives(&stream, Sign::Bytes(4));
        let mut said = vec![read(&mut stream, 9), write(&mut stream, b"bye")];
        drop(stream);
        said.push(heard(&mut world, &mut far));
        said
    }
    alike!(behaviour, ["\"read\"", "all", "bye end"]);
}

#[test]
fn what_is_still_in_the_send_buffer_arrives_after_our_close() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        let sum = fill_up(&mut world, &mut stream, &far);
        drop(stream);
        let (bytes, how) = world.hear_out(&mut far);
        vec![format!("all of it: {}, then {how}", bytes.len() == sum)]
    }
    alike!(behaviour, ["all of it: true, then end"]);
}

#[test]
fn a_peer_that_closes_with_bytes_unread_resets_us() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, far) = connected(&mut world);
        let mut said = vec![write(&mut stream, b"unread")];
        world.arrives_there(&far);
        world.close(far);
        said.extend([world.event(SOCKET), read(&mut stream, 9)]);
        said
    }
    alike!(
        behaviour,
        [
            "all",
            "readable writable read_closed write_closed broken",
            "ConnectionReset"
        ]
    );
}

#[test]
fn bytes_of_ours_that_had_arrived_survive_the_reset_that_our_close_makes() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"unread");
        world.arrives(&stream, Sign::Bytes(6));
        let mut said = vec![write(&mut stream, b"answer")];
        world.arrives_there(&far);
        drop(stream);
        said.push(heard(&mut world, &mut far));
        said
    }
    alike!(behaviour, ["all", "answer reset"]);
}

#[test]
fn a_reset_after_our_half_close_fails_the_read() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        let mut said = Vec::new();
        shut_write(&mut stream, &mut said);
        said.push(heard(&mut world, &mut far));
        world.reset(far);
        said.extend([
            world.event(SOCKET),
            read(&mut stream, 9),
            read(&mut stream, 9),
            write(&mut stream, b"x"),
        ]);
        said
    }
    let event = "readable writable read_closed write_closed broken";
    alike!(
        behaviour,
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

// ---- Room.

/// Writes until both buffers on the way are full; how much it was.
fn fill_up<W: World>(world: &mut W, stream: &mut StreamOf<W>, far: &W::Far) -> usize {
    let mut sum = 0;
    for round in 0..world::ROUNDS {
        let more = fill(stream);
        sum += more;
        if more == 0 && round > 0 {
            return sum;
        }
        world.arrives_there(far); // which makes room for more
    }
    panic!("a buffer without end");
}

#[test]
fn what_does_not_fit_is_taken_in_part_and_the_rest_when_the_peer_has_read() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        let much = vec![b'x'; 1 << 22];
        let mut said = vec![write(&mut stream, &much)];
        fill_up(&mut world, &mut stream, &far);
        said.extend([write(&mut stream, b"x"), world.silence(SOCKET)]);
        let mut taken = 0;
        let event = (0..world::ROUNDS).find_map(|_| {
            taken += world.take_some(&mut far);
            world.poll_once(SOCKET)
        });
        said.extend([
            world::words(&event.expect("an event should have come")),
            write(&mut stream, b"x"),
        ]);
        assert!(taken > 0);
        said
    }
    alike!(
        behaviour,
        ["a part", "WouldBlock", "nothing", "writable", "all"]
    );
}

#[test]
fn room_is_told_only_when_about_a_third_of_the_buffer_is_free() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        let whole = fill_up(&mut world, &mut stream, &far) - world.arrived_there(&mut far);
        let mut taken_before = false;
        let mut room = None;
        for _ in 0..world::ROUNDS {
            world.take_some(&mut far);
            if world.poll_once(SOCKET).is_some() {
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
    alike!(
        behaviour,
        ["room before the event: true; much room then: true"]
    );
}

#[test]
fn room_that_nobody_missed_is_not_told() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        let said = write(&mut stream, &[b'x'; 4096]);
        vec![
            said,
            world.hear(&mut far, 4096).len().to_string(),
            world.silence(SOCKET),
        ]
    }
    alike!(behaviour, ["all", "4096", "nothing"]);
}

#[test]
fn after_our_half_close_a_full_socket_counts_as_writable() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        fill_up(&mut world, &mut stream, &far);
        world.send(&mut far, b"one");
        world.arrives(&stream, Sign::Bytes(3));
        let mut said = vec![world.event(SOCKET)];
        shut_write(&mut stream, &mut said);
        world.send(&mut far, b"two");
        world.arrives(&stream, Sign::Bytes(6));
        said.push(world.event(SOCKET));
        said
    }
    alike!(behaviour, ["readable", "shut", "readable writable"]);
}

// ---- Listeners.

#[test]
fn those_who_wait_are_one_event_and_are_accepted_until_nobody_is_left() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut listener, addr) = open_door(&mut world);
        let mut fars: Vec<_> = (0..3).map(|_| world.client(&addr).unwrap()).collect();
        let mut said = vec![world.event(DOOR), world.silence(DOOR)];
        let mut accept = |world: &mut W| {
            world
                .accept(&mut listener)
                .map_or_else(|error| error, |_| "one".into())
        };
        said.extend([accept(&mut world), world.silence(DOOR)]);
        // One more, while some still wait.
        fars.extend(world.client(&addr));
        said.push(world.event(DOOR));
        said.extend((0..4).map(|_| accept(&mut world)));
        fars.extend(world.client(&addr));
        said.extend([world.event(DOOR), accept(&mut world), accept(&mut world)]);
        said
    }
    alike!(
        behaviour,
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
fn what_was_said_before_the_accept_is_there_after_it() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut listener, addr) = open_door(&mut world);
        let mut far = world.client(&addr).unwrap();
        world.send(&mut far, b"in a hurry");
        world.close(far);
        world.event(DOOR);
        let mut stream = world.accept(&mut listener).unwrap();
        world.arrives(&stream, Sign::End);
        world.register(&mut stream, SOCKET);
        vec![
            world.event(SOCKET),
            read(&mut stream, 99),
            read(&mut stream, 99),
        ]
    }
    alike!(
        behaviour,
        ["readable writable read_closed", "\"in a hurry\"", "end"]
    );
}

#[test]
fn a_connection_that_was_reset_before_the_accept_is_accepted_and_fails_then() {
    fn behaviour<W: World>(world: W) -> Vec<String> {
        play(world, |world, stream| world.arrives(stream, Sign::Reset))
    }
    fn play<W: World>(mut world: W, wait: impl Fn(&mut W, &StreamOf<W>)) -> Vec<String> {
        let (mut listener, addr) = open_door(&mut world);
        let far = world.client(&addr).unwrap();
        let from = world.addr(&far);
        world.reset(far);
        world.event(DOOR);
        world.silence(DOOR);
        let (mut stream, named) = world.net().accept(&mut listener).unwrap();
        wait(&mut world, &stream);
        world.register(&mut stream, SOCKET);
        let mut said = vec![
            (named == from).to_string(),
            world.event(SOCKET),
            read(&mut stream, 9),
        ];
        said.extend([
            world.silence(SOCKET),
            read(&mut stream, 9),
            write(&mut stream, b"x"),
        ]);
        said
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
    alike!(behaviour, expected);
    // Here a second reset, of the network's, is still under way when the first one is read: it must not be heard.
    assert_eq!(
        play(Simulated::new(&[Fault::ResetBeforeAccept]), |_, _| {}),
        expected
    );
}

#[test]
fn a_listener_that_closes_resets_those_who_wait_and_refuses_newcomers() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (listener, addr) = open_door(&mut world);
        let mut far = world.client(&addr).unwrap();
        world.net().unlisten(listener).unwrap();
        let how = world.hear_out(&mut far).1.to_string();
        vec![
            how,
            world.client(&addr).map_or("refused", |_| "let in").into(),
            world.silence(DOOR),
        ]
    }
    alike!(behaviour, ["reset", "refused", "nothing"]);
}

// ---- Dials.

#[test]
fn a_dial_that_succeeds_is_writable_and_established_though_nobody_accepts() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let host = world.host();
        let mut stream = world.net().connect(&host).unwrap();
        world.register(&mut stream, SOCKET);
        let mut said = vec![
            world.event(SOCKET),
            established(&mut stream),
            write(&mut stream, b"hello"),
            read(&mut stream, 9),
        ];
        let mut far = world.accept_at(&host);
        said.push(String::from_utf8(world.hear(&mut far, 5)).unwrap());
        said
    }
    alike!(behaviour, ["writable", "Yes", "all", "WouldBlock", "hello"]);
}

#[test]
fn a_dial_that_is_refused_says_so_once() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let nobody = world.nobody();
        let mut stream = world.net().connect(&nobody).unwrap();
        world.register(&mut stream, SOCKET);
        let mut said = vec![
            world.event(SOCKET),
            established(&mut stream),
            established(&mut stream),
        ];
        said.extend([
            write(&mut stream, b"x"),
            read(&mut stream, 9),
            world.silence(SOCKET),
        ]);
        said
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
    alike!(behaviour, expected);
    assert_eq!(behaviour(Simulated::terse()), expected, "all of it is new");
}

#[test]
fn a_dial_between_two_of_our_own_sockets_reaches_the_listener() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut listener, addr) = open_door(&mut world);
        let mut one = world.net().connect(&addr).unwrap();
        world.register(&mut one, SOCKET);
        let mut said = vec![world.event(SOCKET), established(&mut one)];
        let mut other = world.accept(&mut listener).unwrap();
        world.register(&mut other, OTHER);
        said.extend([
            world.event(OTHER),
            write(&mut one, b"to myself"),
            world.event(OTHER),
            read(&mut other, 99),
        ]);
        said
    }
    alike!(
        behaviour,
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
fn a_dial_that_meets_itself_can_be_told_from_others() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let mut stream = world.dial_itself();
        world.register(&mut stream, SOCKET);
        vec![world.event(SOCKET), established(&mut stream)]
    }
    alike!(
        behaviour,
        [Fault::DialMeetsItself],
        ["writable", "WithItself"]
    );
}

// ---- The poller itself.

#[test]
fn what_one_poll_has_no_room_for_comes_with_the_next_in_order() {
    fn behaviour<W: World>(mut world: W) -> Vec<Vec<usize>> {
        let (mut listener, addr) = open_door(&mut world);
        let tokens = 10..10 + world::EVENTS + 3;
        let mut held = Vec::new();
        for token in tokens {
            let far = world.client(&addr).unwrap();
            world.event(DOOR);
            let mut stream = world.accept(&mut listener).unwrap();
            assert_eq!(world.accept(&mut listener).err().unwrap(), "WouldBlock");
            world.register(&mut stream, token);
            world.event(token);
            held.push((stream, far));
        }
        // The last one first, each through before the next.
        for (stream, far) in held.iter_mut().rev() {
            world.send(far, b"x");
            world.arrives(stream, Sign::Bytes(1));
        }
        let mut poll = || {
            let mut events = Vec::new();
            world.net().poll(&mut events, Some(world::ROUND)).unwrap();
            events.iter().map(|event| event.token).collect()
        };
        vec![poll(), poll(), poll()]
    }
    let (first, second) = ((13..21).rev().collect(), vec![12, 11, 10]);
    alike!(behaviour, [first, second, vec![]]);
}

#[test]
fn many_wakes_are_one_event() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (token, waker) = (Token::Waker.pack(), world.net().waker());
        (0..3).for_each(|_| waker.wake());
        let mut said = vec![world.event(token), world.silence(token)];
        waker.wake();
        said.push(world.event(token));
        said
    }
    alike!(behaviour, ["readable", "nothing", "readable"]);
}

#[test]
fn a_poll_sleeps_for_full_milliseconds_and_never_less_than_asked() {
    fn behaviour<W: World>(mut world: W) -> Vec<bool> {
        let asked = [0, 1, 999_999, 1_000_000, 1_000_001, 2_500_000].map(Duration::from_nanos);
        let slept = asked.map(|asked| {
            let (before, mut events) = (world.net().now(), Vec::new());
            let after = world.net().poll(&mut events, Some(asked)).unwrap();
            let full = Duration::from_millis(asked.as_nanos().div_ceil(1_000_000) as u64);
            events.is_empty() && after - before >= full
        });
        slept.into()
    }
    alike!(behaviour, [true; 6]);
}

// ---- Urgent data.

#[test]
fn a_read_stops_short_at_the_urgent_mark() {
    fn behaviour<W: World>(mut world: W) -> Vec<String> {
        let (mut stream, mut far) = connected(&mut world);
        world.send(&mut far, b"before");
        world.send_urgent(&mut far, b'!');
        let mut said = vec![world.event(SOCKET)];
        world.send(&mut far, b"behind");
        said.extend([
            read(&mut stream, 99),
            read(&mut stream, 99),
            read(&mut stream, 99),
        ]);
        said
    }
    alike!(
        behaviour,
        [Fault::Urgent],
        [
            "readable writable urgent",
            "\"before\"",
            "\"behind\"",
            "WouldBlock"
        ]
    );
}
