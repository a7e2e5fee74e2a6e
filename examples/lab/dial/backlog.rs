//! The queue of those who are connected and not yet accepted: C32 to C34.

use super::super::prelude::*;
use std::fs;
use std::net::Ipv4Addr;

use socket2::{Domain, SockRef, Socket, Type};

use super::super::listen::tcp_info;

/// How many more come than there is room for.
const TOO_MANY: usize = 5;

/// A listener that accepts nobody by itself, and those who have come to it.
pub(super) struct Queue {
    listener: TcpListener,
    pub(super) addr: SocketAddr,
    /// How many it should hold.
    room: usize,
    clients: Vec<Client>,
}

struct Client {
    came: Instant,
    stream: TcpStream,
}

impl Client {
    fn is_in(&self) -> bool {
        self.stream.peer_addr().is_ok() // ENOTCONN until its handshake is done
    }
}

impl Queue {
    /// A second listen(2) on the same socket moves the limit.
    fn new(backlog: i32) -> io::Result<Self> {
        let listener = listen()?;
        SockRef::from(&listener).listen(backlog)?;
        let addr = listener.local_addr()?;
        Ok(Self {
            listener,
            addr,
            room: backlog.unsigned_abs() as usize + 1,
            clients: Vec::new(),
        })
    }

    /// One to which more come than there is room for.
    fn crowded(backlog: i32) -> io::Result<Self> {
        let mut queue = Self::new(backlog)?;
        queue.come(queue.room + TOO_MANY)?;
        Ok(queue)
    }

    /// One that has no room: who comes to it hears nothing.
    pub(super) fn full() -> io::Result<Self> {
        let mut queue = Self::new(0)?;
        queue.come(1)?;
        if queue.inside_once(1) == 1 {
            Ok(queue)
        } else {
            Err(io::Error::other("a queue could not be filled"))
        }
    }

    /// So many come, one behind the other.
    fn come(&mut self, count: usize) -> io::Result<()> {
        let mut has_room = true;
        for _ in 0..count {
            let (came, socket) = (
                Instant::now(),
                Socket::new(Domain::IPV4, Type::STREAM, None)?,
            );
            socket.set_nonblocking(true)?;
            match socket.connect(&self.addr.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
                _ => self.clients.push(Client {
                    came,
                    stream: socket.into(),
                }),
            }
            // Two handshakes at once could both find the last place free.
            while has_room
                && !(self.inside() == self.clients.len() && self.waiting() == self.clients.len())
            {
                thread::sleep(Duration::from_millis(1));
                has_room = came.elapsed() < Duration::from_millis(30);
            }
        }
        Ok(())
    }

    /// How many are connected.
    fn inside(&self) -> usize {
        self.clients.iter().filter(|client| client.is_in()).count()
    }

    /// How many are, once there are so many, and a while later.
    fn inside_once(&self, expected: usize) -> usize {
        wait_for(|| self.inside() >= expected);
        thread::sleep(Duration::from_millis(20));
        self.inside()
    }

    /// Those for whom there was no room when they came.
    fn outside(&self) -> &[Client] {
        &self.clients[self.room..self.room + TOO_MANY]
    }

    /// How many wait to be accepted.
    fn waiting(&self) -> usize {
        tcp_info(&self.listener).map_or(0, |info| info.tcpi_unacked as usize)
    }
}

pub(super) fn c32(_: Lab) -> io::Result<Outcome> {
    let mut queues = Vec::new();
    for backlog in [0, 1, 4, 8] {
        queues.push(Queue::crowded(backlog)?);
    }
    let inside: Vec<usize> = queues
        .iter()
        .map(|queue| queue.inside_once(queue.room))
        .collect();

    queues[0].clients[0].stream.write_all(b"early")?;
    let (accepted, mut taken) = (Instant::now(), Vec::new());
    for queue in &queues {
        SockRef::from(&queue.listener).set_read_timeout(Some(PATIENCE))?; // accept keeps to it (socket(7))
        taken.push(queue.listener.accept()?.0);
    }
    let mut early = [0; 5];
    taken[0].set_read_timeout(Some(PATIENCE))?;
    taken[0].read_exact(&mut early)?;

    // To the first queue somebody comes at once; in the others the place is for those who have waited.
    let (first, others) = queues.split_first_mut().expect("there are four");
    first.come(1)?;
    let newcomer_is_in = wait_for(|| first.clients.last().is_some_and(Client::is_in));
    let overtakes = newcomer_is_in && !first.outside().iter().any(Client::is_in);
    let mut waited = vec![None; others.len()];
    let all_moved_up = wait_for(|| {
        for (waited, queue) in waited
            .iter_mut()
            .zip(others.iter())
            .filter(|(waited, _)| waited.is_none())
        {
            let lucky = queue.outside().iter().find(|client| client.is_in());
            *waited = lucky.map(|client| (accepted.elapsed(), client.came.elapsed()));
        }
        waited.iter().all(Option::is_some)
    });
    let full_again = others
        .iter()
        .all(|queue| wait_for(|| queue.waiting() == queue.room));

    let counts_hold = queues
        .iter()
        .zip(&inside)
        .all(|(queue, inside)| queue.room == *inside);
    let by_retry = all_moved_up
        && waited
            .iter()
            .flatten()
            .all(|(_, since)| *since >= SYN_AGAIN);
    let mut outcome = Outcome::new(
        Verdict::Refined
            .only_if(counts_hold && &early == b"early" && overtakes && by_retry && full_again),
        values![],
    );
    for (queue, inside) in queues.iter().zip(&inside) {
        outcome = outcome.with(
            format!(
                "listen(fd, {}), {} clients",
                queue.room - 1,
                queue.room + TOO_MANY
            ),
            format!("{inside} connected"),
        );
    }
    for (queue, (accept, own)) in queues[1..].iter().zip(waited.into_iter().flatten()) {
        let what = format!("listen(fd, {}), one accept", queue.room - 1);
        outcome = outcome.with(
            what,
            format!("one more is connected {accept:.0?} later, {own:.2?} after his connect began"),
        );
    }
    Ok(outcome
        .with(
            "listen(fd, 0), one accept, a newcomer",
            if overtakes {
                "is connected before the 5 who wait"
            } else {
                "does not overtake"
            },
        )
        .with(
            "sent before the accept",
            format!("{:?} is read after it", String::from_utf8_lossy(&early)),
        ))
}

