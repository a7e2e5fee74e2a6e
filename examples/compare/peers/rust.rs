//! The peers written in Rust, which are part of this program.

mod threads;
mod tokio_framed;
mod tokio_plain;
mod wire;

use std::error::Error;

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RustPeer {
    Threads,
    Tokio,
    TokioFramed,
}

impl RustPeer {
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .expect("none is skipped")
            .get_name()
            .to_string()
    }
}

/// Runs a peer until the process is killed.
pub(crate) fn serve(peer: RustPeer, port: u16) -> Result<(), Box<dyn Error>> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    match peer {
        RustPeer::Threads => threads::serve(port),
        RustPeer::Tokio => tokio_plain::serve(port),
        RustPeer::TokioFramed => tokio_framed::serve(port),
    }
    .map_err(|error| format!("{}: {error}", peer.name()).into())
}
