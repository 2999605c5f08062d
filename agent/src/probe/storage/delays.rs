//! Turns how long each process has waited for storage into those that waited much of late.
//!
//! The kernel counts since a process began, so that it is the growth that matters. A process is one by its number and
//! its start: a number that is used again is another process.

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
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
};

const DELAYS: &str = "IODelays";
/// A reading opens one file for each process, which is the dearest thing that any probe here does.
const INTERVAL: Duration = Duration::from_secs(120);
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// Readings that are closer to each other than this are not all kept.
const APART: SignedDuration = SignedDuration::from_secs(100);
/// Ten seconds: the kernel counts in ticks, of which a second has 100 for all programs.
const MOST: u64 = 1_000;
/// A node runs some thousands.
const MAX_PROCESSES: usize = 65_536;
const MAX_BYTES: u64 = 4_096;

/// What the processes waited that ever did, in ticks.
type Waited = BTreeMap<Process, u64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    id: u32,
    /// In ticks since boot.
    start: u64,
}

/// A line of `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    name: String,
    start: u64,
    waited: u64,
}

pub(super) struct Delays {
    root: PathBuf,
    /// Of the last ten minutes, the oldest first.
    past: VecDeque<(Timestamp, Waited)>,
    standing: Standing,
}

impl Delays {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), past: VecDeque::new(), standing: Standing::default() }
    }

    /// What all processes waited until now. None if it can't be known whether anybody counts.
    fn waited(&self) -> Result<(Waited, BTreeMap<Process, String>), NotCheckable> {
        let base = self.past.front().map(|(_, waited)| waited);
        let folder = fs::read_dir(self.root.join("proc"))
            .map_err(|error| not_checkable(format!("the processes can't be listed: {error}")))?;
        let ids = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let (mut waited, mut names) = (Waited::new(), BTreeMap::new());
        let mut text = Vec::new();
        let mut any = false;
        for id in ids.take(MAX_PROCESSES) {
            text.clear();
            let file = File::open(self.root.join("proc").join(id.to_string()).join("stat"));
            // It may have ended since it was listed.
            if file.and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text)).is_err() {
                continue;
            }
            let Some(stat) = parse(&String::from_utf8_lossy(&text)) else {
                continue;
            };
            any = true;
            let process = Process { id, start: stat.start };
            if stat.waited == 0 {
                continue;
            }
            if base.is_some_and(|base| growth(base, process, stat.waited) > MOST) {
                names.insert(process, stat.name);
            }
            waited.insert(process, stat.waited);
        }
        if !any {
            return Err(not_checkable("no process can be read"));
        }
        Ok((waited, names))
    }

    /// Keeps a reading for as long as it is worth comparing with.
    fn keep(&mut self, now: Timestamp, waited: Waited) {
        if self.past.back().is_none_or(|(at, _)| now.duration_since(*at) >= APART) {
            self.past.push_back((now, waited));
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let switch = read_small(&self.root.join("proc/sys/kernel/task_delayacct"));
        if switch.as_ref().is_ok_and(|text| text.trim() == "0") {
            self.past.clear();
            return Err(not_checkable("delay accounting is off (sysctl kernel.task_delayacct)"));
        }
        // A clock that was set back makes the past useless.
        self.past.retain(|(at, _)| *at <= now && now.duration_since(*at) <= WINDOW);
        let (waited, names) = self.waited()?;
        // Before Linux 5.14 there is no switch, and nothing says that a kernel was built without counting.
        let uncounted = switch.is_err_and(|error| error.kind() == ErrorKind::NotFound) && waited.is_empty();
        if uncounted {
            return Err(not_checkable("no process ever waited for storage: the kernel seems not to count"));
        }
        let Some((since, base)) = self.past.front() else {
            self.keep(now, waited);
            return Err(not_checkable("there is no earlier reading yet to compare with"));
        };
        let minutes = now.duration_since(*since).as_mins().max(1);
        let mut late: Vec<_> = names
            .iter()
            .filter_map(|(process, name)| {
                Some((growth(base, *process, *waited.get(process)?), process.id, name))
            })
            .collect();
        // Those that waited most, if there are more than a report has room for.
        late.sort_unstable_by(|left, right| right.cmp(left));
        let mut judged = vec![Judged::well(DELAYS)];
        judged.extend(late.into_iter().map(|(ticks, id, name)| {
            let message = format!("{name} waited {} s for storage in the last {minutes} min", ticks / 100);
            Judged::wrong(DELAYS, message).about(format!("{name} ({id})"))
        }));
        self.keep(now, waited);
        Ok(self.standing.update(judged, now))
    }
}

/// How much more it waited than before; all of it if it had not waited or not begun then.
fn growth(base: &Waited, process: Process, waited: u64) -> u64 {
    waited.saturating_sub(base.get(&process).copied().unwrap_or(0))
}