/// When a SYN that was dropped is sent again: after 1 s, which the kernel's timers may round a little.
pub(super) const SYN_AGAIN: Duration = Duration::from_millis(900);

pub(super) fn c33(_: Lab) -> io::Result<Outcome> {
    let setting = setting("net/core/somaxconn")?;
    let std = tcp_info(&listen()?)?.tcpi_sacked;
    let mio = tcp_info(&mio::net::TcpListener::bind(
        (Ipv4Addr::LOCALHOST, 0).into(),
    )?)?
    .tcpi_sacked;
    let most = tcp_info(&Queue::new(i32::MAX)?.listener)?.tcpi_sacked;
    let verdict = match most {
        128 => Verdict::Reproduced,
        _ if most == setting => Verdict::Differs,
        _ => Verdict::WrongAsWritten, // it is not somaxconn at all
    };
    verdict.measured(values![setting, most, std, mio])
}

pub(super) fn c34(_: Lab) -> io::Result<Outcome> {
    let (most, half_open) = (
        setting("net/core/somaxconn")?,
        setting("net/ipv4/tcp_max_syn_backlog")?,
    );
    let asked = [0, 1, 8, 100, i32::MAX];
    let mut limits = Vec::new();
    for backlog in asked {
        limits.push(tcp_info(&Queue::new(backlog)?.listener)?.tcpi_sacked);
    }
    let follows = limits
        .iter()
        .zip(asked)
        .all(|(limit, asked)| *limit == asked.unsigned_abs().min(most));
    let listed = |numbers: &[String]| numbers.join(", ");
    let outcome = |holds| {
        Outcome::new(
            Verdict::WrongAsWritten.only_if(holds),
            values![
                most,
                half_open,
                asked = listed(&asked.map(|n| n.to_string())),
                limits = listed(&limits.iter().map(ToString::to_string).collect::<Vec<_>>())
            ],
        )
    };
    let elsewhere = super::in_own_network("other-settings")
        .and_then(|mut player| SETTINGS.iter().map(|_| player.line()).collect());
    let counts: io::Result<Vec<String>> = elsewhere;
    Ok(match counts {
        Ok(counts) => SETTINGS.iter().zip(&counts).fold(
            outcome(follows && counts == ["9", "9", "3"]),
            |outcome, ((name, value), inside)| {
                outcome.with(
                    format!("listen(fd, 8) with {name} = {value}"),
                    format!("{inside} of {} are in", 9 + TOO_MANY),
                )
            },
        ),
        Err(_) => outcome(follows).note(format!("Other settings: NOT HERE. {}", super::NO_NETWORK)),
    })
}

/// What is set in a network of one's own, one behind the other.
const SETTINGS: [(&str, u32); 3] = [
    ("tcp_max_syn_backlog", 2048),
    ("tcp_max_syn_backlog", 1),
    ("somaxconn", 2),
];

/// Counts with each of the settings who gets in without an accept.
pub(super) fn other_settings(_: &[String]) -> io::Result<()> {
    if !super::lo_up() {
        return Err(io::Error::other(super::NO_IP));
    }
    for (name, value) in SETTINGS {
        let group = if name == "somaxconn" { "core" } else { "ipv4" };
        fs::write(format!("/proc/sys/net/{group}/{name}"), value.to_string())?;
        let queue = Queue::crowded(8)?;
        println!(
            "{}",
            queue.inside_once(queue.room.min(setting("net/core/somaxconn")? as usize + 1))
        );
    }
    Ok(())
}

pub(super) fn setting(name: &str) -> io::Result<u32> {
    fs::read_to_string(format!("/proc/sys/{name}"))?
        .trim()
        .parse()
        .map_err(io::Error::other)
}
