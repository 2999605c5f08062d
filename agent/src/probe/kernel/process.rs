//! Reads processes from `/proc`.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// A node with more processes than this has other problems, and reading all of them would make it slower.
const MAX_PROCESSES: usize = 32_768;
/// The fifty-two fields are numbers, except for a name of at most 64 bytes.
const MAX_STAT: u64 = 2048;
/// A kernel thread (PF_KTHREAD in the kernel's sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

pub(super) struct Processes {
    directory: PathBuf,
}

/// The process IDs at one moment.
pub(super) struct ProcessListing {
    pub(super) ids: Vec<u32>,
    /// False if there are more than [`MAX_PROCESSES`].
    pub(super) complete: bool,
}

impl Processes {
    pub(super) fn new(root: &Path) -> Self {
        Self { directory: root.join("proc") }
    }

    pub(super) fn list(&self) -> io::Result<ProcessListing> {
        let mut listing = ProcessListing { ids: Vec::new(), complete: true };
        for entry in fs::read_dir(&self.directory)? {
            let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if listing.ids.len() == MAX_PROCESSES {
                listing.complete = false;
                break;
            }
            listing.ids.push(id);
        }
        Ok(listing)
    }

    /// Opens a file of a process; an error if the process has ended.
    pub(super) fn open(&self, id: u32, name: &str) -> io::Result<File> {
        File::open(self.directory.join(format!("{id}/{name}")))
    }

    /// A process's status; `None` if it has ended or the record is malformed.
    pub(super) fn stat(&self, id: u32, record: &mut Vec<u8>) -> Option<ProcessStat> {
        record.clear();
        self.open(id, "stat").ok()?.take(MAX_STAT).read_to_end(record).ok()?;
        ProcessStat::parse(record)
    }
}

/// The fields of `/proc/PID/stat` that are used (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessStat {
    pub(super) name: String,
    pub(super) state: u8,
    pub(super) parent: u32,
    threads: u64,
    flags: u64,
}

impl ProcessStat {
    /// The name may contain any character, including spaces and parentheses. All fields after the last parenthesis
    /// are numbers.
    fn parse(record: &[u8]) -> Option<Self> {
        let open = memchr::memchr(b'(', record)?;
        let close = memchr::memrchr(b')', record)?;
        let name = String::from_utf8_lossy(record.get(open + 1..close)?).into_owned();
        let mut fields = str::from_utf8(&record[close + 1..]).ok()?.split_ascii_whitespace();
        let [state] = *fields.next()?.as_bytes() else { return None };
        let parent = fields.next()?.parse().ok()?;
        let flags = fields.nth(4)?.parse().ok()?;
        let threads = fields.nth(10)?.parse().ok()?;
        Some(Self { name, state, parent, threads, flags })
    }

    /// Whether the process has ended and its parent has not waited for it. A process whose first thread ended before
    /// the others has the same state, and still runs.
    pub(super) fn is_zombie(&self) -> bool {
        self.state == b'Z' && self.threads <= 1
    }

    /// Whether the process has memory of its own that can be read without blocking. A process in uninterruptible
    /// sleep may hold the lock of its memory, so a reader would wait with it.
    pub(super) fn has_readable_memory(&self) -> bool {
        self.flags & KERNEL_THREAD == 0 && !matches!(self.state, b'Z' | b'X' | b'D')
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record in the format of Linux 6.
    pub(in super::super) fn record(id: u32, name: &str, state: char, parent: u32, threads: u32) -> String {
        let flags = if name.starts_with("kworker") { KERNEL_THREAD } else { 4_194_560 };
        format!(
            "{id} ({name}) {state} {parent} {id} {id} 0 -1 {flags} 123 0 0 0 1 2 0 0 20 0 {threads} 0 4242 0 0 \
             18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        )
    }

    #[test]
    fn a_name_may_contain_spaces_brackets_and_text_like_a_state() {
        for name in
            ["sh", "a b", "((sd-pam))", "x) Z 1 1 1 0 -1 0 (", ")", "", "tab\tand\nline", "(", "naïve"]
        {
            let stat = ProcessStat::parse(record(7, name, 'S', 3, 1).as_bytes()).expect("a record");
            assert_eq!((stat.name.as_str(), stat.state, stat.parent), (name, b'S', 3));
            assert!(!stat.is_zombie() && stat.has_readable_memory());
        }
        let cut = [b"7 (na\xc3".as_slice(), &record(7, "", 'Z', 3, 1).as_bytes()[3..]].concat();
        assert!(ProcessStat::parse(&cut).is_some_and(|stat| stat.name == "na\u{fffd}" && stat.is_zombie()));
    }

    #[test]
    fn an_invalid_record_is_no_process() {
        for text in
            ["", "7", "7 (sh", "7 sh) S 1", ")(", "7 (sh)", "7 (sh) SZ 1 1", "7 (sh) S one 1", "7 (sh) Z 1"]
        {
            assert_eq!(ProcessStat::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_is_no_zombie() {
        for (state, threads, expected) in [('Z', 1, true), ('Z', 0, true), ('Z', 12, false), ('S', 1, false)]
        {
            let stat = ProcessStat::parse(record(7, "java", state, 1, threads).as_bytes()).expect("a record");
            assert_eq!(stat.is_zombie(), expected, "{state} {threads}");
        }
    }

    #[test]
    fn memory_is_not_read_where_there_is_none_or_where_reading_might_block() {
        for (name, state, expected) in [
            ("sh", 'S', true),
            ("sh", 'R', true),
            ("sh", 'D', false),
            ("sh", 'Z', false),
            ("kworker/0:1", 'I', false),
        ] {
            let stat = ProcessStat::parse(record(7, name, state, 1, 1).as_bytes()).expect("a record");
            assert_eq!(stat.has_readable_memory(), expected, "{name} {state}");
        }
    }

    #[test]
    fn this_very_process_is_found() {
        let processes = Processes::new(Path::new("/"));
        let listing = processes.list().expect("a listing");
        assert!(listing.complete && listing.ids.contains(&std::process::id()));
        let stat = processes.stat(std::process::id(), &mut Vec::new()).expect("a record");
        assert!(!stat.is_zombie() && stat.threads >= 1);
    }
}
