//! The course itself: C66 and C67.

use std::io;

use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::register;

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C66",
        says: "“首先是要理解问题…技术预研与储备…设计与实现” Understand the problem, look into the techniques, design and build, and round \
              again; of those who use Go, most build web services, and network programming comes fourth (2020)",
        asks: "Which of these steps does one run of the lab go through: to understand, to research, or to design?",
        why: "It is how the lab goes about each claim, too: a question, a guess, a run that measures, and the reason. What came out \
              otherwise than one thought is the next question.",
        look: "target/release/examples/lab run C43 --predict",
        exercise: "Take a claim that surprised you, write down why you thought otherwise, and change its experiment so that it shows just \
              that.",
        state: State::NotHere("It is advice on how to work, and a survey; neither can be run."),
    },
    Claim {
        id: "C67",
        says: "“我建议你自己编写代码，逐个去实现这一讲中各个操作里的示例代码” Homework: write the example of each operation yourself",
        asks: "The lesson makes 67 claims. How many of them can be run on this machine?",
        why: "What one has run and changed, one remembers. So `lab exercise C43` prints the task of a claim and a program to begin with, \
              and `lab run C43 --predict` asks for a guess first; what the lab measures is the solution to compare with, and its \
              experiments are short enough to be read. The others name the reason why they are not run.",
        look: "target/release/examples/lab list; target/release/examples/lab exercise C67",
        exercise: "For each claim that runs: guess, write it, compare. Ten of them are an evening: C8, C15, C26, C32, C43, C44, C51, C54, \
              C59, C62.",
        state: State::Runs(c67),
    },
];

#[allow(clippy::unnecessary_wraps)] // it has the shape of the others
fn c67(_: Lab) -> io::Result<Outcome> {
    let all: Vec<&Claim> = register::claims()
        .into_iter()
        .filter(|claim| claim.id.starts_with('C'))
        .collect();
    let missing: Vec<String> = (1..=67)
        .map(|n| format!("C{n}"))
        .filter(|id| all.iter().all(|claim| claim.id != id))
        .collect();
    let idle: Vec<&str> = all
        .iter()
        .filter(|claim| claim.exercise.is_empty() || claim.asks.is_empty())
        .map(|claim| claim.id)
        .collect();
    let unexplained: Vec<&str> = all
        .iter()
        .filter(|claim| claim.why.is_empty() || claim.look.is_empty())
        .map(|claim| claim.id)
        .collect();
    let count =
        |wanted: fn(&State) -> bool| all.iter().filter(|claim| wanted(&claim.state)).count();
    let listed = |ids: &[&str]| {
        if ids.is_empty() {
            "none".into()
        } else {
            ids.join(" ")
        }
    };
    let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
    Ok(Outcome::new(Verdict::reproduced_if(
        missing.is_empty() && idle.is_empty() && unexplained.is_empty(),
    ))
    .with("claims of the lesson", all.len())
    .with("they run", count(|state| matches!(state, State::Runs(_))))
    .with(
        "something else is run in their place",
        count(|state| matches!(state, State::Substitute(..))),
    )
    .with(
        "not here, for a reason that is named",
        count(|state| matches!(state, State::NotHere(_))),
    )
    .with("without an entry", listed(&missing))
    .with("without a task or a question", listed(&idle))
    .with("without a reason or a command", listed(&unexplained)))
}
