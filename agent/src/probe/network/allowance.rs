//! Turns the counters of ENA interfaces into the allowances of the instance that it exceeds.
//!
//! The counters have counted since the driver started, so that a reading alone says nothing: what counts is how much
//! they grew in ten minutes.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::not_checkable;
use crate::{
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::{ethtool, netlink::route},
};

const REASONS: &[&str] =
    &["BandwidthInExceeded", "BandwidthOutExceeded", "ConntrackExceeded", "LinkLocalExceeded", "PPSExceeded"];
/// By the names that ENA gives them, in the order of the reasons.
const COUNTERS: [&str; 5] = [
    "bw_in_allowance_exceeded",
    "bw_out_allowance_exceeded",
    "conntrack_allowance_exceeded",
    "linklocal_allowance_exceeded",
    "pps_allowance_exceeded",
];
/// How much each may grow within the window: a burst now and then is what an allowance is for.
const LIMITS: [u64; 5] = [180, 100, 100, 100, 320];
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
const INTERVAL: Duration = Duration::from_secs(60);
/// Readings that are closer together are put together.
const GRAIN: SignedDuration = SignedDuration::from_secs(30);
const DRIVER: &str = "ena";

/// One reading of an interface: each counter, if its driver has it.
type Reading = [Option<u64>; COUNTERS.len()];

pub(super) struct Allowances {
    root: PathBuf,
    interfaces: Interfaces,
    standing: Standing,
}

/// What is known of each interface.
#[derive(Debug, Default)]
struct Interfaces(BTreeMap<String, History>);

#[derive(Debug)]
struct History {
    since: Timestamp,
    last: Timestamp,
    counters: [Counter; COUNTERS.len()],
}

/// How much a counter grew, and when.
#[derive(Debug, Default)]
struct Counter {
    value: Option<u64>,
    growth: VecDeque<(Timestamp, u64)>,
}

impl Counter {
    fn take(&mut self, value: Option<u64>, now: Timestamp) {
        // One that went back began anew with its driver: what it lost on the way nobody knows.
        let grown = match (self.value, value) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => 0,
        };
        self.value = value;
        self.growth.retain(|(at, _)| now.duration_since(*at) < WINDOW);
        if grown > 0 {
            match self.growth.back_mut() {
                Some((at, amount)) if now.duration_since(*at) < GRAIN => {
                    *amount = amount.saturating_add(grown);
                }
                _ => self.growth.push_back((now, grown)),
            }
        }
    }

    fn grown(&self) -> u64 {
        self.growth.iter().fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
    }
}

impl History {
    fn new(reading: Reading, now: Timestamp) -> Self {
        let counters = reading.map(|value| Counter { value, growth: VecDeque::new() });
        Self { since: now, last: now, counters }
    }

    fn take(&mut self, reading: Reading, now: Timestamp) {
        let passed = now.duration_since(self.last);
        // Nobody knows when it grew if the clock was set, or if nobody looked for as long as the window.
        if passed.is_negative() || passed > WINDOW {
            *self = Self::new(reading, now);
            return;
        }
        self.last = now;
        for (counter, value) in self.counters.iter_mut().zip(reading) {
            counter.take(value, now);
        }
    }
}

/// What one reading says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Only the base lines were set.
    First,
    /// Some interface was not watched for a whole window yet: what is wrong is, and nothing is known to be well.
    Part(Vec<Judged>),
    /// All were.
    Whole(Vec<Judged>),
}

impl Interfaces {
    fn take(&mut self, readings: Vec<(String, Reading)>, now: Timestamp) -> Verdict {
        self.0.retain(|name, _| readings.iter().any(|(read, _)| read == name));
        let known = !self.0.is_empty();
        for (name, reading) in readings {
            match self.0.get_mut(&name) {
                Some(history) => history.take(reading, now),
                None => {
                    self.0.insert(name, History::new(reading, now));
                }
            }
        }
        if !known {
            return Verdict::First;
        }
        let mut judged = Vec::new();
        for (name, history) in &self.0 {
            for (place, counter) in history.counters.iter().enumerate() {
                let (grown, limit) = (counter.grown(), LIMITS[place]);
                if grown > limit {
                    let message = format!(
                        "{name}: {} grew by {grown} within 10 min, more than {limit}",
                        COUNTERS[place]
                    );
                    judged.push(Judged::wrong(REASONS[place], message).about(name));
                }
            }
        }
        if self.0.values().any(|history| now.duration_since(history.since) < WINDOW) {
            return Verdict::Part(judged);
        }
        judged.extend(REASONS.iter().map(|reason| Judged::well(reason)));
        Verdict::Whole(judged)
    }
}

impl Allowances {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), interfaces: Interfaces::default(), standing: Standing::default() }
    }

    fn has_driver(&self, interface: &str) -> bool {
        let link = self.root.join("sys/class/net").join(interface).join("device/driver");
        fs::read_link(link).is_ok_and(|driver| driver.file_name().is_some_and(|name| name == DRIVER))
    }
}

