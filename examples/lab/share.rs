//! One connection shared by several threads: C58 to C61.

use super::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};

use rustix::process::{Signal, getpid, kill_process};

use super::go_fd::scripted;

pub(crate) const RUNS: &[(&str, Run)] = &[("C58", c58), ("C59", c59), ("C60", c60), ("C61", c61)];

/// The result of one read: in which round, by which of two readers.
struct Got {
    round: usize,
    reader: usize,
    bytes: Vec<u8>,
}

/// On a busy machine a thread that yields waits long for its turn: after this time, this many
/// rounds are enough.
const LONG: Duration = Duration::from_millis(200);
const ENOUGH: usize = 10;

/// Two threads read one connection with buffers of these sizes. The message is sent this many
/// times, each time when the one before has been read.
fn two_readers(sizes: [usize; 2], message: &[u8], rounds: usize) -> io::Result<Vec<Got>> {
    let (mut client, server) = pair()?;
    let (tell, told) = mpsc::channel();
    let read = |reader: usize, tell: mpsc::Sender<(usize, Vec<u8>)>| {
        let mut buffer = vec![0; sizes[reader]];
        while let Ok(count @ 1..) = (&server).read(&mut buffer) {
            let _ = tell.send((reader, buffer[..count].to_vec()));
            thread::yield_now(); // a server would now handle what it has read
        }
    };
    thread::scope(|scope| {
        let other = tell.clone();
        scope.spawn(|| read(0, tell));
        scope.spawn(|| read(1, other));
        let mut got = Vec::new();
        let begun = Instant::now();
        for round in (0..rounds).take_while(|round| *round < ENOUGH || begun.elapsed() < LONG) {
            client.write_all(message)?;
            let mut left = message.len();
            while left > 0 {
                let (reader, bytes) = told.recv_timeout(PATIENCE).map_err(io::Error::other)?;
                left = left.saturating_sub(bytes.len());
                got.push(Got {
                    round,
                    reader,
                    bytes,
                });
            }
        }
        client.shutdown(Shutdown::Write)?; // the end, for both readers
        Ok(got)
    })
}

fn c58(_: Lab) -> io::Result<Outcome> {
    let got = two_readers([4, 5], b"world", 1000)?;
    let messages = got.last().map_or(0, |got| got.round + 1);
    let bytes: usize = got.iter().map(|got| got.bytes.len()).sum();
    let whole = got.iter().filter(|got| got.bytes == b"world").count();
    let torn = messages - whole;
    let between_two = got
        .windows(2)
        .filter(|pair| pair[0].round == pair[1].round && pair[0].reader != pair[1].reader)
        .count();
    let sent = 5 * messages;
    let values = values![messages, whole, torn, between_two, bytes, sent];
    Verdict::reproduced_if(between_two > 0 && bytes == sent).measured(values)
}

fn c60(_: Lab) -> io::Result<Outcome> {
    let numbers: Vec<u8> = (0..=255).collect();
    let got = two_readers([3, 7], &numbers, 100)?;
    let rounds = got.last().map_or(0, |got| got.round + 1);
    let mut times = vec![[0; 256]; rounds];
    for Got { round, bytes, .. } in &got {
        for byte in bytes {
            times[*round][usize::from(*byte)] += 1;
        }
    }
    let twice = times.iter().flatten().filter(|times| **times > 1).count();
    let never = times.iter().flatten().filter(|times| **times == 0).count();
    let [by_three, by_seven] = [0, 1].map(|reader| {
        let its = got.iter().filter(|got| got.reader == reader);
        its.map(|got| got.bytes.len()).sum::<usize>()
    });
    let (bytes, holds) = (
        256 * rounds,
        twice == 0 && never == 0 && by_three > 0 && by_seven > 0,
    );
    Verdict::reproduced_if(holds).measured(values![bytes, by_three, by_seven, twice, never])
}

