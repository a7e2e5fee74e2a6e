//! w8: accept, again and again, with no descriptor left.

mod right;
mod wrong;

use std::io::{self, Read, Write};
use std::sync::atomic::AtomicUsize;

use glassloop::submit::Ack;

use super::subject::{Subject, submits, unread_by};
use super::{Finding, Setting, Wrong};
use crate::linux::tools::{thousands, wait_for};

pub(super) const WRONG: Wrong = Wrong {
    name: "w8",
    folder: "accept_spin",
    title: "accept at EMFILE: who waits in the queue keeps the listener ready, and nobody can be let in",
    detector: "Connect more clients than there are descriptors: the loop must sleep with one waiting, and serve that one when another leaves.",
    sources: [
        include_str!("accept_spin/wrong.rs"),
        include_str!("accept_spin/right.rs"),
    ],
    serve: [wrong::serve, right::serve],
    setting: Setting::FewDescriptors,
    counter: Some(&FAILED),
    detect,
};

static FAILED: AtomicUsize = AtomicUsize::new(0);

fn detect(subject: &mut Subject) -> io::Result<Finding> {
    subject.go()?;
    let mut served = Vec::new();
    let mut waiting = loop {
        let mut client = subject.connect()?;
        client.write_all(&submits(1))?;
        let mut failed = 0;
        // Either it is answered, or accept fails.
        wait_for(|| {
            failed = subject.count().unwrap_or(0);
            failed > 0 || unread_by(&client).is_ok_and(|bytes| bytes == Ack::LEN)
        });
        if failed > 0 {
            break client;
        }
        served.push(client);
    };
    let spins = subject.spins()?;
    let clients = served.len();
    drop(served);
    let let_in = waiting.read_exact(&mut [0; Ack::LEN]).is_ok();
    let fails = spins.map_or("a pause".into(), |(count, took)| {
        format!(
            "{} failed accepts in {:.0} ms",
            thousands(count),
            took.as_secs_f64() * 1e3
        )
    });
    let after = if let_in {
        "then let in"
    } else {
        "never let in"
    };
    Ok(Finding {
        caught: spins.is_some() || !let_in,
        seen: format!("{clients} clients served, one waiting: {fails}, {after} when they left"),
    })
}
