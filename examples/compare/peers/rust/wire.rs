//! The protocol code that the Rust peers share.

use std::io::{self, ErrorKind};

pub(super) const HEADER: usize = 13;
pub(super) const ACK: usize = 14;
pub(super) const MAX_FRAME: usize = 64 * 1024;

/// Returns the length of the frame at the start of `bytes`, or `None` if fewer than four bytes have
/// arrived. Fails if no frame has this length.
#[inline]
pub(super) fn length_of(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(length) = bytes.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if (HEADER..=MAX_FRAME).contains(&length) {
        Ok(Some(length))
    } else {
        Err(invalid("frame length out of range"))
    }
}

/// Returns the first frame, if all of it has arrived.
#[inline]
pub(super) fn whole(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    Ok(length_of(bytes)?.and_then(|length| bytes.get(..length)))
}

/// Returns the ack of a frame.
#[inline]
pub(super) fn ack_of(frame: &[u8]) -> io::Result<[u8; ACK]> {
    ack_of_packet(&frame[4..])
}

/// Returns the ack of a frame, which is given without its length field.
#[inline]
pub(super) fn ack_of_packet(packet: &[u8]) -> io::Result<[u8; ACK]> {
    let Some([command @ (0x01 | 0x02), id @ ..]) = packet.first_chunk::<9>() else {
        return Err(invalid("neither a conn nor a submit"));
    };
    let mut ack = [0; ACK];
    ack[3] = ACK as u8;
    ack[4] = command | 0x80;
    ack[5..HEADER].copy_from_slice(id);
    Ok(ack)
}

/// Appends the acks of all whole frames. Returns the length of those frames in bytes, and an error
/// if the bytes after them are not a frame.
#[inline]
pub(super) fn answer(bytes: &[u8], acks: &mut Vec<u8>) -> (usize, io::Result<()>) {
    let mut done = 0;
    loop {
        match whole(&bytes[done..]) {
            Ok(Some(frame)) => match ack_of(frame) {
                Ok(ack) => acks.extend_from_slice(&ack),
                Err(error) => return (done, Err(error)),
            },
            Ok(None) => return (done, Ok(())),
            Err(error) => return (done, Err(error)),
        }
        done += length_of(&bytes[done..]).ok().flatten().unwrap_or(0);
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
