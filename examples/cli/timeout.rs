//! A time on the command line, or `off`.

use std::str::FromStr;
use std::time::Duration;

/// `400ms`, `10s`, `2m`; `None` for `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Err(
                "no time at all would end everything at once; `off` is for as long as it likes"
                    .into(),
            ),
            Ok(time) => Ok(Self(Some(time))),
            Err(error) => Err(format!(
                "{error}; a time such as 400ms or 10s is wanted, or `off`"
            )),
        }
    }
}
