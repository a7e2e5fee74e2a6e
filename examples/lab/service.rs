//! The submit service in a loop and a thread of its own, and clients of it and of the nine servers.

use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use bytes::BytesMut;
use glassloop::codec::Input;
use glassloop::submit::{
    Ack, ClientCodec, Dialect, Id, Kind, Outcome as Answer, Request, ServerCodec,
};
use glassloop::{
    Codec, Config, Context, Counters, Handle, Handler, Origin, Reactor, Step, Stop, Verdict as Next,
};

use super::prelude::*;
use super::servers::Model;
use super::servers::child::Server;

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

/// A submit service that is one function.
pub(crate) struct Answers(pub(crate) fn(&Request<'_>) -> Answer);

impl Handler for Answers {
    type Codec = ServerCodec;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (ServerCodec, ()) {
        Default::default()
    }

    fn frame(&mut self, request: Request<'_>, cx: &mut Context<'_, Self>) -> Next {
        cx.send(request.ack((self.0)(&request)));
        Next::Continue
    }
}

/// A reactor in its own thread. It stops when this value is dropped.
pub(crate) struct Loop {
    pub(crate) addr: SocketAddr,
    handle: Handle<()>,
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
            let mut reactor = Reactor::new(handler, config)?;
            let addr = reactor.listen("127.0.0.1:0")?;
            reactor.set_observer(move |step: &Step<'_>| {
                if let Step::Closed { reason, .. } = step {
                    let _ = end.send(reason.to_string());
                }
            });
            let _ = tell.send((addr, reactor.handle()));
            reactor.run()?;
            Ok(reactor.counters())
        });
        let (addr, handle) = told.recv().map_err(io::Error::other)?;
        let thread = Some(thread);
        Ok(Self {
            addr,
            handle,
            ends,
            thread,
        })
    }

    /// With the example server's service.
    pub(crate) fn submit() -> io::Result<Self> {
        Self::start(service(), Config::default())
    }

    /// The close reason of the next connection that closes.
    pub(crate) fn next_end(&self) -> io::Result<String> {
        self.ends.recv_timeout(PATIENCE).map_err(io::Error::other)
    }

    /// A client that sends this and ends its sending: what it gets, and the close reason.
    pub(crate) fn talk(&self, bytes: &[u8]) -> io::Result<(Vec<u8>, String)> {
        let mut client = Client::connect(self.addr)?;
        client.send(bytes)?;
        Ok((client.rest()?, self.next_end()?))
    }

    /// Stops it. Returns its counters.
    pub(crate) fn stop(mut self, how: Stop) -> io::Result<Counters> {
        self.handle.stop(how);
        joined(self.thread.take().expect("only here it is taken"))?
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
        let stream = connected(addr, 0, 0)?;
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
        let ack = ClientCodec::default().decode(&mut Input::new(&bytes));
        ack.map_err(io::Error::other)?
            .ok_or_else(|| ErrorKind::InvalidData.into())
    }

    /// Sends one request and waits for its ack.
    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<Ack> {
        self.send(request)?;
        self.ack()
    }

    /// Sends the `n`-th submit and waits for its ack. Returns whether the ack is for it.
    pub(crate) fn is_served(&mut self, n: u64) -> io::Result<bool> {
        Ok(self.ask(&submit(n, b"hello"))?.id == Id::nth(n))
    }

    /// The same for a client whose requests need no numbers.
    ///
    /// # Errors
    /// If no ack comes, or a wrong one.
    pub(crate) fn hello(&mut self) -> io::Result<()> {
        if self.is_served(1)? {
            Ok(())
        } else {
            Err(fail("a wrong ack"))
        }
    }

    /// Ends its sending, and returns what still comes, up to the orderly end. A reset is an error.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        self.stream.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }
}

/// This many clients of a server, each answered once, and silent from then on.
pub(crate) fn crowd(addr: SocketAddr, count: usize) -> io::Result<Vec<Client>> {
    let client = |_| {
        let mut client = Client::connect(addr)?;
        client.hello()?;
        Ok(client)
    };
    (0..count).map(client).collect()
}

/// The system calls that a server makes for a request: the average of some that come one by one.
pub(crate) fn calls_per_request(model: Model) -> io::Result<f64> {
    const REQUESTS: u32 = 100;
    let mut server = Server::start(model)?;
    let mut client = Client::connect(server.addr)?;
    client.hello()?;
    let before: u64 = server.calls()?.iter().sum();
    (0..REQUESTS).try_for_each(|_| client.hello())?;
    let after: u64 = server.calls()?.iter().sum();
    Ok((after - before) as f64 / f64::from(REQUESTS))
}

/// A request's bytes.
pub(crate) fn request(kind: Kind, id: Id, payload: &[u8]) -> Vec<u8> {
    let (request, mut bytes) = (Request { kind, id, payload }, BytesMut::new());
    ClientCodec::default()
        .encode(request, &mut bytes)
        .expect("it is short");
    bytes.to_vec()
}

/// The bytes of the `n`-th submit.
pub(crate) fn submit(n: u64, payload: &[u8]) -> Vec<u8> {
    request(Kind::Submit, Id::nth(n), payload)
}

/// Bytes in hexadecimal: `00 00 00 09`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// Runs something that panics, in this thread or another one, without the message on stderr.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    panic::set_hook(hook);
    result.unwrap_or_else(|payload| panic::resume_unwind(payload))
}
