//! One connection shared by several threads: C58 to C61.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};

use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::go_fd::scripted;
use super::tools::{
    PATIENCE, drain, pair, pair_with_buffers, queues_of, result, thousands, wait_for,
};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C58",
        says: "“多个Goroutine对同一个conn进行read的意义不大……一个Goroutine读出了“worl”，而另外一个Goroutine读出了”d”” Several readers of one connection make little \
               sense: a message can come apart between them",
        asks: "Two threads read the same connection, with buffers of 4 and 5 bytes. \"world\" is sent 1,000 times, each time when the one before has been read. Do all \
               messages come in one piece? Are bytes lost?",
        why: "A TCP socket is a queue of bytes, and read(2) takes from its head as many as fit. Where a message ends, it does not know. Both threads sleep in the same \
              queue of waiters and both are woken; who is first takes up to 4 or up to 5 bytes, and leaves the rest to whoever is next. In Go the readLock of fdMutex \
              lets only one Goroutine wait at a time, which changes who is next and not what he gets. So give each connection one reader.",
        look: "strace -f -e trace=recvfrom -e signal=none target/release/examples/lab run C58 2>&1 | grep -m 5 -A 3 worl",
        exercise: "Share a TcpStream between two threads (try_clone, or Arc and &TcpStream), read into [0; 4] and [0; 5], and print who got what.",
        state: State::Runs(c58),
    },
    Claim {
        id: "C59",
        says: "“每次Write操作都是受lock保护，直到这次数据全部写完才会解锁……需要一次write操作完整地写入一个“业务包”” Write holds a lock until all is written; so a message that is written by one \
               Write stays whole, and one that takes several does not",
        asks: "Two threads write to the same connection with no lock of their own: frames of 14 bytes in one write each; frames as header and payload, two writes; \
               messages of 128 KiB in one write each. Which of the three come out whole?",
        why: "It is true of Go, and it is Go that makes it true: poll.FD.Write takes fdMutex's writeLock and loops under it until all is written. The kernel promises \
              nothing of the kind for TCP. send(2) holds the socket's lock only while it copies; with the send buffer full it lets go of it and sleeps (sk_stream_wait_memory), \
              and another thread's bytes get in. A frame of 14 bytes stays whole because it finds room at once. Rust's TcpStream is the bare socket: no lock, and write_all \
              is several calls. A reactor needs no lock: one thread owns the socket, and others hand it whole frames (Handle::send here).",
        look: "strace -f -e trace=sendto target/release/examples/lab run C59 2>&1 | grep -m 8 131072",
        exercise: "Write from two threads to one TcpStream, once with one write_all for a frame and once with two, and check at the other end that header and payload \
                   belong together. Then put a Mutex round the pair of writes.",
        state: State::Runs(c59),
    },
    Claim {
        id: "C60",
        says: "“即便是Read操作，也是有lock保护的。多个Goroutine对同一conn的并发读，不会出现读出内容重叠的情况” Read is behind a lock, too: what concurrent readers get never overlaps",
        asks: "Two threads read the same connection, 3 and 7 bytes at a time. Each byte carries its number. Does one come to both, or to none?",
        why: "Here it needs no lock of Go's: recv(2) takes the socket's own lock, copies from the head of the queue and moves the head on. A byte that was handed out is no longer \
              there for anybody else. What is lost is the order between the two: which of them read first, neither knows. Go's readLock is there for another reason: \
              Read has to wait and try again, and Close must know who is still inside.",
        look: "strace -f -e trace=recvfrom target/release/examples/lab run C60 2>&1 | grep -m 20 recvfrom",
        exercise: "Send the bytes 0 to 255, read them with two threads, put both results together and sort them.",
        state: State::Runs(c60),
    },
    Claim {
        id: "C61",
        says: "The source of poll.FD: “if len(p) == 0 … return 0, nil”; “if fd.IsStream && len(p) > maxRW { p = p[:maxRW] }”; “ignoringEINTRIO”; “if err == syscall.EAGAIN … \
               waitRead … continue”: Read and Write retry EINTR, park at EAGAIN, do not read into nothing, and bound each call",
        asks: "read(2) into a buffer of 0 bytes, with a byte waiting to be read: what does it return, and what does that look like?",
        why: "Each branch answers something that the kernel really says. A read into nothing returns 0, which is also how the end looks, so Go does not even ask. A signal ends a \
              waiting call with EINTR, which is no error of the connection's (signal(7)); Rust's read hands it on, read_exact and write_all retry it. EAGAIN is where the two worlds \
              part: Go parks the Goroutine and the loop goes round; a reactor returns to poll and remembers nothing but a bit. That loop is glassloop's transport::fill and \
              flush with a place to wait in the middle. maxRW (1 GiB) is there because some systems refuse or cut larger calls.",
        look: "strace -f -e trace=recvfrom,kill target/release/examples/lab run C61",
        exercise: "Write read and write as Go has them over any Read + Write, and drive them with a stream that answers from a list: EINTR, EAGAIN, 3 bytes, the end.",
        state: State::Runs(c61),
    },
];

