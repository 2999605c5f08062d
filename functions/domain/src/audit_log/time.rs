//! The timestamp formats of CloudTrail, which differ within one event.
//!
//! The envelope is ISO 8601, to the second. Times within `requestParameters` and `responseElements` are Java's
//! US English medium format, in UTC, 12-hour, without a leading zero: `Dec 28, 2024, 2:06:13 PM`. Java before 9
//! wrote no comma after the year, and Java from 20 on writes a narrow no-break space before AM and PM.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

const US_ENGLISH: &str = "%b %-d, %Y, %-I:%M:%S %p";
const US_ENGLISH_BEFORE_JAVA_9: &str = "%b %-d, %Y %-I:%M:%S %p";

/// Formats a timestamp as `Dec 28, 2024, 2:06:13 PM`.
pub(super) fn us_english(at: Timestamp) -> String {
    at.strftime(US_ENGLISH).to_string()
}

/// Parses a timestamp in any format seen in CloudTrail, to the second. None if the text is not a timestamp.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    // All formats have 20 to 40 bytes. This check avoids the parsers for most fields.
    if !(20..=40).contains(&text.len()) {
        return None;
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(whole_second(at));
    }
    let text = text.replace('\u{202f}', " ");
    [US_ENGLISH, US_ENGLISH_BEFORE_JAVA_9]
        .iter()
        .find_map(|format| DateTime::strptime(format, &text).ok())
        .and_then(|civil| TimeZone::UTC.to_timestamp(civil).ok())
}

/// Removes the fraction of a second, which CloudTrail's events do not have.
pub(super) fn whole_second(at: Timestamp) -> Timestamp {
    // Rounding down fails only below the first representable second.
    Timestamp::from_second(at.as_millisecond().div_euclid(1_000)).unwrap_or(at)
}

/// `2024-12-28T14:06:13Z`, as in `eventTime`.
pub(super) mod seconds {
    use jiff::Timestamp;
    use serde::{Deserializer, Serializer};

    use crate::timestamp;

    pub(in crate::audit_log) fn serialize<S: Serializer>(
        at: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&timestamp::seconds(super::whole_second(*at)))
    }

    pub(in crate::audit_log) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        timestamp::deserialize(deserializer).map(super::whole_second)
    }
}

/// `Dec 28, 2024, 2:06:13 PM`, as in `activity.startTime`; any of the known formats is read.
pub(super) mod medium {
    use std::borrow::Cow;

    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::audit_log) fn serialize<S: Serializer>(
        at: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::us_english(super::whole_second(*at)))
    }

    pub(in crate::audit_log) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        let text = Text::deserialize(deserializer)?.0;
        super::parse(&text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            serde::de::Error::custom(format_args!("{shown:?} is not a time as CloudTrail writes it"))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_timestamp_is_parsed_in_every_format() {
        let at: Timestamp = "2024-12-28T14:06:13Z".parse().expect("a time");
        assert_eq!(us_english(at), "Dec 28, 2024, 2:06:13 PM");
        for text in [
            "Dec 28, 2024, 2:06:13 PM",
            "Dec 28, 2024 2:06:13 PM",
            "Dec 28, 2024, 2:06:13\u{202f}PM",
            "2024-12-28T14:06:13Z",
            "2024-12-28T14:06:13.394Z",
            "2024-12-28T15:06:13+01:00",
        ] {
            assert_eq!(parse(text), Some(at), "{text}");
        }
    }

    #[test]
    fn noon_and_midnight_are_twelve() {
        for (iso, text) in [
            ("2026-01-01T00:00:00Z", "Jan 1, 2026, 12:00:00 AM"),
            ("2026-01-01T12:00:00Z", "Jan 1, 2026, 12:00:00 PM"),
            ("2026-01-09T01:02:03Z", "Jan 9, 2026, 1:02:03 AM"),
        ] {
            let at: Timestamp = iso.parse().expect("a time");
            assert_eq!(us_english(at), text);
            assert_eq!(parse(text), Some(at));
        }
    }

    #[test]
    fn other_text_is_not_a_timestamp() {
        for text in [
            "",
            "67365036-5b2d-8de5-5b3d-fd971340ead8",
            "Dec 28, 2024, 14:06:13 PM",
            "Dec 32, 2024, 2:06:13 PM",
            "xDec 28, 2024, 2:06:13 PM",
            "Dec 28, 2024, 2:06:13 PM and more",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        // 1990-01-01 to 2100-01-01.
        #[test]
        fn any_second_survives_both_formats(second in 631_152_000_i64..4_102_444_800) {
            let at = Timestamp::from_second(second).expect("in range");
            prop_assert_eq!(parse(&us_english(at)), Some(at));
            prop_assert_eq!(parse(&crate::timestamp::seconds(at)), Some(at));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            let _ = parse(&text);
        }
    }
}
