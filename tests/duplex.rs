//! Both ends of a connection are loops of this crate, and both send as fast as they can: nobody waits for ever, nothing is lost, memory is bounded.

mod util;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use glassloop::codec::Line;
use glassloop::{CloseReason, Config, Context, Handler, Origin, Reactor, Step, Verdict};
use socket2::{Domain, Socket, Type};
use util::turn_until;

/// The two ends: who dialed, and who accepted.
const DIALED: usize = 0;
const ACCEPTED: usize = 1;

/// What both ends do.
#[derive(Clone, Copy)]
struct Plan {
    /// How many requests each end sends.
    requests: [u64; 2],
    /// Whether each request is answered with an ack.
    acks: bool,
    /// How many requests may wait for their ack.
    window: u64,
    /// How long a request is.
    len: usize,
}

/// Both ends in one handler.
struct Ends {
    plan: Plan,
    high: usize,
    /// How much each end has received: requests, and acks.
    received: [(u64, u64); 2],
    drained: usize,
}

/// One end.
struct End {
    side: usize,
    sent: u64,
}

impl Ends {
    /// Sends as much as there is room for, paced as the documentation says: by what is pending, and by `drained`.
    fn pump(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let mut line = vec![b'.'; self.plan.len];
        loop {
            let End { side, sent } = *cx.state();
            let waiting = if self.plan.acks {
                sent - self.received[side].1
            } else {
                0
            };
            if sent == self.plan.requests[side]
                || waiting >= self.plan.window
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

impl Handler for Ends {
    type Codec = Line;
    type State = End;
    type Mail = ();

    fn connection(&mut self, origin: &Origin) -> (Line, End) {
        let side = if let Origin::Dialed { .. } = origin {
            DIALED
        } else {
            ACCEPTED
        };
        (Line::default(), End { side, sent: 0 })
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
                    "a request is lost or out of order"
                );
                *requests += 1;
                if self.plan.acks {
                    cx.send(&[b"a", &line[1..11]].concat()[..]);
                }
                Verdict::Continue
            }
            b'a' => {
                assert_eq!(line[1..], number(*acks), "an ack is lost or out of order");
                *acks += 1;
                self.pump(cx)
            }
            _ => panic!("neither request nor ack: {}", line.escape_ascii()),
        }
    }
}

/// Small enough to be reached often.
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

/// A listener whose connections inherit buffers of about so many bytes.
fn narrow(bytes: usize) -> std::net::TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.set_send_buffer_size(bytes).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    socket.listen(16).unwrap();
    socket.into()
}

/// One loop that is connected with itself, or would be if it were not for the two ends.
struct Ring {
    reactor: Reactor<Ends>,
    ends: Arc<Mutex<Vec<String>>>,
    peak: usize,
}

impl Ring {
    fn new(
        plan: Plan,
        config: Config,
        listen: impl FnOnce(&mut Reactor<Ends>) -> glassloop::Address,
    ) -> Self {
        let handler = Ends {
            plan,
            high: config.write_high,
            received: [(0, 0); 2],
            drained: 0,
        };
        let mut reactor = Reactor::new(handler, config).unwrap();
        let ends = Arc::new(Mutex::new(Vec::new()));
        let kept = ends.clone();
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
            ends,
            peak: 0,
        }
    }

    fn over_tcp(plan: Plan, config: Config) -> Self {
        Self::new(plan, config, |reactor| {
            reactor.listen_on(narrow(4 << 10)).unwrap().into()
        })
    }

    /// Turns until all has arrived, or a connection has ended; whether all has.
    fn run(&mut self) -> bool {
        let Self {
            reactor,
            ends,
            peak,
        } = self;
        let mut all = false;
        turn_until(reactor, |reactor| {
            *peak = reactor.buffered().max(*peak);
            let Ends { plan, received, .. } = reactor.handler();
            let acked = |side: usize| if plan.acks { plan.requests[side] } else { 0 };
            let wanted = [DIALED, ACCEPTED].map(|side| (plan.requests[1 - side], acked(side)));
            all = *received == wanted;
            all || !ends.lock().unwrap().is_empty()
        });
        all
    }

    /// All arrives, and no end ever held more than one read and its marks allow.
    #[track_caller]
    fn run_to_the_end(mut self) {
        assert!(
            self.run(),
            "ended early: {:?}, {:?}",
            self.ends,
            self.reactor.handler().received
        );
        let config = self.reactor.config().clone();
        // As in tests/pressure.rs, for two ends. A buffer may have doubled to grow.
        let line = self.reactor.handler().plan.len + 1;
        let allowed = 2 * (2 * config.scratch + 2 * (config.write_high + 2 * line));
        let (peak, drained) = (self.peak, self.reactor.handler().drained);
        println!("at most {peak} bytes held, {allowed} allowed; drained {drained} times");
        assert!(peak <= allowed, "{peak} bytes held, {allowed} allowed");
        assert!(
            self.reactor.counters().writes_blocked > 0 || drained > 0,
            "neither sockets nor buffers were ever full: nothing was tested"
        );
        let reactor = &mut self.reactor;
        turn_until(reactor, |reactor| reactor.buffered() == 0);
    }
}

