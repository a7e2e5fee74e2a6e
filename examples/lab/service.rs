//! The submit service in a loop and a thread of its own, and a client that speaks to it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use bytes::BytesMut;
use glassloop::codec::Input;
use glassloop::submit::{Ack, ClientCodec, Dialect, Id, Kind, Request};
use glassloop::{Codec, Config, Counters, Handle, Handler, Reactor, Step, Stop};

use super::tools::PATIENCE;

#[path = "../server/session.rs"]
mod session;

pub(crate) use session::Service;

/// What the example server does, with its defaults.
pub(crate) fn service() -> Service {
    Service {
        dialect: Dialect::Text,
        max_frame: 65_536,
        require_conn: false,
    }
}

/// A reactor in a thread of its own. It is stopped with this value.
pub(crate) struct Loop {
    pub(crate) addr: SocketAddr,
    pub(crate) handle: Handle<()>,
    ends: Receiver<String>,
    thread: Option<JoinHandle<io::Result<Counters>>>,
}

impl Loop {
    pub(crate) fn start(
        handler: impl Handler<Mail = ()> + Send + 'static,
        config: Config,
    ) -> io::Result<Self> {
        let (tell, told) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut reactor = Reactor::new(handler, config).map_err(io::Error::other)?;
            let addr = reactor.listen("127.0.0.1:0").map_err(io::Error::other)?;
            reactor.set_observer(move |step: &Step<'_>| {
                if let Step::Closed { reason, .. } = step {
                    let _ = end.send(reason.to_string());
                }
            });
            let _ = tell.send((addr, reactor.handle()));
            reactor.run().map_err(io::Error::other)?;
            Ok(reactor.counters())
        });
        let (addr, handle) = told.recv().map_err(io::Error::other)?;
        Ok(Self {
            addr,
            handle,
            ends,
            thread: Some(thread),
        })
    }

    /// With the example server's service.
    pub(crate) fn submit() -> io::Result<Self> {
        Self::start(service(), Config::default())
    }

    /// Why the next connection ended.
    pub(crate) fn next_end(&self) -> io::Result<String> {
        self.ends.recv_timeout(PATIENCE).map_err(io::Error::other)
    }

    /// Stops it. Returns what it has counted.
    pub(crate) fn stop(mut self, how: Stop) -> io::Result<Counters> {
        self.handle.stop(how);
        self.thread
            .take()
            .expect("only here it is taken")
            .join()
            .map_err(|_| io::Error::other("the loop panicked"))?
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.handle.stop(Stop::AtOnce);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A blocking client.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next ack.
    pub(crate) fn ack(&mut self) -> io::Result<Ack> {
        let mut bytes = [0; Ack::LEN];
        self.stream.read_exact(&mut bytes)?;
        let ack = ClientCodec::default()
            .decode(&mut Input::new(&bytes))
            .map_err(io::Error::other)?;
        ack.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Sends one request and waits for its ack.
    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<Ack> {
        self.send(request)?;
        self.ack()
    }

    /// All that still comes, up to the orderly end. A reset is an error.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }
}

/// A request's bytes.
pub(crate) fn request(kind: Kind, id: Id, payload: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    ClientCodec::default()
        .encode(Request { kind, id, payload }, &mut bytes)
        .expect("it is short");
    bytes.to_vec()
}

/// The bytes of the `n`-th submit.
pub(crate) fn submit(n: u64, payload: &[u8]) -> Vec<u8> {
    request(Kind::Submit, Id::nth(n), payload)
}

/// Bytes as one writes them down: `00 00 00 09`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Does something that is to panic, in this thread or another one, without the words on stderr that go with it.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    panic::set_hook(hook);
    result.unwrap_or_else(|payload| panic::resume_unwind(payload))
}
