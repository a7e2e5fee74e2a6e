//! The loads that each server is put under.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Scenario {
    /// 1 connection, depth 1
    LockStep,
    /// The same, with a client that busy-polls
    LockStepSpin,
    /// 100 connections, depth 1
    Hundred,
    /// 100 connections, depth 16
    HundredDeep,
    /// 1 connection, depth 128
    OneDeep,
    /// 1,000 connections, depth 1
    Thousand,
    /// 100 connections, depth 16, 16 KiB of payload
    Large,
    /// Open loop, 50,000 requests a second over 100 connections
    OpenLoop,
    /// Memory of 2,000 idle connections
    Idle,
}

impl Scenario {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// Returns its name on the command line.
    pub(crate) fn name(self) -> String {
        self.value().get_name().to_string()
    }

    pub(crate) fn title(self) -> String {
        match self {
            // The help text refers to the line above it.
            Self::LockStepSpin => "1 connection, depth 1, with a client that busy-polls".into(),
            _ => self
                .value()
                .get_help()
                .map(ToString::to_string)
                .unwrap_or_default(),
        }
    }

    fn value(self) -> clap::builder::PossibleValue {
        self.to_possible_value().expect("none is skipped")
    }

    pub(crate) fn conns(self) -> u32 {
        match self {
            Self::LockStep | Self::LockStepSpin | Self::OneDeep | Self::Idle => 1,
            Self::Hundred | Self::HundredDeep | Self::Large | Self::OpenLoop => 100,
            Self::Thousand => 1_000,
        }
    }

    /// Returns the flags of `load`, besides connections, time and payload.
    pub(crate) fn load(self) -> &'static [&'static str] {
        match self {
            Self::LockStep | Self::Hundred | Self::Thousand => &["--depth", "1"],
            Self::LockStepSpin => &["--depth", "1", "--spin"],
            Self::HundredDeep | Self::Large => &["--depth", "16"],
            Self::OneDeep => &["--depth", "128"],
            Self::OpenLoop => &["--rate", "50000"],
            Self::Idle => &["--depth", "1", "--idle", "2000"],
        }
    }

    pub(crate) fn payload(self) -> &'static str {
        if self == Self::Large { "16384" } else { "32" }
    }
}
