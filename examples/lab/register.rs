//! All claims, in the order of the lessons: their texts joined with their experiments.

use std::sync::LazyLock;

use super::claim::{Claim, Run};
use super::text;
use super::{
    buffers, close, course, dial, go, listen, models, packets, protocol, read, share, speed, write,
};

type Section = (&'static str, &'static str, &'static [(&'static str, Run)]);

/// Each section: its file, the text in it, and the experiments.
macro_rules! sections {
    ($($name:ident)*) => {
        [$((
            concat!("src/guide/lab/", stringify!($name), ".md"),
            include_str!(concat!("../../src/guide/lab/", stringify!($name), ".md")),
            $name::RUNS,
        )),*]
    };
}

const SECTIONS: [Section; 13] = sections! {
    protocol models go listen dial buffers read write share close course packets speed
};

static CLAIMS: LazyLock<Vec<Claim>> =
    LazyLock::new(|| all().unwrap_or_else(|error| panic!("the lab's texts: {error}")));

/// Every claim, C before D before E, by number.
pub(crate) fn claims() -> &'static [Claim] {
    &CLAIMS
}

/// # Errors
/// If a text has not its form, or text and code name different claims.
fn all() -> Result<Vec<Claim>, String> {
    let mut claims = Vec::new();
    for (file, text, runs) in SECTIONS {
        let texts = text::parse(file, text)?;
        if let Some((id, _)) = runs
            .iter()
            .find(|(id, _)| texts.iter().all(|text| text.id != *id))
        {
            return Err(format!("{file} has no text for {id}"));
        }
        for text in texts {
            let run = runs
                .iter()
                .find(|(id, _)| *id == text.id)
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
            "{text}: {what}; there are {first} to {last} (see `lab list`), ranges such as C32..C38, \
             and `all`"
        ));
    }
    Ok(chosen)
}
