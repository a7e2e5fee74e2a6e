//! Write deadlines: Go's, as the loop keeps them, beside the time-out of a blocking socket. C55 and C56, whose texts are in `write.rs`.

use super::prelude::*;
use glassloop::{SendError, Verdict as Next};

use super::beside;
use super::lone::Lone;

/// How far ahead the deadlines are.
const AHEAD: Duration = Duration::from_millis(50);
/// What is written at a time: more than the buffers hold, so that a part of it must be left.
const WRITE: usize = 1 << 20;

/// Gives the loop more than the sockets to its peer can hold, and a deadline once they are full. Returns how much, when that has passed.
fn overfill(lone: &mut Lone) -> io::Result<usize> {
    let data = vec![b'x'; 32_768];
    let queued = lone.with(|cx| {
        while cx.try_send(&data[..]).is_ok() {} // to the cap, 1 MiB
        cx.pending()
    })?;
    while lone.reactor.counters().writes_blocked == 0 {
        lone.during(Duration::from_millis(1))?;
    }
    lone.with(|cx| cx.set_write_deadline(Some(cx.now() + AHEAD)))?;
    let passed = lone.until(|diary| !diary.passed.is_empty())?;
    if passed {
        Ok(queued)
    } else {
        Err(io::Error::other("the write deadline did not pass"))
    }
}

/// Writes to a peer that does not read, with a time-out for each write, until one takes nothing. Returns what each came to.
fn write_until_nothing(mut stream: &TcpStream) -> io::Result<Vec<io::Result<usize>>> {
    stream.set_write_timeout(Some(AHEAD))?;
    let (data, mut results) = (vec![b'x'; WRITE], Vec::new());
    while results.last().is_none_or(io::Result::is_ok) {
        results.push(stream.write(&data));
    }
    Ok(results)
}

/// Whether a write gave up for want of room.
fn timed_out(write: &io::Result<usize>) -> bool {
    write
        .as_ref()
        .is_err_and(|error| name_of(error) == "EAGAIN")
}

fn sum(results: &[io::Result<usize>]) -> usize {
    results
        .iter()
        .filter_map(|result| result.as_ref().ok())
        .sum()
}

pub(crate) fn c55(_: Lab) -> io::Result<Outcome> {
    let mut lone = Lone::new(|_| Next::Close)?;
    let queued = overfill(&mut lone)?;
    let reason = lone.diary().ended.clone().unwrap_or_default();
    let counters = lone.reactor.counters();
    let (sent, dropped) = (
        counters.bytes_written as usize,
        counters.bytes_dropped as usize,
    );
    let arrived = lone.read(usize::MAX)?;

    let (client, mut server) = pair_with_buffers(65_536)?;
    let results = write_until_nothing(&client)?;
    drop(client);
    let (written, came) = (sum(&results), io::copy(&mut server, &mut io::sink())?);
    let [first, .., last] = &results[..] else {
        return Err(io::Error::other("the first write took nothing"));
    };
    let took = results.iter().map(result).collect::<Vec<_>>().join(", ");
    let is_partial = first.as_ref().is_ok_and(|count| *count < WRITE);
    let in_loop = sent > 0 && dropped > 0 && sent + dropped == queued && arrived == sent;
    let as_known = in_loop && is_partial && timed_out(last) && written as u64 == came;
    let go = beside::partial_write()?;
    let verdict = Verdict::reproduced_if(as_known && go.agrees());
    Ok(go.show(Outcome::new(
        verdict,
        values![took, came, written, reason, queued, sent, dropped, arrived],
    )))
}

pub(crate) fn c56(_: Lab) -> io::Result<Outcome> {
    let mut lone = Lone::new(|_| Next::Continue)?; // it is not set anew
    let queued = overfill(&mut lone)?;
    let sent = lone.reactor.counters().bytes_written as usize;
    let arrived = lone.read(sent)?; // there is room again
    lone.during(AHEAD)?;
    let more = lone.reactor.counters().bytes_written as usize - sent;
    let refused = lone.with(|cx| match cx.try_send(&b"more"[..]) {
        Err(SendError::DeadlinePassed) => "refused: the write deadline has passed".to_string(),
        other => format!("{other:?}"),
    })?;
    lone.with(|cx| cx.set_write_deadline(None))?;
    let rest = lone.read(queued - sent)?;

    let (client, server) = pair_with_buffers(65_536)?;
    let results = write_until_nothing(&client)?;
    drain(&server)?;
    let next = (&client).write(b"more");
    let sticky =
        arrived == sent && more == 0 && refused.starts_with("refused") && rest == queued - sent;
    let per_call =
        results.last().is_some_and(timed_out) && next.as_ref().is_ok_and(|count| *count == 4);
    let go = beside::partial_write()?;
    let verdict = Verdict::reproduced_if(sticky && per_call && go.agrees());
    Ok(go.show(Outcome::new(
        verdict,
        values![
            sent,
            queued,
            more,
            refused,
            rest,
            last = results.last().map(result).unwrap_or_default(),
            next
        ],
    )))
}
