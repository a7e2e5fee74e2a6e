//! A model of message delivery: of each sender's messages, all arrive once, in order and unaltered.
//!
//! It knows nothing of sockets, buffers or states. A sender records each message
//! ([`DeliveryChecker::expect_message`]), and a receiver each arrival
//! ([`DeliveryChecker::receive`]). At the end [`DeliveryChecker::missing`] tells how many did not
//! arrive.

use std::collections::BTreeMap;

/// A sender or receiver of messages: the number of a client, or [`HANDLER`].
pub(crate) type Party = u32;
/// The loop's handler.
pub(crate) const HANDLER: Party = u32::MAX;

/// Errors found, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeliveryErrors {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub altered: u64,
}

/// Counts messages between senders and receivers.
#[derive(Debug, Default)]
pub(crate) struct DeliveryChecker {
    /// Messages expected and received, by receiver and sender.
    streams: BTreeMap<(Party, Party), (u32, u32)>,
    pub frames: u64,
    pub errors: DeliveryErrors,
}

impl DeliveryChecker {
    /// Records one more message to arrive. Returns its number, counted from 0.
    pub(crate) fn expect_message(&mut self, to: Party, from: Party) -> u32 {
        let (expected, _) = self.streams.entry((to, from)).or_default();
        *expected += 1;
        *expected - 1
    }

    /// Checks a message that arrived. An ack without its submit counts as altered.
    pub(crate) fn receive(&mut self, to: Party, from: Party, number: u32, intact: bool) {
        let (expected, received) = self.streams.entry((to, from)).or_default();
        self.frames += 1;
        match number {
            _ if !intact || number >= *expected => self.errors.altered += 1,
            _ if number < *received => self.errors.duplicated += 1,
            _ if number > *received => self.errors.reordered += 1,
            _ => *received += 1,
        }
    }

    /// The number of expected messages that have not arrived.
    pub(crate) fn missing(&self, to: Party, from: Party) -> u32 {
        self.streams
            .get(&(to, from))
            .map_or(0, |(expected, received)| expected - received)
    }
}
