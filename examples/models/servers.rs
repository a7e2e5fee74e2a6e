//! The nine servers, and the code that starts one of them.
//!
//! They differ in which thread waits, and where. They also differ in the container that maps a
//! result to its connection: a list for busy and poll, which scan all connections; a tree by
//! descriptor for select; a slab where the kernel returns keys; and none where the thread blocks.

mod busy;
pub(crate) mod child;
mod chunks;
mod conn;
mod epoll_et;
mod epoll_lt;
mod iterative;
mod netpoll;
mod poll;
mod reactor;
pub(crate) mod select;
pub(crate) mod session;
pub(crate) mod sys;
mod threads;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, BufRead, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use socket2::{Domain, Socket, Type};

/// Which server to run, and how.
#[derive(clap::Args)]
pub(crate) struct Serve {
    #[arg(value_enum)]
    model: Model,

    /// Address and port to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8888")]
    listen: String,

    /// For each line on stdin, print the counts of system calls so far; exit at the end of the
    /// input
    #[arg(long)]
    report: bool,
}

/// The nine models, by which thread waits, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Model {
    /// One client after the other, blocking
    Iterative,
    /// A thread for each client, blocking
    Threads,
    /// Non-blocking, in a busy loop over all clients
    Busy,
    /// select(2)
    Select,
    /// poll(2)
    Poll,
    /// epoll(7), level-triggered
    EpollLt,
    /// epoll(7), edge-triggered
    EpollEt,
    /// The library
    Reactor,
    /// Straight-line tasks on the reactor
    Netpoll,
}

impl Model {
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .expect("none is skipped")
            .get_name()
            .to_string()
    }
}

/// Serves until the process ends.
pub(crate) fn serve(
    Serve {
        model,
        listen,
        report,
    }: &Serve,
) -> Result<(), Box<dyn Error>> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let listener = bind(listen).map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    if *report {
        thread::Builder::new()
            .name(child::REPORTER.into())
            .stack_size(64 * 1024)
            .spawn(report_calls)?;
    }
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    match model {
        Model::Iterative => iterative::serve(&listener),
        Model::Threads => threads::serve(&listener)?,
        Model::Busy => busy::serve(&listener)?,
        Model::Select => select::serve(&listener)?,
        Model::Poll => poll::serve(&listener)?,
        Model::EpollLt => epoll_lt::serve(&listener)?,
        Model::EpollEt => epoll_et::serve(&listener)?,
        Model::Reactor => reactor::serve(&listener)?,
        Model::Netpoll => netpoll::serve(&listener)?,
    }
    Ok(())
}

/// Writes a line to stderr. Write errors are ignored.
pub(crate) fn log(what: impl Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Logs an error of `accept`, and sleeps for 50 ms.
///
/// The usual error is too many open files. The client stays in the backlog, so a loop that
/// continues at once would spin. This sleep stops the whole thread; the reactor sets a timer
/// instead, and keeps serving.
fn back_off_after(error: &io::Error) {
    log(format_args!("accept: {error}"));
    thread::sleep(Duration::from_millis(50));
}

/// Binds a listener with a backlog of 4096; std's own has 128.
fn bind(addr: &str) -> io::Result<TcpListener> {
    let addr: std::net::SocketAddr = addr.parse().map_err(io::Error::other)?;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Prints the counts of system calls for each line on stdin. At the end of the input, stops further
/// calls, prints the final counts and exits.
fn report_calls() {
    let report = || {
        let counts = sys::counts().map(|count| count.to_string()).join(" ");
        let _ = writeln!(io::stdout(), "{counts}");
    };
    io::stdin()
        .lock()
        .lines()
        .map_while(Result::ok)
        .for_each(|_| report());
    sys::stop_calls();
    report();
    std::process::exit(0);
}
