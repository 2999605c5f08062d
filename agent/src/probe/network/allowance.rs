//! Finds exceeded network allowances of the instance, from the counters of ENA interfaces.
//!
//! The counters accumulate since the driver started, so a single reading is not enough: their growth within ten
//! minutes is compared with a limit.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::not_checkable;
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::{ethtool, netlink::route},
};

const REASONS: &[&str] =
    &["BandwidthInExceeded", "BandwidthOutExceeded", "ConntrackExceeded", "LinkLocalExceeded", "PPSExceeded"];
/// ENA's counter names, in the order of [`REASONS`].
const COUNTERS: [&str; 5] = [
    "bw_in_allowance_exceeded",
    "bw_out_allowance_exceeded",
    "conntrack_allowance_exceeded",
    "linklocal_allowance_exceeded",
    "pps_allowance_exceeded",
];
/// The growth of each counter that is tolerated within the window: allowances permit short bursts.
const LIMITS: [u64; 5] = [180, 100, 100, 100, 320];
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
const INTERVAL: Duration = Duration::from_secs(60);
/// Growth within this time of an entry is added to that entry.
const GRAIN: SignedDuration = SignedDuration::from_secs(30);
const DRIVER: &str = "ena";

/// One reading of an interface: each counter, if the driver has it.
type AllowanceReading = [Option<u64>; COUNTERS.len()];

pub(super) struct Allowances {
    root: PathBuf,
    interfaces: InterfaceHistories,
    latch: ConditionLatch,
}

/// The counters' history of each interface.
#[derive(Debug, Default)]
struct InterfaceHistories(BTreeMap<String, InterfaceHistory>);

#[derive(Debug)]
struct InterfaceHistory {
    since: Timestamp,
    last: Timestamp,
    counters: [CounterGrowth; COUNTERS.len()],
}

/// The growth of one counter over time.
#[derive(Debug, Default)]
struct CounterGrowth {
    value: Option<u64>,
    growth: VecDeque<(Timestamp, u64)>,
}

