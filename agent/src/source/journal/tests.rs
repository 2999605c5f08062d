//! Tests with journal files that are written byte by byte, so that every kind of damage can be tested.
//! `agent/tests/journal.rs` reads files that systemd wrote.

use std::{collections::HashMap, io::Write as _};

use jiff::SignedDuration;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const MACHINE: &str = "var/log/journal/0123456789abcdef0123456789abcdef";
const UNITS: [&str; 2] = ["kubelet.service", "containerd.service"];

/// A journal file in memory.
#[derive(Clone)]
struct JournalWriter {
    bytes: Vec<u8>,
    compact: bool,
    fields: HashMap<Vec<u8>, u64>,
    /// The offset of the next entry's item, and the number of free items.
    slot: usize,
    slots: usize,
    /// The offset of the field that links the next array.
    link: usize,
    /// The number of items of the next array.
    capacity: usize,
}

impl JournalWriter {
    fn new(sequence: u8, compact: bool) -> Self {
        let mut bytes = vec![0; 256];
        bytes[..8].copy_from_slice(b"LPKSHHRH");
        bytes[12] = 4 | 8 | u8::from(compact) << 4;
        bytes[72..88].fill(sequence);
        Self { bytes, compact, fields: HashMap::new(), slot: 0, slots: 0, link: 176, capacity: 2 }
    }

    fn put(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn object(&mut self, kind: u8, flags: u8, body: &[u8]) -> u64 {
        let at = self.bytes.len();
        self.bytes.extend([kind, flags, 0, 0, 0, 0, 0, 0]);
        self.bytes.extend((16 + body.len() as u64).to_le_bytes());
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        at as u64
    }

    fn field(&mut self, field: &[u8], flags: u8) -> u64 {
        if let Some(at) = self.fields.get(field) {
            return *at;
        }
        let mut body = vec![0; if self.compact { 56 } else { 48 }];
        body.extend(field);
        let at = self.object(1, flags, &body);
        self.fields.insert(field.to_vec(), at);
        at
    }

    fn entry(&mut self, number: u64, micros: u64, fields: &[&[u8]]) -> u64 {
        let offsets: Vec<u64> = fields.iter().map(|field| self.field(field, 0)).collect();
        self.entry_of(number, micros, &offsets)
    }

    fn entry_of(&mut self, number: u64, micros: u64, offsets: &[u64]) -> u64 {
        let mut body = vec![0; 48];
        body[..8].copy_from_slice(&number.to_le_bytes());
        body[8..16].copy_from_slice(&micros.to_le_bytes());
        for offset in offsets {
            if self.compact {
                body.extend(u32::try_from(*offset).expect("a small file").to_le_bytes());
            } else {
                body.extend(offset.to_le_bytes());
                body.extend([0xaa; 8]);
            }
        }
        let at = self.object(3, 0, &body);
        let width = if self.compact { 4 } else { 8 };
        if self.slots == 0 {
            let array = self.object(6, 0, &vec![0; 8 + self.capacity * width]);
            self.put(self.link, array);
            self.link = array as usize + 16;
            self.slot = array as usize + 24;
            self.slots = self.capacity;
            self.capacity *= 2;
        }
        self.bytes[self.slot..self.slot + width].copy_from_slice(&at.to_le_bytes()[..width]);
        self.slot += width;
        self.slots -= 1;
        let entries = u64::from_le_bytes(self.bytes[152..160].try_into().expect("8 bytes"));
        if entries == 0 {
            self.put(168, number);
            self.put(184, micros);
        }
        self.put(152, entries + 1);
        at
    }

    fn message(&mut self, number: u64, unit: &str, text: &str) {
        let unit = format!("_SYSTEMD_UNIT={unit}");
        let text = format!("MESSAGE={text}");
        self.entry(number, 1_000_000 * number, &[b"PRIORITY=6", unit.as_bytes(), text.as_bytes()]);
    }
}

/// A node's journal directory.
struct JournalNode(TempDir);

impl JournalNode {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join(MACHINE)).expect("a directory");
        Self(root)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(MACHINE).join(name)
    }

    /// Writes in place like journald, so that a reader's open file sees it.
    fn write(&self, name: &str, writer: &JournalWriter) {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(name))
            .expect("a journal file");
        file.write_all(&writer.bytes).expect("room on the disk");
    }

    fn journal(&self, position: Option<&JournalPosition>) -> Journal {
        Journal::new(self.0.path(), &UNITS, Timestamp::UNIX_EPOCH, position)
    }
}

fn clocks() -> Clocks {
    Clocks { wall: Timestamp::from_second(5000).expect("a time"), up: SignedDuration::from_secs(100) }
}

