//! Over real files, with a clock of our own.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{signal::Origin, source::Signal};

const LOG: &str = "/var/log/app/x.log";

/// A node with one log, its writer, and us.
struct Node {
    root: TempDir,
    writer: File,
    files: Files,
    up: i64,
    seen: Vec<String>,
    /// Numbers the rotated files.
    rotations: u32,
}

impl Node {
    fn new(start: Start) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("var/log/app")).expect("a folder");
        let files = Files::new(root.path(), &[LOG], start, None).expect("a path");
        let writer = append(&root.path().join("var/log/app/x.log"));
        Self { root, writer, files, up: 1000, seen: Vec::new(), rotations: 0 }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("var/log/app/x.log")
    }

    fn write(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).expect("room on the disk");
    }

    fn reopen(&mut self) {
        self.writer = append(&self.path());
    }

    /// Renames the log; the writer goes on writing to it until it reopens.
    fn rename(&mut self) -> PathBuf {
        self.rotations += 1;
        let old = self.root.path().join(format!("var/log/app/x.log.{:04}", self.rotations));
        fs::rename(self.path(), &old).expect("a renamed file");
        old
    }

    fn copy(&mut self) {
        self.rotations += 1;
        let copy = self.root.path().join(format!("var/log/app/x.log.{:04}", self.rotations));
        fs::copy(self.path(), copy).expect("a copy");
    }

    fn truncate(&mut self) {
        self.writer.set_len(0).expect("a shorter file");
    }

    fn poll(&mut self) {
        self.up += 1;
        let clocks = self.clocks();
        let (files, seen) = (&mut self.files, &mut self.seen);
        while files.poll(&clocks, &mut |signal| {
            seen.push(match signal {
                Signal::Line(line) => line.text.into_owned(),
                Signal::Notice(notice) => format!("{:?}", notice.flaw),
            });
        }) == Progress::More
        {}
    }

    fn clocks(&self) -> Clocks {
        Clocks {
            wall: Timestamp::from_second(1_700_000_000 + self.up).expect("a time"),
            up: SignedDuration::from_secs(self.up),
        }
    }

    /// Kills us and starts us again with the position that was kept, as text.
    fn restart(&mut self) {
        let kept = serde_json::to_string(&self.files.position()).expect("a position");
        let position = serde_json::from_str(&kept).expect("a position");
        self.files = Files::new(self.root.path(), &[LOG], Start::End, Some(position)).expect("a path");
    }

    fn take(&mut self) -> Vec<String> {
        self.poll();
        std::mem::take(&mut self.seen)
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).expect("a log")
}

#[test]
fn what_is_appended_comes_once_and_a_half_line_waits() {
    let mut node = Node::new(Start::Beginning);
    node.write("one\ntw");
    assert_eq!(node.take(), ["one"]);
    node.write("o\nthree\n");
    assert_eq!(node.take(), ["two", "three"]);
    assert!(node.take().is_empty());
}

#[test]
fn a_line_says_which_file_and_when() {
    let mut node = Node::new(Start::Beginning);
    node.write("2024-05-01T10:00:00Z stdout F said\nplain\n");
    let clocks = node.clocks();
    let mut lines = Vec::new();
    let progress = node.files.poll(&clocks, &mut |signal| match signal.into_owned() {
        Signal::Line(line) => lines.push(line),
        Signal::Notice(notice) => panic!("{notice:?}"),
    });
    assert_eq!(progress, Progress::Drained);
    assert_eq!(lines[0].origin, Origin::File(LOG.into()));
    assert_eq!(lines[0].at, "2024-05-01T10:00:00Z".parse().expect("a time"));
    assert_eq!(lines[1].at, clocks.wall, "a line without a time was written by now");
}

#[test]
fn a_first_start_at_the_end_hears_only_what_is_new() {
    let mut node = Node::new(Start::End);
    node.write("old\nhalf ");
    assert!(node.take().is_empty());
    node.write("a line\nnew\n");
    assert_eq!(node.take(), ["new"], "the rest of a line is no line");
    // A log that is made later is heard from its start.
    node.rename();
    node.reopen();
    node.write("first\n");
    assert_eq!(node.take(), ["first"]);
}

#[test]
fn a_renamed_file_is_read_to_its_end_and_the_new_one_from_its_start() {
    let mut node = Node::new(Start::Beginning);
    node.write("one\n");
    assert_eq!(node.take(), ["one"]);
    node.write("unseen before the rename\n");
    node.rename();
    node.write("after the rename\n");
    node.reopen();
    node.write("new\n");
    assert_eq!(node.take(), ["unseen before the rename", "after the rename", "new"]);
}

#[test]
fn a_writer_that_stays_with_the_renamed_file_is_heard_for_a_minute() {
    let mut node = Node::new(Start::Beginning);
    node.write("one\n");
    node.poll();
    node.rename();
    drop(append(&node.path()));
    node.poll();
    node.up += 50;
    node.write("late\n");
    assert_eq!(node.take(), ["one", "late"]);
    node.up += 61;
    node.poll();
    assert_eq!(node.files.position().paths[LOG].len(), 1, "the old file is left");
}

