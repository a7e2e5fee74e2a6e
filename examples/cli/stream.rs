//! Printing to stdout and stderr without a panic: a full disk or a closed pipe is an error, not a
//! bug.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints to stdout and flushes it.
///
/// # Errors
/// If stdout cannot be written.
#[allow(dead_code)] // some programs print on stderr only
pub(crate) fn print(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.to_string().as_bytes())?;
    stdout.flush()
}

/// Prints a line to stderr. Ignores an error, since there is no other place to report it.
pub(crate) fn print_error(line: impl Display) {
    // One write, so that lines of several threads or processes do not mix.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
