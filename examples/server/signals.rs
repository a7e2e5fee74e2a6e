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

/// Other systems have no such signals: they end the process.
#[cfg(not(unix))]
pub(crate) type Signals = ();

/// Installs handlers that keep SIGHUP, SIGINT and SIGTERM for [`stop_on`], and unblocks these
/// signals, since a process inherits its parent's signal mask.
///
/// **Trap:** call it before the loops' threads start: a thread inherits the mask of the thread that
/// starts it.
#[cfg(unix)]
pub(crate) fn watch() -> io::Result<Signals> {
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    // After the handlers: otherwise a signal that is pending already would end the process.
    let watched: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]
        .into_iter()
        .collect();
    watched.thread_unblock()?;
    Ok(signals)
}

/// Stops the loops gracefully at the first SIGINT or SIGTERM, and at once at the second. The second
/// sets the returned flag.
#[cfg(unix)]
pub(crate) fn stop_on(
    mut signals: Signals,
    handles: Vec<Handle<()>>,
) -> io::Result<Arc<AtomicBool>> {
    let forced = Arc::new(AtomicBool::new(false));
    let set_forced = forced.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut how = Stop::Gracefully;
            for signal in &mut signals {
                let name = match signal {
                    SIGHUP => {
                        log::info!("SIGHUP: nothing to reload");
                        continue;
                    }
                    SIGINT => "SIGINT",
                    _ => "SIGTERM",
                };
                match how {
                    Stop::Gracefully => {
                        log::info!("{name}: stopping gracefully; a second signal stops at once");
                    }
                    Stop::AtOnce | Stop::Within(_) => {
                        log::warn!("{name} again: stopping at once");
                        set_forced.store(true, Ordering::Relaxed);
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
