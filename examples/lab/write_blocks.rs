//! Writes that block, and what ends them: C51 to C54.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::parts::{Part, Player};
use super::prelude::*;
use super::whereabouts::is_asleep;

pub(crate) const PARTS: &[(&str, Part)] = &[("reader", reader)];

pub(crate) const RUNS: Runs = runs! { c51 c52 c53 c54 };

/// What the lesson's client writes at a time, and what its server reads.
const WRITE: usize = 65_536;
const READ: usize = 60_000;
/// Where the lesson's client blocked, on macOS: bytes in whole writes.
const LESSON: usize = 655_360;

/// The lesson's client: a thread that writes as long as it can, and once more after an error.
struct Writer {
    /// Bytes in writes that have returned.
    total: Arc<AtomicUsize>,
    thread: Watched<Vec<io::Result<usize>>>,
}

impl Writer {
    fn start(mut stream: TcpStream) -> io::Result<Self> {
        let total = Arc::new(AtomicUsize::new(0));
        let written_so_far = total.clone();
        let thread = Watched::spawn(move || {
            let (data, mut results, mut errors) = (vec![b'x'; WRITE], Vec::new(), 0);
            while errors < 2 {
                let written = stream.write(&data);
                written_so_far.fetch_add(*written.as_ref().unwrap_or(&0), Ordering::Relaxed);
                errors += usize::from(written.is_err());
                results.push(written);
            }
            results
        })?;
        Ok(Self { total, thread })
    }

    /// Waits until it has slept in a write for this time. Returns the total.
    fn blocks(&self, time: Duration) -> usize {
        let (mut last, mut since, begun) = (0, Instant::now(), Instant::now());
        while (last == 0 || since.elapsed() < time) && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(2));
            let total = self.total.load(Ordering::Relaxed);
            if total != last || !is_asleep(self.thread.id) {
                (last, since) = (total, Instant::now());
            }
        }
        last
    }

    /// The results of its writes, when it has ended because its peer is closed.
    fn end(self) -> io::Result<Vec<io::Result<usize>>> {
        self.thread.join()
    }
}

/// Whether there is room to write, now or within 2 ms.
fn is_writable(stream: &TcpStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::OUT)];
    let limit = Timespec {
        tv_sec: 0,
        tv_nsec: 2_000_000,
    };
    poll(&mut fds, Some(&limit))?;
    Ok(fds[0].revents().contains(PollFlags::OUT))
}

