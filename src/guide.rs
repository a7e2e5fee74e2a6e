//! What there is to know that belongs to no single part: documentation only, no code.
//!
//! [`faults`] lists what goes wrong in servers of this kind, and the test that holds each of it here.

#[doc = include_str!("guide/faults.md")]
pub mod faults {}
