//! Formats the figures as text and as JSON.

use std::fmt::Write;

use serde_json::Value;

use super::measure::{Figures, Row, max_clients};
use super::wait_cost::{CALLS, Cost};

const HEAD: [&str; 11] = [
    "model",
    "threads",
    "CPU idle",
    "wake-ups/s",
    "calls/req",
    "batched",
    "p50 µs",
    "p99 µs",
    "clients",
    "bytes/client",
    "slow client blocks others",
];

/// Formats the table of the models.
pub(crate) fn models(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(String::from)];
    lines.extend(rows.iter().map(|row| {
        let mut line = HEAD.map(|_| "n/a".to_string());
        line[0] = row.model.name();
        if let Ok(figures) = &row.figures {
            line[1..].clone_from_slice(&cells(figures));
        }
        line
    }));
    let mut text = columns(&lines);
    let figures = || rows.iter().filter_map(|row| row.figures.as_ref().ok());
    let _ = writeln!(
        text,
        "\nthreads, CPU idle, wake-ups: with one client and {} more, all idle \
         (iterative: only the one that it can serve)\n\
         calls/req: system calls a request, for a client that waits for each reply\n\
         batched: the same, for a client that sends 100 requests at once\n\
         epoll-et: up to 4 calls a request; fewer if the next request arrives before the read \
         that would return EAGAIN\n\
         p50, p99: latency of the first client's requests\n\
         clients: how many of {} clients were served at the same time\n\
         bytes/client: memory of the process, without the kernel's buffers",
        figures().map(|figures| figures.idle).max().unwrap_or(0),
        max_clients(),
    );
    for row in rows {
        if let Err(why) = &row.figures {
            let _ = writeln!(text, "n/a: {}: {why}", row.model.name());
        }
    }
    text
}

/// Formats the figures of a row, without its model.
fn cells(figures: &Figures) -> [String; HEAD.len() - 1] {
    let tried = max_clients();
    [
        figures.threads.to_string(),
        format!("{:.1} %", figures.idle_cpu),
        format!("{:.0}", figures.wakeups),
        format!("{:.2}", figures.calls),
        format!("{:.2}", figures.calls_of_many),
        format!("{:.0}", micros(figures.p50)),
        format!("{:.0}", micros(figures.p99)),
        if figures.served < tried {
            figures.served.to_string()
        } else {
            format!("≥ {tried}")
        },
        figures
            .memory
            .map_or("n/a".into(), |bytes| bytes.to_string()),
        if figures.slow_hurts { "yes" } else { "no" }.into(),
    ]
}

/// Formats the table of the costs of one wait.
pub(crate) fn wait_costs(costs: &[Cost]) -> String {
    let mut lines = vec![vec!["cost of a wait, ns".to_string()]];
    lines[0].extend(costs.iter().map(|cost| format!("{} idle", cost.idle)));
    for (number, call) in CALLS.iter().enumerate() {
        let mut line = vec![(*call).to_string()];
        line.extend(costs.iter().map(|cost| {
            cost.nanos[number]
                .as_ref()
                .map_or("n/a".into(), |nanos| format!("{nanos:.0}"))
        }));
        lines.push(line);
    }
    let mut text = format!("\n{}", columns(&lines));
    for cost in costs {
        for (call, nanos) in CALLS.iter().zip(&cost.nanos) {
            if let Err(why) = nanos {
                let _ = writeln!(
                    text,
                    "n/a: {call} with {} idle connections: {why}",
                    cost.idle
                );
            }
        }
    }
    text
}

/// Aligns the cells in columns: the first to the left, the others to the right.
fn columns<L: AsRef<[String]>>(lines: &[L]) -> String {
    let mut text = String::new();
    for line in lines {
        for (column, cell) in line.as_ref().iter().enumerate() {
            let width = lines
                .iter()
                .map(|line| line.as_ref()[column].chars().count())
                .max()
                .unwrap_or(0);
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

/// Formats all figures as one JSON object.
pub(crate) fn json(rows: &[Row], costs: &[Cost]) -> String {
    let rows: Vec<String> = rows.iter().map(json_row).collect();
    let calls: Vec<String> = CALLS
        .iter()
        .enumerate()
        .map(|(number, call)| {
            let nanos: Vec<String> = costs
                .iter()
                .map(|cost| {
                    format!(
                        "\"{}\":{}",
                        cost.idle,
                        cost.nanos[number]
                            .as_ref()
                            .map_or("null".into(), |nanos| format!("{nanos:.0}"))
                    )
                })
                .collect();
            format!("\"{call}\":{{{}}}", nanos.join(","))
        })
        .collect();
    format!(
        "{{\"models\":[{}],\"wait_ns\":{{{}}}}}",
        rows.join(","),
        calls.join(",")
    )
}

/// Formats a row. Without figures, its numbers are null and `error` holds the reason.
fn json_row(row: &Row) -> String {
    let known = row.figures.as_ref().ok();
    let number = |digits: usize, of: fn(&Figures) -> f64| {
        known.map_or("null".into(), |figures| format!("{:.digits$}", of(figures)))
    };
    let mut fields = vec![
        ("model", Value::from(row.model.name()).to_string()),
        ("threads", number(0, |figures| figures.threads as f64)),
        ("idle_cpu_percent", number(3, |figures| figures.idle_cpu)),
        ("wakeups_per_second", number(1, |figures| figures.wakeups)),
        ("syscalls_per_request", number(4, |figures| figures.calls)),
        (
            "syscalls_per_request_of_100",
            number(4, |figures| figures.calls_of_many),
        ),
        ("p50_us", number(1, |figures| micros(figures.p50))),
        ("p99_us", number(1, |figures| micros(figures.p99))),
        ("clients_tried", max_clients().to_string()),
        ("clients_served", number(0, |figures| figures.served as f64)),
        (
            "bytes_per_client",
            known
                .and_then(|figures| figures.memory)
                .map_or("null".into(), |bytes| bytes.to_string()),
        ),
        (
            "slow_client_hurts",
            known.map_or("null".into(), |figures| figures.slow_hurts.to_string()),
        ),
    ];
    if let Err(why) = &row.figures {
        fields.push(("error", Value::from(why.as_str()).to_string()));
    }
    format!(
        "{{{}}}",
        fields
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect::<Vec<_>>()
            .join(",")
    )
}
