//! Read deadlines: Go's, as the loop keeps them, beside the timeout of a blocking socket. C45 to
//! C48.

use glassloop::Verdict as Next;

use super::beside;
use super::lines::Lone;
use super::prelude::*;

/// How far ahead the deadlines are. The lesson's are a second.
const AHEAD: Duration = Duration::from_millis(50);
/// The kernel keeps `SO_RCVTIMEO` in ticks of up to 10 ms.
const TICK: Duration = Duration::from_millis(10);

/// Sets the read deadline. Returns the time of it.
fn set(lone: &mut Lone) -> io::Result<Instant> {
    lone.with(|cx| {
        let at = cx.now() + AHEAD;
        cx.set_read_deadline(Some(at));
        at
    })
}

pub(crate) fn c45(_: Lab) -> io::Result<Outcome> {
    let mut lone = Lone::new(|cx| {
        cx.set_read_deadline(None);
        cx.send(&b"still there?"[..]); // the other work
        Next::Continue
    })?;
    let at = set(&mut lone)?;
    lone.until(|record| !record.passed.is_empty())?;
    let passed = lone.record().passed.first().map(|(_, told)| *told);
    let told = passed.ok_or_else(|| fail("the deadline did not pass"))?;
    let asked = lone.read(13)?;
    lone.say("yes\n")?;
    let usable = lone.until(|record| record.received == ["yes"])? && asked == 13;

    let (mut client, mut server) = pair()?;
    server.set_read_timeout(Some(AHEAD))?;
    let (took, read) = timed(|| server.read(&mut [0; 10]));
    client.write_all(b"yes")?;
    let next = server.read(&mut [0; 10]);
    let (late, in_time) = (told.saturating_duration_since(at), told >= at);
    let as_known = in_time && took + TICK >= AHEAD && usable && is_eagain(&read);
    let verdict = Verdict::reproduced_if(as_known && is_count(&next, 3));
    let values = values![ahead = AHEAD, late, in_time, usable, read, took, next];
    beside::sticky_read_deadline()?.measured(verdict, values)
}

pub(crate) fn c46(_: Lab) -> io::Result<Outcome> {
    let mut lone = Lone::new(|_| Next::Continue)?; // it is not set again
    let (at, mut sent) = (set(&mut lone)?, 0);
    while lone.record().passed.is_empty() && at.elapsed() < PATIENCE {
        lone.say(".\n")?; // does not move it
        sent += 1;
        lone.during(Duration::from_millis(5))?;
    }
    let passed = lone
        .record()
        .passed
        .first()
        .is_some_and(|(_, told)| *told >= at);
    let read_before = lone.record().received.len();
    lone.say("hi\n")?;
    lone.during(2 * AHEAD)?;
    let (read_since, told) = (
        lone.record().received.len() - read_before,
        lone.record().passed.len(),
    );
    let waiting = queues(lone.peer.peer_addr()?, Some(lone.peer.local_addr()?))?.received;
    lone.with(|cx| cx.set_read_deadline(Some(cx.now() + PATIENCE)))?;
    let read = lone.until(|record| record.received.last().is_some_and(|line| line == "hi"))?;

    let (mut client, mut server) = pair()?;
    server.set_read_timeout(Some(AHEAD))?;
    let mut read_timed = || timed(|| server.read(&mut [0; 10]));
    let ((first, one), (second, two)) = (read_timed(), read_timed());
    client.write_all(b"hi\n")?;
    let (_, three) = read_timed();
    let sticky = passed && read_since == 0 && waiting >= 3 && told == 1 && read;
    let waits_again = is_eagain(&one) && is_eagain(&two) && second + TICK >= AHEAD;
    let verdict = Verdict::reproduced_if(sticky && waits_again && is_count(&three, 3));
    beside::sticky_read_deadline()?.measured(
        verdict,
        values![
            passed,
            read_before,
            sent,
            read_since,
            waiting,
            read,
            one,
            first,
            two,
            second,
            three
        ],
    )
}

pub(crate) fn c47(_: Lab) -> io::Result<Outcome> {
    let mut lone = Lone::new(|_| Next::Continue)?;
    let mut wakes = |at: Option<Duration>| {
        lone.with(|cx| cx.set_read_deadline(at.map(|at| cx.now() + at)))?;
        lone.during(Duration::from_millis(1))?; // until the loop has nothing else to do
        let left = lone
            .reactor
            .next_deadline()
            .map(|at| at.saturating_duration_since(Instant::now()));
        io::Result::Ok(left.map_or("never".into(), |left| {
            format!("in {:.0} s", left.as_secs_f64())
        }))
    };
    let (without, with, cleared) = (wakes(None)?, wakes(Some(PATIENCE))?, wakes(None)?);
    lone.with(|cx| {
        cx.set_read_deadline(Some(cx.now() + AHEAD));
        cx.set_read_deadline(None);
    })?;
    lone.during(2 * AHEAD)?;
    let fired = lone.record().passed.len();
    lone.say("hi\n")?;
    let read = lone.until(|record| record.received == ["hi"])?;

    let (mut client, mut server) = pair()?;
    server.set_read_timeout(Some(AHEAD))?;
    server.set_read_timeout(None)?;
    let (took, count) = timed(|| {
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(2 * AHEAD);
                client.write_all(b"hi")
            });
            server.read(&mut [0; 10])
        })
    });
    let waited = is_count(&count, 2) && took >= 2 * AHEAD;
    let planned = without == "never" && with != "never" && cleared == "never";
    let verdict = Verdict::reproduced_if(planned && fired == 0 && read && waited);
    verdict.measured(values![without, with, cleared, fired, read, count, took])
}

pub(crate) fn c48(_: Lab) -> io::Result<Outcome> {
    const SILENCES: usize = 3;
    let (client, mut server) = pair()?;
    server.set_read_timeout(Some(AHEAD))?;
    let (mut client, mut timeouts, mut content) = (Some(client), 0, String::new());
    let (mut buffer, begun) = ([0; 128], Instant::now());
    let silent = loop {
        match server.read(&mut buffer) {
            Ok(0) => break begun.elapsed(),
            Ok(count) => {
                content += &String::from_utf8_lossy(&buffer[..count]);
                client = None; // it has sent all, and closes
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && timeouts < 100 => timeouts += 1,
            Err(error) => return Err(error),
        }
        if let (SILENCES.., Some(client), true) = (timeouts, &mut client, content.is_empty()) {
            client.write_all(b"hi")?;
            has_come(&server, 2);
        }
    };
    let mut lone = Lone::new(|cx| {
        cx.set_read_deadline(Some(cx.now() + AHEAD));
        Next::Continue
    })?;
    set(&mut lone)?;
    lone.until(|record| record.passed.len() >= SILENCES)?;
    let told = lone.record().passed.len();
    lone.say("hi\n")?;
    let read = lone.until(|record| record.received == ["hi"])? && lone.record().ended.is_none();
    let blocking =
        timeouts >= SILENCES && content == "hi" && silent + TICK >= AHEAD * SILENCES as u32;
    let verdict = Verdict::reproduced_if(blocking && told >= SILENCES && read);
    verdict.measured(values![
        ahead = AHEAD,
        timeouts,
        silent,
        content,
        told,
        read
    ])
}
