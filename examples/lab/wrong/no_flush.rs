//! w7: a buffer that is written when it is full.

mod right;
mod wrong;

use std::io::{self, Write};

use super::subject::{Subject, nothing_is_under_way, submits, unread_by};
use super::{Finding, Setting, Wrong};
use crate::linux::tools::thousands;

pub(super) const WRONG: Wrong = Wrong {
    name: "w7",
    folder: "no_flush",
    title: "answers that are written when 4,096 bytes are together (the lesson's demo3, with its bufio.NewWriter): who waits for one waits for ever",
    detector: "Ask once and wait for the answer before asking again: the loop must not sleep on an answer.",
    sources: [
        include_str!("no_flush/wrong.rs"),
        include_str!("no_flush/right.rs"),
    ],
    serve: [wrong::serve, right::serve],
    setting: Setting::Ordinary,
    counter: None,
    detect,
};

fn detect(subject: &mut Subject) -> io::Result<Finding> {
    let mut client = subject.connect()?;
    subject.go()?;
    let (mut asked, mut came) = (0, 0);
    // Once; and as often as still fits into 4,096 bytes, which is 292 times 14; and once more.
    for enough in [1, 292, 293] {
        client.write_all(&submits(enough - asked))?;
        asked = enough;
        subject.sleeps()?;
        if unread_by(&client)? == 0 {
            nothing_is_under_way(&client)?; // it has come, and the loop sleeps: nobody will answer
        }
        came = unread_by(&client)?;
        if came > 0 {
            break;
        }
    }
    let bytes = thousands(came);
    let seen = match asked {
        1 => format!("a client that waits for its answer gets it, in {bytes} bytes"),
        _ => format!(
            "a client that waits for its answer gets none; the first comes to who asks {asked} times, {bytes} bytes at once"
        ),
    };
    Ok(Finding {
        caught: asked > 1,
        seen,
    })
}
