//! Connecting to where nobody answers: C36 and C37.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use super::super::claim::{Lab, Outcome, Verdict};
use super::super::listen::tcp_info;
use super::super::tools::{PATIENCE, listen, name_of};
use super::backlog::{Queue, SYN_AGAIN, setting};

/// A connect under way, and how it ended.
struct Attempt {
    name: String,
    socket: Socket,
    begun: Instant,
    /// When its SYN was seen to have been sent again.
    again: Vec<Duration>,
    /// After how long it ended, and what it came to.
    end: Option<(Duration, Option<io::Error>)>,
}

impl Attempt {
    fn begin(name: impl Into<String>, addr: SocketAddr, prepare: impl FnOnce(&Socket) -> io::Result<()>) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        prepare(&socket)?;
        let begun = Instant::now();
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Self { name: name.into(), socket, begun, again: Vec::new(), end: None }),
        }
    }

    fn look(&mut self) -> io::Result<()> {
        if self.end.is_some() {
            return Ok(());
        }
        let took = self.begun.elapsed();
        let sent_again = tcp_info(&self.socket)?.tcpi_total_retrans as usize;
        self.again.resize(sent_again.max(self.again.len()), took);
        let error = self.socket.take_error()?;
        if error.is_some() || self.socket.peer_addr().is_ok() {
            self.end = Some((took, error));
        }
        Ok(())
    }

    /// Whether it timed out, and not before so many seconds.
    fn gave_up_after(&self, seconds: f64) -> bool {
        self.end.as_ref().is_some_and(|(took, error)| {
            error.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) && took.as_secs_f64() > 0.95 * seconds
        })
    }

    fn told(&self) -> String {
        let again: Vec<String> = self.again.iter().map(|time| format!("{:.1}", time.as_secs_f64())).collect();
        let again = if again.is_empty() { String::new() } else { format!("; SYN again after {} s", again.join(", ")) };
        let Some((took, error)) = &self.end else { return format!("still waits{again}") };
        let end = error.as_ref().map_or_else(|| "connected".into(), name_of);
        format!("{end} after {:.2} s{again}", took.as_secs_f64())
    }
}

