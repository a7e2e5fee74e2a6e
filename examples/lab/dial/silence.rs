//! Connecting without an answer: C36 and C37.

use std::os::fd::{AsFd, AsRawFd};

use socket2::{SockFilter, SockRef, Socket};

use super::super::listen::tcp_info;
use super::super::prelude::*;
use super::backlog::{Queue, SYN_AGAIN, setting};

/// A connect under way, and how it ended.
struct Attempt {
    socket: Socket,
    begun: Instant,
    /// When its SYN was seen to have been sent again.
    again: Vec<Duration>,
    /// After how long it ended, and its error, if any.
    end: Option<(Duration, Option<io::Error>)>,
}

impl Attempt {
    fn begin(
        addr: SocketAddr,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        let socket = socket(0, 0)?;
        socket.set_nonblocking(true)?;
        prepare(&socket)?;
        let begun = Instant::now();
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Self {
                socket,
                begun,
                again: Vec::new(),
                end: None,
            }),
        }
    }

    fn look(&mut self) -> io::Result<()> {
        if self.end.is_some() {
            return Ok(());
        }
        let error = self.socket.take_error()?;
        let ended = error.is_some() || self.socket.peer_addr().is_ok();
        let took = self.begun.elapsed();
        self.again
            .resize(tcp_info(&self.socket)?.tcpi_total_retrans as usize, took);
        if ended {
            self.end = Some((took, error));
        }
        Ok(())
    }

    /// Whether it timed out, and not before this many seconds.
    fn gave_up_after(&self, seconds: f64) -> bool {
        matches!(&self.end, Some((took, Some(error)))
            if error.kind() == ErrorKind::TimedOut && took.as_secs_f64() > 0.95 * seconds)
    }

    fn connected_after(&self) -> Option<Duration> {
        match &self.end {
            Some((took, None)) => Some(*took),
            _ => None,
        }
    }

    fn shown(&self) -> String {
        let again = self
            .again
            .iter()
            .map(|time| format!("{:.1}", time.as_secs_f64()));
        let again = match again.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => none,
            some => format!("; SYN again after {some} s"),
        };
        let Some((took, error)) = &self.end else {
            return format!("still waits{again}");
        };
        let end = error.as_ref().map_or_else(|| "connected".into(), name_of);
        format!("{end} after {:.2} s{again}", took.as_secs_f64())
    }
}

/// Looks at all of them, until all have ended or it is enough.
fn watch(
    attempts: &mut [Attempt],
    mut is_enough: impl FnMut(&[Attempt], Duration) -> io::Result<bool>,
) -> io::Result<()> {
    let begun = Instant::now();
    while attempts.iter().any(|attempt| attempt.end.is_none())
        && !is_enough(attempts, begun.elapsed())?
    {
        attempts.iter_mut().try_for_each(Attempt::look)?;
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

pub(super) fn c36(lab: Lab) -> io::Result<Outcome> {
    let retries = setting("net/ipv4/tcp_syn_retries")?;
    let linear = setting("net/ipv4/tcp_syn_linear_timeouts").unwrap_or(0);
    let full = Queue::full()?;
    let mut attempts = vec![
        Attempt::begin(full.addr, one_second)?,
        Attempt::begin(full.addr, |socket| set_retries(socket, 1))?,
    ];
    if lab.slow {
        attempts.push(Attempt::begin(full.addr, |_| Ok(()))?);
    }
    let limit = if lab.slow {
        Duration::from_secs(300)
    } else {
        PATIENCE * 2
    };
    watch(&mut attempts, |_, elapsed| Ok(elapsed > limit))?;

    let (soon, by_default) = (gives_up(1, linear), gives_up(retries, linear));
    let short = attempts[0].gave_up_after(1.0)
        && attempts[1].gave_up_after(soon.seconds)
        && attempts[1].again.len() == soon.sent_again;
    let last = attempts.get(2);
    let long = last.is_none_or(|attempt| attempt.gave_up_after(by_default.seconds));
    let two_minutes = (120.0..180.0).contains(&by_default.seconds);
    let here = if two_minutes {
        Verdict::Reproduced
    } else {
        Verdict::Differs
    }; // by its settings
    here.only_if(short && long).measured(values![
        soon = soon.shown(),
        retries,
        linear,
        by_default = by_default.shown(),
        user_timeout = attempts[0].shown(),
        one_retry = attempts[1].shown(),
        default = last.map(Attempt::shown)
    ])
}

/// When the kernel gives up, and how often it has sent the SYN again until then.
struct GivesUp {
    seconds: f64,
    sent_again: usize,
}

impl GivesUp {
    fn shown(&self) -> String {
        format!(
            "{} s, and the SYN {} times again",
            self.seconds, self.sent_again
        )
    }
}

/// The rule: it gives up at the first step that is not before 2^(retries + 1) - 1 s.
fn gives_up(retries: u32, linear: u32) -> GivesUp {
    let least = 2_f64.powf(f64::from(retries) + 1.0) - 1.0;
    let (mut seconds, mut step, mut sent_again) = (1.0, 1.0, 0);
    while seconds < least {
        sent_again += 1;
        step *= if sent_again > linear { 2.0 } else { 1.0 };
        seconds += step;
    }
    GivesUp {
        seconds,
        sent_again: sent_again as usize,
    }
}

/// Limits the retries of a connect to a second.
fn one_second(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(Duration::from_secs(1)))
}

/// Sets how often the SYN is sent again.
fn set_retries(socket: &Socket, count: libc::c_int) -> io::Result<()> {
    let (fd, size) = (
        socket.as_fd().as_raw_fd(),
        size_of::<libc::c_int>() as libc::socklen_t,
    );
    #[allow(unsafe_code)] // TCP_SYNCNT is the lesson, and the crates at hand do not have it
    // SAFETY: the kernel reads `size` bytes, which is what `count` has.
    match unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_SYNCNT,
            (&raw const count).cast(),
            size,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn c37(_: Lab) -> io::Result<Outcome> {
    let losses = match Losses::measure() {
        // On some kernels only an administrator of the network may attach a filter. In a network
        // namespace of its own every process may.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let Ok(losses) = Losses::elsewhere() else {
                let reason = format!("No filter: {error}. {}", super::NO_NETWORK);
                return Ok(Outcome::not_here(reason));
            };
            losses
        }
        losses => losses?,
    };
    let [ill, dead, lossy] = losses.shown;
    let values = values![outage = OUTAGE, ill, dead, many = MANY, lossy];
    Verdict::reproduced_if(losses.holds).measured(values)
}

