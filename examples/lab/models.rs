//! The models of input and output: C8 to C18. The experiments stand in `blocking.rs` (to C13) and
//! in `multiplexing.rs`.

use super::blocking::{c8, c9, c10, c11, c12, c13};
use super::multiplexing::{c14, c15, c16, c17, c18};
use super::prelude::*;

pub(crate) const RUNS: &[(&str, Run)] = &[
    ("C8", c8),
    ("C9", c9),
    ("C10", c10),
    ("C11", c11),
    ("C12", c12),
    ("C13", c13),
    ("C14", c14),
    ("C15", c15),
    ("C16", c16),
    ("C17", c17),
    ("C18", c18),
];
