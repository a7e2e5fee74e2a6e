//! Both ends of a connection use this crate and send as fast as they can: no deadlock, nothing
//! lost, bounded memory.

mod util;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use glassloop::codec::Line;
use glassloop::{CloseReason, Config, Context, Handler, Origin, Reactor, Step, Verdict};
use socket2::{Domain, Socket, Type};
use util::turn_until;

/// Indices of the two sides of a connection: the one that dialed, and the one that accepted.
const DIALED: usize = 0;
const ACCEPTED: usize = 1;

/// What both sides send.
#[derive(Clone, Copy)]
struct Plan {
    /// How many requests each side sends.
    requests: [u64; 2],
    /// Whether each request is answered with an ack.
    acks: bool,
    /// How many requests may be without an ack.
    window: u64,
    /// The length of a request in bytes.
    len: usize,
}

/// The handler of both sides.
struct Flooder {
    plan: Plan,
    high: usize,
    /// What each side has received: requests, and acks.
    received: [(u64, u64); 2],
    drained: usize,
}

/// The state of one side.
struct Side {
    side: usize,
    sent: u64,
}

impl Flooder {
    /// Sends while there is room, paced as the documentation says: by `pending`, and by `drained`.
    fn pump(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let mut line = vec![b'.'; self.plan.len];
        loop {
            let Side { side, sent } = *cx.state();
            let unacked = if self.plan.acks {
                sent - self.received[side].1
            } else {
                0
            };
            if sent == self.plan.requests[side]
                || unacked >= self.plan.window
                || cx.pending() >= self.high
            {
                return Verdict::Continue;
            }
            cx.state().sent += 1;
            line[..11].copy_from_slice(format!("r{sent:010}").as_bytes());
            cx.send(&line[..]);
        }
    }
}

impl Handler for Flooder {
    type Codec = Line;
    type State = Side;
    type Mail = ();

    fn connection(&mut self, origin: &Origin) -> (Line, Side) {
        let side = if let Origin::Dialed { .. } = origin {
            DIALED
        } else {
            ACCEPTED
        };
        (Line::default(), Side { side, sent: 0 })
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.pump(cx)
    }

    fn drained(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.drained += 1;
        self.pump(cx)
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        let side = cx.state().side;
        let (requests, acks) = &mut self.received[side];
        let number = |n: u64| format!("{n:010}").into_bytes();
        match line[0] {
            b'r' => {
                assert_eq!(
                    (&line[1..11], line.len()),
                    (&number(*requests)[..], self.plan.len),
                    "a request was lost or out of order"
                );
                *requests += 1;
                if self.plan.acks {
                    cx.send(&[b"a", &line[1..11]].concat()[..]);
                }
                Verdict::Continue
            }
            b'a' => {
                assert_eq!(line[1..], number(*acks), "an ack was lost or out of order");
                *acks += 1;
                self.pump(cx)
            }
            _ => panic!("neither request nor ack: {}", line.escape_ascii()),
        }
    }
}

/// Returns limits that are small enough to be reached often.
fn config() -> Config {
    let write_timeout = Some(Duration::from_secs(5));
    Config {
        scratch: 8 << 10,
        write_high: 8 << 10,
        write_low: 2 << 10,
        write_cap: 64 << 10,
        write_timeout,
        ..Config::default()
    }
}

/// Returns a listener whose connections have socket buffers of about `bytes` bytes.
fn small_buffers(bytes: usize) -> std::net::TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.set_send_buffer_size(bytes).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    socket.listen(16).unwrap();
    socket.into()
}

/// A loop that has both sides of a connection.
struct Loopback {
    reactor: Reactor<Flooder>,
    close_reasons: Arc<Mutex<Vec<String>>>,
    peak: usize,
}

impl Loopback {
    fn new(
        plan: Plan,
        config: Config,
        listen: impl FnOnce(&mut Reactor<Flooder>) -> glassloop::Address,
    ) -> Self {
        let handler = Flooder {
            plan,
            high: config.write_high,
            received: [(0, 0); 2],
            drained: 0,
        };
        let mut reactor = Reactor::new(handler, config).unwrap();
        let close_reasons = Arc::new(Mutex::new(Vec::new()));
        let kept = close_reasons.clone();
        reactor.set_observer(move |step: &Step<'_>| {
            if let Step::Closed { reason, .. } = step {
                kept.lock()
                    .unwrap()
                    .push(CloseReason::name(reason).to_string());
            }
        });
        let addr = listen(&mut reactor);
        reactor
            .connect_to(vec![addr], Duration::from_secs(10))
            .unwrap();
        Self {
            reactor,
            close_reasons,
            peak: 0,
        }
    }

    fn over_tcp(plan: Plan, config: Config) -> Self {
        Self::new(plan, config, |reactor| {
            reactor.listen_on(small_buffers(4 << 10)).unwrap().into()
        })
    }

    /// Turns until everything has arrived or a connection is closed. Returns true if everything
    /// arrived.
    fn run(&mut self) -> bool {
        let Self {
            reactor,
            close_reasons,
            peak,
        } = self;
        let mut all = false;
        turn_until(reactor, |reactor| {
            *peak = reactor.buffered().max(*peak);
            let Flooder { plan, received, .. } = reactor.handler();
            let acked = |side: usize| if plan.acks { plan.requests[side] } else { 0 };
            let expected = [DIALED, ACCEPTED].map(|side| (plan.requests[1 - side], acked(side)));
            all = *received == expected;
            all || !close_reasons.lock().unwrap().is_empty()
        });
        all
    }

    /// Checks that everything arrives, and that no side ever held more than one read and its write
    /// marks allow.
    #[track_caller]
    fn run_to_the_end(mut self) {
        assert!(
            self.run(),
            "closed early: {:?}, {:?}",
            self.close_reasons,
            self.reactor.handler().received
        );
        let config = self.reactor.config().clone();
        // As in tests/pressure.rs, for two sides. A buffer may have doubled to grow.
        let line = self.reactor.handler().plan.len + 1;
        let allowed = 2 * (2 * config.scratch + 2 * (config.write_high + 2 * line));
        let (peak, drained) = (self.peak, self.reactor.handler().drained);
        println!("peak {peak} bytes held, {allowed} allowed; drained {drained} times");
        assert!(peak <= allowed, "{peak} bytes held, {allowed} allowed");
        assert!(
            self.reactor.counters().writes_blocked > 0 || drained > 0,
            "neither sockets nor buffers were ever full, so nothing was tested"
        );
        let reactor = &mut self.reactor;
        turn_until(reactor, |reactor| reactor.buffered() == 0);
    }
}

