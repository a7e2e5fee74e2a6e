//! Writes that block, and what ends that: C51 to C54, whose texts are in `write.rs`.

use super::prelude::*;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{Pid, gettid};

use super::parts::Player;
use super::read::state_of;

/// What the lesson's client writes at a time, and what its server reads.
const WRITE: usize = 65_536;
const READ: usize = 60_000;
/// Where the lesson's client blocked, on macOS: after so many bytes in whole writes.
const THE_LESSONS: usize = 655_360;

/// The lesson's client: a thread that writes for as long as it can, and once more after an error.
struct Writer {
    id: Pid,
    /// Bytes in writes that have returned.
    total: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<io::Result<usize>>>,
}

impl Writer {
    fn start(mut stream: TcpStream) -> io::Result<Self> {
        let total = Arc::new(AtomicUsize::new(0));
        let (told, (tell_id, id)) = (total.clone(), mpsc::channel());
        let thread = thread::spawn(move || {
            let _ = tell_id.send(gettid());
            let (data, mut results, mut errors) = (vec![b'x'; WRITE], Vec::new(), 0);
            while errors < 2 {
                let written = stream.write(&data);
                told.fetch_add(*written.as_ref().unwrap_or(&0), Ordering::Relaxed);
                errors += usize::from(written.is_err());
                results.push(written);
            }
            results
        });
        Ok(Self {
            id: id.recv().map_err(io::Error::other)?,
            total,
            thread,
        })
    }

    /// Waits until it has slept in a write for this time. Returns how far it has got.
    fn blocks(&self, time: Duration) -> usize {
        let (mut last, mut since, begun) = (0, Instant::now(), Instant::now());
        while (last == 0 || since.elapsed() < time) && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(2));
            let total = self.total.load(Ordering::Relaxed);
            if total != last || state_of(self.id) != Some('S') {
                (last, since) = (total, Instant::now());
            }
        }
        last
    }

    /// The results of its writes, when it has ended: its peer is gone.
    fn end(self) -> io::Result<Vec<io::Result<usize>>> {
        self.thread
            .join()
            .map_err(|_| io::Error::other("the writer panicked"))
    }
}

/// Whether there is room to write, or comes to be within 2 ms.
fn is_writable(stream: &TcpStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::OUT)];
    poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        }),
    )?;
    Ok(fds[0].revents().contains(PollFlags::OUT))
}

/// A full connection that was read bit by bit.
struct Drained {
    full: usize,
    /// What a blocking write said then.
    blocked: io::Result<usize>,
    /// Bytes that were read until there was room to write.
    read: usize,
}

fn drain_until_writable(
    (mut client, mut server): (TcpStream, TcpStream),
    step: usize,
) -> io::Result<Drained> {
    let mut full = fill(&client, WRITE)?.iter().sum();
    let mut buffer = vec![0; step];
    client.set_nonblocking(false)?;
    client.set_write_timeout(Some(Duration::from_millis(50)))?;
    let blocked = loop {
        match client.write(&vec![b'x'; WRITE]) {
            Ok(count) if full < 1 << 30 => full += count, // a little, that has gone over meanwhile
            other => break other,
        }
    };
    let mut read = 0;
    while read < full && !is_writable(&client)? {
        read += server.read(&mut buffer)?;
    }
    Ok(Drained {
        full,
        blocked,
        read,
    })
}

pub(crate) fn c51(_: Lab) -> io::Result<Outcome> {
    let fixed = drain_until_writable(pair_with_buffers(262_144)?, 10_000)?;
    let autotuned = drain_until_writable(pair()?, 60_000)?;
    let blocks = |drained: &Drained| {
        drained
            .blocked
            .as_ref()
            .is_err_and(|error| name_of(error) == "EAGAIN")
    };
    // Not with the first bytes, and before all were read.
    let late =
        |drained: &Drained, step: usize| drained.read > 2 * step && drained.read < drained.full;
    let as_known =
        blocks(&fixed) && blocks(&autotuned) && late(&fixed, 10_000) && late(&autotuned, 60_000);
    let tell = |Drained { full, read, .. }: &Drained| {
        let share = 100.0 * *read as f64 / *full as f64;
        format!(
            "full with {} bytes, writable when {} were read: {share:.0} %",
            thousands(*full),
            thousands(*read)
        )
    };
    Verdict::Refined.only_if(as_known).measured(values![
        blocked = fixed.blocked,
        fixed = tell(&fixed),
        autotuned = tell(&autotuned)
    ])
}

