//! One world seen through [`Net`], with somebody at the far end of its connections: in the kernel, or in the simulator.

use std::time::Duration;

use glassloop::Address;
use glassloop::internals::{Event, Net, Stream};

/// The most rounds that anything is waited for; each lasts [`ROUND`] at most.
pub const ROUNDS: usize = 2_000;
pub const ROUND: Duration = Duration::from_millis(10);

/// The most events that one poll takes.
pub const EVENTS: usize = 8;

/// How a test knows that what the far end did has come here.
#[derive(Clone, Copy, Debug)]
pub enum Sign {
    Bytes(usize),
    End,
    Reset,
}

/// A net, and the hand on those at its far ends. They read only when they are told to.
pub trait World {
    type Net: Net;
    type Far;

    fn net(&mut self) -> &mut Self::Net;

    /// A listener of ours, not registered.
    fn listener(&mut self) -> (ListenerOf<Self>, Address);

    /// Connects to it; `None` if nobody listens.
    fn client(&mut self, addr: &Address) -> Option<Self::Far>;

    /// Somebody who listens, and accepts nobody by himself; and an address where nobody listens.
    fn host(&mut self) -> Address;
    fn nobody(&mut self) -> Address;

    /// Lets the host accept one.
    fn visitor(&mut self, host: &Address) -> Self::Far;

    /// A dial that meets itself.
    fn dial_itself(&mut self) -> StreamOf<Self>;

    /// The far end's own address.
    fn addr(&self, far: &Self::Far) -> Address;

    /// Waits until what the far end did is here, without asking the net.
    fn arrives(&mut self, stream: &StreamOf<Self>, sign: Sign);

    /// Waits until something has come to the far end; it is not read there.
    fn arrives_there(&mut self, far: &Self::Far);

    /// How much has come there by now; to count it may be to take it.
    fn arrived_there(&mut self, far: &mut Self::Far) -> usize;

    fn send(&mut self, far: &mut Self::Far, bytes: &[u8]);

    /// A byte of urgent data.
    fn send_urgent(&mut self, far: &mut Self::Far, byte: u8);

    fn shut_write(&mut self, far: &mut Self::Far);

    fn close(&mut self, far: Self::Far);

    fn reset(&mut self, far: Self::Far);

    /// Lets the far end read a little of what is there.
    fn take_some(&mut self, far: &mut Self::Far) -> usize;

    /// Lets it read that many bytes.
    fn hear(&mut self, far: &mut Self::Far, count: usize) -> Vec<u8>;

    /// Lets it read all there is, to the end or the reset.
    fn hear_out(&mut self, far: &mut Self::Far) -> (Vec<u8>, &'static str);

    // ---- What a test does with the net itself.

    /// One poll: what it says of `token`, if it does.
    fn poll_once(&mut self, token: usize) -> Option<Event> {
        let mut events = Vec::new();
        self.net().poll(&mut events, Some(ROUND)).unwrap();
        let mut of_token = events.into_iter().filter(|event| event.token == token);
        let event = of_token.next();
        assert_eq!(
            of_token.next(),
            None,
            "a second event for one token in one poll"
        );
        event
    }

    /// The next event for `token`.
    fn event(&mut self, token: usize) -> String {
        let event = (0..ROUNDS).find_map(|_| self.poll_once(token));
        words(&event.expect("an event should have come"))
    }

    /// What comes for `token` where nothing should: the wait is short, since a world that is right has nothing to wait for.
    fn silence(&mut self, token: usize) -> String {
        (0..3)
            .find_map(|_| self.poll_once(token))
            .map_or("nothing".into(), |event| words(&event))
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

pub type StreamOf<W> = <<W as World>::Net as Net>::Stream;
pub type ListenerOf<W> = <<W as World>::Net as Net>::Listener;

/// An event in words, without its token.
pub fn words(event: &Event) -> String {
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

/// What one read of `room` bytes says.
pub fn read(stream: &mut impl Stream, room: usize) -> String {
    let mut buf = vec![0; room];
    match stream.read(&mut buf) {
        Ok(0) => "end".into(),
        Ok(count) => format!("{:?}", String::from_utf8_lossy(&buf[..count])),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// What one write says.
pub fn write(stream: &mut impl Stream, bytes: &[u8]) -> String {
    match stream.write(bytes) {
        Ok(count) if count == bytes.len() => "all".into(),
        Ok(count) if count > 0 => "a part".into(),
        Ok(_) => "zero".into(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Writes until there is no room left; how much it was.
pub fn fill(stream: &mut impl Stream) -> usize {
    let (chunk, mut sum) = ([b'x'; 4096], 0);
    loop {
        match stream.write(&chunk) {
            Ok(count) => sum += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return sum,
            Err(error) => panic!("{error}"),
        }
        assert!(sum < 1 << 26, "a buffer without end");
    }
}

/// What a socket says of its dial.
pub fn established(stream: &mut impl Stream) -> String {
    match stream.established() {
        Ok(established) => format!("{established:?}"),
        Err(error) => format!("{:?}", error.kind()),
    }
}