#[test]
fn half_a_line_at_the_end_of_an_old_file_is_not_lost() {
    let mut node = Node::new(Start::Beginning);
    node.write("one\nkilled while wri");
    node.poll();
    node.rename();
    node.reopen();
    node.write("new\n");
    node.poll();
    node.up += 61;
    assert_eq!(node.take(), ["one", "new", "killed while wri"]);
}

#[test]
fn several_rotations_between_two_looks_lose_nothing() {
    let mut node = Node::new(Start::Beginning);
    node.write("one\n");
    node.poll();
    for text in ["two\n", "three\n", "four\n"] {
        node.rename();
        node.reopen();
        node.write(text);
    }
    let mut seen = node.take();
    seen.sort_unstable();
    assert_eq!(seen, ["four", "one", "three", "two"]);
}

#[test]
fn a_file_cut_back_after_a_copy_loses_nothing() {
    let mut node = Node::new(Start::Beginning);
    node.write("one\n");
    node.poll();
    node.write("unseen before the copy\nhalf ");
    node.copy();
    node.truncate();
    node.write("new\n");
    node.poll();
    node.up += 61;
    assert_eq!(node.take(), ["one", "unseen before the copy", "new", "half "]);
    assert!(node.take().is_empty());
}

#[test]
fn a_file_that_was_cut_back_and_grew_beyond_is_read_from_its_start() {
    let mut node = Node::new(Start::Beginning);
    node.write("one\ntwo\n");
    assert_eq!(node.take(), ["one", "two"]);
    node.truncate();
    node.write("a much longer line than the two before\nanother\n");
    assert_eq!(node.take(), ["a much longer line than the two before", "another"]);
    // To the same size, to the byte.
    let before = fs::metadata(node.path()).expect("a file").modified().expect("a time");
    node.truncate();
    node.write("b much longer line than the two before\nanother\n");
    let later = before + std::time::Duration::from_secs(1);
    node.writer.set_modified(later).expect("a later time");
    assert_eq!(node.take(), ["b much longer line than the two before", "another"]);
}

#[test]
fn a_restart_goes_on_at_the_line_and_in_the_file_where_it_was() {
    let mut node = Node::new(Start::Beginning);
    node.write("one\nhal");
    node.poll();
    node.restart();
    node.write("f\n");
    assert_eq!(node.take(), ["one", "half"]);
    // Rotated while we were away, twice.
    node.write("unseen\n");
    node.rename();
    node.reopen();
    node.write("between\n");
    node.rename();
    node.reopen();
    node.write("new\n");
    node.restart();
    assert_eq!(node.take(), ["unseen", "between", "new"]);
    // Copied and cut back while we were away.
    node.write("in the copy\n");
    node.copy();
    node.truncate();
    node.write("after\n");
    node.restart();
    assert_eq!(node.take(), ["in the copy", "after"]);
}

#[test]
fn a_file_that_is_gone_after_a_restart_is_told() {
    let mut node = Node::new(Start::Beginning);
    node.write("one\n");
    node.poll();
    let old = node.rename();
    node.reopen();
    node.write("new\n");
    fs::remove_file(old).expect("a file to delete");
    node.restart();
    assert_eq!(node.take(), ["one", "Lost(None)", "new"]);
}

#[test]
fn a_folder_in_the_logs_place_is_told_once_and_the_log_read_when_it_is_there() {
    let mut node = Node::new(Start::Beginning);
    node.rename();
    fs::create_dir(node.path()).expect("a folder");
    assert_eq!(node.take(), ["Unreadable(1)"]);
    assert!(node.take().is_empty());
    fs::remove_dir(node.path()).expect("a folder to delete");
    node.reopen();
    node.write("one\n");
    assert_eq!(node.take(), ["one"]);
}

#[test]
fn a_long_line_is_cut_and_told() {
    let mut node = Node::new(Start::Beginning);
    node.write(&format!("{}\nnext\n", "x".repeat(1_000_000)));
    let seen = node.take();
    assert_eq!(
        (seen[0].len(), &seen[1..]),
        (crate::source::LINE_LIMIT, &["Cut".to_owned(), "next".to_owned()][..])
    );
}

#[test]
fn more_than_a_batch_comes_in_batches_and_in_order() {
    let mut node = Node::new(Start::Beginning);
    let lines: Vec<_> = (0..300_000).map(|line| format!("line {line}")).collect();
    node.write(&format!("{}\n", lines.join("\n")));
    assert_eq!(node.take(), lines);
}

#[test]
fn a_rotated_file_that_the_pattern_names_too_is_not_read_twice() {
    let mut node = Node::new(Start::Beginning);
    node.files =
        Files::new(node.root.path(), &["/var/log/app/*"], Start::Beginning, None).expect("a pattern");
    node.write("one\n");
    node.poll();
    node.rename();
    node.reopen();
    node.write("two\n");
    node.poll();
    node.up += 61;
    node.poll();
    node.poll();
    assert_eq!(node.take(), ["one", "two"]);
    assert!(node.take().is_empty());
}