const OUTAGE: Duration = Duration::from_millis(300);
const MANY: usize = 12;

/// What came of connects whose SYNs were lost.
struct Losses {
    holds: bool,
    shown: [String; 3],
}

impl Losses {
    fn measure() -> io::Result<Self> {
        let (ill, dead, lossy) = (listen()?, listen()?, listen()?);
        SockRef::from(&ill).attach_filter(&drop_all())?;
        SockRef::from(&dead).attach_filter(&drop_all())?;
        SockRef::from(&lossy).attach_filter(&drop_half_of_all_syns())?;
        let mut attempts = vec![
            Attempt::begin(ill.local_addr()?, |_| Ok(()))?,
            Attempt::begin(dead.local_addr()?, one_second)?,
        ];
        for _ in 0..MANY {
            attempts.push(Attempt::begin(lossy.local_addr()?, |_| Ok(()))?);
        }
        let mut is_ill = true;
        watch(&mut attempts, |attempts, elapsed| {
            if is_ill && elapsed >= OUTAGE {
                SockRef::from(&ill).detach_filter()?;
                is_ill = false;
            }
            let single = attempts[..2].iter().all(|attempt| attempt.end.is_some());
            Ok(elapsed > PATIENCE * 2 || single && elapsed > Duration::from_millis(2500))
        })?;

        let (single, many) = attempts.split_at(2);
        let late = single[0]
            .connected_after()
            .is_some_and(|took| took >= SYN_AGAIN);
        // Each lost SYN costs at least a second.
        let many = many.iter();
        let many =
            many.filter_map(|attempt| Some((attempt.again.len(), attempt.connected_after()?)));
        let many: Vec<(usize, Duration)> = many.collect();
        let in_steps = many
            .iter()
            .all(|(lost, took)| *took >= SYN_AGAIN * *lost as u32);
        let [at_once, one, two] =
            [0, 1, 2].map(|wanted| many.iter().filter(|(lost, _)| *lost == wanted).count());
        let later = MANY - at_once - one - two;
        let lossy = format!("{at_once} at once, {one} after 1 s, {two} after 2 s, {later} later");
        Ok(Self {
            holds: late && in_steps && single[1].gave_up_after(1.0),
            shown: [single[0].shown(), single[1].shown(), lossy],
        })
    }

    fn elsewhere() -> io::Result<Self> {
        let mut player = super::in_own_network("lossy-network")?;
        Ok(Self {
            holds: player.line()? == "true",
            shown: [player.line()?, player.line()?, player.line()?],
        })
    }
}

/// Measures them in its own network namespace.
pub(super) fn lossy_network(_: &[String]) -> io::Result<()> {
    if !super::lo_up() {
        return Err(fail(super::NO_IP));
    }
    let Losses { holds, shown } = Losses::measure()?;
    println!("{holds}\n{}", shown.join("\n"));
    Ok(())
}

/// A filter of classic BPF that returns the number of bytes to let through: none.
fn drop_all() -> [SockFilter; 1] {
    [instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0)]
}

/// Lets everything through but half of the SYNs, chosen at random.
fn drop_half_of_all_syns() -> [SockFilter; 6] {
    const FLAGS: u32 = 13; // where they stand in a TCP header
    const SYN: u32 = 2;
    #[allow(clippy::cast_sign_loss)] // an offset before the packet stands for something else
    const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, SYN), // no SYN: skip 2
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, RANDOM),
        instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 1, 0, 1), // odd: skip 1
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

fn instruction(code: u32, if_true: u8, if_false: u8, value: u32) -> SockFilter {
    SockFilter::new(code as u16, if_true, if_false, value)
}
