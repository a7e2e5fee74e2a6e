//! What there is to know that belongs to no single part: documentation only, no code.
//!
//! [`faults`] lists what goes wrong in servers of this kind, and the test that holds each of it here. [`simulation`] says what
//! the simulator does, and which bugs it finds.

#[doc = include_str!("guide/faults.md")]
pub mod faults {}

#[doc = include_str!("guide/simulation.md")]
pub mod simulation {}
