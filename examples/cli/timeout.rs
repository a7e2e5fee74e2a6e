//! The value of a timeout flag: a time, or `off`.

use std::str::FromStr;
use std::time::Duration;

/// A time such as `400ms`, `10s` or `2m`; `None` for `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Err("zero would expire at once; `off` means no limit".into()),
            Ok(time) => Ok(Self(Some(time))),
            Err(error) => Err(format!(
                "{error}; expected a time such as 400ms or 10s, or `off`"
            )),
        }
    }
}
