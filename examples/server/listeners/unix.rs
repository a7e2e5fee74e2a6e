//! Unix domain sockets: socket files, which a killed server leaves behind, and abstract names.

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

/// Time limit for another server's lock on a socket file, which it holds while it starts or ends.
const LOCK_TIME: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The file of a socket that this server made. Removes the file when dropped, unless another server
/// has replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// The inode number, which distinguishes this file from another of the same name.
    inode: u64,
}

impl SocketFile {
    /// Listens at `path`. Replaces a socket file where nothing listens any more, and leaves any
    /// other file unchanged.
    pub(super) fn listen(path: &str) -> Result<(UnixListener, Self), String> {
        let failed = |error: io::Error| format!("cannot listen on unix:{path}: {error}");
        if path.is_empty() {
            return Err(
                "cannot listen on unix: without a path; use for example unix:/run/submit.sock"
                    .into(),
            );
        }
        let addr = SockAddr::unix(path).map_err(failed)?;
        // Without the lock, another server could find the old file stale, and then remove the new
        // socket.
        let _lock = Lock::on(path.as_ref()).map_err(failed)?;
        if is_stale(path.as_ref()).map_err(failed)? {
            fs::remove_file(path).map_err(failed)?;
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        socket.bind(&addr).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => {
                format!(
                    "cannot listen on unix:{path}: another program listens there, or the file is \
                     not a socket; choose another path with --listen"
                )
            }
            _ => failed(error),
        })?;
        socket.listen(BACKLOG).map_err(failed)?;
        let inode = inode_of(path.as_ref()).map_err(failed)?;
        Ok((
            socket.into(),
            Self {
                path: path.into(),
                inode,
            },
        ))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Ok(_lock) = Lock::on(&self.path) else {
            return;
        };
        // An inode number is reused after its file is removed, so this may be another server's
        // file. That server listens, so its file is not stale.
        if inode_of(&self.path).is_ok_and(|inode| inode == self.inode)
            && is_stale(&self.path).unwrap_or(false)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at a name in Linux's abstract namespace, which has no file. The name is free again when
/// the last process has closed the socket.
pub(super) fn listen_abstract(name: &str) -> Result<UnixListener, String> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::AddrInUse => format!(
            "cannot listen on unix:@{name}: another program listens there; \
             choose another name with --listen"
        ),
        _ => format!("cannot listen on unix:@{name}: {error}"),
    };
    if name.is_empty() || !cfg!(any(target_os = "linux", target_os = "android")) {
        return Err(format!(
            "cannot listen on unix:@{name}: expected a name after the @, on Linux only; \
             for a file of this name use unix:./@{name}"
        ));
    }
    let addr = SockAddr::unix(format!("\0{name}")).map_err(failed)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    socket.bind(&addr).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    Ok(socket.into())
}

/// Whether `path` is a socket file where nothing listens.
fn is_stale(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        return Ok(false);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?; // with a full backlog, connect would block
    let connected = probe.connect(&SockAddr::unix(path)?);
    Ok(connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

fn inode_of(path: &Path) -> io::Result<u64> {
    fs::symlink_metadata(path).map(|file| file.ino())
}

/// A lock on PATH.lock, held while the socket file at PATH is made or removed. Removes the lock
/// file when dropped.
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
            // Neither flag affects a regular file, the only kind that this function creates.
            let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let opened = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(flags.bits())
                .open(&path);
            let file = opened.map_err(failed)?;
            let inode = file.metadata().map_err(failed)?.ino();
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // The server that held the lock may have removed the file meanwhile. Then this lock
                // is on a removed file.
                Ok(file) if inode_of(&path).is_ok_and(|now| now == inode) => {
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
        let _ = fs::remove_file(&self.path); // before the lock is released
    }
}
