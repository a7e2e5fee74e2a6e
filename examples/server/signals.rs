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
pub(crate) use signal_hook::iterator::Signals;

/// Elsewhere the system ends the process.
#[cfg(not(unix))]
pub(crate) type Signals = ();

/// Keeps SIGHUP, SIGINT and SIGTERM for [`stop_on`], and unblocks them: a process inherits its
/// parent's mask.
///
/// Call it before any thread is started, since a thread inherits the mask of the thread that starts
/// it.
#[cfg(unix)]
pub(crate) fn watch() -> io::Result<Signals> {
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    // Afterwards: a signal that is pending already would end the process otherwise.
    let watched: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]
        .into_iter()
        .collect();
    watched.thread_unblock()?;
    Ok(signals)
}

/// Makes the first SIGINT or SIGTERM stop the loops gracefully, and the second one at once. The
/// flag is set by the second one.
#[cfg(unix)]
pub(crate) fn stop_on(
    mut signals: Signals,
    handles: Vec<Handle<()>>,
) -> io::Result<Arc<AtomicBool>> {
    let forced = Arc::new(AtomicBool::new(false));
    let told = forced.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut how = Stop::Gracefully;
            for signal in &mut signals {
                let name = match signal {
                    SIGHUP => {
                        log::info!(
                            "SIGHUP: there is nothing to reload; the server goes on unchanged"
                        );
                        continue;
                    }
                    SIGINT => "SIGINT",
                    _ => "SIGTERM",
                };
                match how {
                    Stop::Gracefully => log::info!(
                        "{name}: answering what was read, then stopping; once more to stop at once"
                    ),
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
pub(crate) fn watch() -> io::Result<Signals> {
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn stop_on((): Signals, _: Vec<Handle<()>>) -> io::Result<Arc<AtomicBool>> {
    Ok(Arc::default())
}
