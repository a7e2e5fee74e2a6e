//! The submit protocol on real sockets: every cut, every size, and invalid input.

mod util;

use glassloop::submit::Dialect;
use glassloop::{Config, Reactor};
use util::{Client, Server, ack, id, reactor, request, service, submit, turn_until};

/// Sends `bytes`, and turns the loop until it has read them, so that later bytes need another read.
fn deliver(reactor: &mut Reactor<util::Service>, client: &mut Client, bytes: &[u8]) {
    let read = reactor.counters().bytes_read + bytes.len() as u64;
    client.send(bytes);
    turn_until(reactor, |reactor| reactor.counters().bytes_read == read);
}

#[test]
fn two_frames_are_served_wherever_the_stream_is_cut() {
    let (mut reactor, addr) = reactor(service(), Config::default());
    let stream = [submit(id(1), b"hello"), submit(id(2), b"")].concat();
    let mut client = Client::connect(addr);
    for cut in 0..=stream.len() {
        deliver(&mut reactor, &mut client, &stream[..cut]);
        // A complete request is answered without waiting for further bytes.
        if cut >= 18 {
            client.expect(&ack(id(1)));
        }
        deliver(&mut reactor, &mut client, &stream[cut..]);
        if cut < 18 {
            client.expect(&ack(id(1)));
        }
        client.expect(&ack(id(2)));
    }
    assert!(
        reactor.counters().reads as usize >= 2 * stream.len(),
        "each piece must be read separately"
    );
}

#[test]
fn frames_sent_one_byte_at_a_time_are_served() {
    let (mut reactor, addr) = reactor(service(), Config::default());
    let mut client = Client::connect(addr);
    for n in 0..10 {
        for byte in submit(id(n), b"slow") {
            deliver(&mut reactor, &mut client, &[byte]);
        }
        client.expect(&ack(id(n)));
    }
    assert!(reactor.counters().reads >= 170);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::submit();
    let mut client = server.connect();
    let requests: Vec<u8> = (0..5000)
        .flat_map(|n| submit(id(n), b"pipelined"))
        .collect();
    let acks: Vec<u8> = (0..5000).flat_map(|n| ack(id(n))).collect();
    client.send(&requests);
    client.expect(&acks);
}

#[test]
fn any_eight_bytes_are_a_valid_id() {
    let server = Server::submit();
    let mut client = server.connect();
    let unusual = [
        *b"\0\0\0\0\0\0\0\0",
        [0xff; 8],
        *b"\r\n\x1b[2J\"\0",
        *b"00000001",
        *b"00000001",
    ];
    let random = (0..200).map(|_| std::array::from_fn(|_| fastrand::u8(..)));
    for id in unusual.into_iter().chain(random) {
        client.send(&submit(id, b"x"));
        client.expect(&ack(id));
    }
}

#[test]
fn payloads_up_to_the_largest_frame_are_accepted() {
    let server = Server::submit();
    let mut client = server.connect();
    let sizes = (0..70).chain([
        1023, 1024, 4095, 4096, 8192, 16_384, 32_768, 65_521, 65_522, 65_523,
    ]);
    for (n, size) in sizes.enumerate() {
        let id = id(n as u64);
        client.send(&submit(id, &vec![n as u8; size]));
        client.expect(&ack(id));
    }
    let mut largest = submit(id(1), &vec![0; 65_523]);
    assert_eq!(largest[..4], 65_536_u32.to_be_bytes());
    client.send(&largest);
    client.expect(&ack(id(1)));
    largest[..4].copy_from_slice(&65_537_u32.to_be_bytes());
    client.send(&largest);
    client.expect_eof();
    assert_eq!(
        server.next_close_reason(),
        "protocol error by the peer: frame of 65537 bytes, at most 65536 allowed"
    );
}

#[test]
fn large_frames_in_small_pieces_are_reassembled() {
    let server = Server::submit();
    let mut client = server.connect();
    let frames: Vec<u8> = (0..4)
        .flat_map(|n| submit(id(n), &vec![n as u8; 60_000]))
        .collect();
    for piece in frames.chunks(1009) {
        client.send(piece);
    }
    client.expect(&(0..4).flat_map(|n| ack(id(n))).collect::<Vec<_>>());
}

#[test]
fn hostile_input_is_refused_after_valid_requests_before_it() {
    let server = Server::submit();
    let mut other = server.connect();
    let lengths = [
        0,
        1,
        4,
        12,
        65_537,
        1 << 24,
        i32::MAX as u32,
        1 << 31,
        u32::MAX,
    ];
    let mut hostile: Vec<(String, Vec<u8>)> = Vec::new();
    for length in lengths {
        let least = if length < 13 {
            "at least 13 needed"
        } else {
            "at most 65536 allowed"
        };
        hostile.push((
            format!("frame of {length} bytes, {least}"),
            length.to_be_bytes().to_vec(),
        ));
    }
    for command in [0x00, 0x03, 0x33, 0x80, 0x81, 0x82, 0xff] {
        hostile.push((
            format!("unknown command 0x{command:02x}"),
            request(command, id(9), b""),
        ));
    }
    hostile.push((
        "frame of 1195725856 bytes, at most 65536 allowed".into(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ));
    hostile.push((
        "frame of 369295618 bytes, at most 65536 allowed".into(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(),
    ));

    for (n, (reason, bytes)) in hostile.into_iter().enumerate() {
        let mut client = server.connect();
        let stream = [
            submit(id(1), b"good"),
            submit(id(2), b""),
            bytes,
            submit(id(3), b"too late"),
        ]
        .concat();
        client.send(&stream);
        client.expect(&[ack(id(1)), ack(id(2))].concat());
        client.expect_eof();
        drop(client);
        assert_eq!(
            server.next_close_reason(),
            format!("protocol error by the peer: {reason}")
        );

        let id = id(n as u64);
        other.send(&submit(id, b"still open"));
        other.expect(&ack(id));
    }
}

#[test]
fn conn_is_optional_and_answered() {
    let server = Server::submit();
    let mut client = server.connect();
    client.send(
        &[
            submit(id(1), b""),
            request(0x01, id(2), b"me"),
            request(0x01, id(3), b""),
            submit(id(4), b""),
        ]
        .concat(),
    );
    client.expect(
        &[
            ack(id(1)),
            request(0x81, id(2), &[0]),
            request(0x81, id(3), &[0]),
            ack(id(4)),
        ]
        .concat(),
    );
}

#[test]
fn source_dialect_numbers_its_acks_from_0x80() {
    let server = Server::start(
        util::Service {
            dialect: Dialect::Source,
            ..service()
        },
        Config::default(),
    );
    let mut client = server.connect();
    client.send(&[request(0x01, id(1), b""), submit(id(2), b"")].concat());
    client.expect(&[request(0x80, id(1), &[0]), request(0x81, id(2), &[0])].concat());
}

#[test]
fn submit_before_a_required_conn_is_refused() {
    let server = Server::start(
        util::Service {
            require_conn: true,
            ..service()
        },
        Config::default(),
    );
    let mut with_conn = server.connect();
    with_conn.send(&[request(0x01, id(1), b""), submit(id(2), b"")].concat());
    with_conn.expect(&[request(0x81, id(1), &[0]), ack(id(2))].concat());

    let mut without_conn = server.connect();
    without_conn.send(&[submit(id(1), b""), request(0x01, id(2), b"")].concat());
    without_conn.expect(&request(0x82, id(1), &[1]));
    without_conn.expect_eof();
    drop(without_conn);
    assert_eq!(server.next_close_reason(), "closed by the handler");
}
