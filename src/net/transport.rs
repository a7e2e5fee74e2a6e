//! [`fill`] and [`flush`]: the only places that call read(2) and write(2).
//!
//! A system call has five outcomes: some bytes, the end, "not now", "interrupted by a signal", an
//! error. Here they become one small enum each, and the stored readiness is updated.

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};

use crate::net::Event;

/// The readiness of a socket, stored between events: one bit for each kind of [`Event`].
///
/// Polling is edge-triggered: an event sets a bit. [`READABLE`](Self::READABLE) and
/// [`WRITABLE`](Self::WRITABLE) stay set until an operation has shown that the readiness is used
/// up. The other bits stay set forever.
///
/// **Trap:** code that stops reading while the bit is set must schedule the rest itself, because no
/// new event follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness(u8);

impl Readiness {
    /// A read may find something.
    pub const READABLE: Self = Self(1);
    /// A write may find room.
    pub const WRITABLE: Self = Self(1 << 1);
    /// The end of the peer's stream was announced. From now on only `Ok(0)`, an error or
    /// `WouldBlock` ends the reading.
    pub const READ_CLOSED: Self = Self(1 << 2);
    /// Nothing that is written can reach the peer any more.
    pub const WRITE_CLOSED: Self = Self(1 << 3);
    /// Urgent data has arrived. From now on a short read proves nothing.
    pub const URGENT: Self = Self(1 << 4);
    /// The connection is broken, for instance by a reset.
    pub const BROKEN: Self = Self(1 << 5);

    /// Sets the bits that an event reports.
    #[inline]
    pub fn merge(&mut self, event: &Event) {
        let bit = |bit: Self, is_set: bool| if is_set { bit.0 } else { 0 };
        self.0 |= bit(Self::READABLE, event.readable || event.read_closed)
            | bit(Self::WRITABLE, event.writable || event.write_closed)
            | bit(Self::READ_CLOSED, event.read_closed)
            | bit(Self::WRITE_CLOSED, event.write_closed)
            | bit(Self::URGENT, event.urgent)
            | bit(Self::BROKEN, event.broken);
    }

    /// Returns true if any of these bits is set.
    #[inline]
    pub fn has(self, bits: Self) -> bool {
        self.0 & bits.0 != 0
    }

    /// Sets these bits.
    #[inline]
    pub fn set(&mut self, bits: Self) {
        self.0 |= bits.0;
    }

    /// Clears these bits.
    #[inline]
    pub fn clear(&mut self, bits: Self) {
        self.0 &= !bits.0;
    }
}

/// The result of one read.
#[derive(Debug)]
pub enum Fill {
    /// This many bytes were read, at least one.
    Bytes(usize),
    /// The peer has closed its sending side, and all its bytes were read.
    End,
    /// There is nothing to read now. An event follows when there is.
    Blocked,
    /// The connection is broken.
    Failed(io::Error),
}

/// The result of one write.
#[derive(Debug)]
pub enum Flush {
    /// This many bytes were written, at least one.
    Bytes(usize),
    /// The socket has no room now. An event follows when it has.
    Blocked,
    /// The connection is broken.
    Failed(io::Error),
}

/// With one of these bits set, a short read does not prove that the socket is empty.
const MORE_MAY_COME: Readiness = Readiness(Readiness::READ_CLOSED.0 | Readiness::URGENT.0);

/// Reads once, into `space` first, then into `scratch`.
///
/// `short_read_is_empty` says whether a short read proves that the socket is empty
/// ([`Net::SHORT_READ_IS_EMPTY`](crate::net::Net::SHORT_READ_IS_EMPTY)). After the poller has
/// announced the end of the peer's stream, a short read proves nothing, because no further event
/// would announce that end.
pub fn fill(
    stream: &mut impl Read,
    space: &mut [u8],
    scratch: &mut [u8],
    readiness: &mut Readiness,
    short_read_is_empty: bool,
) -> Fill {
    let room = space.len() + scratch.len();
    debug_assert!(
        room > 0,
        "a read into an empty buffer looks like the end of the stream"
    );
    loop {
        // recv(2) is a little cheaper than readv(2), so the common case uses one buffer.
        let outcome = if space.is_empty() {
            stream.read(scratch)
        } else {
            stream.read_vectored(&mut [IoSliceMut::new(space), IoSliceMut::new(scratch)])
        };
        return match outcome {
            Ok(0) => {
                readiness.clear(Readiness::READABLE);
                Fill::End
            }
            Ok(n) => {
                if n < room && short_read_is_empty && !readiness.has(MORE_MAY_COME) {
                    readiness.clear(Readiness::READABLE);
                }
                Fill::Bytes(n)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                readiness.clear(Readiness::READABLE);
                Fill::Blocked
            }
            Err(error) => Fill::Failed(error),
        };
    }
}

