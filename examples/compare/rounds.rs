//! The rounds: who is loaded when.

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

/// The order in each round is drawn from this, so it is the same in each run.
const SEED: u64 = 38;
/// Before each measurement, in seconds.
const WARM_UP: &str = "0.1";

pub(crate) struct Plan<'a> {
    pub(crate) peers: &'a [Peer],
    pub(crate) scenarios: &'a [Scenario],
    pub(crate) rounds: u32,
    pub(crate) secs: f64,
    pub(crate) cores: &'a Cores,
    pub(crate) load: &'a Path,
}

pub(crate) fn run(plan: &Plan<'_>) -> Results {
    let mut results = Results::of(
        plan.scenarios,
        plan.peers.iter().map(|peer| peer.name.clone()).collect(),
    );
    let mut counter = Counter::new(plan.load, plan.cores);
    let mut dice = fastrand::Rng::with_seed(SEED);
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
            plan.measure(*scenario, &mut dice, &mut results);
            plan.count_calls(*scenario, &mut counter, &mut results);
        }
    }
    results
}

impl Plan<'_> {
    /// All servers up, and each loaded once a round.
    fn measure(&self, scenario: Scenario, dice: &mut fastrand::Rng, results: &mut Results) {
        let mut servers: Vec<(&Peer, Server)> = Vec::new();
        for peer in self.peers {
            match Server::start(peer, self.cores) {
                Ok(server) => servers.push((peer, server)),
                Err(why) => results.gaps.push((scenario, peer.name.clone(), None, why)),
            }
        }
        for round in 0..self.rounds {
            eprintln!("  round {} of {}", round + 1, self.rounds);
            dice.shuffle(&mut servers);
            let mut failed = Vec::new();
            for (peer, server) in &servers {
                match self.load(scenario, server, WARM_UP) {
                    Ok(report) => note(scenario, &peer.name, round, &report, results),
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
                settle(server.pid());
            }
            servers.retain(|(peer, _)| !failed.contains(&peer.name)); // whoever failed once would again
        }
        for (_, server) in servers {
            server.stop();
        }
    }

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

    /// Once: it is counted, not timed. A server that has served others already would have memory to spare.
    fn measure_memory(&self, results: &mut Results) {
        for peer in self.peers {
            let report = Server::start(peer, self.cores)
                .and_then(|server| self.load(Scenario::Idle, &server, "0"));
            let bytes = report.and_then(|report| {
                report["idle"]["bytes_per_connection"]
                    .as_f64()
                    .ok_or_else(|| "load does not say it".into())
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

fn note(scenario: Scenario, peer: &str, round: u32, report: &Value, results: &mut Results) {
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

/// Waits until a server has done what was left to be done, such as closing: the next one is not to pay for that.
fn settle(pid: u32) {
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
