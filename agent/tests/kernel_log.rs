//! The real kernel log: what is written to `/dev/kmsg` comes back, and a flood is counted, not hidden.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process,
    sync::Mutex,
    time::{Duration, Instant},
};

use nodemend_agent::source::{
    Clocks, Flaw, Progress, Signal,
    kmsg::{Kmsg, Position},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

const LIMITER: &str = "/proc/sys/kernel/printk_devkmsg";

/// One kernel log for all: a flood must not wash away the other test's line.
static KERNEL_LOG: Mutex<()> = Mutex::new(());

/// More than the ring holds, as fast as a program can write.
const LINES: u64 = 60_000;

/// Lifts the limit on what programs may write to the kernel's log, for as long as it lives.
struct Unlimited(String);

impl Unlimited {
    fn lift() -> Option<Self> {
        let before = fs::read_to_string(LIMITER).ok()?;
        // The kernel wants the line break.
        fs::write(LIMITER, "on\n").ok()?;
        Some(Self(before))
    }
}

impl Drop for Unlimited {
    fn drop(&mut self) {
        // A failure here leaves the limit off, which harms nothing but this machine's log.
        let _ = fs::write(LIMITER, &self.0);
    }
}

/// Writes a record: one `write(2)` makes one.
fn say(writer: &mut fs::File, text: &str) {
    writer.write_all(format!("<14>{text}\n").as_bytes()).expect("a line in the kernel log");
}

/// The log, read to its end, and a way to write to it; none where this machine does not allow it.
fn open() -> Option<(Kmsg, fs::File)> {
    let writer = match fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        Ok(writer) => writer,
        Err(error) => {
            println!("skipped: /dev/kmsg cannot be written: {error}");
            return None;
        }
    };
    let mut kmsg = match Kmsg::open(Path::new("/"), None) {
        Ok(kmsg) => kmsg,
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
    };
    drain(&mut kmsg, &mut |_| {});
    Some((kmsg, writer))
}

fn drain(kmsg: &mut Kmsg, emit: &mut impl FnMut(Signal<'_>)) {
    while kmsg.poll(&Clocks::read(), emit).expect("a kernel log that reads") == Progress::More {}
}

/// Reads until `done`, waiting for the kernel and at most ten seconds.
fn read_until(kmsg: &mut Kmsg, mut done: impl FnMut(&Signal<'_>) -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let mut found = false;
        drain(kmsg, &mut |signal| found |= done(&signal));
        if found {
            return true;
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match poll(&mut [PollFd::new(&*kmsg, PollFlags::IN)], Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
    false
}

#[test]
fn a_line_written_to_the_kernel_log_comes_back() {
    let _alone = KERNEL_LOG.lock().expect("no test before has failed here");
    let Some((mut kmsg, mut writer)) = open() else { return };
    let before = Clocks::read().wall;
    let marker = format!("nodemend-test-{}: caf\u{e9} \\ ; = 1", process::id());
    say(&mut writer, &marker);
    let found = read_until(&mut kmsg, |signal| {
        let Signal::Line(line) = signal else { return false };
        line.text == marker && {
            let off = line.at.duration_since(before).as_secs_f64().abs();
            assert!(off < 5.0, "stamped {off} s away from when it was written");
            true
        }
    });
    assert!(found, "the line did not come back");

    // A restart at this position hears only what is new.
    let position = kmsg.position();
    let again = format!("{marker} again");
    say(&mut writer, &again);
    let mut restarted = Kmsg::open(Path::new("/"), Some(&position)).expect("a kernel log");
    let mut old = 0;
    let found = read_until(&mut restarted, |signal| match signal {
        Signal::Line(line) => {
            old += usize::from(line.text == marker);
            line.text == again
        }
        Signal::Notice(notice) => panic!("{notice:?}"),
    });
    assert!(found && old == 0, "old lines repeated: {old}");
}

#[test]
fn a_flood_is_outrun_or_counted_and_the_next_line_is_heard_within_a_second() {
    let _alone = KERNEL_LOG.lock().expect("no test before has failed here");
    let Some((mut kmsg, mut writer)) = open() else { return };
    let Some(_unlimited) = Unlimited::lift() else {
        println!("skipped: {LIMITER} cannot be set");
        return;
    };
    let tag = format!("nodemend-flood-{}", process::id());
    let from = kmsg.position().next;
    let flood = std::thread::spawn({
        let tag = tag.clone();
        move || {
            let began = Instant::now();
            for line in 0..LINES {
                say(
                    &mut writer,
                    &format!("{tag} {line} INFO: a line as long as the kernel's lines often are"),
                );
            }
            let took = began.elapsed();
            say(&mut writer, &format!("{tag} end"));
            (took, Instant::now())
        }
    });
    let (mut heard, mut lost) = (0_u64, 0_u64);
    let end = format!("{tag} end");
    let found = read_until(&mut kmsg, |signal| match signal {
        Signal::Line(line) => {
            heard += 1;
            line.text == end
        }
        Signal::Notice(notice) => {
            if let Flaw::Lost(Some(count)) = notice.flaw {
                lost += count;
            }
            false
        }
    });
    let heard_at = Instant::now();
    let (took, ended) = flood.join().expect("a flood");
    let delay = heard_at.saturating_duration_since(ended);
    println!(
        "flood of {LINES} in {took:?}: heard {heard}, lost {lost}; the line after it came {delay:?} late"
    );
    assert!(found, "the line after the flood was never heard");
    assert!(delay < Duration::from_secs(1), "the line after the flood came {delay:?} late");
    assert_eq!(heard + lost, kmsg.position().next - from, "each record is heard or counted as lost");
    assert!(heard + lost > LINES);
}

#[test]
fn an_overrun_while_nobody_reads_is_told_with_its_count() {
    let _alone = KERNEL_LOG.lock().expect("no test before has failed here");
    let Some((mut kmsg, mut writer)) = open() else { return };
    let Some(_unlimited) = Unlimited::lift() else {
        println!("skipped: {LIMITER} cannot be set");
        return;
    };
    let Position { next: from, .. } = kmsg.position();
    // The ring is some megabytes at most; more than fits is written while nobody reads.
    let filler = "x".repeat(900);
    for line in 0..20_000 {
        say(&mut writer, &format!("nodemend-overrun {line} {filler}"));
    }
    let (mut heard, mut lost, mut findings) = (0_u64, 0_u64, 0);
    drain(&mut kmsg, &mut |signal| match signal {
        Signal::Line(_) => heard += 1,
        Signal::Notice(notice) => {
            findings += usize::from(notice.finding().is_some());
            if let Flaw::Lost(Some(count)) = notice.flaw {
                lost += count;
            }
        }
    });
    println!("overrun: heard {heard}, lost {lost}");
    if lost == 0 {
        println!("skipped: this machine's ring holds it all");
        return;
    }
    assert_eq!(heard + lost, kmsg.position().next - from);
    assert!(findings > 0);
}
