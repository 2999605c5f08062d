//! Finds processes that waited long for storage, from the kernel's delay accounting.
//!
//! The counters accumulate since the process started, so only their growth counts. A process is identified by its ID
//! and start time, because IDs are reused.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{not_checkable, read_small};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
};

const DELAYS: &str = "IODelays";
/// A reading opens one file for each process, which is the most expensive operation of all probes.
const INTERVAL: Duration = Duration::from_secs(120);
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// The minimum time between two stored readings.
const MIN_DISTANCE: SignedDuration = SignedDuration::from_secs(100);
/// Ten seconds: the unit is a clock tick, of which user space sees 100 a second.
const MAX_WAIT: u64 = 1_000;
/// A node runs some thousands.
const MAX_PROCESSES: usize = 65_536;
const MAX_BYTES: u64 = 4_096;

/// The ticks that each process waited; processes that never waited are left out.
type WaitTicks = BTreeMap<ProcessKey, u64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ProcessKey {
    id: u32,
    /// The start time in ticks since boot.
    start: u64,
}

/// The fields of `/proc/PID/stat` that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DelayStat {
    name: String,
    start: u64,
    wait_ticks: u64,
}

pub(super) struct Delays {
    root: PathBuf,
    /// Readings of the last ten minutes, oldest first.
    past: VecDeque<(Timestamp, WaitTicks)>,
    latch: ConditionLatch,
}

impl Delays {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), past: VecDeque::new(), latch: ConditionLatch::default() }
    }

    /// The total waits of all processes, and the names of those over the limit; not checkable if no process can be
    /// read.
    fn wait_ticks(&self) -> Result<(WaitTicks, BTreeMap<ProcessKey, String>), NotCheckable> {
        let base = self.past.front().map(|(_, wait_ticks)| wait_ticks);
        let directory = fs::read_dir(self.root.join("proc"))
            .map_err(|error| not_checkable(format!("the processes cannot be listed: {error}")))?;
        let ids = directory.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let (mut wait_ticks, mut names) = (WaitTicks::new(), BTreeMap::new());
        let mut text = Vec::new();
        let mut any = false;
        for id in ids.take(MAX_PROCESSES) {
            text.clear();
            let file = File::open(self.root.join("proc").join(id.to_string()).join("stat"));
            // The process may have ended after it was listed.
            if file.and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text)).is_err() {
                continue;
            }
            let Some(stat) = parse(&String::from_utf8_lossy(&text)) else {
                continue;
            };
            any = true;
            let process = ProcessKey { id, start: stat.start };
            if stat.wait_ticks == 0 {
                continue;
            }
            if base.is_some_and(|base| growth(base, process, stat.wait_ticks) > MAX_WAIT) {
                names.insert(process, stat.name);
            }
            wait_ticks.insert(process, stat.wait_ticks);
        }
        if !any {
            return Err(not_checkable("no process can be read"));
        }
        Ok((wait_ticks, names))
    }

    /// Stores a reading for later comparison.
    fn store(&mut self, now: Timestamp, wait_ticks: WaitTicks) {
        if self.past.back().is_none_or(|(at, _)| now.duration_since(*at) >= MIN_DISTANCE) {
            self.past.push_back((now, wait_ticks));
        }
    }
}

