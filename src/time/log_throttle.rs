//! A limit on log lines that peers can cause: one line of a kind each second, with the number of
//! lines left out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// The least time between two lines of one kind.
const PERIOD: Duration = Duration::from_secs(1);

/// Stores when each kind of line was last logged.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    kinds: BTreeMap<Kind, Recent>,
}

/// The kind of a line: its text, and the system's error number if it has one.
pub(crate) type Kind = (&'static str, Option<i32>);

/// The last line of one kind.
#[derive(Debug)]
struct Recent {
    /// No line of this kind is logged before this time.
    quiet_until: Instant,
    /// The number of lines left out since the last one.
    suppressed: u64,
}

/// The number of lines of a kind that were left out since the last one. It prints as the end of a
/// log line.
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
    /// Returns `Some` if a line of this kind is to be logged now.
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
    fn burst_logs_one_line_a_second_with_a_count() {
        let start = Instant::now();
        let mut log_throttle = LogThrottle::default();
        let mut lines = Vec::new();
        for ms in (0..3000).step_by(10) {
            lines.extend(
                log_throttle.allow(("accept", Some(24)), start + Duration::from_millis(ms)),
            );
        }
        assert_eq!(lines, [Suppressed(0), Suppressed(99), Suppressed(99)]);
        assert!(
            log_throttle.allow(("accept", Some(23)), start).is_some(),
            "another kind is another line"
        );
        assert_eq!(
            Suppressed(99).to_string(),
            " (99 more of this kind since the last line)"
        );
    }
}
