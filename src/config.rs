//! Every limit of a reactor, with its default and the reason for it.

use std::time::Duration;

use crate::error::Error;
use crate::id::Token;

const KIB: usize = 1024;

/// The limits of one reactor.
///
/// All sizes are in bytes. A time of 24 days or more counts as unlimited.
/// [`Reactor::new`](crate::Reactor::new) calls [`check`](Self::check).
///
/// ```
/// use glassloop::Config;
///
/// let config = Config { max_connections: Some(100), ..Config::default() };
/// assert_eq!(config.accepts_per_turn, 16);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a listener stops accepting after an error that only time can fix (no descriptor, no
    /// memory). Default 50 ms. At least 1 ms, at most 60 s.
    ///
    /// Edge-triggered polling sends no new event for a connection that is already in the backlog,
    /// so the loop retries by the clock. 50 ms means at most 20 attempts a second, over all
    /// listeners of the loop.
    pub accept_backoff: Duration,
    /// Connections accepted per listener in one turn. Default 16.
    ///
    /// With more, a burst of new connections would starve the established ones.
    pub accepts_per_turn: usize,
    /// Bytes of memory that the buffers of all connections may hold together. Default 256 MiB.
    ///
    /// Above it, the connections that hold most are closed with
    /// [`CloseReason::Overload`](crate::CloseReason::Overload), until
    /// [`buffered_low`](Self::buffered_low) is reached.
    ///
    /// Normal traffic stays far below it. Frames are handled as soon as they are read, so buffers
    /// hold only unfinished frames and replies that peers have not read. Ten thousand peers that
    /// each send all but the last byte of a frame do reach it, and then those connections are
    /// closed.
    pub buffered_high: usize,
    /// Bytes at which closing connections for [`buffered_high`](Self::buffered_high) stops. Default
    /// 192 MiB.
    ///
    /// It is well below the high mark, so that the search for the largest connections is rare.
    pub buffered_low: usize,
    /// Alarms handled in one turn, and messages from other threads handled in one turn. Default
    /// 1,024 of each.
    ///
    /// An alarm is a timer, or a check of a connection whose deadline may have expired. The rest is
    /// handled in the next turns, in order. So neither 100,000 timers in one tick nor a thread that
    /// posts without pause can starve the sockets.
    pub calls_per_turn: usize,
    /// Bytes that handlers may queue for *other* connections before the loop delivers them. Default
    /// 1 MiB.
    ///
    /// At this mark the current batch yields, and what is queued is delivered at once. It is a
    /// mark, not a cap: the callback that crosses it runs to its end. So a fan-out to many
    /// connections holds at most this plus what one callback queues.
    pub command_high: usize,
    /// How long a closing connection waits for its peer to take *some* of its last replies. Default
    /// 10 s; `Duration::MAX` means no limit.
    ///
    /// Each byte that the peer takes restarts the time. When the whole loop stops, it is the total
    /// time instead.
    pub drain_timeout: Duration,
    /// Events taken from the poller in one turn. Default 1,024. The rest is taken in the next
    /// turns.
    pub events_per_turn: usize,
    /// How long a frame may take from its first byte to its last. Default 10 s; `None` means no
    /// limit.
    ///
    /// A peer that sends one byte now and then is never idle, so
    /// [`idle_timeout`](Self::idle_timeout) would not close it. The time counts only while the
    /// connection is read: not while it is paused or blocked on write. When it expires, the
    /// connection closes with [`CloseReason::FrameTimeout`](crate::CloseReason::FrameTimeout).
    pub frame_timeout: Option<Duration>,
    /// How long a peer has to send its first frame. Default 5 s; `None` means no limit.
    ///
    /// It applies only if the handler calls
    /// [`Context::expect_handshake`](crate::Context::expect_handshake). It counts whether or not
    /// the connection is read meanwhile.
    pub handshake_timeout: Option<Duration>,
    /// How long a connection may transfer no byte in either direction. Default 60 s; `None` means
    /// no limit.
    ///
    /// It also applies while a connection is paused or blocked on write. A handler that pauses a
    /// connection for longer needs a longer timeout, or none.
    ///
    /// **Trap:** with `None`, a connection whose peer vanished without a FIN or a reset stays
    /// forever, unless the system probes it (TCP keepalive). See
    /// [`Reactor::listen_on`](crate::Reactor::listen_on).
    pub idle_timeout: Option<Duration>,
    /// How long a closed connection is kept, its sending side shut, after the last byte from the
    /// peer. Default 2 s. The total is at most [`drain_timeout`](Self::drain_timeout).
    ///
    /// A socket that is closed while bytes still arrive makes the kernel answer with a reset. The
    /// reset may destroy the last replies on their way (RFC 1122, 4.2.2.13). So bytes that arrive
    /// in this time are read and dropped (a lingering close).
    pub linger_timeout: Duration,
    /// How many loops of this process share its descriptors. Default 1. The default of
    /// [`max_connections`](Self::max_connections) is divided by it.
    pub loops: usize,
    /// Bytes that messages from other threads ([`Handle`](crate::Handle)) may take while they wait
    /// for the loop. Default 4 MiB.
    ///
    /// A frame counts with its length. Mail counts with its own size, without what it points to;
    /// see [`Handle::post_weighing`](crate::Handle::post_weighing). Above the cap the sender gets
    /// its message back in an error. The loop may hold as many bytes again that it has taken from
    /// the mailbox and not handled yet.
    pub mailbox_cap: usize,
    /// Connections open at once, outgoing and closing ones included. Default `None`.
    ///
    /// At the limit no connection is accepted and no dial begins until one closes. With `None` the
    /// limit is the process's limit of descriptors less a reserve for listeners, logs and the
    /// program's own files. The reserve is 64, or a quarter of the limit if that is less, and 4 for
    /// each further loop.
    pub max_connections: Option<usize>,
    /// Whether small replies are sent at once (`TCP_NODELAY`). Default `true`: the loop batches by
    /// itself.
    pub nodelay: bool,
    /// Bytes of memory that each buffer and list shared by all connections may keep when it is
    /// empty. Default 256 KiB.
    ///
    /// These buffers grow with a burst: one reply of 300 MiB, or one message to a thousand
    /// connections. After the burst they shrink to this size, so the memory is freed.
    /// [`Reactor::shared_memory`](crate::Reactor::shared_memory) counts them. The default has room
    /// for replies up to four times [`write_high`](Self::write_high).
    ///
    /// **Trap:** a loop that often sends a connection more than this at once allocates anew each
    /// time. Raise it together with `write_high`.
    pub retained_capacity: usize,
    /// Size of the read buffer that all connections share, and the bytes that one connection may
    /// read in a turn. Default 260 KiB.
    ///
    /// It is large enough to read big payloads in few calls, and small enough to stay in a
    /// processor's cache. The default is a power of two plus 4 KiB, because payloads are often
    /// powers of two and have headers. Without the 4 KiB, sixteen payloads of 16 KiB would end just
    /// behind the buffer. That costs a second read, and a copy of the start of the last payload.
    ///
    /// **Trap:** it is also the part of a turn that a flooding peer can take, and a part of what a
    /// connection may hold. A larger buffer is less fair, and raises the bound on memory.
    pub scratch: usize,
    /// How long the loop busy-polls at most before it blocks in the poller. Default 8 µs, at most
    /// 10 ms; zero turns it off.
    ///
    /// Blocking in the poller and waking up again costs about 5 µs of CPU (20 empty polls) and adds
    /// the same to the reply's latency. Where the next event comes sooner, busy-polling is cheaper.
    /// A client on the same machine that waits for each reply is such a case.
    ///
    /// The loop measures what spinning has saved and cost lately, and spins only while it pays. So
    /// a longer time costs CPU only where events come that late. Spinning delays nothing: deadlines
    /// and messages from other threads end it as they end a blocking poll.
    /// `turn(Some(Duration::ZERO))`, for a reactor inside another loop, never spins.
    pub spin: Duration,
    /// Bytes of replies that a connection may have queued at all. Default 1 MiB. Above it the
    /// connection closes with [`CloseReason::OutboxFull`](crate::CloseReason::OutboxFull).
    ///
    /// Back-pressure stops normal traffic long before it. Two cases reach it: one frame that asks
    /// for a huge reply, and messages sent to a peer that does not read.
    pub write_cap: usize,
    /// Queued bytes at which the connection is neither read nor handled (back-pressure). Default 64
    /// KiB.
    ///
    /// Only replies to the connection's own frames block it. A handler that sends unasked is
    /// notified at the low mark ([`Handler::drained`](crate::Handler::drained)), and its connection
    /// is read meanwhile. So two peers that flood each other do not both wait forever.
    ///
    /// **Trap:** if both sides send requests *and* answer those of the other side, without a limit
    /// on unanswered requests, no buffer is large enough. Limit them.
    pub write_high: usize,
    /// Queued bytes at which a connection that was blocked by [`write_high`](Self::write_high) is
    /// read again. Default 32 KiB.
    ///
    /// It is half of the high mark, so that a connection at the mark does not switch with every
    /// byte.
    pub write_low: usize,
    /// How long a peer may take none of the bytes that are queued for it. Default 30 s; `None`
    /// means no limit.
    ///
    /// The time counts from the last byte that the peer took. When it expires, the connection
    /// closes with [`CloseReason::WriteTimeout`](crate::CloseReason::WriteTimeout).
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
    /// Checks each limit, and the limits against each other.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], with both numbers, if a limit is zero that may not be, is too large, or
    /// two limits are in the wrong order.
    pub fn check(&self) -> Result<(), Error> {
        let backoff = usize::try_from(self.accept_backoff.as_millis()).unwrap_or(usize::MAX);
        let spin = usize::try_from(self.spin.as_micros()).unwrap_or(usize::MAX);
        let max_connections = self.max_connections.unwrap_or(1);
        at_least_one("accept_backoff, in ms,", backoff)?;
        at_least_one("accepts_per_turn", self.accepts_per_turn)?;
        at_least_one("calls_per_turn", self.calls_per_turn)?;
        at_least_one("command_high", self.command_high)?;
        at_least_one("events_per_turn", self.events_per_turn)?;
        at_least_one("loops", self.loops)?;
        at_least_one("max_connections", max_connections)?;
        at_least_one("scratch", self.scratch)?;
        at_least_one("write_high", self.write_high)?;

        let (low, high) = (self.write_low, self.write_high.saturating_sub(1));
        at_most("write_low", low, "write_high", high)?;
        let (low, high) = (self.buffered_low, self.buffered_high);
        at_most("buffered_low", low, "buffered_high", high)?;
        at_most("write_high", self.write_high, "write_cap", self.write_cap)?;
        at_most("accept_backoff, in ms,", backoff, "one backoff", 60_000)?;
        at_most(
            "max_connections",
            max_connections,
            "a poller token",
            Token::MAX_SLOTS,
        )?;
        at_most("loops", self.loops, "a process", 65_536)?;
        at_most("scratch", self.scratch, "a read", 1024 * 1024 * KIB)?;
        at_most(
            "events_per_turn",
            self.events_per_turn,
            "a poll",
            1024 * KIB,
        )?;
        at_most("spin, in µs,", spin, "busy-polling", 10_000)
    }
}

fn at_least_one(name: &str, value: usize) -> Result<(), Error> {
    if value == 0 {
        let problem = format!("{name} is 0, at least 1 is needed");
        return Err(Error::Config { problem });
    }
    Ok(())
}

fn at_most(name: &str, value: usize, bound: &str, most: usize) -> Result<(), Error> {
    if value > most {
        let problem = format!("{name} is {value}, but {bound} allows at most {most}");
        return Err(Error::Config { problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_the_check() {
        Config::default().check().expect("the defaults are valid");
    }

    #[test]
    fn bad_limits_are_reported_with_their_numbers() {
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
