//! The protocol, as the Rust peers read and write it.

use std::io::{self, ErrorKind};

pub(super) const HEADER: usize = 13;
pub(super) const ACK: usize = 14;
pub(super) const MAX_FRAME: usize = 64 * 1024;

/// How long the frame is that begins here, if that is known yet.
#[inline]
pub(super) fn length_of(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(length) = bytes.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if (HEADER..=MAX_FRAME).contains(&length) {
        Ok(Some(length))
    } else {
        Err(bad("no frame is so long"))
    }
}

/// The first frame, if it is here as a whole.
#[inline]
pub(super) fn whole(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    Ok(length_of(bytes)?.and_then(|length| bytes.get(..length)))
}

/// The ack of a frame.
#[inline]
pub(super) fn ack_of(frame: &[u8]) -> io::Result<[u8; ACK]> {
    ack_of_packet(&frame[4..])
}

/// The ack of a frame without its length.
#[inline]
pub(super) fn ack_of_packet(packet: &[u8]) -> io::Result<[u8; ACK]> {
    let Some([command @ (0x01 | 0x02), id @ ..]) = packet.first_chunk::<9>() else {
        return Err(bad("no conn and no submit"));
    };
    let mut ack = [0; ACK];
    ack[3] = ACK as u8;
    ack[4] = command | 0x80;
    ack[5..HEADER].copy_from_slice(id);
    Ok(ack)
}

/// Appends the acks of all frames that are here as a whole. Returns how many bytes those have, and whether what follows may be one.
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

fn bad(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
