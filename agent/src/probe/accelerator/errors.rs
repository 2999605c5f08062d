//! Finds GPUs with a high rate of PCIe errors, from the kernel's counters.
//!
//! The counters are those of PCIe Advanced Error Reporting (`Documentation/ABI/testing/sysfs-bus-pci-devices-aer`).
//! If the firmware handles error reporting itself, they stay zero and this probe finds nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{not_checkable, some_gpus, subject};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::pci,
};

const BUS_ERROR: &str = "NvidiaPCIeError";
const INTERVAL: Duration = Duration::from_secs(60);
/// NVIDIA's DCGM reports more replays a minute than this as a problem.
const REPLAYS_PER_MINUTE: u64 = 8;

/// Counters of errors that cause or report a retransmission. Old kernels use the long names.
const REPLAYS: [&str; 8] = [
    "BadTLP",
    "BadDLLP",
    "Rollover",
    "Timeout",
    "Bad TLP",
    "Bad DLLP",
    "RELAY_NUM Rollover",
    "Replay Timer Timeout",
];
const FATAL: [&str; 1] = ["TOTAL_ERR_FATAL"];

/// The totals of one GPU's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PcieCounts {
    replays: u64,
    fatal: u64,
}

pub(super) struct BusErrors {
    root: PathBuf,
    before: Option<(Timestamp, BTreeMap<String, PcieCounts>)>,
    latch: ConditionLatch,
}

impl BusErrors {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), before: None, latch: ConditionLatch::default() }
    }

    fn counts(&self, address: &str) -> Result<Option<PcieCounts>, NotCheckable> {
        let read = |name: &str, of: &[&str]| match pci::counters(&self.root, address, name) {
            Ok(text) => Ok(text.and_then(|text| sum(&text, of))),
            Err(error) => Err(not_checkable(format!("failed to read {name} of {address}: {error}"))),
        };
        let replays = read("aer_dev_correctable", &REPLAYS)?;
        let fatal = read("aer_dev_fatal", &FATAL)?;
        Ok(replays.map(|replays| PcieCounts { replays, fatal: fatal.unwrap_or(0) }))
    }
}

impl Probe for BusErrors {
    fn name(&self) -> &'static str {
        "nvidia-pcie"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[BUS_ERROR]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let mut counts = BTreeMap::new();
        for gpu in some_gpus(&self.root)? {
            if let Some(count) = self.counts(&gpu.address)? {
                counts.insert(subject(&gpu.address).to_owned(), count);
            }
        }
        if counts.is_empty() {
            return Err(not_checkable("the kernel has no PCIe error counters for these GPUs"));
        }
        let Some((then, before)) = self.before.replace((now, counts.clone())) else {
            return Err(not_checkable("the first reading of the counters only sets the start values"));
        };
        let mut evaluated = vec![Evaluation::healthy(BUS_ERROR)];
        for (gpu, count) in counts {
            let before = before.get(&gpu).copied().unwrap_or(count);
            evaluated.push(
                Evaluation::new(BUS_ERROR, evaluate(before, count, now.duration_since(then))).about(gpu),
            );
        }
        Ok(self.latch.update(evaluated, now))
    }
}

fn evaluate(before: PcieCounts, after: PcieCounts, passed: SignedDuration) -> Option<String> {
    // The counters of a device that was removed and re-added start at zero.
    let fatal = after.fatal.saturating_sub(before.fatal);
    let replays = after.replays.saturating_sub(before.replays);
    let minutes = u64::try_from(passed.as_secs() / 60).unwrap_or(0).max(1);
    if fatal > 0 {
        Some(format!("{fatal} fatal PCIe errors since the last reading"))
    } else if replays > minutes.saturating_mul(REPLAYS_PER_MINUTE) {
        Some(format!(
            "{replays} PCIe replays within {minutes} min; up to {REPLAYS_PER_MINUTE} a minute are normal"
        ))
    } else {
        None
    }
}