/// Writes once.
///
/// A short write is not taken as proof that the socket is full. The caller tries again until
/// `Blocked`. This costs one extra call, and only if the peer is already slow. It is correct on
/// every platform.
pub fn flush(stream: &mut impl Write, bytes: &[u8], readiness: &mut Readiness) -> Flush {
    loop {
        return match stream.write(bytes) {
            Ok(0) => Flush::Failed(ErrorKind::WriteZero.into()),
            Ok(n) => Flush::Bytes(n),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                readiness.clear(Readiness::WRITABLE);
                Flush::Blocked
            }
            Err(error) => Flush::Failed(error),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A stream with a script of results.
    struct Script(VecDeque<io::Result<usize>>);

    impl Script {
        fn new(answers: impl IntoIterator<Item = io::Result<usize>>) -> Self {
            Self(answers.into_iter().collect())
        }
    }

    impl Read for Script {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.pop_front().expect("one read too many")
        }
    }

    impl Write for Script {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.pop_front().expect("one write too many")
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const READY: Readiness = Readiness(Readiness::READABLE.0 | Readiness::WRITABLE.0);

    fn read(
        answers: impl IntoIterator<Item = io::Result<usize>>,
        readiness: &mut Readiness,
    ) -> Fill {
        fill(
            &mut Script::new(answers),
            &mut [],
            &mut [0; 8],
            readiness,
            true,
        )
    }

    #[test]
    fn short_read_clears_readiness_and_full_read_keeps_it() {
        let mut readiness = READY;
        assert!(matches!(read([Ok(8)], &mut readiness), Fill::Bytes(8)));
        assert!(readiness.has(Readiness::READABLE));
        assert!(matches!(read([Ok(7)], &mut readiness), Fill::Bytes(7)));
        assert!(!readiness.has(Readiness::READABLE));
    }

    #[test]
    fn short_read_keeps_readiness_after_end_was_announced() {
        let mut readiness = Readiness(READY.0 | Readiness::READ_CLOSED.0);
        assert!(matches!(read([Ok(7)], &mut readiness), Fill::Bytes(7)));
        assert!(readiness.has(Readiness::READABLE));
        assert!(matches!(read([Ok(0)], &mut readiness), Fill::End));
        assert!(!readiness.has(Readiness::READABLE));
    }

    #[test]
    fn short_read_keeps_readiness_where_it_proves_nothing() {
        let mut readiness = READY;
        assert!(matches!(
            fill(
                &mut Script::new([Ok(1)]),
                &mut [],
                &mut [0; 8],
                &mut readiness,
                false
            ),
            Fill::Bytes(1)
        ));
        assert!(readiness.has(Readiness::READABLE));
    }

    #[test]
    fn interrupted_calls_retry_and_would_block_clears_readiness() {
        let mut readiness = READY;
        let answers = || {
            [
                Err(ErrorKind::Interrupted.into()),
                Err(ErrorKind::WouldBlock.into()),
            ]
        };
        assert!(matches!(read(answers(), &mut readiness), Fill::Blocked));
        assert!(!readiness.has(Readiness::READABLE) && readiness.has(Readiness::WRITABLE));
        assert!(matches!(
            flush(&mut Script::new(answers()), b"x", &mut readiness),
            Flush::Blocked
        ));
        assert!(!readiness.has(Readiness::WRITABLE));
    }

    #[test]
    fn write_of_zero_bytes_fails_the_connection() {
        assert!(matches!(
            flush(&mut Script::new([Ok(0)]), b"x", &mut READY.clone()),
            Flush::Failed(_)
        ));
        assert!(matches!(
            flush(&mut Script::new([Ok(1)]), b"xy", &mut READY.clone()),
            Flush::Bytes(1)
        ));
    }
}