pub(crate) fn c52(_: Lab) -> io::Result<Outcome> {
    let (client, server) = pair()?;
    let writer = Writer::start(client.try_clone()?)?;
    let whole = writer.blocks(Duration::from_millis(200)); // the lesson's server sleeps for 10 s
    let look = || Ok::<_, io::Error>((queues_of(&client)?.sending, queues_of(&server)?.received));
    let mut last = look()?;
    wait_for(|| look().is_ok_and(|now| now == mem::replace(&mut last, now))); // nothing moves between the two
    let (sending, received) = last;
    drop(server);
    writer.end()?;
    let all = sending + received;
    if whole < WRITE || all < whole || all - whole >= WRITE {
        return Err(io::Error::other(format!(
            "the writer did not block: {whole} bytes written, {all} in the buffers"
        )));
    }
    let mut outcome = Outcome::new(
        if whole == THE_LESSONS {
            Verdict::Reproduced
        } else {
            Verdict::Differs
        },
        values![],
    ) // as on another system
    .with(
        "the lesson, macOS",
        format!(
            "blocked after {} bytes, 24,108 more were taken",
            thousands(THE_LESSONS)
        ),
    )
    .with(
        "buffers as the kernel chooses",
        format!(
            "blocked after {} bytes, {} more were taken",
            thousands(whole),
            thousands(all - whole)
        ),
    )
    .with(
        "where they are",
        format!(
            "sender's queue {} + receiver's queue {}",
            thousands(sending),
            thousands(received)
        ),
    );
    for size in [16_384, 65_536, 262_144] {
        let mut totals = [0; 3];
        for total in &mut totals {
            let (client, _server) = pair_with_buffers(size)?;
            *total = fill(&client, WRITE)?.iter().sum();
        }
        let [first, second, third] = totals.map(thousands);
        outcome = outcome.with(
            format!("buffers of {} bytes, thrice", thousands(size)),
            format!("{first}; {second}; {third}"),
        );
    }
    Ok(outcome)
}

/// One line of the plot: `r` is where the reader is, `w` the writer, and between them is what the buffers hold.
fn plot(read: usize, written: usize, most: usize) -> String {
    let column = |bytes: usize| bytes * 50 / most.max(1);
    let mut line = vec![' '; 51];
    line[column(read)..column(written)].fill('=');
    line[column(read)] = 'r';
    line[column(written)] = 'w';
    line.into_iter().collect()
}

pub(crate) fn c53(_: Lab) -> io::Result<Outcome> {
    let (client, mut server) = pair_with_buffers(65_536)?;
    let writer = Writer::start(client)?;
    let mut steps = vec![(0, writer.blocks(Duration::from_millis(50)))];
    let mut buffer = vec![0; READ];
    while steps.len() <= 12 {
        server.read_exact(&mut buffer)?;
        steps.push((steps.len() * READ, writer.blocks(Duration::from_millis(20)))); // the lesson's server waits for 5 s
    }
    drop(server);
    writer.end()?;
    let (_, most) = *steps.last().expect("there are 13");
    let rises: Vec<usize> = steps
        .windows(2)
        .map(|pair| (pair[1].1 - pair[0].1) / WRITE)
        .collect();
    let (flat, goes_on) = (rises.contains(&0), most > steps[0].1);
    let mut outcome = Outcome::new(Verdict::Refined.only_if(goes_on && flat), values![]);
    for (read, written) in steps {
        outcome = outcome.with(
            format!("read {:>7}", thousands(read)),
            format!(
                "written {:>9} |{}|",
                thousands(written),
                plot(read, written, most)
            ),
        );
    }
    outcome = outcome.with("writes that finished with each read", format!("{rises:?}"));
    Ok(outcome.note("So the client can write again, as the lesson says, but not after each read."))
}

/// The lesson's server, to be killed: reads once, says how much, and sleeps.
pub(crate) fn reader(_: &[String]) -> io::Result<()> {
    let listener = listen()?;
    println!("{}", listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    println!("{}", stream.read(&mut vec![0; READ])?);
    io::stdin().read_line(&mut String::new())?; // never comes
    Ok(())
}

pub(crate) fn c54(_: Lab) -> io::Result<Outcome> {
    let mut server = Player::start("reader", &[])?;
    let client = TcpStream::connect(server.line()?)?;
    let writer = Writer::start(client)?;
    let read: usize = server.line()?.parse().map_err(io::Error::other)?;
    let whole = writer.blocks(Duration::from_millis(200));
    server.kill()?;
    let results = writer.end()?;
    let total: usize = results
        .iter()
        .filter_map(|result| result.as_ref().ok())
        .sum();
    let errors: Vec<String> = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .map(name_of)
        .collect();
    let verdict = match (
        errors.first().map(String::as_str),
        errors.get(1).map(String::as_str),
    ) {
        (Some("EPIPE"), _) => Verdict::Reproduced,
        (Some("ECONNRESET"), Some("EPIPE")) if total > read => Verdict::Differs,
        _ => {
            return Err(io::Error::other(format!(
                "the writer's errors were {errors:?}, of {total} bytes {read} were read"
            )));
        }
    };
    verdict.measured(values![
        whole,
        part = total - whole,
        errors = errors.join(", then "),
        total,
        read,
        lost = total - read
    ])
}