/// A full connection that was read bit by bit.
struct Drained {
    full: usize,
    /// The result of a blocking write then.
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
            Ok(count) if full < 1 << 30 => full += count, // the kernel has moved some bytes on
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

fn c51(_: Lab) -> io::Result<Outcome> {
    let cases = [
        (
            drain_until_writable(pair_with_buffers(262_144)?, 10_000)?,
            10_000,
        ),
        (drain_until_writable(pair()?, 60_000)?, 60_000),
    ];
    // Not with the first bytes, and before all were read.
    let as_known = cases.iter().all(|(drained, step)| {
        let Drained {
            full,
            blocked,
            read,
        } = drained;
        is_eagain(blocked) && *read > 2 * step && read < full
    });
    let [fixed, autotuned] = cases
        .each_ref()
        .map(|(Drained { full, read, .. }, _)| [*full, *read, 100 * read / full]);
    let blocked = &cases[0].0.blocked;
    Verdict::Refined
        .only_if(as_known)
        .measured(values![blocked, fixed, autotuned])
}

fn c52(_: Lab) -> io::Result<Outcome> {
    let (client, server) = pair()?;
    let writer = Writer::start(client.try_clone()?)?;
    let whole = writer.blocks(Duration::from_millis(200)); // the lesson's server sleeps for 10 s
    let look = || io::Result::Ok((queues_of(&client)?.sending, queues_of(&server)?.received));
    let mut last = look()?;
    // Until nothing moves between two looks.
    wait_for(|| look().is_ok_and(|now| now == mem::replace(&mut last, now)));
    let (sending, received) = last;
    drop(server);
    writer.end()?;
    let all = sending + received;
    if whole < WRITE || all < whole || all - whole >= WRITE {
        let counts = format!("{whole} bytes written, {all} in the buffers");
        return Err(fail(format!("the writer did not block: {counts}")));
    }
    let three_runs = |size| {
        let run = || io::Result::Ok(fill(&pair_with_buffers(size)?.0, WRITE)?.iter().sum());
        let totals = [run()?, run()?, run()?].map(thousands);
        io::Result::Ok(totals.join("; "))
    };
    let (small, medium) = (three_runs(16_384)?, three_runs(65_536)?);
    let (large, more, lesson) = (three_runs(262_144)?, all - whole, LESSON);
    let verdict = match whole {
        LESSON => Verdict::Reproduced,
        _ => Verdict::Differs, // as on another system
    };
    verdict.measured(values![
        lesson, whole, more, sending, received, small, medium, large
    ])
}

/// One line of the plot: `r` is the reader, `w` the writer, and between them is what the buffers
/// hold.
fn plot(read: usize, written: usize, most: usize) -> String {
    let column = |bytes: usize| bytes * 50 / most.max(1);
    let mut line = vec![' '; 51];
    line[column(read)..column(written)].fill('=');
    line[column(read)] = 'r';
    line[column(written)] = 'w';
    line.into_iter().collect()
}

fn c53(_: Lab) -> io::Result<Outcome> {
    let (client, mut server) = pair_with_buffers(65_536)?;
    let writer = Writer::start(client)?;
    let mut steps = vec![(0, writer.blocks(Duration::from_millis(50)))];
    let mut buffer = vec![0; READ];
    while steps.len() <= 12 {
        server.read_exact(&mut buffer)?;
        // The lesson's server waits for 5 s.
        steps.push((steps.len() * READ, writer.blocks(Duration::from_millis(20))));
    }
    drop(server);
    writer.end()?;
    let (first, most) = (steps[0].1, steps[steps.len() - 1].1);
    let rises = steps.windows(2).map(|pair| (pair[1].1 - pair[0].1) / WRITE);
    let rises: Vec<usize> = rises.collect();
    let verdict = Verdict::Refined.only_if(most > first && rises.contains(&0));
    let lines = steps.into_iter().map(|(read, written)| {
        let plot = plot(read, written, most);
        let [read, written] = [read, written].map(thousands);
        (
            format!("read {read:>7}"),
            format!("written {written:>9} |{plot}|"),
        )
    });
    Ok(Outcome::new(verdict, values![rises]).with_all(lines))
}

/// The lesson's server, to be killed: reads once, prints how much, and sleeps.
fn reader(_: &[String]) -> io::Result<()> {
    let (listener, addr) = listening(0, 0)?;
    println!("{addr}");
    let (mut stream, _) = listener.accept()?;
    println!("{}", stream.read(&mut vec![0; READ])?);
    io::stdin().read_line(&mut String::new())?; // never comes
    Ok(())
}

fn c54(_: Lab) -> io::Result<Outcome> {
    let mut server = Player::start("reader", &[])?;
    let writer = Writer::start(TcpStream::connect(server.line()?)?)?;
    let read: usize = server.line()?.parse().map_err(io::Error::other)?;
    let whole = writer.blocks(Duration::from_millis(200));
    server.kill()?;
    let results = writer.end()?;
    let total: usize = results.iter().flatten().sum();
    let errors = results.iter().filter_map(|result| result.as_ref().err());
    let errors: Vec<String> = errors.map(name_of).collect();
    let verdict = match errors.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["EPIPE", ..] => Verdict::Reproduced,
        ["ECONNRESET", "EPIPE", ..] if total > read => Verdict::Differs,
        _ => {
            let counts = format!("of {total} bytes {read} were read");
            return Err(fail(format!(
                "the writer's errors were {errors:?}, {counts}"
            )));
        }
    };
    let (part, lost) = (total - whole, total - read);
    verdict.measured(values![whole, part, errors, total, read, lost])
}
