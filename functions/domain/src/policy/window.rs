//! Maintenance windows: hours of the day, on some days, in a time zone.

use jiff::{
    Timestamp, ToSpan, ZonedDateTime,
    civil::{Time, Weekday},
    tz::TimeZone,
};
use serde::{Deserialize, Serialize};

/// A daily or weekly maintenance window. An end at or before the start is on the next day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct MaintenanceWindow {
    days: Vec<Weekday>,
    start: Time,
    end: Time,
    time_zone: TimeZone,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    /// The days on which it opens: Mon, Tue, Wed, Thu, Fri, Sat, Sun. Default: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    days: Vec<String>,
    /// The opening time, like 22:30.
    start: String,
    /// The closing time. If it is not after the opening time: on the next day.
    end: String,
    /// The IANA time zone, like Europe/Berlin. Default: UTC.
    #[serde(default = "utc")]
    time_zone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];

impl TryFrom<Wire> for MaintenanceWindow {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let time = |field: &str, text: &str| {
            Time::strptime("%H:%M", text).map_err(|_| format!("{field}: {text:?} is not a time like 22:30"))
        };
        let day = |text: &String| {
            DAYS.iter()
                .find(|(name, _)| name == text)
                .map(|(_, day)| *day)
                .ok_or_else(|| format!("days: {text:?} is not one of Mon, Tue, Wed, Thu, Fri, Sat, Sun"))
        };
        Ok(Self {
            days: wire.days.iter().map(day).collect::<Result<_, _>>()?,
            start: time("start", &wire.start)?,
            end: time("end", &wire.end)?,
            time_zone: TimeZone::get(&wire.time_zone)
                .map_err(|_| format!("timeZone: {:?} is not a zone like Europe/Berlin", wire.time_zone))?,
        })
    }
}

impl From<MaintenanceWindow> for Wire {
    fn from(window: MaintenanceWindow) -> Self {
        let name =
            |day: &Weekday| DAYS.iter().find(|(_, known)| known == day).map(|(name, _)| (*name).to_owned());
        Self {
            days: window.days.iter().filter_map(name).collect(),
            start: window.start.strftime("%H:%M").to_string(),
            end: window.end.strftime("%H:%M").to_string(),
            time_zone: window.time_zone.iana_name().unwrap_or("UTC").to_owned(),
        }
    }
}

impl MaintenanceWindow {
    /// Whether the window is open.
    pub fn contains(&self, now: Timestamp) -> bool {
        let local = now.to_zoned_datetime(self.time_zone.clone());
        // A window that runs past midnight may have opened yesterday.
        [0, -1]
            .into_iter()
            .filter_map(|days| self.opening(&local, days))
            .any(|(opens, closes)| (opens..closes).contains(&now))
    }

    /// When it opens next, at `now` or later. None if it does not open within eight days.
    pub fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        let local = now.to_zoned_datetime(self.time_zone.clone());
        (0..=8)
            .filter_map(|days| self.opening(&local, days))
            .map(|(opens, _)| opens)
            .find(|opens| *opens >= now)
    }

    /// When the window that starts `days` days from `local` opens and closes. None if none starts on that day.
    fn opening(&self, local: &ZonedDateTime, days: i64) -> Option<(Timestamp, Timestamp)> {
        let day = local.date().checked_add(days.days()).ok()?;
        if !self.days.is_empty() && !self.days.contains(&day.weekday()) {
            return None;
        }
        let last_day = if self.end <= self.start { day.tomorrow().ok()? } else { day };
        let timestamp = |day: jiff::civil::Date, time: Time| {
            day.to_datetime(time).to_zoned_datetime(self.time_zone.clone()).map(|at| at.timestamp()).ok()
        };
        Some((timestamp(day, self.start)?, timestamp(last_day, self.end)?))
    }
}

/// When the first of the windows opens, at `now` or later.
pub fn next_opening(windows: &[MaintenanceWindow], now: Timestamp) -> Option<Timestamp> {
    windows.iter().filter_map(|window| window.next_opening(now)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(json: &str) -> MaintenanceWindow {
        serde_json::from_str(json).expect("a window")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_it_opens_on() {
        // 2026-08-21 is a Friday.
        let window = window(r#"{"days":["Fri"],"start":"22:00","end":"04:00","timeZone":"Europe/Berlin"}"#);
        assert!(!window.contains(at("2026-08-21T19:59:59Z")));
        assert!(window.contains(at("2026-08-21T20:00:00Z")));
        assert!(window.contains(at("2026-08-22T01:59:59Z")));
        assert!(!window.contains(at("2026-08-22T02:00:00Z")));
        assert!(!window.contains(at("2026-08-20T23:00:00Z")));
        assert_eq!(window.next_opening(at("2026-08-22T02:00:00Z")), Some(at("2026-08-28T20:00:00Z")));
    }

    #[test]
    fn a_window_keeps_local_hours_when_the_clocks_change() {
        let window = window(r#"{"start":"09:00","end":"10:00","timeZone":"Europe/Berlin"}"#);
        assert!(window.contains(at("2026-10-24T07:30:00Z")));
        assert!(window.contains(at("2026-10-26T08:30:00Z")));
        assert!(!window.contains(at("2026-10-26T07:30:00Z")));
    }

    #[test]
    fn an_invalid_window_is_refused_with_the_name_of_the_field() {
        for (json, expected) in [
            (r#"{"start":"25:00","end":"04:00"}"#, "start: \"25:00\""),
            (r#"{"start":"22:00","end":"4"}"#, "end: \"4\""),
            (r#"{"start":"22:00","end":"04:00","timeZone":"Mars/Olympus"}"#, "timeZone: \"Mars/Olympus\""),
            (r#"{"days":["Friday"],"start":"22:00","end":"04:00"}"#, "days: \"Friday\""),
        ] {
            let error = serde_json::from_str::<MaintenanceWindow>(json).expect_err(json).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
