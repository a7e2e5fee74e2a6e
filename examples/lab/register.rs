//! All claims, in the order of the lessons: their texts joined with their experiments.

use std::sync::LazyLock;

use super::claim::{Claim, Runs};
use super::dial::{backlog, silence};
use super::{
    blocking, buffers, close, course, dial, go, listen, multiplexing, netpoller, packets_bytes,
    packets_server, protocol, read, read_deadlines, share, speed, speed_calls, text, write,
    write_blocks, write_deadlines,
};

type Section = (&'static str, &'static str, &'static [Runs]);

/// Each section: its file, the text in it, and the experiments.
macro_rules! sections {
    ($($name:ident: $($code:ident)+;)*) => {
        [$((
            concat!("src/guide/lab/", stringify!($name), ".md"),
            include_str!(concat!("../../src/guide/lab/", stringify!($name), ".md")),
            &[$($code::RUNS),+],
        )),*]
    };
}

const SECTIONS: [Section; 13] = sections! {
    protocol: protocol;
    models: blocking multiplexing;
    go: go netpoller;
    listen: listen;
    dial: dial backlog silence;
    buffers: buffers;
    read: read read_deadlines;
    write: write write_blocks write_deadlines;
    share: share;
    close: close;
    course: course;
    packets: packets_bytes packets_server;
    speed: speed speed_calls;
};

static CLAIMS: LazyLock<Vec<Claim>> =
    LazyLock::new(|| all().unwrap_or_else(|error| panic!("the lab's texts: {error}")));

/// Every claim, C before D before E, by number.
pub(crate) fn claims() -> &'static [Claim] {
    &CLAIMS
}

/// # Errors
/// If a text does not have its form, or text and code name different claims.
fn all() -> Result<Vec<Claim>, String> {
    let mut claims = Vec::new();
    for (file, text, runs) in SECTIONS {
        let (texts, runs) = (text::parse(file, text)?, runs.concat());
        let is_for = |id: &str, text: &text::Text| text.id.eq_ignore_ascii_case(id);
        let lacks_text = |id: &str| !texts.iter().any(|text| is_for(id, text));
        if let Some((id, _)) = runs.iter().find(|(id, _)| lacks_text(id)) {
            return Err(format!("{file} has no text for {id}"));
        }
        for text in texts {
            let run = runs
                .iter()
                .find(|(id, _)| is_for(id, &text))
                .map(|(_, run)| *run);
            if run.is_some() == text.not_here.is_some() {
                let rule = "a claim has either an experiment or a reason under Not here";
                return Err(format!("{file}: {}: {rule}", text.id));
            }
            claims.push(Claim { text, run });
        }
    }
    claims.sort_by_key(|claim| place(&claim.text.id));
    Ok(claims)
}

/// Where an id stands: by its letter, then by its number.
fn place(id: &str) -> Option<(char, u32)> {
    let mut chars = id.chars();
    let letter = chars.next()?.to_ascii_uppercase();
    Some((letter, chars.as_str().parse().ok()?))
}

/// The claims that `all`, an id, or two ids with `..` between them name.
///
/// # Errors
/// If the text names no claim.
pub(crate) fn choose(text: &str) -> Result<Vec<&'static Claim>, String> {
    let claims = claims();
    if text.eq_ignore_ascii_case("all") {
        return Ok(claims.iter().collect());
    }
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let (from, to) = (place(first), place(last.trim_start_matches('=')));
    let is_range = from.is_some() && to.is_some();
    let is_meant = |claim: &&Claim| is_range && (from..=to).contains(&place(&claim.text.id));
    let chosen: Vec<_> = claims.iter().filter(is_meant).collect();
    if chosen.is_empty() {
        let what = if is_range && from > to {
            "the range is empty"
        } else {
            "no such claim"
        };
        let [first, last] =
            [claims.first(), claims.last()].map(|claim| claim.map_or("", |claim| &claim.text.id));
        return Err(format!(
            "{text}: {what}; there are {first} to {last} (see `lab list`), ranges such as \
             C32..C38, \
             and `all`"
        ));
    }
    Ok(chosen)
}
