//! Every limit of the loop: its name, its default and the reason for it.

use std::time::Duration;

use crate::error::Error;
use crate::id::Token;

const KIB: usize = 1024;

/// The limits of one reactor.
///
/// A time of 24 days or more counts as for ever.
///
/// ```
/// use glassloop::Config;
///
/// let config = Config { max_connections: Some(100), ..Config::default() };
/// assert_eq!(config.accepts_per_turn, 16);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a listener rests after an error that only time can mend (no descriptor, no memory). Default 50 ms.
    ///
    /// Edge-triggered polling owes no new event for a connection that already waits, so the loop
    /// asks again by the clock; 50 ms is at most 20 attempts a second, over all listeners of the loop. At least 1 ms, at most a minute.
    pub accept_backoff: Duration,
    /// Connections accepted per listener in one turn. Default 16.
    ///
    /// More would let a storm of newcomers starve those who are served already.
    pub accepts_per_turn: usize,
    /// Bytes of memory that the buffers of all connections may hold together; beyond it those that hold most are closed. Default 256 MiB.
    ///
    /// No honest crowd gets there: what is read is handled at once, so only unfinished frames and unread replies are held. Ten
    /// thousand peers who each send all but the last byte of a frame do, and then it is they who are closed, with [`CloseReason::Overload`](crate::CloseReason::Overload).
    pub buffered_high: usize,
    /// Bytes down to which connections are closed once there were too many. Default 192 MiB.
    ///
    /// Well below the other mark, so that the search for those who hold most is rare.
    pub buffered_low: usize,
    /// Alarms (timers, and looks at connections whose deadline may have passed), and letters from other threads, that are handled in one turn, each; the
    /// rest come with the next, in order. Default 1,024.
    ///
    /// A hundred thousand timers in one tick, or a thread that posts without pause, so leave the sockets their part of the time.
    pub calls_per_turn: usize,
    /// Bytes that handlers may queue for *other* connections before they are delivered at once, and the batch at hand yields. Default 1 MiB.
    ///
    /// A mark, not a cap: the callback that crosses it is finished. With it, a fan-out to many holds at
    /// most this plus what one callback asks for.
    pub command_high: usize,
    /// How long a closing connection waits for its peer to take *some* of its last replies. Default 10 s; `Duration::MAX` is for ever.
    ///
    /// As long as some leave it waits on, but for one thing: when the whole loop stops, this is the time it has in all.
    pub drain_timeout: Duration,
    /// Events taken from the poller in one turn; the rest come with the next. Default 1,024.
    pub events_per_turn: usize,
    /// How long a frame may take, from its first byte to its last; `None`: as long as it likes. Default 10 s.
    ///
    /// A peer that drips a byte now and then is never idle, so no idle time would end it. Counted while the connection
    /// is read: not while it is paused or held back. Then the connection closes with [`CloseReason::FrameTimeout`](crate::CloseReason::FrameTimeout).
    pub frame_timeout: Option<Duration>,
    /// How long a peer has for its first frame, whether or not it is read meanwhile, where the handler waits for one ([`Context::expect_handshake`](crate::Context::expect_handshake)); `None`: as long as it likes. Default 5 s.
    pub handshake_timeout: Option<Duration>,
    /// How long a connection may be silent in both directions; `None`: as long as it likes. Default 60 s.
    ///
    /// Whatever its state: a handler that pauses a connection for longer needs a longer one, or none.
    ///
    /// **Trap:** with `None`, a connection whose peer vanished without a word stays for ever,
    /// unless the system probes for it (keepalive). See
    /// [`Reactor::listen_on`](crate::Reactor::listen_on).
    pub idle_timeout: Option<Duration>,
    /// How long a closed connection is kept, its sending side shut, after the peer was last heard. Default 2 s; no longer than `drain_timeout` in all.
    ///
    /// Whoever closes a socket while bytes are still coming in makes the kernel answer with a reset,
    /// which may destroy the last replies on their way (RFC 1122, 4.2.2.13). What arrives in that time is read and dropped.
    pub linger_timeout: Duration,
    /// How many loops of this process share its descriptors; the default for `max_connections` is divided by it. Default 1.
    pub loops: usize,
    /// Bytes that letters from other threads ([`Handle`](crate::Handle)) may take while they wait for the loop. Default 4 MiB.
    ///
    /// A frame counts with its length; mail with its own size, and not with what it points to: see [`Handle::post_weighing`](crate::Handle::post_weighing).
    /// Beyond it the sender is told, and has his letter back. As many again may have been taken in by the loop and not be read yet.
    pub mailbox_cap: usize,
    /// Connections open at once, outgoing and closing ones included; beyond it nothing is accepted until one leaves, and no dial begun. Default `None`: the process's
    /// limit of descriptors less a reserve for listeners, logs and the program's own files: 64, or a quarter if that is less, and 4 for each further loop.
    pub max_connections: Option<usize>,
    /// Whether small replies leave at once (`TCP_NODELAY`). Default yes: the loop batches by itself.
    pub nodelay: bool,
    /// Bytes of memory that each buffer and list which all connections share may keep once it is
    /// empty. Default 256 KiB.
    ///
    /// They grow with a burst: one reply of 300 MiB, one message to a thousand connections. When it
    /// is over they are given back down to this, so that it costs no memory for good;
    /// [`Reactor::shared_memory`](crate::Reactor::shared_memory) counts them. The default has room
    /// for replies up to four times `write_high`. **Trap:** a loop whose connections are often sent
    /// more than this at once allocates anew each time: raise it together with `write_high`.
    pub retained_capacity: usize,
    /// Size of the read buffer that all connections share, and the bytes one connection may read in a turn. Default 260 KiB.
    ///
    /// Large enough that big payloads come in few calls, small enough to stay in a processor's cache. It is a power of two plus 4 KiB: payloads tend to be powers
    /// of two and to have headers, and sixteen of 16 KiB that end just behind the buffer cost a second read, and a copy of the last one's front.
    /// **Trap:** it is what a flooder may take of a turn, and a part of what a connection may hold: a larger one is less fair, and the bound on memory grows with it.
    pub scratch: usize,
    /// How long the loop polls without sleeping, at most, before it sleeps; zero: never. Default 8 µs, no more than 10 ms.
    ///
    /// Falling asleep and being woken costs the processor as much as some twenty polls, about 5 µs, and whoever waits for an answer waits for that too. Where the next event
    /// comes sooner, as with a client on the same machine that waits for each answer, it is cheaper to wait awake. The loop keeps an account of what that has saved and cost
    /// lately, and waits awake only while it pays; so a longer time costs processor time only where events come that late. It delays nothing: what is due, and
    /// letters from other threads, end this waiting as they end a sleep. `turn(Some(Duration::ZERO))`, which another loop calls, never waits at all.
    pub spin: Duration,
    /// Bytes of replies a connection may have queued at all; beyond it the connection closes. Default 1 MiB.
    ///
    /// The marks stop well-behaved streams long before it; what reaches the cap is one frame that
    /// asks for a huge answer, or messages sent to a peer that does not read.
    pub write_cap: usize,
    /// Queued bytes from which on the connection is neither read nor handled (back-pressure). Default 64 KiB.
    ///
    /// It is what a connection's own frames cause that holds it back: a handler that sends of its own accord is told of
    /// the low mark ([`Handler::drained`](crate::Handler::drained)), and goes on reading meanwhile; so two who flood each other do not both wait for ever.
    ///
    /// **Trap:** where both sides send requests *and* answer the other's, without a bound on those that are not answered yet, no buffer is large enough: bound them.
    pub write_high: usize,
    /// Queued bytes down to which replies must have drained before reading goes on. Default 32 KiB.
    ///
    /// Half of the high mark, so that a connection at the mark does not switch with every byte.
    pub write_low: usize,
    /// How long a peer may take none of the bytes that are queued for it; `None`: as long as it likes. Default 30 s.
    ///
    /// Counted from the last byte that it took. Then the connection closes with [`CloseReason::WriteTimeout`](crate::CloseReason::WriteTimeout).
    pub write_timeout: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            accept_backoff: Duration::from_millis(50),
            accepts_per_turn: 16,
            buffered_high: 256 * 1024 * KIB,
            buffered_low: 192 * 1024 * KIB,
            calls_per_turn: 1024,
            command_high: 1024 * KIB,
            drain_timeout: Duration::from_secs(10),
            events_per_turn: 1024,
            frame_timeout: Some(Duration::from_secs(10)),
            handshake_timeout: Some(Duration::from_secs(5)),
            idle_timeout: Some(Duration::from_secs(60)),
            linger_timeout: Duration::from_secs(2),
            loops: 1,
            mailbox_cap: 4 * 1024 * KIB,
            max_connections: None,
            nodelay: true,
            retained_capacity: 256 * KIB,
            scratch: 260 * KIB,
            spin: Duration::from_micros(8),
            write_cap: 1024 * KIB,
            write_high: 64 * KIB,
            write_low: 32 * KIB,
            write_timeout: Some(Duration::from_secs(30)),
        }
    }
}

