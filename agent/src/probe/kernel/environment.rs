//! Turns the environments of processes into those that are too large.
//!
//! Kubernetes gives a container seven variables for each service of its namespace; at some thousands programs become
//! slow to start, or can't. Only how many there are is looked at: what they say is nobody's business.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    not_checkable,
    process::{Listing, Processes},
    unreadable,
};
use crate::{
    finding::Change,
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
};

const LARGE: &str = "LargeEnvironment";
const MANY: usize = 1_000;
/// An environment hardly changes while its process lives.
const INTERVAL: Duration = Duration::from_secs(15 * 60);
/// The kernel gives all arguments and variables of a program 6 MiB at most (execve(2)).
const MAX_BYTES: u64 = 6 * 1024 * 1024;
const CHUNK: usize = 16 * 1024;

pub(super) struct Environments {
    processes: Processes,
    standing: Standing,
}

impl Environments {
    pub(super) fn new(root: &Path) -> Self {
        Self { processes: Processes::new(root), standing: Standing::default() }
    }

    /// What is wrong, and how many environments could be read.
    fn judge(&self, listing: &Listing) -> (Vec<Judged>, usize) {
        let mut judged = Vec::new();
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
                judged.push(Judged::wrong(LARGE, message).about(subject));
            }
        }
        (judged, read)
    }
}

fn is_large(environ: File, chunk: &mut [u8]) -> io::Result<bool> {
    let mut environ = environ.take(MAX_BYTES);
    let mut variables = Variables::default();
    while variables.count <= MANY {
        match environ.read(chunk)? {
            0 => return Ok(false),
            length => variables.add(&chunk[..length]),
        }
    }
    Ok(true)
}

/// How many variables there are. A process that shows what it is at in its title, as databases do, writes over its
/// environment, and may leave thousands of zero bytes there: a variable has a name and a value.
#[derive(Debug, Default)]
struct Variables {
    count: usize,
    named: bool,
}

impl Variables {
    fn add(&mut self, bytes: &[u8]) {
        for place in memchr::memchr2_iter(b'=', 0, bytes) {
            if bytes[place] == b'=' {
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let listing = self.processes.list().map_err(|error| unreadable("proc", &error))?;
        let (mut judged, read) = self.judge(&listing);
        if read == 0 {
            return Err(not_checkable("no process lets its environment be read"));
        }
        if !listing.whole {
            if judged.is_empty() {
                return Err(not_checkable("there are too many processes to look at all of them"));
            }
            return Ok(self.standing.add(judged, now));
        }
        judged.push(Judged::well(LARGE));
        Ok(self.standing.update(judged, now))
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
        (0..count).map(|place| format!("SVC_{place}_PORT=tcp://10.0.0.1:80\0")).collect()
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
    fn more_than_a_thousand_variables_are_too_many_and_what_they_say_is_not_told() {
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
        let [Change::Raised(finding)] = &raised[..] else { panic!("{raised:?}") };
        assert_eq!(finding.message, "process my (java)[77] has more than 1000 environment variables");
        fs::remove_dir_all(root.path().join("proc/77")).expect("a folder");
        assert_eq!(changes(&mut probe), Ok(vec!["-LargeEnvironment".to_owned()]), "the process has ended");
    }

    #[test]
    fn what_a_process_wrote_over_its_environment_is_no_variable() {
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
            let mut found = Variables::default();
            text.as_bytes().chunks(size).for_each(|chunk| found.add(chunk));
            assert_eq!(found.count, 1_000, "in pieces of {size}");
        }
    }

    #[test]
    fn a_process_that_cannot_be_read_is_passed_over() {
        let root = node(77, "java", &variables(1_001));
        // A folder can be opened and not be read, by root either.
        fs::create_dir_all(root.path().join("proc/5/environ")).expect("a folder");
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
    fn where_no_environment_can_be_read_nothing_is_said() {
        let root = tree(&[("proc/2/stat", &record(2, "kworker/0:1", 'I', 0, 1)), ("proc/2/environ", "")]);
        assert!(changes(&mut Environments::new(root.path())).is_err());
    }
}
