//! Frames with a length field in front.

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::{Codec, Input};

/// A codec for frames with a big-endian length field.
///
/// ```text
///  |<---- offset ---->|<- width ->|<------ the rest ------>|
///  |       head       |  length   |          body          |
/// ```
///
/// The length counts either the whole frame ([`LengthField::whole`]) or what follows the field
/// ([`LengthField::rest`]). A declared length is checked against both limits as soon as the field
/// has arrived, before any byte of the body is kept.
///
/// ```
/// use glassloop::codec::{Codec, Input, LengthField};
///
/// let mut codec = LengthField::whole(4);
/// let mut input = Input::new(b"\0\0\0\x09hello\0\0");
/// let frame = codec.decode(&mut input)?.unwrap();
/// assert_eq!((frame.head, frame.body), (&b""[..], &b"hello"[..]));
/// assert!(codec.decode(&mut input)?.is_none());
/// # Ok::<(), glassloop::codec::LengthFieldError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LengthField {
    offset: u8,
    width: u8,
    counts: Counts,
    min: u32,
    max: u32,
}

/// What the length counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// The whole frame.
    Whole,
    /// The bytes after the field.
    Rest,
}

/// A frame in its parts, without the length field between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framed<'a> {
    /// The bytes before the length field: exactly `offset` bytes.
    pub head: &'a [u8],
    /// The bytes after the length field.
    pub body: &'a [u8],
}

impl<'a> From<&'a [u8]> for Framed<'a> {
    /// Makes a message without a head, for codecs with offset 0.
    fn from(body: &'a [u8]) -> Self {
        Self { head: &[], body }
    }
}

/// What is wrong with a length field, or with a message that needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LengthFieldError {
    /// The head of a message is not as long as the offset of the field.
    HeadLength {
        /// Bytes of head in the message.
        given: usize,
        /// Bytes of head in every frame.
        offset: usize,
    },
    /// The frame is longer than allowed.
    TooLong {
        /// The length of the frame in bytes, headers included.
        length: u64,
        /// The largest length allowed.
        max: usize,
    },
    /// The frame is shorter than its own header, or than allowed.
    TooShort {
        /// The length of the frame in bytes, headers included.
        length: u64,
        /// The smallest length allowed.
        min: usize,
    },
}

impl fmt::Display for LengthFieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadLength { given, offset } => {
                write!(f, "head of {given} bytes where a frame has {offset}")
            }
            Self::TooLong { length, max } => {
                write!(f, "frame of {length} bytes, at most {max} allowed")
            }
            Self::TooShort { length, min } => {
                write!(f, "frame of {length} bytes, at least {min} needed")
            }
        }
    }
}

impl std::error::Error for LengthFieldError {}

impl LengthField {
    /// The default limit of this crate's codecs: 65,536 bytes a frame, headers included.
    ///
    /// It bounds what one peer can make its connection hold before a frame is handled.
    pub const DEFAULT_MAX: u32 = 65_536;

    /// Makes a codec with a field of `width` bytes that counts the whole frame, including the field
    /// and the head.
    ///
    /// # Panics
    ///
    /// If `width` is not 1 to 8.
    pub const fn whole(width: u8) -> Self {
        Self::new(width, Counts::Whole)
    }

    /// Makes a codec with a field of `width` bytes that counts only the bytes after it.
    ///
    /// # Panics
    ///
    /// If `width` is not 1 to 8.
    pub const fn rest(width: u8) -> Self {
        Self::new(width, Counts::Rest)
    }

    const fn new(width: u8, counts: Counts) -> Self {
        assert!(1 <= width && width <= 8, "a length field has 1 to 8 bytes");
        Self {
            offset: 0,
            width,
            counts,
            min: width as u32,
            max: Self::DEFAULT_MAX,
        }
    }

    /// Puts `offset` bytes before the field. Default 0.
    ///
    /// # Panics
    ///
    /// If no frame fits into the largest length then.
    #[must_use]
    pub const fn at(mut self, offset: u8) -> Self {
        self.offset = offset;
        let min = self.min;
        self.min(min)
    }

    /// Rejects frames shorter than `min` bytes, headers included. Default: the length of the
    /// headers.
    ///
    /// # Panics
    ///
    /// If `min` is more than the largest length. Set [`max`](Self::max) first.
    #[must_use]
    pub const fn min(mut self, min: u32) -> Self {
        self.min = if min < self.header() as u32 {
            self.header() as u32
        } else {
            min
        };
        assert!(
            self.min <= self.max,
            "no frame fits: the smallest length exceeds the largest"
        );
        self
    }

    /// Rejects frames longer than `max` bytes, headers included. Default
    /// [`DEFAULT_MAX`](Self::DEFAULT_MAX).
    ///
    /// # Panics
    ///
    /// If `max` is less than the smallest length.
    #[must_use]
    pub const fn max(mut self, max: u32) -> Self {
        assert!(
            self.min <= max,
            "no frame fits: the smallest length exceeds the largest"
        );
        self.max = max;
        self
    }

    /// Returns the bytes before the body: head and field.
    const fn header(&self) -> usize {
        self.offset as usize + self.width as usize
    }

