//! What holds for any bytes: three functions that take arbitrary input, and panic where a property is broken.
//!
//! `tests/fuzz.rs` calls them for some seconds with every `cargo test`. For hours, with coverage to guide it, where a nightly toolchain
//! and cargo-fuzz are installed:
//!
//! ```sh
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz codecs
//! ```
//!
//! The first bytes of an input choose limits and sizes, the rest says what happens. What a run finds it adds to `corpus`, where
//! git overlooks it: an input that is worth keeping is given a telling name there.

#![allow(dead_code, unreachable_pub, unused_imports)] // who includes this uses a part of it

mod codecs;
mod connection;
mod draw;
mod model;
mod packets;
mod reference;

pub use self::codecs::{Piece, codecs, cut};
pub use self::connection::connection;
pub use self::packets::packets;
pub use self::reference::{Acks, Field, Line, Requests, Rules};
