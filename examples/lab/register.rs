//! All claims, in the order of the lessons.

use super::claim::Claim;
use super::{
    buffers, close, course, dial, go, listen, models, packets, protocol, read, share, speed, write,
};

/// Every claim, C before D before E, by number.
pub(crate) fn claims() -> Vec<&'static Claim> {
    let groups = [
        protocol::CLAIMS,
        models::CLAIMS,
        go::CLAIMS,
        listen::CLAIMS,
        dial::CLAIMS,
        buffers::CLAIMS,
        read::CLAIMS,
        write::CLAIMS,
        share::CLAIMS,
        close::CLAIMS,
        course::CLAIMS,
        packets::CLAIMS,
        speed::CLAIMS,
    ];
    let mut claims: Vec<&Claim> = groups.into_iter().flatten().collect();
    claims.sort_by_key(|claim| place(claim.id));
    claims
}

/// Where an id stands: by its letter, then by its number.
fn place(id: &str) -> Option<(char, u32)> {
    let mut chars = id.chars();
    let letter = chars.next()?.to_ascii_uppercase();
    Some((letter, chars.as_str().parse().ok()?))
}

/// The claims that are meant by `all`, by an id, or by two with `..` between them.
///
/// # Errors
/// If it means none.
pub(crate) fn choose(text: &str) -> Result<Vec<&'static Claim>, String> {
    let claims = claims();
    if text.eq_ignore_ascii_case("all") {
        return Ok(claims);
    }
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let (from, to) = (place(first), place(last.trim_start_matches('=')));
    let chosen: Vec<_> = claims
        .iter()
        .copied()
        .filter(|claim| from.is_some() && to.is_some() && (from..=to).contains(&place(claim.id)))
        .collect();
    if chosen.is_empty() {
        let what = if from.is_some() && to.is_some() && from > to {
            "the range is empty"
        } else {
            "this is no claim"
        };
        let (first, last) = (
            claims.first().map_or("", |claim| claim.id),
            claims.last().map_or("", |claim| claim.id),
        );
        return Err(format!(
            "{text}: {what}; there are {first} to {last} (see `lab list`), ranges such as C32..C38, and `all`"
        ));
    }
    Ok(chosen)
}
