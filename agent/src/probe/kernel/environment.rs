//! Finds processes with very large environments.
//!
//! Kubernetes adds seven variables to a container for each service of its namespace. With some thousands, programs
//! start slowly or not at all. Only the number of variables is read, never reported with names or values.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    not_checkable,
    process::{ProcessListing, Processes},
    unreadable,
};
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
};

const LARGE: &str = "LargeEnvironment";
const MANY: usize = 1_000;
/// An environment hardly changes during the lifetime of a process.
const INTERVAL: Duration = Duration::from_secs(15 * 60);
/// The kernel limits a program's arguments and variables to 6 MiB in total (execve(2)).
const MAX_BYTES: u64 = 6 * 1024 * 1024;
const CHUNK: usize = 16 * 1024;

pub(super) struct Environments {
    processes: Processes,
    latch: ConditionLatch,
}

impl Environments {
    pub(super) fn new(root: &Path) -> Self {
        Self { processes: Processes::new(root), latch: ConditionLatch::default() }
    }

    /// The problems, and the number of environments that could be read.
    fn evaluate(&self, listing: &ProcessListing) -> (Vec<Evaluation>, usize) {
        let mut evaluated = Vec::new();
        let mut read = 0;
        let mut record = Vec::new();
        let mut chunk = vec![0; CHUNK];
        for id in &listing.ids {
            let Some(stat) = self.processes.stat(*id, &mut record) else { continue };
            if !stat.has_readable_memory() {
                continue;
            }
            let environ = self.processes.open(*id, "environ");
            let Ok(large) = environ.and_then(|file| is_large(file, &mut chunk)) else { continue };
            read += 1;
            if large {
                let subject = format!("{}[{id}]", stat.name);
                let message = format!("process {subject} has more than {MANY} environment variables");
                evaluated.push(Evaluation::unhealthy(LARGE, message).about(subject));
            }
        }
        (evaluated, read)
    }
}

fn is_large(environ: File, chunk: &mut [u8]) -> io::Result<bool> {
    let mut environ = environ.take(MAX_BYTES);
    let mut variables = VariableCounter::default();
    while variables.count <= MANY {
        match environ.read(chunk)? {
            0 => return Ok(false),
            length => variables.add(&chunk[..length]),
        }
    }
    Ok(true)
}

/// Counts variables. A process that changes its title, as databases do, overwrites its environment and may leave
/// thousands of zero bytes in it. So only an entry with a name and a value counts.
#[derive(Debug, Default)]
struct VariableCounter {
    count: usize,
    named: bool,
}

impl VariableCounter {
    fn add(&mut self, bytes: &[u8]) {
        for index in memchr::memchr2_iter(b'=', 0, bytes) {
            if bytes[index] == b'=' {
                self.named = true;
            } else {
                self.count += usize::from(std::mem::take(&mut self.named));
            }
        }
    }
}

impl Probe for Environments {
    fn name(&self) -> &'static str {
        "environments"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[LARGE]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let listing = self.processes.list().map_err(|error| unreadable("proc", &error))?;
        let (mut evaluated, read) = self.evaluate(&listing);
        if read == 0 {
            return Err(not_checkable("no process's environment can be read"));
        }
        if !listing.complete {
            if evaluated.is_empty() {
                return Err(not_checkable("too many processes to read all of them"));
            }
            return Ok(self.latch.add(evaluated, now));
        }
        evaluated.push(Evaluation::healthy(LARGE));
        Ok(self.latch.update(evaluated, now))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::{
            process::tests::record,
            tests::{changes, put, tree},
        },
        *,
    };

    fn variables(count: usize) -> String {
        (0..count).map(|index| format!("SVC_{index}_PORT=tcp://10.0.0.1:80\0")).collect()
    }

    fn node(id: u32, name: &str, environ: &str) -> tempfile::TempDir {
        let root = tree(&[("proc/1/environ", "PATH=/bin\0"), ("proc/1/stat", &record(1, "init", 'S', 0, 1))]);
        put(
            root.path(),
            &[
                (&format!("proc/{id}/stat"), &record(id, name, 'S', 1, 1)),
                (&format!("proc/{id}/environ"), environ),
            ],
        );
        root
    }

    #[test]
    fn more_than_a_thousand_variables_are_reported_without_their_contents() {
        for (count, expected) in [(0, "-LargeEnvironment"), (1_000, "-LargeEnvironment")] {
            let root = node(77, "java", &variables(count));
            assert_eq!(
                changes(&mut Environments::new(root.path())),
                Ok(vec![expected.to_owned()]),
                "{count}"
            );
        }
        let root = node(77, "my (java)", &variables(1_001));
        let mut probe = Environments::new(root.path());
        let raised = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        let [FindingChange::Raised(finding)] = &raised[..] else { panic!("{raised:?}") };
        assert_eq!(finding.message, "process my (java)[77] has more than 1000 environment variables");
        fs::remove_dir_all(root.path().join("proc/77")).expect("a directory");
        assert_eq!(changes(&mut probe), Ok(vec!["-LargeEnvironment".to_owned()]), "the process has ended");
    }

    #[test]
    fn an_overwritten_environment_has_no_variables() {
        let zeros = format!("PATH=/bin\0{}", "\0".repeat(5_000));
        let words = "word\0".repeat(5_000);
        let equals = format!("A={}\0", "=".repeat(5_000));
        for environ in [zeros.as_str(), &words, &equals, "no end = "] {
            let root = node(77, "postgres", environ);
            assert_eq!(
                changes(&mut Environments::new(root.path())),
                Ok(vec!["-LargeEnvironment".to_owned()])
            );
        }
    }

    #[test]
    fn a_variable_cut_between_two_reads_counts_once() {
        let text = variables(1_000);
        for size in [1, 7, 4_096] {
            let mut found = VariableCounter::default();
            text.as_bytes().chunks(size).for_each(|chunk| found.add(chunk));
            assert_eq!(found.count, 1_000, "in pieces of {size}");
        }
    }

    #[test]
    fn a_process_that_cannot_be_read_is_passed_over() {
        let root = node(77, "java", &variables(1_001));
        // A directory can be opened but not read, even by root.
        fs::create_dir_all(root.path().join("proc/5/environ")).expect("a directory");
        put(
            root.path(),
            &[
                ("proc/5/stat", &record(5, "locked", 'S', 1, 1)),
                ("proc/6/stat", &record(6, "stuck", 'D', 1, 1)),
                ("proc/6/environ", &variables(1_001)),
            ],
        );
        assert_eq!(
            changes(&mut Environments::new(root.path())),
            Ok(vec!["+LargeEnvironment java[77]".to_owned()])
        );
    }

    #[test]
    fn without_a_readable_environment_it_is_not_checkable() {
        let root = tree(&[("proc/2/stat", &record(2, "kworker/0:1", 'I', 0, 1)), ("proc/2/environ", "")]);
        assert!(changes(&mut Environments::new(root.path())).is_err());
    }
}
