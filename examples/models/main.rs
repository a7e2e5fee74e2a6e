//! Nine servers that speak the same protocol, and differ only in who waits, where.
//!
//! `cargo run --release --example models` runs them side by side and prints what each costs; `… -- serve poll` runs one of them, to be looked at with strace.

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
        "models: epoll is Linux's, and so are the figures in /proc; on this system there is nothing to be compared"
    );
    std::process::exit(1);
}
