//! The fuzz targets: three functions that take any bytes, and panic if a property is violated.
//!
//! `tests/fuzz.rs` calls them for some seconds with every `cargo test`. To run them for hours with
//! coverage feedback, use cargo-fuzz on a nightly toolchain:
//!
//! ```sh
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz codecs
//! ```
//!
//! The first bytes of an input choose limits and sizes, the rest the events. A run adds new inputs
//! to `corpus`, where git ignores them. To keep one, give it a descriptive name there.

#![allow(dead_code, unreachable_pub, unused_imports)] // each includer uses a part of it

mod codecs;
mod connection;
mod draw;
mod model;
mod packets;
mod reference;

pub use self::codecs::{Piece, codecs, cut};
pub use self::connection::connection;
pub use self::packets::packets;
pub use self::reference::{Acks, Field, Line, ReferenceCodec, Requests};
