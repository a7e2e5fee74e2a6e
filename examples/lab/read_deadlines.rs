//! Read deadlines: Go's, as the loop keeps them, beside the time-out of a blocking socket. C45 to C48, whose texts are in `read.rs`.

use super::prelude::*;
use glassloop::Verdict as Next;

use super::beside;
use super::lone::Lone;

/// How far ahead the deadlines are. The lesson's are a second.
const AHEAD: Duration = Duration::from_millis(50);
/// `SO_RCVTIMEO` is kept in ticks of the kernel, of up to 10 ms.
const TICK: Duration = Duration::from_millis(10);

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Sets the read deadline. Returns when it is.
fn set(lone: &mut Lone) -> io::Result<Instant> {
    lone.with(|cx| {
        let at = cx.now() + AHEAD;
        cx.set_read_deadline(Some(at));
        at
    })
}

/// Whether a read gave up for want of bytes.
fn timed_out(read: &io::Result<usize>) -> bool {
    read.as_ref().is_err_and(|error| name_of(error) == "EAGAIN")
}

pub(crate) fn c45(_: Lab) -> io::Result<Outcome> {
    let mut lone = Lone::new(|cx| {
        cx.set_read_deadline(None);
        cx.send(&b"still there?"[..]); // the other work
        Next::Continue
    })?;
    let at = set(&mut lone)?;
    lone.until(|diary| !diary.passed.is_empty())?;
    let (_, told) = *lone
        .diary()
        .passed
        .first()
        .ok_or_else(|| io::Error::other("the deadline did not pass"))?;
    let asked = lone.read(13)?;
    lone.say("yes\n")?;
    let usable = lone.until(|diary| diary.lines == ["yes"])? && asked == 13;

    let (mut client, mut server) = pair()?;
    server.set_read_timeout(Some(AHEAD))?;
    let (took, read) = timed(|| server.read(&mut [0; 10]));
    client.write_all(b"yes")?;
    let next = server.read(&mut [0; 10]);
    let in_time = told >= at && took + TICK >= AHEAD;
    let as_known =
        in_time && usable && timed_out(&read) && next.as_ref().is_ok_and(|count| *count == 3);
    let go = beside::sticky_read_deadline()?;
    let verdict = Verdict::reproduced_if(as_known && go.agrees());
    Ok(go.show(Outcome::new(
        verdict,
        values![
            ahead = AHEAD,
            late = ms(told.saturating_duration_since(at)),
            in_time = told >= at,
            usable,
            read,
            took,
            next
        ],
    )))
}

pub(crate) fn c46(_: Lab) -> io::Result<Outcome> {
    let mut lone = Lone::new(|_| Next::Continue)?; // it is not set anew
    let at = set(&mut lone)?;
    let mut drops = 0;
    while lone.diary().passed.is_empty() && at.elapsed() < PATIENCE {
        lone.say(".\n")?; // does not move it
        drops += 1;
        lone.during(Duration::from_millis(5))?;
    }
    let passed = lone
        .diary()
        .passed
        .first()
        .is_some_and(|(_, told)| *told >= at);
    let read_before = lone.diary().lines.len();
    lone.say("hi\n")?;
    lone.during(2 * AHEAD)?;
    let (lines, told) = (lone.diary().lines.len(), lone.diary().passed.len());
    let waiting = queues(lone.peer.peer_addr()?, Some(lone.peer.local_addr()?))?.received;
    lone.with(|cx| cx.set_read_deadline(Some(cx.now() + PATIENCE)))?;
    let read = lone.until(|diary| diary.lines.last().is_some_and(|line| line == "hi"))?;

    let (mut client, mut server) = pair()?;
    server.set_read_timeout(Some(AHEAD))?;
    let mut read_timed = || timed(|| server.read(&mut [0; 10]));
    let ((first, one), (second, two)) = (read_timed(), read_timed());
    client.write_all(b"hi\n")?;
    let (_, three) = read_timed();
    let sticky = passed && lines == read_before && waiting >= 3 && told == 1 && read;
    let per_call = timed_out(&one)
        && timed_out(&two)
        && second + TICK >= AHEAD
        && three.as_ref().is_ok_and(|count| *count == 3);
    let go = beside::sticky_read_deadline()?;
    let verdict = Verdict::reproduced_if(sticky && per_call && go.agrees());
    Ok(go.show(Outcome::new(
        verdict,
        values![
            passed,
            read_before,
            sent = drops,
            read_since = lines - read_before,
            waiting,
            read,
            one,
            first,
            two,
            second,
            three
        ],
    )))
}

pub(crate) fn c47(_: Lab) -> io::Result<Outcome> {
    let mut lone = Lone::new(|_| Next::Continue)?;
    let mut wakes = |at: Option<Duration>| {
        lone.with(|cx| cx.set_read_deadline(at.map(|at| cx.now() + at)))?;
        lone.during(Duration::from_millis(1))?; // what is left to do by then is done
        let next = lone.reactor.next_deadline();
        Ok::<_, io::Error>(next.map_or("never".into(), |at| {
            format!(
                "in {:.0} s",
                at.saturating_duration_since(Instant::now()).as_secs_f64()
            )
        }))
    };
    let (without, with, cleared) = (wakes(None)?, wakes(Some(PATIENCE))?, wakes(None)?);
    lone.with(|cx| {
        cx.set_read_deadline(Some(cx.now() + AHEAD));
        cx.set_read_deadline(None);
    })?;
    lone.during(2 * AHEAD)?;
    let fired = lone.diary().passed.len();
    lone.say("hi\n")?;
    let read = lone.until(|diary| diary.lines == ["hi"])?;

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
    let waited = count.as_ref().is_ok_and(|count| *count == 2) && took >= 2 * AHEAD;
    let as_known =
        without == "never" && with != "never" && cleared == "never" && fired == 0 && read && waited;
    Verdict::reproduced_if(as_known)
        .measured(values![without, with, cleared, fired, read, count, took])
}

pub(crate) fn c48(_: Lab) -> io::Result<Outcome> {
    const SILENCES: usize = 3;
    let (client, mut server) = pair()?;
    server.set_read_timeout(Some(AHEAD))?;
    let (mut client, mut timeouts, mut content) = (Some(client), 0, Vec::new());
    let (mut buffer, begun) = ([0; 128], Instant::now());
    let silent = loop {
        match server.read(&mut buffer) {
            Ok(0) => break begun.elapsed(),
            Ok(count) => {
                content.extend_from_slice(&buffer[..count]);
                client = None; // has said all
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && timeouts < 100 => {
                timeouts += 1;
            }
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
    lone.until(|diary| diary.passed.len() >= SILENCES)?;
    let told = lone.diary().passed.len();
    lone.say("hi\n")?;
    let read = lone.until(|diary| diary.lines == ["hi"])? && lone.diary().ended.is_none();
    let blocking =
        timeouts >= SILENCES && content == b"hi" && silent + TICK >= AHEAD * SILENCES as u32;
    Verdict::reproduced_if(blocking && told >= SILENCES && read).measured(values![
        ahead = AHEAD,
        timeouts,
        silent,
        content = format!("{:?}", String::from_utf8_lossy(&content)),
        told,
        read
    ])
}
