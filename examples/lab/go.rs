//! Go's own model, and what is below it: C19 to C25. The experiments on the netpoller itself stand in `netpoller.rs`.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use glassloop::codec::Line;
use glassloop::{Config, Context, Handler, Origin, Reactor, Turn, Verdict as Next};
use rustix::event::{FdSetElement, fd_set_insert, fd_set_num_elements};
use similar::{ChangeTag, TextDiff};

use super::beside;
use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::client::{Client, crowd};
use super::netpoller::{c21, c22, c23};
use super::servers::child::Server;
use super::servers::{Model, select, sys};
use super::source::function_of;
use super::tools::{PATIENCE, listen, pair, thousands};
use super::wait_cost;

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C19",
        says: "“通过回调割裂执行流” Callbacks cut the flow of control into pieces",
        asks: "Two questions are asked one after the other, and their answers added. How often is the callback entered, and where is the first answer meanwhile?",
        why: "A callback must return before the loop can wait for more. So the code behind each wait is a call of its own, and what the code in front of it knew \
              must be kept elsewhere: here in an Option beside the connection. On a thread, in a goroutine and in an async fn it is a local variable, for the stack \
              (or the compiler's state machine) is still there when the wait is over. See `handle` in examples/models/threads.rs and in netpoll.rs: the same code, with `.await` at each wait.",
        look: "diff examples/models/threads.rs examples/models/netpoll.rs",
        exercise: "Write a server that asks for two numbers and answers with their sum: with a thread for each client, then as a glassloop Handler. \
                   Add a third number to both, and compare what you had to change.",
        state: State::Runs(c19),
    },
    Claim {
        id: "C20",
        says: "“使用了开销更小的Goroutine…让每个Goroutine处理一个TCP连接成为可能” Goroutines cost less than threads, so that each connection can have one",
        asks: "200 clients, 200 goroutines: how many threads of the operating system?",
        why: "A thread has a stack in whole pages, a place in the kernel's scheduler, and keeps both while it waits. A goroutine begins with 2 KiB of stack that grows when needed, and an async \
              task is just as large as what it remembers across its waits. Both wait as values on the heap, not as threads, so a few threads (Go), or one (the reactor), serve all. \
              The servers differ in their buffers, too: threads.rs has 16 KiB on each stack, netpoll.rs 512 bytes in each task, reactor.rs none for an idle client.",
        look: "go run examples/lab/go/*.go crowd 200",
        exercise: "Accept 1,000 connections that stay silent, once with a thread and once with a goroutine (or tokio task) each. Read Threads and RssAnon in /proc/PID/status.",
        state: State::Runs(c20),
    },
    Claim {
        id: "C21",
        says: "“netpoller的作用，就是只阻塞执行网络I/O操作的Goroutine，但不阻塞执行Goroutine的线程（也就是M）” The netpoller stops the goroutine, not the thread (M) that runs it",
        asks: "50 goroutines wait in Conn.Read, then 50 more in read(2) on blocking pipes. How many threads are there before, and after?",
        why: "read(2) on a blocking descriptor keeps its thread in the kernel. Go's scheduler cannot use that M until it returns, and takes another one for the other goroutines: a thread for each. \
              Conn.Read makes a call that returns at once with EAGAIN; then the goroutine is put aside (gopark), and its M runs the next one. The reactor's tasks are parked likewise, all on one thread. \
              What the reactor lacks is a second M: a task that computes delays all others, whereas Go's scheduler takes the processor away after 10 ms.",
        look: "go run examples/lab/go/*.go scheduler 50",
        exercise: "Start 50 goroutines with syscall.Read on pipes that nobody writes to, and count /proc/self/task. Then os.Pipe and File.Read: why does that cost no threads?",
        state: State::Runs(c21),
    },
    Claim {
        id: "C22",
        says: "“真实的底层操作系统Socket，实际上是非阻塞的…通过netpoller和Goroutine调度，让Goroutine‘阻塞’” The blocking socket is an illusion: below it is a non-blocking one, and EAGAIN becomes a parked goroutine",
        asks: "A Read waits and then returns 5 bytes. Which system calls were made on the way, in which order?",
        why: "read: EAGAIN; the goroutine is parked; a thread waits in epoll for all that are; the bytes come, the goroutine is woken; read: 5. That loop is FD.Read in Go's internal/poll/fd_unix.go \
              (`if err == syscall.EAGAIN { fd.pd.waitRead(); continue }`). examples/lab/illusion.rs builds it once more, with a Rust async fn in the goroutine's place: two tasks wait in their reads, and the one thread sleeps in epoll_wait only. \
              Go's own stack traces call the state `IO wait`.",
        look: "strace -f -e trace=recvfrom,epoll_wait target/release/examples/lab run C22",
        exercise: "Write a function read(stream, poll, buffer) that looks blocking: a non-blocking read, on EAGAIN an epoll wait, and again. Then let two connections use it on one thread: what must be parked now?",
        state: State::Runs(c22),
    },
    Claim {
        id: "C23",
        says: "“如果…还没有数据，运行时就会将这个Socket描述符加入到netpoller中监听，同时…Goroutine会被挂起” With no data there, the runtime adds the descriptor to the netpoller and parks the goroutine",
        asks: "A connection is read from ten times, and each read has to wait. How many epoll_ctl calls is that?",
        why: "The descriptor is added once, when the socket is made (FD.Init, netpollopen: IN|OUT|RDHUP|ET), whether or not anybody ever waits for it. Edge-triggered it needs no second call: \
              the kernel reports each change once, and the runtime remembers it in the pollDesc. What happens at EAGAIN is only that the goroutine is noted there and parked. \
              The reactor does the same: one registration a connection, and readiness remembered in two bits.",
        look: "strace -f -e trace=epoll_ctl target/release/examples/lab run C23 2>&1 | grep 'ADD.*) = 0$' | tail -30",
        exercise: "In Go, accept a connection and do not read. Find the eventpoll descriptor in /proc/self/fd, and read its /proc/self/fdinfo: is the connection in it?",
        state: State::Runs(c23),
    },
    Claim {
        id: "C24",
        says: "“select有比较多的限制，比如：监听Socket的数量有上限（1024）、时间复杂度高” select can watch at most 1,024 sockets, and its cost grows with them",
        asks: "A process watches a single socket, whose descriptor has the number 1,100. Can it use select?",
        why: "An fd_set of the C library has 1,024 bits, one for each descriptor from 0 to 1,023. So the limit is on the number that a descriptor has, not on how many are watched: one is too many if it is high, and FD_SET would write \
              behind the set. The kernel itself takes sets of any size, as select(2) says; who makes a larger one gets an answer on Linux. The cost is another matter: each call copies the sets and looks at every descriptor in them.",
        look: "strace -f -e trace=accept4,close target/release/examples/lab run C24 2>&1 | grep -A1 '= 1024$'",
        exercise: "Duplicate a socket to the number 1,100 (fcntl F_DUPFD), and watch it with poll. Which line would you have to add to a program with select, before FD_SET?",
        state: State::Runs(c24),
    },
    Claim {
        id: "C25",
        says: "“Linux上的epoll、Windows上的iocp、FreeBSD/MacOS上的kqueue、Solaris上的event port” Each system has its own call for waiting on many sockets, and Go uses it",
        asks: "Which kind of descriptor does mio wait on here?",
        why: "Go's runtime has a file for each (runtime/netpoll_epoll.go, _kqueue, _windows, _solaris, _aix), mio a directory (src/sys). epoll, kqueue and event ports tell who is ready, and one reads then. \
              IOCP is another idea: one hands over the buffer first, and is told when the reading is done. Go's netpoller hides that by parking the goroutine until it is; mio asks Windows for readiness \
              (the AFD driver), and takes that from the completion port.",
        look: "strace -f -e trace=epoll_create1 target/release/examples/lab run C25 2>&1 | grep epoll_create1",
        exercise: "List /proc/PID/fd of any server that you run (nginx, redis, a Go program), and find the descriptor that it waits on.",
        state: State::Substitute(
            c25,
            "Only this system can be looked at: what Go and mio take on the others is read from their sources (Go 1.19, mio 1.2).",
        ),
    },
];

