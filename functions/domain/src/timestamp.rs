//! Timestamps and durations as text. Timestamps are RFC 3339 in UTC, with milliseconds in all stored data.
//!
//! The functions [`serialize`] and [`deserialize`] are for serde's `with` attribute.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serializer};

/// Formats a timestamp with milliseconds: `2026-08-20T10:31:07.021Z`.
pub fn millis(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// Formats a timestamp with seconds, like CloudTrail's `eventTime`: `2026-08-20T10:31:07Z`.
pub fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// Formats a duration in its one or two largest units: `45s`, `30m`, `1h 5m`, `2d 3h`.
pub fn duration(duration: jiff::SignedDuration) -> String {
    let seconds = duration.as_secs();
    let (sign, seconds) = if seconds < 0 { ("-", -seconds) } else { ("", seconds) };
    let (major, minor) = match seconds {
        0..60 => return format!("{sign}{seconds}s"),
        60..3_600 => ((seconds / 60, "m"), (seconds % 60, "s")),
        3_600..86_400 => ((seconds / 3_600, "h"), (seconds % 3_600 / 60, "m")),
        _ => ((seconds / 86_400, "d"), (seconds % 86_400 / 3_600, "h")),
    };
    match minor {
        (0, _) => format!("{sign}{}{}", major.0, major.1),
        minor => format!("{sign}{}{} {}{}", major.0, major.1, minor.0, minor.1),
    }
}

/// Writes a timestamp with milliseconds, whatever its precision.
pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}

/// Reads any RFC 3339 timestamp.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let text = Text::deserialize(deserializer)?.0;
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        serde::de::Error::custom(format_args!("{shown:?} is not an RFC 3339 time"))
    })
}

/// The same for an optional timestamp.
pub mod option {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes milliseconds or null.
    pub fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => super::serialize(at, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads any RFC 3339 timestamp or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        #[derive(Deserialize)]
        struct At(#[serde(deserialize_with = "super::deserialize")] Timestamp);
        Ok(Option::<At>::deserialize(deserializer)?.map(|at| at.0))
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn timestamps_are_written_in_utc_with_milliseconds() {
        let at: Timestamp = "2026-08-20T12:31:07.021638+02:00".parse().expect("a time");
        assert_eq!(millis(at), "2026-08-20T10:31:07.021Z");
        assert_eq!(seconds(at), "2026-08-20T10:31:07Z");
        assert_eq!(millis("2026-08-20T10:31:07Z".parse().expect("a time")), "2026-08-20T10:31:07.000Z");
    }

    #[test]
    fn durations_are_written_in_at_most_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (1_800, "30m"),
            (1_801, "30m 1s"),
            (3_900, "1h 5m"),
            (86_400, "1d"),
            (97_300, "1d 3h"),
            (-90, "-1m 30s"),
        ] {
            assert_eq!(duration(SignedDuration::from_secs(seconds)), text);
        }
    }
}
