//! The detectors: what each mistake looks like from outside.

use glassloop::submit::{Ack, Request};

use super::Finding;
use super::subject::{BETWEEN_LOOKS, LOOKS, Subject, nothing_is_in_flight, submits, unread_by};
use crate::linux::prelude::*;

pub(super) fn one_read(subject: &mut Subject) -> io::Result<Finding> {
    const ASKED: usize = 1000;
    let (mut client, requests) = (subject.connect()?, submits(ASKED));
    client.write_all(&requests)?;
    subject.await_unread(&client, requests.len())?; // all of it is one event
    subject.go()?;
    subject.sleeps()?;
    nothing_is_in_flight(&client)?;
    let (unread, answered) = (subject.unread(&client)?, unread_by(&client)? / Ack::LEN);
    let [asked, came, left] = [ASKED, answered, unread].map(thousands);
    Ok(Finding {
        caught: unread > 0 || answered < ASKED,
        seen: format!(
            "{asked} requests in one write: {came} are answered, and {left} bytes lie unread while \
             the loop sleeps"
        ),
    })
}

pub(super) fn write_all(subject: &mut Subject) -> io::Result<Finding> {
    const ASKED: usize = 3000;
    let mut client = subject.connect()?;
    subject.go()?;
    let _ = client.write_all(&submits(ASKED)); // a server that gives up sends a reset
    let _ = client.shutdown(Shutdown::Write);
    wait_for(|| unread_by(&client).is_ok_and(|bytes| bytes > 0));
    subject.sleeps()?; // it has written what it could
    let mut replies = Vec::new();
    let end = client.read_to_end(&mut replies);
    let end = end.map_or_else(|error| name_of(&error), |_| "the end".into());
    let [came, all] = [replies.len(), ASKED * Ack::LEN].map(thousands);
    Ok(Finding {
        caught: replies.len() < ASKED * Ack::LEN,
        seen: format!("a client that reads late gets {came} of {all} bytes, then {end}"),
    })
}

pub(super) fn eof_drops(subject: &mut Subject) -> io::Result<Finding> {
    const ASKED: usize = 3;
    let (mut client, requests) = (subject.connect()?, submits(ASKED));
    client.write_all(&requests)?;
    client.shutdown(Shutdown::Write)?;
    subject.await_unread(&client, requests.len() + 1)?; // the end counts as one
    subject.go()?;
    let mut replies = Vec::new();
    let _ = client.read_to_end(&mut replies); // an error is an end, too
    let acks = replies.len() / Ack::LEN;
    Ok(Finding {
        caught: acks < ASKED,
        seen: format!(
            "a client that asks {ASKED} times, ends its sending and waits gets {acks} replies"
        ),
    })
}

pub(super) fn always_out(subject: &mut Subject) -> io::Result<Finding> {
    let mut client = subject.connect()?;
    subject.go()?;
    client.write_all(&submits(1))?;
    client.read_exact(&mut [0; Ack::LEN])?;
    let spins = subject.spins("wake-ups")?;
    Ok(Finding {
        caught: spins.is_some(),
        seen: format!(
            "one client, answered and silent: {}",
            spins.unwrap_or("no wake-up".into())
        ),
    })
}

pub(super) fn no_generation(subject: &mut Subject) -> io::Result<Finding> {
    /// Sends these bytes, and returns the next one that comes.
    fn ask(client: &mut TcpStream, bytes: &[u8]) -> io::Result<u8> {
        client.write_all(bytes)?;
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        Ok(byte[0])
    }
    let (mut worker, mut first) = (subject.connect()?, subject.connect()?);
    subject.go()?;
    ask(&mut worker, b".")?;
    ask(&mut first, b"?.")?; // a job, and a sign that it was taken
    first.shutdown(Shutdown::Write)?;
    first.read_to_end(&mut Vec::new())?; // the server has closed it, too
    let mut second = subject.connect()?;
    ask(&mut second, b".")?;
    ask(&mut worker, b"!.")?; // the job is done
    let got = ask(&mut second, b".")?;
    let seen = match got {
        b'=' => "the answer to a job of the closed one",
        _ => "its own answer only",
    };
    Ok(Finding {
        caught: got != b'.',
        seen: format!("a client that connects after another has closed gets {seen}"),
    })
}

pub(super) fn no_limit(subject: &mut Subject) -> io::Result<Finding> {
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
                    refused = 0; // it would read, but nothing has come
                }
                thread::sleep(BETWEEN_LOOKS);
            }
            Err(error) => return Err(error),
        }
    }
    let queued = subject.count()?;
    // A server with a limit must come back to what it left.
    client.set_nonblocking(false)?;
    client.shutdown(Shutdown::Write)?;
    let replies = client.read_to_end(&mut Vec::new())?;
    let complete = replies == sent / Request::HEADER * Ack::LEN;
    let [all, took, waited] = [requests.len(), sent, queued].map(thousands);
    let then = if complete { "all" } else { "not all" };
    Ok(Finding {
        caught: queued > REASONABLE || !complete,
        seen: format!(
            "of {all} bytes of requests from a client that does not read, {took} could be sent; \
             {waited} bytes of replies waited for it; {then} came when it read"
        ),
    })
}

pub(super) fn no_flush(subject: &mut Subject) -> io::Result<Finding> {
    let mut client = subject.connect()?;
    subject.go()?;
    let (mut asked, mut came) = (0, 0);
    // Once; as often as still fits into 4,096 bytes, which is 292 times 14; and once more.
    for enough in [1, 292, 293] {
        client.write_all(&submits(enough - asked))?;
        asked = enough;
        subject.sleeps()?;
        if unread_by(&client)? == 0 {
            nothing_is_in_flight(&client)?; // it has come, and the loop sleeps: no reply follows
        }
        came = unread_by(&client)?;
        if came > 0 {
            break;
        }
    }
    let bytes = thousands(came);
    let seen = match asked {
        1 => format!("a client that waits for its reply gets it, in {bytes} bytes"),
        _ => format!(
            "a client that waits for its reply gets none; the first comes after {asked} requests, \
             {bytes} bytes at once"
        ),
    };
    Ok(Finding {
        caught: asked > 1,
        seen,
    })
}

pub(super) fn accept_spin(subject: &mut Subject) -> io::Result<Finding> {
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
    let spins = subject.spins("failed accepts")?;
    let (caught, clients) = (spins.is_some(), served.len());
    drop(served);
    let accepted = waiting.read_exact(&mut [0; Ack::LEN]).is_ok();
    let (fails, then) = (
        spins.unwrap_or("a pause".into()),
        if accepted { "then" } else { "never" },
    );
    Ok(Finding {
        caught: caught || !accepted,
        seen: format!(
            "{clients} clients served, one waiting: {fails}, {then} accepted when they closed"
        ),
    })
}
