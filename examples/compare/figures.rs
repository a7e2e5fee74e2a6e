//! What was measured: by scenario, peer and figure, a value a round; and what that comes to.

use std::collections::HashMap;

use super::peers::YARDSTICK;
use super::scenarios::Scenario;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Figure {
    Rate,
    Cpu,
    P50,
    P99,
    Calls,
    Idle,
}

impl Figure {
    pub(crate) const ALL: [Figure; 6] = [
        Figure::Rate,
        Figure::Cpu,
        Figure::P50,
        Figure::P99,
        Figure::Calls,
        Figure::Idle,
    ];

    /// In the JSON.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Figure::Rate => "requests_per_second",
            Figure::Cpu => "cpu_us_per_request",
            Figure::P50 => "p50_us",
            Figure::P99 => "p99_us",
            Figure::Calls => "calls_per_request",
            Figure::Idle => "bytes_per_idle_connection",
        }
    }

    /// In the table.
    pub(crate) fn head(self) -> &'static str {
        match self {
            Figure::Rate => "req/s",
            Figure::Cpu => "CPU µs/req",
            Figure::P50 => "p50 µs",
            Figure::P99 => "p99 µs",
            Figure::Calls => "calls/req",
            Figure::Idle => "bytes/idle",
        }
    }

    /// Whether it belongs to a scenario at all.
    pub(crate) fn is_of(self, scenario: Scenario) -> bool {
        (self == Figure::Idle) == (scenario == Scenario::Idle)
    }
}

/// Of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self {
            median,
            least,
            most,
        })
    }
}

#[derive(Default)]
pub(crate) struct Results {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) peers: Vec<String>,
    values: HashMap<(Scenario, String, Figure), Vec<(u32, f64)>>,
    /// What could not be measured: where, of whom, which figure (all of them if none is named), and why.
    pub(crate) gaps: Vec<(Scenario, String, Option<Figure>, String)>,
    /// Who could not be measured at all, and why.
    pub(crate) missing: Vec<(String, String)>,
}

impl Results {
    /// None yet.
    pub(crate) fn of(scenarios: &[Scenario], peers: Vec<String>) -> Self {
        Self {
            scenarios: scenarios.to_vec(),
            peers,
            ..Self::default()
        }
    }

    pub(crate) fn add(
        &mut self,
        scenario: Scenario,
        peer: &str,
        figure: Figure,
        round: u32,
        value: Option<f64>,
    ) {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            self.values
                .entry((scenario, peer.into(), figure))
                .or_default()
                .push((round, value));
        }
    }

    fn rounds(&self, scenario: Scenario, peer: &str, figure: Figure) -> &[(u32, f64)] {
        self.values
            .get(&(scenario, peer.into(), figure))
            .map_or(&[], Vec::as_slice)
    }

    pub(crate) fn value(&self, scenario: Scenario, peer: &str, figure: Figure) -> Option<Spread> {
        Spread::of(
            self.rounds(scenario, peer, figure)
                .iter()
                .map(|(_, value)| *value)
                .collect(),
        )
    }

    /// Its values as multiples of the yardstick's in the same rounds; the yardstick's own, of its median.
    pub(crate) fn ratio(&self, scenario: Scenario, peer: &str, figure: Figure) -> Option<Spread> {
        let own = self.value(scenario, YARDSTICK, figure)?;
        let yardstick = self.rounds(scenario, YARDSTICK, figure);
        let same_round = |round: u32| {
            if peer == YARDSTICK {
                Some(own.median)
            } else {
                find(yardstick, round)
            }
        };
        let ratios = self
            .rounds(scenario, peer, figure)
            .iter()
            .filter_map(|(round, value)| Some(value / same_round(*round)?));
        Spread::of(ratios.filter(|ratio| ratio.is_finite()).collect())
    }

    /// Why a figure is not there.
    pub(crate) fn gap(&self, scenario: Scenario, peer: &str, figure: Figure) -> Option<&str> {
        let is_it = |gap: &&(Scenario, String, Option<Figure>, String)| {
            gap.0 == scenario && gap.1 == peer && gap.2.is_none_or(|of| of == figure)
        };
        self.gaps.iter().find(is_it).map(|gap| gap.3.as_str())
    }
}

fn find(values: &[(u32, f64)], round: u32) -> Option<f64> {
    values
        .iter()
        .find(|(of, _)| *of == round)
        .map(|(_, value)| *value)
}