/// Looks at all of them, until all have ended or it has taken too long.
fn watch(attempts: &mut [Attempt], limit: Duration, mut meanwhile: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < limit && attempts.iter().any(|attempt| attempt.end.is_none()) {
        meanwhile()?;
        attempts.iter_mut().try_for_each(Attempt::look)?;
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

pub(super) fn c36(lab: Lab) -> io::Result<Outcome> {
    let (retries, linear) = (setting("net/ipv4/tcp_syn_retries")?, setting("net/ipv4/tcp_syn_linear_timeouts").unwrap_or(0));
    let full = Queue::full()?;
    let mut attempts = vec![
        Attempt::begin("TCP_USER_TIMEOUT 1000", full.addr, |socket| socket.set_tcp_user_timeout(Some(Duration::from_secs(1))))?,
        Attempt::begin("TCP_SYNCNT 1", full.addr, |socket| set_retries(socket, 1))?,
    ];
    if lab.slow {
        attempts.push(Attempt::begin("with the default", full.addr, |_| Ok(()))?);
    }
    let limit = if lab.slow { Duration::from_secs(300) } else { PATIENCE * 2 };
    watch(&mut attempts, limit, || Ok(()))?;

    let (soon, by_default) = (gives_up(1, linear), gives_up(retries, linear));
    let short = attempts[0].gave_up_after(1.0) && attempts[1].gave_up_after(soon.seconds) && attempts[1].again.len() == soon.sent_again;
    let long = attempts.get(2).is_none_or(|attempt| attempt.gave_up_after(by_default.seconds));
    let two_minutes = (120.0..180.0).contains(&by_default.seconds);
    let outcome = Outcome::new(Verdict::reproduced_if(short && long && two_minutes))
        .with("by the rule, TCP_SYNCNT 1", soon.told())
        .with(format!("by the rule, tcp_syn_retries {retries} (tcp_syn_linear_timeouts {linear})"), by_default.told());
    Ok(attempts.iter().fold(outcome, |outcome, attempt| outcome.with(&attempt.name, attempt.told())))
}

/// When the kernel gives up, and how often it has sent the SYN again until then.
struct GivesUp {
    seconds: f64,
    sent_again: usize,
}

impl GivesUp {
    fn told(&self) -> String {
        format!("{} s, and the SYN {} times again", self.seconds, self.sent_again)
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
    GivesUp { seconds, sent_again: sent_again as usize }
}

/// How often its SYN is sent again.
fn set_retries(socket: &Socket, count: libc::c_int) -> io::Result<()> {
    let (fd, size) = (socket.as_fd().as_raw_fd(), size_of::<libc::c_int>() as libc::socklen_t);
    #[allow(unsafe_code)] // TCP_SYNCNT is the lesson, and the crates at hand do not have it
    // SAFETY: the kernel reads `size` bytes, which is what `count` has.
    match unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_SYNCNT, (&raw const count).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn c37(_: Lab) -> io::Result<Outcome> {
    const WELL_AGAIN: Duration = Duration::from_millis(300);
    let (ill, lossy, dead) = (listen()?, listen()?, listen()?);
    SockRef::from(&ill).attach_filter(&drop_all())?;
    SockRef::from(&dead).attach_filter(&drop_all())?;
    SockRef::from(&lossy).attach_filter(&drop_half_of_all_syns())?;
    let one_second = |socket: &Socket| socket.set_tcp_user_timeout(Some(Duration::from_secs(1)));
    let mut attempts = vec![
        Attempt::begin("all SYNs are lost for 0.3 s", ill.local_addr()?, |_| Ok(()))?,
        Attempt::begin("all are lost, TCP_USER_TIMEOUT 1000", dead.local_addr()?, one_second)?,
    ];
    for _ in 0..12 {
        attempts.push(Attempt::begin("half of them are lost", lossy.local_addr()?, |_| Ok(()))?);
    }
    let (begun, mut healed) = (Instant::now(), None);
    watch(&mut attempts, Duration::from_millis(2500), || {
        if healed.is_none() && begun.elapsed() >= WELL_AGAIN {
            SockRef::from(&ill).detach_filter()?;
            healed = Some(begun.elapsed());
        }
        Ok(())
    })?;

    let connected = |attempt: &Attempt| attempt.end.as_ref().is_some_and(|(_, error)| error.is_none());
    let (single, many) = attempts.split_at(2);
    let late = connected(&single[0]) && single[0].end.as_ref().is_some_and(|(took, _)| *took >= SYN_AGAIN);
    // Each SYN that was lost costs a second at least.
    let in_steps = many.iter().all(|attempt| attempt.end.as_ref().is_none_or(|(took, _)| *took >= SYN_AGAIN * attempt.again.len() as u32));
    let after = |count| many.iter().filter(|attempt| connected(attempt) && attempt.again.len() == count).count();
    let (at_once, one, two) = (after(0), after(1), after(2));
    Ok(Outcome::new(Verdict::reproduced_if(late && in_steps && single[1].gave_up_after(1.0)))
        .with(&single[0].name, single[0].told())
        .with(&single[1].name, single[1].told())
        .with(
            format!("half of the SYNs are lost, {} connects", many.len()),
            format!("{at_once} at once, {one} after 1 s, {two} after 2 s, {} later", many.len() - at_once - one - two),
        ))
}

/// A filter of classic BPF whose answer is the number of bytes that are let through: none.
fn drop_all() -> [SockFilter; 1] {
    [instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0)]
}

/// Lets all through but every second SYN, by chance.
fn drop_half_of_all_syns() -> [SockFilter; 6] {
    const FLAGS: u32 = 13; // where they stand in a TCP header
    const SYN: u32 = 2;
    #[allow(clippy::cast_sign_loss)] // a place before the packet's beginning is what means something else
    const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, SYN), // no SYN: two further
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, RANDOM),
        instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 1, 0, 1), // odd: one further
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

fn instruction(code: u32, if_true: u8, if_false: u8, value: u32) -> SockFilter {
    SockFilter::new(code as u16, if_true, if_false, value)
}
