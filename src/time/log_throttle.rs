//! Log lines that strangers can cause: one of a kind a second, with the number of those left out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// How often a line of one kind may be logged.
const PERIOD: Duration = Duration::from_secs(1);

/// Remembers what was logged lately.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    kinds: BTreeMap<Kind, Recent>,
}

/// What a line says, and the system's number for it if it has one.
pub(crate) type Kind = (&'static str, Option<i32>);

#[derive(Debug)]
struct Recent {
    quiet_until: Instant,
    suppressed: u64,
}

/// How many lines of this kind were left out since the last one; as text it is the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " ({n} more of this kind since the last line)"),
        }
    }
}

impl LogThrottle {
    /// Whether a line of this kind is to be logged now.
    pub(crate) fn allow(&mut self, kind: Kind, now: Instant) -> Option<Suppressed> {
        let recent = self.kinds.entry(kind).or_insert(Recent {
            quiet_until: now,
            suppressed: 0,
        });
        if now < recent.quiet_until {
            recent.suppressed += 1;
            return None;
        }
        recent.quiet_until = now + PERIOD;
        Some(Suppressed(std::mem::take(&mut recent.suppressed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_one_line_a_second_and_a_number() {
        let begun = Instant::now();
        let mut log_throttle = LogThrottle::default();
        let mut lines = Vec::new();
        for ms in (0..3000).step_by(10) {
            lines.extend(
                log_throttle.allow(("accept", Some(24)), begun + Duration::from_millis(ms)),
            );
        }
        assert_eq!(lines, [Suppressed(0), Suppressed(99), Suppressed(99)]);
        assert!(
            log_throttle.allow(("accept", Some(23)), begun).is_some(),
            "another kind is another line"
        );
        assert_eq!(
            Suppressed(99).to_string(),
            " (99 more of this kind since the last line)"
        );
    }
}