/// The sum of these counters; `None` if the text has none of them.
fn sum(text: &str, names: &[&str]) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.trim().rsplit_once(' '))
        .filter(|(name, _)| names.contains(name))
        .filter_map(|(_, count)| count.parse::<u64>().ok())
        .reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::probe::accelerator::fixture::{self, read_at};

    const SHORT: &str = "RxErr 3\nBadTLP 5\nBadDLLP 7\nRollover 1\nTimeout 2\nNonFatalErr 90\nCorrIntErr 0\nHeaderOF 0\nTOTAL_ERR_COR 108\n";
    const LONG: &str = "Receiver Error 3\nBad TLP 5\nBad DLLP 7\nRELAY_NUM Rollover 1\nReplay Timer Timeout 2\nAdvisory Non-Fatal 90\nTOTAL_ERR_COR 108\n";

    #[test]
    fn only_what_is_sent_again_is_counted() {
        assert_eq!(sum(SHORT, &REPLAYS), Some(15));
        assert_eq!(sum(LONG, &REPLAYS), Some(15), "as Linux 4.19 spells them");
        assert_eq!(sum("Undefined 0\nTOTAL_ERR_FATAL 4\n", &FATAL), Some(4));
    }

    #[test]
    fn an_invalid_counter_counts_nothing() {
        for text in ["", "BadTLP", "BadTLP x", "BadTLP -1", "BadTLP 99999999999999999999", "\0\0"] {
            assert_eq!(sum(text, &REPLAYS), None, "{text:?}");
        }
        let most = u64::MAX;
        assert_eq!(sum(&format!("BadTLP {most}\nTimeout 1\n"), &REPLAYS), Some(u64::MAX));
    }

    #[test]
    fn a_rate_is_wrong_not_a_count() {
        let counts = |replays, fatal| PcieCounts { replays, fatal };
        let minutes = SignedDuration::from_mins;
        for (before, after, passed, problem) in [
            (counts(1000, 0), counts(1008, 0), minutes(1), false),
            (counts(1000, 0), counts(1009, 0), minutes(1), true),
            (counts(1000, 0), counts(1040, 0), minutes(5), false),
            (counts(1000, 0), counts(1041, 0), minutes(5), true),
            (counts(1000, 0), counts(0, 0), minutes(1), false),
            (counts(0, 0), counts(0, 1), minutes(1), true),
            (counts(0, 5), counts(0, 5), minutes(1), false),
            // The wall clock moved back, or did not move.
            (counts(0, 0), counts(8, 0), minutes(-60), false),
            (counts(0, 0), counts(9, 0), SignedDuration::ZERO, true),
        ] {
            assert_eq!(evaluate(before, after, passed).is_some(), problem, "{before:?} {after:?} {passed}");
        }
    }

    #[test]
    fn replays_are_reported_by_gpu_while_they_continue() {
        let root = fixture::instance("g5.12xlarge", 2);
        let write = |number: usize, count: u64| {
            let directory = root.path().join("sys/bus/pci/devices").join(fixture::address(number));
            fs::write(directory.join("aer_dev_correctable"), format!("BadTLP {count}\n")).expect("a file");
        };
        let mut probe = BusErrors::new(root.path());
        let why = read_at(&mut probe, 0).expect_err("no counters");
        assert_eq!(why, "the kernel has no PCIe error counters for these GPUs");
        write(0, 500);
        write(1, 0);
        let why = read_at(&mut probe, 60).expect_err("a first reading");
        assert_eq!(why, "the first reading of the counters only sets the start values");
        write(1, 100);
        let problem = "+0000:11:00: 100 PCIe replays within 1 min; up to 8 a minute are normal".to_owned();
        assert_eq!(read_at(&mut probe, 120), Ok(vec!["-0000:10:00".to_owned(), problem]));
        assert_eq!(read_at(&mut probe, 180), Ok(vec!["-".to_owned()]));
    }
}