#[test]
fn pods_that_come_and_go_are_followed_by_their_pattern() {
    let root = tempfile::tempdir().expect("a folder");
    let pattern = "/var/log/pods/kube-system_aws-node-*/aws-node/*.log";
    let mut files = Files::new(root.path(), &[pattern], Start::End, None).expect("a pattern");
    let mut up = 0;
    let mut take = |files: &mut Files| {
        let mut seen = Vec::new();
        up += 1;
        let clocks = Clocks { wall: Timestamp::UNIX_EPOCH, up: SignedDuration::from_secs(up * 100) };
        let progress = files.poll(&clocks, &mut |signal| match signal {
            Signal::Line(line) => seen.push(line.text.into_owned()),
            Signal::Notice(notice) => panic!("{notice:?}"),
        });
        assert_eq!(progress, Progress::Drained);
        seen
    };
    assert!(take(&mut files).is_empty());
    for pod in ["a", "b"] {
        let folder = root.path().join(format!("var/log/pods/kube-system_aws-node-{pod}/aws-node"));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("0.log"), format!("2024-05-01T10:00:00Z stderr F from {pod}\n"))
            .expect("a log");
    }
    assert_eq!(take(&mut files), ["from a", "from b"]);
    fs::remove_dir_all(root.path().join("var/log/pods/kube-system_aws-node-a")).expect("a folder to delete");
    assert!(take(&mut files).is_empty());
    assert_eq!(files.position().paths.len(), 1, "a pod that is gone is forgotten");
}

/// What happens to a log.
#[derive(Debug, Clone)]
enum Happening {
    Write(u8),
    Half,
    /// Renames the log; its writer stays with it.
    Rename,
    /// Renames the log if it still has its name, and makes a new one.
    Rotate,
    CopyAndCut,
    /// Cut back with no copy: what was not seen before is lost, so that it is looked at first.
    LookAndCut,
    Look,
    Wait,
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1_u8..5).prop_map(Happening::Write),
        1 => Just(Happening::Half),
        1 => Just(Happening::Rename),
        2 => Just(Happening::Rotate),
        1 => Just(Happening::CopyAndCut),
        1 => Just(Happening::LookAndCut),
        4 => Just(Happening::Look),
        1 => Just(Happening::Wait),
        1 => Just(Happening::Restart),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_to_a_log_each_line_comes_once(happenings in prop::collection::vec(happening(), 1..40)) {
        let mut node = Node::new(Start::Beginning);
        let (mut written, mut open_half) = (Vec::new(), false);
        // Whether we have looked at this content: one that comes and is cut back between two looks is lost.
        let mut looked = false;
        // A file that is renamed before the first look is not ours to find.
        node.poll();
        for happening in happenings {
            match happening {
                Happening::Write(count) => {
                    for _ in 0..count {
                        let line = format!("line {}", written.len());
                        node.write(&format!("{line}\n"));
                        if open_half {
                            open_half = false;
                            let half = written.last_mut().expect("a half line");
                            *half = format!("{half}{line}");
                            // Keeps the numbers unique.
                            written.push(String::new());
                        } else {
                            written.push(line);
                        }
                    }
                }
                Happening::Half if !open_half => {
                    let half = format!("half {} ", written.len());
                    node.write(&half);
                    written.push(half);
                    open_half = true;
                }
                Happening::Half => {}
                Happening::Rotate => {
                    looked = false;
                    if node.path().exists() {
                        node.rename();
                    }
                    node.reopen();
                    open_half = false;
                }
                Happening::Rename => {
                    if node.path().exists() {
                        node.rename();
                    }
                }
                Happening::CopyAndCut if node.path().exists() => {
                    if !looked {
                        node.poll();
                    }
                    looked = false;
                    node.reopen();
                    node.copy();
                    node.truncate();
                    open_half = false;
                }
                Happening::CopyAndCut => {}
                Happening::LookAndCut => {
                    if open_half {
                        node.write("\n");
                    }
                    node.poll();
                    looked = false;
                    node.truncate();
                    open_half = false;
                }
                Happening::Look => {
                    node.poll();
                    looked = node.path().metadata().is_ok_and(|file| file.len() > 0);
                }
                Happening::Wait => node.up += 10,
                Happening::Restart => node.restart(),
            }
        }
        if open_half {
            node.write("\n");
        }
        node.poll();
        node.up += 61;
        node.poll();
        // A restart after a cut says that it cannot know whether something is missing.
        let mut seen: Vec<_> = node.seen.iter().filter(|line| *line != "Lost(None)").cloned().collect();
        let mut expected: Vec<_> = written.into_iter().filter(|line| !line.is_empty()).collect();
        seen.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(seen, expected);
    }
}
