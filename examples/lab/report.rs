//! Claims and outcomes as text and as JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::claim::{Claim, Outcome, Verdict};
use super::value::{Lines, render};

/// Prints a text. Exits if the reader has closed the pipe, as `head` does.
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

/// The width at which running text is broken.
const WIDTH: usize = 110;

pub(crate) fn state(claim: &Claim) -> String {
    let (state, reason) = claim.state();
    let reason = match reason {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    format!(
        "{:<4} {state:<10} {}{reason}",
        claim.text.id, claim.text.says
    )
}

pub(crate) fn state_json(claim: &Claim) -> Value {
    let (state, reason) = claim.state();
    let text = &claim.text;
    json!({ "claim": text.id, "state": state, "lesson_says": text.says, "reason": reason })
}

/// What a claim's experiment gave, ready to be shown.
pub(crate) struct Report<'c> {
    claim: &'c Claim,
    /// The verdict, the lines, and why; or the reason why there is no verdict.
    shown: Result<(Verdict, Lines, String), String>,
}

impl<'c> Report<'c> {
    pub(crate) fn of(claim: &'c Claim, outcome: io::Result<Outcome>) -> Self {
        let shown = outcome
            .map_err(|error| error.to_string())
            .and_then(|outcome| {
                let why = why(claim, &outcome);
                let Outcome {
                    verdict,
                    values,
                    lines,
                    ..
                } = outcome;
                let mut all = match verdict {
                    Verdict::NotHere => Vec::new(),
                    _ => render(&claim.text.measured, &values)?,
                };
                all.extend(lines);
                Ok((verdict, all, why))
            });
        Self { claim, shown }
    }

    pub(crate) fn has_verdict(&self) -> bool {
        self.shown.is_ok()
    }

    pub(crate) fn text(&self, guess: Option<&str>, took: Duration) -> String {
        let claim = &self.claim.text;
        let mut text = format!("{}  [{:.1} s]\n", claim.id, took.as_secs_f64());
        text += &paragraph("the lesson", &claim.says);
        if let Some(guess) = guess {
            text += &paragraph("the question", &claim.asks);
            text += &paragraph("your guess", guess);
        }
        match &self.shown {
            Ok((verdict, lines, why)) => {
                for (name, value) in lines {
                    let _ = writeln!(text, "  {:<12} {name}: {value}", "here");
                }
                text += &paragraph("verdict", &verdict.to_string());
                text += &paragraph("why", why);
            }
            Err(error) => text += &paragraph("no verdict", error),
        }
        text += &paragraph("see it", &claim.look);
        text + "\n"
    }

    pub(crate) fn json(&self) -> Value {
        let (verdict, lines, why) = match &self.shown {
            Ok((verdict, lines, why)) => (Some(verdict.to_string()), &lines[..], why),
            Err(error) => (None, &[][..], error),
        };
        let lines = lines
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)));
        json!({
            "claim": self.claim.text.id,
            "verdict": verdict,
            "lesson_says": self.claim.text.says,
            "measured": lines.collect::<serde_json::Map<_, _>>(),
            "why": why,
        })
    }
}

fn why(claim: &Claim, Outcome { verdict, note, .. }: &Outcome) -> String {
    const UNEXPECTED: &str =
        "This run did not give the known result; the explanation that follows is for that result.";
    let why = &claim.text.why;
    let all = match verdict {
        Verdict::NotHere => note.clone(),
        Verdict::Unexpected => format!("{UNEXPECTED} {why} {note}"),
        _ => format!("{why} {note}"),
    };
    all.trim().to_string()
}

pub(crate) fn explanation(claim: &Claim) -> String {
    let (state, reason) = claim.state();
    let text = &claim.text;
    let paragraphs = [
        ("the lesson", &text.says),
        ("why", &text.why),
        ("state", &format!("{state} {reason}")),
        ("see it", &text.look),
        ("exercise", &text.exercise),
    ];
    let paragraphs = paragraphs.map(|(name, text)| paragraph(name, text));
    format!("{}\n{}\n", text.id, paragraphs.concat())
}

/// A program to begin with.
pub(crate) fn exercise(claim: &Claim) -> String {
    let text = &claim.text;
    let right = match claim.run {
        None => String::new(),
        Some(_) => format!(
            "// It is right if it answers this as `cargo run --release --example lab -- run {}` does: {}\n",
            text.id, text.asks
        ),
    };
    format!(
        include_str!("exercise.txt"),
        id = text.id,
        says = text.says,
        exercise = text.exercise,
        right = right
    )
}

/// A name, and a text broken into lines beside it.
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

/// How many columns a text takes: Chinese characters take two.
fn width(text: &str) -> usize {
    text.chars()
        .map(|char| 1 + usize::from(char >= '\u{2e80}'))
        .sum()
}
