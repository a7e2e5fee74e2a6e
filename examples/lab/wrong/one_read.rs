//! w1: one read for each event.

mod right;
mod wrong;

use std::io::{self, Write};

use glassloop::submit::Ack;

use super::subject::{Subject, nothing_is_under_way, submits, unread_by};
use super::{Finding, Setting, Wrong};
use crate::linux::tools::thousands;

pub(super) const WRONG: Wrong = Wrong {
    name: "w1",
    folder: "one_read",
    title: "one read for each event, edge-triggered: of what is left, no event tells",
    detector: "Send more at once than the buffer holds, wait until the loop sleeps, and look whether bytes lie unread in its socket.",
    sources: [
        include_str!("one_read/wrong.rs"),
        include_str!("one_read/right.rs"),
    ],
    serve: [wrong::serve, right::serve],
    setting: Setting::Ordinary,
    counter: None,
    detect,
};

fn detect(subject: &mut Subject) -> io::Result<Finding> {
    const ASKED: usize = 1000;
    let (mut client, requests) = (subject.connect()?, submits(ASKED));
    client.write_all(&requests)?;
    subject.await_unread(&client, requests.len())?; // all of it is one event
    subject.go()?;
    subject.sleeps()?;
    nothing_is_under_way(&client)?;
    let (unread, answered) = (subject.unread(&client)?, unread_by(&client)? / Ack::LEN);
    let [asked, came, left] = [ASKED, answered, unread].map(thousands);
    let seen = format!(
        "{asked} requests in one write: {came} are answered, and {left} bytes lie unread while the loop sleeps"
    );
    Ok(Finding {
        caught: unread > 0 || answered < ASKED,
        seen,
    })
}
