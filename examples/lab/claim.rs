//! A claim of the lessons, and the result of its experiment.

use std::fmt;
use std::io;

use super::text::Text;
use super::value::Values;

/// A claim of the lessons: its text, and what runs for it.
pub(crate) struct Claim {
    pub(crate) text: Text,
    /// The experiment. A claim without one says why under `Not here`.
    pub(crate) run: Option<Run>,
}

impl Claim {
    /// Whether it runs, and the reason if not, or if something else runs in its place.
    pub(crate) fn state(&self) -> (&'static str, &str) {
        match (&self.text.not_here, &self.text.instead) {
            (Some(reason), _) => ("not here", reason),
            (None, Some(instead)) => ("substitute", instead),
            (None, None) => ("runs", ""),
        }
    }
}

pub(crate) type Run = fn(Lab) -> io::Result<Outcome>;

/// Options of the command line that experiments read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lab {
    /// Whether experiments may take minutes.
    pub(crate) slow: bool,
}

/// How a claim compares with what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is as the lesson says.
    Reproduced,
    /// It is as the lesson says, and there is more to it.
    Refined,
    /// It is otherwise here: true of another system, or of another version.
    Differs,
    /// It cannot be true as it is written.
    WrongAsWritten,
    NotHere,
    /// This run did not give the known result. It prints the same word as `Differs`, and a warning
    /// before `why`.
    Unexpected,
}

impl Verdict {
    /// `Reproduced` if the result is the known one, else `Unexpected`.
    pub(crate) fn reproduced_if(holds: bool) -> Self {
        Self::Reproduced.only_if(holds)
    }

    /// This verdict if the result is the known one, else `Unexpected`.
    pub(crate) fn only_if(self, holds: bool) -> Self {
        if holds { self } else { Self::Unexpected }
    }

    /// The outcome with this verdict and these values, as experiments return it.
    pub(crate) fn measured(self, values: Values) -> io::Result<Outcome> {
        Ok(Outcome::new(self, values))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reproduced => "REPRODUCED",
            Self::Refined => "REFINED",
            Self::Differs | Self::Unexpected => "DIFFERS",
            Self::WrongAsWritten => "WRONG-AS-WRITTEN",
            Self::NotHere => "NOT HERE",
        })
    }
}

/// The result of an experiment.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// What the claim's templates show.
    pub(crate) values: Values,
    /// Lines that no template has, since their number depends on the run.
    pub(crate) lines: Vec<(String, String)>,
    /// What this run adds to the claim's `why`.
    pub(crate) note: String,
}

impl Outcome {
    pub(crate) fn new(verdict: Verdict, values: Values) -> Self {
        Self {
            verdict,
            values,
            lines: Vec::new(),
            note: String::new(),
        }
    }

    /// The outcome of an experiment that cannot run on this machine.
    pub(crate) fn not_here(reason: impl Into<String>) -> Self {
        Self::new(Verdict::NotHere, Vec::new()).note(reason)
    }

    /// Adds a line. Numbers come with their units: `"12 ms"`.
    pub(crate) fn with(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.lines.push((name.into(), value.to_string()));
        self
    }

    /// Adds several lines.
    pub(crate) fn with_all<N: Into<String>, V: fmt::Display>(
        self,
        lines: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        lines
            .into_iter()
            .fold(self, |outcome, (name, value)| outcome.with(name, value))
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}