    /// Checks the length of a whole frame.
    #[inline(always)]
    fn check(&self, length: u64) -> Result<usize, LengthFieldError> {
        if length < u64::from(self.min) {
            return Err(LengthFieldError::TooShort {
                length,
                min: self.min as usize,
            });
        }
        if length > u64::from(self.max) {
            return Err(LengthFieldError::TooLong {
                length,
                max: self.max as usize,
            });
        }
        Ok(length as usize) // at most `max`, which has 32 bits
    }
}

impl Codec for LengthField {
    type Frame<'a> = Framed<'a>;
    type Message<'a> = Framed<'a>;
    type Error = LengthFieldError;

    #[inline(always)] // a codec with a constant shape compiles to a few instructions; see `submit`
    fn decode<'a>(
        &mut self,
        input: &mut Input<'a>,
    ) -> Result<Option<Framed<'a>>, LengthFieldError> {
        let bytes = input.bytes();
        let Some(header) = bytes.get(..self.header()) else {
            input.need(self.header());
            return Ok(None);
        };
        let (head, field) = header.split_at(usize::from(self.offset));
        let value = match field.try_into() {
            Ok(four) => u64::from(u32::from_be_bytes(four)),
            Err(_) => field
                .iter()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
        };
        let length = self.check(match self.counts {
            Counts::Whole => value,
            Counts::Rest => value.saturating_add(header.len() as u64),
        })?;
        if bytes.len() < length {
            input.need(length);
            return Ok(None);
        }
        Ok(Some(Framed {
            head,
            body: &input.take(length)[header.len()..],
        }))
    }

    #[inline]
    fn encode(&mut self, message: Framed<'_>, out: &mut BytesMut) -> Result<(), LengthFieldError> {
        let Framed { head, body } = message;
        if head.len() != usize::from(self.offset) {
            return Err(LengthFieldError::HeadLength {
                given: head.len(),
                offset: self.offset.into(),
            });
        }
        let length = self.check((self.header() + body.len()) as u64)?;
        let value = match self.counts {
            Counts::Whole => length,
            Counts::Rest => body.len(),
        } as u64;
        let bits = u32::from(self.width) * 8;
        if bits < 64 && value >> bits != 0 {
            return Err(LengthFieldError::TooLong {
                length: length as u64,
                max: (1 << bits) - 1,
            });
        }
        out.reserve(length);
        out.put_slice(head);
        out.put_uint(value, self.width.into());
        out.put_slice(body);
        Ok(())
    }

    fn max_frame(&self) -> usize {
        self.max as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (Vec<u8>, Vec<u8>);

    fn decode(codec: &mut LengthField, bytes: &[u8]) -> Result<Option<Parts>, LengthFieldError> {
        let frame = codec.decode(&mut Input::new(bytes))?;
        Ok(frame.map(|frame| (frame.head.to_vec(), frame.body.to_vec())))
    }

    #[test]
    fn encoded_frames_decode_for_every_width_and_offset() {
        for width in 1..=8 {
            for offset in [0, 1, 5] {
                for codec in [LengthField::whole(width), LengthField::rest(width)] {
                    let mut codec = codec.at(offset);
                    let head = vec![7; offset.into()];
                    let mut out = BytesMut::new();
                    codec
                        .encode(
                            Framed {
                                head: &head,
                                body: b"hello",
                            },
                            &mut out,
                        )
                        .expect("five bytes fit");
                    for short in 0..out.len() {
                        assert_eq!(
                            decode(&mut codec, &out[..short]),
                            Ok(None),
                            "{short} bytes of {codec:?}"
                        );
                    }
                    assert_eq!(
                        decode(&mut codec, &out),
                        Ok(Some((head, b"hello".to_vec())))
                    );
                }
            }
        }
    }

    #[test]
    fn hello_frame_has_length_nine() {
        let mut out = BytesMut::new();
        LengthField::whole(4)
            .encode((&b"hello"[..]).into(), &mut out)
            .expect("five bytes fit");
        assert_eq!(&out[..], b"\0\0\0\x09hello");
    }

    #[test]
    fn bad_length_is_rejected_before_the_body_arrives() {
        let mut codec = LengthField::whole(4).min(13).max(100);
        for length in [0_u32, 1, 4, 12] {
            let error = LengthFieldError::TooShort {
                length: length.into(),
                min: 13,
            };
            assert_eq!(decode(&mut codec, &length.to_be_bytes()), Err(error));
        }
        for length in [101_u32, 1 << 24, i32::MAX as u32, 1 << 31, u32::MAX] {
            let error = LengthFieldError::TooLong {
                length: length.into(),
                max: 100,
            };
            assert_eq!(decode(&mut codec, &length.to_be_bytes()), Err(error));
        }
        assert_eq!(decode(&mut codec, &100_u32.to_be_bytes()), Ok(None));
        assert!(
            decode(&mut LengthField::rest(8), &[0xff; 8]).is_err(),
            "a length near 2^64 must not wrap round"
        );
    }

    #[test]
    fn body_too_long_for_the_field_is_not_encoded() {
        let mut out = BytesMut::new();
        assert!(
            LengthField::rest(1)
                .encode((&[0; 256][..]).into(), &mut out)
                .is_err()
        );
        assert!(
            LengthField::rest(1)
                .encode((&[0; 255][..]).into(), &mut out)
                .is_ok()
        );
    }
}
