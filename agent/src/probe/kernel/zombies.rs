//! Finds processes that ended and whose parent did not wait for them.

use std::{collections::BTreeMap, path::Path, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{not_checkable, process::Processes, unreadable};
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
};

const ZOMBIES: &str = "ExcessiveZombieProcesses";
const MANY: usize = 20;
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Five readings. It is a duration because an agent that restarts repeatedly reads more often.
const FIVE_READINGS: Debounce = Debounce::Lasting(SignedDuration::from_mins(20));

pub(super) struct Zombies {
    processes: Processes,
    latch: ConditionLatch,
}

/// The number of processes and zombies.
#[derive(Debug, Default)]
struct ProcessCounts {
    seen: usize,
    zombies: usize,
    /// The number of zombies by parent.
    parents: BTreeMap<u32, usize>,
}

impl Zombies {
    pub(super) fn new(root: &Path) -> Self {
        Self { processes: Processes::new(root), latch: ConditionLatch::default() }
    }

    fn count(&self, ids: &[u32]) -> ProcessCounts {
        let mut counts = ProcessCounts::default();
        let mut record = Vec::new();
        for id in ids {
            let Some(stat) = self.processes.stat(*id, &mut record) else { continue };
            counts.seen += 1;
            if stat.is_zombie() {
                counts.zombies += 1;
                *counts.parents.entry(stat.parent).or_default() += 1;
            }
        }
        counts
    }

    fn evaluate(&self, counts: &ProcessCounts) -> Option<String> {
        if counts.zombies < MANY {
            return None;
        }
        let (parent, children) = counts.parents.iter().max_by_key(|(_, children)| **children)?;
        let name = self.processes.stat(*parent, &mut Vec::new()).map_or_else(String::new, |stat| stat.name);
        Some(format!("{} zombie processes, {children} of them left by {name}[{parent}]", counts.zombies))
    }
}

impl Probe for Zombies {
    fn name(&self) -> &'static str {
        "zombies"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[ZOMBIES]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let listing = self.processes.list().map_err(|error| unreadable("proc", &error))?;
        let counts = self.count(&listing.ids);
        if counts.seen == 0 {
            return Err(not_checkable("there are no processes in /proc"));
        }
        let problem = self.evaluate(&counts);
        if !listing.complete && problem.is_none() {
            return Err(not_checkable("too many processes to read all of them"));
        }
        Ok(self.latch.update(vec![Evaluation::new(ZOMBIES, problem).after(FIVE_READINGS)], now))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            process::tests::record,
            tests::{changes, put, tree},
        },
        *,
    };

    fn node(zombies: u32) -> tempfile::TempDir {
        let root =
            tree(&[("proc/loadavg", "0 0 0 1/1 1\n"), ("proc/1/stat", &record(1, "systemd", 'S', 0, 1))]);
        put(root.path(), &[("proc/40/stat", &record(40, "a) Z 1 (shim", 'S', 1, 9))]);
        for id in 100..100 + zombies {
            let parent = if id == 100 { 1 } else { 40 };
            put(root.path(), &[(&format!("proc/{id}/stat"), &record(id, "defunct (x)", 'Z', parent, 1))]);
        }
        root
    }

    #[test]
    fn twenty_zombies_are_many_once_five_readings_saw_them() {
        for (zombies, expected) in [(0, '-'), (19, '-'), (20, '+'), (21, '+')] {
            let root = node(zombies);
            assert_eq!(
                changes(&mut Zombies::new(root.path())),
                Ok(vec![format!("{expected}{ZOMBIES}")]),
                "{zombies}"
            );
        }
        let root = node(20);
        let changes = Zombies::new(root.path()).read(Timestamp::UNIX_EPOCH).expect("a reading");
        let [FindingChange::Raised(finding)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(finding.debounce, FIVE_READINGS);
        assert_eq!(finding.message, "20 zombie processes, 19 of them left by a) Z 1 (shim[40]");
    }

    #[test]
    fn the_fifth_reading_is_the_first_that_counts() {
        let Debounce::Lasting(length) = FIVE_READINGS else { panic!("a length") };
        assert_eq!(length.as_secs().unsigned_abs(), 4 * INTERVAL.as_secs());
    }

    #[test]
    fn processes_at_work_and_broken_records_are_not_counted() {
        let root = node(19);
        put(
            root.path(),
            &[
                ("proc/200/stat", &record(200, "java", 'Z', 1, 40)),
                ("proc/201/stat", &record(201, "x) Z 1", 'S', 1, 1)),
                ("proc/202/stat", "202 (cut) Z"),
                ("proc/203/comm", "gone\n"),
                ("proc/self/stat", &record(204, "self", 'Z', 1, 1)),
            ],
        );
        assert_eq!(changes(&mut Zombies::new(root.path())), Ok(vec![format!("-{ZOMBIES}")]));
    }

    #[test]
    fn a_directory_without_processes_is_not_checkable() {
        let root = tree(&[("proc/loadavg", "0 0 0 1/1 1\n"), ("proc/9/stat", "broken")]);
        assert!(changes(&mut Zombies::new(root.path())).is_err());
    }
}
