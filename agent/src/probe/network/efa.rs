//! Finds EFA devices whose error counters grow too fast.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::not_checkable;
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::host,
};

const ERRORS: &str = "EFAErrorMetric";
const DEVICES: &str = "/sys/class/infiniband";
const AMAZON: &str = "0x1d0f";
/// The common prefix of all generations' device IDs.
const EFA: &str = "0xefa";
const INTERVAL: Duration = Duration::from_secs(60);

/// The maximum growth of each counter a second. A busy network always has some retransmissions.
const LIMITS: [(&str, f64); 5] = [
    ("impaired_remote_conn_events", 100.0),
    ("retrans_bytes", 1_000_000.0),
    ("retrans_pkts", 1_000.0),
    ("retrans_timeout_events", 100.0),
    ("unresponsive_remote_events", 100.0),
];

/// One reading of a port: each counter, if the driver has it.
type EfaReading = [Option<u64>; LIMITS.len()];

pub(super) struct Efa {
    root: PathBuf,
    /// The last reading of each port, with its time.
    last: BTreeMap<String, (Timestamp, EfaReading)>,
    latch: ConditionLatch,
}

impl Efa {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), last: BTreeMap::new(), latch: ConditionLatch::default() }
    }

    /// The counters of each port of each device, by `device/port`.
    fn readings(&self) -> io::Result<BTreeMap<String, EfaReading>> {
        let is = |device: &str, file: &str, start: &str| {
            host::text(&self.root, &format!("{DEVICES}/{device}/device/{file}"), 64)
                .is_ok_and(|id| id.trim().to_ascii_lowercase().starts_with(start))
        };
        let mut readings = BTreeMap::new();
        for device in host::names(&self.root, DEVICES)? {
            if !is(&device, "vendor", AMAZON) || !is(&device, "device", EFA) {
                continue;
            }
            let ports = format!("{DEVICES}/{device}/ports");
            for port in host::names(&self.root, &ports)? {
                let reading = LIMITS.map(|(counter, _)| {
                    let path = format!("{ports}/{port}/hw_counters/{counter}");
                    host::text(&self.root, &path, 64).ok()?.trim().parse().ok()
                });
                readings.insert(format!("{device}/{port}"), reading);
            }
        }
        Ok(readings)
    }
}

/// The problem of a port, from two readings.
fn evaluate(
    (then, before): &(Timestamp, EfaReading),
    (now, after): &(Timestamp, EfaReading),
) -> Result<Option<String>, Incomparable> {
    let seconds = now.duration_since(*then).as_secs_f64();
    if seconds <= 0.0 {
        return Err(Incomparable);
    }
    let mut problems = Vec::new();
    for (index, (counter, limit)) in LIMITS.iter().enumerate() {
        let (Some(before), Some(after)) = (before[index], after[index]) else { continue };
        // The counter was reset with its driver.
        let grown = after.checked_sub(before).ok_or(Incomparable)?;
        let rate = grown as f64 / seconds;
        if rate > *limit {
            problems.push(format!("{counter} grows by {rate:.0} a second, more than {limit}"));
        }
    }
    Ok((!problems.is_empty()).then(|| problems.join(", ")))
}

/// The readings cannot be compared: the clock was set, or the driver restarted.
#[derive(Debug, PartialEq, Eq)]
struct Incomparable;

