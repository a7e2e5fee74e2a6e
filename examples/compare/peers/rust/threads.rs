//! Blocking calls of the standard library, with a thread for each connection.
//!
//! Idiomatic: both directions are buffered. Acks are flushed when the reader holds no further whole
//! request, which is just before the thread may block.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use super::wire::{MAX_FRAME, ack_of, length_of, whole};

/// Stack of a serving thread, in bytes.
const STACK: usize = 64 * 1024;

pub(super) fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    for stream in listener.incoming() {
        let stream = stream?;
        // If no thread can be started, the connection is closed.
        let _ = thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || serve_one(&stream));
    }
    Ok(())
}

fn serve_one(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(MAX_FRAME, stream);
    let mut writer = BufWriter::with_capacity(MAX_FRAME / 4, stream);
    let mut long = Vec::new();
    loop {
        // Whole requests are read in the buffer, without a copy.
        if let Some(frame) = whole(reader.buffer())? {
            let length = frame.len();
            writer.write_all(&ack_of(frame)?)?;
            reader.consume(length);
            continue;
        }
        writer.flush()?;
        if reader.buffer().is_empty() {
            if reader.fill_buf()?.is_empty() {
                return Ok(());
            }
            continue;
        }
        // A request that is only partly in the buffer is copied into one piece.
        let mut header = [0; 4];
        reader.read_exact(&mut header)?;
        let length = length_of(&header)?.unwrap_or(0);
        long.resize(length, 0);
        reader.read_exact(&mut long[4..])?;
        writer.write_all(&ack_of(&long)?)?;
    }
}