impl Probe for Allowances {
    fn name(&self) -> &'static str {
        "ena-allowances"
    }

    fn reasons(&self) -> &'static [&'static str] {
        REASONS
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let links = route::links().map_err(|error| not_checkable(error.clause()))?;
        // A node has a veth for each pod: only hardware can have the driver.
        let hardware = links.into_iter().filter(|link| link.kind.is_empty() && !link.loopback);
        let mut readings = Vec::new();
        for link in hardware.filter(|link| self.has_driver(&link.name)) {
            let reading = ethtool::counters(&link.name, COUNTERS).map_err(|error| {
                not_checkable(format!("the counters of {} can't be read: {error}", link.name))
            })?;
            readings.push((link.name, reading));
        }
        if readings.is_empty() {
            return Err(not_checkable("no interface has the driver ena"));
        }
        match self.interfaces.take(readings, now) {
            Verdict::First => Err(not_checkable("the first reading of the counters says nothing yet")),
            Verdict::Part(judged) => Ok(self.standing.add(judged, now)),
            Verdict::Whole(judged) => Ok(self.standing.update(judged, now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + 60 * minutes).expect("a time")
    }

    /// What is wrong after these readings of one interface's first counter, by minute.
    fn wrong_after(readings: &[(i64, u64)]) -> (bool, bool) {
        let mut interfaces = Interfaces::default();
        let mut last = Verdict::First;
        for (minute, value) in readings {
            let reading = [Some(*value), Some(7), None, Some(0), Some(0)];
            last = interfaces.take(vec![("eth0".to_owned(), reading)], at(*minute));
        }
        match last {
            Verdict::First => (false, false),
            Verdict::Part(judged) => (judged.iter().any(Judged::is_wrong), false),
            Verdict::Whole(judged) => (judged.iter().any(Judged::is_wrong), true),
        }
    }

    #[test]
    fn more_than_the_limit_within_ten_minutes_is_wrong() {
        for (readings, expected, why) in [
            (&[(0, 1_000_000)][..], (false, false), "the base line"),
            (&[(0, 1_000_000), (1, 1_000_180)], (false, false), "just the limit"),
            (&[(0, 1_000_000), (1, 1_000_181)], (true, false), "above it, at once"),
            (&[(0, 0), (1, 100), (9, 181)], (true, false), "in two steps"),
            (&[(0, 0), (1, 100), (6, 100), (11, 181)], (false, true), "the first step is ten minutes old"),
            (&[(0, 0), (1, 500), (6, 500), (11, 500)], (false, true), "quiet again"),
            (&[(0, 5_000), (1, 100), (2, 200)], (false, false), "the driver began anew"),
            (&[(0, 5_000), (1, 100), (2, 281)], (true, false), "and grew since"),
            (&[(0, 0), (11, 5_000)], (false, false), "nobody looked meanwhile"),
            (&[(5, 0), (1, 5_000)], (false, false), "the clock was set back"),
            (&[(0, 0), (1, u64::MAX), (2, 0), (3, u64::MAX)], (true, false), "as much as there can be"),
        ] {
            assert_eq!(wrong_after(readings), expected, "{why}");
        }
    }

    #[test]
    fn each_counter_has_its_reason_and_its_limit() {
        for (place, reason) in REASONS.iter().enumerate() {
            let mut interfaces = Interfaces::default();
            let mut take = |value, minute| {
                let mut reading = [Some(3); COUNTERS.len()];
                reading[place] = Some(value);
                interfaces.take(vec![("eth0".to_owned(), reading)], at(minute))
            };
            assert_eq!(take(3, 0), Verdict::First);
            assert_eq!(take(3 + LIMITS[place], 1), Verdict::Part(Vec::new()), "{reason}");
            let Verdict::Part(judged) = take(4 + LIMITS[place], 2) else { panic!("a whole window") };
            let mut standing = Standing::default();
            let changes = standing.add(judged, at(2));
            assert!(
                matches!(&changes[..], [Change::Raised(finding)] if finding.reason == *reason
                    && finding.subject.as_deref() == Some("eth0")
                    && finding.message.contains(COUNTERS[place])),
                "{changes:?}"
            );
        }
    }

    #[test]
    fn an_interface_that_was_just_attached_clears_nothing_and_one_that_is_gone_does() {
        let mut interfaces = Interfaces::default();
        let quiet = |name: &str| (name.to_owned(), [Some(0); COUNTERS.len()]);
        for minute in 0..=10 {
            interfaces.take(vec![quiet("eth0")], at(minute));
        }
        assert!(matches!(interfaces.take(vec![quiet("eth0")], at(11)), Verdict::Whole(_)));
        assert!(matches!(interfaces.take(vec![quiet("eth0"), quiet("eth1")], at(12)), Verdict::Part(_)));
        assert!(matches!(interfaces.take(vec![quiet("eth0")], at(13)), Verdict::Whole(_)));
        assert_eq!(interfaces.take(vec![quiet("eth2")], at(14)), Verdict::First);
    }

    #[test]
    fn readings_a_second_apart_take_no_more_room_than_those_a_minute_apart() {
        let mut counter = Counter { value: Some(0), growth: VecDeque::new() };
        for second in 1..=1_200 {
            let now = Timestamp::from_second(1_000_000 + second).expect("a time");
            counter.take(Some(second as u64), now);
        }
        assert!(counter.growth.len() <= 21, "{}", counter.growth.len());
        assert!((570..=600).contains(&counter.grown()), "{}", counter.grown());
    }

    #[test]
    fn the_driver_is_told_by_where_sysfs_links_to() {
        let root = tempfile::tempdir().expect("a folder");
        for (interface, driver) in [("eth0", "ena"), ("eth1", "virtio_net"), ("eth2", "xena")] {
            let device = root.path().join("sys/class/net").join(interface).join("device");
            fs::create_dir_all(&device).expect("a folder");
            symlink(format!("../../../../bus/pci/drivers/{driver}"), device.join("driver")).expect("a link");
        }
        let probe = Allowances::new(root.path());
        let names = ["eth0", "eth1", "eth2", "lo", "../eth0"];
        assert_eq!(names.map(|name| probe.has_driver(name)), [true, false, false, false, false]);
    }
}
