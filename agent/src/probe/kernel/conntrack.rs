//! Turns the count of tracked connections into how full the kernel's table is.
//!
//! The files speak for the network namespace of whoever reads them: the host's, for an agent in the host's network.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{not_checkable, number, usage::Usage};
use crate::{
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
};

/// The same that a line of the kernel's raises when the first connection is dropped.
const FULL: &str = "ConntrackExceededKernel";
const FULL_PERCENT: u8 = 95;
const INTERVAL: Duration = Duration::from_secs(30);
const COUNT: &str = "proc/sys/net/netfilter/nf_conntrack_count";
const MAX: &str = "proc/sys/net/netfilter/nf_conntrack_max";

pub(super) struct ConnectionTable {
    root: PathBuf,
    standing: Standing,
}

impl ConnectionTable {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), standing: Standing::default() }
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        if !self.root.join(COUNT).exists() {
            return Err(not_checkable("the kernel tracks no connections here"));
        }
        let usage = Usage { used: number(&self.root, COUNT)?, limit: number(&self.root, MAX)? };
        let full = usage
            .reaches(FULL_PERCENT)
            .then(|| format!("tracked connections: {usage}, by net.netfilter.nf_conntrack_max"));
        Ok(self.standing.update(vec![Judged::when(FULL, full)], now))
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
    fn a_kernel_without_the_table_and_broken_files_say_nothing() {
        for files in [&[][..], &[(COUNT, "5")], &[(COUNT, "five"), (MAX, "10")], &[(COUNT, "5"), (MAX, "")]] {
            let root = tree(files);
            assert!(changes(&mut ConnectionTable::new(root.path())).is_err(), "{files:?}");
        }
    }
}