fn take(journal: &mut Journal) -> Vec<String> {
    let mut seen = Vec::new();
    while journal.poll(&clocks(), &mut |signal| {
        seen.push(match signal {
            Signal::Line(line) => line.text.into_owned(),
            Signal::GapNotice(notice) => format!("{:?}", notice.gap),
        });
    }) == Progress::More
    {}
    seen
}

fn restart(node: &JournalNode, journal: &Journal) -> Journal {
    let saved = serde_json::to_string(&journal.position()).expect("a position");
    node.journal(serde_json::from_str::<Option<JournalPosition>>(&saved).expect("a position").as_ref())
}

#[test]
fn the_wanted_units_are_read_and_no_others() {
    for compact in [false, true] {
        let node = JournalNode::new();
        let mut writer = JournalWriter::new(1, compact);
        writer.message(1, "kubelet.service", "one");
        writer.message(2, "sshd.service", "of no interest");
        writer.message(3, "containerd.service", "two");
        writer.message(4, "kubelet.service.d", "a longer name");
        // systemd's messages about a unit are read; a program's claim about a unit is not.
        writer.entry(
            5,
            5,
            &[b"_PID=1", b"_SYSTEMD_UNIT=init.scope", b"UNIT=kubelet.service", b"MESSAGE=Stopped"],
        );
        writer.entry(
            6,
            6,
            &[b"_PID=1234", b"_SYSTEMD_UNIT=x.service", b"UNIT=kubelet.service", b"MESSAGE=Lie"],
        );
        writer.entry(7, 7, &[b"_SYSTEMD_UNIT=kubelet.service"]);
        writer.entry(8, 8, &[b"_SYSTEMD_UNIT=kubelet.service", b"MESSAGE=three\nfour"]);
        node.write(LIVE, &writer);
        let mut journal = node.journal(None);
        assert_eq!(take(&mut journal), ["one", "two", "Stopped", "three", "four"], "compact: {compact}");
        assert_eq!(journal.position().expect("a position").sequences.values().collect::<Vec<_>>(), [&8]);
    }
}

#[test]
fn a_line_has_its_unit_and_time() {
    let node = JournalNode::new();
    let mut writer = JournalWriter::new(1, true);
    writer.message(7, "kubelet.service", "one");
    node.write(LIVE, &writer);
    let mut lines = Vec::new();
    let progress = node.journal(None).poll(&clocks(), &mut |signal| lines.push(signal.into_owned()));
    assert_eq!(progress, Progress::Drained);
    let origin = Origin::Unit("kubelet.service".into());
    let at = Timestamp::from_second(7).expect("a time");
    assert_eq!(lines, [Signal::Line(LogLine { origin, at, text: "one".into() })]);
}

#[test]
fn what_is_appended_comes_once() {
    let node = JournalNode::new();
    let mut writer = JournalWriter::new(1, true);
    let mut journal = node.journal(None);
    assert!(take(&mut journal).is_empty());
    assert_eq!(journal.files(), 0);
    for number in 1..40 {
        writer.message(number, "kubelet.service", &format!("line {number}"));
        node.write(LIVE, &writer);
        assert_eq!(take(&mut journal), [format!("line {number}")]);
        assert!(take(&mut journal).is_empty());
    }
    assert_eq!(journal.files(), 1);
}

#[test]
fn a_rotation_loses_and_repeats_nothing() {
    let node = JournalNode::new();
    let mut writer = JournalWriter::new(1, true);
    writer.message(1, "kubelet.service", "one");
    node.write(LIVE, &writer);
    let mut journal = node.journal(None);
    assert_eq!(take(&mut journal), ["one"]);
    writer.message(2, "kubelet.service", "two, unseen before the rotation");
    node.write(LIVE, &writer);
    fs::rename(node.path(LIVE), node.path("system@1-1.journal")).expect("a renamed file");
    let mut next = JournalWriter::new(1, true);
    next.message(3, "kubelet.service", "three");
    node.write(LIVE, &next);
    assert_eq!(take(&mut journal), ["two, unseen before the rotation", "three"]);
    // Deleted for space, and the inode reused.
    fs::remove_file(node.path("system@1-1.journal")).expect("a file to delete");
    fs::rename(node.path(LIVE), node.path("system@1-3.journal")).expect("a renamed file");
    let mut next = JournalWriter::new(1, true);
    next.message(4, "kubelet.service", "four");
    node.write(LIVE, &next);
    assert_eq!(take(&mut journal), ["four"]);
    assert!(take(&mut journal).is_empty());
}