const MANY: u64 = 6000;
const PLAIN: Plan = Plan {
    requests: [MANY, MANY],
    acks: false,
    window: u64::MAX,
    len: 1000,
};

#[test]
fn mutual_flood_loses_nothing() {
    Loopback::over_tcp(PLAIN, config()).run_to_the_end();
}

#[test]
fn mutual_flood_with_lines_above_the_write_marks_loses_nothing() {
    let small = Config {
        write_high: 2,
        write_low: 1,
        scratch: 512,
        ..config()
    };
    Loopback::over_tcp(
        Plan {
            requests: [2000, 2000],
            ..PLAIN
        },
        small,
    )
    .run_to_the_end();
}

#[test]
fn mutual_flood_of_tiny_lines_loses_nothing() {
    Loopback::over_tcp(
        Plan {
            requests: [100_000, 100_000],
            len: 11,
            ..PLAIN
        },
        config(),
    )
    .run_to_the_end();
}

#[test]
#[cfg(unix)]
fn mutual_flood_over_a_unix_socket_loses_nothing() {
    let path = std::env::temp_dir().join(format!("glassloop-duplex-{}", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    Loopback::new(PLAIN, config(), |reactor| {
        reactor.listen_on_unix(listener).unwrap()
    })
    .run_to_the_end();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn client_that_floods_without_waiting_gets_every_ack() {
    Loopback::over_tcp(
        Plan {
            requests: [MANY, 0],
            acks: true,
            ..PLAIN
        },
        config(),
    )
    .run_to_the_end();
    // The acks are as long as the requests, so the server is often blocked on write.
    Loopback::over_tcp(
        Plan {
            requests: [100_000, 0],
            acks: true,
            len: 11,
            ..PLAIN
        },
        config(),
    )
    .run_to_the_end();
}

#[test]
fn accepting_side_can_flood_too() {
    Loopback::over_tcp(
        Plan {
            requests: [0, MANY],
            acks: true,
            ..PLAIN
        },
        config(),
    )
    .run_to_the_end();
}

#[test]
fn bounded_windows_let_all_requests_and_acks_through() {
    // The first two windows fit into the write marks alone. The last one needs the socket buffers
    // too.
    for (window, len) in [(9, 1000), (500, 11), (40, 1000)] {
        let plan = Plan {
            acks: true,
            window,
            len,
            ..PLAIN
        };
        Loopback::over_tcp(plan, config()).run_to_the_end();
    }
}

#[test]
fn unbounded_windows_finish_or_close_at_write_timeout() {
    // With requests and acks both ways and no window, each side may wait for the other one to read.
    // No bounded buffer can prevent that. The write timeout must end it and report it.
    let short = Config {
        write_timeout: Some(Duration::from_millis(500)),
        ..config()
    };
    for len in [11, 1000] {
        let mut pair = Loopback::over_tcp(
            Plan {
                requests: [20_000, 20_000],
                acks: true,
                len,
                ..PLAIN
            },
            short.clone(),
        );
        let all = pair.run();
        let reasons = pair.close_reasons.lock().unwrap().clone();
        println!(
            "request of {len} bytes: all arrived: {all}; received {:?}; close reasons {reasons:?}",
            pair.reactor.handler().received
        );
        assert!(all || reasons[0] == "write_timeout", "{reasons:?}");
    }
}

#[test]
fn mutual_flood_between_two_threads_loses_nothing() {
    let expected = (MANY, 0);
    let handler = || Flooder {
        plan: PLAIN,
        high: config().write_high,
        received: [(0, 0); 2],
        drained: 0,
    };
    let listener = small_buffers(4 << 10);
    let addr = listener.local_addr().unwrap();
    let accepting = std::thread::spawn(move || {
        let mut reactor = Reactor::new(handler(), config()).unwrap();
        reactor.listen_on(listener).unwrap();
        turn_until(&mut reactor, |reactor| {
            reactor.handler().received[ACCEPTED] == expected && reactor.buffered() == 0
        });
        reactor.counters().panics
    });
    let mut reactor = Reactor::new(handler(), config()).unwrap();
    reactor.connect(addr, Duration::from_secs(10)).unwrap();
    turn_until(&mut reactor, |reactor| {
        reactor.handler().received[DIALED] == expected
            && reactor.buffered() == 0
            && accepting.is_finished()
    });
    assert_eq!(
        (accepting.join().unwrap(), reactor.counters().panics),
        (0, 0)
    );
}