impl Probe for Efa {
    fn name(&self) -> &'static str {
        "efa"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[ERRORS]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let readings = match self.readings() {
            Ok(readings) if !readings.is_empty() => readings,
            Ok(_) => return Err(not_checkable("this machine has no EFA device")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(not_checkable("this machine has no EFA device"));
            }
            Err(error) => return Err(not_checkable(format!("{DEVICES} cannot be read: {error}"))),
        };
        let first = self.last.is_empty();
        let mut evaluated = Vec::new();
        let mut complete = true;
        let mut last = BTreeMap::new();
        for (port, reading) in readings {
            let reading = (now, reading);
            match self.last.get(&port).map(|before| evaluate(before, &reading)) {
                Some(Ok(problems)) => {
                    if let Some(problems) = problems {
                        evaluated
                            .push(Evaluation::unhealthy(ERRORS, format!("{port}: {problems}")).about(&port));
                    }
                }
                Some(Err(Incomparable)) | None => complete = false,
            }
            last.insert(port, reading);
        }
        self.last = last;
        if first {
            return Err(not_checkable("the first reading of the counters only sets the start values"));
        }
        if !complete {
            return Ok(self.latch.add(evaluated, now));
        }
        evaluated.push(Evaluation::healthy(ERRORS));
        Ok(self.latch.update(evaluated, now))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_counter_that_grows_faster_than_its_limit_is_unhealthy() {
        for (index, (counter, limit)) in LIMITS.iter().enumerate() {
            let of = |value: u64| {
                let mut reading = [Some(5_000_000_000); LIMITS.len()];
                reading[index] = Some(value);
                reading
            };
            let within = 10 * *limit as u64;
            let evaluate =
                |grown| evaluate(&(at(0), of(7)), &(at(10), of(7 + grown))).expect("an evaluation");
            assert_eq!(evaluate(within), None, "{counter}");
            assert!(evaluate(within + 1).is_some_and(|problems| problems.starts_with(counter)), "{counter}");
        }
    }

    #[test]
    fn readings_that_can_not_be_compared_are_not() {
        let (low, high) = ([Some(1); LIMITS.len()], [Some(u64::MAX); LIMITS.len()]);
        assert_eq!(evaluate(&(at(0), high), &(at(10), low)), Err(Incomparable), "the driver was reset");
        assert_eq!(evaluate(&(at(10), low), &(at(10), high)), Err(Incomparable), "no time passed");
        assert_eq!(evaluate(&(at(10), low), &(at(0), high)), Err(Incomparable), "the clock was set back");
        let none = [None; LIMITS.len()];
        assert_eq!(evaluate(&(at(0), none), &(at(10), high)), Ok(None), "a driver without these counters");
    }

    struct EfaNode(tempfile::TempDir);

    impl EfaNode {
        fn new() -> Self {
            let node = Self(tempfile::tempdir().expect("a directory"));
            fs::create_dir_all(node.0.path().join("sys/class/infiniband")).expect("a directory");
            node
        }

        fn attach(&self, name: &str, vendor: &str, device: &str) {
            self.write(name, "device/vendor", vendor);
            self.write(name, "device/device", device);
            self.count(name, "0");
        }

        fn count(&self, name: &str, value: &str) {
            self.write(name, "ports/1/hw_counters/retrans_timeout_events", value);
        }

        fn write(&self, name: &str, path: &str, text: &str) {
            let path = self.0.path().join("sys/class/infiniband").join(name).join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, format!("{text}\n")).expect("a file");
        }
    }

    #[test]
    fn a_port_with_timeouts_is_reported_until_they_stop() {
        let node = EfaNode::new();
        node.attach("rdmap0s6", "0x1d0f", "0xefa1");
        node.attach("mlx5_0", "0x15b3", "0x101e");
        node.attach("other", "0x1d0f", "0xec20");
        let mut probe = Efa::new(node.0.path());
        assert!(probe.read(at(0)).is_err(), "the start value");
        for name in ["rdmap0s6", "mlx5_0", "other"] {
            node.count(name, "6001");
        }
        let changes = probe.read(at(60)).expect("a reading");
        assert!(
            matches!(&changes[..], [FindingChange::Raised(finding)]
                if finding.subject.as_deref() == Some("rdmap0s6/1") && finding.reason == ERRORS),
            "{changes:?}"
        );
        node.count("rdmap0s6", "0");
        assert_eq!(probe.read(at(120)).expect("a reading"), [], "the driver was reset");
        let changes = probe.read(at(180)).expect("a reading");
        assert!(matches!(&changes[..], [FindingChange::Cleared { subject: None, .. }]), "{changes:?}");
        node.count("rdmap0s6", "many");
        assert!(probe.read(at(240)).is_ok_and(|changes| changes.len() == 1));
    }

    #[test]
    fn a_machine_without_efa_can_not_be_checked() {
        let node = EfaNode::new();
        assert!(Efa::new(node.0.path()).read(at(0)).is_err());
        node.attach("mlx5_0", "0x15b3", "0xefa0");
        assert!(Efa::new(node.0.path()).read(at(0)).is_err());
        assert!(Efa::new(&node.0.path().join("none")).read(at(0)).is_err());
    }
}
