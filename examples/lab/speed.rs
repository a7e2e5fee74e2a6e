//! TODO

use super::claim::Claim;

pub(crate) const CLAIMS: &[Claim] = &[];