impl Probe for Delays {
    fn name(&self) -> &'static str {
        "io-delays"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[DELAYS]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let switch = read_small(&self.root.join("proc/sys/kernel/task_delayacct"));
        if switch.as_ref().is_ok_and(|text| text.trim() == "0") {
            self.past.clear();
            return Err(not_checkable("delay accounting is off (sysctl kernel.task_delayacct)"));
        }
        // A clock that moved back makes earlier readings useless.
        self.past.retain(|(at, _)| *at <= now && now.duration_since(*at) <= WINDOW);
        let (wait_ticks, names) = self.wait_ticks()?;
        // Before Linux 5.14 the switch does not exist, and a kernel without delay accounting looks the same as an
        // idle one.
        let uncounted =
            switch.is_err_and(|error| error.kind() == ErrorKind::NotFound) && wait_ticks.is_empty();
        if uncounted {
            return Err(not_checkable(
                "no process ever waited for storage: delay accounting seems to be missing",
            ));
        }
        let Some((since, base)) = self.past.front() else {
            self.store(now, wait_ticks);
            return Err(not_checkable("the first reading of the counters only sets the start values"));
        };
        let minutes = now.duration_since(*since).as_mins().max(1);
        let mut late: Vec<_> = names
            .iter()
            .filter_map(|(process, name)| {
                Some((growth(base, *process, *wait_ticks.get(process)?), process.id, name))
            })
            .collect();
        // The longest waits first, if there are more than fit into a report.
        late.sort_unstable_by(|left, right| right.cmp(left));
        let mut evaluated = vec![Evaluation::healthy(DELAYS)];
        evaluated.extend(late.into_iter().map(|(ticks, id, name)| {
            let message = format!("{name} waited {} s for storage in the last {minutes} min", ticks / 100);
            Evaluation::unhealthy(DELAYS, message).about(format!("{name} ({id})"))
        }));
        self.store(now, wait_ticks);
        Ok(self.latch.update(evaluated, now))
    }
}

/// The growth since the base reading; the whole value if the process is not in it.
fn growth(base: &WaitTicks, process: ProcessKey, wait_ticks: u64) -> u64 {
    wait_ticks.saturating_sub(base.get(&process).copied().unwrap_or(0))
}

