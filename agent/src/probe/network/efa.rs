//! Turns the error counters of EFA devices into those that grow too fast.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::not_checkable;
use crate::{
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::host,
};

const ERRORS: &str = "EFAErrorMetric";
const DEVICES: &str = "/sys/class/infiniband";
const AMAZON: &str = "0x1d0f";
/// Every generation's device id begins so.
const EFA: &str = "0xefa";
const INTERVAL: Duration = Duration::from_secs(60);

/// How much each may grow a second. Some retransmissions are part of every busy network.
const LIMITS: [(&str, f64); 5] = [
    ("impaired_remote_conn_events", 100.0),
    ("retrans_bytes", 1_000_000.0),
    ("retrans_pkts", 1_000.0),
    ("retrans_timeout_events", 100.0),
    ("unresponsive_remote_events", 100.0),
];

/// One reading of a port: each counter, if its driver has it.
type Reading = [Option<u64>; LIMITS.len()];

pub(super) struct Efa {
    root: PathBuf,
    /// What each port said last, and when.
    last: BTreeMap<String, (Timestamp, Reading)>,
    standing: Standing,
}

impl Efa {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), last: BTreeMap::new(), standing: Standing::default() }
    }

    /// The counters of each port of each device, by `device/port`.
    fn readings(&self) -> io::Result<BTreeMap<String, Reading>> {
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

/// What is wrong with a port by two readings of it; an error if they can't be compared.
fn judge(
    (then, before): &(Timestamp, Reading),
    (now, after): &(Timestamp, Reading),
) -> Result<Option<String>, Incomparable> {
    let seconds = now.duration_since(*then).as_secs_f64();
    if seconds <= 0.0 {
        return Err(Incomparable);
    }
    let mut wrong = Vec::new();
    for (place, (counter, limit)) in LIMITS.iter().enumerate() {
        let (Some(before), Some(after)) = (before[place], after[place]) else { continue };
        // It began anew with its driver.
        let grown = after.checked_sub(before).ok_or(Incomparable)?;
        let rate = grown as f64 / seconds;
        if rate > *limit {
            wrong.push(format!("{counter} grows by {rate:.0} a second, more than {limit}"));
        }
    }
    Ok((!wrong.is_empty()).then(|| wrong.join(", ")))
}

/// The clock was set, or the driver started anew.
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let readings = match self.readings() {
            Ok(readings) if !readings.is_empty() => readings,
            Ok(_) => return Err(not_checkable("this machine has no EFA device")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(not_checkable("this machine has no EFA device"));
            }
            Err(error) => return Err(not_checkable(format!("{DEVICES} can't be read: {error}"))),
        };
        let first = self.last.is_empty();
        let mut judged = Vec::new();
        let mut whole = true;
        let mut last = BTreeMap::new();
        for (port, reading) in readings {
            let reading = (now, reading);
            match self.last.get(&port).map(|before| judge(before, &reading)) {
                Some(Ok(wrong)) => {
                    if let Some(wrong) = wrong {
                        judged.push(Judged::wrong(ERRORS, format!("{port}: {wrong}")).about(&port));
                    }
                }
                Some(Err(Incomparable)) | None => whole = false,
            }
            last.insert(port, reading);
        }
        self.last = last;
        if first {
            return Err(not_checkable("the first reading of the counters says nothing yet"));
        }
        if !whole {
            return Ok(self.standing.add(judged, now));
        }
        judged.push(Judged::well(ERRORS));
        Ok(self.standing.update(judged, now))
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
    fn what_grows_faster_than_its_limit_is_wrong() {
        for (place, (counter, limit)) in LIMITS.iter().enumerate() {
            let of = |value: u64| {
                let mut reading = [Some(5_000_000_000); LIMITS.len()];
                reading[place] = Some(value);
                reading
            };
            let within = 10 * *limit as u64;
            let judge = |grown| judge(&(at(0), of(7)), &(at(10), of(7 + grown))).expect("a judgement");
            assert_eq!(judge(within), None, "{counter}");
            assert!(judge(within + 1).is_some_and(|wrong| wrong.starts_with(counter)), "{counter}");
        }
    }

    #[test]
    fn readings_that_can_not_be_compared_are_not() {
        let (low, high) = ([Some(1); LIMITS.len()], [Some(u64::MAX); LIMITS.len()]);
        assert_eq!(judge(&(at(0), high), &(at(10), low)), Err(Incomparable), "the driver began anew");
        assert_eq!(judge(&(at(10), low), &(at(10), high)), Err(Incomparable), "no time passed");
        assert_eq!(judge(&(at(10), low), &(at(0), high)), Err(Incomparable), "the clock was set back");
        let none = [None; LIMITS.len()];
        assert_eq!(judge(&(at(0), none), &(at(10), high)), Ok(None), "a driver without these counters");
    }

    struct Node(tempfile::TempDir);

    impl Node {
        fn new() -> Self {
            let node = Self(tempfile::tempdir().expect("a folder"));
            fs::create_dir_all(node.0.path().join("sys/class/infiniband")).expect("a folder");
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
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, format!("{text}\n")).expect("a file");
        }
    }

    #[test]
    fn a_port_that_times_out_is_told_of_until_it_stops() {
        let node = Node::new();
        node.attach("rdmap0s6", "0x1d0f", "0xefa1");
        node.attach("mlx5_0", "0x15b3", "0x101e");
        node.attach("other", "0x1d0f", "0xec20");
        let mut probe = Efa::new(node.0.path());
        assert!(probe.read(at(0)).is_err(), "the base line");
        for name in ["rdmap0s6", "mlx5_0", "other"] {
            node.count(name, "6001");
        }
        let changes = probe.read(at(60)).expect("a reading");
        assert!(
            matches!(&changes[..], [Change::Raised(finding)]
                if finding.subject.as_deref() == Some("rdmap0s6/1") && finding.reason == ERRORS),
            "{changes:?}"
        );
        node.count("rdmap0s6", "0");
        assert_eq!(probe.read(at(120)).expect("a reading"), [], "the driver began anew");
        let changes = probe.read(at(180)).expect("a reading");
        assert!(matches!(&changes[..], [Change::Cleared { subject: None, .. }]), "{changes:?}");
        node.count("rdmap0s6", "many");
        assert!(probe.read(at(240)).is_ok_and(|changes| changes.len() == 1));
    }

    #[test]
    fn a_machine_without_efa_can_not_be_checked() {
        let node = Node::new();
        assert!(Efa::new(node.0.path()).read(at(0)).is_err());
        node.attach("mlx5_0", "0x15b3", "0xefa0");
        assert!(Efa::new(node.0.path()).read(at(0)).is_err());
        assert!(Efa::new(&node.0.path().join("none")).read(at(0)).is_err());
    }
}
