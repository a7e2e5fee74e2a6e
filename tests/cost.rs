//! What a request costs, counted: system calls, allocations, bytes. These do not lie on a shared machine.

mod util;

use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use glassloop::{Config, Counters, Handler, Reactor};
use util::{Client, ack, addr_of, id, reactor, service, submit, turn_until};

/// Serves `rounds` times what `pieces` hold, which come one by one, in lock-step. Returns what it cost: the steps of the loop, and what its thread allocated in its turns.
fn cost(pieces: &[&[u8]], acks: &[u8], rounds: u64) -> (Counters, AllocationInfo) {
    let mut reactor = Reactor::bind("127.0.0.1:0", service()).unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    let mut round = |reactor: &mut Reactor<_>| {
        let done = reactor.counters().bytes_written + acks.len() as u64;
        let mut read = reactor.counters().bytes_read;
        let mut info = AllocationInfo::default();
        for piece in pieces {
            client.send(piece);
            read += piece.len() as u64;
            info += measure(|| {
                while reactor.counters().bytes_read < read {
                    let _ = reactor.turn(Some(Duration::from_secs(5))).unwrap();
                }
            });
        }
        assert_eq!(
            reactor.counters().bytes_written,
            done,
            "all that was read is answered in the same turn"
        );
        client.expect(acks);
        info
    };
    for _ in 0..10 {
        round(&mut reactor); // the buffers find their size
    }
    let before = reactor.counters();
    let mut allocated = AllocationInfo::default();
    for _ in 0..rounds {
        allocated += round(&mut reactor);
    }
    let mut counters = reactor.counters();
    counters.turns -= before.turns;
    counters.events -= before.events;
    counters.reads -= before.reads;
    counters.writes -= before.writes;
    counters.frames -= before.frames;
    counters.registrations -= before.registrations;
    (counters, allocated)
}

#[test]
fn single_request_costs_one_poll_one_read_and_one_write() {
    let (counters, allocated) = cost(&[&submit(id(1), b"hello")], &ack(id(1)), 1000);
    assert_eq!(counters.frames, 1000);
    assert_eq!((counters.turns, counters.events), (1000, 1000));
    assert_eq!((counters.reads, counters.reads_blocked), (1000, 0));
    assert_eq!((counters.writes, counters.writes_blocked), (1000, 0));
    assert_eq!(counters.registrations, 0, "no epoll_ctl");
    assert_eq!(allocated.count_total, 0, "no allocation");
}

#[test]
fn batch_costs_one_read_and_one_write() {
    let requests = submit(id(1), b"one of 128").repeat(128);
    let (counters, allocated) = cost(&[&requests], &ack(id(1)).repeat(128), 100);
    assert_eq!(counters.frames, 12_800);
    assert_eq!(
        (counters.turns, counters.reads, counters.writes),
        (100, 100, 100),
        "0.023 system calls a request"
    );
    assert_eq!((counters.registrations, allocated.count_total), (0, 0));
}

/// `frame` in pieces of `size` bytes, and what is left.
fn cut(frame: &[u8], size: usize) -> Vec<&[u8]> {
    frame.chunks(size).collect()
}

#[test]
fn large_request_in_one_read_costs_as_much_as_a_small_one() {
    let (counters, allocated) = cost(&[&submit(id(1), &[b'x'; 16_384])], &ack(id(1)), 100);
    assert_eq!(
        (
            counters.frames,
            counters.turns,
            counters.reads,
            counters.writes
        ),
        (100, 100, 100, 100)
    );
    assert_eq!((counters.registrations, allocated.count_total), (0, 0));
}

#[test]
fn request_in_two_pieces_costs_one_more_read_and_no_allocation() {
    let frame = submit(id(1), &[b'x'; 32]);
    for size in [2, 20] {
        let (front, back) = frame.split_at(size);
        let (counters, allocated) = cost(&[front, back], &ack(id(1)), 100);
        assert_eq!(
            (
                counters.frames,
                counters.turns,
                counters.reads,
                counters.writes
            ),
            (100, 200, 200, 100)
        );
        assert_eq!((counters.registrations, counters.reads_blocked), (0, 0));
        assert_eq!(
            allocated.count_total, 0,
            "what one connection has kept its front in serves for the next one's"
        );
    }
}