/// Parses the fields that [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html) describes.
/// The name may contain spaces and parentheses; no later field does.
fn parse(text: &str) -> Option<DelayStat> {
    let (front, back) = text.rsplit_once(')')?;
    let (_, name) = front.split_once('(')?;
    // The first field after the name is field 3.
    let mut fields = back.split_ascii_whitespace();
    let start = fields.nth(22 - 3)?.parse().ok()?;
    let wait_ticks = fields.nth(42 - 22 - 1)?.parse().ok()?;
    Some(DelayStat { name: name.to_owned(), start, wait_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u32, name: &str, start: u64, wait_ticks: u64) -> String {
        let to_start = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0";
        let to_waited = "178499584 2967 18446744073709551615 1 1 0 0 0 0 671173123 4096 1260 0 0 0 17 0 0 0";
        format!("{id} ({name}) {to_start} {start} {to_waited} {wait_ticks} 0 0 0 0 0 0 0 0 0 0\n")
    }

    #[test]
    fn start_and_waiting_are_fields_22_and_42_with_any_name() {
        for name in ["postgres", "a b", "a) S 1 (b", "((", "))", "", ") 1 2 3 4"] {
            let stat = DelayStat { name: name.to_owned(), start: 4_711, wait_ticks: 1_234 };
            assert_eq!(parse(&line(7, name, 4_711, 1_234)), Some(stat), "{name}");
        }
    }

    #[test]
    fn a_line_that_is_cut_or_malformed_is_none() {
        let whole = line(7, "postgres", 4_711, 1_234);
        for broken in ["", "7", "7 (postgres", "7 postgres S 1", &whole[..60], &whole.replace("4711", "-1")] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    struct DelayHost {
        root: tempfile::TempDir,
        probe: Delays,
    }

    impl DelayHost {
        fn new(switch: Option<&str>) -> Self {
            let root = tempfile::tempdir().expect("a directory");
            let sysctl = root.path().join("proc/sys/kernel");
            fs::create_dir_all(&sysctl).expect("a directory");
            if let Some(switch) = switch {
                fs::write(sysctl.join("task_delayacct"), switch).expect("written");
            }
            let probe = Delays::new(root.path());
            Self { root, probe }
        }

        fn process(&self, id: u32, start: u64, wait_ticks: u64) {
            let directory = self.root.path().join("proc").join(id.to_string());
            fs::create_dir_all(&directory).expect("a directory");
            fs::write(directory.join("stat"), line(id, "postgres", start, wait_ticks)).expect("written");
        }

        fn read(&mut self, minute: i64) -> Result<Vec<String>, String> {
            let now = Timestamp::from_second(minute * 60).expect("a time");
            let changes = self.probe.read(now).map_err(|nothing| nothing.why.into_owned())?;
            let reported = |change: FindingChange| match change {
                FindingChange::Raised(finding) => format!("+{}", finding.message),
                FindingChange::Cleared { subject, .. } => format!("-{}", subject.unwrap_or_default()),
            };
            Ok(changes.into_iter().map(reported).collect())
        }
    }

    #[test]
    fn more_than_ten_seconds_in_ten_minutes_are_too_much() {
        let mut host = DelayHost::new(Some("1\n"));
        host.process(7, 100, 50_000);
        assert!(host.read(0).expect_err("the first reading").contains("first reading"));
        host.process(7, 100, 51_000);
        assert_eq!(host.read(10), Ok(vec!["-".to_owned()]));
        let mut host = DelayHost::new(Some("1\n"));
        host.process(7, 100, 50_000);
        assert!(host.read(0).is_err());
        host.process(7, 100, 51_001);
        assert_eq!(
            host.read(10),
            Ok(vec!["+postgres waited 10 s for storage in the last 10 min".to_owned()])
        );
        fs::remove_dir_all(host.root.path().join("proc/7")).expect("removed");
        host.process(8, 100, 1);
        assert_eq!(host.read(12), Ok(vec!["-".to_owned()]), "a process that ended waits no more");
    }

    #[test]
    fn growth_is_measured_over_the_whole_window_and_no_longer() {
        let mut host = DelayHost::new(Some("1"));
        let mut last = Vec::new();
        for step in 0..12 {
            // 1.5 s every 2 min: 7.5 s in any ten minutes.
            host.process(7, 100, 150 * step);
            last = host.read(2 * step as i64).unwrap_or_default();
        }
        assert_eq!(last, ["-"]);
        for step in 12..18 {
            // 2.5 s every 2 min: 12.5 s.
            host.process(7, 100, 1_650 + 250 * (step - 11));
            last = host.read(2 * step as i64).expect("a reading");
        }
        assert_eq!(last, ["+postgres waited 12 s for storage in the last 10 min"]);
        assert!(host.probe.past.len() <= 6);
    }

    #[test]
    fn a_number_that_is_used_again_is_a_new_process() {
        let mut host = DelayHost::new(Some("1"));
        host.process(7, 100, 5_000);
        assert!(host.read(0).is_err());
        host.process(7, 90_000, 900);
        assert_eq!(host.read(2), Ok(vec!["-".to_owned()]));
        // The whole wait was after the last reading.
        host.process(7, 90_000, 1_100);
        assert_eq!(host.read(4), Ok(vec!["+postgres waited 11 s for storage in the last 4 min".to_owned()]));
    }

    #[test]
    fn many_delayed_processes_are_reported_longest_wait_first() {
        let mut host = DelayHost::new(Some("1"));
        (1..40).for_each(|id| host.process(id, 100, 1));
        assert!(host.read(0).is_err());
        (1..40).for_each(|id| host.process(id, 100, 2_000 + u64::from(id) * 100));
        let reported = host.read(10).expect("a reading");
        assert!(reported.len() < 39);
        assert!(reported[0].starts_with("+postgres waited 58 s"), "{reported:?}");
    }

    #[test]
    fn a_clock_that_was_set_back_discards_earlier_readings() {
        let mut host = DelayHost::new(Some("1"));
        host.process(7, 100, 1);
        assert!(host.read(100).is_err());
        host.process(7, 100, 50_000);
        assert!(host.read(10).expect_err("no past").contains("first reading"));
    }

    #[test]
    fn missing_accounting_is_not_checkable() {
        let mut host = DelayHost::new(Some("0\n"));
        host.process(7, 100, 0);
        assert!(host.read(0).expect_err("off").contains("kernel.task_delayacct"));
        let mut host = DelayHost::new(None);
        host.process(7, 100, 0);
        assert!(host.read(0).expect_err("not built in").contains("seems to be missing"));
        host.process(7, 100, 1);
        assert!(host.read(0).expect_err("a first reading").contains("first reading"));
        let mut host = DelayHost::new(Some("1"));
        assert!(host.read(0).expect_err("no process").contains("no process can be read"));
    }

    #[test]
    fn this_machines_processes_can_be_read() {
        let probe = Delays::new(Path::new("/"));
        assert!(probe.wait_ticks().is_ok());
        let own = fs::read_to_string("/proc/self/stat").expect("our own");
        assert!(parse(&own).is_some_and(|stat| stat.start > 0), "{own}");
    }
}
