//! Write deadlines: Go's, as the loop keeps them, beside the timeout of a blocking socket. C55 and
//! C56.

use glassloop::{Context, SendError, Verdict as Next};

use super::beside;
use super::lines::{Lines, Lone};
use super::prelude::*;

/// How far ahead the deadlines are.
const AHEAD: Duration = Duration::from_millis(50);
/// The size of a write: more than the buffers hold, so that a part of it is left.
const WRITE: usize = 1 << 20;

/// A loop with more bytes than the sockets to its peer can hold, when its write deadline has
/// passed; and the number of these bytes.
fn overfilled(on_deadline: fn(&mut Context<'_, Lines>) -> Next) -> io::Result<(Lone, usize)> {
    let (mut lone, data) = (Lone::new(on_deadline)?, vec![b'x'; 32_768]);
    let queued = lone.with(|cx| {
        while cx.try_send(&data[..]).is_ok() {} // to the cap, 1 MiB
        cx.pending()
    })?;
    while lone.reactor.counters().writes_blocked == 0 {
        lone.during(Duration::from_millis(1))?;
    }
    lone.with(|cx| cx.set_write_deadline(Some(cx.now() + AHEAD)))?;
    if lone.until(|record| !record.passed.is_empty())? {
        Ok((lone, queued))
    } else {
        Err(fail("the write deadline did not pass"))
    }
}

/// Writes to a peer that does not read, with a timeout for each write, until one takes nothing.
/// Returns the result of each.
fn write_until_nothing(mut stream: &TcpStream) -> io::Result<Vec<io::Result<usize>>> {
    stream.set_write_timeout(Some(AHEAD))?;
    let (data, mut results) = (vec![b'x'; WRITE], Vec::new());
    while results.last().is_none_or(io::Result::is_ok) {
        results.push(stream.write(&data));
    }
    Ok(results)
}

pub(crate) fn c55(_: Lab) -> io::Result<Outcome> {
    let (mut lone, queued) = overfilled(|_| Next::Close)?;
    let reason = lone.record().ended.clone().unwrap_or_default();
    let counters = lone.reactor.counters();
    let [sent, dropped] =
        [counters.bytes_written, counters.bytes_dropped].map(|count| count as usize);
    let arrived = lone.read(usize::MAX)?;

    let (client, mut server) = pair_with_buffers(65_536)?;
    let took = write_until_nothing(&client)?;
    drop(client);
    let came = io::copy(&mut server, &mut io::sink())? as usize;
    let written: usize = took.iter().flatten().sum();
    let [Ok(first), .., last] = &took[..] else {
        return Err(fail("the first write took nothing"));
    };
    let in_loop = sent > 0 && dropped > 0 && sent + dropped == queued && arrived == sent;
    let as_known = in_loop && *first < WRITE && is_eagain(last) && written == came;
    let values = values![took, came, written, reason, queued, sent, dropped, arrived];
    beside::partial_write()?.measured(Verdict::reproduced_if(as_known), values)
}

pub(crate) fn c56(_: Lab) -> io::Result<Outcome> {
    let (mut lone, queued) = overfilled(|_| Next::Continue)?; // it is not set again
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
    let last = write_until_nothing(&client)?.pop();
    drain(&server)?;
    let next = (&client).write(b"more");
    let sticky =
        arrived == sent && more == 0 && refused.starts_with("refused") && rest == queued - sent;
    let per_call = last.as_ref().is_some_and(is_eagain) && is_count(&next, 4);
    let values = values![sent, queued, more, refused, rest, last, next];
    beside::partial_write()?.measured(Verdict::reproduced_if(sticky && per_call), values)
}