/// Two threads write to one connection, each messages of its own letter, in these pieces, one write
/// each. Returns how many messages were cut.
fn two_writers(
    pieces: &[usize],
    messages: usize,
    buffers: Option<usize>,
    lock: bool,
) -> io::Result<usize> {
    let (client, mut server) = buffers.map_or_else(pair, pair_with_buffers)?;
    client.set_write_timeout(Some(PATIENCE))?;
    let (length, both, mutex) = (
        pieces.iter().sum::<usize>(),
        Barrier::new(2),
        Mutex::new(()),
    );
    let write = |letter: u8| -> io::Result<()> {
        let bytes = vec![letter; length];
        both.wait();
        for _ in 0..messages {
            let _held = lock.then(|| mutex.lock());
            for piece in pieces {
                // One send(2). On a blocking socket it comes back when all is taken.
                if (&client).write(&bytes[..*piece])? < *piece {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
        }
        Ok(())
    };
    let mut stream = vec![0; 2 * messages * length];
    thread::scope(|scope| {
        let writers = [b'a', b'b'].map(|letter| scope.spawn(move || write(letter)));
        server.read_exact(&mut stream)?;
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().expect("no writer panics"))
    })?;
    let cut = |letter| {
        let places = (0..stream.len()).filter(|place| stream[*place] == letter);
        let places: Vec<usize> = places.collect();
        let is_cut = |message: &&[usize]| message[length - 1] - message[0] != length - 1;
        places.chunks(length).filter(is_cut).count()
    };
    Ok(cut(b'a') + cut(b'b'))
}

fn c59(_: Lab) -> io::Result<Outcome> {
    // Try until chance shows it, within limits: on one CPU the threads rarely meet.
    let tried = |pieces: &[usize], messages, buffers| {
        let mut tries = (1..=20).map(|_| two_writers(pieces, messages, Some(buffers), false));
        tries.find(|cut| !matches!(cut, Ok(0))).unwrap_or(Ok(0))
    };
    let small = two_writers(&[14], 2000, None, false)?;
    let split = tried(&[4, 10], 1000, 4096)?;
    let large = tried(&[128 * 1024], 4, 16 * 1024)?;
    let locked = two_writers(&[128 * 1024], 4, Some(16 * 1024), true)?;
    Verdict::Refined
        .only_if(small == 0 && split > 0 && large > 0 && locked == 0)
        .measured(values![small, split, large, locked])
}

/// The result of a read that waits when a signal arrives. The signal handler only sets a flag.
fn interrupted(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<io::Result<usize>> {
    let handler = signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::default())?;
    let over = AtomicBool::new(false);
    let read = thread::scope(|scope| {
        scope.spawn(|| {
            // Repeated, since this thread does not see whether the other one waits already. At last
            // a byte ends its wait.
            let _ = (0..200).try_for_each(|_| {
                thread::sleep(Duration::from_millis(2));
                if over.load(Ordering::SeqCst) {
                    Err(())
                } else {
                    kill_process(getpid(), Signal::USR1).map_err(|_| ())
                }
            });
            client.write_all(b"x")
        });
        let read = server.read(&mut [0]);
        over.store(true, Ordering::SeqCst);
        read
    });
    signal_hook::low_level::unregister(handler);
    Ok(read)
}

fn c61(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    let signal = interrupted(&mut client, &mut server)?;
    wait_for(|| queues_of(&server).is_ok_and(|queues| queues.received > 0));
    let nothing = server.read(&mut []);
    drain(&server)?;
    let empty = server.read(&mut [0]);
    let kernel = [result(&signal), result(&nothing), result(&empty)];

    let interrupt = || Err(ErrorKind::Interrupted.into());
    let again = || Err(ErrorKind::WouldBlock.into());
    let broken = || Err(io::Error::from_raw_os_error(104));
    // What the loop does, and what it should: its result, what each call is asked for, and its
    // waits.
    let loops = [
        (
            "read into 0 bytes",
            scripted([Ok(0)], |fd| fd.read(&mut [])),
            "0, asked for [], parked 0",
        ),
        (
            "read: EINTR, EAGAIN, 3 bytes",
            scripted([interrupt(), again(), Ok(3)], |fd| fd.read(&mut [0; 4])),
            "3, asked for [4, 4, 4], parked 1",
        ),
        (
            "read: the end",
            scripted([Ok(0)], |fd| fd.read(&mut [0; 4])),
            "0, asked for [4], parked 0",
        ),
        (
            "read into 10 bytes, at most 4 a call",
            scripted([Ok(4)], |fd| fd.read(&mut [0; 10])),
            "4, asked for [4], parked 0",
        ),
        (
            "write of 10, at most 4 a call: 4, EINTR, 1, EAGAIN, 4, 1",
            scripted([Ok(4), interrupt(), Ok(1), again(), Ok(4), Ok(1)], |fd| {
                fd.write(&[0; 10])
            }),
            "10, asked for [4, 4, 4, 4, 4, 1], parked 1",
        ),
        (
            "write: ECONNRESET",
            scripted([broken()], |fd| fd.write(&[0; 10])),
            "-1 ECONNRESET, asked for [4], parked 0",
        ),
    ];
    let holds = kernel == ["-1 EINTR", "0", "-1 EAGAIN"]
        && loops
            .iter()
            .all(|(_, came, known)| *came == format!("returns {known}"));
    let [signal, nothing, empty] = kernel;
    let lines = loops.map(|(what, came, _)| (format!("the loop: {what}"), came));
    let values = values![signal, nothing, empty];
    Ok(Outcome::new(Verdict::reproduced_if(holds), values).with_all(lines))
}
