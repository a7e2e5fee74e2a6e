//! Checks the end of every client: whether the reason is expected, and whether all guaranteed
//! messages arrived.

use glassloop::Stop;
use glassloop::sim::{Blame, Peer};

use crate::client::Client;
use crate::delivery::HANDLER;
use crate::invariants::{InvariantChecker, Tracked};
use crate::plan::{Behavior, Scenario, Workload};
use crate::record::Record;

/// What the checks at the end compare.
pub(crate) struct Verifier<'a> {
    pub scenario: &'a Scenario,
    pub record: &'a Record,
    pub checker: &'a InvariantChecker,
    /// True if the loop was told to stop, and has stopped.
    pub stopped: bool,
}

/// The results of the checks.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub violations: Vec<String>,
    pub lost: u64,
    pub stuck: u64,
}

impl Verifier<'_> {
    pub(crate) fn verify(&self, clients: &[Client]) -> Findings {
        let mut findings = Findings::default();
        for client in clients {
            let (Some(peer), Some(addr)) = (&client.peer, &client.addr) else {
                continue;
            };
            let before = findings.violations.len();
            match self.checker.of(addr) {
                Some(tracked) if tracked.close_reason.is_some() => {
                    self.verify_end(client, peer, tracked, &mut findings);
                }
                Some(_) if !self.stopped => {
                    findings.stuck += 1;
                    findings
                        .violations
                        .push(format!("stuck: never closed, {:?}", peer.state()));
                }
                _ => {}
            }
            for violation in &mut findings.violations[before..] {
                *violation = format!("{client}: {violation}");
            }
        }
        findings
    }

    fn verify_end(&self, client: &Client, peer: &Peer, tracked: &Tracked, findings: &mut Findings) {
        let reason = tracked.close_reason.expect("the connection is closed");
        if !self.is_expected(reason, client, peer) {
            findings.violations.push(format!(
                "closed as {reason} without a cause (blame {:?}, sending done: {})",
                peer.blame(),
                client.sending_done
            ));
        }
        if peer.blame() == Some(Blame::Loop)
            && !may_reset(reason)
            && !tracked.timed_out
            && self.record.stopped.is_none()
        {
            findings
                .violations
                .push(format!("reset by the loop after {reason}"));
        }
        if peer.blame().is_some() || self.drops_queue(reason) || client.ignores_end() {
            return; // nothing is guaranteed
        }
        let (client, delivery) = (client.plan.number as u32, &self.record.delivery);
        let mut report_lost = |count: u32, what: &str| {
            if count > 0 {
                findings.lost += u64::from(count);
                findings
                    .violations
                    .push(format!("{count} {what} lost; closed as {reason}"));
            }
        };
        // An answer for a client that is already closing is not guaranteed. A relay has forwarded
        // all answers only if it recorded so, and closed the client itself.
        if self.scenario.workload != Workload::Relay
            || (self.record.relayed.contains(&client) && reason == "handler")
        {
            report_lost(delivery.missing(client, client), "of its answers are");
        }
        if reason == "peer_closed" {
            report_lost(delivery.missing(HANDLER, client), "of its requests are");
            for (_, from) in self
                .record
                .guaranteed
                .iter()
                .filter(|(to, _)| *to == client)
            {
                report_lost(
                    delivery.missing(client, *from),
                    &format!("messages of {from} are"),
                );
            }
        }
    }

    /// True if something happened that closes a connection with this reason.
    fn is_expected(&self, reason: &str, client: &Client, peer: &Peer) -> bool {
        let (behavior, config) = (client.plan.behavior, &self.scenario.config);
        let number = client.plan.number as u32;
        match reason {
            "peer_closed" => {
                client.sending_done
                    && !matches!(
                        behavior,
                        Behavior::Truncates | Behavior::Stalls | Behavior::SendsGarbage
                    )
            }
            "truncated" => {
                matches!(
                    behavior,
                    Behavior::Truncates
                        | Behavior::Stalls
                        | Behavior::SendsGarbage
                        | Behavior::ClosesEarly
                ) || peer.blame().is_some()
            }
            "reset" => matches!(peer.blame(), Some(Blame::Peer | Blame::Net)),
            "io" => matches!(peer.blame(), Some(Blame::Peer | Blame::Net)),
            "protocol" => behavior == Behavior::SendsGarbage,
            "shutdown" => self.record.stopped.is_some(),
            // Two connections that a relay made to itself can block each other: one is closing, its
            // queue is full and not read.
            "drain_timeout" => {
                !self.scenario.no_timeouts
                    || self.record.stopped.is_some()
                    || self.scenario.workload == Workload::Relay
            }
            "idle_timeout" => config.idle_timeout.is_some(),
            "frame_timeout" => config.frame_timeout.is_some(),
            "handshake_timeout" => config.handshake_timeout.is_some(),
            "write_timeout" => config.write_timeout.is_some(),
            "overload" => config.buffered_high < usize::MAX,
            "outbox_full" => {
                self.scenario.workload == Workload::Relay
                    || self.record.guaranteed.iter().any(|(to, _)| *to == number)
            }
            "handler" if self.scenario.workload == Workload::Relay => true,
            other => self
                .record
                .expected_closes
                .iter()
                .any(|(client, reason)| *client == number && *reason == other),
        }
    }

    /// True if a connection that closes with this reason drops its queue.
    fn drops_queue(&self, reason: &str) -> bool {
        let at_once = reason == "shutdown" && self.record.stopped == Some(Stop::AtOnce);
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

/// True if the loop may reset a connection that closes with this reason, because it does not
/// linger.
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
