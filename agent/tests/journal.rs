//! Journals written by systemd: a live journald in its own mount namespace, and files made from the export format.
//! Where systemd's tools are missing or may not run, the tests print that and are skipped.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nodemend_agent::source::{
    Clocks, Progress, Signal,
    journal::{Journal, JournalPosition},
};
use rustix::event::{Timespec, poll};

const JOURNALD: &str = "/lib/systemd/systemd-journald";
const REMOTE: &str = "/lib/systemd/systemd-journal-remote";
const MACHINE: &str = "var/log/journal/0123456789abcdef0123456789abcdef";
const UNIT: &str = "nodemend-test.service";

/// Starts a journald in its own namespace with its files in `$1`, and executes orders line by line. It writes as a
/// unit: journald determines the unit from the writer's control group.
const SCRIPT: &str = r#"
set -e
mount --make-rprivate /
mkdir -p /run/systemd /run/log/journal
mount -t tmpfs none /run/systemd
mkdir -p /run/systemd/journal
mount --bind "$1" /run/log/journal
if [ -d /var/log/journal ]; then mount -t tmpfs none /var/log/journal; rmdir /var/log/journal 2>/dev/null || true; fi
/lib/systemd/systemd-journald >/dev/null 2>&1 &
daemon=$!
leave() {
    exec 3>&-
    kill $daemon
    wait $daemon || true
    for tree in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
        group=$tree/system.slice/$1
        if [ -d $group ]; then echo $$ > $tree/cgroup.procs; rmdir $group || true; fi
    done
}
trap 'leave "$2"' EXIT
for try in $(seq 100); do [ -S /run/systemd/journal/stdout ] && break; sleep 0.05; done
[ -S /run/systemd/journal/stdout ] || { echo "journald does not start"; exit 1; }
for tree in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    group=$tree/system.slice/$2
    if [ -e $tree/cgroup.procs ] && mkdir -p $group 2>/dev/null; then echo $$ > $group/cgroup.procs || true; fi
done
grep -q "$2" /proc/self/cgroup || { echo "no control group can be made"; exit 1; }
# A writer that keeps running: journald looks up the unit of the writer when it reads a line.
exec 3> >(exec systemd-cat -t nodemend-test)
echo ready
while read -r order rest; do
    case $order in
        write) echo "$rest" >&3 ;;
        flood) seq -f "flood %.0f" 1 "$rest" >&3 ;;
        rotate) kill -USR2 $daemon ;;
    esac
    echo done
done
"#;

struct Journald {
    script: Child,
    orders: Option<ChildStdin>,
    responses: BufReader<ChildStdout>,
}

impl Journald {
    fn start(directory: &Path) -> Result<Self, String> {
        if !Path::new(JOURNALD).exists() || !Path::new("/usr/bin/systemd-cat").exists() {
            return Err(format!("{JOURNALD} or systemd-cat is not installed"));
        }
        let mut script = Command::new("unshare")
            .args(["--mount", "bash", "-c", SCRIPT, "journald"])
            .arg(directory)
            .arg(UNIT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("unshare does not run: {error}"))?;
        let orders = script.stdin.take();
        let responses = BufReader::new(script.stdout.take().ok_or("no output")?);
        let mut journald = Self { script, orders, responses };
        match journald.response().as_str() {
            "ready" => Ok(journald),
            other => Err(format!("journald cannot be run here: {other:?}")),
        }
    }

    fn response(&mut self) -> String {
        let mut line = String::new();
        self.responses.read_line(&mut line).expect("a response");
        line.trim().to_owned()
    }

    fn order(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("a script that runs");
        writeln!(orders, "{order}").expect("a script that listens");
        assert_eq!(self.response(), "done");
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        // The script ends with its input, and stops journald.
        drop(self.orders.take());
        let _ = self.script.wait();
    }
}

fn drain(journal: &mut Journal, seen: &mut Vec<String>) {
    let clocks = Clocks::read();
    while journal.poll(&clocks, &mut |signal| match signal {
        Signal::Line(line) => seen.push(line.text.into_owned()),
        Signal::GapNotice(notice) => panic!("{notice:?}"),
    }) == Progress::More
    {}
}

/// Polls until `last` is read, at most twenty seconds.
fn read_until(journal: &mut Journal, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while seen.last().is_none_or(|line| line != last) {
        assert!(Instant::now() < deadline, "never read {last:?}, but {} lines: {seen:?}", seen.len());
        drain(journal, &mut seen);
        let wait = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        poll(&mut [], Some(&wait)).expect("a wait");
    }
    seen
}

fn restart(root: &Path, journal: &Journal, units: &[&str]) -> Journal {
    let saved = serde_json::to_string(&journal.position()).expect("a position");
    let position: Option<JournalPosition> = serde_json::from_str(&saved).expect("a position");
    Journal::new(root, units, Timestamp::UNIX_EPOCH, position.as_ref())
}

