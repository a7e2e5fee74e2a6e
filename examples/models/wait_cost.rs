//! Measures the cost of one wait call, with one descriptor ready and many idle.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::event::{FdSetElement, PollFd, PollFlags, fd_set_insert, fd_set_num_elements};

use super::servers::{select, sys};

/// The wait calls, in the order of [`Cost::nanos`].
pub(crate) const CALLS: [&str; 3] = ["select", "poll", "epoll"];

/// The cost of a wait with `idle` idle connections, for each call: nanoseconds, or the reason why
/// it could not be measured.
pub(crate) struct Cost {
    pub(crate) idle: usize,
    pub(crate) nanos: [Result<f64, String>; 3],
}

/// Measures all calls, for each number of idle connections.
pub(crate) fn measure(idle: &[usize]) -> Vec<Cost> {
    idle.iter()
        .map(|&idle| Cost {
            idle,
            nanos: measure_with(idle)
                .unwrap_or_else(|error| [(); 3].map(|()| Err(error.to_string()))),
        })
        .collect()
}

fn measure_with(idle: usize) -> io::Result<[Result<f64, String>; 3]> {
    let limit = rlimit::Resource::NOFILE.get_soft()? as usize;
    if idle + 100 > limit {
        return Err(io::Error::other(format!(
            "only {limit} descriptors are allowed (ulimit -n)"
        )));
    }
    let connections = Connections::new(idle)?;
    Ok([
        connections.select().map_err(|error| error.to_string()),
        Ok(connections.poll()?),
        Ok(connections.epoll()?),
    ])
}

/// Many connections, of which one has bytes to read.
struct Connections {
    /// Both ends of each pair: if one end were closed, the other would be ready.
    ends: Vec<TcpStream>,
    /// How many of `ends` are waited for. If this is odd, one end is not used.
    idle: usize,
    ready: TcpStream,
    _peer: TcpStream,
}

impl Connections {
    fn new(idle: usize) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let pair = || {
            Ok::<_, io::Error>([
                TcpStream::connect(listener.local_addr()?)?,
                listener.accept()?.0,
            ])
        };
        let mut ends = Vec::new();
        while ends.len() < idle {
            ends.extend(pair()?);
        }
        let [mut peer, ready] = pair()?;
        peer.write_all(b"x")?;
        Ok(Self {
            ends,
            idle,
            ready,
            _peer: peer,
        })
    }

    fn all(&self) -> impl Iterator<Item = &TcpStream> {
        self.ends[..self.idle].iter().chain([&self.ready])
    }

    fn select(&self) -> io::Result<f64> {
        let highest = self.all().map(AsRawFd::as_raw_fd).max().unwrap_or(0);
        if highest >= select::FD_SETSIZE {
            return Err(io::Error::other(format!(
                "select takes descriptors up to {} only",
                select::FD_SETSIZE - 1
            )));
        }
        let mut wanted = vec![FdSetElement::default(); fd_set_num_elements(0, highest + 1)];
        self.all()
            .for_each(|stream| fd_set_insert(&mut wanted, stream.as_raw_fd()));
        let (mut read, mut write) = (wanted.clone(), vec![FdSetElement::default(); wanted.len()]);
        time(|| {
            read.copy_from_slice(&wanted); // the call changes its sets
            sys::select(highest, &mut read, &mut write)
        })
    }

    fn poll(&self) -> io::Result<f64> {
        let mut fds: Vec<PollFd<'_>> = self
            .all()
            .map(|stream| PollFd::new(stream, PollFlags::IN))
            .collect();
        time(|| sys::poll(&mut fds))
    }

    fn epoll(&self) -> io::Result<f64> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (key, stream) in self.all().enumerate() {
            sys::epoll_add(&epoll, stream.as_fd(), key as u64, EventFlags::IN)?;
        }
        let mut events = Vec::with_capacity(16);
        time(|| {
            events.clear();
            sys::epoll_wait(&epoll, &mut events, true)
        })
    }
}

/// Returns the nanoseconds that a call takes: the best of several rounds, since a disturbance can
/// only make a round longer.
fn time(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<f64> {
    let mut best = f64::INFINITY;
    let first_started = Instant::now();
    for round in 0.. {
        let started = Instant::now();
        let mut calls = 0;
        while calls < 200 && (calls < 4 || started.elapsed().as_millis() < 20) {
            assert_eq!(call()?, 1, "exactly one descriptor is ready");
            calls += 1;
        }
        best = best.min(started.elapsed().as_nanos() as f64 / f64::from(calls));
        if round >= 5 && first_started.elapsed().as_millis() > 50 {
            break;
        }
    }
    Ok(best)
}
