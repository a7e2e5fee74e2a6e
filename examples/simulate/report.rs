//! The sum of many runs, as text and as JSON.

use std::fmt;
use std::time::Duration;

use glassloop::sim::{Fault, Tally};

use crate::oracle::Wrongs;
use crate::scene::Outcome;

/// What all seeds came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub seeds: u64,
    pub turns: u64,
    /// The most turns that a loop needed in a kind world.
    pub kind_turns: u32,
    /// All traces in one, whatever their order.
    pub trace: u64,
    pub frames: u64,
    pub tally: Tally,
    pub wrongs: Wrongs,
    pub stuck: u64,
    pub panics: u64,
    pub lived: Duration,
    pub clock: Duration,
    pub real: Duration,
    /// The seeds that failed, and how.
    pub failed: Vec<(u64, Vec<String>)>,
}

impl Report {
    pub(crate) fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.turns += outcome.turns;
        self.kind_turns = self.kind_turns.max(outcome.kind_turns);
        self.trace ^= outcome.trace;
        self.frames += outcome.frames;
        self.tally.add(&outcome.tally);
        self.wrongs.lost += outcome.wrongs.lost;
        self.wrongs.duplicated += outcome.wrongs.duplicated;
        self.wrongs.reordered += outcome.wrongs.reordered;
        self.wrongs.altered += outcome.wrongs.altered;
        self.stuck += outcome.stuck;
        self.panics += outcome.panics;
        self.lived += outcome.lived;
        self.clock += outcome.clock;
        if !outcome.violations.is_empty() {
            self.failed.push((seed, outcome.violations));
        }
    }

    /// The first failure by seed.
    pub(crate) fn failure(&self) -> Option<(u64, &[String])> {
        self.failed
            .iter()
            .min_by_key(|(seed, _)| *seed)
            .map(|(seed, violations)| (*seed, violations.as_slice()))
    }

    /// The seeds of the others, or of the first so many of them.
    pub(crate) fn other_failures(&self, most: usize) -> Vec<String> {
        let mut seeds: Vec<u64> = self.failed.iter().map(|(seed, _)| *seed).collect();
        seeds.sort_unstable();
        let left = seeds.len().saturating_sub(1 + most);
        let mut names: Vec<String> = seeds
            .into_iter()
            .skip(1)
            .take(most)
            .map(|seed| seed.to_string())
            .collect();
        names.extend((left > 0).then(|| format!("{left} more")));
        names
    }

    /// Faults that never happened.
    pub(crate) fn silent(&self) -> Vec<Fault> {
        self.tally
            .iter()
            .filter(|(_, count)| *count == 0)
            .map(|(fault, _)| fault)
            .collect()
    }

    fn connection_hours(&self) -> f64 {
        self.lived.as_secs_f64() / 3600.0
    }

    /// The simulated clocks beside the real one.
    fn speedup(&self) -> f64 {
        self.clock.as_secs_f64() / self.real.as_secs_f64().max(1e-9)
    }

    pub(crate) fn json(&self) -> String {
        let faults: Vec<String> = self
            .tally
            .iter()
            .map(|(fault, count)| format!("\"{fault}\":{count}"))
            .collect();
        let Wrongs {
            lost,
            duplicated,
            reordered,
            altered,
        } = self.wrongs;
        format!(
            "{{\"seeds\":{},\"connection_hours\":{:.3},\"turns\":{},\"frames\":{},\"faults\":{{{}}},\"lost\":{lost},\"duplicated\":{duplicated},\
             \"reordered\":{reordered},\"altered\":{altered},\"stuck\":{},\"panics\":{},\"failed\":{},\"trace\":\"{:016x}\",\"speedup\":{:.1}}}",
            self.seeds,
            self.connection_hours(),
            self.turns,
            self.frames,
            faults.join(","),
            self.stuck,
            self.panics,
            self.failed.len(),
            self.trace,
            self.speedup(),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fault, count) in self.tally.iter() {
            writeln!(f, "{:>24} {count:>12}", fault.name())?;
        }
        let Wrongs {
            lost,
            duplicated,
            reordered,
            altered,
        } = self.wrongs;
        writeln!(
            f,
            "{} seeds: {} frames checked, {} faults, {} turns",
            self.seeds,
            self.frames,
            self.tally.total(),
            self.turns
        )?;
        writeln!(
            f,
            "{:.1} connection-hours; {:.1} hours by the simulated clocks in {:.1} s: {:.0} times as fast",
            self.connection_hours(),
            self.clock.as_secs_f64() / 3600.0,
            self.real.as_secs_f64(),
            self.speedup()
        )?;
        writeln!(
            f,
            "{lost} lost, {duplicated} duplicated, {reordered} reordered, {altered} altered, {} stuck, {} panics",
            self.stuck, self.panics
        )?;
        let silent: Vec<&str> = self.silent().iter().map(|fault| fault.name()).collect();
        if !silent.is_empty() {
            writeln!(f, "never happened: {}", silent.join(", "))?;
        }
        writeln!(
            f,
            "{} seeds failed; trace {:016x}, at most {} turns to the end",
            self.failed.len(),
            self.trace,
            self.kind_turns
        )
    }
}
