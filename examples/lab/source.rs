//! The nine servers as text: how long they are, and what stands in them.

use super::servers::Model;

/// What each server is made of besides what all share, by the files below `examples/models`.
const SOURCES: [(Model, &[&str]); 9] = [
    (Model::Iterative, &[include_str!("../models/iterative.rs")]),
    (Model::Threads, &[include_str!("../models/threads.rs")]),
    (Model::Busy, &[include_str!("../models/busy.rs"), STEPS]),
    (Model::Select, &[include_str!("../models/select.rs"), STEPS]),
    (Model::Poll, &[include_str!("../models/poll.rs"), STEPS]),
    (
        Model::EpollLt,
        &[include_str!("../models/epoll_lt.rs"), STEPS],
    ),
    (
        Model::EpollEt,
        &[include_str!("../models/epoll_et.rs"), STEPS],
    ),
    (Model::Reactor, &[include_str!("../models/reactor.rs")]),
    (
        Model::Netpoll,
        &[
            include_str!("../models/netpoll.rs"),
            include_str!("../models/chunks.rs"),
        ],
    ),
];

/// A connection of the servers that may not block in the middle of it.
const STEPS: &str = include_str!("../models/conn.rs");

/// Lines of code, without blank ones and comments.
pub(crate) fn lines_of(model: Model) -> usize {
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    texts_of(model)
        .iter()
        .map(|text| text.lines().filter(is_code).count())
        .sum()
}

/// The text of a function of a server: from its first line to its last.
pub(crate) fn function_of(model: Model, beginning: &str) -> &'static str {
    let text = texts_of(model)[0];
    let begin = text.find(beginning).unwrap_or(text.len());
    let end = text[begin..]
        .find("\n}\n")
        .map_or(text.len(), |length| begin + length + 3);
    &text[begin..end]
}

fn texts_of(model: Model) -> &'static [&'static str] {
    let found = SOURCES.iter().find(|(other, _)| *other == model);
    found.expect("all nine are there").1
}
