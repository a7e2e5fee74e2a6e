//! Runs the rounds: puts each server under load, in a shuffled order.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::calls::Counter;
use super::figures::{Figure, Results};
use super::peers::Peer;
use super::process::{self, Cores, Server};
use super::scenarios::Scenario;

/// Seed of the order of the servers, so that each run uses the same order.
const SEED: u64 = 38;
/// Warm-up before each measurement, in seconds.
const WARM_UP: &str = "0.1";

/// What to run.
pub(crate) struct Plan<'a> {
    pub(crate) peers: &'a [Peer],
    pub(crate) scenarios: &'a [Scenario],
    pub(crate) rounds: u32,
    pub(crate) secs: f64,
    pub(crate) cores: &'a Cores,
    pub(crate) load: &'a Path,
}

/// Runs all scenarios.
pub(crate) fn run(plan: &Plan<'_>) -> Results {
    let mut results = Results::of(
        plan.scenarios,
        plan.peers.iter().map(|peer| peer.name.clone()).collect(),
    );
    let mut counter = Counter::new(plan.load, plan.cores);
    let mut rng = fastrand::Rng::with_seed(SEED);
    for (number, scenario) in plan.scenarios.iter().enumerate() {
        eprintln!(
            "{} of {}: {} ({})",
            number + 1,
            plan.scenarios.len(),
            scenario.name(),
            scenario.title()
        );
        if *scenario == Scenario::Idle {
            plan.measure_memory(&mut results);
        } else {
            plan.measure(*scenario, &mut rng, &mut results);
            plan.count_calls(*scenario, &mut counter, &mut results);
        }
    }
    results
}

impl Plan<'_> {
    /// Starts all servers, and puts each under load once a round.
    fn measure(&self, scenario: Scenario, rng: &mut fastrand::Rng, results: &mut Results) {
        let mut servers: Vec<(&Peer, Server)> = Vec::new();
        for peer in self.peers {
            match Server::start(peer, self.cores) {
                Ok(server) => servers.push((peer, server)),
                Err(why) => results.gaps.push((scenario, peer.name.clone(), None, why)),
            }
        }
        for round in 0..self.rounds {
            eprintln!("  round {} of {}", round + 1, self.rounds);
            rng.shuffle(&mut servers);
            let mut failed = Vec::new();
            for (peer, server) in &servers {
                match self.load(scenario, server, WARM_UP) {
                    Ok(report) => add_report(scenario, &peer.name, round, &report, results),
                    Err(why) => {
                        eprintln!("  {}: {why}", peer.name);
                        results.gaps.push((
                            scenario,
                            peer.name.clone(),
                            None,
                            format!("round {}: {why}", round + 1),
                        ));
                        failed.push(peer.name.clone());
                    }
                }
                wait_until_idle(server.pid());
            }
            // A server that failed once would fail again.
            servers.retain(|(peer, _)| !failed.contains(&peer.name));
        }
        for (_, server) in servers {
            server.stop();
        }
    }

    /// Puts a server under the scenario's load, and returns the report.
    fn load(&self, scenario: Scenario, server: &Server, warm_up: &str) -> Result<Value, String> {
        let mut args = vec![
            "--warmup".into(),
            warm_up.into(),
            "--server-pid".into(),
            server.pid().to_string(),
        ];
        args.extend([
            "--conns".into(),
            scenario.conns().to_string(),
            "--payload".into(),
            scenario.payload().to_string(),
        ]);
        args.extend(scenario.load().iter().map(ToString::to_string));
        process::load(self.load, server, self.cores, self.secs, &args)
    }

    /// Counts the system calls of each peer.
    fn count_calls(&self, scenario: Scenario, counter: &mut Counter<'_>, results: &mut Results) {
        for peer in self.peers {
            match counter.count(peer, scenario, self.secs) {
                Ok(calls) => results.add(scenario, &peer.name, Figure::Calls, 0, Some(calls)),
                Err(why) => {
                    results
                        .gaps
                        .push((scenario, peer.name.clone(), Some(Figure::Calls), why));
                }
            }
        }
    }

    /// Measures the memory of idle connections, once: it is a count, and does not vary as times do.
    /// Each server is started for this, since one that has served others already has free memory
    /// left.
    fn measure_memory(&self, results: &mut Results) {
        for peer in self.peers {
            let report = Server::start(peer, self.cores)
                .and_then(|server| self.load(Scenario::Idle, &server, "0"));
            let bytes = report.and_then(|report| {
                report["idle"]["bytes_per_connection"]
                    .as_f64()
                    .ok_or_else(|| "missing in the report of load".into())
            });
            match bytes {
                Ok(bytes) => results.add(Scenario::Idle, &peer.name, Figure::Idle, 0, Some(bytes)),
                Err(why) => results
                    .gaps
                    .push((Scenario::Idle, peer.name.clone(), None, why)),
            }
        }
    }
}

/// Adds the figures of a report. CPU includes the kernel's network thread.
fn add_report(scenario: Scenario, peer: &str, round: u32, report: &Value, results: &mut Results) {
    let server = &report["server"];
    let cpu = server["cpu_us_per_request"]
        .as_f64()
        .map(|cpu| cpu + server["softirq_us_per_request"].as_f64().unwrap_or(0.0));
    let answered = report["requests"]
        .as_u64()
        .is_some_and(|requests| requests > 0);
    results.add(
        scenario,
        peer,
        Figure::Rate,
        round,
        report["requests_per_second"].as_f64(),
    );
    results.add(scenario, peer, Figure::Cpu, round, cpu.filter(|_| answered));
    results.add(
        scenario,
        peer,
        Figure::P50,
        round,
        report["p50_us"].as_f64(),
    );
    results.add(
        scenario,
        peer,
        Figure::P99,
        round,
        report["p99_us"].as_f64(),
    );
}

/// Waits until a server uses no more CPU time, for example to close its connections. That work must
/// not count for the next server.
fn wait_until_idle(pid: u32) {
    let ran = || -> u64 {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        let times = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
        times
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum()
    };
    let mut before = ran();
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(10));
        let now = ran();
        if now == before {
            return;
        }
        before = now;
    }
}
