//! Reading from a socket: C41 to C48. The deadlines are in `read_deadlines.rs`.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Deref;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::thread::{Pid, gettid};

use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::read_deadlines::{c45, c46, c47, c48};
use super::servers::sys::{self, Call};
use super::servers::{Model, child::Server};
use super::tools::{PATIENCE, has_come, name_of, pair, result, timed, wait_for};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C41",
        says: "“TCPConn内嵌了一个非导出类型：conn……因此，TCPConn‘继承’了conn类型的Read和Write方法” TCPConn embeds conn, and so has its Read \
              and Write",
        asks: "One socket is read through &TcpStream, a type of your own around it, mio's type and socket2's, 4 bytes each. Do they get \
              the same bytes, or each its share?",
        why: "In Go, embedding a type promotes its methods: TCPConn has Read because conn has it, and so it is an io.Reader. Rust has no \
              embedding. A type of one's own gets the methods of what it holds by Deref, or passes each on by hand; and what reads is the \
              trait std::io::Read, which TcpStream and &TcpStream both have, so that two threads can use one socket. Under all these \
              types, Go's too, is one descriptor, and each read is the one system call, which takes the next bytes of the one stream.",
        look: "strace -f -e trace=recvfrom target/release/examples/lab run C41",
        exercise: "Write struct Conn(TcpStream) with Deref, and a function that takes any impl Read. Call it with &conn.0; then have Conn \
              implement Read itself, in three lines.",
        state: State::Substitute(
            c41,
            "It is a statement on Go's types; what is run instead reads one socket through four of Rust's.",
        ),
    },
    Claim {
        id: "C42",
        says: "“如果客户端未发送数据，服务端会阻塞在Socket的读操作上……执行该这个操作的Goroutine也会被挂起” With nothing there, Read \
              blocks, and the goroutine is parked",
        asks: "The client is silent for 300 ms. How long does a blocking read take, how long a non-blocking one, and how many calls does \
              the netpoller model make meanwhile?",
        why: "On a blocking socket read(2) puts the thread to sleep until something comes. On a non-blocking one it returns EAGAIN at \
              once, and what waits is up to the program. Go's sockets are non-blocking: at EAGAIN the runtime parks the goroutine, which \
              is a value on the heap, and its thread runs others or sleeps in epoll_wait for all of them. The netpoller model here does \
              the same with a task. So both seem to block for as long, but one costs a thread and the other costs none.",
        look: "strace -f -e trace=recvfrom,epoll_wait target/release/examples/lab run C42",
        exercise: "Let a thread read from a silent client, and look at its line in /proc/self/task/*/stat: which letter is its state? \
              Then make the socket non-blocking, and read again.",
        state: State::Runs(c42),
    },
    Claim {
        id: "C43",
        says: "“如果Socket中有部分数据就绪，且数据数量小于一次读操作期望读出的数据长度，那么读操作将会成功读出这部分数据，并返回” With \
              less there than the buffer holds, Read returns what is there",
        asks: "A buffer of 10 bytes, 2 have come: what does read return?",
        why: "read(2) waits for some bytes, not for all that would fit. So a short read is no error and no end, and how many bytes came \
              is known from its result only. io.ReadFull in Go and read_exact in Rust are loops around it.",
        look: "strace -f -e trace=recvfrom,sendto target/release/examples/lab run C43",
        exercise: "Connect, send 2 bytes, read into 10: print n. Then do it with read_exact, and see who waits.",
        state: State::Runs(c43),
    },
    Claim {
        id: "C44",
        says: "“这个时候，内核缓冲区中还剩5个字节数据，当服务端再次调用Read方法时，就会把剩余数据全部读出” Of 15 bytes a buffer of 10 \
              takes 10, and the next Read takes the other 5",
        asks: "100 bytes have come, and each epoll_wait that reports them is followed by one read of 10. How many of three waits report \
              something: level-triggered, and edge-triggered?",
        why: "What a read leaves stays in the kernel's receive buffer, and the next read begins there. A blocking reader need not care. \
              Who waits for events must: level-triggered epoll_wait reports the socket as long as bytes are there; edge-triggered \
              (EPOLLET, and all that mio offers) it reports that bytes have come, once, and is silent about the rest until more comes. So \
              an edge-triggered loop reads until EAGAIN, or remembers that it did not (epoll(7), Questions and answers, 9). Go's \
              netpoller is edge-triggered, too: its Read always tries first, and waits only after EAGAIN.",
        look: "strace -s 4 -e trace=recvfrom,sendto,/epoll target/release/examples/lab run C44",
        exercise: "Send 15 bytes and read twice into 10. Then write the same with mio, reading once for each event, and see the program \
              hang with 5 bytes unread.",
        state: State::Runs(c44),
    },
    Claim {
        id: "C45",
        says: "“当超时后仍然没有数据可读的情况下，Read操作会解除阻塞并返回超时错误，这就给Read方法的调用者提供了进行其他业务处理逻辑的机会” \
              After the read deadline Read fails with a timeout, and the caller can do something else",
        asks: "A read deadline in 50 ms, and the peer is silent. Can the connection still be used afterwards?",
        why: "A deadline ends a wait and not a connection: no packet is sent for it, and nothing in the kernel's buffers changes. Go's \
              runtime keeps a timer for each deadline and wakes the goroutine; the loop here keeps one look per connection and calls \
              Handler::deadline; a blocking socket has SO_RCVTIMEO (socket(7), TcpStream::set_read_timeout in Rust), with which recv(2) \
              gives up with EAGAIN. All may be late, if the machine is busy, and none is early.",
        look: "strace -f -r -e trace=recvfrom,setsockopt,/epoll target/release/examples/lab run C45",
        exercise: "Set a read timeout of 50 ms, read from a silent client, and print the error's kind. Then let the client send, and read \
              again.",
        state: State::Runs(c45),
    },
    Claim {
        id: "C46",
        says: "“SetReadDeadline方法接受一个绝对时间……当发生超时后，如果我们不重新设置Deadline，那么后面与这个socket有关的所有读操作，都会返回超时失败错误” \
              A deadline is absolute; once passed, all later reads fail until it is set anew",
        asks: "The read deadline has passed, then 3 bytes arrive. Are they read? And with SO_RCVTIMEO of a blocking socket?",
        why: "Go's deadline is a point in time, and Read looks at it before it looks at the socket: what arrives does not move it, and \
              bytes that are there are not handed out once it is over. The loop here keeps that rule: it stops reading until \
              set_read_deadline is called again. SO_RCVTIMEO is another thing, a length of time for each call: the next call begins anew, \
              and if bytes are there it does not wait at all. Rust's set_read_timeout is that one: a peer that drips a byte now and then \
              is never timed out by it.",
        look: "strace -f -r -e trace=recvfrom,setsockopt,/epoll target/release/examples/lab run C46",
        exercise: "Build a deadline on set_read_timeout: before each read set what is left of the time, and fail when nothing is. Show \
              that a dripping peer cannot stretch it.",
        state: State::Runs(c46),
    },
    Claim {
        id: "C47",
        says: "“如果我们要取消超时设置，可以使用SetReadDeadline（time.Time{}）实现” SetReadDeadline with the zero time takes the deadline \
              back",
        asks: "The only deadline there is, in 5 s, is set and then cleared. When does the loop want to wake next?",
        why: "The zero time.Time means none, in Rust None does: a value that says so itself. Clearing takes the timer away and also \
              forgets that a deadline had passed, so it is the way out of a timeout, too. In the loop next_deadline() says for how long \
              epoll_wait may sleep: with the only deadline cleared, for ever. A blocking socket's SO_RCVTIMEO of zero means the same, \
              which is why Rust's set_read_timeout refuses Some(0) and takes None.",
        look: "strace -f -r -e trace=recvfrom,setsockopt,/epoll target/release/examples/lab run C47",
        exercise: "Set a read timeout of 30 ms, clear it, and let the client send after 100 ms: the read returns its bytes. Then try \
              set_read_timeout(Some(Duration::ZERO)).",
        state: State::Runs(c47),
    },
    Claim {
        id: "C48",
        says: "“if nerr, ok := err.(net.Error); ok && nerr.Timeout() { continue }” The sample: a buffer of 128 bytes, a deadline of one \
              second set before each Read, and a timeout is no reason to close",
        asks: "The client is silent for three deadlines, then says hi. What does the server note, and is the connection still there?",
        why: "Since the deadline is set anew before each Read it acts as a time for silence: it begins again with whatever arrives. The \
              sample tells a timeout from other errors by net.Error's Timeout(); in Rust by ErrorKind::WouldBlock, which is what EAGAIN \
              becomes (on Windows TimedOut). In a loop the same is four lines: Handler::deadline notes it, sets the next and returns \
              Continue. Who wants silent clients gone returns Close; Config::idle_timeout does that for all of them.",
        look: "strace -f -r -e trace=recvfrom,sendto,/epoll target/release/examples/lab run C48",
        exercise: "Write the sample with set_read_timeout and a loop. Count the time-outs of a client that is silent for three of them, \
              and end the loop at its end (read returns 0).",
        state: State::Runs(c48),
    },
];

