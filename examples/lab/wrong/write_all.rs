//! w2: `write_all` on a non-blocking socket.

mod right;
mod wrong;

use std::io::{self, Read, Write};
use std::net::Shutdown;

use glassloop::submit::Ack;

use super::subject::{Subject, submits, unread_by};
use super::{Finding, Setting, Wrong};
use crate::linux::tools::{name_of, thousands, wait_for};

pub(super) const WRONG: Wrong = Wrong {
    name: "w2",
    folder: "write_all",
    title: "write_all on a non-blocking socket: at EAGAIN it gives up, and does not say how much went out",
    detector: "Let a client ask for more than the buffers hold and read only then: every answer must come.",
    sources: [
        include_str!("write_all/wrong.rs"),
        include_str!("write_all/right.rs"),
    ],
    serve: [wrong::serve, right::serve],
    setting: Setting::SmallBuffers,
    counter: None,
    detect,
};

fn detect(subject: &mut Subject) -> io::Result<Finding> {
    const ASKED: usize = 3000;
    let mut client = subject.connect()?;
    subject.go()?;
    let _ = client.write_all(&submits(ASKED)); // a server that gives up resets
    let _ = client.shutdown(Shutdown::Write);
    wait_for(|| unread_by(&client).is_ok_and(|bytes| bytes > 0));
    subject.sleeps()?; // it has written what it could
    let mut answers = Vec::new();
    let end = client
        .read_to_end(&mut answers)
        .map_or_else(|error| name_of(&error), |_| "the end".into());
    let [came, all] = [answers.len(), ASKED * Ack::LEN].map(thousands);
    Ok(Finding {
        caught: answers.len() < ASKED * Ack::LEN,
        seen: format!("a client that reads late gets {came} of {all} bytes, then {end}"),
    })
}
