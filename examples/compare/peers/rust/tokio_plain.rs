//! tokio on one thread, with a task for each connection, reading and writing by hand.
//!
//! Idiomatic: `read_buf` into the task's own buffer, as in the framing chapter of tokio's tutorial;
//! one `write_all` for all acks of a read.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::wire::{MAX_FRAME, answer};

/// Initial buffer of a task, in bytes. A read that fills the buffer doubles it.
const BUFFER: usize = MAX_FRAME / 4;

pub(super) fn serve(port: u16) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve_one(stream));
        }
    })
}

async fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut acks = Vec::new();
    while stream.read_buf(&mut buffer).await? > 0 {
        let is_full = buffer.len() == buffer.capacity();
        let (done, outcome) = answer(&buffer, &mut acks);
        buffer.drain(..done);
        if is_full && buffer.capacity() < 4 * MAX_FRAME {
            buffer.reserve(2 * buffer.capacity() - buffer.len());
        }
        if !acks.is_empty() {
            stream.write_all(&acks).await?;
            acks.clear();
        }
        outcome?;
    }
    Ok(())
}
