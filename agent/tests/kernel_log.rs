//! The real kernel log: records written to `/dev/kmsg` are read, and lost records are counted.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process,
    sync::Mutex,
    time::{Duration, Instant},
};

use nodemend_agent::source::{
    Clocks, Gap, Progress, Signal,
    kmsg::{Kmsg, KmsgPosition},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

const LIMITER: &str = "/proc/sys/kernel/printk_devkmsg";

/// All tests share one kernel log, so a flood must not overwrite another test's line.
static KERNEL_LOG: Mutex<()> = Mutex::new(());

/// More than the ring buffer holds, written as fast as possible.
const LINES: u64 = 60_000;

/// Removes the rate limit of writes to the kernel log until it is dropped.
struct Unlimited(String);

impl Unlimited {
    fn lift() -> Option<Self> {
        let before = fs::read_to_string(LIMITER).ok()?;
        // The kernel requires the line break.
        fs::write(LIMITER, "on\n").ok()?;
        Some(Self(before))
    }
}

impl Drop for Unlimited {
    fn drop(&mut self) {
        // If this fails, the limit stays off, which affects only this machine's log.
        let _ = fs::write(LIMITER, &self.0);
    }
}

/// Writes a record: each `write(2)` is one.
fn write_record(writer: &mut fs::File, text: &str) {
    writer.write_all(format!("<14>{text}\n").as_bytes()).expect("a line in the kernel log");
}

/// The log, read to its end, and a writer; `None` if this machine does not allow it.
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

/// Polls until `done`, at most ten seconds.
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
    write_record(&mut writer, &marker);
    let found = read_until(&mut kmsg, |signal| {
        let Signal::Line(line) = signal else { return false };
        line.text == marker && {
            let off = line.at.duration_since(before).as_secs_f64().abs();
            assert!(off < 5.0, "stamped {off} s away from when it was written");
            true
        }
    });
    assert!(found, "the line did not come back");

    // A restart at this position reads only new records.
    let position = kmsg.position();
    let again = format!("{marker} again");
    write_record(&mut writer, &again);
    let mut restarted = Kmsg::open(Path::new("/"), Some(&position)).expect("a kernel log");
    let mut old = 0;
    let found = read_until(&mut restarted, |signal| match signal {
        Signal::Line(line) => {
            old += usize::from(line.text == marker);
            line.text == again
        }
        Signal::GapNotice(notice) => panic!("{notice:?}"),
    });
    assert!(found && old == 0, "old lines repeated: {old}");
}

#[test]
fn a_flood_is_read_or_counted_and_the_next_line_is_read_within_a_second() {
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
                write_record(
                    &mut writer,
                    &format!("{tag} {line} INFO: a line as long as the kernel's lines often are"),
                );
            }
            let took = began.elapsed();
            write_record(&mut writer, &format!("{tag} end"));
            (took, Instant::now())
        }
    });
    let (mut received, mut lost) = (0_u64, 0_u64);
    let end = format!("{tag} end");
    let found = read_until(&mut kmsg, |signal| match signal {
        Signal::Line(line) => {
            received += 1;
            line.text == end
        }
        Signal::GapNotice(notice) => {
            if let Gap::Lost(Some(count)) = notice.gap {
                lost += count;
            }
            false
        }
    });
    let received_at = Instant::now();
    let (took, ended) = flood.join().expect("a flood");
    let delay = received_at.saturating_duration_since(ended);
    println!(
        "flood of {LINES} in {took:?}: read {received}, lost {lost}; the line after it came {delay:?} late"
    );
    assert!(found, "the line after the flood was never read");
    assert!(delay < Duration::from_secs(1), "the line after the flood came {delay:?} late");
    assert_eq!(received + lost, kmsg.position().next - from, "each record is read or counted as lost");
    assert!(received + lost > LINES);
}

#[test]
fn an_overrun_while_the_agent_is_stopped_is_reported_with_its_count() {
    let _alone = KERNEL_LOG.lock().expect("no test before has failed here");
    let Some((mut kmsg, mut writer)) = open() else { return };
    let Some(_unlimited) = Unlimited::lift() else {
        println!("skipped: {LIMITER} cannot be set");
        return;
    };
    let KmsgPosition { next: from, .. } = kmsg.position();
    // The ring buffer has some megabytes at most; more than fits is written before it is read.
    let filler = "x".repeat(900);
    for line in 0..20_000 {
        write_record(&mut writer, &format!("nodemend-overrun {line} {filler}"));
    }
    let (mut received, mut lost, mut findings) = (0_u64, 0_u64, 0);
    drain(&mut kmsg, &mut |signal| match signal {
        Signal::Line(_) => received += 1,
        Signal::GapNotice(notice) => {
            findings += usize::from(notice.finding().is_some());
            if let Gap::Lost(Some(count)) = notice.gap {
                lost += count;
            }
        }
    });
    println!("overrun: read {received}, lost {lost}");
    if lost == 0 {
        println!("skipped: this machine's ring holds it all");
        return;
    }
    assert_eq!(received + lost, kmsg.position().next - from);
    assert!(findings > 0);
}
