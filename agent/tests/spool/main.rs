//! The spool with real files, truncated and damaged at every place.

mod damage;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use nodemend_agent::outbox::{Outbox, OutboxError, RecordClass, SpoolLosses, SpoolRecord, SpoolRecovery};
use nodemend_domain::{
    condition::{ConditionType, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    report::{Body, ConditionState, Report},
};

const MIB: u64 = 1024 * 1024;

/// A test's own directory, removed on drop.
struct TestDirectory(PathBuf);

impl TestDirectory {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nodemend-spool-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// The segment files, oldest first within a class.
    fn segments(&self) -> Vec<PathBuf> {
        let entries =
            fs::read_dir(&self.0).expect("a directory").map(|entry| entry.expect("an entry").path());
        let mut paths: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
        paths.sort();
        paths
    }

    fn copy(&self) -> Self {
        let copy = Self::new();
        fs::create_dir_all(&copy.0).expect("a directory");
        for entry in fs::read_dir(&self.0).expect("a directory") {
            let path = entry.expect("an entry").path();
            fs::copy(&path, copy.0.join(path.file_name().expect("a name"))).expect("a copy");
        }
        copy
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn report(seq: u64, class: RecordClass) -> Report<'static> {
    let state = ConditionState {
        condition: ConditionType::StorageReady,
        status: Status::True,
        since: Timestamp::UNIX_EPOCH,
        sound_secs: None,
        findings: Vec::new(),
    };
    Report {
        cluster: ClusterName::new("prod").expect("a name"),
        node: NodeName::new("ip-10-0-10-170.ec2.internal").expect("a name"),
        instance_id: InstanceId::new("i-08736224042c4ee75").expect("an id"),
        zone: None,
        boot_id: BootId::new("00000000-0000-4000-8000-000000000001").expect("an id"),
        seq,
        at: Timestamp::from_second(1_790_000_000).expect("a time"),
        agent: "test".into(),
        body: match class {
            RecordClass::Change => Body::Condition(state),
            RecordClass::Heartbeat => Body::Heartbeat(vec![state]),
        },
    }
}

fn open(path: &Path, limit: u64) -> (Outbox, SpoolRecovery) {
    Outbox::open(path, limit).expect("an outbox")
}

fn store(outbox: &mut Outbox, seqs: std::ops::Range<u64>, class: RecordClass) {
    for seq in seqs {
        outbox.store(&[report(seq, class)]).expect("stored");
    }
}

fn seqs(records: &[SpoolRecord]) -> Vec<u64> {
    records.iter().map(|record| Report::decode(&record.text).expect("a report").seq).collect()
}

fn all(outbox: &mut Outbox) -> Vec<u64> {
    seqs(&outbox.peek(usize::MAX, usize::MAX))
}

#[test]
fn stored_records_survive_a_restart_in_order() {
    let directory = TestDirectory::new();
    let (mut outbox, recovered) = open(&directory.0, MIB);
    assert_eq!(recovered, SpoolRecovery::default());
    for seq in 0..50 {
        store(
            &mut outbox,
            seq..seq + 1,
            if seq % 3 == 0 { RecordClass::Heartbeat } else { RecordClass::Change },
        );
    }
    let before = outbox.peek(usize::MAX, usize::MAX);
    drop(outbox);
    let (mut outbox, recovered) = open(&directory.0, MIB);
    assert_eq!((recovered.waiting, recovered.torn_bytes, recovered.damaged), (50, 0, 0));
    assert_eq!(outbox.peek(usize::MAX, usize::MAX), before);
    assert_eq!(all(&mut outbox), (0..50).collect::<Vec<_>>());
}

#[test]
fn delivered_records_are_removed_and_numbers_continue() {
    let directory = TestDirectory::new();
    let (mut outbox, _) = open(&directory.0, MIB);
    store(&mut outbox, 0..30, RecordClass::Change);
    let third = outbox.peek(10, usize::MAX);
    outbox.ack(third[9].number).expect("acknowledged");
    assert_eq!((outbox.waiting(), all(&mut outbox).first().copied()), (20, Some(10)));
    drop(outbox);
    let (mut outbox, recovered) = open(&directory.0, MIB);
    assert_eq!((recovered.waiting, all(&mut outbox).first().copied()), (20, Some(10)));
    outbox.ack(u64::MAX).expect("acknowledged");
    assert_eq!((outbox.waiting(), all(&mut outbox)), (0, vec![]));
    drop(outbox);
    let (mut outbox, recovered) = open(&directory.0, MIB);
    assert_eq!((recovered.waiting, directory.segments().len()), (0, 0));
    store(&mut outbox, 30..31, RecordClass::Change);
    assert_eq!(outbox.peek(1, 1)[0].number, 31);
}

#[test]
fn a_batch_has_at_most_the_requested_size() {
    let directory = TestDirectory::new();
    let (mut outbox, _) = open(&directory.0, MIB);
    store(&mut outbox, 0..30, RecordClass::Change);
    let length = outbox.peek(1, usize::MAX)[0].text.len();
    assert_eq!(outbox.peek(7, usize::MAX).len(), 7);
    assert_eq!(outbox.peek(usize::MAX, 5 * length).len(), 5);
    assert_eq!(outbox.peek(usize::MAX, 1).len(), 1, "one at least, else nothing would ever go out");
}

#[test]
fn little_traffic_needs_few_files() {
    let directory = TestDirectory::new();
    let (mut outbox, _) = open(&directory.0, 64 * MIB);
    for seq in 0..500 {
        store(&mut outbox, seq..seq + 1, RecordClass::Heartbeat);
        let number = outbox.peek(1, 1)[0].number;
        outbox.ack(number).expect("acknowledged");
        assert!(directory.segments().len() <= 1);
    }
    assert_eq!(outbox.losses(), SpoolLosses::default());
}

#[test]
fn the_oldest_heartbeats_are_dropped_first_when_space_runs_out() {
    let directory = TestDirectory::new();
    let (mut outbox, _) = open(&directory.0, 64 * 1024);
    store(&mut outbox, 0..100, RecordClass::Change);
    store(&mut outbox, 1_000..2_000, RecordClass::Heartbeat);
    let losses = outbox.losses();
    assert_eq!(losses.changes, 0);
    let left = all(&mut outbox);
    assert_eq!(left[..100], (0..100).collect::<Vec<_>>());
    assert_eq!(losses.heartbeats + left.len() as u64 - 100, 1_000, "missing records are counted");
    assert_eq!(left.last(), Some(&1_999));
    assert!(left.len() > 130, "{}", left.len());
}

#[test]
fn changes_are_dropped_only_without_heartbeats() {
    let directory = TestDirectory::new();
    let (mut outbox, _) = open(&directory.0, 64 * 1024);
    store(&mut outbox, 0..20, RecordClass::Heartbeat);
    store(&mut outbox, 1_000..2_000, RecordClass::Change);
    let losses = outbox.losses();
    assert_eq!(losses.heartbeats, 20);
    let left = all(&mut outbox);
    assert_eq!(losses.changes + left.len() as u64, 1_000);
    assert_eq!(left.last(), Some(&1_999));
    let size: u64 = directory.segments().iter().map(|path| fs::metadata(path).expect("a file").len()).sum();
    assert!(size <= 64 * 1024, "{size}");
    outbox.ack(u64::MAX).expect("acknowledged");
    assert_eq!(outbox.losses(), losses, "what is delivered is not lost");
}

#[test]
fn records_dropped_during_delivery_can_still_be_acknowledged() {
    let directory = TestDirectory::new();
    let (mut outbox, _) = open(&directory.0, 64 * 1024);
    store(&mut outbox, 0..100, RecordClass::Change);
    let sent = outbox.peek(100, usize::MAX);
    store(&mut outbox, 100..600, RecordClass::Change);
    outbox.ack(sent[99].number).expect("acknowledged");
    assert!(all(&mut outbox).first().is_some_and(|first| *first >= 100));
}

#[test]
fn two_agents_never_share_a_spool() {
    let directory = TestDirectory::new();
    let (_outbox, _) = open(&directory.0, MIB);
    assert!(matches!(Outbox::open(&directory.0, MIB), Err(OutboxError::InUse(_))));
}

#[test]
fn a_disk_that_cannot_be_written_loses_no_report() {
    let directory = TestDirectory::new();
    let (mut outbox, _) = open(&directory.0, MIB);
    store(&mut outbox, 0..1, RecordClass::Change);
    // The directory is gone, as after a volume was detached; the open file still accepts writes.
    outbox.ack(u64::MAX).expect("acknowledged");
    drop(outbox);
    let (mut outbox, _) = open(&directory.0, MIB);
    fs::remove_dir_all(&directory.0).expect("a removed directory");
    let error = outbox
        .store(&[report(1, RecordClass::Change), report(2, RecordClass::Heartbeat)])
        .expect_err("no disk");
    assert!(error.to_string().starts_with("failed to store 2 reports, which stay in memory: "), "{error}");
    assert_eq!((outbox.waiting(), all(&mut outbox)), (2, vec![1, 2]));
    assert!(matches!(outbox.ack(u64::MAX), Err(OutboxError::Ack(_))));
    assert_eq!(outbox.waiting(), 0);
    fs::create_dir_all(&directory.0).expect("a directory");
    store(&mut outbox, 3..4, RecordClass::Change);
    assert_eq!((all(&mut outbox), outbox.losses()), (vec![3], SpoolLosses::default()));
}

#[test]
fn a_hanging_disk_blocks_no_caller_and_loses_no_report() {
    let directory = TestDirectory::new();
    let (outbox, _) = open(&directory.0, MIB);
    drop(outbox);
    // Opening a pipe for writing blocks until there is a reader: the cursor is written to it.
    let pipe = directory.0.join("delivered.new");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: no mkfifo here");
        return;
    }
    let timeout = Duration::from_millis(50);
    let (mut outbox, _) = Outbox::open_with_timeout(&directory.0, MIB, timeout).expect("an outbox");
    store(&mut outbox, 0..3, RecordClass::Change);
    let first = outbox.peek(1, usize::MAX)[0].number;
    let error = outbox.ack(first).expect_err("the disk hangs").to_string();
    assert_eq!(error, "failed to record the delivered reports: the disk does not respond");
    // From now on no caller waits for the disk: reports stay in memory.
    for seq in 3..6 {
        let error = outbox.store(&[report(seq, RecordClass::Change)]).expect_err("the disk hangs");
        assert!(error.to_string().ends_with("the disk does not respond"), "{error}");
    }
    let records = outbox.peek(usize::MAX, usize::MAX);
    assert_eq!(seqs(&records), [3, 4, 5]);
    // A reader appears, and the disk responds again.
    let mut pipe = fs::File::open(&pipe).expect("the pipe");
    io::Read::read_to_end(&mut pipe, &mut Vec::new()).expect("the cursor");
    let mut left = Vec::new();
    while left.len() < 5 {
        left = all(&mut outbox);
    }
    assert_eq!(left, [1, 2, 3, 4, 5]);
    store(&mut outbox, 6..7, RecordClass::Change);
    assert_eq!((all(&mut outbox), outbox.losses()), (vec![1, 2, 3, 4, 5, 6], SpoolLosses::default()));
}

#[test]
fn a_state_is_found_again_by_the_next_start() {
    let directory = TestDirectory::new();
    let (mut outbox, recovered) = open(&directory.0, MIB);
    assert_eq!(recovered.state, None);
    outbox.store_state("first".to_owned()).expect("stored");
    outbox.store_state("second".to_owned()).expect("stored");
    drop(outbox);
    assert_eq!(open(&directory.0, MIB).1.state.as_deref(), Some("second"));
}

#[test]
fn memory_is_bounded_and_keeps_changes_before_heartbeats() {
    let mut outbox = Outbox::in_memory();
    store(&mut outbox, 0..10, RecordClass::Change);
    store(&mut outbox, 10..10_000, RecordClass::Heartbeat);
    assert_eq!(all(&mut outbox)[..10], (0..10).collect::<Vec<_>>());
    let losses = outbox.losses();
    assert_eq!((losses.changes, losses.heartbeats + outbox.waiting()), (0, 10_000));
    assert!(losses.heartbeats > 0);
}
