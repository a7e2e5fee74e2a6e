//! The lab: every claim of the lessons, run and measured.
//!
//! `cargo run --release --example lab -- list`, then `… -- run C43`; `… -- wrong` shows eight
//! reactors that are wrong.

#![allow(clippy::cast_precision_loss)] // the figures are rounded anyway
#![allow(clippy::unnecessary_wraps)] // every experiment has the same form

#[cfg(target_os = "linux")]
#[path = "linux.rs"] // so that its modules stand beside it
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("lab: NOT HERE. Its experiments look at Linux's sockets and at /proc");
    std::process::exit(1);
}