#[test]
fn a_running_journald_is_followed_across_rotations_and_restarts() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("run/log/journal");
    fs::create_dir_all(&directory).expect("a directory");
    let mut journald = match Journald::start(&directory) {
        Ok(journald) => journald,
        Err(why) => return println!("skipped: {why}"),
    };
    let mut journal = Journal::new(root.path(), &[UNIT], Timestamp::UNIX_EPOCH, None);
    journald.order("write first");
    assert_eq!(read_until(&mut journal, "first"), ["first"]);

    journald.order("write before the rotation");
    journald.order("rotate");
    journald.order("write after the rotation");
    assert_eq!(read_until(&mut journal, "after the rotation"), ["before the rotation", "after the rotation"]);

    // Rotated twice while the reader is stopped.
    journald.order("write away 1");
    journald.order("rotate");
    journald.order("write away 2");
    journald.order("rotate");
    journald.order("write away 3");
    let mut journal = restart(root.path(), &journal, &[UNIT]);
    assert_eq!(read_until(&mut journal, "away 3"), ["away 1", "away 2", "away 3"]);

    // Rotated while the reader runs. (journald drops lines of one service beyond 10,000 in 30 s.)
    journald.order("flood 4000");
    journald.order("rotate");
    journald.order("flood 4000");
    let began = Instant::now();
    let mut seen = read_until(&mut journal, "flood 4000");
    if seen.len() < 8000 {
        seen.extend(read_until(&mut journal, "flood 4000"));
    }
    let flood: Vec<_> = (1..=4000).map(|line| format!("flood {line}")).collect();
    assert_eq!(seen, [flood.clone(), flood].concat());
    println!("8,000 lines in {:?}, over {} files", began.elapsed(), journal.files());

    // A line can be read as soon as journald has written it.
    journald.order("write the last");
    assert_eq!(read_until(&mut journal, "the last"), ["the last"]);
}

/// Creates a journal with `count` entries, numbered from `first`.
fn make(directory: &Path, first: u64, count: u64) -> Option<PathBuf> {
    if !Path::new(REMOTE).exists() {
        println!("skipped: {REMOTE} is not installed");
        return None;
    }
    let mut export = Vec::new();
    for number in first..first + count {
        let unit =
            ["kubelet.service", "sshd.service", "containerd.service", "crond.service"][number as usize % 4];
        // Every twentieth is long enough to be compressed.
        let tail = if number % 20 == 0 {
            "x".repeat(900)
        } else {
            format!("pod default/web-{}", number * 7919 % 97)
        };
        writeln!(
            export,
            "__REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID=08b74c761eea44dc98f935874c3da41f\n\
             _SYSTEMD_UNIT={unit}\n_PID={}\nPRIORITY=6\nMESSAGE=line {number} {tail}\n",
            1_700_000_000_000_000 + number * 1000,
            1_000_000 + number * 1000,
            100 + number % 4,
        )
        .expect("memory");
    }
    let path = directory.join("system.journal");
    let mut remote = Command::new(REMOTE)
        .arg("-o")
        .arg(&path)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a tool that runs");
    remote.stdin.take().expect("its input").write_all(&export).expect("a tool that listens");
    assert!(remote.wait().expect("a tool that ends").success());
    Some(path)
}

#[test]
fn a_journal_that_systemd_made_and_rotated_is_read_whole() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join(MACHINE);
    fs::create_dir_all(&directory).expect("a directory");
    // Enough entries for one rotation.
    const COUNT: u64 = 180_000;
    let Some(_) = make(&directory, 0, COUNT) else { return };
    let units = ["kubelet.service", "containerd.service"];
    let mut journal = Journal::new(root.path(), &units, Timestamp::UNIX_EPOCH, None);
    let began = Instant::now();
    let mut seen = Vec::new();
    drain(&mut journal, &mut seen);
    println!("{COUNT} entries of {} files in {:?}", journal.files(), began.elapsed());
    assert!(journal.files() > 1, "it was not rotated");
    let numbers: Vec<u64> = seen
        .iter()
        .map(|line| line.split(' ').nth(1).and_then(|number| number.parse().ok()).expect("a number"))
        .collect();
    let expected: Vec<u64> = (0..COUNT).filter(|number| number % 2 == 0).collect();
    assert!(numbers == expected, "{} lines instead of {}", numbers.len(), expected.len());
    assert!(seen.iter().filter(|line| line.ends_with(&"x".repeat(900))).count() as u64 == COUNT / 20);

    let mut journal = restart(root.path(), &journal, &units);
    make(&directory, COUNT, 40);
    let mut seen = Vec::new();
    drain(&mut journal, &mut seen);
    assert_eq!(seen.len(), 20);
}
