//! Two thousand seeds of what `examples/simulate` runs, and what that is worth: all faults happen, much is checked, nothing is wrong.

use glassloop::sim::Fault;

#[path = "../examples/simulate/guest.rs"]
mod guest;
#[path = "../examples/simulate/hub.rs"]
mod hub;
#[path = "../examples/simulate/judge.rs"]
mod judge;
#[path = "../examples/simulate/ledger.rs"]
mod ledger;
#[path = "../examples/simulate/oracle.rs"]
mod oracle;
#[path = "../examples/simulate/plan.rs"]
mod plan;
#[path = "../examples/simulate/relay.rs"]
mod relay;
#[path = "../examples/simulate/report.rs"]
mod report;
#[path = "../examples/simulate/scene.rs"]
mod scene;
#[path = "../examples/simulate/seeds.rs"]
mod seeds;
#[path = "../examples/simulate/shrink.rs"]
mod shrink;
#[path = "../examples/simulate/wire.rs"]
mod wire;
#[path = "../examples/simulate/witness.rs"]
mod witness;

use plan::Plan;
use report::Report;

#[test]
fn two_thousand_rough_worlds_leave_nothing_wrong() {
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
    if let Some((seed, wrong)) = report.failure() {
        let small = shrink::command(&shrink::shrink(Plan::of(seed)));
        let others = report.other_failures(20).join(", ");
        panic!(
            "seed {seed}: {}\nTo see it again:\n  {small}\nSeeds that failed besides: {others}",
            wrong.join("; ")
        );
    }
    assert_eq!(
        report.silent(),
        [] as [Fault; 0],
        "these faults never happened: who knows what they would do?"
    );
    assert!(
        report.tally.total() >= 1_000_000 && report.frames >= 10_000_000,
        "too little was tried"
    );
}

#[test]
fn the_summary_says_the_same_to_programs() {
    let mut report = Report::default();
    report.add(0, scene::run(&Plan::of(0), |_, _| {}));
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
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let [one, other] = [(), ()].map(|()| scene::run(&Plan::of(seed), |_, _| {}));
        assert_eq!(
            (one.trace, one.turns, one.frames),
            (other.trace, other.turns, other.frames),
            "seed {seed}"
        );
    }
}
