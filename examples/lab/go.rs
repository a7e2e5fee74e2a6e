//! Go's own model, and what is below it: C19 to C25. The experiments on the netpoller itself stand in `netpoller.rs`.

use super::prelude::*;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;

use glassloop::codec::Line;
use glassloop::{Config, Context, Handler, Origin, Reactor, Turn, Verdict as Next};
use rustix::event::{FdSetElement, fd_set_insert, fd_set_num_elements};
use similar::{ChangeTag, TextDiff};

use super::beside;
use super::client::{Client, crowd};
use super::netpoller::{c21, c22, c23};
use super::servers::child::Server;
use super::servers::{Model, select, sys};
use super::source::function_of;
use super::wait_cost;

pub(crate) const RUNS: &[(&str, Run)] = &[
    ("C19", c19),
    ("C20", c20),
    ("C21", c21),
    ("C22", c22),
    ("C23", c23),
    ("C24", c24),
    ("C25", c25),
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
    Verdict::reproduced_if(holds).measured(values![
        received = from_straight.join(" "),
        straight,
        callback,
        on_thread = blocking.lines().count(),
        on_reactor = task.lines().count(),
        same = of(ChangeTag::Equal)
    ])
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
    let outcome = Outcome::new(
        Verdict::reproduced_if(holds),
        values![
            clients = CLIENTS,
            thread = text(thread),
            task = text(task),
            slot = text(slot)
        ],
    );
    Ok(go.show(outcome))
}

fn c24(_: Lab) -> io::Result<Outcome> {
    const CLIENTS: usize = 1_100;
    let limit = rlimit::increase_nofile_limit(u64::MAX)?;
    if limit < CLIENTS as u64 + 100 {
        return Ok(Outcome::not_here(format!(
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
    Verdict::Refined
        .only_if(limited && grows && ready == 1)
        .measured(values![
            answered,
            next = sent_away.map_or("is served, too".into(), |error| {
                format!("is sent away ({error})")
            }),
            by_epoll,
            number,
            ready,
            few,
            many,
            flat_few,
            flat_many
        ])
}

fn c25(_: Lab) -> io::Result<Outcome> {
    const KIND: &str = "anon_inode:[eventpoll]";
    let go = beside::run("kind", &[], |said| said.text("netpoller") == KIND)?;
    let poll = mio::Poll::new()?;
    let kind = fs::read_link(format!("/proc/self/fd/{}", poll.as_raw_fd()))?
        .display()
        .to_string();
    let outcome = Outcome::new(
        Verdict::reproduced_if(kind == KIND && go.agrees()),
        values![system = std::env::consts::OS, kind],
    );
    Ok(go.show(outcome))
}
