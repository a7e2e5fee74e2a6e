//! SIGINT and SIGTERM stop the server; SIGHUP does not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(unix)]
use std::sync::atomic::Ordering;
#[cfg(unix)]
use std::thread;

use glassloop::Handle;
#[cfg(unix)]
use glassloop::Stop;
#[cfg(unix)]
use nix::sys::signal::{SigSet, Signal};
#[cfg(unix)]
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
#[cfg(unix)]
use signal_hook::iterator::Signals;

/// Elsewhere the system ends the process.
#[cfg(not(unix))]
pub(crate) type Signals = ();

/// Unblocks the signals that are watched: the process that started this one may have left them blocked, and a mask is inherited.
///
/// Call it before any thread is started: each begins with the mask of the thread that starts it.
#[cfg(unix)]
pub(crate) fn unblock() -> io::Result<()> {
    let watched: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    Ok(watched.thread_unblock()?)
}

#[cfg(unix)]
pub(crate) fn watch() -> io::Result<Signals> {
    Signals::new([SIGHUP, SIGINT, SIGTERM])
}

/// Lets the first SIGINT or SIGTERM stop the loops gracefully and the second one at once. The flag says whether it came to that.
#[cfg(unix)]
pub(crate) fn stop_on(mut signals: Signals, handles: Vec<Handle<()>>) -> io::Result<Arc<AtomicBool>> {
    let forced = Arc::new(AtomicBool::new(false));
    let told = forced.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut how = Stop::Gracefully;
        for signal in &mut signals {
            let name = match signal {
                SIGHUP => {
                    log::info!("SIGHUP: there is nothing to reload, it goes on as it is");
                    continue;
                }
                SIGINT => "SIGINT",
                _ => "SIGTERM",
            };
            match how {
                Stop::Gracefully => log::info!("{name}: answering what was read, then stopping; once more to stop at once"),
                Stop::AtOnce | Stop::Within(_) => {
                    log::warn!("{name} again: stopping at once");
                    told.store(true, Ordering::Relaxed);
                }
            }
            for handle in &handles {
                handle.stop(how);
            }
            how = Stop::AtOnce;
        }
    })?;
    Ok(forced)
}

#[cfg(not(unix))]
pub(crate) fn unblock() -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn watch() -> io::Result<Signals> {
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn stop_on((): Signals, _: Vec<Handle<()>>) -> io::Result<Arc<AtomicBool>> {
    Ok(Arc::default())
}