/// What one read brought: in which round, to which of two readers.
struct Got {
    round: usize,
    reader: usize,
    bytes: Vec<u8>,
}

/// On a machine that is busy with other things a thread that lets others go first waits long for its turn: after this time so many rounds are enough.
const LONG: Duration = Duration::from_millis(200);
const ENOUGH: usize = 10;

/// Two threads read one connection with buffers of these sizes. The message is sent so many times, each time when all of the one before was read.
fn two_readers(sizes: [usize; 2], message: &[u8], rounds: usize) -> io::Result<Vec<Got>> {
    let (mut client, server) = pair()?;
    let (tell, told) = mpsc::channel();
    let read = |reader: usize, tell: mpsc::Sender<(usize, Vec<u8>)>| {
        let mut buffer = vec![0; sizes[reader]];
        while let Ok(count @ 1..) = (&server).read(&mut buffer) {
            let _ = tell.send((reader, buffer[..count].to_vec()));
            thread::yield_now(); // in a server he would now be busy with what he has read
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
    Ok(Outcome::new(Verdict::reproduced_if(
        between_two > 0 && bytes == 5 * messages,
    ))
    .with("messages", format!("{}, 5 bytes each", thousands(messages)))
    .with("came in one piece", thousands(whole))
    .with(
        "came apart (\"worl\" and \"d\")",
        format!(
            "{}, of these {} between the two threads",
            thousands(torn),
            thousands(between_two)
        ),
    )
    .with(
        "bytes read by both together",
        format!("{} of {}", thousands(bytes), thousands(5 * messages)),
    ))
}

fn c60(_: Lab) -> io::Result<Outcome> {
    let numbers: Vec<u8> = (0..=255).collect();
    let got = two_readers([3, 7], &numbers, 100)?;
    let rounds = got.last().map_or(0, |got| got.round + 1);
    let mut times = vec![[0; 256]; rounds];
    for got in &got {
        got.bytes
            .iter()
            .for_each(|byte| times[got.round][usize::from(*byte)] += 1);
    }
    let (twice, never) = times
        .iter()
        .flatten()
        .fold((0, 0), |(twice, never), times| {
            (
                twice + usize::from(*times > 1),
                never + usize::from(*times == 0),
            )
        });
    let share = |reader| {
        got.iter()
            .filter(|got| got.reader == reader)
            .map(|got| got.bytes.len())
            .sum::<usize>()
    };
    let holds = twice == 0 && never == 0 && share(0) > 0 && share(1) > 0;
    Ok(Outcome::new(Verdict::reproduced_if(holds))
        .with(
            "bytes sent",
            format!(
                "{}, in rounds of 256, each byte with its number",
                thousands(256 * rounds)
            ),
        )
        .with(
            "came to the thread that reads 3 at a time",
            thousands(share(0)),
        )
        .with(
            "came to the thread that reads 7 at a time",
            thousands(share(1)),
        )
        .with("came to both", twice)
        .with("came to none", never))
}

/// Two threads write to one connection, each messages of its own letter, in these pieces, one write each. Returns how many messages were cut.
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
        let places: Vec<usize> = (0..stream.len())
            .filter(|place| stream[*place] == letter)
            .collect();
        places
            .chunks(length)
            .filter(|message| message[length - 1] - message[0] != length - 1)
            .count()
    };
    Ok(cut(b'a') + cut(b'b'))
}

