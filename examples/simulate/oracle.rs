//! The naive model of what everybody must see: of each sender's messages all, once, in order, as they were sent.
//!
//! It knows nothing of sockets, buffers or states. Whoever takes a message on says so ([`Oracle::owe`]), whoever gets one says
//! so ([`Oracle::see`]), and at the end it is asked whether anything is missing ([`Oracle::missing`]).

use std::collections::BTreeMap;

/// Who sends or gets messages: a client by its number, or the loop's handler.
pub(crate) type Party = u32;
/// The handler.
pub(crate) const HUB: Party = u32::MAX;

/// What was found wrong, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wrongs {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub altered: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// For each receiver and sender: how many messages were taken on, and how many have come.
    streams: BTreeMap<(Party, Party), (u32, u32)>,
    pub frames: u64,
    pub wrongs: Wrongs,
}

impl Oracle {
    /// Takes on one more message; returns its number, counted from 0.
    pub(crate) fn owe(&mut self, to: Party, from: Party) -> u32 {
        let (owed, _) = self.streams.entry((to, from)).or_default();
        *owed += 1;
        *owed - 1
    }

    /// A message has come. An ack without its submit is an altered one: nobody has sent it.
    pub(crate) fn see(&mut self, to: Party, from: Party, number: u32, intact: bool) {
        let (owed, seen) = self.streams.entry((to, from)).or_default();
        self.frames += 1;
        match number {
            _ if !intact || number >= *owed => self.wrongs.altered += 1,
            _ if number < *seen => self.wrongs.duplicated += 1,
            _ if number > *seen => self.wrongs.reordered += 1,
            _ => *seen += 1,
        }
    }

    /// How many of the messages that were taken on have not come.
    pub(crate) fn missing(&self, to: Party, from: Party) -> u32 {
        self.streams
            .get(&(to, from))
            .map_or(0, |(owed, seen)| owed - seen)
    }
}
