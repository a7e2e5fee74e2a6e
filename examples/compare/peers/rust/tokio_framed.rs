//! tokio on one thread, a task for each connection, framed by tokio-util.
//!
//! Idiomatic: `Framed` with `LengthDelimitedCodec`, the way most programs on tokio speak such a protocol; but acks are fed, and flushed when
//! no further whole request is there. (`send` for each ack, as many write, would be a system call for each.)

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
    // Lengths count themselves here.
    let codec = LengthDelimitedCodec::builder()
        .length_adjustment(-4)
        .max_frame_length(MAX_FRAME)
        .new_codec();
    let mut framed = Framed::new(stream, codec);
    while let Some(packet) = framed.next().await {
        let ack = match packet.and_then(|packet| ack_of_packet(&packet)) {
            Ok(ack) => ack,
            Err(error) => {
                let _ = SinkExt::<Bytes>::flush(&mut framed).await; // the acks before it
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
