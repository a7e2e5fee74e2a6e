//! Claims and outcomes as text and as JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::claim::{Claim, Outcome, State, Verdict};

/// Prints a text. Who reads no further, as `head` does not, has seen enough.
pub(crate) fn say(text: impl AsRef<str>) {
    let mut out = io::stdout().lock();
    match out
        .write_all(text.as_ref().as_bytes())
        .and_then(|()| out.flush())
    {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("lab: the output cannot be written: {error}");
            std::process::exit(1);
        }
    }
}

/// The width that running text is broken at.
const WIDTH: usize = 110;

pub(crate) fn state(claim: &Claim) -> String {
    let (state, reason) = state_of(claim);
    let reason = if reason.is_empty() {
        String::new()
    } else {
        format!(" ({reason})")
    };
    format!("{:<4} {state:<10} {}{reason}", claim.id, claim.says)
}

pub(crate) fn state_json(claim: &Claim) -> Value {
    let (state, reason) = state_of(claim);
    json!({ "claim": claim.id, "state": state, "lesson_says": claim.says, "reason": reason })
}

fn state_of(claim: &Claim) -> (&'static str, &'static str) {
    match claim.state {
        State::Runs(_) => ("runs", ""),
        State::Substitute(_, instead) => ("substitute", instead),
        State::NotHere(reason) => ("not here", reason),
    }
}

/// All that came of one claim.
pub(crate) fn outcome(
    claim: &Claim,
    outcome: &io::Result<Outcome>,
    guess: Option<&str>,
    took: Duration,
) -> String {
    let mut text = format!("{}  [{:.1} s]\n", claim.id, took.as_secs_f64());
    text += &paragraph("the lesson", claim.says);
    if let Some(guess) = guess {
        text += &paragraph("the question", claim.asks);
        text += &paragraph("your guess", guess);
    }
    match outcome {
        Ok(Outcome {
            verdict,
            measured,
            note,
        }) => {
            for measured in measured {
                let _ = writeln!(
                    text,
                    "  {:<12} {}: {}",
                    "here", measured.what, measured.value
                );
            }
            text += &paragraph("verdict", &verdict.to_string());
            text += &paragraph("why", &why(claim, *verdict, note));
        }
        Err(error) => text += &paragraph("no verdict", &error.to_string()),
    }
    text += &paragraph("see it", claim.look);
    text + "\n"
}

pub(crate) fn outcome_json(claim: &Claim, outcome: &io::Result<Outcome>) -> Value {
    match outcome {
        Ok(Outcome {
            verdict,
            measured,
            note,
        }) => {
            let measured: serde_json::Map<_, _> = measured
                .iter()
                .map(|measured| (measured.what.clone(), json!(measured.value)))
                .collect();
            let why = why(claim, *verdict, note);
            json!({ "claim": claim.id, "verdict": verdict.to_string(), "lesson_says": claim.says, "measured": measured, "why": why })
        }
        Err(error) => {
            json!({ "claim": claim.id, "verdict": null, "lesson_says": claim.says, "measured": {}, "why": error.to_string() })
        }
    }
}

fn why(claim: &Claim, verdict: Verdict, note: &str) -> String {
    const UNEXPECTED: &str = "The measurement did not come out as it is known to: this run does not bear out the explanation that follows.";
    match verdict {
        Verdict::NotHere => note.trim().to_string(),
        Verdict::Unexpected => format!("{UNEXPECTED} {} {note}", claim.why)
            .trim()
            .to_string(),
        _ => format!("{} {note}", claim.why).trim().to_string(),
    }
}

pub(crate) fn explanation(claim: &Claim) -> String {
    let (state, reason) = state_of(claim);
    let mut text = format!("{}\n", claim.id);
    text += &paragraph("the lesson", claim.says);
    text += &paragraph("why", claim.why);
    text += &paragraph("state", format!("{state} {reason}").trim());
    text += &paragraph("see it", claim.look);
    text += &paragraph("exercise", claim.exercise);
    text + "\n"
}

/// A program to begin with.
pub(crate) fn exercise(claim: &Claim) -> String {
    let Claim {
        id,
        says,
        asks,
        exercise,
        ..
    } = claim;
    let right = match claim.state {
        State::NotHere(_) => String::new(),
        _ => format!(
            "// It is right when it answers this as `cargo run --release --example lab -- run {id}` does: {asks}\n"
        ),
    };
    format!(
        "// {id}: {says}\n// Task: {exercise}\n{right}// To begin with, both ends of a connection, for a task that needs one.\n\
         use std::io::{{self, Read, Write}};\n\
         use std::net::{{TcpListener, TcpStream}};\n\n\
         fn main() -> io::Result<()> {{\n    \
             let listener = TcpListener::bind(\"127.0.0.1:0\")?;\n    \
             let mut client = TcpStream::connect(listener.local_addr()?)?;\n    \
             let (mut server, _) = listener.accept()?;\n    \
             todo!(\"your guess first, then your code\")\n\
         }}\n\n"
    )
}

/// A word, and a text broken into lines beside it.
pub(crate) fn paragraph(name: &str, text: &str) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && width(&line) + 1 + width(word) > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    format!("  {name:<12} {}\n", lines.join(&format!("\n{:15}", "")))
}

/// How many columns a text takes: Chinese characters have two.
fn width(text: &str) -> usize {
    text.chars()
        .map(|char| 1 + usize::from(char >= '\u{2e80}'))
        .sum()
}