#[test]
fn a_restart_continues_after_the_last_entry_even_if_the_clock_was_set() {
    let node = JournalNode::new();
    let mut writer = JournalWriter::new(1, true);
    for number in 1..=20 {
        writer.message(number, "kubelet.service", &format!("line {number}"));
    }
    node.write(LIVE, &writer);
    let mut journal = node.journal(None);
    assert_eq!(take(&mut journal).len(), 20);
    assert!(take(&mut restart(&node, &journal)).is_empty());
    // The clock is set back before all entries, and the file is rotated while the agent is stopped.
    writer.entry(21, 3, &[b"_SYSTEMD_UNIT=kubelet.service", b"MESSAGE=before the rotation"]);
    node.write(LIVE, &writer);
    fs::rename(node.path(LIVE), node.path("system@1-1.journal")).expect("a renamed file");
    let mut next = JournalWriter::new(1, true);
    next.entry(22, 1, &[b"_SYSTEMD_UNIT=kubelet.service", b"MESSAGE=after it"]);
    node.write(LIVE, &next);
    assert_eq!(take(&mut restart(&node, &journal)), ["before the rotation", "after it"]);
}

#[test]
fn a_first_start_begins_at_the_given_time() {
    let node = JournalNode::new();
    let mut writer = JournalWriter::new(1, true);
    for number in 1..=50 {
        writer.message(number, "kubelet.service", &format!("line {number}"));
    }
    node.write(LIVE, &writer);
    for (since, expected) in [(0, 50), (1, 50), (2, 49), (37, 14), (50, 1), (51, 0)] {
        let since = Timestamp::from_second(since).expect("a time");
        let mut journal = Journal::new(node.0.path(), &UNITS, since, None);
        let seen = take(&mut journal);
        assert_eq!(seen.len(), expected, "since {since}");
        assert!(take(&mut restart(&node, &journal)).is_empty(), "since {since}");
    }
}

#[test]
fn a_new_sequence_is_read_from_its_start_and_after_the_old_one() {
    let node = JournalNode::new();
    let mut old = JournalWriter::new(9, true);
    old.message(500, "kubelet.service", "old");
    node.write("system@9-500.journal~", &old);
    let mut new = JournalWriter::new(1, true);
    new.message(501, "sshd.service", "nothing");
    new.message(502, "kubelet.service", "new");
    node.write(LIVE, &new);
    let mut journal = node.journal(None);
    assert_eq!(take(&mut journal), ["old", "new"]);
    let mut third = JournalWriter::new(5, true);
    third.message(1, "kubelet.service", "newest");
    fs::rename(node.path(LIVE), node.path("system@1-501.journal")).expect("a renamed file");
    node.write(LIVE, &third);
    assert_eq!(take(&mut restart(&node, &journal)), ["newest"]);
    assert_eq!(take(&mut journal), ["newest"]);
}

#[test]
fn entries_that_were_deleted_before_they_were_read_are_reported() {
    let node = JournalNode::new();
    let mut writer = JournalWriter::new(1, true);
    writer.message(1, "kubelet.service", "one");
    node.write(LIVE, &writer);
    let mut journal = node.journal(None);
    take(&mut journal);
    fs::remove_file(node.path(LIVE)).expect("a file to delete");
    let mut later = JournalWriter::new(1, true);
    later.message(900, "kubelet.service", "much later");
    node.write(LIVE, &later);
    assert_eq!(take(&mut restart(&node, &journal)), ["Lost(None)", "much later"]);
}

#[test]
fn an_unreadable_file_is_reported_once_and_blocks_no_other() {
    let node = JournalNode::new();
    fs::write(node.path("system@0-0.journal"), vec![0xff; 4096]).expect("a file");
    let mut flags = JournalWriter::new(2, true);
    flags.bytes[13] = 0x80;
    node.write("system@0-1.journal", &flags);
    fs::write(node.path("user-1000.journal"), "not ours").expect("a file");
    let mut writer = JournalWriter::new(1, true);
    writer.message(1, "kubelet.service", "one");
    node.write(LIVE, &writer);
    let mut journal = node.journal(None);
    assert_eq!(take(&mut journal), ["Unreadable(1)", "Unreadable(1)", "one"]);
    assert!(take(&mut journal).is_empty());
}

#[test]
fn a_broken_entry_is_counted_and_the_next_one_read() {
    let node = JournalNode::new();
    let mut writer = JournalWriter::new(1, true);
    writer.message(1, "kubelet.service", "one");
    let broken = writer.entry(2, 2, &[b"_SYSTEMD_UNIT=kubelet.service", b"MESSAGE=broken"]);
    writer.message(3, "kubelet.service", "three");
    writer.bytes[broken as usize] = 77;
    writer.entry_of(4, 4, &[1 << 30]);
    writer.message(5, "kubelet.service", "five");
    node.write(LIVE, &writer);
    assert_eq!(take(&mut node.journal(None)), ["one", "three", "five", "Unreadable(2)"]);
}

