//! Copies of the course's servers, with their calls counted: they trust a length, write a frame in
//! two pieces, and the third does not flush.

use std::fmt;
use std::io::BufReader;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::prelude::*;

/// What the course's servers differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demo {
    /// tcp-server-demo1 and 2: each piece of a frame is read from the socket, and written to it.
    Direct,
    /// The same, with each ack in one write.
    OneWrite,
    /// tcp-server-demo3: bufio on both sides. It writes when 4,096 bytes are together, or at the
    /// end.
    Buffered,
    /// The same, and it flushes before it waits for the next request.
    Flushing,
}

/// Bytes of a bufio.Reader and a bufio.Writer, unless told otherwise.
const BUFFER: usize = 4096;

/// frame.Decode: what comes after the length. It trusts any length; below the smallest number it
/// wraps, as Go's int32 does.
#[allow(clippy::cast_sign_loss)] // a length below 4 is the experiment
pub(crate) fn decode_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    read_full(stream, &mut length)?;
    let mut payload = vec![0; i32::from_be_bytes(length).wrapping_sub(4) as usize];
    read_full(stream, &mut payload)?;
    Ok(payload)
}

/// io.ReadFull: all of it, or an error: "EOF" before the first byte, and "unexpected EOF" after it.
fn read_full(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => {
                let name = if filled == 0 { "EOF" } else { "unexpected EOF" };
                return Err(io::Error::new(ErrorKind::UnexpectedEof, name));
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// frame.Encode: the length, then the rest.
#[allow(clippy::cast_possible_wrap)]
pub(crate) fn encode_frame(stream: &mut impl Write, payload: &[u8]) -> io::Result<()> {
    stream.write_all(&(payload.len() as i32 + 4).to_be_bytes())?;
    stream.write_all(payload)
}

/// packet.Submit: an object on the heap for each request, as in Go, where a pointer to it leaves
/// the function.
#[derive(Default)]
pub(crate) struct Submit {
    id: String,
    /// The frame; the payload follows its first nine bytes.
    frame: Vec<u8>,
}

/// packet.Decode. It slices without a check, as Go's `pktBody[:8]` does.
pub(crate) fn decode_packet(frame: Vec<u8>, mut submit: Box<Submit>) -> io::Result<Box<Submit>> {
    let (command, body) = (frame[0], &frame[1..]);
    if command != 0x02 {
        return Err(io::Error::other(format!("unknown commandID [{command}]")));
    }
    submit.id = String::from_utf8_lossy(&body[..8]).into_owned();
    submit.frame = frame;
    Ok(submit)
}

/// Packets that are free again: sync.Pool, or none.
pub(crate) type Pool = Option<Vec<Box<Submit>>>;

/// handlePacket: the ack to a frame.
pub(crate) fn handle_packet(
    frame: Vec<u8>,
    pool: &mut Pool,
    log: &mut impl FnMut(fmt::Arguments<'_>),
) -> io::Result<Vec<u8>> {
    let submit = decode_packet(frame, pool.as_mut().and_then(Vec::pop).unwrap_or_default())?;
    log(format_args!(
        "recv submit: id = {}, payload={}",
        submit.id,
        String::from_utf8_lossy(&submit.frame[9..])
    ));
    let body = [submit.id.as_bytes(), &[0]].concat(); // SubmitAck.Encode
    let ack = [&[0x82], &body[..]].concat(); // packet.Encode
    if let Some(pool) = pool {
        pool.push(submit);
    }
    Ok(ack)
}

/// handleConn. It calls a function before it waits for the next request.
pub(crate) fn handle_conn<R: Read, W: Write>(
    reader: &mut R,
    writer: &mut W,
    mut before_waiting: impl FnMut(&mut R, &mut W) -> io::Result<()>,
    log: &mut impl FnMut(fmt::Arguments<'_>),
) -> io::Result<()> {
    loop {
        before_waiting(reader, writer)?;
        let frame = match decode_frame(reader) {
            Ok(frame) => frame,
            Err(error) => {
                log(format_args!("handleConn: frame decode error: {error}"));
                return Ok(());
            }
        };
        let ack = handle_packet(frame, &mut None, log)?;
        encode_frame(writer, &ack)?;
    }
}

/// What such a server has done so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    reads: AtomicUsize,
    writes: AtomicUsize,
    /// Requests that it has taken.
    requests: AtomicUsize,
    /// Nanoseconds in calls.
    spent: AtomicUsize,
}

impl Counts {
    /// Reads, writes and requests.
    pub(crate) fn now(&self) -> [usize; 3] {
        [&self.reads, &self.writes, &self.requests].map(|count| count.load(Ordering::Relaxed))
    }

    /// The time in calls.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed) as u64)
    }
}

/// A socket whose calls are counted and timed.
pub(crate) struct Counted<'a>(pub(crate) &'a TcpStream, pub(crate) &'a Counts);

impl Counted<'_> {
    fn call<T>(&self, count: &AtomicUsize, call: impl FnOnce(&TcpStream) -> T) -> T {
        count.fetch_add(1, Ordering::Relaxed);
        let (took, result) = timed(|| call(self.0));
        self.1
            .spent
            .fetch_add(took.as_nanos() as usize, Ordering::Relaxed);
        result
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.call(&self.1.reads, |mut stream| stream.read(buffer))
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call(&self.1.writes, |mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// bufio.Writer, which writes its buffer when it is full; std's `BufWriter` writes it when the next
/// piece does not fit.
struct Bufio<W> {
    writer: W,
    held: Vec<u8>,
}

impl<W: Write> Bufio<W> {
    fn new(writer: W) -> Self {
        Self {
            writer,
            held: Vec::with_capacity(BUFFER),
        }
    }
}

impl<W: Write> Write for Bufio<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (now, later) = bytes.split_at(bytes.len().min(BUFFER - self.held.len()));
        self.held.extend_from_slice(now);
        if !later.is_empty() {
            self.flush()?;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.write_all(&self.held)?;
        self.held.clear();
        Ok(())
    }
}

/// One of them, which serves one client in its own thread.
pub(crate) struct Served {
    pub(crate) client: TcpStream,
    pub(crate) counts: Arc<Counts>,
    /// Returns what the server has logged.
    thread: Option<JoinHandle<io::Result<Vec<String>>>>,
}

impl Served {
    pub(crate) fn by(demo: Demo) -> io::Result<Self> {
        let ((client, server), counts) = (pair()?, Arc::<Counts>::default());
        let thread = thread::spawn({
            let counts = Arc::clone(&counts);
            move || demo.serve(&server, &counts)
        });
        Ok(Self {
            client,
            counts,
            thread: Some(thread),
        })
    }

    /// Ends the client's sending, and returns what still comes and what the server has logged.
    pub(crate) fn end(mut self) -> io::Result<(Vec<u8>, Vec<String>)> {
        self.client.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        self.client.read_to_end(&mut rest)?;
        let log = joined(self.thread.take().expect("only here it is taken"))??;
        Ok((rest, log))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.client.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Demo {
    fn serve(self, stream: &TcpStream, counts: &Counts) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        let log = &mut |line: fmt::Arguments<'_>| {
            lines.push(line.to_string());
            let is_request = lines.last().is_some_and(|line| line.starts_with("recv"));
            counts
                .requests
                .fetch_add(usize::from(is_request), Ordering::Relaxed);
        };
        let counted = || Counted(stream, counts);
        let (reader, writer) = (&mut counted(), &mut Bufio::new(counted()));
        let buffered = &mut BufReader::with_capacity(BUFFER, counted());
        match self {
            Demo::Direct => handle_conn(reader, &mut counted(), |_, _| Ok(()), log)?,
            Demo::OneWrite => handle_conn(reader, writer, |_, writer| writer.flush(), log)?,
            Demo::Buffered => handle_conn(buffered, writer, |_, _| Ok(()), log)?,
            Demo::Flushing => {
                let flush = |reader: &mut BufReader<_>, writer: &mut Bufio<_>| {
                    if reader.buffer().is_empty() {
                        writer.flush()
                    } else {
                        Ok(())
                    }
                };
                handle_conn(buffered, writer, flush, log)?;
            }
        }
        writer.flush()?; // `defer wbuf.Flush()`
        Ok(lines)
    }
}
