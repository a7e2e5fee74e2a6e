//! Go's `poll.FD`, which waits in the middle of Read and Write, over the reactor's `fill` and
//! `flush`, which do not.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use glassloop::internals as transport;
use glassloop::internals::Readiness;
use glassloop::{Fill, Flush};

use super::tools::result;

/// A stream with Go's loops around its calls.
pub(crate) struct Fd<S> {
    stream: S,
    /// The most that one call is asked for: Go's `maxRW`.
    max: usize,
    /// How often it had to wait.
    parked: usize,
}

impl<S: Read + Write> Fd<S> {
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0); // the call would return 0 as well, and that is the end
        }
        let most = buffer.len().min(self.max);
        loop {
            match transport::fill(
                &mut self.stream,
                &mut [],
                &mut buffer[..most],
                &mut Readiness::default(),
                true,
            ) {
                Fill::Bytes(count) => return Ok(count),
                Fill::End => return Ok(0),
                Fill::Blocked => self.park(),
                Fill::Failed(error) => return Err(error),
            }
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            let end = bytes.len().min(written + self.max);
            match transport::flush(
                &mut self.stream,
                &bytes[written..end],
                &mut Readiness::default(),
            ) {
                Flush::Bytes(count) => written += count,
                Flush::Blocked => self.park(),
                Flush::Failed(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Where Go's `waitRead` and `waitWrite` let another Goroutine run until the netpoller says
    /// that this one may go on. A list is ready at once.
    fn park(&mut self) {
        self.parked += 1;
    }
}

/// A stream that answers from a list, and notes how many bytes it was asked for.
pub(crate) struct Script {
    answers: VecDeque<io::Result<usize>>,
    asked: Vec<usize>,
}

impl Script {
    pub(crate) fn of<const N: usize>(answers: [io::Result<usize>; N]) -> Self {
        Self {
            answers: answers.into(),
            asked: Vec::new(),
        }
    }

    fn answer(&mut self, asked: usize) -> io::Result<usize> {
        self.asked.push(asked);
        self.answers
            .pop_front()
            .unwrap_or(Err(ErrorKind::UnexpectedEof.into()))
    }
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.answer(buffer.len())
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answer(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an operation comes to on a stream with these answers: its result, what each call was asked
/// for, and how often it waited.
pub(crate) fn scripted<const N: usize>(
    answers: [io::Result<usize>; N],
    operation: impl FnOnce(&mut Fd<Script>) -> io::Result<usize>,
) -> String {
    let mut fd = Fd {
        stream: Script::of(answers),
        max: 4,
        parked: 0,
    };
    let outcome = result(&operation(&mut fd));
    format!(
        "returns {outcome}, asked for {:?}, parked {}",
        fd.stream.asked, fd.parked
    )
}