impl CounterGrowth {
    fn update(&mut self, value: Option<u64>, now: Timestamp) {
        // A counter that decreased was reset with its driver; its growth before the reset is unknown.
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

impl InterfaceHistory {
    fn new(reading: AllowanceReading, now: Timestamp) -> Self {
        let counters = reading.map(|value| CounterGrowth { value, growth: VecDeque::new() });
        Self { since: now, last: now, counters }
    }

    fn update(&mut self, reading: AllowanceReading, now: Timestamp) {
        let passed = now.duration_since(self.last);
        // The time of the growth is unknown if the clock was set, or if there was no reading for a whole window.
        if passed.is_negative() || passed > WINDOW {
            *self = Self::new(reading, now);
            return;
        }
        self.last = now;
        for (counter, value) in self.counters.iter_mut().zip(reading) {
            counter.update(value, now);
        }
    }
}

/// How much of the window the readings cover.
#[derive(Debug, PartialEq, Eq)]
enum Coverage {
    /// The first reading, which only sets the start values.
    FirstReading,
    /// Some interface has less than a whole window of readings: problems are raised, and nothing is cleared.
    Partial(Vec<Evaluation>),
    /// Every interface has a whole window of readings.
    Complete(Vec<Evaluation>),
}

impl InterfaceHistories {
    fn update(&mut self, readings: Vec<(String, AllowanceReading)>, now: Timestamp) -> Coverage {
        self.0.retain(|name, _| readings.iter().any(|(read, _)| read == name));
        let known = !self.0.is_empty();
        for (name, reading) in readings {
            match self.0.get_mut(&name) {
                Some(history) => history.update(reading, now),
                None => {
                    self.0.insert(name, InterfaceHistory::new(reading, now));
                }
            }
        }
        if !known {
            return Coverage::FirstReading;
        }
        let mut evaluated = Vec::new();
        for (name, history) in &self.0 {
            for (index, counter) in history.counters.iter().enumerate() {
                let (grown, limit) = (counter.grown(), LIMITS[index]);
                if grown > limit {
                    let message = format!(
                        "{name}: {} grew by {grown} within 10 min, more than {limit}",
                        COUNTERS[index]
                    );
                    evaluated.push(Evaluation::unhealthy(REASONS[index], message).about(name));
                }
            }
        }
        if self.0.values().any(|history| now.duration_since(history.since) < WINDOW) {
            return Coverage::Partial(evaluated);
        }
        evaluated.extend(REASONS.iter().map(|reason| Evaluation::healthy(reason)));
        Coverage::Complete(evaluated)
    }
}

impl Allowances {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            interfaces: InterfaceHistories::default(),
            latch: ConditionLatch::default(),
        }
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let links = route::links().map_err(|error| not_checkable(error.clause()))?;
        // A node has a veth for each pod; only a hardware interface can have the driver.
        let hardware = links.into_iter().filter(|link| link.kind.is_empty() && !link.loopback);
        let mut readings = Vec::new();
        for link in hardware.filter(|link| self.has_driver(&link.name)) {
            let reading = ethtool::counters(&link.name, COUNTERS).map_err(|error| {
                not_checkable(format!("the counters of {} cannot be read: {error}", link.name))
            })?;
            readings.push((link.name, reading));
        }
        if readings.is_empty() {
            return Err(not_checkable("no interface has the driver ena"));
        }
        match self.interfaces.update(readings, now) {
            Coverage::FirstReading => {
                Err(not_checkable("the first reading of the counters only sets the start values"))
            }
            Coverage::Partial(evaluated) => Ok(self.latch.add(evaluated, now)),
            Coverage::Complete(evaluated) => Ok(self.latch.update(evaluated, now)),
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

    /// (unhealthy, complete) after these readings of one interface's first counter, by minute.
    fn unhealthy_after(readings: &[(i64, u64)]) -> (bool, bool) {
        let mut interfaces = InterfaceHistories::default();
        let mut last = Coverage::FirstReading;
        for (minute, value) in readings {
            let reading = [Some(*value), Some(7), None, Some(0), Some(0)];
            last = interfaces.update(vec![("eth0".to_owned(), reading)], at(*minute));
        }
        match last {
            Coverage::FirstReading => (false, false),
            Coverage::Partial(evaluated) => (evaluated.iter().any(Evaluation::is_unhealthy), false),
            Coverage::Complete(evaluated) => (evaluated.iter().any(Evaluation::is_unhealthy), true),
        }
    }

    #[test]
    fn more_than_the_limit_within_ten_minutes_is_unhealthy() {
        for (readings, expected, why) in [
            (&[(0, 1_000_000)][..], (false, false), "the start value"),
            (&[(0, 1_000_000), (1, 1_000_180)], (false, false), "just the limit"),
            (&[(0, 1_000_000), (1, 1_000_181)], (true, false), "above it, at once"),
            (&[(0, 0), (1, 100), (9, 181)], (true, false), "in two steps"),
            (&[(0, 0), (1, 100), (6, 100), (11, 181)], (false, true), "the first step is ten minutes old"),
            (&[(0, 0), (1, 500), (6, 500), (11, 500)], (false, true), "quiet again"),
            (&[(0, 5_000), (1, 100), (2, 200)], (false, false), "the driver was reset"),
            (&[(0, 5_000), (1, 100), (2, 281)], (true, false), "and grew since"),
            (&[(0, 0), (11, 5_000)], (false, false), "no reading for a whole window"),
            (&[(5, 0), (1, 5_000)], (false, false), "the clock was set back"),
            (&[(0, 0), (1, u64::MAX), (2, 0), (3, u64::MAX)], (true, false), "as much as there can be"),
        ] {
            assert_eq!(unhealthy_after(readings), expected, "{why}");
        }
    }

    #[test]
    fn each_counter_has_its_reason_and_its_limit() {
        for (index, reason) in REASONS.iter().enumerate() {
            let mut interfaces = InterfaceHistories::default();
            let mut update = |value, minute| {
                let mut reading = [Some(3); COUNTERS.len()];
                reading[index] = Some(value);
                interfaces.update(vec![("eth0".to_owned(), reading)], at(minute))
            };
            assert_eq!(update(3, 0), Coverage::FirstReading);
            assert_eq!(update(3 + LIMITS[index], 1), Coverage::Partial(Vec::new()), "{reason}");
            let Coverage::Partial(evaluated) = update(4 + LIMITS[index], 2) else { panic!("a whole window") };
            let mut latch = ConditionLatch::default();
            let changes = latch.add(evaluated, at(2));
            assert!(
                matches!(&changes[..], [FindingChange::Raised(finding)] if finding.reason == *reason
                    && finding.subject.as_deref() == Some("eth0")
                    && finding.message.contains(COUNTERS[index])),
                "{changes:?}"
            );
        }
    }

    #[test]
    fn an_interface_that_was_just_attached_clears_nothing_and_one_that_is_gone_does() {
        let mut interfaces = InterfaceHistories::default();
        let quiet = |name: &str| (name.to_owned(), [Some(0); COUNTERS.len()]);
        for minute in 0..=10 {
            interfaces.update(vec![quiet("eth0")], at(minute));
        }
        assert!(matches!(interfaces.update(vec![quiet("eth0")], at(11)), Coverage::Complete(_)));
        assert!(matches!(
            interfaces.update(vec![quiet("eth0"), quiet("eth1")], at(12)),
            Coverage::Partial(_)
        ));
        assert!(matches!(interfaces.update(vec![quiet("eth0")], at(13)), Coverage::Complete(_)));
        assert_eq!(interfaces.update(vec![quiet("eth2")], at(14)), Coverage::FirstReading);
    }

    #[test]
    fn readings_a_second_apart_need_no_more_memory_than_those_a_minute_apart() {
        let mut counter = CounterGrowth { value: Some(0), growth: VecDeque::new() };
        for second in 1..=1_200 {
            let now = Timestamp::from_second(1_000_000 + second).expect("a time");
            counter.update(Some(second as u64), now);
        }
        assert!(counter.growth.len() <= 21, "{}", counter.growth.len());
        assert!((570..=600).contains(&counter.grown()), "{}", counter.grown());
    }

    #[test]
    fn the_driver_is_identified_by_its_sysfs_link() {
        let root = tempfile::tempdir().expect("a directory");
        for (interface, driver) in [("eth0", "ena"), ("eth1", "virtio_net"), ("eth2", "xena")] {
            let device = root.path().join("sys/class/net").join(interface).join("device");
            fs::create_dir_all(&device).expect("a directory");
            symlink(format!("../../../../bus/pci/drivers/{driver}"), device.join("driver")).expect("a link");
        }
        let probe = Allowances::new(root.path());
        let names = ["eth0", "eth1", "eth2", "lo", "../eth0"];
        assert_eq!(names.map(|name| probe.has_driver(name)), [true, false, false, false, false]);
    }
}
