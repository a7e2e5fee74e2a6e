//! Counts the system calls a request, with strace.
//!
//! A server runs twice under `strace -f -c`: with hardly any requests, and with many. The
//! difference leaves out the calls that both runs make, such as those for its start and its
//! connections. strace slows the server down, so requests that can arrive together do so more
//! often. In lock-step the count is exact.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::peers::Peer;
use super::process::{self, Cores, Server};
use super::scenarios::Scenario;

/// Counts calls. Keeps each server's counts of the run with hardly any requests.
pub(crate) struct Counter<'a> {
    load: &'a Path,
    cores: &'a Cores,
    /// Why strace cannot count, if it cannot.
    unavailable: Option<String>,
    /// Calls and requests of a run with hardly any requests, by peer and number of connections.
    bases: HashMap<(String, u32), (f64, f64)>,
}

impl<'a> Counter<'a> {
    pub(crate) fn new(load: &'a Path, cores: &'a Cores) -> Self {
        let unavailable = match Command::new("strace")
            .args(["-o", "/dev/null", "true"])
            .output()
        {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!(
                "strace is not allowed to trace: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => Some(format!("strace not found ({error})")),
        };
        Self {
            load,
            cores,
            unavailable,
            bases: HashMap::new(),
        }
    }

    /// Returns the calls a request, or why they cannot be counted.
    pub(crate) fn count(
        &mut self,
        peer: &Peer,
        scenario: Scenario,
        secs: f64,
    ) -> Result<f64, String> {
        if let Some(why) = &self.unavailable {
            return Err(why.clone());
        }
        if scenario == Scenario::OpenLoop {
            return Err("under strace the server is too slow for the rate".into());
        }
        let key = (peer.name.clone(), scenario.conns());
        if !self.bases.contains_key(&key) {
            let base = self.run(peer, scenario, 0.01)?;
            self.bases.insert(key.clone(), base);
        }
        let (base_calls, base_requests) = self.bases[&key];
        // With more connections, more requests are needed until opening and closing them no longer
        // shows in the result.
        let (calls, requests) = self.run(
            peer,
            scenario,
            secs * (1.0 + f64::from(scenario.conns()) / 250.0),
        )?;
        if requests - base_requests < 1.0 {
            return Err("too few requests were answered in the time".into());
        }
        Ok((calls - base_calls) / (requests - base_requests))
    }

    /// Returns the calls and requests of a whole run.
    fn run(&self, peer: &Peer, scenario: Scenario, secs: f64) -> Result<(f64, f64), String> {
        let summary =
            std::env::temp_dir().join(format!("glassloop-compare-{}-strace", std::process::id()));
        // -I 2: strace passes a signal on to the server, then writes its counts.
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
        let text = text.map_err(|error| format!("strace wrote no summary: {error}"))?;
        let total = text
            .lines()
            .find_map(|line| line.trim().strip_suffix(" total"));
        let calls = total
            .and_then(|calls| calls.trim().parse().ok())
            .ok_or_else(|| format!("no total in the summary of strace: {text}"))?;
        Ok((calls, requests))
    }
}