#[test]
fn long_request_in_many_pieces_copies_each_byte_once_on_average() {
    let frame = submit(id(1), &vec![b'x'; 65_536 - 13]);
    let (counters, allocated) = cost(&cut(&frame, 4096), &ack(id(1)), 100);
    assert_eq!(
        (
            counters.frames,
            counters.turns,
            counters.reads,
            counters.writes
        ),
        (100, 1600, 1600, 100)
    );
    assert_eq!((allocated.count_current, allocated.bytes_current), (0, 0));
    // It grows by doubling, up to its length: so no byte is moved twice on average, since nothing but growing moves any.
    assert!(
        allocated.count_total <= 500,
        "{} allocations for 100 requests",
        allocated.count_total
    );
    assert!(
        allocated.bytes_total <= 200 * frame.len() as u64,
        "{} bytes for 100 requests",
        allocated.bytes_total
    );
}

#[test]
fn idle_connection_holds_only_its_slot_and_deadline_entry() {
    const CONNECTIONS: usize = 256;
    // The tables have their room from the beginning: what a loop for many takes more than one for a single connection is theirs.
    let made = |connections| {
        let mut made = None;
        let config = Config {
            max_connections: Some(connections),
            ..Config::default()
        };
        let info = measure(|| made = Some(reactor(service(), config)));
        (info.bytes_current, made.unwrap())
    };
    let ((for_one, _), (for_all, (mut reactor, addr))) = (made(1), made(CONNECTIONS));
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::connect(addr)).collect();
    let info = measure(|| turn_until(&mut reactor, |reactor| reactor.connections() == CONNECTIONS));
    for client in &mut clients {
        client.send(&submit(id(1), &[0; 5000]));
    }
    let served = measure(|| {
        turn_until(&mut reactor, |reactor| {
            reactor.counters().frames == CONNECTIONS as u64
        });
    });
    assert_eq!(reactor.buffered(), 0);

    let [tables, more] =
        [for_all - for_one, info.bytes_current].map(|bytes| usize::try_from(bytes).unwrap());
    let per_connection = tables.div_ceil(CONNECTIONS - 1) + more.div_ceil(CONNECTIONS);
    let slot = footprint(&reactor);
    println!("an idle connection holds {per_connection} bytes; its slot has {slot}");
    assert!(
        per_connection <= slot + 32,
        "{per_connection} bytes held, a slot has {slot}"
    );
    // With debug assertions mio's sockets remember their poller, which takes sixteen bytes.
    assert!(
        slot <= if cfg!(debug_assertions) { 128 } else { 112 },
        "a slot has grown to {slot} bytes"
    );
    // The shared write buffer has found its size, and the list of events may have; no connection holds on to anything.
    assert!(
        served.bytes_current < 4096,
        "{} bytes stay after serving",
        served.bytes_current
    );
}

fn footprint<H: Handler>(_: &Reactor<H>) -> usize {
    Reactor::<H>::idle_footprint()
}

#[test]
fn idle_loop_polls_once_and_does_nothing_else() {
    let (mut reactor, addr) = reactor(
        service(),
        Config {
            spin: Duration::ZERO,
            ..Config::default()
        },
    );
    let _clients: Vec<Client> = (0..20).map(|_| Client::connect(addr)).collect();
    turn_until(&mut reactor, |reactor| reactor.counters().events >= 20);
    let before = reactor.counters();
    let _ = reactor.turn(Some(Duration::from_millis(200))).unwrap();
    let mut after = reactor.counters();
    (after.turns, after.polls) = (after.turns - 1, after.polls - 1);
    assert_eq!(after, before, "nothing but the one wait");
}
