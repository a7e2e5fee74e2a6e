//! What can go wrong, how often it shall, and how often it did.

use std::fmt;
use std::ops::{Index, IndexMut};

use super::Dice;

/// Writes the list of faults once: the enum, all of them in order, and their names.
macro_rules! faults {
    ($($(#[$doc:meta])* $kind:ident $name:literal $most:literal,)*) => {
        /// A way in which the simulated net is unkind, by its own will. What peers do to the loop is for the workload to say.
        ///
        /// None of them is unlawful: a system may do each of them to a program, however seldom it does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Fault { $($(#[$doc])* $kind,)* }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Fault] = &[$(Fault::$kind),*];

            /// A short constant name, for a table or a command line.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$kind => $name,)* }
            }

            /// The highest rate, of a million, at which it is drawn: what ends connections must leave some to be watched.
            fn most(self) -> u32 {
                match self { $(Fault::$kind => $most,)* }
            }
        }
    };
}

faults! {
    /// A read takes fewer bytes than are there, where the poller's contract lets it.
    ShortRead "short_read" 1_000_000,
    /// A write takes fewer bytes than there is room for.
    ShortWrite "short_write" 1_000_000,
    /// A read finds nothing though bytes are there; an event tells of them later.
    ReadBlocked "read_blocked" 500_000,
    /// A write finds no room though there is some; an event tells of it later.
    WriteBlocked "write_blocked" 500_000,
    /// A signal interrupts a read.
    ReadInterrupted "read_interrupted" 500_000,
    /// A signal interrupts a write.
    WriteInterrupted "write_interrupted" 500_000,
    /// A signal interrupts an accept.
    AcceptInterrupted "accept_interrupted" 500_000,
    /// A signal ends the poller's wait, early and with nothing reported.
    PollInterrupted "poll_interrupted" 500_000,
    /// A read fails, with an error that is not a reset. The connection is broken with it.
    ReadFailed "read_failed" 1_000,
    /// A write fails, and the connection is broken with it.
    WriteFailed "write_failed" 1_000,
    /// A write takes nothing and says so: zero bytes, no error.
    WriteZero "write_zero" 500,
    /// The network resets a connection.
    ResetInTransit "reset_in_transit" 500,
    /// A reset takes what had arrived and was not read yet with it.
    ResetPurges "reset_purges" 1_000_000,
    /// The peer's end comes together with its last bytes, in one event.
    EndWithData "end_with_data" 1_000_000,
    /// An event that nothing stands behind.
    SpuriousEvent "spurious_event" 300_000,
    /// An event for a socket whose registration has ended.
    StaleEvent "stale_event" 300_000,
    /// No event for what happened before a read or an accept said that there was nothing left.
    EdgeWithheld "edge_withheld" 1_000_000,
    /// Of all that is ready the poller reports one.
    BatchOfOne "batch_of_one" 1_000_000,
    /// The poller reports in another order than things happened in.
    BatchShuffled "batch_shuffled" 1_000_000,
    /// What an event hints at beyond readable and writable is left out, where the poller's contract lets it.
    HintWithheld "hint_withheld" 1_000_000,
    /// An event reports all that is the case, and not only what is new.
    FullEvent "full_event" 1_000_000,
    /// The poller wakes late, with the next full step of a coarse clock, so that much falls due together.
    LateWake "late_wake" 1_000_000,
    /// The loop is kept from running for seconds.
    TimeJump "time_jump" 5_000,
    /// The waker is heard though nobody rang.
    SpuriousWake "spurious_wake" 200_000,
    /// A connection is gone before it is accepted, and the accept says so (`ECONNABORTED`, `EPROTO`).
    AcceptAborted "accept_aborted" 50_000,
    /// No descriptor is free (`EMFILE`, `ENFILE`).
    AcceptNoDescriptor "accept_no_descriptor" 500_000,
    /// No memory is free (`ENOBUFS`, `ENOMEM`).
    AcceptNoMemory "accept_no_memory" 500_000,
    /// The listener itself fails (`EINVAL`).
    AcceptFailed "accept_failed" 300_000,
    /// A peer has reset its connection before it is accepted; the accept does not say so.
    ResetBeforeAccept "reset_before_accept" 50_000,
    /// A listener's queue is full: a newcomer is not let in and tries again.
    BacklogFull "backlog_full" 300_000,
    /// The poller takes no further socket (`ENOSPC`, `ENOMEM`).
    RegisterFailed "register_failed" 50_000,
    /// The end of a registration fails.
    DeregisterFailed "deregister_failed" 300_000,
    /// Nobody listens where a dial goes.
    DialRefused "dial_refused" 200_000,
    /// A dial fails at once (`ENETUNREACH`, `EADDRNOTAVAIL`).
    DialImpossible "dial_impossible" 200_000,
    /// A dial is never answered.
    DialUnanswered "dial_unanswered" 100_000,
    /// A dial meets itself: its own port was the one it went to.
    DialMeetsItself "dial_meets_itself" 200_000,
    /// A dial is called writable before it is decided.
    DialEarlyEvent "dial_early_event" 1_000_000,
    /// The path of a connection is stopped up for a while.
    Clogged "clogged" 20_000,
    /// A peer sends a byte of urgent data.
    Urgent "urgent" 10_000,
    /// The process is stopped in the poller and continued much later: a signal ends the call, with nothing reported of all that came meanwhile.
    Stopped "stopped" 20_000,
}

/// How often each fault shall happen: of a million occasions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults([u32; Fault::ALL.len()]);

impl Faults {
    /// None: the net is as kind as it can be.
    pub fn none() -> Self {
        Self([0; Fault::ALL.len()])
    }

    /// A mix of the dice: many faults not at all, some now and then, some nearly always. So one seed is rough in one way only, and
    /// another in many, and what two kinds of faults would hide from each other shows somewhere.
    pub fn drawn(dice: &mut Dice) -> Self {
        let mut faults = Self::none();
        for fault in Fault::ALL {
            // One draw each, used or not: so each kind is drawn by itself.
            let (drawn, rate) = (
                dice.below(100),
                dice.magnitude(fault.most() as usize / 1000, fault.most() as usize),
            );
            if drawn < 40 {
                faults.set(*fault, rate as u32);
            }
        }
        faults
    }

    /// How often `fault` shall happen, of a million occasions.
    pub fn rate(&self, fault: Fault) -> u32 {
        self.0[fault as usize]
    }

    /// Lets `fault` happen in `rate` of a million occasions.
    pub fn set(&mut self, fault: Fault, rate: u32) {
        self.0[fault as usize] = rate;
    }
}

/// How often each fault did happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally([u64; Fault::ALL.len()]);

impl Default for Tally {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl Tally {
    /// All together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Each with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        Fault::ALL.iter().map(|fault| (*fault, self[*fault]))
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Tally) {
        self.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(count, more)| *count += more);
    }
}

impl Index<Fault> for Tally {
    type Output = u64;

    fn index(&self, fault: Fault) -> &u64 {
        &self.0[fault as usize]
    }
}

impl IndexMut<Fault> for Tally {
    fn index_mut(&mut self, fault: Fault) -> &mut u64 {
        &mut self.0[fault as usize]
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
