//! w4: interest in writing, always, level-triggered.

mod right;
mod wrong;

use std::io::{self, Read, Write};
use std::sync::atomic::AtomicUsize;

use glassloop::submit::Ack;

use super::subject::{Subject, submits};
use super::{Finding, Setting, Wrong};
use crate::linux::tools::thousands;

pub(super) const WRONG: Wrong = Wrong {
    name: "w4",
    folder: "always_out",
    title: "interest in writing all the time, level-triggered: a socket with room is ready, always",
    detector: "Let a client be served and fall silent: from then on the loop sleeps, or it counts wake-ups with nothing to do.",
    sources: [
        include_str!("always_out/wrong.rs"),
        include_str!("always_out/right.rs"),
    ],
    serve: [wrong::serve, right::serve],
    setting: Setting::Ordinary,
    counter: Some(&WAKE_UPS),
    detect,
};

static WAKE_UPS: AtomicUsize = AtomicUsize::new(0);

fn detect(subject: &mut Subject) -> io::Result<Finding> {
    let mut client = subject.connect()?;
    subject.go()?;
    client.write_all(&submits(1))?;
    client.read_exact(&mut [0; Ack::LEN])?;
    let spins = subject.spins()?;
    let wakes = spins.map_or("no wake-up".into(), |(count, took)| {
        format!(
            "{} wake-ups in {:.0} ms",
            thousands(count),
            took.as_secs_f64() * 1e3
        )
    });
    Ok(Finding {
        caught: spins.is_some(),
        seen: format!("one client, answered and silent: {wakes}"),
    })
}
