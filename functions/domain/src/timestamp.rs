//! Instants as the project writes them: UTC, RFC 3339, milliseconds.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serializer};

/// `2026-08-20T10:31:07.021Z`.
pub fn millis(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// `2026-08-20T10:31:07Z`, as CloudTrail writes `eventTime`.
pub fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// A length of time as people say it: `45s`, `30m`, `1h 5m`, `2d 3h`.
pub fn duration(length: jiff::SignedDuration) -> String {
    let seconds = length.as_secs();
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

/// Writes milliseconds, whatever the precision of the instant.
pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}

/// Reads any RFC 3339 instant.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let text = Text::deserialize(deserializer)?.0;
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        serde::de::Error::custom(format_args!("{shown:?} is not an RFC 3339 time"))
    })
}

/// The same for an instant that may be absent.
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

    /// Reads any RFC 3339 instant or null.
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
    fn instants_are_written_to_the_millisecond_in_utc() {
        let at: Timestamp = "2026-08-20T12:31:07.021638+02:00".parse().expect("a time");
        assert_eq!(millis(at), "2026-08-20T10:31:07.021Z");
        assert_eq!(seconds(at), "2026-08-20T10:31:07Z");
        assert_eq!(millis("2026-08-20T10:31:07Z".parse().expect("a time")), "2026-08-20T10:31:07.000Z");
    }

    #[test]
    fn lengths_read_as_people_say_them() {
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
