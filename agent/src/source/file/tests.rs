//! Tests with real files and a simulated clock.

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

/// A node with one log, its writer, and the agent.
struct LogNode {
    root: TempDir,
    writer: File,
    files: LogFiles,
    up: i64,
    seen: Vec<String>,
    /// The number of the last rotated file.
    rotations: u32,
}

impl LogNode {
    fn new(start: StartAt) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("var/log/app")).expect("a directory");
        let files = LogFiles::new(root.path(), &[LOG], start, None).expect("a path");
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

    /// Renames the log. The writer continues to write to it until it reopens the path.
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
                Signal::GapNotice(notice) => format!("{:?}", notice.gap),
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

    /// Restarts the agent with the saved position, in its serialized form.
    fn restart(&mut self) {
        let saved = serde_json::to_string(&self.files.position()).expect("a position");
        let position = serde_json::from_str(&saved).expect("a position");
        self.files = LogFiles::new(self.root.path(), &[LOG], StartAt::End, Some(position)).expect("a path");
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
fn appended_lines_are_emitted_once_and_an_incomplete_line_waits() {
    let mut node = LogNode::new(StartAt::Beginning);
    node.write("one\ntw");
    assert_eq!(node.take(), ["one"]);
    node.write("o\nthree\n");
    assert_eq!(node.take(), ["two", "three"]);
    assert!(node.take().is_empty());
}

#[test]
fn a_line_has_its_file_and_time() {
    let mut node = LogNode::new(StartAt::Beginning);
    node.write("2024-05-01T10:00:00Z stdout F said\nplain\n");
    let clocks = node.clocks();
    let mut lines = Vec::new();
    let progress = node.files.poll(&clocks, &mut |signal| match signal.into_owned() {
        Signal::Line(line) => lines.push(line),
        Signal::GapNotice(notice) => panic!("{notice:?}"),
    });
    assert_eq!(progress, Progress::Drained);
    assert_eq!(lines[0].origin, Origin::File(LOG.into()));
    assert_eq!(lines[0].at, "2024-05-01T10:00:00Z".parse().expect("a time"));
    assert_eq!(lines[1].at, clocks.wall, "a line without a time was written by now");
}

#[test]
fn a_first_start_at_the_end_reads_only_new_lines() {
    let mut node = LogNode::new(StartAt::End);
    node.write("old\nhalf ");
    assert!(node.take().is_empty());
    node.write("a line\nnew\n");
    assert_eq!(node.take(), ["new"], "the rest of a line is no line");
    // A log that is created later is read from its start.
    node.rename();
    node.reopen();
    node.write("first\n");
    assert_eq!(node.take(), ["first"]);
}

#[test]
fn a_renamed_file_is_read_to_its_end_and_the_new_one_from_its_start() {
    let mut node = LogNode::new(StartAt::Beginning);
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
fn a_writer_of_the_renamed_file_is_read_for_a_minute() {
    let mut node = LogNode::new(StartAt::Beginning);
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
    assert_eq!(node.files.position().paths[LOG].len(), 1, "the rotated file is closed");
}

#[test]
fn an_incomplete_line_at_the_end_of_an_old_file_is_not_lost() {
    let mut node = LogNode::new(StartAt::Beginning);
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
fn several_rotations_between_two_polls_lose_nothing() {
    let mut node = LogNode::new(StartAt::Beginning);
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
    let mut node = LogNode::new(StartAt::Beginning);
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
    let mut node = LogNode::new(StartAt::Beginning);
    node.write("one\ntwo\n");
    assert_eq!(node.take(), ["one", "two"]);
    node.truncate();
    node.write("a much longer line than the two before\nanother\n");
    assert_eq!(node.take(), ["a much longer line than the two before", "another"]);
    // To exactly the same size.
    let before = fs::metadata(node.path()).expect("a file").modified().expect("a time");
    node.truncate();
    node.write("b much longer line than the two before\nanother\n");
    let later = before + std::time::Duration::from_secs(1);
    node.writer.set_modified(later).expect("a later time");
    assert_eq!(node.take(), ["b much longer line than the two before", "another"]);
}

#[test]
fn a_restart_continues_in_the_same_file_at_the_same_line() {
    let mut node = LogNode::new(StartAt::Beginning);
    node.write("one\nhal");
    node.poll();
    node.restart();
    node.write("f\n");
    assert_eq!(node.take(), ["one", "half"]);
    // Rotated twice while the agent was stopped.
    node.write("unseen\n");
    node.rename();
    node.reopen();
    node.write("between\n");
    node.rename();
    node.reopen();
    node.write("new\n");
    node.restart();
    assert_eq!(node.take(), ["unseen", "between", "new"]);
    // Copied and truncated while the agent was stopped.
    node.write("in the copy\n");
    node.copy();
    node.truncate();
    node.write("after\n");
    node.restart();
    assert_eq!(node.take(), ["in the copy", "after"]);
}

#[test]
fn a_file_that_is_gone_after_a_restart_is_reported() {
    let mut node = LogNode::new(StartAt::Beginning);
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
fn a_directory_in_place_of_a_log_is_reported_once_and_the_log_is_read_later() {
    let mut node = LogNode::new(StartAt::Beginning);
    node.rename();
    fs::create_dir(node.path()).expect("a directory");
    assert_eq!(node.take(), ["Unreadable(1)"]);
    assert!(node.take().is_empty());
    fs::remove_dir(node.path()).expect("a directory to delete");
    node.reopen();
    node.write("one\n");
    assert_eq!(node.take(), ["one"]);
}

#[test]
fn a_long_line_is_truncated_and_reported() {
    let mut node = LogNode::new(StartAt::Beginning);
    node.write(&format!("{}\nnext\n", "x".repeat(1_000_000)));
    let seen = node.take();
    assert_eq!(
        (seen[0].len(), &seen[1..]),
        (crate::source::LINE_LIMIT, &["Truncated".to_owned(), "next".to_owned()][..])
    );
}

#[test]
fn more_than_a_batch_comes_in_batches_and_in_order() {
    let mut node = LogNode::new(StartAt::Beginning);
    let lines: Vec<_> = (0..300_000).map(|line| format!("line {line}")).collect();
    node.write(&format!("{}\n", lines.join("\n")));
    assert_eq!(node.take(), lines);
}

#[test]
fn a_rotated_file_that_the_pattern_names_too_is_not_read_twice() {
    let mut node = LogNode::new(StartAt::Beginning);
    node.files =
        LogFiles::new(node.root.path(), &["/var/log/app/*"], StartAt::Beginning, None).expect("a pattern");
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
    let root = tempfile::tempdir().expect("a directory");
    let pattern = "/var/log/pods/kube-system_aws-node-*/aws-node/*.log";
    let mut files = LogFiles::new(root.path(), &[pattern], StartAt::End, None).expect("a pattern");
    let mut up = 0;
    let mut take = |files: &mut LogFiles| {
        let mut seen = Vec::new();
        up += 1;
        let clocks = Clocks { wall: Timestamp::UNIX_EPOCH, up: SignedDuration::from_secs(up * 100) };
        let progress = files.poll(&clocks, &mut |signal| match signal {
            Signal::Line(line) => seen.push(line.text.into_owned()),
            Signal::GapNotice(notice) => panic!("{notice:?}"),
        });
        assert_eq!(progress, Progress::Drained);
        seen
    };
    assert!(take(&mut files).is_empty());
    for pod in ["a", "b"] {
        let directory = root.path().join(format!("var/log/pods/kube-system_aws-node-{pod}/aws-node"));
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("0.log"), format!("2024-05-01T10:00:00Z stderr F from {pod}\n"))
            .expect("a log");
    }
    assert_eq!(take(&mut files), ["from a", "from b"]);
    fs::remove_dir_all(root.path().join("var/log/pods/kube-system_aws-node-a"))
        .expect("a directory to delete");
    assert!(take(&mut files).is_empty());
    assert_eq!(files.position().paths.len(), 1, "a removed pod has no position");
}

/// An operation on a log.
#[derive(Debug, Clone)]
enum LogOperation {
    Write(u8),
    Half,
    /// Renames the log; its writer continues to write to it.
    Rename,
    /// Renames the log if it still has its name, and creates a new one.
    Rotate,
    CopyAndTruncate,
    /// Truncates without a copy, after a poll: content that was not polled is lost.
    PollAndTruncate,
    Poll,
    Wait,
    Restart,
}

fn operation() -> impl Strategy<Value = LogOperation> {
    prop_oneof![
        4 => (1_u8..5).prop_map(LogOperation::Write),
        1 => Just(LogOperation::Half),
        1 => Just(LogOperation::Rename),
        2 => Just(LogOperation::Rotate),
        1 => Just(LogOperation::CopyAndTruncate),
        1 => Just(LogOperation::PollAndTruncate),
        4 => Just(LogOperation::Poll),
        1 => Just(LogOperation::Wait),
        1 => Just(LogOperation::Restart),
    ]
}

proptest! {
    #[test]
    fn each_line_is_emitted_once_under_any_operations(operations in prop::collection::vec(operation(), 1..40)) {
        let mut node = LogNode::new(StartAt::Beginning);
        let (mut written, mut open_half) = (Vec::new(), false);
        // Whether this content was polled: content that is written and truncated between two polls is lost.
        let mut polled = false;
        // A file that is renamed before the first poll cannot be found.
        node.poll();
        for operation in operations {
            match operation {
                LogOperation::Write(count) => {
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
                LogOperation::Half if !open_half => {
                    let half = format!("half {} ", written.len());
                    node.write(&half);
                    written.push(half);
                    open_half = true;
                }
                LogOperation::Half => {}
                LogOperation::Rotate => {
                    polled = false;
                    if node.path().exists() {
                        node.rename();
                    }
                    node.reopen();
                    open_half = false;
                }
                LogOperation::Rename => {
                    if node.path().exists() {
                        node.rename();
                    }
                }
                LogOperation::CopyAndTruncate if node.path().exists() => {
                    if !polled {
                        node.poll();
                    }
                    polled = false;
                    node.reopen();
                    node.copy();
                    node.truncate();
                    open_half = false;
                }
                LogOperation::CopyAndTruncate => {}
                LogOperation::PollAndTruncate => {
                    if open_half {
                        node.write("\n");
                    }
                    node.poll();
                    polled = false;
                    node.truncate();
                    open_half = false;
                }
                LogOperation::Poll => {
                    node.poll();
                    polled = node.path().metadata().is_ok_and(|file| file.len() > 0);
                }
                LogOperation::Wait => node.up += 10,
                LogOperation::Restart => node.restart(),
            }
        }
        if open_half {
            node.write("\n");
        }
        node.poll();
        node.up += 61;
        node.poll();
        // After a truncation and a restart the agent reports that lines may be missing.
        let mut seen: Vec<_> = node.seen.iter().filter(|line| *line != "Lost(None)").cloned().collect();
        let mut expected: Vec<_> = written.into_iter().filter(|line| !line.is_empty()).collect();
        seen.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(seen, expected);
    }
}
