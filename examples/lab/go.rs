//! Go's own model, and what is below it: C19 to C25. The experiments on the netpoller itself are in
//! `netpoller.rs`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;

use glassloop::{Config, Reactor};
use rustix::event::{FdSetElement, fd_set_insert, fd_set_num_elements};
use similar::{ChangeTag, TextDiff};

use super::beside;
use super::lines::{Lines, serve_while};
use super::netpoller::{c21, c22, c23};
use super::prelude::*;
use super::servers::child::Server;
use super::servers::{Model, select, sys};
use super::service::{Client, crowd};
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
    let first = number(lines.next().ok_or(ErrorKind::UnexpectedEof)??.as_bytes()); // waits
    writeln!(&*stream, "and?")?;
    let second = number(lines.next().ok_or(ErrorKind::UnexpectedEof)??.as_bytes()); // waits
    writeln!(&*stream, "{}", first + second)
}

/// The same, cut where it would wait.
#[derive(Default)]
struct Callback {
    entered: u32,
    /// The first number: no local variable lives long enough.
    first: Option<i64>,
}

fn callback() -> Lines<Callback> {
    Lines {
        on_line: |service, line, cx| {
            service.data.entered += 1;
            match service.data.first.take() {
                None => {
                    service.data.first = Some(number(line));
                    cx.send(&b"and?"[..]);
                }
                Some(first) => cx.send((first + number(line)).to_string().as_bytes()),
            }
        },
        ..Lines::new(Callback::default())
    }
}

fn number(line: &[u8]) -> i64 {
    let text = std::str::from_utf8(line).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn c19(_: Lab) -> io::Result<Outcome> {
    /// What the client receives.
    fn talk(addr: SocketAddr) -> io::Result<Vec<String>> {
        let stream = connected(addr, 0, 0)?;
        let (mut lines, mut received) = (BufReader::new(&stream).lines(), Vec::new());
        for number in ["3", "4"] {
            writeln!(&stream, "{number}")?;
            received.push(lines.next().ok_or(ErrorKind::UnexpectedEof)??);
        }
        Ok(received)
    }
    let ((listener, addr), mut straight) = (listening(0, 0)?, 0);
    let client = thread::spawn(move || talk(addr));
    straight_line(&listener.accept()?.0, &mut straight)?;
    let received = joined(client)??;

    let mut reactor = Reactor::new(callback(), Config::default())?;
    let from_callback = serve_while(&mut reactor, talk)?;
    let callback = reactor.into_handler().data.entered;

    let blocking = function_of(Model::Threads, "fn handle(");
    let task = function_of(Model::Netpoll, "async fn handle(");
    let diff = TextDiff::from_lines(blocking, task);
    let is_same = |tag| tag == ChangeTag::Equal;
    let same = diff
        .iter_all_changes()
        .filter(|change| is_same(change.tag()))
        .count();
    let [on_thread, on_reactor] = [blocking, task].map(|text| text.lines().count());
    let as_known = received == ["and?", "7"] && (straight, callback) == (1, 2);
    let values = values![received, straight, callback, on_thread, on_reactor, same];
    Verdict::reproduced_if(as_known && from_callback == received).measured(values)
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
        let memory = after.memory.saturating_sub(before.memory) / CLIENTS;
        Ok((after.threads, memory))
    }
    let go = beside::run("crowd", &["200"], |said| {
        let threads = said.number("threads");
        said.number("goroutines for them") == Some(CLIENTS)
            && threads.is_some_and(|threads| threads < CLIENTS / 4)
    })?;
    let thread = cost(Model::Threads)?;
    let (task, slot) = (cost(Model::Netpoll)?, cost(Model::Reactor)?);
    let cheap = |cost: (u64, u64)| cost.0 == 1 && cost.1 < thread.1;
    let holds = thread.0 > CLIENTS && cheap(task) && cheap(slot);
    let values = values![clients = CLIENTS, thread, task, slot];
    go.measured(Verdict::reproduced_if(holds), values)
}

fn c24(_: Lab) -> io::Result<Outcome> {
    const CLIENTS: usize = 1_100;
    let limit = rlimit::increase_nofile_limit(u64::MAX)?;
    if limit < CLIENTS as u64 + 100 {
        let reason = format!("This process may open only {limit} descriptors (ulimit -n).");
        return Ok(Outcome::not_here(reason));
    }
    let costs = wait_cost::measure(&[10, 500]);
    let of = |row: usize, call: usize| costs[row].nanos[call].clone().unwrap_or(f64::NAN);
    let [few, many, flat_few, flat_many] = [of(0, 0), of(1, 0), of(0, 2), of(1, 2)];

    // One after the other, until one is refused.
    let server = Server::start(Model::Select)?;
    let (mut clients, mut refused) = (Vec::new(), None);
    while clients.len() < CLIENTS && refused.is_none() {
        let mut client = Client::connect(server.addr)?;
        refused = client.hello().err();
        clients.push(client);
    }
    let answered = clients.len() - usize::from(refused.is_some());
    drop(clients);
    let by_epoll = crowd(Server::start(Model::EpollLt)?.addr, CLIENTS)?.len();

    let (mut client, stream) = pair()?;
    let high = rustix::io::fcntl_dupfd_cloexec(&stream, 1_100)?;
    client.write_all(b"x")?;
    let number = high.as_raw_fd();
    // Larger than C's.
    let mut set = vec![FdSetElement::default(); fd_set_num_elements(0, number + 1)];
    let mut none = set.clone();
    fd_set_insert(&mut set, number);
    let ready = sys::select(number, &mut set, &mut none)?;

    let limited =
        refused.is_some() && answered < select::FD_SETSIZE as usize && by_epoll == CLIENTS;
    let grows = many > 5.0 * few && flat_many < 3.0 * flat_few;
    let next = refused.map_or("is served".into(), |error| format!("is refused ({error})"));
    Verdict::Refined
        .only_if(limited && grows && ready == 1)
        .measured(values![
            answered, next, by_epoll, number, ready, few, many, flat_few, flat_many
        ])
}

fn c25(_: Lab) -> io::Result<Outcome> {
    const KIND: &str = "anon_inode:[eventpoll]";
    let go = beside::run("kind", &[], |said| said.text("netpoller") == KIND)?;
    let poll = mio::Poll::new()?;
    let link = fs::read_link(format!("/proc/self/fd/{}", poll.as_raw_fd()))?;
    let (system, kind) = (std::env::consts::OS, link.display().to_string());
    let verdict = Verdict::reproduced_if(kind == KIND);
    go.measured(verdict, values![system, kind])
}
