//! The figures as text and as JSON.

use std::fmt::Write;

use super::measure::{CROWD, Row};
use super::wait_cost::{CALLS, Cost};

const HEAD: [&str; 11] = [
    "model",
    "threads",
    "CPU idle",
    "wake-ups/s",
    "calls/req",
    "of 100",
    "p50 µs",
    "p99 µs",
    "clients",
    "bytes/client",
    "a slow client hurts others",
];

/// What each model costs.
pub(crate) fn models(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(String::from)];
    lines.extend(rows.iter().map(|row| {
        [
            row.model.name(),
            row.threads.to_string(),
            format!("{:.1} %", row.idle_cpu),
            format!("{:.0}", row.wakeups),
            format!("{:.2}", row.calls),
            format!("{:.2}", row.calls_of_many),
            format!("{:.0}", micros(row.p50)),
            format!("{:.0}", micros(row.p99)),
            if row.served < CROWD { row.served.to_string() } else { format!("≥ {CROWD}") },
            row.memory.map_or("n/a".into(), |bytes| bytes.to_string()),
            if row.slow_hurts { "yes" } else { "no" }.into(),
        ]
    }));
    let mut text = columns(&lines);
    let _ = writeln!(
        text,
        "\nthreads, CPU and wake-ups: with one client and {} more, all silent (iterative: with the one that it can serve)\n\
         calls/req: system calls a request, of a client that waits for each answer; of 100: of one that sends a hundred at once\n\
         p50, p99: how long that first client waits\n\
         clients: how many of {CROWD} were answered at the same time; bytes/client: memory of the process, without the kernel's",
        rows.iter().map(|row| row.idle).max().unwrap_or(0),
    );
    text
}

/// What a wait costs.
pub(crate) fn wait_costs(costs: &[Cost]) -> String {
    let mut lines = vec![vec!["a wait, ns".to_string()]];
    lines[0].extend(costs.iter().map(|cost| format!("{} idle", cost.idle)));
    for (number, call) in CALLS.iter().enumerate() {
        let mut line = vec![(*call).to_string()];
        line.extend(costs.iter().map(|cost| cost.nanos[number].as_ref().map_or("n/a".into(), |nanos| format!("{nanos:.0}"))));
        lines.push(line);
    }
    let mut text = format!("\n{}", columns(&lines));
    for cost in costs {
        for (call, nanos) in CALLS.iter().zip(&cost.nanos) {
            if let Err(why) = nanos {
                let _ = writeln!(text, "n/a: {call} beside {} idle connections: {why}", cost.idle);
            }
        }
    }
    text
}

fn columns<L: AsRef<[String]>>(lines: &[L]) -> String {
    let mut text = String::new();
    for line in lines {
        for (column, cell) in line.as_ref().iter().enumerate() {
            let width = lines.iter().map(|line| line.as_ref()[column].chars().count()).max().unwrap_or(0);
            let _ = match column {
                0 => write!(text, "{cell:width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

fn micros(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Everything, as one object.
pub(crate) fn json(rows: &[Row], costs: &[Cost]) -> String {
    let rows: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "{{\"model\":\"{}\",\"threads\":{},\"idle_cpu_percent\":{:.3},\"wakeups_per_second\":{:.1},\"syscalls_per_request\":{:.4},\
                 \"syscalls_per_request_of_100\":{:.4},\"p50_us\":{:.1},\"p99_us\":{:.1},\"clients_tried\":{CROWD},\"clients_served\":{},\
                 \"bytes_per_client\":{},\"slow_client_hurts\":{}}}",
                row.model.name(),
                row.threads,
                row.idle_cpu,
                row.wakeups,
                row.calls,
                row.calls_of_many,
                micros(row.p50),
                micros(row.p99),
                row.served,
                row.memory.map_or("null".into(), |bytes| bytes.to_string()),
                row.slow_hurts,
            )
        })
        .collect();
    let calls: Vec<String> = CALLS
        .iter()
        .enumerate()
        .map(|(number, call)| {
            let nanos: Vec<String> = costs
                .iter()
                .map(|cost| {
                    format!("\"{}\":{}", cost.idle, cost.nanos[number].as_ref().map_or("null".into(), |nanos| format!("{nanos:.0}")))
                })
                .collect();
            format!("\"{call}\":{{{}}}", nanos.join(","))
        })
        .collect();
    format!("{{\"models\":[{}],\"wait_ns\":{{{}}}}}", rows.join(","), calls.join(","))
}
