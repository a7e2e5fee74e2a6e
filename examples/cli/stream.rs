//! Lines on stdout and stderr that cannot panic: a full disk or a closed pipe is an error, not a
//! bug.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints to stdout at once.
///
/// # Errors
/// If stdout does not take it.
#[allow(dead_code)] // some programs print on stderr only
pub(crate) fn print(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.to_string().as_bytes())?;
    stdout.flush()
}

/// Prints a line to stderr. A stderr that does not take it leaves no place to say so.
pub(crate) fn complain(line: impl Display) {
    // One write, so that lines of several threads or processes do not mix.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
