//! Finds a number of open files near the kernel's limit.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{parsed, usage::Usage};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
};

const NEAR: &str = "ApproachingMaxOpenFiles";
const NEAR_PERCENT: u8 = 70;
const INTERVAL: Duration = Duration::from_secs(60);
const FILE_NR: &str = "proc/sys/fs/file-nr";

pub(super) struct OpenFiles {
    root: PathBuf,
    latch: ConditionLatch,
}

impl OpenFiles {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }
}

/// `687 0 2466170`: allocated handles, a zero for compatibility, and the limit (proc_sys_fs(5)).
fn usage(text: &str) -> Option<Usage> {
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().ok());
    let (used, _, limit) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some(Usage { used, limit })
}

impl Probe for OpenFiles {
    fn name(&self) -> &'static str {
        "open-files"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[NEAR]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let usage = parsed(&self.root, FILE_NR, usage)?;
        let near = usage.reaches(NEAR_PERCENT).then(|| format!("open files: {usage}, by fs.file-max"));
        Ok(self.latch.update(vec![Evaluation::new(NEAR, near)], now))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{changes, tree},
        *,
    };

    #[test]
    fn open_files_are_too_many_from_seventy_per_cent_on() {
        for (text, expected) in [
            ("700\t0\t1000\n", "+"),
            ("699\t0\t1000\n", "-"),
            ("687\t0\t9223372036854775807\n", "-"),
            ("9223372036854775807\t0\t9223372036854775807\n", "+"),
        ] {
            let root = tree(&[(FILE_NR, text)]);
            let changes = changes(&mut OpenFiles::new(root.path()));
            assert_eq!(changes, Ok(vec![format!("{expected}{NEAR}")]), "{text}");
        }
    }

    #[test]
    fn an_invalid_count_of_files_is_not_checkable() {
        for text in ["", "700 0", "many 0 1000", "700 0 -1", "\0\0\0"] {
            let root = tree(&[(FILE_NR, text)]);
            assert!(changes(&mut OpenFiles::new(root.path())).is_err(), "{text:?}");
        }
    }
}
