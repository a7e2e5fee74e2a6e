//! The summary of many runs, as text and as JSON.

use std::fmt;
use std::time::Duration;

use glassloop::sim::{Fault, FaultCounts};

use crate::delivery::DeliveryErrors;
use crate::run::Outcome;

/// The summary of all seeds.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub seeds: u64,
    pub turns: u64,
    /// The most turns that a run needed after the faults ended.
    pub healed_turns: u32,
    /// The XOR of all traces, independent of their order.
    pub trace: u64,
    pub frames: u64,
    pub fault_counts: FaultCounts,
    pub errors: DeliveryErrors,
    pub stuck: u64,
    pub panics: u64,
    pub connection_time: Duration,
    pub clock: Duration,
    pub real: Duration,
    /// The seeds that failed, with their violations.
    pub failed: Vec<(u64, Vec<String>)>,
}

impl Report {
    pub(crate) fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.turns += outcome.turns;
        self.healed_turns = self.healed_turns.max(outcome.healed_turns);
        self.trace ^= outcome.trace;
        self.frames += outcome.frames;
        self.fault_counts.add(&outcome.fault_counts);
        self.errors.lost += outcome.errors.lost;
        self.errors.duplicated += outcome.errors.duplicated;
        self.errors.reordered += outcome.errors.reordered;
        self.errors.altered += outcome.errors.altered;
        self.stuck += outcome.stuck;
        self.panics += outcome.panics;
        self.connection_time += outcome.connection_time;
        self.clock += outcome.clock;
        if !outcome.violations.is_empty() {
            self.failed.push((seed, outcome.violations));
        }
    }

    /// The failure with the lowest seed.
    pub(crate) fn failure(&self) -> Option<(u64, &[String])> {
        self.failed
            .iter()
            .min_by_key(|(seed, _)| *seed)
            .map(|(seed, violations)| (*seed, violations.as_slice()))
    }

    /// The other seeds that failed, the first `most` of them.
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
        self.fault_counts
            .iter()
            .filter(|(_, count)| *count == 0)
            .map(|(fault, _)| fault)
            .collect()
    }

    fn connection_hours(&self) -> f64 {
        self.connection_time.as_secs_f64() / 3600.0
    }

    /// Virtual time divided by real time.
    fn speedup(&self) -> f64 {
        self.clock.as_secs_f64() / self.real.as_secs_f64().max(1e-9)
    }

    pub(crate) fn json(&self) -> String {
        let faults: Vec<String> = self
            .fault_counts
            .iter()
            .map(|(fault, count)| format!("\"{fault}\":{count}"))
            .collect();
        let DeliveryErrors {
            lost,
            duplicated,
            reordered,
            altered,
        } = self.errors;
        format!(
            "{{\"seeds\":{},\"connection_hours\":{:.3},\"turns\":{},\"frames\":{},\
             \"faults\":{{{}}},\"lost\":{lost},\"duplicated\":{duplicated},\
             \"reordered\":{reordered},\"altered\":{altered},\"stuck\":{},\"panics\":{},\
             \"failed\":{},\"trace\":\"{:016x}\",\"speedup\":{:.1}}}",
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
        for (fault, count) in self.fault_counts.iter() {
            writeln!(f, "{:>24} {count:>12}", fault.name())?;
        }
        let DeliveryErrors {
            lost,
            duplicated,
            reordered,
            altered,
        } = self.errors;
        writeln!(
            f,
            "{} seeds: {} frames checked, {} faults, {} turns",
            self.seeds,
            self.frames,
            self.fault_counts.total(),
            self.turns
        )?;
        writeln!(
            f,
            "{:.1} connection-hours; {:.1} hours of virtual time in {:.1} s: {:.0} times as fast",
            self.connection_hours(),
            self.clock.as_secs_f64() / 3600.0,
            self.real.as_secs_f64(),
            self.speedup()
        )?;
        writeln!(
            f,
            "{lost} lost, {duplicated} duplicated, {reordered} reordered, {altered} altered, \
             {} stuck, {} panics",
            self.stuck, self.panics
        )?;
        let silent: Vec<&str> = self.silent().iter().map(|fault| fault.name()).collect();
        if !silent.is_empty() {
            writeln!(f, "never happened: {}", silent.join(", "))?;
        }
        writeln!(
            f,
            "{} seeds failed; trace {:016x}, at most {} turns after the faults",
            self.failed.len(),
            self.trace,
            self.healed_turns
        )
    }
}
