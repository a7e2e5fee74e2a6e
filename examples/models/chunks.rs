//! A codec for code that splits frames itself, as code on a blocking socket does.

use std::convert::Infallible;

use bytes::{BufMut, BytesMut};
use glassloop::Codec;
use glassloop::codec::Input;

/// Passes on the bytes of each read as they are: one frame per chunk.
pub(crate) struct Chunks;

impl Codec for Chunks {
    type Frame<'a> = &'a [u8];
    type Message<'a> = &'a [u8];
    type Error = Infallible;

    fn decode<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<&'a [u8]>, Self::Error> {
        let count = input.bytes().len();
        Ok((count > 0).then(|| input.take(count)))
    }

    fn encode(&mut self, bytes: &[u8], out: &mut BytesMut) -> Result<(), Self::Error> {
        out.put_slice(bytes);
        Ok(())
    }

    fn max_frame(&self) -> usize {
        0
    }
}
