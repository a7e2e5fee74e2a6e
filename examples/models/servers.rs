//! The nine servers, and how one of them is started.
//!
//! They differ in who waits, where; and, since the answer of a call is looked up in it, in the container of the connections: a list for busy and
//! poll, which go through all of them, a tree by descriptor for select, a slab for who gets keys back, and none for who blocks.

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

/// Which server is to run, and how.
#[derive(clap::Args)]
pub(crate) struct Serve {
    #[arg(value_enum)]
    model: Model,

    /// Where it listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8888")]
    listen: String,

    /// Print the calls made so far for each line that comes in, and end with the input
    #[arg(long)]
    report: bool,
}

/// Who waits, where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Model {
    /// One client after the other, blocking
    Iterative,
    /// A thread for each client, blocking
    Threads,
    /// Non-blocking, asking everybody all the time
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

/// Serves until the process is ended.
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
            .spawn(tell_calls)?;
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

/// A line on stderr; if nobody reads that, nobody does.
pub(crate) fn complain(what: impl Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// After an error of accept: too many open files, as a rule. The client stays in the queue, so who goes on at once spins. Here all wait a
/// little instead; the reactor waits for this with a timer, and goes on serving meanwhile.
fn rest_after(error: &io::Error) {
    complain(format_args!("accept: {error}"));
    thread::sleep(Duration::from_millis(50));
}

/// A listener with room for many newcomers: std's own has room for 128.
fn bind(addr: &str) -> io::Result<TcpListener> {
    let addr: std::net::SocketAddr = addr.parse().map_err(io::Error::other)?;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Says for each line how many calls were made so far, and for the last time at the end of the lines, with which the server ends.
fn tell_calls() {
    let tell = || {
        let counts = sys::counts().map(|count| count.to_string()).join(" ");
        let _ = writeln!(io::stdout(), "{counts}");
    };
    io::stdin()
        .lock()
        .lines()
        .map_while(Result::ok)
        .for_each(|_| tell());
    sys::make_no_more();
    tell();
    std::process::exit(0);
}
