//! Finds memory errors, from the counters of the memory controllers.
//!
//! The kernel logs each error when it happens; the counters survive if those lines are lost
//! (Documentation/admin-guide/RAS in the kernel's tree). They start at zero at boot, and only metal instances have
//! them.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use nodemend_domain::condition::{ConditionType, Severity};

use super::{not_checkable, short};
use crate::{
    finding::{Clears, Debounce, DetectedFinding, FindingChange},
    probe::{NotCheckable, Probe},
};

const BROKEN: &str = "MemoryHardwareError";
const INTERVAL: Duration = Duration::from_secs(60);
const CONTROLLERS: &str = "sys/devices/system/edac/mc";
/// Two sockets have a dozen controllers.
const MAX_CONTROLLERS: usize = 256;

pub(super) struct MemoryErrors {
    root: PathBuf,
    /// The corrected errors of each controller at the last reading.
    corrected: BTreeMap<String, u64>,
}

/// The counters of one controller since boot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MemoryController {
    /// The kernel log's name of the controller, so that a line and a reading have the same subject.
    name: String,
    uncorrected: u64,
    corrected: u64,
}

impl MemoryErrors {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), corrected: BTreeMap::new() }
    }

    fn controllers(&self) -> Result<Vec<MemoryController>, NotCheckable> {
        let entries = fs::read_dir(self.root.join(CONTROLLERS))
            .map_err(|_| not_checkable("this machine has no memory error counters"))?;
        let mut controllers = Vec::new();
        for entry in entries.flatten().take(MAX_CONTROLLERS) {
            let Some(number) =
                entry.file_name().to_str().and_then(|name| name.strip_prefix("mc")?.parse::<u16>().ok())
            else {
                continue;
            };
            let count = |file| short(&entry.path().join(file)).ok()?.trim_ascii().parse().ok();
            if let (Some(uncorrected), Some(corrected)) = (count("ue_count"), count("ce_count")) {
                controllers.push(MemoryController { name: format!("MC{number}"), uncorrected, corrected });
            }
        }
        if controllers.is_empty() {
            return Err(not_checkable("this machine has no memory error counters"));
        }
        Ok(controllers)
    }
}

/// The problem of a controller's memory. One uncorrected error has cost data; corrected errors are an event while
/// they increase.
fn evaluate(controller: &MemoryController, before: Option<u64>) -> Option<(Severity, String)> {
    let MemoryController { name, uncorrected, corrected } = controller;
    if *uncorrected > 0 {
        return Some((
            Severity::Condition,
            format!("{name} counted {uncorrected} uncorrectable memory errors"),
        ));
    }
    let more = corrected.checked_sub(before?)?;
    (more > 0).then(|| {
        (Severity::Event, format!("{name} counted {more} more corrected memory errors, {corrected} in total"))
    })
}

impl Probe for MemoryErrors {
    fn name(&self) -> &'static str {
        "memory-errors"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[BROKEN]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let controllers = self.controllers()?;
        let mut changes = Vec::new();
        for controller in controllers {
            let before = self.corrected.insert(controller.name.clone(), controller.corrected);
            let Some((severity, message)) = evaluate(&controller, before) else { continue };
            changes.push(FindingChange::Raised(DetectedFinding {
                reason: Cow::Borrowed(BROKEN),
                condition: ConditionType::KernelReady,
                severity,
                subject: Some(controller.name),
                message,
                at: now,
                debounce: Debounce::Once,
                // Broken memory does not recover, and the counters may be reset.
                clears: Clears::Boot,
            }));
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{put, tree},
        *,
    };

    fn count(root: &Path, controller: &str, uncorrected: &str, corrected: &str) {
        let directory = format!("{CONTROLLERS}/{controller}");
        put(
            root,
            &[(&format!("{directory}/ue_count"), uncorrected), (&format!("{directory}/ce_count"), corrected)],
        );
    }

    fn read(probe: &mut MemoryErrors) -> Vec<(Severity, String)> {
        let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        changes
            .into_iter()
            .map(|change| match change {
                FindingChange::Raised(finding) if finding.clears == Clears::Boot => {
                    (finding.severity, finding.message)
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn an_uncorrectable_error_is_a_fault_and_growing_corrected_ones_are_an_event() {
        let root = tree(&[]);
        count(root.path(), "mc0", "0\n", "12\n");
        count(root.path(), "mc1", "0\n", "0\n");
        let mut probe = MemoryErrors::new(root.path());
        assert_eq!(read(&mut probe), [], "the first reading only sets the start values");
        assert_eq!(read(&mut probe), []);
        count(root.path(), "mc0", "0\n", "15\n");
        let event = (Severity::Event, "MC0 counted 3 more corrected memory errors, 15 in total".to_owned());
        assert_eq!(read(&mut probe), [event]);
        assert_eq!(read(&mut probe), []);
        count(root.path(), "mc0", "0\n", "0\n");
        assert_eq!(read(&mut probe), [], "the counter was reset");
        count(root.path(), "mc1", "1\n", "0\n");
        let fault = (Severity::Condition, "MC1 counted 1 uncorrectable memory errors".to_owned());
        assert_eq!(read(&mut probe).first(), Some(&fault));
        assert_eq!(
            read(&mut MemoryErrors::new(root.path())),
            [fault],
            "an agent that starts later sees it too"
        );
    }

    #[test]
    fn the_subject_is_that_of_the_kernels_own_line() {
        let root = tree(&[]);
        count(root.path(), "mc0", "1", "0");
        let changes = MemoryErrors::new(root.path()).read(Timestamp::UNIX_EPOCH).expect("a reading");
        assert!(
            matches!(&changes[..], [FindingChange::Raised(finding)] if finding.subject.as_deref() == Some("MC0")),
            "{changes:?}"
        );
    }

    #[test]
    fn a_node_without_counters_is_not_checkable() {
        let root = tree(&[("sys/devices/system/edac/mc/power/control", "auto\n")]);
        assert!(MemoryErrors::new(root.path()).read(Timestamp::UNIX_EPOCH).is_err());
        for (uncorrected, corrected) in [("", "0"), ("0", "none"), ("-1", "0")] {
            count(root.path(), "mc0", uncorrected, corrected);
            assert!(MemoryErrors::new(root.path()).read(Timestamp::UNIX_EPOCH).is_err());
        }
    }
}
