//! Runs many seeds in parallel.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use glassloop::Step;

use crate::plan::Plan;
use crate::run::{self, Outcome};

/// Runs the plans of all `seeds` on `threads` threads. `take` gets each outcome, and returns false
/// to stop.
pub(crate) fn run<S: FnMut(Duration, &Step<'_>) + 'static>(
    seeds: std::ops::Range<u64>,
    threads: usize,
    plan: impl Fn(u64) -> Plan + Sync,
    show: impl Fn() -> S + Sync,
    mut take: impl FnMut(u64, Outcome) -> bool,
) {
    let next = AtomicU64::new(seeds.start);
    thread::scope(|scope| {
        let (done, results) = mpsc::channel();
        for _ in 0..threads {
            let (done, next, plan, show, end) = (done.clone(), &next, &plan, &show, seeds.end);
            scope.spawn(move || {
                let draw = || {
                    next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seed| {
                        (seed < end).then(|| seed + 1)
                    })
                };
                while let Ok(seed) = draw() {
                    if done.send((seed, run::run(&plan(seed), show()))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done);
        for (seed, outcome) in results {
            if !take(seed, outcome) {
                break;
            }
        }
    });
}

/// The number of processors.
pub(crate) fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