#[test]
fn a_broken_chain_counts_all_that_it_led_to_and_new_files_are_read() {
    let node = JournalNode::new();
    let mut writer = JournalWriter::new(1, true);
    for number in 1..=20 {
        writer.message(number, "kubelet.service", &format!("line {number}"));
    }
    // The first array has two items; its link points back to itself.
    let first = u64::from_le_bytes(writer.bytes[176..184].try_into().expect("8 bytes"));
    writer.put(first as usize + 16, first);
    node.write(LIVE, &writer);
    let mut journal = node.journal(None);
    assert_eq!(take(&mut journal), ["line 1", "line 2", "Unreadable(18)"]);
    fs::rename(node.path(LIVE), node.path("system@1-1.journal")).expect("a renamed file");
    let mut next = JournalWriter::new(1, true);
    next.message(21, "kubelet.service", "line 21");
    node.write(LIVE, &next);
    assert_eq!(take(&mut journal), ["line 21"]);
}

#[test]
fn a_packed_message_is_unpacked_and_a_long_one_cut() {
    let node = JournalNode::new();
    let mut writer = JournalWriter::new(1, true);
    let long = format!("MESSAGE={}", "x".repeat(crate::source::LINE_LIMIT + 1));
    let pack = |text: &str| {
        ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
    };
    let unit = writer.field(b"_SYSTEMD_UNIT=kubelet.service", 0);
    let other = writer.field(&pack("_CMDLINE=kubelet --many --flags"), 4);
    let message = writer.field(&pack("MESSAGE=a packed line"), 4);
    writer.entry_of(1, 1, &[other, unit, message]);
    let message = writer.field(&pack(&long), 4);
    writer.entry_of(2, 2, &[unit, message]);
    let message = writer.field(long.as_bytes(), 0);
    writer.entry_of(3, 3, &[message, unit]);
    let message = writer.field(b"an old node's xz", 1);
    writer.entry_of(4, 4, &[message, unit]);
    node.write(LIVE, &writer);
    let seen = take(&mut node.journal(None));
    let short: Vec<_> = seen.iter().map(|line| &line[..line.len().min(20)]).collect();
    let x = &long[8..28];
    assert_eq!(short, ["a packed line", x, "Truncated", x, "Truncated", "Unreadable(1)"]);
    assert_eq!(seen[1].len(), crate::source::LINE_LIMIT);
}

#[test]
fn a_file_that_is_being_created_is_not_reported_as_unreadable() {
    let node = JournalNode::new();
    fs::write(node.path(LIVE), "").expect("a file");
    let mut journal = node.journal(None);
    assert!(take(&mut journal).is_empty());
    let mut writer = JournalWriter::new(1, true);
    writer.message(1, "kubelet.service", "one");
    node.write(LIVE, &writer);
    assert_eq!(take(&mut journal), ["one"]);
}

proptest! {
    #[test]
    fn no_damage_panics_or_hangs(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        length: prop::sample::Index,
        compact: bool,
    ) {
        let node = JournalNode::new();
        let mut writer = JournalWriter::new(1, compact);
        for number in 1..=12 {
            writer.message(number, UNITS[usize::from(number % 2 == 0)], &format!("line {number}"));
        }
        for (at, byte) in damage {
            let at = at.index(writer.bytes.len());
            writer.bytes[at] = byte;
        }
        writer.bytes.truncate(writer.bytes.len() / 2 + length.index(writer.bytes.len() / 2 + 1));
        node.write(LIVE, &writer);
        let mut journal = node.journal(None);
        let seen = take(&mut journal);
        prop_assert!(seen.len() <= 30);
        take(&mut restart(&node, &journal));
    }

    #[test]
    fn each_line_is_emitted_once_under_any_polls_and_restarts(
        steps in prop::collection::vec(0_u8..6, 1..60), compact: bool,
    ) {
        let node = JournalNode::new();
        let mut writer = JournalWriter::new(1, compact);
        let mut journal = node.journal(None);
        let (mut number, mut seen, mut written) = (0, Vec::new(), Vec::new());
        for step in steps {
            match step {
                0..=2 => {
                    number += 1;
                    writer.message(number, ["kubelet.service", "sshd.service"][usize::from(step == 2)], &format!("{number}"));
                    if step < 2 {
                        written.push(number.to_string());
                    }
                    node.write(LIVE, &writer);
                }
                3 => seen.extend(take(&mut journal)),
                4 => journal = restart(&node, &journal),
                _ => {
                    if node.path(LIVE).exists() {
                        fs::rename(node.path(LIVE), node.path(&format!("system@1-{number:04}.journal")))
                            .expect("a renamed file");
                    }
                    writer = JournalWriter::new(1, compact);
                }
            }
        }
        seen.extend(take(&mut journal));
        prop_assert_eq!(seen, written);
    }
}
