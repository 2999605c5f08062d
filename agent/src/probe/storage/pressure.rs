//! Finds a node on which all work waits for storage, from the kernel's pressure stall information.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{not_checkable, read_small};
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
};

const PRESSURE: &str = "IOPressure";
const FILE: &str = "proc/pressure/io";
const INTERVAL: Duration = Duration::from_secs(30);
/// In hundredths of a percent of the last minute.
const LIMIT: u32 = 6_000;
const FIVE_MINUTES: Debounce = Debounce::Lasting(SignedDuration::from_mins(5));

pub(super) struct Pressure {
    root: PathBuf,
    latch: ConditionLatch,
}

impl Pressure {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }
}

impl Probe for Pressure {
    fn name(&self) -> &'static str {
        "io-pressure"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[PRESSURE]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        // With `psi=0` the file is missing or cannot be opened.
        let text = read_small(&self.root.join(FILE))
            .map_err(|error| not_checkable(format!("the kernel has no I/O pressure counters: {error}")))?;
        let full = full_of_last_minute(&text)
            .ok_or_else(|| not_checkable("/proc/pressure/io has no valid full line"))?;
        let problem = (full >= LIMIT).then(|| {
            format!(
                "all work waited for storage during {}.{:02} % of the last minute",
                full / 100,
                full % 100
            )
        });
        Ok(self.latch.update(vec![Evaluation::new(PRESSURE, problem).after(FIVE_MINUTES)], now))
    }
}

/// The share of the last minute in which all work waited, in hundredths of a percent, from the format that [the
/// kernel documents](https://docs.kernel.org/accounting/psi.html).
fn full_of_last_minute(text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("full "))?;
    let value = line.split(' ').find_map(|field| field.strip_prefix("avg60="))?;
    let (whole, part) = value.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if part.len() != 2 || !digits(whole) || !digits(part) {
        return None;
    }
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_share_of_the_last_minute_is_read_to_the_hundredth() {
        let some = "some avg10=99.00 avg60=99.00 avg300=99.00 total=19359495\n";
        for (full, expected) in [
            ("full avg10=0.00 avg60=0.00 avg300=0.17 total=15275501", Some(0)),
            ("full avg10=0.00 avg60=59.99 avg300=0.17 total=15275501", Some(5_999)),
            ("full avg10=0.00 avg60=60.00 avg300=0.17 total=15275501", Some(6_000)),
            ("full avg10=0.00 avg60=100.00 avg300=0.17 total=15275501", Some(10_000)),
            ("full avg10=0.00 avg60= avg300=0.17 total=15275501", None),
            ("full avg10=0.00 avg60=61 avg300=0.17 total=15275501", None),
            ("full avg10=0.00 avg60=-1.00 avg300=0.17 total=15275501", None),
            ("full avg10=0.00 avg60=99999999.00", None),
            ("full avg10=61.00", None),
            ("", None),
        ] {
            assert_eq!(full_of_last_minute(&format!("{some}{full}\n")), expected, "{full}");
        }
    }

    #[test]
    fn sixty_percent_are_unhealthy_if_they_last_and_less_is_healthy() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("proc/pressure")).expect("a directory");
        let mut probe = Pressure::new(root.path());
        let mut read = |avg60: &str| {
            let text = format!(
                "some avg10=0.00 avg60=99.00 avg300=0.00 total=0\nfull avg10=0.00 avg60={avg60} avg300=0.00 total=0\n"
            );
            fs::write(root.path().join(FILE), text).expect("written");
            probe.read(Timestamp::UNIX_EPOCH).expect("a reading")
        };
        assert!(matches!(&read("59.99")[..], [FindingChange::Cleared { .. }]));
        assert!(matches!(&read("60.00")[..], [FindingChange::Raised(finding)]
            if finding.debounce == FIVE_MINUTES && finding.message.contains("60.00 %")));
        assert!(matches!(&read("1.00")[..], [FindingChange::Cleared { .. }]));
    }

    #[test]
    fn a_kernel_that_counts_no_pressure_is_no_fault() {
        let root = tempfile::tempdir().expect("a directory");
        let why = Pressure::new(root.path()).read(Timestamp::UNIX_EPOCH).expect_err("no file").why;
        assert!(why.contains("has no I/O pressure counters"), "{why}");
        fs::create_dir_all(root.path().join("proc/pressure")).expect("a directory");
        fs::write(root.path().join(FILE), "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
            .expect("written");
        assert!(Pressure::new(root.path()).read(Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn this_machine_has_io_pressure_or_no_counters() {
        match Pressure::new(Path::new("/")).read(Timestamp::UNIX_EPOCH) {
            Ok(changes) => assert_eq!(changes.len(), 1),
            Err(nothing) => assert!(nothing.why.contains("I/O pressure"), "{nothing}"),
        }
    }
}