/// Reads a line as [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html) describes it. The
/// name may hold anything, blanks and brackets too; no later field does.
fn parse(text: &str) -> Option<Stat> {
    let (front, back) = text.rsplit_once(')')?;
    let (_, name) = front.split_once('(')?;
    // What follows the name begins with field 3.
    let mut fields = back.split_ascii_whitespace();
    let start = fields.nth(22 - 3)?.parse().ok()?;
    let waited = fields.nth(42 - 22 - 1)?.parse().ok()?;
    Some(Stat { name: name.to_owned(), start, waited })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u32, name: &str, start: u64, waited: u64) -> String {
        let to_start = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0";
        let to_waited = "178499584 2967 18446744073709551615 1 1 0 0 0 0 671173123 4096 1260 0 0 0 17 0 0 0";
        format!("{id} ({name}) {to_start} {start} {to_waited} {waited} 0 0 0 0 0 0 0 0 0 0\n")
    }

    #[test]
    fn start_and_waiting_are_fields_22_and_42_whatever_the_name() {
        for name in ["postgres", "a b", "a) S 1 (b", "((", "))", "", ") 1 2 3 4"] {
            let stat = Stat { name: name.to_owned(), start: 4_711, waited: 1_234 };
            assert_eq!(parse(&line(7, name, 4_711, 1_234)), Some(stat), "{name}");
        }
    }

    #[test]
    fn a_line_that_is_cut_or_no_such_line_is_none() {
        let whole = line(7, "postgres", 4_711, 1_234);
        for broken in ["", "7", "7 (postgres", "7 postgres S 1", &whole[..60], &whole.replace("4711", "-1")] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    struct Host {
        root: tempfile::TempDir,
        probe: Delays,
    }

    impl Host {
        fn new(switch: Option<&str>) -> Self {
            let root = tempfile::tempdir().expect("a folder");
            let sysctl = root.path().join("proc/sys/kernel");
            fs::create_dir_all(&sysctl).expect("a folder");
            if let Some(switch) = switch {
                fs::write(sysctl.join("task_delayacct"), switch).expect("written");
            }
            let probe = Delays::new(root.path());
            Self { root, probe }
        }

        fn process(&self, id: u32, start: u64, waited: u64) {
            let folder = self.root.path().join("proc").join(id.to_string());
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("stat"), line(id, "postgres", start, waited)).expect("written");
        }

        fn read(&mut self, minute: i64) -> Result<Vec<String>, String> {
            let now = Timestamp::from_second(minute * 60).expect("a time");
            let changes = self.probe.read(now).map_err(|nothing| nothing.why.into_owned())?;
            let told = |change: Change| match change {
                Change::Raised(finding) => format!("+{}", finding.message),
                Change::Cleared { subject, .. } => format!("-{}", subject.unwrap_or_default()),
            };
            Ok(changes.into_iter().map(told).collect())
        }
    }

    #[test]
    fn more_than_ten_seconds_in_ten_minutes_are_too_much() {
        let mut host = Host::new(Some("1\n"));
        host.process(7, 100, 50_000);
        assert!(host.read(0).expect_err("the first reading").contains("no earlier reading"));
        host.process(7, 100, 51_000);
        assert_eq!(host.read(10), Ok(vec!["-".to_owned()]));
        let mut host = Host::new(Some("1\n"));
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
        let mut host = Host::new(Some("1"));
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
        let mut host = Host::new(Some("1"));
        host.process(7, 100, 5_000);
        assert!(host.read(0).is_err());
        host.process(7, 90_000, 900);
        assert_eq!(host.read(2), Ok(vec!["-".to_owned()]));
        // All that it waited was since the last reading.
        host.process(7, 90_000, 1_100);
        assert_eq!(host.read(4), Ok(vec!["+postgres waited 11 s for storage in the last 4 min".to_owned()]));
    }

    #[test]
    fn many_late_processes_are_told_of_by_who_waited_most() {
        let mut host = Host::new(Some("1"));
        (1..40).for_each(|id| host.process(id, 100, 1));
        assert!(host.read(0).is_err());
        (1..40).for_each(|id| host.process(id, 100, 2_000 + u64::from(id) * 100));
        let told = host.read(10).expect("a reading");
        assert!(told.len() < 39);
        assert!(told[0].starts_with("+postgres waited 58 s"), "{told:?}");
    }

    #[test]
    fn a_clock_that_was_set_back_begins_anew() {
        let mut host = Host::new(Some("1"));
        host.process(7, 100, 1);
        assert!(host.read(100).is_err());
        host.process(7, 100, 50_000);
        assert!(host.read(10).expect_err("no past").contains("no earlier reading"));
    }

    #[test]
    fn who_does_not_count_says_so() {
        let mut host = Host::new(Some("0\n"));
        host.process(7, 100, 0);
        assert!(host.read(0).expect_err("off").contains("kernel.task_delayacct"));
        let mut host = Host::new(None);
        host.process(7, 100, 0);
        assert!(host.read(0).expect_err("not built in").contains("seems not to count"));
        host.process(7, 100, 1);
        assert!(host.read(0).expect_err("a first reading").contains("no earlier reading"));
        let mut host = Host::new(Some("1"));
        assert!(host.read(0).expect_err("no process").contains("no process can be read"));
    }

    #[test]
    fn this_machines_processes_can_be_read() {
        let probe = Delays::new(Path::new("/"));
        assert!(probe.waited().is_ok());
        let own = fs::read_to_string("/proc/self/stat").expect("our own");
        assert!(parse(&own).is_some_and(|stat| stat.start > 0), "{own}");
    }
}
