//! glassloop beside its peers: who answers how many requests, at what price, in interleaved rounds on one machine.
//!
//! `cargo run --release --example compare` takes about two minutes; `… -- --help` says how it measures.
//! `rounds` runs it all; `scenarios` is what is asked of each, `peers` who they are, `check` whether they answer properly, `process` starts and pins
//! them, `calls` counts their system calls; `figures`, `table` and `plot` make sense of it.

#![allow(clippy::cast_precision_loss)] // figures for people

#[cfg(target_os = "linux")]
#[path = "linux.rs"] // so that its modules stand beside it
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!(
        "compare: the yardstick is epoll, and what a server costs stands in /proc: both are Linux's; on this system there is nothing to be compared"
    );
    std::process::exit(1);
}