/// A type around another one, as Go's `TCPConn` is around `conn`.
struct Conn(TcpStream);

impl Deref for Conn {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.0
    }
}

fn c41(_: Lab) -> io::Result<Outcome> {
    fn four(mut from: impl Read) -> io::Result<String> {
        let mut bytes = [0; 4];
        from.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
    let (mut client, server) = pair()?;
    client.write_all(b"one two six ten ")?;
    let clones = [server.try_clone()?, server.try_clone()?];
    let conn = Conn(server);
    let by_reference = four(&conn.0)?;
    let by_deref = four(&*conn)?;
    has_come(&conn, 8); // mio's read does not wait
    let [for_mio, for_socket2] = clones;
    let by_socket2 = four(socket2::Socket::from(for_socket2))?;
    conn.set_nonblocking(true)?;
    let by_mio = four(mio::net::TcpStream::from_std(for_mio))?;
    let shares = [by_reference, by_deref, by_socket2, by_mio];
    let in_order = shares.concat() == "one two six ten ";
    let [by_reference, by_deref, by_socket2, by_mio] = shares;
    Ok(Outcome::new(Verdict::reproduced_if(in_order))
        .with("sent", "\"one two six ten \"")
        .with(
            "Go: (*net.TCPConn).Read; Rust: Read for &std::net::TcpStream",
            format!("{by_reference:?}"),
        )
        .with(
            "Go: a struct that embeds it; Rust: a struct with Deref",
            format!("{by_deref:?}"),
        )
        .with(
            "Go: syscall.RawConn; Rust: socket2::Socket",
            format!("{by_socket2:?}"),
        )
        .with(
            "Go: the netpoller's socket; Rust: mio::net::TcpStream, non-blocking",
            format!("{by_mio:?}"),
        ))
}

/// A thread's state as proc(5) has it: S is asleep.
pub(crate) fn state_of(thread: Pid) -> Option<char> {
    let stat =
        fs::read_to_string(format!("/proc/self/task/{}/stat", thread.as_raw_nonzero())).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// A submit and its ack.
fn ask(mut server: &TcpStream) -> io::Result<()> {
    server.write_all(b"\0\0\0\x0d\x0200000001")?;
    server.read_exact(&mut [0; 14])
}

fn c42(_: Lab) -> io::Result<Outcome> {
    let silence = Duration::from_millis(300);
    let (mut client, server) = pair()?;
    let mut netpoll = Server::start(Model::Netpoll)?;
    let task = TcpStream::connect(netpoll.addr)?;
    task.set_read_timeout(Some(PATIENCE))?;
    ask(&task)?; // its task runs, and is parked again
    let mut before = netpoll.calls()?;
    // The loop tells its calls at the end of a turn, the client may know of it earlier.
    wait_for(|| {
        netpoll.calls().is_ok_and(|calls| {
            calls[Call::Read as usize] > 0 && calls == std::mem::replace(&mut before, calls)
        })
    });

    let (tell, told) = mpsc::channel();
    let reader = thread::spawn(move || {
        let _ = tell.send(gettid());
        timed(|| (&server).read(&mut [0; 10]))
    });
    let thread = told.recv().map_err(io::Error::other)?;
    let mut asleep = wait_for(|| state_of(thread) == Some('S'));
    let (_peer, unread) = pair()?;
    unread.set_nonblocking(true)?;
    let (shortest, tried) = (0..10)
        .map(|_| timed(|| (&unread).read(&mut [0; 10])))
        .min_by_key(|(took, _)| *took)
        .expect("ten");
    thread::sleep(silence);
    asleep &= state_of(thread) == Some('S');
    let (after, threads) = (netpoll.calls()?, netpoll.usage()?.threads);
    client.write_all(b"hi")?;
    let (blocked, read) = reader
        .join()
        .map_err(|_| io::Error::other("the reader panicked"))?;
    ask(&task)?;

    let blocks = asleep && blocked >= silence && read.as_ref().is_ok_and(|count| *count == 2);
    let returns = tried
        .as_ref()
        .is_err_and(|error| name_of(error) == "EAGAIN")
        && shortest < silence;
    let made: u64 = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .sum();
    Ok(Outcome::new(Verdict::reproduced_if(
        blocks && returns && made == 0 && threads == 1,
    ))
    .with("silence", format!("{} ms", silence.as_millis()))
    .with(
        "blocking read",
        format!(
            "{} after {} ms, its thread asleep: {asleep}",
            result(&read),
            blocked.as_millis()
        ),
    )
    .with(
        "non-blocking read",
        format!(
            "{} after {:.1} µs",
            result(&tried),
            shortest.as_secs_f64() * 1e6
        ),
    )
    .with(
        "parked task",
        format!("{made} calls of its server meanwhile, threads there: {threads}; then it answered"),
    ))
}

fn c43(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    client.write_all(b"hi")?;
    let mut buffer = [0; 10];
    let count = server.read(&mut buffer)?;
    Ok(Outcome::new(Verdict::reproduced_if(count == 2))
        .with("buffer", "10 bytes")
        .with("sent", "2 bytes")
        .with("read", count))
}

/// One read of 10 bytes for each wait that reports some: thrice with 100 bytes there, once more when another byte has come. Returns what
/// the waits reported.
fn reports(interest: EventFlags) -> io::Result<[usize; 4]> {
    let (mut client, mut server) = pair()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    sys::epoll_add(&epoll, &server, 0, interest)?;
    let (mut reported, mut left) = ([0; 4], 0);
    for (number, reported) in reported.iter_mut().enumerate() {
        let come = [100, 0, 0, 1][number];
        client.write_all(&[0; 100][..come])?;
        left += come;
        has_come(&server, left);
        *reported = sys::epoll_wait(&epoll, &mut Vec::with_capacity(4), false)?;
        if *reported > 0 {
            left -= server.read(&mut [0; 10])?;
        }
    }
    Ok(reported)
}

fn c44(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    client.write_all(&[0; 15])?;
    has_come(&server, 15);
    let mut read = || server.read(&mut [0; 10]);
    let (first, second) = (read()?, read()?);
    let level = reports(EventFlags::IN)?;
    let edge = reports(EventFlags::IN | EventFlags::ET)?;
    let tell = |[one, two, three, then]: [usize; 4]| {
        format!("events {one}, {two}, {three}; after one more byte {then}")
    };
    let as_known = (first, second) == (10, 5) && level == [1, 1, 1, 1] && edge == [1, 0, 0, 1];
    Ok(Outcome::new(Verdict::reproduced_if(as_known))
        .with(
            "sent 15 bytes, read into 10",
            format!("{first}, then {second}"),
        )
        .with(
            "100 bytes, 10 read for each event, level-triggered",
            tell(level),
        )
        .with("the same, edge-triggered", tell(edge))
        .note("The edge-triggered one stood still with 90 bytes unread: the classic hang."))
}
