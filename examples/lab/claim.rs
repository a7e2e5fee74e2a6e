//! A claim of the lesson, and what came of it here.

use std::fmt;
use std::io;

/// Something that the lesson says, or asks for, under the number that it has here.
pub(crate) struct Claim {
    /// C for the lesson on the models and on the socket's calls, D for the protocol, E for the speed.
    pub(crate) id: &'static str,
    /// What the lesson says, in its own words where they are short, and in English.
    pub(crate) says: &'static str,
    /// What one is to guess before it is run: a question with a short answer.
    pub(crate) asks: &'static str,
    /// Why it comes out as it does here, for one who learns Go or Rust.
    pub(crate) why: &'static str,
    /// A command with which to see it oneself, as a rule with strace.
    pub(crate) look: &'static str,
    /// What to write to have tried it oneself.
    pub(crate) exercise: &'static str,
    pub(crate) state: State,
}

/// Whether a claim can be run.
#[derive(Clone, Copy)]
pub(crate) enum State {
    Runs(Run),
    /// Something else is run in its place: what, and why.
    Substitute(Run, &'static str),
    /// Nothing is run, for this reason.
    NotHere(&'static str),
}

pub(crate) type Run = fn(Lab) -> io::Result<Outcome>;

/// What was asked for on the command line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lab {
    /// Whether experiments may take minutes.
    pub(crate) slow: bool,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is as the lesson says.
    Reproduced,
    /// It is, and there is more to it.
    Refined,
    /// It is otherwise here: true of another system, or of another version.
    Differs,
    /// It cannot be as it is written.
    WrongAsWritten,
    NotHere,
    /// This run did not come out as it is known to. Its word is that of `Differs`, and `why` is not said without that.
    Unexpected,
}

impl Verdict {
    /// Reproduced if all is as known; else this run is not.
    pub(crate) fn reproduced_if(holds: bool) -> Self {
        if holds {
            Self::Reproduced
        } else {
            Self::Unexpected
        }
    }

    /// This one if all is as known; else this run is not.
    pub(crate) fn only_if(self, holds: bool) -> Self {
        if holds { self } else { Self::Unexpected }
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

/// What an experiment came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) measured: Vec<Measured>,
    /// What is to be said of this run besides the claim's `why`.
    pub(crate) note: String,
}

/// A thing that was measured: what, and how much or what.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) what: String,
    pub(crate) value: String,
}

impl Outcome {
    pub(crate) fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            measured: Vec::new(),
            note: String::new(),
        }
    }

    /// Adds a thing that was measured. With numbers go their units: `"12 ms"`.
    pub(crate) fn with(mut self, what: impl Into<String>, value: impl fmt::Display) -> Self {
        self.measured.push(Measured {
            what: what.into(),
            value: value.to_string(),
        });
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}
