//! The course itself: C66 and C67.

use super::prelude::*;
use super::register;

pub(crate) const RUNS: &[(&str, Run)] = &[("C67", c67)];

fn c67(_: Lab) -> io::Result<Outcome> {
    let claims = register::claims().iter();
    let states: Vec<&str> = claims
        .filter(|claim| claim.text.id.starts_with('C'))
        .map(|claim| claim.state().0)
        .collect();
    let [runs, substitutes, not_here] = ["runs", "substitute", "not here"]
        .map(|wanted| states.iter().filter(|state| **state == wanted).count());
    let all = states.len();
    Verdict::reproduced_if(all == 67).measured(values![all, runs, substitutes, not_here])
}
