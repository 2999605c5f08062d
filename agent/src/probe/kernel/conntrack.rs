//! Finds a connection tracking table that is almost full.
//!
//! The files show the network namespace of the process that reads them: the host's, if the agent runs in the host's
//! network.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{not_checkable, number, usage::Usage};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
};

/// The kernel log line about the first dropped connection raises the same reason.
const FULL: &str = "ConntrackExceededKernel";
const FULL_PERCENT: u8 = 95;
const INTERVAL: Duration = Duration::from_secs(30);
const COUNT: &str = "proc/sys/net/netfilter/nf_conntrack_count";
const MAX: &str = "proc/sys/net/netfilter/nf_conntrack_max";

pub(super) struct ConnectionTable {
    root: PathBuf,
    latch: ConditionLatch,
}

impl ConnectionTable {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }
}

impl Probe for ConnectionTable {
    fn name(&self) -> &'static str {
        "connection-table"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[FULL]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        if !self.root.join(COUNT).exists() {
            return Err(not_checkable("the kernel does not track connections"));
        }
        let usage = Usage { used: number(&self.root, COUNT)?, limit: number(&self.root, MAX)? };
        let full = usage
            .reaches(FULL_PERCENT)
            .then(|| format!("tracked connections: {usage}, by net.netfilter.nf_conntrack_max"));
        Ok(self.latch.update(vec![Evaluation::new(FULL, full)], now))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{changes, put, tree},
        *,
    };

    #[test]
    fn the_table_is_full_from_ninety_five_per_cent_on_and_clears_below() {
        let root = tree(&[(COUNT, "0\n"), (MAX, "262144\n")]);
        let mut probe = ConnectionTable::new(root.path());
        for (count, expected) in [("249036", "-"), ("249037", "+"), ("262144", "+"), ("249036", "-")] {
            put(root.path(), &[(COUNT, count)]);
            assert_eq!(changes(&mut probe), Ok(vec![format!("{expected}{FULL}")]), "{count}");
        }
    }

    #[test]
    fn a_table_without_a_limit_is_never_full() {
        let root = tree(&[(COUNT, "100000\n"), (MAX, "0\n")]);
        assert_eq!(changes(&mut ConnectionTable::new(root.path())), Ok(vec![format!("-{FULL}")]));
    }

    #[test]
    fn a_kernel_without_the_table_and_broken_files_are_not_checkable() {
        for files in [&[][..], &[(COUNT, "5")], &[(COUNT, "five"), (MAX, "10")], &[(COUNT, "5"), (MAX, "")]] {
            let root = tree(files);
            assert!(changes(&mut ConnectionTable::new(root.path())).is_err(), "{files:?}");
        }
    }
}
