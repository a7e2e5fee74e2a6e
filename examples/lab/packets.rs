//! Frames, packets and the server made of them: D1 to D18, what the second lesson builds.

use super::prelude::*;
use super::{packets_bytes as bytes, packets_server as server};

pub(crate) const RUNS: &[(&str, Run)] = &[
    ("D1", bytes::d1),
    ("D2", bytes::d2),
    ("D3", bytes::d3),
    ("D4", bytes::d4),
    ("D5", bytes::d5),
    ("D6", bytes::d6),
    ("D7", bytes::d7),
    ("D8", bytes::d8),
    ("D9", bytes::d9),
    ("D10", server::d10),
    ("D11", bytes::d11),
    ("D12", server::d12),
    ("D13", server::d13),
    ("D14", server::d14),
    ("D15", server::d15),
    ("D16", server::d16),
    ("D17", server::d17),
    ("D18", server::d18),
];
