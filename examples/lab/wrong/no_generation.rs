//! w5: no generation in the token.

mod right;
mod wrong;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::subject::Subject;
use super::{Finding, Setting, Wrong};

pub(super) const WRONG: Wrong = Wrong {
    name: "w5",
    folder: "no_generation",
    title: "a token that is a slot and nothing else: what comes late for one connection hits the next owner of its slot",
    detector: "Ask for something that comes later, leave, let another connect into the slot, and let it come now: nobody may get it.",
    sources: [
        include_str!("no_generation/wrong.rs"),
        include_str!("no_generation/right.rs"),
    ],
    serve: [wrong::serve, right::serve],
    setting: Setting::Ordinary,
    counter: None,
    detect,
};

fn detect(subject: &mut Subject) -> io::Result<Finding> {
    let (mut worker, mut first) = (subject.connect()?, subject.connect()?);
    subject.go()?;
    ask(&mut worker, b".")?;
    ask(&mut first, b"?.")?; // a job, and a sign that it was taken
    first.shutdown(Shutdown::Write)?;
    first.read_to_end(&mut Vec::new())?; // the server has let it go, too
    let mut second = subject.connect()?;
    ask(&mut second, b".")?;
    ask(&mut worker, b"!.")?; // the job is done
    let got = ask(&mut second, b".")?;
    let seen = if got == b'=' {
        "gets the answer to a job of the one who left"
    } else {
        "gets its own answer only"
    };
    Ok(Finding {
        caught: got != b'.',
        seen: format!("a client that connects after another has left {seen}"),
    })
}

/// Sends these bytes, and returns the next one that comes.
fn ask(client: &mut TcpStream, bytes: &[u8]) -> io::Result<u8> {
    client.write_all(bytes)?;
    let mut byte = [0];
    client.read_exact(&mut byte)?;
    Ok(byte[0])
}