fn c59(_: Lab) -> io::Result<Outcome> {
    // What is up to chance is tried until it is seen, though not for ever: on one processor the threads rarely meet.
    let tried = |pieces: &[usize], messages, buffers| {
        let mut tries = (1..=20).map(|_| two_writers(pieces, messages, Some(buffers), false));
        tries.find(|cut| !matches!(cut, Ok(0))).unwrap_or(Ok(0))
    };
    let small = two_writers(&[14], 2000, None, false)?;
    let split = tried(&[4, 10], 1000, 4096)?;
    let large = tried(&[128 * 1024], 4, 16 * 1024)?;
    let locked = two_writers(&[128 * 1024], 4, Some(16 * 1024), true)?;
    Ok(
        Outcome::new(Verdict::Refined.only_if(small == 0 && split > 0 && large > 0 && locked == 0))
            .with(
                "frames of 14 bytes, one write each",
                format!("{small} of 4,000 cut"),
            )
            .with(
                "header and payload, two writes",
                format!("{} of 2,000 cut", thousands(split)),
            )
            .with("128 KiB, one write each", format!("{large} of 8 cut"))
            .with(
                "the same, with a lock round each write",
                format!("{locked} of 8 cut"),
            ),
    )
}

/// What a read comes to that waits when a signal arrives. The handler only notes it.
fn interrupted(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<io::Result<usize>> {
    let handler = signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::default())?;
    let over = AtomicBool::new(false);
    let read = thread::scope(|scope| {
        scope.spawn(|| {
            // Again and again, since nobody can see from here whether the other thread waits already; at last a byte, so that it does not wait for ever.
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

    let (interrupt, again, broken) = (
        || Err(ErrorKind::Interrupted.into()),
        || Err(ErrorKind::WouldBlock.into()),
        io::Error::from_raw_os_error(104),
    );
    let loops = [
        (
            "read into 0 bytes",
            scripted([Ok(0)], |fd| fd.read(&mut [])),
            "returns 0, asked for [], parked 0",
        ),
        (
            "read: EINTR, EAGAIN, 3 bytes",
            scripted([interrupt(), again(), Ok(3)], |fd| fd.read(&mut [0; 4])),
            "returns 3, asked for [4, 4, 4], parked 1",
        ),
        (
            "read: the end",
            scripted([Ok(0)], |fd| fd.read(&mut [0; 4])),
            "returns 0, asked for [4], parked 0",
        ),
        (
            "read into 10 bytes, at most 4 a call",
            scripted([Ok(4)], |fd| fd.read(&mut [0; 10])),
            "returns 4, asked for [4], parked 0",
        ),
        (
            "write of 10, at most 4 a call: 4, EINTR, 1, EAGAIN, 4, 1",
            scripted([Ok(4), interrupt(), Ok(1), again(), Ok(4), Ok(1)], |fd| {
                fd.write(&[0; 10])
            }),
            "returns 10, asked for [4, 4, 4, 4, 4, 1], parked 1",
        ),
        (
            "write: ECONNRESET",
            scripted([Err(broken)], |fd| fd.write(&[0; 10])),
            "returns -1 ECONNRESET, asked for [4], parked 0",
        ),
    ];
    let holds = kernel == ["-1 EINTR", "0", "-1 EAGAIN"]
        && loops.iter().all(|(_, came, known)| came == known);
    let [signal, nothing, empty] = kernel;
    let outcome = Outcome::new(Verdict::reproduced_if(holds))
        .with("the kernel: a read that waits when a signal comes", signal)
        .with(
            "the kernel: a read into 0 bytes, with a byte there",
            format!("{nothing}, as at the end"),
        )
        .with("the kernel: a non-blocking read with nothing there", empty);
    Ok(loops.into_iter().fold(outcome, |outcome, (what, came, _)| {
        outcome.with(format!("the loop: {what}"), came)
    }))
}