/// Asks for two numbers and answers with their sum, in straight-line code.
fn straight_line(stream: &TcpStream, entered: &mut u32) -> io::Result<()> {
    *entered += 1;
    let mut lines = BufReader::new(stream).lines();
    let first = number(
        lines
            .next()
            .ok_or(io::ErrorKind::UnexpectedEof)??
            .as_bytes(),
    ); // waits
    writeln!(&*stream, "and?")?;
    let second = number(
        lines
            .next()
            .ok_or(io::ErrorKind::UnexpectedEof)??
            .as_bytes(),
    ); // waits
    writeln!(&*stream, "{}", first + second)
}

/// The same, cut where it would wait.
struct Callback {
    entered: u32,
}

impl Handler for Callback {
    type Codec = Line;
    /// The first number: no local variable lives long enough.
    type State = Option<i64>;
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, Option<i64>) {
        (Line::default(), None)
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Next {
        self.entered += 1;
        match cx.state().take() {
            None => {
                *cx.state() = Some(number(line));
                cx.send(&b"and?"[..]);
            }
            Some(first) => cx.send((first + number(line)).to_string().as_bytes()),
        }
        Next::Continue
    }
}

fn number(line: &[u8]) -> i64 {
    std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn c19(_: Lab) -> io::Result<Outcome> {
    /// What the client hears.
    fn talk(addr: SocketAddr) -> io::Result<Vec<String>> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut lines, mut heard) = (BufReader::new(&stream).lines(), Vec::new());
        for said in ["3", "4"] {
            writeln!(&stream, "{said}")?;
            heard.push(lines.next().ok_or(io::ErrorKind::UnexpectedEof)??);
        }
        Ok(heard)
    }
    let (listener, mut straight) = (listen()?, 0);
    let addr = listener.local_addr()?;
    let client = thread::spawn(move || talk(addr));
    straight_line(&listener.accept()?.0, &mut straight)?;
    let from_straight = client.join().expect("it does not panic")?;

    let mut reactor = Reactor::new(Callback { entered: 0 }, Config::default())?;
    let addr = reactor.listen("127.0.0.1:0")?;
    let client = thread::spawn(move || talk(addr));
    while !client.is_finished() && reactor.turn(Some(Duration::from_millis(5)))? == Turn::Running {}
    let (from_callback, callback) = (
        client.join().expect("it does not panic")?,
        reactor.into_handler().entered,
    );

    let [blocking, task] = [
        (Model::Threads, "fn handle("),
        (Model::Netpoll, "async fn handle("),
    ]
    .map(|(model, name)| function_of(model, name));
    let diff = TextDiff::from_lines(blocking, task);
    let of = |tag| {
        diff.iter_all_changes()
            .filter(|change| change.tag() == tag)
            .count()
    };
    let holds = from_straight == ["and?", "7"]
        && from_callback == from_straight
        && straight == 1
        && callback == 2;
    Ok(Outcome::new(Verdict::reproduced_if(holds))
        .with(
            "the client says 3 and 4, and hears",
            from_straight.join(" "),
        )
        .with(
            "straight-line: entered",
            format!("{straight} time; the first number is a local variable"),
        )
        .with(
            "callback: entered",
            format!("{callback} times; the first number is an Option beside the connection"),
        )
        .with(
            "the nine servers: `handle` on a thread, on the reactor",
            format!(
                "{} lines, {} lines",
                blocking.lines().count(),
                task.lines().count()
            ),
        )
        .with("lines that are the same in both", of(ChangeTag::Equal)))
}

