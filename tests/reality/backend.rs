//! [`Backend`]: a [`Net`] and its peers, in the kernel or in the simulator.

use std::time::Duration;

use glassloop::Address;
use glassloop::internals::{Event, Net, Stream};

/// The most polls to wait for something. Each blocks for at most [`POLL_TIME`].
pub const MAX_POLLS: usize = 2_000;
pub const POLL_TIME: Duration = Duration::from_millis(10);

/// The most events that one poll reports.
pub const EVENTS: usize = 8;

/// What a test waits for: something that the peer sent and that has arrived.
#[derive(Clone, Copy, Debug)]
pub enum Arrival {
    Bytes(usize),
    End,
    Reset,
}

/// A [`Net`] with control over the peers of its connections. Peers read only when they are told to.
pub trait Backend {
    type Net: Net;
    type Peer;

    fn net(&mut self) -> &mut Self::Net;

    /// A listener that is not registered.
    fn listener(&mut self) -> (ListenerOf<Self>, Address);

    /// Connects a peer to a listener; `None` if the connection is refused.
    fn client(&mut self, addr: &Address) -> Option<Self::Peer>;

    /// The address of a host that listens outside of the net, and an address that refuses
    /// connections.
    fn host(&mut self) -> Address;
    fn refusing_addr(&mut self) -> Address;

    /// Accepts a connection at a host.
    fn accept_at(&mut self, host: &Address) -> Self::Peer;

    /// A dial that connects to itself.
    fn dial_self(&mut self) -> StreamOf<Self>;

    /// The peer's address.
    fn addr(&self, peer: &Self::Peer) -> Address;

    /// Waits until `arrival` has happened at our end, without polling the net.
    fn wait_for(&mut self, stream: &StreamOf<Self>, arrival: Arrival);

    /// Waits until bytes have arrived at the peer. The peer does not read them.
    fn wait_for_peer(&mut self, peer: &Self::Peer);

    /// The number of bytes that have arrived at the peer. Counting may read them.
    fn arrived_at_peer(&mut self, peer: &mut Self::Peer) -> usize;

    fn send(&mut self, peer: &mut Self::Peer, bytes: &[u8]);

    /// Sends a byte of urgent data.
    fn send_urgent(&mut self, peer: &mut Self::Peer, byte: u8);

    fn shut_write(&mut self, peer: &mut Self::Peer);

    fn close(&mut self, peer: Self::Peer);

    fn reset(&mut self, peer: Self::Peer);

    /// Makes the peer read some of what has arrived.
    fn recv_some(&mut self, peer: &mut Self::Peer) -> usize;

    /// Makes the peer read `count` bytes.
    fn recv_exact(&mut self, peer: &mut Self::Peer, count: usize) -> Vec<u8>;

    /// Makes the peer read to the end or the reset.
    fn recv_to_end(&mut self, peer: &mut Self::Peer) -> (Vec<u8>, &'static str);

    // ---- Provided: what a test does with the net.

    /// One poll: its event for `token`, if any.
    fn poll_once(&mut self, token: usize) -> Option<Event> {
        let mut events = Vec::new();
        self.net().poll(&mut events, Some(POLL_TIME)).unwrap();
        let mut of_token = events.into_iter().filter(|event| event.token == token);
        let event = of_token.next();
        assert_eq!(
            of_token.next(),
            None,
            "a second event for one token in one poll"
        );
        event
    }

    /// Polls until an event for `token` arrives.
    fn event(&mut self, token: usize) -> String {
        let event = (0..MAX_POLLS).find_map(|_| self.poll_once(token));
        describe(&event.expect("no event arrived"))
    }

    /// Polls three times where no event for `token` should arrive. The wait is short, so that the
    /// test is fast.
    fn no_event(&mut self, token: usize) -> String {
        (0..3)
            .find_map(|_| self.poll_once(token))
            .map_or("nothing".into(), |event| describe(&event))
    }

    fn accept(&mut self, listener: &mut ListenerOf<Self>) -> Result<StreamOf<Self>, String> {
        self.net()
            .accept(listener)
            .map(|(stream, _)| stream)
            .map_err(|error| format!("{:?}", error.kind()))
    }

    fn register(&mut self, stream: &mut StreamOf<Self>, token: usize) {
        self.net().register(stream, token).unwrap();
    }
}

pub type StreamOf<W> = <<W as Backend>::Net as Net>::Stream;
pub type ListenerOf<W> = <<W as Backend>::Net as Net>::Listener;

/// Describes an event, without its token.
pub fn describe(event: &Event) -> String {
    let words = [
        (event.readable, "readable"),
        (event.writable, "writable"),
        (event.read_closed, "read_closed"),
        (event.write_closed, "write_closed"),
        (event.urgent, "urgent"),
        (event.broken, "broken"),
    ];
    let words: Vec<&str> = words
        .into_iter()
        .filter_map(|(is, word)| is.then_some(word))
        .collect();
    words.join(" ")
}

/// Describes the result of one read into `room` bytes.
pub fn read(stream: &mut impl Stream, room: usize) -> String {
    let mut buf = vec![0; room];
    match stream.read(&mut buf) {
        Ok(0) => "end".into(),
        Ok(count) => format!("{:?}", String::from_utf8_lossy(&buf[..count])),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Describes the result of one write.
pub fn write(stream: &mut impl Stream, bytes: &[u8]) -> String {
    match stream.write(bytes) {
        Ok(count) if count == bytes.len() => "all".into(),
        Ok(count) if count > 0 => "a part".into(),
        Ok(_) => "zero".into(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Writes until there is no room. Returns the number of bytes.
pub fn fill(stream: &mut impl Stream) -> usize {
    let (chunk, mut sum) = ([b'x'; 4096], 0);
    loop {
        match stream.write(&chunk) {
            Ok(count) => sum += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return sum,
            Err(error) => panic!("{error}"),
        }
        assert!(sum < 1 << 26, "the send buffer never fills up");
    }
}

/// Describes the result of a dial.
pub fn established(stream: &mut impl Stream) -> String {
    match stream.established() {
        Ok(established) => format!("{established:?}"),
        Err(error) => format!("{:?}", error.kind()),
    }
}
