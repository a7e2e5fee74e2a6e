//! Frames that end with a delimiter.

use std::fmt;
use std::io::BufRead;

use bytes::{BufMut, BytesMut};

use super::{Codec, Input, LengthField};

/// A codec for frames that end with a delimiter byte; `\n` by default.
///
/// The delimiter is not part of the frame. With `\n`, a `\r` before it is not part of the frame
/// either. Messages are sent with the delimiter alone. A message that contains the delimiter cannot
/// be encoded, because it would arrive as two.
///
/// ```
/// use glassloop::codec::{Codec, Input, Line};
///
/// let mut codec = Line::default();
/// let mut input = Input::new(b"one\r\ntwo\nthr");
/// assert_eq!(codec.decode(&mut input)?, Some(&b"one"[..]));
/// assert_eq!(codec.decode(&mut input)?, Some(&b"two"[..]));
/// assert_eq!(codec.decode(&mut input)?, None);
/// # Ok::<(), glassloop::codec::LineError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    delimiter: u8,
    max: u32,
    /// The number of bytes at the front that are known to hold no delimiter.
    scanned: u32,
}

impl Default for Line {
    fn default() -> Self {
        Self::ending_with(b'\n')
    }
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineError {
    /// A message contains the delimiter.
    DelimiterInside {
        /// The position of the delimiter, in bytes from the start of the message.
        at: usize,
    },
    /// The line is longer than allowed.
    TooLong {
        /// The bytes that were there, including the delimiter if it was found.
        length: usize,
        /// The largest length allowed, including the delimiter.
        max: usize,
    },
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DelimiterInside { at } => write!(f, "delimiter inside a message, at byte {at}"),
            Self::TooLong { length, max } => {
                write!(f, "line of {length} bytes or more, at most {max} allowed")
            }
        }
    }
}

impl std::error::Error for LineError {}

impl Line {
    /// Makes a codec for frames that end with `delimiter`.
    pub const fn ending_with(delimiter: u8) -> Self {
        Self {
            delimiter,
            max: LengthField::DEFAULT_MAX,
            scanned: 0,
        }
    }

    /// Rejects lines longer than `max` bytes, including the delimiter. Default
    /// [`LengthField::DEFAULT_MAX`].
    ///
    /// # Panics
    ///
    /// If `max` is 0. The shortest line is the delimiter, which is one byte.
    #[must_use]
    pub const fn max(mut self, max: u32) -> Self {
        assert!(max > 0, "an empty line has one byte");
        self.max = max;
        self
    }

    fn too_long(&self, length: usize) -> LineError {
        LineError::TooLong {
            length,
            max: self.max as usize,
        }
    }
}

impl Codec for Line {
    type Frame<'a> = &'a [u8];
    type Message<'a> = &'a [u8];
    type Error = LineError;

    fn decode<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<&'a [u8]>, LineError> {
        // No allowed line ends beyond `max`, so bytes beyond it are not scanned.
        let max = self.max as usize;
        let bytes = input.bytes();
        let window = &bytes[..bytes.len().min(max)];
        let mut unseen = &window[self.scanned as usize..];
        // `skip_until` is the public function of std that uses its fast `memchr`.
        let skipped = unseen
            .skip_until(self.delimiter)
            .expect("reading from memory cannot fail");
        let end = self.scanned as usize + skipped;
        if skipped > 0 && window[end - 1] == self.delimiter {
            self.scanned = 0;
            let line = &input.take(end)[..end - 1];
            return Ok(Some(if self.delimiter == b'\n' {
                line.strip_suffix(b"\r").unwrap_or(line)
            } else {
                line
            }));
        }
        if end == max {
            return Err(self.too_long(bytes.len()));
        }
        self.scanned = end as u32; // less than `max`, which has 32 bits
        Ok(None)
    }

    fn encode(&mut self, line: &[u8], out: &mut BytesMut) -> Result<(), LineError> {
        if let Some(at) = line.iter().position(|byte| *byte == self.delimiter) {
            return Err(LineError::DelimiterInside { at });
        }
        if line.len() >= self.max as usize {
            return Err(self.too_long(line.len() + 1));
        }
        out.reserve(line.len() + 1);
        out.put_slice(line);
        out.put_u8(self.delimiter);
        Ok(())
    }

    fn max_frame(&self) -> usize {
        self.max as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_in_pieces_is_scanned_once() {
        let mut codec = Line::default();
        let text = b"a long line\n";
        for end in 1..text.len() {
            assert_eq!(codec.decode(&mut Input::new(&text[..end])), Ok(None));
            assert_eq!(codec.scanned as usize, end);
        }
        assert_eq!(
            codec.decode(&mut Input::new(text)),
            Ok(Some(&text[..text.len() - 1]))
        );
        assert_eq!(codec.scanned, 0);
    }

    #[test]
    fn line_over_the_limit_is_rejected() {
        let mut codec = Line::default().max(4);
        assert_eq!(
            codec.decode(&mut Input::new(b"abc\n")),
            Ok(Some(&b"abc"[..]))
        );
        assert_eq!(
            codec.decode(&mut Input::new(b"abcd\n")),
            Err(LineError::TooLong { length: 5, max: 4 })
        );
        let mut codec = Line::default().max(4);
        assert_eq!(codec.decode(&mut Input::new(b"abc")), Ok(None));
        assert_eq!(
            codec.decode(&mut Input::new(b"abcd")),
            Err(LineError::TooLong { length: 4, max: 4 })
        );
    }

    #[test]
    fn carriage_return_is_stripped_before_newline_only() {
        assert_eq!(
            Line::default().decode(&mut Input::new(b"a\r\n")),
            Ok(Some(&b"a"[..]))
        );
        assert_eq!(
            Line::ending_with(0).decode(&mut Input::new(b"a\r\0")),
            Ok(Some(&b"a\r"[..]))
        );
        // Cut between `\r` and `\n`.
        let mut codec = Line::default();
        assert_eq!(codec.decode(&mut Input::new(b"a\r")), Ok(None));
        assert_eq!(codec.decode(&mut Input::new(b"a\r\n")), Ok(Some(&b"a"[..])));
    }

    #[test]
    fn message_with_delimiter_is_not_encoded() {
        let mut out = BytesMut::new();
        assert_eq!(
            Line::default().encode(b"a\nb", &mut out),
            Err(LineError::DelimiterInside { at: 1 })
        );
        assert_eq!(
            Line::default().max(4).encode(b"abcd", &mut out),
            Err(LineError::TooLong { length: 5, max: 4 })
        );
        Line::default()
            .encode(b"ab", &mut out)
            .expect("a short line without a delimiter");
        assert_eq!(&out[..], b"ab\n");
    }
}