fn c20(_: Lab) -> io::Result<Outcome> {
    const CLIENTS: u64 = 200;
    /// Threads, and bytes of memory for each client.
    fn cost(model: Model) -> io::Result<(u64, u64)> {
        let server = Server::start(model)?;
        let _first = crowd(server.addr, 1)?;
        let before = server.usage()?;
        let _clients = crowd(server.addr, CLIENTS as usize)?;
        let after = server.usage()?;
        Ok((
            after.threads,
            after.memory.saturating_sub(before.memory) / CLIENTS,
        ))
    }
    let go = beside::run("crowd", &["200"], |said| {
        said.number("goroutines for them") == Some(CLIENTS)
            && said
                .number("threads")
                .is_some_and(|threads| threads < CLIENTS / 4)
    })?;
    let [thread, task, slot] = [
        cost(Model::Threads)?,
        cost(Model::Netpoll)?,
        cost(Model::Reactor)?,
    ];
    let holds = thread.0 > CLIENTS
        && task.0 == 1
        && slot.0 == 1
        && task.1 < thread.1
        && slot.1 < thread.1
        && go.agrees();
    let text = |(threads, bytes): (u64, u64)| {
        format!(
            "{threads}, and {} bytes for each client",
            thousands(bytes as usize)
        )
    };
    let outcome = Outcome::new(Verdict::reproduced_if(holds))
        .with("clients, all silent", CLIENTS)
        .with("a thread each: threads", text(thread))
        .with("a task each, on the reactor: threads", text(task))
        .with("a callback, on the reactor: threads", text(slot));
    Ok(go.show(outcome))
}

