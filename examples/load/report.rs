//! Formats the results of a run as text and as JSON.

use std::fmt::Write;
use std::net::SocketAddr;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::Args;
use crate::server::Usage;

/// The results of a run.
pub(crate) struct Report {
    /// Measured time.
    pub(crate) seconds: f64,
    /// Acks within that time.
    pub(crate) requests: u64,
    /// All acks of the run.
    pub(crate) acked: u64,
    /// Due requests without an ack at the end.
    pub(crate) unanswered: u64,
    pub(crate) latencies: Histogram<u64>,
    /// CPU use of the load itself, as a share of a processor.
    pub(crate) client: Option<f64>,
    pub(crate) server: Option<Usage>,
    pub(crate) idle: Option<Idle>,
}

/// The idle connections.
pub(crate) struct Idle {
    pub(crate) conns: usize,
    /// Memory of the server for each of them.
    pub(crate) bytes_per_connection: Option<f64>,
    /// How many of them the server has closed.
    pub(crate) closed: usize,
}

impl Report {
    /// Returns the requests a second.
    fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// Formats the report as text.
    pub(crate) fn text(&self, args: &Args, addr: SocketAddr) -> String {
        let mut text = String::new();
        let conns = if args.conns == 1 {
            "1 connection".to_string()
        } else {
            format!("{} connections", grouped(args.conns.into()))
        };
        let how = match args.rate {
            Some(rate) => format!("open loop, {rate} requests/s over {conns}"),
            None => format!("closed loop, {conns}, depth {}", args.depth),
        };
        let _ = writeln!(
            text,
            "{addr}: {how}, payload {} bytes, {:.1} s after {:?} of warm-up",
            args.payload, self.seconds, args.warmup
        );
        let _ = writeln!(
            text,
            "  requests  {}/s, {} in that time; {} acks in all, each of them right",
            grouped(self.rate()),
            grouped(self.requests as f64),
            grouped(self.acked as f64)
        );
        if self.latencies.is_empty() {
            let _ = writeln!(
                text,
                "  latency   none: no request was sent within the time"
            );
        } else {
            let at = |quantile| micros(self.latencies.value_at_quantile(quantile));
            let _ = writeln!(
                text,
                "  latency   p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                micros(self.latencies.max())
            );
        }
        if self.unanswered > 0 {
            let _ = writeln!(
                text,
                "  overload  {} requests were due and had no ack at the end: \
                 the server does not keep up",
                grouped(self.unanswered as f64)
            );
        }
        if let Some(client) = self.client {
            let hint = if client > 0.95 && !args.spin && args.rate.is_none() {
                ": the client may be the limit"
            } else {
                ""
            };
            let _ = writeln!(text, "  client    {client:.2} of a processor{hint}");
        }
        if let Some(server) = &self.server {
            self.add_server(server, &mut text);
        }
        if let Some(idle) = &self.idle {
            let bytes = idle.bytes_per_connection.map_or(String::new(), |bytes| {
                format!(", {bytes:.0} bytes of the server's memory each")
            });
            let closed = if idle.closed > 0 {
                format!("; the server has closed {} of them", idle.closed)
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "  idle      {} connections{bytes}{closed}",
                grouped(idle.conns as f64)
            );
        }
        text
    }

    /// Appends the lines about the server's process.
    fn add_server(&self, server: &Usage, text: &mut String) {
        let each = |total: f64| total / self.requests.max(1) as f64;
        let cpu = each(server.cpu.as_secs_f64() * 1e6);
        let softirq = server.softirq.map_or(String::new(), |time| {
            format!(
                " and {:.3} in the kernel's network thread",
                each(time.as_secs_f64() * 1e6)
            )
        });
        let (user, system) = (cpu * server.user_share, cpu * (1.0 - server.user_share));
        let _ = writeln!(
            text,
            "  server    {cpu:.3} µs a request ({user:.3} user, {system:.3} system){softirq}; \
             {:.2} of a processor",
            server.cpu.as_secs_f64() / self.seconds
        );
        let _ = writeln!(
            text,
            "            {:.3} voluntary and {:.3} involuntary context switches a request, \
             {} threads, {:.1} MiB resident",
            each(server.voluntary as f64),
            each(server.involuntary as f64),
            server.threads,
            server.rss as f64 / 1_048_576.0
        );
    }

    /// Formats the report as one JSON object.
    pub(crate) fn json(&self, args: &Args, addr: SocketAddr) -> String {
        let latency = |nanos: u64| {
            if self.latencies.is_empty() {
                Value::Null
            } else {
                json!(nanos as f64 / 1e3)
            }
        };
        let at = |quantile| latency(self.latencies.value_at_quantile(quantile));
        let mean = if self.latencies.is_empty() {
            Value::Null
        } else {
            json!(self.latencies.mean() / 1e3)
        };
        let each = |total: f64| total / self.requests.max(1) as f64;
        let server = self.server.as_ref().map(|server| {
            let cpu = each(server.cpu.as_secs_f64() * 1e6);
            json!({
                "cpu_us_per_request": cpu,
                "user_us_per_request": cpu * server.user_share,
                "system_us_per_request": cpu * (1.0 - server.user_share),
                "softirq_us_per_request": server.softirq.map(|time| each(time.as_secs_f64() * 1e6)),
                "cpu": server.cpu.as_secs_f64() / self.seconds,
                "voluntary_switches_per_request": each(server.voluntary as f64),
                "involuntary_switches_per_request": each(server.involuntary as f64),
                "threads": server.threads,
                "rss_bytes": server.rss,
            })
        });
        let idle = self.idle.as_ref().map(|idle| {
            json!({
                "conns": idle.conns,
                "bytes_per_connection": idle.bytes_per_connection,
                "closed": idle.closed,
            })
        });
        let all = json!({
            "loop": if args.rate.is_some() { "open" } else { "closed" },
            "addr": addr.to_string(),
            "conns": args.conns,
            "depth": args.rate.is_none().then_some(args.depth),
            "payload": args.payload,
            "rate": args.rate,
            "seconds": self.seconds,
            "requests": self.requests,
            "requests_per_second": self.rate(),
            "p50_us": at(0.5),
            "p90_us": at(0.9),
            "p99_us": at(0.99),
            "p999_us": at(0.999),
            "max_us": latency(self.latencies.max()),
            "mean_us": mean,
            "acked_total": self.acked,
            "unanswered": self.unanswered,
            "client_cpu": self.client,
            "server": server,
            "idle": idle,
        });
        format!("{all}\n")
    }
}

/// Formats nanoseconds as µs, or as ms from 10 ms on.
pub(crate) fn micros(nanos: u64) -> String {
    match nanos {
        0..100_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        100_000..10_000_000 => format!("{:.0} µs", nanos as f64 / 1e3),
        _ => format!("{:.0} ms", nanos as f64 / 1e6),
    }
}

/// Formats a whole number with thousands separators.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
