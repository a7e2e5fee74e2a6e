//! Writing to a socket: C49 to C57. Blocked writes are in `write_blocks.rs`, deadlines in
//! `write_deadlines.rs`.

use super::prelude::*;
use glassloop::Flush;
use glassloop::internals::{Readiness, flush};

use super::parts::Part;
use super::write_blocks::{c51, c52, c53, c54, reader};
use super::write_deadlines::{c55, c56};

pub(crate) const PARTS: &[(&str, Part)] = &[("reader", reader)];

pub(crate) const RUNS: &[(&str, Run)] = &[
    ("C49", c49),
    ("C50", c50),
    ("C51", c51),
    ("C52", c52),
    ("C53", c53),
    ("C54", c54),
    ("C55", c55),
    ("C56", c56),
    ("C57", c57),
];

fn c49(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    let written = client.write(b"hello")?;
    let arrived = server.read(&mut [0; 10])?;
    let much = vec![0; 16 << 20];
    client.set_nonblocking(true)?;
    let short = client.write(&much)?;
    let all = client.write_all(&much);
    let all = all.map_or_else(|error| name_of(&error), |()| "ok".into());
    let as_known =
        (written, arrived) == (5, 5) && short > 0 && short < much.len() && all == "EAGAIN";
    Verdict::reproduced_if(as_known).measured(values![written, arrived, short, all])
}

fn c50(_: Lab) -> io::Result<Outcome> {
    let (client, server) = pair()?;
    let (took, written) = timed(|| (&client).write(b"x"));
    let written = written?;
    let acknowledged = has_come(&server, 1)
        && wait_for(|| queues_of(&client).is_ok_and(|queues| queues.sending == 0));
    (&server).write_all(b"abc")?;
    let apart = has_come(&client, 3) && has_come(&server, 1);
    drop(server); // it has read nothing
    let mut buffer = [0; 10];
    let after = loop {
        match (&client).read(&mut buffer) {
            Ok(0) => break "the end".to_string(),
            Ok(_) => {}
            Err(error) => break name_of(&error),
        }
    };
    let as_known = written == 1 && acknowledged && apart && after == "ECONNRESET";
    Verdict::reproduced_if(as_known).measured(values![written, took, acknowledged, apart, after])
}

/// A stream that takes some bytes, takes none, or breaks, at random.
struct Random {
    dice: fastrand::Rng,
    taken: Vec<u8>,
    broken: bool,
}

impl Write for Random {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.broken |= self.dice.u8(..) == 0;
        match self.dice.u8(..10) {
            _ if self.broken => Err(ErrorKind::ConnectionReset.into()),
            0 => Err(ErrorKind::Interrupted.into()),
            1 | 2 => Err(ErrorKind::WouldBlock.into()),
            _ => {
                let count = self.dice.usize(1..=bytes.len());
                self.taken.extend_from_slice(&bytes[..count]);
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Continues after the bytes that were taken, with the crate's own transport. Returns their number.
fn careful(message: &[u8], stream: &mut Random) -> usize {
    let mut sent = 0;
    while sent < message.len() {
        match flush(stream, &message[sent..], &mut Readiness::default()) {
            Flush::Bytes(count) => sent += count,
            Flush::Blocked => {} // a loop would wait for an event
            Flush::Failed(_) => break,
        }
    }
    sent
}

/// Checks the error, and not n.
fn hasty(message: &[u8], stream: &mut Random) {
    for part in message.chunks(100) {
        while let Err(error) = stream.write(part) {
            if error.kind() == ErrorKind::ConnectionReset {
                return;
            }
        }
    }
}

fn c57(_: Lab) -> io::Result<Outcome> {
    const MESSAGES: u64 = 2000;
    let (mut whole, mut broken, mut wrong, mut wrong_if_hasty) = (0, 0, 0, 0);
    for seed in 0..MESSAGES {
        let mut dice = fastrand::Rng::with_seed(seed);
        let message: Vec<u8> = (0..dice.usize(1..2000)).map(|_| dice.u8(..)).collect();
        let stream = || Random {
            dice: fastrand::Rng::with_seed(!seed),
            taken: Vec::new(),
            broken: false,
        };
        let mut random = stream();
        let sent = careful(&message, &mut random);
        whole += u64::from(sent == message.len());
        broken += u64::from(random.broken);
        wrong += u64::from(random.taken != message[..sent]);
        let mut random = stream();
        hasty(&message, &mut random);
        wrong_if_hasty += u64::from(!message.starts_with(&random.taken));
    }
    let all_ends = whole > 0 && broken > 0 && whole + broken >= MESSAGES;
    let holds = wrong == 0 && all_ends && wrong_if_hasty > 0;
    let values = values![messages = MESSAGES, broken, whole, wrong, wrong_if_hasty];
    Verdict::reproduced_if(holds).measured(values)
}
