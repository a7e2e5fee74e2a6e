//! tokio on one thread, with a task for each connection, framed by tokio-util.
//!
//! Idiomatic: `Framed` with `LengthDelimitedCodec`, as most programs on tokio speak such a
//! protocol. Acks are fed, and flushed when the buffer holds no further whole request. (Many
//! programs call `send` for each ack, which would be a system call each.)

use std::io;
use std::net::Ipv4Addr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::wire::{MAX_FRAME, ack_of_packet, whole};

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

async fn serve_one(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // In this protocol the length includes its own four bytes.
    let codec = LengthDelimitedCodec::builder()
        .length_adjustment(-4)
        .max_frame_length(MAX_FRAME)
        .new_codec();
    let mut framed = Framed::new(stream, codec);
    while let Some(packet) = framed.next().await {
        let ack = match packet.and_then(|packet| ack_of_packet(&packet)) {
            Ok(ack) => ack,
            Err(error) => {
                // Sends the acks of the requests before the invalid one.
                let _ = SinkExt::<Bytes>::flush(&mut framed).await;
                return Err(error);
            }
        };
        framed.feed(Bytes::copy_from_slice(&ack[4..])).await?;
        if !matches!(whole(framed.read_buffer()), Ok(Some(_))) {
            SinkExt::<Bytes>::flush(&mut framed).await?;
        }
    }
    Ok(())
}
