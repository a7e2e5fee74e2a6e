//! w3: replies are dropped at the end of the input.

mod right;
mod wrong;

use std::io::{self, Read, Write};
use std::net::Shutdown;

use glassloop::submit::Ack;

use super::subject::{Subject, submits};
use super::{Finding, Setting, Wrong};

pub(super) const WRONG: Wrong = Wrong {
    name: "w3",
    folder: "eof_drops",
    title: "replies dropped at the end of the input: who has sent all is taken for one who has left",
    detector: "Send requests, shut the sending side down, and only then let the server read: every answer must come before the end.",
    sources: [
        include_str!("eof_drops/wrong.rs"),
        include_str!("eof_drops/right.rs"),
    ],
    serve: [wrong::serve, right::serve],
    setting: Setting::Ordinary,
    counter: None,
    detect,
};

fn detect(subject: &mut Subject) -> io::Result<Finding> {
    const ASKED: usize = 3;
    let (mut client, requests) = (subject.connect()?, submits(ASKED));
    client.write_all(&requests)?;
    client.shutdown(Shutdown::Write)?;
    subject.await_unread(&client, requests.len() + 1)?; // the end counts as one
    subject.go()?;
    let mut answers = Vec::new();
    let _ = client.read_to_end(&mut answers); // an error is an end, too
    let acks = answers.len() / Ack::LEN;
    Ok(Finding {
        caught: acks < ASKED,
        seen: format!(
            "a client that asks {ASKED} times, ends its sending and waits gets {acks} answers"
        ),
    })
}
