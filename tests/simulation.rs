//! Runs two thousand seeds of `examples/simulate`: all faults happen, and no check fails.

use glassloop::sim::Fault;

#[path = "../examples/simulate/client.rs"]
mod client;
#[path = "../examples/simulate/delivery.rs"]
mod delivery;
#[path = "../examples/simulate/handler.rs"]
mod handler;
#[path = "../examples/simulate/invariants.rs"]
mod invariants;
#[path = "../examples/simulate/plan.rs"]
mod plan;
#[path = "../examples/simulate/record.rs"]
mod record;
#[path = "../examples/simulate/relay.rs"]
mod relay;
#[path = "../examples/simulate/report.rs"]
mod report;
#[path = "../examples/simulate/run.rs"]
mod run;
#[path = "../examples/simulate/seeds.rs"]
mod seeds;
#[path = "../examples/simulate/shrink.rs"]
mod shrink;
#[path = "../examples/simulate/verify.rs"]
mod verify;
#[path = "../examples/simulate/wire.rs"]
mod wire;

use plan::Plan;
use report::Report;

#[test]
fn two_thousand_seeds_with_faults_pass_all_checks() {
    let mut report = Report::default();
    seeds::run(
        0..2000,
        seeds::threads(),
        Plan::of,
        || |_, _: &_| {},
        |seed, outcome| {
            report.add(seed, outcome);
            true
        },
    );
    print!("{report}");
    if let Some((seed, violations)) = report.failure() {
        let small = shrink::command(&shrink::shrink(Plan::of(seed)));
        let others = report.other_failures(20).join(", ");
        panic!(
            "seed {seed}: {}\nTo repeat it:\n  {small}\nOther seeds that failed: {others}",
            violations.join("; ")
        );
    }
    assert_eq!(
        report.silent(),
        [] as [Fault; 0],
        "these faults never happened"
    );
    assert!(
        report.fault_counts.total() >= 1_000_000 && report.frames >= 10_000_000,
        "too few faults or frames"
    );
}

#[test]
fn json_summary_has_every_number() {
    let mut report = Report::default();
    report.add(0, run::run(&Plan::of(0), |_, _| {}));
    let json = report.json();
    let numbers = [
        "seeds",
        "connection_hours",
        "frames",
        "lost",
        "duplicated",
        "reordered",
        "altered",
        "stuck",
        "panics",
        "speedup",
    ];
    for key in numbers
        .into_iter()
        .chain(Fault::ALL.iter().map(|fault| fault.name()))
    {
        let value = json
            .split_once(&format!("\"{key}\":"))
            .map(|(_, rest)| rest.split([',', '}']).next());
        let value = value
            .flatten()
            .and_then(|number| number.parse::<f64>().ok());
        assert!(value.is_some_and(f64::is_finite), "{key} in {json}");
    }
    assert!(
        json.starts_with("{\"seeds\":1,") && json.contains("\"faults\":{\"") && json.ends_with('}')
    );
}

#[test]
fn same_seed_gives_same_run() {
    for seed in 0..20 {
        let [one, other] = [(), ()].map(|()| run::run(&Plan::of(seed), |_, _| {}));
        assert_eq!(
            (one.trace, one.turns, one.frames),
            (other.trace, other.turns, other.frames),
            "seed {seed}"
        );
    }
}
