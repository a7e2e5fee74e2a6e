//! w6: no limit to what waits to be written.

mod right;
mod wrong;

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::AtomicUsize;
use std::thread;

use glassloop::submit::{Ack, Request};

use super::subject::{BETWEEN_LOOKS, LOOKS, Subject, submits};
use super::{Finding, Setting, Wrong};
use crate::linux::tools::thousands;

pub(super) const WRONG: Wrong = Wrong {
    name: "w6",
    folder: "no_limit",
    title: "no limit to what waits to be written: a client that asks and does not read takes the memory that it likes",
    detector: "Ask without reading, as long as it is let: the client must be made to wait, and what is queued for it must stay small.",
    sources: [
        include_str!("no_limit/wrong.rs"),
        include_str!("no_limit/right.rs"),
    ],
    serve: [wrong::serve, right::serve],
    setting: Setting::SmallBuffers,
    counter: Some(&QUEUED),
    detect,
};

/// The most that was ever queued for a client.
static QUEUED: AtomicUsize = AtomicUsize::new(0);

fn detect(subject: &mut Subject) -> io::Result<Finding> {
    const REASONABLE: usize = 64 * 1024;
    let (mut client, requests) = (subject.connect()?, submits(30_000));
    subject.go()?;
    client.set_nonblocking(true)?;
    let (mut sent, mut refused) = (0, 0);
    while sent < requests.len() && refused < LOOKS {
        match client.write(&requests[sent..]) {
            Ok(count) => (sent, refused) = (sent + count, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused = if subject.is_asleep() { refused + 1 } else { 0 };
                if refused == LOOKS && subject.unread(&client)? == 0 {
                    refused = 0; // it would read, only nothing has come
                }
                thread::sleep(BETWEEN_LOOKS);
            }
            Err(error) => return Err(error),
        }
    }
    let queued = subject.count()?;
    // Who has a limit must come back to what he left.
    client.set_nonblocking(false)?;
    client.shutdown(Shutdown::Write)?;
    let answers = client.read_to_end(&mut Vec::new())?;
    let complete = answers == sent / Request::HEADER * Ack::LEN;
    let [all, took, waited] = [requests.len(), sent, queued].map(thousands);
    let then = if complete {
        "all came when it read"
    } else {
        "not all came when it read"
    };
    let seen = format!(
        "of {all} bytes of requests from a client that does not read, {took} could be sent; {waited} bytes of answers waited for it; {then}"
    );
    Ok(Finding {
        caught: queued > REASONABLE || !complete,
        seen,
    })
}
