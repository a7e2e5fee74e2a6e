//! The measured values, one per scenario, peer, figure and round; their medians and ratios.

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

    /// Returns its key in the JSON.
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

    /// Returns its column head in the table.
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

    /// True if it is measured in this scenario.
    pub(crate) fn is_of(self, scenario: Scenario) -> bool {
        (self == Figure::Idle) == (scenario == Scenario::Idle)
    }
}

/// The median, the least and the greatest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Returns `None` without values.
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

/// All measured values, and the reasons for missing ones.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) peers: Vec<String>,
    values: HashMap<(Scenario, String, Figure), Vec<(u32, f64)>>,
    /// Figures that could not be measured: scenario, peer, figure (`None`: all of them) and reason.
    pub(crate) gaps: Vec<(Scenario, String, Option<Figure>, String)>,
    /// Peers that could not be measured at all, and why.
    pub(crate) missing: Vec<(String, String)>,
}

impl Results {
    /// Creates results without values.
    pub(crate) fn of(scenarios: &[Scenario], peers: Vec<String>) -> Self {
        Self {
            scenarios: scenarios.to_vec(),
            peers,
            ..Self::default()
        }
    }

    /// Adds a value, unless it is missing or not finite.
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

    /// Returns the values by round.
    fn rounds(&self, scenario: Scenario, peer: &str, figure: Figure) -> &[(u32, f64)] {
        self.values
            .get(&(scenario, peer.into(), figure))
            .map_or(&[], Vec::as_slice)
    }

    /// Returns the spread of a figure over the rounds.
    pub(crate) fn value(&self, scenario: Scenario, peer: &str, figure: Figure) -> Option<Spread> {
        Spread::of(
            self.rounds(scenario, peer, figure)
                .iter()
                .map(|(_, value)| *value)
                .collect(),
        )
    }

    /// Returns the spread of the ratios to the yardstick's values in the same rounds. The
    /// yardstick's own values are divided by their median.
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

    /// Returns the reason why a figure is missing.
    pub(crate) fn gap(&self, scenario: Scenario, peer: &str, figure: Figure) -> Option<&str> {
        let matches = |gap: &&(Scenario, String, Option<Figure>, String)| {
            gap.0 == scenario && gap.1 == peer && gap.2.is_none_or(|of| of == figure)
        };
        self.gaps.iter().find(matches).map(|gap| gap.3.as_str())
    }
}

/// Returns the value of a round.
fn find(values: &[(u32, f64)], round: u32) -> Option<f64> {
    values
        .iter()
        .find(|(of, _)| *of == round)
        .map(|(_, value)| *value)
}
