//! How it ended: for each client, whether its end was lawful, and whether what was promised to it has come.

use glassloop::Stop;
use glassloop::sim::{Blame, Peer};

use crate::guest::Guest;
use crate::ledger::Ledger;
use crate::oracle::HUB;
use crate::plan::{Drawn, Manner, Workload};
use crate::witness::{Seen, Witness};

/// All that speaks for and against the loop.
pub(crate) struct Trial<'a> {
    pub drawn: &'a Drawn,
    pub book: &'a Ledger,
    pub witness: &'a Witness,
    /// Whether the loop has stopped, as it was told.
    pub stopped: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub wrong: Vec<String>,
    pub lost: u64,
    pub stuck: u64,
}

impl Trial<'_> {
    pub(crate) fn judge(&self, guests: &[Guest]) -> Findings {
        let mut findings = Findings::default();
        for guest in guests {
            let (Some(peer), Some(addr)) = (&guest.peer, &guest.addr) else {
                continue;
            };
            let before = findings.wrong.len();
            match self.witness.of(addr) {
                Some(seen) if seen.ended.is_some() => {
                    self.judge_end(guest, peer, seen, &mut findings);
                }
                Some(_) if !self.stopped => {
                    findings.stuck += 1;
                    findings
                        .wrong
                        .push(format!("stuck: it never ended, {:?}", peer.fate()));
                }
                _ => {}
            }
            for wrong in &mut findings.wrong[before..] {
                *wrong = format!("{guest}: {wrong}");
            }
        }
        findings
    }

    fn judge_end(&self, guest: &Guest, peer: &Peer, seen: &Seen, findings: &mut Findings) {
        let reason = seen.ended.expect("it is over");
        if !self.is_lawful(reason, guest, peer) {
            findings.wrong.push(format!(
                "nothing was there to end it as {reason} (blame {:?}, over {})",
                peer.blame(),
                guest.over
            ));
        }
        if peer.blame() == Some(Blame::Loop)
            && !may_reset(reason)
            && !seen.gave_up
            && self.book.stopped.is_none()
        {
            findings
                .wrong
                .push(format!("reset by the loop after {reason}"));
        }
        if peer.blame().is_some() || self.is_abrupt(reason) || guest.stops_reading() {
            return; // nothing is promised
        }
        let (client, oracle) = (guest.plan.number as u32, &self.book.oracle);
        let mut miss = |count: u32, what: &str| {
            if count > 0 {
                findings.lost += u64::from(count);
                findings
                    .wrong
                    .push(format!("{count} {what} lost; it ended as {reason}"));
            }
        };
        // What comes for a client who is closing already is nobody's promise: a relay's answers are all there if it says so, and ends him itself.
        if self.drawn.workload != Workload::Relay
            || (self.book.done.contains(&client) && reason == "handler")
        {
            miss(oracle.missing(client, client), "of its answers are");
        }
        if reason == "peer_closed" {
            miss(oracle.missing(HUB, client), "of its requests are");
            for (_, from) in self.book.promised.iter().filter(|(to, _)| *to == client) {
                miss(
                    oracle.missing(client, *from),
                    &format!("messages of {from} are"),
                );
            }
        }
    }

    /// Whether something was there that ends a connection for this reason.
    fn is_lawful(&self, reason: &str, guest: &Guest, peer: &Peer) -> bool {
        let (manner, config) = (guest.plan.manner, &self.drawn.config);
        let client = guest.plan.number as u32;
        match reason {
            "peer_closed" => {
                guest.over
                    && !matches!(manner, Manner::Truncates | Manner::Stalls | Manner::Garbage)
            }
            "truncated" => {
                matches!(
                    manner,
                    Manner::Truncates | Manner::Stalls | Manner::Garbage | Manner::Leaves
                ) || peer.blame().is_some()
            }
            "reset" => matches!(peer.blame(), Some(Blame::Peer | Blame::Net)),
            "io" => matches!(peer.blame(), Some(Blame::Peer | Blame::Net)),
            "protocol" => manner == Manner::Garbage,
            "shutdown" => self.book.stopped.is_some(),
            // Two of a relay's own connections may wait for each other, one of them closing and full, and so not read.
            "drain_timeout" => {
                !self.drawn.unguarded
                    || self.book.stopped.is_some()
                    || self.drawn.workload == Workload::Relay
            }
            "idle_timeout" => config.idle_timeout.is_some(),
            "frame_timeout" => config.frame_timeout.is_some(),
            "handshake_timeout" => config.handshake_timeout.is_some(),
            "write_timeout" => config.write_timeout.is_some(),
            "overload" => config.buffered_high < usize::MAX,
            "outbox_full" => {
                self.drawn.workload == Workload::Relay
                    || self.book.promised.iter().any(|(to, _)| *to == client)
            }
            "handler" if self.drawn.workload == Workload::Relay => true,
            other => self
                .book
                .doomed
                .iter()
                .any(|(doomed, reason)| *doomed == client && *reason == other),
        }
    }

    /// Whether what is queued is dropped when a connection ends so.
    fn is_abrupt(&self, reason: &str) -> bool {
        let at_once = reason == "shutdown" && self.book.stopped == Some(Stop::AtOnce);
        at_once
            || matches!(
                reason,
                "aborted"
                    | "reset"
                    | "io"
                    | "overload"
                    | "write_timeout"
                    | "write_deadline"
                    | "drain_timeout"
            )
    }
}

/// Whether a connection that ends so may be reset by the loop, since nobody is waited for.
fn may_reset(reason: &str) -> bool {
    matches!(
        reason,
        "aborted"
            | "reset"
            | "io"
            | "overload"
            | "write_timeout"
            | "write_deadline"
            | "drain_timeout"
            | "frame_timeout"
            | "idle_timeout"
            | "handshake_timeout"
            | "read_deadline"
    )
}
