//! Nine servers that speak the same protocol and differ only in which thread waits, and where.
//!
//! `cargo run --release --example models` measures all of them and prints what each costs.
//! `… -- serve poll` runs one of them, for example under strace.

#![allow(clippy::cast_precision_loss)] // printed figures need no more precision

#[cfg(target_os = "linux")]
#[path = "linux.rs"] // keeps its modules in this directory
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("models: needs Linux: the servers use epoll, and the figures come from /proc");
    std::process::exit(1);
}
