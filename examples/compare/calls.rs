//! System calls a request, counted by strace.
//!
//! A server is run twice under `strace -f -c`: with hardly any requests, and with many. What both have in common (its start, its connections) is in the difference no
//! more. strace slows the server down, so where several requests may come together more do; in lock-step the count is exact.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::peers::Peer;
use super::process::{self, Cores, Server};
use super::scenarios::Scenario;

/// Counts calls, and remembers what a server makes without requests.
pub(crate) struct Counter<'a> {
    load: &'a Path,
    cores: &'a Cores,
    /// Why it cannot count.
    cannot: Option<String>,
    /// Calls and requests with next to none, by peer and number of connections.
    bases: HashMap<(String, u32), (f64, f64)>,
}

impl<'a> Counter<'a> {
    pub(crate) fn new(load: &'a Path, cores: &'a Cores) -> Self {
        let cannot = match Command::new("strace")
            .args(["-o", "/dev/null", "true"])
            .output()
        {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!(
                "strace may not trace here: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => Some(format!("strace is not here ({error})")),
        };
        Self {
            load,
            cores,
            cannot,
            bases: HashMap::new(),
        }
    }

    /// Calls for each request, or why they are not known.
    pub(crate) fn count(
        &mut self,
        peer: &Peer,
        scenario: Scenario,
        secs: f64,
    ) -> Result<f64, String> {
        if let Some(why) = &self.cannot {
            return Err(why.clone());
        }
        if scenario == Scenario::OpenLoop {
            return Err("slowed down by strace it could not keep up with the rate".into());
        }
        let key = (peer.name.clone(), scenario.conns());
        if !self.bases.contains_key(&key) {
            let base = self.run(peer, scenario, 0.01)?;
            self.bases.insert(key.clone(), base);
        }
        let (base_calls, base_requests) = self.bases[&key];
        // The more connections, the more requests it takes to make their beginning and end vanish.
        let (calls, requests) = self.run(
            peer,
            scenario,
            secs * (1.0 + f64::from(scenario.conns()) / 250.0),
        )?;
        if requests - base_requests < 1.0 {
            return Err("too few requests in the time".into());
        }
        Ok((calls - base_calls) / (requests - base_requests))
    }

    /// Calls and requests of a whole run.
    fn run(&self, peer: &Peer, scenario: Scenario, secs: f64) -> Result<(f64, f64), String> {
        let summary =
            std::env::temp_dir().join(format!("glassloop-compare-{}-strace", std::process::id()));
        // -I 2: it listens to a signal, passes it on, and then says what it has counted.
        let strace = [
            "strace",
            "-I",
            "2",
            "-f",
            "-c",
            "-U",
            "calls",
            "-o",
            &summary.display().to_string(),
        ]
        .map(String::from);
        let server = Server::start_under(peer, self.cores, &strace)?;
        let mut args = vec![
            "--warmup".into(),
            "0".into(),
            "--conns".into(),
            scenario.conns().to_string(),
        ];
        args.extend(["--payload".into(), scenario.payload().to_string()]);
        args.extend(scenario.load().iter().map(ToString::to_string));
        let outcome = process::load(self.load, &server, self.cores, secs, &args);
        server.stop();
        let text = fs::read_to_string(&summary);
        let _ = fs::remove_file(&summary);
        let requests = outcome?["acked_total"].as_f64().unwrap_or(0.0);
        let text = text.map_err(|error| format!("strace has left no summary: {error}"))?;
        let total = text
            .lines()
            .find_map(|line| line.trim().strip_suffix(" total"));
        let calls = total
            .and_then(|calls| calls.trim().parse().ok())
            .ok_or_else(|| format!("strace has counted nothing: {text}"))?;
        Ok((calls, requests))
    }
}
