//! Where a thread is: whether it runs or waits, and in which call (proc(5), `/proc/PID/task/TID`).

use std::fs;
use std::io;
use std::time::Duration;

/// What the kernel says of a thread of ours.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    /// `R`: it runs, or could; `S`: it sleeps until something happens; `t`: a tracer holds it.
    pub(crate) state: char,
    /// The number of the system call that it is in; none if it is in none, or if this kernel does
    /// not tell.
    pub(crate) call: Option<i64>,
    /// The function of the kernel that it waits in.
    pub(crate) place: String,
    /// How long it has run on a processor.
    pub(crate) ran: Duration,
}

/// The number of the thread that asks.
pub(crate) fn own_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

pub(crate) fn of(thread: i32) -> io::Result<Whereabouts> {
    let read = |name| fs::read_to_string(format!("/proc/self/task/{thread}/{name}"));
    let (stat, ran) = (read("stat")?, read("schedstat").unwrap_or_default());
    let first = |text: &str| {
        text.split_whitespace()
            .next()
            .and_then(|number| number.parse().ok())
    };
    let (_, behind_the_name) = stat.rsplit_once(") ").unwrap_or_default();
    Ok(Whereabouts {
        state: behind_the_name.chars().next().unwrap_or('?'),
        call: read("syscall").ok().and_then(|text| first(&text)),
        place: read("wchan").unwrap_or_default(),
        ran: Duration::from_nanos(first(&ran).unwrap_or(0).unsigned_abs()),
    })
}

/// Whether it sleeps.
pub(crate) fn is_asleep(thread: i32) -> bool {
    of(thread).is_ok_and(|seen| seen.state == 'S')
}

/// Whether it sleeps in a call of this name.
pub(crate) fn sleeps_in(thread: i32, call: &str) -> bool {
    of(thread).is_ok_and(|seen| {
        seen.state == 'S' && seen.call.is_none_or(|number| name_of_call(number) == call)
    })
}

/// The call's name in the manual; those that differ only in how they take the time have one name
/// here.
pub(crate) fn name_of_call(number: i64) -> &'static str {
    match number {
        libc::SYS_read => "read",
        libc::SYS_recvfrom => "recvfrom",
        libc::SYS_accept4 => "accept",
        libc::SYS_pselect6 => "select",
        libc::SYS_ppoll => "poll",
        libc::SYS_epoll_pwait => "epoll_wait",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select => "select",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll => "poll",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait => "epoll_wait",
        _ => "another one",
    }
}
