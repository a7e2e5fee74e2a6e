//! The faults that the simulator injects, their rates, and how often each has happened.

use std::fmt;
use std::ops::{Index, IndexMut};

use super::Rng;

/// Defines the enum, the list of all faults in order, and their names.
macro_rules! faults {
    ($($(#[$doc:meta])* $kind:ident $name:literal $max:literal,)*) => {
        /// A fault of the simulated network or operating system. What peers do to the loop is up to
        /// the test.
        ///
        /// An operating system may do each of them to a program, however seldom it does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Fault { $($(#[$doc])* $kind,)* }

        impl Fault {
            /// All faults, in order.
            pub const ALL: &'static [Fault] = &[$(Fault::$kind),*];

            /// A short constant name, for tables and command lines.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$kind => $name,)* }
            }

            /// The highest rate that is drawn, per million. Faults that end connections have a low
            /// one, so that some connections live long.
            fn max_rate(self) -> u32 {
                match self { $(Fault::$kind => $max,)* }
            }
        }
    };
}

faults! {
    /// A read returns fewer bytes than have arrived, where the poller's contract allows it.
    ShortRead "short_read" 1_000_000,
    /// A write accepts fewer bytes than there is room for.
    ShortWrite "short_write" 1_000_000,
    /// A read returns `WouldBlock` although bytes have arrived; an event reports them later.
    ReadBlocked "read_blocked" 500_000,
    /// A write returns `WouldBlock` although there is room; an event reports it later.
    WriteBlocked "write_blocked" 500_000,
    /// A signal interrupts a read.
    ReadInterrupted "read_interrupted" 500_000,
    /// A signal interrupts a write.
    WriteInterrupted "write_interrupted" 500_000,
    /// A signal interrupts an accept.
    AcceptInterrupted "accept_interrupted" 500_000,
    /// A signal interrupts a poll: it returns early, with no events.
    PollInterrupted "poll_interrupted" 500_000,
    /// A read fails with an error other than a reset. The connection is broken.
    ReadFailed "read_failed" 1_000,
    /// A write fails. The connection is broken.
    WriteFailed "write_failed" 1_000,
    /// A write returns `Ok(0)`.
    WriteZero "write_zero" 500,
    /// The network resets a connection.
    ResetInTransit "reset_in_transit" 500,
    /// A reset discards what has arrived and was not read.
    ResetPurges "reset_purges" 1_000_000,
    /// The peer's FIN arrives with its last bytes, in one event.
    EndWithData "end_with_data" 1_000_000,
    /// An event without cause.
    SpuriousEvent "spurious_event" 300_000,
    /// An event for a registration that has ended.
    StaleEvent "stale_event" 300_000,
    /// No event for what happened before a read or an accept returned `WouldBlock`.
    EdgeWithheld "edge_withheld" 1_000_000,
    /// The poller reports one of several events.
    BatchOfOne "batch_of_one" 1_000_000,
    /// The poller reports events out of order.
    BatchShuffled "batch_shuffled" 1_000_000,
    /// An event lacks hints beyond readable and writable, where the poller's contract allows it.
    HintWithheld "hint_withheld" 1_000_000,
    /// An event reports all current readiness, not only what is new.
    FullEvent "full_event" 1_000_000,
    /// The poller wakes late, at the next step of a coarse clock, so that many deadlines expire
    /// together.
    LateWake "late_wake" 1_000_000,
    /// The loop does not run for up to 200 seconds.
    TimeJump "time_jump" 5_000,
    /// A waker event without a wake-up.
    SpuriousWake "spurious_wake" 200_000,
    /// A connection ends before it is accepted, and the accept fails (`ECONNABORTED`, `EPROTO`).
    AcceptAborted "accept_aborted" 50_000,
    /// An accept finds no free file descriptor (`EMFILE`, `ENFILE`).
    AcceptNoDescriptor "accept_no_descriptor" 500_000,
    /// An accept finds no free memory (`ENOBUFS`, `ENOMEM`).
    AcceptNoMemory "accept_no_memory" 500_000,
    /// An accept fails because of the listener (`EINVAL`).
    AcceptFailed "accept_failed" 300_000,
    /// A peer resets its connection before it is accepted; the accept succeeds.
    ResetBeforeAccept "reset_before_accept" 50_000,
    /// A listener's backlog is full. The SYN is dropped, and sent again after a second.
    BacklogFull "backlog_full" 300_000,
    /// A registration fails (`ENOSPC`, `ENOMEM`).
    RegisterFailed "register_failed" 50_000,
    /// A deregistration fails.
    DeregisterFailed "deregister_failed" 300_000,
    /// A dial is refused.
    DialRefused "dial_refused" 200_000,
    /// A dial fails at once (`ENETUNREACH`, `EADDRNOTAVAIL`).
    DialImpossible "dial_impossible" 200_000,
    /// A dial is never answered.
    DialUnanswered "dial_unanswered" 100_000,
    /// A dial connects to itself: its own port was the one it dialed.
    DialMeetsItself "dial_meets_itself" 200_000,
    /// A dial is reported writable before it is decided.
    DialEarlyEvent "dial_early_event" 1_000_000,
    /// The path of a connection carries nothing for up to 5 seconds.
    Clogged "clogged" 20_000,
    /// A peer sends a byte of urgent data.
    Urgent "urgent" 10_000,
    /// The process is stopped in the poller and continued much later: the poll is interrupted, and
    /// reports nothing of what arrived meanwhile.
    Stopped "stopped" 20_000,
}

/// The rate of each fault, per million occasions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults([u32; Fault::ALL.len()]);

impl Faults {
    /// All rates zero.
    pub fn none() -> Self {
        Self([0; Fault::ALL.len()])
    }

    /// Draws rates: 60% of the faults never happen, the others at up to their highest rate, at
    /// least a thousandth of it. So some seeds have one kind of fault and others many, and an
    /// effect that one fault hides shows in a seed without that fault.
    pub fn random(rng: &mut Rng) -> Self {
        let mut faults = Self::none();
        for fault in Fault::ALL {
            // Each fault draws the same number of times, so that its rate does not depend on the
            // others.
            let (drawn, rate) = (
                rng.below(100),
                rng.magnitude(fault.max_rate() as usize / 1000, fault.max_rate() as usize),
            );
            if drawn < 40 {
                faults.set(*fault, rate as u32);
            }
        }
        faults
    }

    /// The rate of `fault`, per million occasions.
    pub fn rate(&self, fault: Fault) -> u32 {
        self.0[fault as usize]
    }

    /// Sets the rate of `fault`, per million occasions.
    pub fn set(&mut self, fault: Fault, rate: u32) {
        self.0[fault as usize] = rate;
    }
}

/// How often each fault has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl FaultCounts {
    /// The sum of all counts.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Each fault with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        Fault::ALL.iter().map(|fault| (*fault, self[*fault]))
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &FaultCounts) {
        self.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(count, more)| *count += more);
    }
}

impl Index<Fault> for FaultCounts {
    type Output = u64;

    fn index(&self, fault: Fault) -> &u64 {
        &self.0[fault as usize]
    }
}

impl IndexMut<Fault> for FaultCounts {
    fn index_mut(&mut self, fault: Fault) -> &mut u64 {
        &mut self.0[fault as usize]
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
