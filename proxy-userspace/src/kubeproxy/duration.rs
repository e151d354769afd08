//! Durations as Go writes and reads them, since that is how a KubeProxyConfiguration says them: `30s`, `1m0s`, `1.5h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds, which may be negative: whether that makes sense is for the field to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

/// Not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration such as 30s, 1m0s or 1h")]
pub struct GoDurationError;

/// Units by name, in nanoseconds.
const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", MINUTE),
    ("h", HOUR),
];
const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

impl GoDuration {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// Of whole seconds.
    pub const fn seconds(seconds: i64) -> Self {
        Self(seconds * SECOND)
    }

    /// Of nanoseconds.
    pub const fn nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// The same span, if it is not negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    /// The same span; what Go cannot hold (292 years) becomes the longest that it can.
    pub fn of_std(span: Duration) -> Self {
        Self(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let total = self.0.unsigned_abs();
        let [second, minute, hour] = [SECOND, MINUTE, HOUR].map(i64::unsigned_abs);
        if total == 0 {
            return out.write_str("0s");
        }
        if total < second {
            let (unit, size) = match total {
                1_000_000.. => ("ms", 1_000_000),
                1_000.. => ("µs", 1_000),
                _ => ("ns", 1),
            };
            return write!(out, "{sign}{}{unit}", Decimal { value: total, unit: size });
        }
        let (hours, minutes) = (total / hour, total / minute % 60);
        out.write_str(sign)?;
        if hours > 0 {
            write!(out, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(out, "{minutes}m")?;
        }
        write!(out, "{}s", Decimal { value: total % minute, unit: second })
    }
}

/// A number of units, with as many decimals as it needs.
struct Decimal {
    value: u64,
    unit: u64,
}

impl fmt::Display for Decimal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.value / self.unit)?;
        let rest = self.value % self.unit;
        if rest == 0 {
            return Ok(());
        }
        let width = self.unit.ilog10() as usize;
        write!(out, ".{}", format!("{rest:0width$}").trim_end_matches('0'))
    }
}

impl FromStr for GoDuration {
    type Err = GoDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (is_negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(GoDurationError);
        }
        let mut total = 0_i64;
        while !rest.is_empty() {
            let (part, after) = take_part(rest)?;
            total = total.checked_add(part).ok_or(GoDurationError)?;
            rest = after;
        }
        Ok(Self(if is_negative { -total } else { total }))
    }
}

/// One number with its unit, in nanoseconds, and what follows it.
fn take_part(text: &str) -> Result<(i64, &str), GoDurationError> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (number, rest) = text.split_at(text.find(|c| !is_number(c)).unwrap_or(text.len()));
    let (unit, rest) = rest.split_at(rest.find(is_number).unwrap_or(rest.len()));
    let size = UNITS.iter().find(|(name, _)| *name == unit).ok_or(GoDurationError)?.1;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && decimals.is_empty()) || decimals.contains('.') {
        return Err(GoDurationError);
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| GoDurationError)? };
    let mut nanoseconds = whole.checked_mul(size).ok_or(GoDurationError)?;
    let mut share = size;
    for digit in decimals.bytes() {
        // Beyond a nanosecond nothing is left to add.
        nanoseconds = nanoseconds.checked_add(i64::from(digit - b'0') * share / 10).ok_or(GoDurationError)?;
        share /= 10;
    }
    Ok((nanoseconds, rest))
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| D::Error::custom(format!("`{text}` is {error}")))
    }
}

/// A duration that may also be a number of nanoseconds: `logging.flushFrequency` alone is read like that.
pub(super) fn text_or_nanoseconds<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<GoDuration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(GoDuration),
    }
    Either::deserialize(deserializer)
        .map(|either| match either {
            Either::Number(nanoseconds) => GoDuration::nanoseconds(nanoseconds),
            Either::Text(duration) => duration,
        })
        .map_err(|_| D::Error::custom("neither a duration such as 5s nor a number of nanoseconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (300_000_000, "300ms"),
            (SECOND, "1s"),
            (30 * SECOND, "30s"),
            (MINUTE, "1m0s"),
            (90 * SECOND, "1m30s"),
            (15 * MINUTE, "15m0s"),
            (HOUR, "1h0m0s"),
            (24 * HOUR + 1_500_000_000, "24h0m1.5s"),
            (-SECOND, "-1s"),
        ] {
            assert_eq!(GoDuration(nanoseconds).to_string(), text);
            assert_eq!(text.parse(), Ok(GoDuration(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("+5s", 5 * SECOND),
            ("1h", HOUR),
            ("2h22m", 142 * MINUTE),
            (".5s", SECOND / 2),
            ("1.h", HOUR),
            ("1us", 1_000),
            ("0.0000000001s", 0),
            ("1.25h", 75 * MINUTE),
        ] {
            assert_eq!(text.parse(), Ok(GoDuration(nanoseconds)), "{text}");
        }
        for bad in ["", "-", "5", "s", ".s", "5 s", "1d", "1.2.3s", "9999999999h", "٣s"] {
            assert_eq!(bad.parse::<GoDuration>(), Err(GoDurationError), "{bad}");
        }
        assert_eq!(GoDuration(-1).to_std(), None);
        assert_eq!(GoDuration::seconds(30).to_std(), Some(Duration::from_secs(30)));
        assert_eq!(GoDuration::of_std(Duration::MAX), GoDuration(i64::MAX));
    }
}
