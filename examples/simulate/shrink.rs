//! Shrinks a failure: fewer clients, fewer requests, fewer kinds of faults, as long as the run
//! still fails.

use glassloop::sim::Fault;

use crate::plan::Plan;
use crate::run;

/// Removes one thing after the other from the plan as long as it still fails.
pub(crate) fn shrink(mut plan: Plan) -> Plan {
    let fails = |plan: &Plan| !run::run(plan, |_, _| {}).violations.is_empty();
    let all: Vec<usize> = plan
        .scenario()
        .clients
        .iter()
        .map(|client| client.number)
        .collect();
    plan.clients = Some(all);
    let try_with = |plan: &mut Plan, change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        let better = fails(&smaller);
        if better {
            *plan = smaller;
        }
        better
    };
    // Halves first, then single clients.
    let mut part = plan.clients.as_ref().map_or(1, Vec::len);
    while part > 0 {
        let mut at = 0;
        while at < plan.clients.as_ref().map_or(0, Vec::len) {
            let gone = try_with(&mut plan, &|plan| {
                let clients = plan.clients.as_mut().expect("set above");
                clients.drain(at..(at + part).min(clients.len()));
            });
            at += if gone { 0 } else { part };
        }
        part /= 2;
    }
    for requests in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
        if try_with(&mut plan, &|plan| plan.requests = Some(requests)) {
            break;
        }
    }
    let faults = plan.scenario().faults;
    for fault in Fault::ALL.iter().filter(|fault| faults.rate(**fault) > 0) {
        try_with(&mut plan, &|plan| plan.without.push(*fault));
    }
    plan
}

/// The command that repeats the run.
pub(crate) fn command(plan: &Plan) -> String {
    let mut command = format!(
        "cargo run --release --features sim --example simulate -- --seed {}",
        plan.seed
    );
    if let Some(clients) = &plan.clients {
        let numbers: Vec<String> = clients.iter().map(ToString::to_string).collect();
        command.extend([" --clients ", &numbers.join(",")]);
    }
    if let Some(requests) = plan.requests {
        command.extend([" --requests ", &requests.to_string()]);
    }
    if !plan.without.is_empty() {
        let names: Vec<&str> = plan.without.iter().map(|fault| fault.name()).collect();
        command.extend([" --without ", &names.join(",")]);
    }
    command
}
