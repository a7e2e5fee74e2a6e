//! Compares glassloop with other servers: requests a second and the cost of each, in interleaved
//! rounds on one machine.
//!
//! `cargo run --release --example compare` takes about two minutes; `… -- --help` explains how it
//! measures. The modules:
//!
//! - `rounds` runs the measurements, `scenarios` lists the loads, and `peers` the servers;
//! - `check` tests the protocol of each server, `process` starts and pins processes, and `calls`
//!   counts system calls;
//! - `figures` keeps the values, `table` and `plot` present them.

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
    eprintln!("compare: needs Linux: the yardstick uses epoll, and the figures come from /proc");
    std::process::exit(1);
}
