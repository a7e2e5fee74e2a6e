//! Unix domain sockets: their files, which a killed server leaves behind, and names without a file.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use socket2::{Domain, SockAddr, Socket, Type};

use super::BACKLOG;

/// How long another server may hold the lock on a socket file: it does so while it starts or ends.
const LOCK_TIME: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The file of a socket that was made here. Dropped, it is removed, unless another server has taken
/// its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// What tells this file from another one of the same name.
    number: u64,
}

impl SocketFile {
    /// Listens at `path`. A socket file at which nothing listens any more is taken over; any other
    /// file is left as it is.
    pub(super) fn listen(path: &str) -> Result<(UnixListener, Self), String> {
        let failed = |error: io::Error| format!("cannot listen on unix:{path}: {error}");
        if path.is_empty() {
            return Err(
                "cannot listen on unix: with no path; unix:/run/submit.sock is a good one".into(),
            );
        }
        let addr = SockAddr::unix(path).map_err(failed)?;
        // From here on no other server finds out that a file is stale, and removes the socket that
        // is made here.
        let _lock = Lock::on(path.as_ref()).map_err(failed)?;
        if is_stale(path.as_ref()).map_err(failed)? {
            fs::remove_file(path).map_err(failed)?;
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        socket.bind(&addr).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => {
                format!("cannot listen on unix:{path}: another program listens there, or the file is no socket; choose another path with --listen")
            }
            _ => failed(error),
        })?;
        socket.listen(BACKLOG).map_err(failed)?;
        let number = file_number(path.as_ref()).map_err(failed)?;
        Ok((
            socket.into(),
            Self {
                path: path.into(),
                number,
            },
        ))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Ok(_lock) = Lock::on(&self.path) else {
            return;
        };
        // A number is given anew once its file is gone, so it may be another server's file all the
        // same. That server listens.
        if file_number(&self.path).is_ok_and(|number| number == self.number)
            && is_stale(&self.path).unwrap_or(false)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at a name that is no file (Linux's abstract namespace); it is gone with the last process
/// that has the socket.
pub(super) fn listen_abstract(name: &str) -> Result<UnixListener, String> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::AddrInUse => format!(
            "cannot listen on unix:@{name}: another program listens there; choose another name with --listen"
        ),
        _ => format!("cannot listen on unix:@{name}: {error}"),
    };
    if name.is_empty() || !cfg!(any(target_os = "linux", target_os = "android")) {
        return Err(format!(
            "cannot listen on unix:@{name}: a name is wanted behind the @, on Linux only; for a file of this name give unix:./@{name}"
        ));
    }
    let addr = SockAddr::unix(format!("\0{name}")).map_err(failed)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    socket.bind(&addr).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    Ok(socket.into())
}

/// Whether a socket's file is there, and nothing listens at it.
fn is_stale(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        return Ok(false);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?; // with a full backlog a connect would block
    let connected = probe.connect(&SockAddr::unix(path)?);
    Ok(connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

fn file_number(path: &Path) -> io::Result<u64> {
    fs::symlink_metadata(path).map(|file| file.ino())
}

/// The right to make or remove the socket file at a path: a lock on PATH.lock. That file is removed
/// with it.
struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    fn on(path: &Path) -> io::Result<Self> {
        let mut name = OsString::from(path);
        name.push(".lock");
        let path = PathBuf::from(name);
        let end = Instant::now() + LOCK_TIME;
        loop {
            let failed = |error: io::Error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot lock {}: {error}", path.display()),
                )
            };
            // Neither flag matters for a regular file, which is the only kind that is made here.
            let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let opened = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(flags.bits())
                .open(&path);
            let file = opened.map_err(failed)?;
            let number = file.metadata().map_err(failed)?.ino();
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // The server that had it may have removed the file meanwhile: then this is a lock
                // on nothing.
                Ok(file) if file_number(&path).is_ok_and(|now| now == number) => {
                    return Ok(Self { path, _file: file });
                }
                Ok(_) | Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < end => {
                    thread::sleep(LOCK_RETRY);
                }
                Ok(_) | Err((_, Errno::EWOULDBLOCK)) => {
                    let problem = format!(
                        "another process has locked {} for {LOCK_TIME:?}; stop that process",
                        path.display()
                    );
                    return Err(io::Error::new(ErrorKind::WouldBlock, problem));
                }
                Err((_, error)) => return Err(failed(error.into())),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // while it is still locked
    }
}