impl Config {
    /// Checks how the limits stand to each other.
    ///
    /// # Errors
    /// [`Error::Config`] with both numbers, if one is zero that may not be, or two are in the wrong order.
    pub fn check(&self) -> Result<(), Error> {
        let at_least_one = [
            (
                "accept_backoff, in ms,",
                self.accept_backoff
                    .as_millis()
                    .try_into()
                    .unwrap_or(usize::MAX),
            ),
            ("accepts_per_turn", self.accepts_per_turn),
            ("calls_per_turn", self.calls_per_turn),
            ("command_high", self.command_high),
            ("events_per_turn", self.events_per_turn),
            ("loops", self.loops),
            ("max_connections", self.max_connections.unwrap_or(1)),
            ("scratch", self.scratch),
            ("write_high", self.write_high),
        ];
        if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Config {
                problem: format!("{name} is 0, at least 1 is needed"),
            });
        }
        let in_order = [
            (
                "write_low",
                self.write_low,
                "write_high",
                self.write_high.saturating_sub(1),
            ),
            ("write_high", self.write_high, "write_cap", self.write_cap),
            (
                "buffered_low",
                self.buffered_low,
                "buffered_high",
                self.buffered_high,
            ),
            (
                "accept_backoff, in ms,",
                self.accept_backoff
                    .as_millis()
                    .try_into()
                    .unwrap_or(usize::MAX),
                "patience with newcomers",
                60_000,
            ),
            (
                "max_connections",
                self.max_connections.unwrap_or(0),
                "the most that can be told apart",
                Token::MAX_SLOTS,
            ),
            ("loops", self.loops, "a process", 65_536),
            ("scratch", self.scratch, "a read", 1024 * 1024 * KIB),
            (
                "events_per_turn",
                self.events_per_turn,
                "a poll",
                1024 * KIB,
            ),
            (
                "spin, in µs,",
                self.spin.as_micros().try_into().unwrap_or(usize::MAX),
                "waiting awake",
                10_000,
            ),
        ];
        if let Some((low, below, high, above)) =
            in_order.iter().find(|(_, below, _, above)| below > above)
        {
            return Err(Error::Config {
                problem: format!("{low} is {below}, but {high} allows at most {above}"),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_agree_with_each_other() {
        Config::default()
            .check()
            .expect("the defaults are a configuration");
    }

    #[test]
    fn limits_in_the_wrong_order_are_named_with_their_numbers() {
        let config = Config {
            write_low: 9,
            write_high: 9,
            ..Config::default()
        };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "bad configuration: write_low is 9, but write_high allows at most 8"
        );
        let config = Config {
            scratch: 0,
            ..Config::default()
        };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "bad configuration: scratch is 0, at least 1 is needed"
        );
    }
}
