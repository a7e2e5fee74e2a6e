//! The queue of connections that are not accepted yet: C32 to C34.

use std::fs;
use std::net::Ipv4Addr;

use socket2::SockRef;

use super::super::listen::tcp_info;
use super::super::prelude::*;

/// How many more clients come than the queue has room for.
const TOO_MANY: usize = 5;

/// A listener that does not accept by itself, and its clients.
pub(super) struct Queue {
    listener: TcpListener,
    pub(super) addr: SocketAddr,
    /// How many connections it should hold.
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

    /// A queue with more clients than room.
    fn crowded(backlog: i32) -> io::Result<Self> {
        let mut queue = Self::new(backlog)?;
        queue.come(queue.room + TOO_MANY)?;
        Ok(queue)
    }

    /// A full queue: a connect to it gets no answer.
    pub(super) fn full() -> io::Result<Self> {
        let mut queue = Self::new(0)?;
        queue.come(1)?;
        match queue.inside_once(1) {
            1 => Ok(queue),
            _ => Err(fail("a queue could not be filled")),
        }
    }

    /// This many clients connect, one after the other.
    fn come(&mut self, count: usize) -> io::Result<()> {
        let mut has_room = true;
        for _ in 0..count {
            let (came, socket) = (Instant::now(), socket(0, 0)?);
            socket.set_nonblocking(true)?;
            match socket.connect(&self.addr.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
                _ => self.clients.push(Client {
                    came,
                    stream: socket.into(),
                }),
            }
            // Two handshakes at once could both find the last place free.
            while has_room && [self.inside(), self.waiting()] != [self.clients.len(); 2] {
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

    /// The same, a while after it has reached this number.
    fn inside_once(&self, expected: usize) -> usize {
        wait_for(|| self.inside() >= expected);
        thread::sleep(Duration::from_millis(20));
        self.inside()
    }

    /// The clients that found no room.
    fn outside(&self) -> &[Client] {
        &self.clients[self.room..self.room + TOO_MANY]
    }

    /// How many wait to be accepted.
    fn waiting(&self) -> usize {
        tcp_info(&self.listener).map_or(0, |info| info.tcpi_unacked as usize)
    }
}

pub(super) fn c32(_: Lab) -> io::Result<Outcome> {
    let queues = [0, 1, 4, 8]
        .map(Queue::crowded)
        .into_iter()
        .collect::<io::Result<Vec<_>>>();
    let mut queues = queues?;
    let inside: Vec<usize> = queues
        .iter()
        .map(|queue| queue.inside_once(queue.room))
        .collect();

    queues[0].clients[0].stream.write_all(b"early")?;
    let (accepted, mut taken) = (Instant::now(), Vec::new());
    for queue in &queues {
        // The timeout holds for accept, too (socket(7)).
        SockRef::from(&queue.listener).set_read_timeout(Some(PATIENCE))?;
        taken.push(queue.listener.accept()?.0);
    }
    let mut early = [0; 5];
    taken[0].set_read_timeout(Some(PATIENCE))?;
    taken[0].read_exact(&mut early)?;

    // A new client comes to the first queue at once. The other queues leave the place to the
    // waiting.
    let (first, others) = queues.split_first_mut().expect("there are four");
    first.come(1)?;
    let newcomer_is_in = wait_for(|| first.clients.last().is_some_and(Client::is_in));
    let overtakes = newcomer_is_in && !first.outside().iter().any(Client::is_in);
    let mut waited = vec![None; others.len()];
    let all_moved_up = wait_for(|| {
        for (waited, queue) in waited.iter_mut().zip(others.iter()) {
            let next = queue.outside().iter().find(|client| client.is_in());
            let times = next.map(|client| (accepted.elapsed(), client.came.elapsed()));
            *waited = waited.or(times);
        }
        waited.iter().all(Option::is_some)
    });
    let full_again = others
        .iter()
        .all(|queue| wait_for(|| queue.waiting() == queue.room));

    let rooms = queues.iter().map(|queue| queue.room);
    let counts_hold = rooms.eq(inside.iter().copied()) && early == *b"early";
    let by_retry = all_moved_up
        && waited
            .iter()
            .flatten()
            .all(|(_, since)| *since >= SYN_AGAIN);
    let counts = queues
        .iter()
        .zip(&inside)
        .map(|(Queue { room, .. }, inside)| {
            let name = format!("listen(fd, {}), {} clients", room - 1, room + TOO_MANY);
            (name, format!("{inside} connected"))
        });
    let waits = queues[1..].iter().zip(waited.into_iter().flatten());
    let waits = waits.map(|(Queue { room, .. }, (accept, own))| {
        let name = format!("listen(fd, {}), one accept", room - 1);
        let times = format!("{accept:.0?} later, {own:.2?} after its connect began");
        (name, format!("one more is connected {times}"))
    });
    let holds = counts_hold && overtakes && by_retry && full_again;
    let early = String::from_utf8_lossy(&early).into_owned();
    let outcome = Outcome::new(Verdict::Refined.only_if(holds), values![overtakes, early]);
    Ok(outcome.with_all(counts).with_all(waits))
}

/// When a dropped SYN is sent again: after 1 s, which the kernel's timers may round a little.
pub(super) const SYN_AGAIN: Duration = Duration::from_millis(900);

pub(super) fn c33(_: Lab) -> io::Result<Outcome> {
    let setting = setting("net/core/somaxconn")?;
    let std = tcp_info(&listen()?)?.tcpi_sacked;
    let mio = mio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let mio = tcp_info(&mio)?.tcpi_sacked;
    let most = tcp_info(&Queue::new(i32::MAX)?.listener)?.tcpi_sacked;
    let verdict = match most {
        128 => Verdict::Reproduced,
        _ if most == setting => Verdict::Differs,
        _ => Verdict::WrongAsWritten, // it is not somaxconn at all
    };
    verdict.measured(values![setting, most, std, mio])
}

pub(super) fn c34(_: Lab) -> io::Result<Outcome> {
    let most = setting("net/core/somaxconn")?;
    let half_open = setting("net/ipv4/tcp_max_syn_backlog")?;
    let asked = [0, 1, 8, 100, i32::MAX];
    let limit = |backlog| io::Result::Ok(tcp_info(&Queue::new(backlog)?.listener)?.tcpi_sacked);
    let limits = asked
        .map(limit)
        .into_iter()
        .collect::<io::Result<Vec<u32>>>()?;
    let follows = asked.map(|asked| asked.unsigned_abs().min(most)) == limits[..];
    let outcome = |holds| {
        let verdict = Verdict::WrongAsWritten.only_if(holds);
        Outcome::new(verdict, values![most, half_open, asked, limits])
    };
    let elsewhere = super::in_own_network("other-settings");
    let counts: io::Result<Vec<String>> =
        elsewhere.and_then(|mut player| SETTINGS.iter().map(|_| player.line()).collect());
    let Ok(counts) = counts else {
        let note = format!("Other settings: NOT HERE. {}", super::NO_NETWORK);
        return Ok(outcome(follows).note(note));
    };
    let lines = SETTINGS.iter().zip(&counts).map(|((name, value), inside)| {
        let all = 9 + TOO_MANY;
        let name = format!("listen(fd, 8) with {name} = {value}");
        (name, format!("{inside} of {all} are connected"))
    });
    Ok(outcome(follows && counts == ["9", "9", "3"]).with_all(lines))
}

/// What is set in a network namespace, one after the other.
const SETTINGS: [(&str, u32); 3] = [
    ("tcp_max_syn_backlog", 2048),
    ("tcp_max_syn_backlog", 1),
    ("somaxconn", 2),
];

/// Counts, with each of the settings, the clients that connect without an accept.
pub(super) fn other_settings(_: &[String]) -> io::Result<()> {
    if !super::lo_up() {
        return Err(fail(super::NO_IP));
    }
    for (name, value) in SETTINGS {
        let group = if name == "somaxconn" { "core" } else { "ipv4" };
        fs::write(format!("/proc/sys/net/{group}/{name}"), value.to_string())?;
        let queue = Queue::crowded(8)?;
        let room = queue.room.min(setting("net/core/somaxconn")? as usize + 1);
        println!("{}", queue.inside_once(room));
    }
    Ok(())
}

pub(super) fn setting(name: &str) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/proc/sys/{name}"))?;
    text.trim().parse().map_err(io::Error::other)
}
