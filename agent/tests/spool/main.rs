//! What the spool keeps: on real files, cut off and damaged at every place.

mod damage;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use nodemend_agent::outbox::{Class, Losses, Outbox, OutboxError, Record, Recovered};
use nodemend_domain::{
    condition::{ConditionType, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    report::{Body, ConditionState, Report},
};

const MIB: u64 = 1024 * 1024;

/// A folder of a test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nodemend-spool-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// Its segments, oldest first within a class.
    fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("a folder").map(|entry| entry.expect("an entry").path());
        let mut paths: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
        paths.sort();
        paths
    }

    fn copy(&self) -> Self {
        let copy = Self::new();
        fs::create_dir_all(&copy.0).expect("a folder");
        for entry in fs::read_dir(&self.0).expect("a folder") {
            let path = entry.expect("an entry").path();
            fs::copy(&path, copy.0.join(path.file_name().expect("a name"))).expect("a copy");
        }
        copy
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn report(seq: u64, class: Class) -> Report<'static> {
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
            Class::Change => Body::Condition(state),
            Class::Heartbeat => Body::Heartbeat(vec![state]),
        },
    }
}

fn open(path: &Path, limit: u64) -> (Outbox, Recovered) {
    Outbox::open(path, limit).expect("an outbox")
}

fn store(outbox: &mut Outbox, seqs: std::ops::Range<u64>, class: Class) {
    for seq in seqs {
        outbox.store(&[report(seq, class)]).expect("stored");
    }
}

fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| Report::decode(&record.text).expect("a report").seq).collect()
}

fn all(outbox: &mut Outbox) -> Vec<u64> {
    seqs(&outbox.peek(usize::MAX, usize::MAX))
}

#[test]
fn what_is_stored_survives_a_restart_in_its_order() {
    let folder = Folder::new();
    let (mut outbox, recovered) = open(&folder.0, MIB);
    assert_eq!(recovered, Recovered::default());
    for seq in 0..50 {
        store(&mut outbox, seq..seq + 1, if seq % 3 == 0 { Class::Heartbeat } else { Class::Change });
    }
    let before = outbox.peek(usize::MAX, usize::MAX);
    drop(outbox);
    let (mut outbox, recovered) = open(&folder.0, MIB);
    assert_eq!((recovered.waiting, recovered.torn_bytes, recovered.damaged), (50, 0, 0));
    assert_eq!(outbox.peek(usize::MAX, usize::MAX), before);
    assert_eq!(all(&mut outbox), (0..50).collect::<Vec<_>>());
}

#[test]
fn what_is_delivered_is_gone_and_numbers_go_on() {
    let folder = Folder::new();
    let (mut outbox, _) = open(&folder.0, MIB);
    store(&mut outbox, 0..30, Class::Change);
    let third = outbox.peek(10, usize::MAX);
    outbox.ack(third[9].number).expect("noted");
    assert_eq!((outbox.waiting(), all(&mut outbox).first().copied()), (20, Some(10)));
    drop(outbox);
    let (mut outbox, recovered) = open(&folder.0, MIB);
    assert_eq!((recovered.waiting, all(&mut outbox).first().copied()), (20, Some(10)));
    outbox.ack(u64::MAX).expect("noted");
    assert_eq!((outbox.waiting(), all(&mut outbox)), (0, vec![]));
    drop(outbox);
    let (mut outbox, recovered) = open(&folder.0, MIB);
    assert_eq!((recovered.waiting, folder.segments().len()), (0, 0));
    store(&mut outbox, 30..31, Class::Change);
    assert_eq!(outbox.peek(1, 1)[0].number, 31);
}

#[test]
fn a_batch_is_as_large_as_was_asked_for() {
    let folder = Folder::new();
    let (mut outbox, _) = open(&folder.0, MIB);
    store(&mut outbox, 0..30, Class::Change);
    let length = outbox.peek(1, usize::MAX)[0].text.len();
    assert_eq!(outbox.peek(7, usize::MAX).len(), 7);
    assert_eq!(outbox.peek(usize::MAX, 5 * length).len(), 5);
    assert_eq!(outbox.peek(usize::MAX, 1).len(), 1, "one at least, else nothing would ever go out");
}

#[test]
fn little_traffic_needs_few_files() {
    let folder = Folder::new();
    let (mut outbox, _) = open(&folder.0, 64 * MIB);
    for seq in 0..500 {
        store(&mut outbox, seq..seq + 1, Class::Heartbeat);
        let number = outbox.peek(1, 1)[0].number;
        outbox.ack(number).expect("noted");
        assert!(folder.segments().len() <= 1);
    }
    assert_eq!(outbox.losses(), Losses::default());
}

#[test]
fn heartbeats_go_first_when_room_runs_out_and_the_oldest_of_them() {
    let folder = Folder::new();
    let (mut outbox, _) = open(&folder.0, 64 * 1024);
    store(&mut outbox, 0..100, Class::Change);
    store(&mut outbox, 1_000..2_000, Class::Heartbeat);
    let losses = outbox.losses();
    assert_eq!(losses.changes, 0);
    let left = all(&mut outbox);
    assert_eq!(left[..100], (0..100).collect::<Vec<_>>());
    assert_eq!(losses.heartbeats + left.len() as u64 - 100, 1_000, "what is not there was counted");
    assert_eq!(left.last(), Some(&1_999));
    assert!(left.len() > 130, "{}", left.len());
}

