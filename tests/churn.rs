//! Many connections, at once and in turn. It runs alone in its process, since it counts what the
//! process holds.

mod util;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use glassloop::Config;
use socket2::{Domain, Socket, Type};
use util::{Client, ack, id, reactor, service, submit, turn_until};

/// The open descriptors and resident kilobytes of this process; `None` if the system does not tell.
fn held() -> Option<(usize, usize)> {
    let descriptors = std::fs::read_dir("/proc/self/fd").ok()?.count();
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some((descriptors, line.split_whitespace().next()?.parse().ok()?))
}

/// Connects from a different local address each time, where all of 127.0.0.0/8 is local. A closed
/// connection keeps its port for a minute.
fn connect_from_anywhere(addr: SocketAddr, n: u32) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if cfg!(target_os = "linux") {
        let from = Ipv4Addr::from(
            u32::from(Ipv4Addr::new(127, 1, 0, 0)) + (fastrand::u32(..200) << 8) + n % 250 + 1,
        );
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    }
    socket.connect(&addr.into()).unwrap();
    Client {
        stream: TcpStream::from(socket),
    }
}

#[test]
fn eleven_thousand_connections_leak_no_memory_or_descriptors() {
    let (mut reactor, addr) = reactor(service(), Config::default());
    let mut before = None;
    for round in 0..11_u64 {
        // Rounds of 1,000 connections, in two halves of 500 that are open together. The first round
        // is the warm-up.
        for _ in 0..2 {
            let mut clients: Vec<Client> =
                (0..500).map(|n| connect_from_anywhere(addr, n)).collect();
            for (n, client) in clients.iter_mut().enumerate() {
                client.send(&submit(id(n as u64), b"one of many"));
            }
            let answered = (reactor.counters().accepted / 500 + 1) * 500;
            turn_until(&mut reactor, |reactor| {
                reactor.counters().frames == answered
            });
            assert_eq!(reactor.connections(), 500);
            for (n, client) in clients.iter_mut().enumerate() {
                client.expect(&ack(id(n as u64)));
            }
            // A third closes, a third half-closes, and a third resets within a frame.
            for (n, mut client) in clients.into_iter().enumerate() {
                match n % 3 {
                    0 => drop(client),
                    1 => client.shut_write(),
                    _ => {
                        client.send(&submit(id(0), b"never whole")[..11]);
                        client.reset();
                    }
                }
            }
            turn_until(&mut reactor, |reactor| reactor.connections() == 0);
            assert_eq!(reactor.buffered(), 0);
        }
        let counters = reactor.counters();
        assert_eq!(
            (counters.accepted, counters.closed),
            ((round + 1) * 1000, (round + 1) * 1000)
        );
        assert_eq!(
            counters.registrations,
            2 * counters.accepted,
            "each connection is registered and deregistered once"
        );
        if round == 0 {
            before = held();
        }
    }
    match (before, held()) {
        (Some((descriptors, memory)), Some((descriptors_after, memory_after))) => {
            assert_eq!(descriptors_after, descriptors);
            assert!(
                memory_after < memory + 1024,
                "{memory} KiB before, {memory_after} KiB after"
            );
        }
        _ => println!("not checked: this system does not tell what a process holds"),
    }
}
