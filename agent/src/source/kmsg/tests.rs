//! Tests with a socket that returns one record a read, like the device.

use std::os::unix::net::UnixDatagram;

use super::*;

const BOOT: &str = "08b74c76-1eea-44dc-98f9-35874c3da41f";

struct FakeKernel(UnixDatagram);

impl FakeKernel {
    fn new(position: Option<&KmsgPosition>) -> (Self, Kmsg) {
        let (kernel, device) = UnixDatagram::pair().expect("a socket pair");
        device.set_nonblocking(true).expect("a socket that does not wait");
        (Self(kernel), Kmsg::new(device.into(), BOOT.to_owned(), position))
    }

    fn write(&self, record: &str) {
        self.0.send(record.as_bytes()).expect("room in the socket");
    }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn clocks(up: i64) -> Clocks {
    Clocks { wall: second(1_000_000 + up), up: SignedDuration::from_secs(up) }
}

fn position(next: u64) -> KmsgPosition {
    KmsgPosition { boot: BOOT.to_owned(), next }
}

/// The signals of one poll, as short texts.
fn poll(kmsg: &mut Kmsg, clocks: &Clocks) -> Vec<String> {
    let mut seen = Vec::new();
    let progress = kmsg
        .poll(clocks, &mut |signal| {
            seen.push(match signal {
                Signal::Line(line) => line.text.into_owned(),
                Signal::GapNotice(notice) => format!("{:?}", notice.gap),
            });
        })
        .expect("a device that reads");
    assert_eq!(progress, Progress::Drained);
    seen
}

#[test]
fn a_first_start_reads_the_whole_boot_with_the_records_times() {
    let (kernel, mut kmsg) = FakeKernel::new(None);
    kernel.write("5,0,0,-;Linux version\n");
    kernel.write("6,1,2500000,-;NET: Registered\n SUBSYSTEM=net\n");
    let mut seen = Vec::new();
    let progress = kmsg.poll(&clocks(100), &mut |signal| seen.push(signal.into_owned()));
    assert_eq!(progress.expect("a device that reads"), Progress::Drained);
    let line = |level, at, text: &str| {
        Signal::Line(LogLine {
            origin: Origin::Kernel { facility: 0, level },
            at,
            text: text.to_owned().into(),
        })
    };
    assert_eq!(
        seen,
        [
            line(5, second(1_000_000), "Linux version"),
            line(6, "1970-01-12T13:46:42.5Z".parse().expect("a time"), "NET: Registered"),
        ]
    );
    assert_eq!(kmsg.position(), position(2));
}

#[test]
fn a_restart_continues_after_the_last_record() {
    let (kernel, mut kmsg) = FakeKernel::new(Some(&position(2)));
    for seq in 0..4 {
        kernel.write(&format!("6,{seq},1,-;record {seq}\n"));
    }
    assert_eq!(poll(&mut kmsg, &clocks(1)), ["record 2", "record 3"]);
    assert_eq!(kmsg.position(), position(4));
}

#[test]
fn the_position_does_not_change_without_new_records() {
    let (kernel, mut kmsg) = FakeKernel::new(Some(&position(2)));
    assert_eq!(kmsg.position(), position(2));
    kernel.write("6,0,1,-;old\n");
    assert!(poll(&mut kmsg, &clocks(1)).is_empty());
    assert_eq!(kmsg.position(), position(2), "reading the old again must not set it back");
}

#[test]
fn another_boot_is_read_from_its_start() {
    let earlier = KmsgPosition { boot: "another".to_owned(), next: 900 };
    let (kernel, mut kmsg) = FakeKernel::new(Some(&earlier));
    kernel.write("6,0,1,-;Linux version\n");
    assert_eq!(poll(&mut kmsg, &clocks(1)), ["Linux version"]);
}

#[test]
fn what_is_overwritten_is_counted() {
    let (kernel, mut kmsg) = FakeKernel::new(None);
    kernel.write("6,0,1,-;first\n");
    kernel.write("6,60000,1,-;after the flood\n");
    assert_eq!(poll(&mut kmsg, &clocks(1)), ["first", "Lost(Some(59999))", "after the flood"]);
}

#[test]
fn records_overwritten_while_the_agent_is_stopped_are_counted_too() {
    let (kernel, mut kmsg) = FakeKernel::new(Some(&position(10)));
    kernel.write("6,15,1,-;after the restart\n");
    assert_eq!(poll(&mut kmsg, &clocks(1)), ["Lost(Some(5))", "after the restart"]);
}

#[test]
fn a_log_that_had_wrapped_before_the_first_start_is_not_counted_as_lost() {
    let (kernel, mut kmsg) = FakeKernel::new(None);
    kernel.write("6,700,1,-;oldest left\n");
    assert_eq!(poll(&mut kmsg, &clocks(1)), ["Wrapped(700)", "oldest left"]);
}

#[test]
fn a_record_that_cannot_be_read_stops_nothing_and_is_no_gap() {
    let (kernel, mut kmsg) = FakeKernel::new(None);
    kernel.write("6,0,1,-;first\n");
    kernel.write("rubbish\n");
    kernel.write("6,2,1,-;third\n");
    assert_eq!(poll(&mut kmsg, &clocks(1)), ["first", "Unreadable(1)", "third"]);
}

#[test]
fn an_unreadable_record_is_not_reported_again_after_a_restart() {
    let (kernel, mut kmsg) = FakeKernel::new(Some(&position(3)));
    kernel.write("6,0,1,-;first\n");
    kernel.write("rubbish\n");
    kernel.write("6,2,1,-;third\n");
    kernel.write("6,3,1,-;fourth\n");
    assert_eq!(poll(&mut kmsg, &clocks(1)), ["fourth"]);
}

#[test]
fn parts_of_a_line_become_one_line_without_delay() {
    let (kernel, mut kmsg) = FakeKernel::new(None);
    kernel.write("4,0,1,c;Mem-Info: \n");
    kernel.write("4,1,1,+;active 5\n");
    kernel.write("6,2,1,-;next\n");
    kernel.write("4,3,1,c;open end\n");
    assert_eq!(poll(&mut kmsg, &clocks(1)), ["Mem-Info: active 5", "next", "open end"]);
    kernel.write("4,4,1,+;a piece alone\n");
    assert_eq!(poll(&mut kmsg, &clocks(1)), ["a piece alone"]);
}

#[test]
fn a_line_of_endless_pieces_is_cut() {
    let (kernel, mut kmsg) = FakeKernel::new(None);
    kernel.write("4,0,1,c;start\n");
    let piece = "x".repeat(4000);
    for seq in 1..6 {
        kernel.write(&format!("4,{seq},1,+;{piece}\n"));
    }
    let seen = poll(&mut kmsg, &clocks(1));
    assert_eq!(seen[0], "Truncated");
    assert_eq!(seen[1].len(), LINE_LIMIT);
}

#[test]
fn a_timestamp_that_has_drifted_is_moved_between_two_polls() {
    let up = SignedDuration::from_secs;
    // The kernel's clock is 90 s behind: the record was not there at the last poll, at 1,000,495.
    assert_eq!(written_at(up(410), &clocks(500), Some(second(1_000_495))), second(1_000_495));
    // The kernel's clock is ahead.
    assert_eq!(written_at(up(590), &clocks(500), Some(second(1_000_495))), second(1_000_500));
    // The kernel's clock is right.
    assert_eq!(written_at(up(498), &clocks(500), Some(second(1_000_495))), second(1_000_498));
    // At the first poll, the timestamp is the only information.
    assert_eq!(written_at(up(410), &clocks(500), None), second(1_000_410));
    // The wall clock was set back by an hour since the last poll; a record is never from the future.
    assert_eq!(written_at(up(498), &clocks(500), Some(second(1_003_600))), second(1_000_500));
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let root = tempfile::tempdir().expect("a directory");
    let error = Kmsg::open(root.path(), None).expect_err("no device");
    assert!(matches!(error, KmsgError::Boot { .. }), "{error}");
}