#[test]
fn changes_go_only_when_nothing_else_is_left() {
    let folder = Folder::new();
    let (mut outbox, _) = open(&folder.0, 64 * 1024);
    store(&mut outbox, 0..20, Class::Heartbeat);
    store(&mut outbox, 1_000..2_000, Class::Change);
    let losses = outbox.losses();
    assert_eq!(losses.heartbeats, 20);
    let left = all(&mut outbox);
    assert_eq!(losses.changes + left.len() as u64, 1_000);
    assert_eq!(left.last(), Some(&1_999));
    let size: u64 = folder.segments().iter().map(|path| fs::metadata(path).expect("a file").len()).sum();
    assert!(size <= 64 * 1024, "{size}");
    outbox.ack(u64::MAX).expect("noted");
    assert_eq!(outbox.losses(), losses, "what is delivered is not lost");
}

#[test]
fn what_goes_while_it_is_being_delivered_is_still_let_go_of() {
    let folder = Folder::new();
    let (mut outbox, _) = open(&folder.0, 64 * 1024);
    store(&mut outbox, 0..100, Class::Change);
    let sent = outbox.peek(100, usize::MAX);
    store(&mut outbox, 100..600, Class::Change);
    outbox.ack(sent[99].number).expect("noted");
    assert!(all(&mut outbox).first().is_some_and(|first| *first >= 100));
}

#[test]
fn two_agents_never_share_a_spool() {
    let folder = Folder::new();
    let (_outbox, _) = open(&folder.0, MIB);
    assert!(matches!(Outbox::open(&folder.0, MIB), Err(OutboxError::InUse(_))));
}

#[test]
fn a_disk_that_takes_nothing_costs_no_report() {
    let folder = Folder::new();
    let (mut outbox, _) = open(&folder.0, MIB);
    store(&mut outbox, 0..1, Class::Change);
    // The segment's folder is gone, as after a volume was detached; the open file still takes what it can.
    outbox.ack(u64::MAX).expect("noted");
    drop(outbox);
    let (mut outbox, _) = open(&folder.0, MIB);
    fs::remove_dir_all(&folder.0).expect("no folder");
    let error = outbox.store(&[report(1, Class::Change), report(2, Class::Heartbeat)]).expect_err("no disk");
    assert!(error.to_string().starts_with("failed to store 2 reports, they are held in memory: "), "{error}");
    assert_eq!((outbox.waiting(), all(&mut outbox)), (2, vec![1, 2]));
    assert!(matches!(outbox.ack(u64::MAX), Err(OutboxError::Ack(_))));
    assert_eq!(outbox.waiting(), 0);
    fs::create_dir_all(&folder.0).expect("a folder");
    store(&mut outbox, 3..4, Class::Change);
    assert_eq!((all(&mut outbox), outbox.losses()), (vec![3], Losses::default()));
}

#[test]
fn a_disk_that_hangs_holds_up_nobody_and_costs_no_report() {
    let folder = Folder::new();
    let (outbox, _) = open(&folder.0, MIB);
    drop(outbox);
    // Whoever opens a pipe for writing waits until somebody reads: the note of what is delivered goes through it.
    let pipe = folder.0.join("delivered.new");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: no mkfifo here");
        return;
    }
    let patience = Duration::from_millis(50);
    let (mut outbox, _) = Outbox::open_with(&folder.0, MIB, patience).expect("an outbox");
    store(&mut outbox, 0..3, Class::Change);
    let first = outbox.peek(1, usize::MAX)[0].number;
    let error = outbox.ack(first).expect_err("the disk hangs").to_string();
    assert_eq!(error, "failed to note what was delivered: the disk does not answer");
    // From here on nobody waits: reports go by memory.
    for seq in 3..6 {
        let error = outbox.store(&[report(seq, Class::Change)]).expect_err("the disk hangs");
        assert!(error.to_string().ends_with("the disk does not answer"), "{error}");
    }
    let records = outbox.peek(usize::MAX, usize::MAX);
    assert_eq!(seqs(&records), [3, 4, 5]);
    // Somebody reads at last, and the disk answers again.
    let mut pipe = fs::File::open(&pipe).expect("the pipe");
    io::Read::read_to_end(&mut pipe, &mut Vec::new()).expect("what was noted");
    let mut left = Vec::new();
    while left.len() < 5 {
        left = all(&mut outbox);
    }
    assert_eq!(left, [1, 2, 3, 4, 5]);
    store(&mut outbox, 6..7, Class::Change);
    assert_eq!((all(&mut outbox), outbox.losses()), (vec![1, 2, 3, 4, 5, 6], Losses::default()));
}

#[test]
fn a_state_is_found_again_by_the_next_start() {
    let folder = Folder::new();
    let (mut outbox, recovered) = open(&folder.0, MIB);
    assert_eq!(recovered.state, None);
    outbox.remember("first".to_owned()).expect("stored");
    outbox.remember("second".to_owned()).expect("stored");
    drop(outbox);
    assert_eq!(open(&folder.0, MIB).1.state.as_deref(), Some("second"));
}

#[test]
fn memory_is_bounded_and_keeps_what_weighs_most() {
    let mut outbox = Outbox::in_memory();
    store(&mut outbox, 0..10, Class::Change);
    store(&mut outbox, 10..10_000, Class::Heartbeat);
    assert_eq!(all(&mut outbox)[..10], (0..10).collect::<Vec<_>>());
    let losses = outbox.losses();
    assert_eq!((losses.changes, losses.heartbeats + outbox.waiting()), (0, 10_000));
    assert!(losses.heartbeats > 0);
}