const MUCH: u64 = 6000;
const PLAIN: Plan = Plan {
    requests: [MUCH, MUCH],
    acks: false,
    window: u64::MAX,
    len: 1000,
};

#[test]
fn mutual_flood_loses_nothing() {
    Ring::over_tcp(PLAIN, config()).run_to_the_end();
}

#[test]
fn mutual_flood_with_lines_above_the_write_marks_loses_nothing() {
    let small = Config {
        write_high: 2,
        write_low: 1,
        scratch: 512,
        ..config()
    };
    Ring::over_tcp(
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
    Ring::over_tcp(
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
    Ring::new(PLAIN, config(), |reactor| {
        reactor.listen_on_unix(listener).unwrap()
    })
    .run_to_the_end();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn client_that_floods_without_waiting_gets_every_ack() {
    Ring::over_tcp(
        Plan {
            requests: [MUCH, 0],
            acks: true,
            ..PLAIN
        },
        config(),
    )
    .run_to_the_end();
    // The acks are as long as the requests: the server is choked again and again.
    Ring::over_tcp(
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
    Ring::over_tcp(
        Plan {
            requests: [0, MUCH],
            acks: true,
            ..PLAIN
        },
        config(),
    )
    .run_to_the_end();
}

#[test]
fn bounded_windows_let_all_requests_and_acks_through() {
    // Of the first windows all fits into the marks alone, of the last only into marks and sockets together.
    for (window, len) in [(9, 1000), (500, 11), (40, 1000)] {
        let plan = Plan {
            acks: true,
            window,
            len,
            ..PLAIN
        };
        Ring::over_tcp(plan, config()).run_to_the_end();
    }
}

#[test]
fn unbounded_windows_finish_or_close_at_write_timeout() {
    // With requests and acks both ways and no window both sides may come to wait for the other one to read: no bounded
    // buffer can help that. It must not be silent, and not for ever: the write deadline ends it.
    let short = Config {
        write_timeout: Some(Duration::from_millis(500)),
        ..config()
    };
    for len in [11, 1000] {
        let mut ring = Ring::over_tcp(
            Plan {
                requests: [20_000, 20_000],
                acks: true,
                len,
                ..PLAIN
            },
            short.clone(),
        );
        let all = ring.run();
        let ends = ring.ends.lock().unwrap().clone();
        println!(
            "{len} bytes a request: all arrived: {all}; received {:?}; ends {ends:?}",
            ring.reactor.handler().received
        );
        assert!(all || ends[0] == "write_timeout", "{ends:?}");
    }
}

#[test]
fn mutual_flood_between_two_threads_loses_nothing() {
    let wanted = (MUCH, 0);
    let handler = || Ends {
        plan: PLAIN,
        high: config().write_high,
        received: [(0, 0); 2],
        drained: 0,
    };
    let listener = narrow(4 << 10);
    let addr = listener.local_addr().unwrap();
    let accepting = std::thread::spawn(move || {
        let mut reactor = Reactor::new(handler(), config()).unwrap();
        reactor.listen_on(listener).unwrap();
        turn_until(&mut reactor, |reactor| {
            reactor.handler().received[ACCEPTED] == wanted && reactor.buffered() == 0
        });
        reactor.counters().panics
    });
    let mut reactor = Reactor::new(handler(), config()).unwrap();
    reactor.connect(addr, Duration::from_secs(10)).unwrap();
    turn_until(&mut reactor, |reactor| {
        reactor.handler().received[DIALED] == wanted
            && reactor.buffered() == 0
            && accepting.is_finished()
    });
    assert_eq!(
        (accepting.join().unwrap(), reactor.counters().panics),
        (0, 0)
    );
}