fn c24(_: Lab) -> io::Result<Outcome> {
    const CLIENTS: usize = 1_100;
    let limit = rlimit::increase_nofile_limit(u64::MAX)?;
    if limit < CLIENTS as u64 + 100 {
        return Ok(Outcome::new(Verdict::NotHere).note(format!(
            "This process may have {limit} descriptors only (ulimit -n)."
        )));
    }
    let costs = wait_cost::measure(&[10, 500]);
    let of = |call: usize| {
        Ok::<_, io::Error>(
            [costs[0].nanos[call].clone(), costs[1].nanos[call].clone()]
                .map(|nanos| nanos.unwrap_or(f64::NAN)),
        )
    };
    let ([few, many], [flat_few, flat_many]) = (of(0)?, of(2)?);

    // One after the other, until one is sent away.
    let server = Server::start(Model::Select)?;
    let mut clients = Vec::new();
    let mut sent_away = None;
    while clients.len() < CLIENTS && sent_away.is_none() {
        let mut client = Client::connect(server.addr)?;
        sent_away = client.ask().err();
        clients.push(client);
    }
    let answered = clients.len() - usize::from(sent_away.is_some());
    drop(clients);
    let by_epoll = crowd(Server::start(Model::EpollLt)?.addr, CLIENTS)?.len();

    let (mut client, stream) = pair()?;
    let high = rustix::io::fcntl_dupfd_cloexec(&stream, 1_100)?;
    client.write_all(b"x")?;
    let number = high.as_raw_fd();
    let mut set = vec![FdSetElement::default(); fd_set_num_elements(0, number + 1)]; // larger than C's
    let mut none = set.clone();
    fd_set_insert(&mut set, number);
    let ready = sys::select(number, &mut set, &mut none)?;

    let limited =
        sent_away.is_some() && answered < select::FD_SETSIZE as usize && by_epoll == CLIENTS;
    let grows = many > 5.0 * few && flat_many < 3.0 * flat_few;
    Ok(
        Outcome::new(Verdict::Refined.only_if(limited && grows && ready == 1))
            .with(
                "clients that the server with select serves at once",
                thousands(answered),
            )
            .with(
                "the next one",
                sent_away.map_or("is served, too".into(), |error| {
                    format!("is sent away ({error})")
                }),
            )
            .with(
                "clients that the server with epoll serves at once",
                thousands(by_epoll),
            )
            .with(
                format!("descriptor {number}, in a set of 1,152 bits: select returns"),
                ready,
            )
            .with(
                "a wait with select beside 10 and beside 500",
                format!("{few:.0} ns, {many:.0} ns"),
            )
            .with(
                "a wait with epoll beside 10 and beside 500",
                format!("{flat_few:.0} ns, {flat_many:.0} ns"),
            ),
    )
}

fn c25(_: Lab) -> io::Result<Outcome> {
    const KIND: &str = "anon_inode:[eventpoll]";
    let go = beside::run("kind", &[], |said| said.text("netpoller") == KIND)?;
    let poll = mio::Poll::new()?;
    let kind = fs::read_link(format!("/proc/self/fd/{}", poll.as_raw_fd()))?
        .display()
        .to_string();
    let outcome = Outcome::new(Verdict::reproduced_if(kind == KIND && go.agrees()))
        .with(
            format!("mio on {}, its descriptor", std::env::consts::OS),
            kind,
        )
        .with("Linux", "Go epoll, mio epoll")
        .with("macOS, FreeBSD and kin", "Go kqueue, mio kqueue")
        .with("Windows", "Go IOCP, mio IOCP (asked for readiness)")
        .with("Solaris", "Go event ports, mio event ports")
        .with("illumos", "Go event ports, mio epoll")
        .with("AIX", "Go poll, mio poll");
    Ok(go.show(outcome))
}
