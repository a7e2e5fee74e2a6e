//! A hash of everything that happened in a run.

use std::time::Duration;

use crate::net::{Fill, Flush};
use crate::observe::Step;

/// A hash of all steps of a run: FNV-1a over words. Two runs with different steps have different
/// hashes.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) hash: u64,
    /// The first panic of the loop's own code that was caught: the connection and the message.
    pub(super) internal_error: Option<String>,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            internal_error: None,
        }
    }
}

impl Trace {
    fn add(&mut self, word: u64) {
        self.hash = (self.hash ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
    }

    /// Adds one step, which was taken at `now`.
    pub(super) fn step(&mut self, now: Duration, step: &Step<'_>) {
        let ok = |n: &usize| *n as u64 + 8;
        let name = |name: &str| {
            name.bytes()
                .fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte))
        };
        let (tag, id, word) = match step {
            Step::Turn { events, .. } => (1, None, *events as u64 ^ now.as_nanos() as u64),
            Step::Spun { polls, hit } => (0, None, u64::from(*polls) * 2 + u64::from(*hit)),
            Step::Event {
                id,
                readable,
                writable,
            } => (2, Some(id), u64::from(*readable) * 2 + u64::from(*writable)),
            Step::Stale => (3, None, 0),
            Step::Accepted { id, listener, .. } => (4, Some(id), *listener as u64),
            Step::AcceptFailed { listener, .. } => (5, None, *listener as u64),
            Step::Dialed { id, .. } => (6, Some(id), 0),
            Step::DialFailed { id, .. } => (7, Some(id), 0),
            Step::Read { id, fill } => {
                let word = match fill {
                    Fill::Bytes(n) => ok(n),
                    Fill::End => 0,
                    Fill::Blocked => 1,
                    Fill::Failed(_) => 2,
                };
                (8, Some(id), word)
            }
            Step::Frame { id, bytes } => (9, Some(id), *bytes as u64),
            Step::Verdict { id, verdict } => (10, Some(id), *verdict as u64),
            Step::Queued { id, bytes } => (11, Some(id), *bytes as u64),
            Step::Write { id, flush } => {
                let word = match flush {
                    Flush::Bytes(n) => ok(n),
                    Flush::Blocked => 1,
                    Flush::Failed(_) => 2,
                };
                (12, Some(id), word)
            }
            Step::State { id, to, .. } => (13, Some(id), name(to)),
            Step::Discarded { id, bytes } => (14, Some(id), *bytes as u64),
            Step::Dropped { id, bytes } => (15, Some(id), *bytes as u64),
            Step::Deferred { id } => (16, Some(id), 0),
            Step::Deadline { id, .. } => (17, Some(id), 0),
            Step::Timer { .. } => (18, None, 0),
            Step::Post => (19, None, 0),
            Step::Panicked { id } => (20, id.as_ref(), 0),
            Step::InternalError { id, message } => {
                self.internal_error
                    .get_or_insert_with(|| format!("{id}: {message}"));
                (22, Some(id), 0)
            }
            Step::Closed { id, reason } => (21, Some(id), name(reason.name())),
        };
        self.add(tag);
        self.add(id.map_or(0, |id| {
            (id.slot() as u64) << 32 | u64::from(id.generation())
        }));
        self.add(word);
    }
}
