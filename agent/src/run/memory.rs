//! Turns what must survive a restart into one small file, replaced as a whole.
//!
//! It is written after the reports that it accounts for are in the spool. A crash in between repeats lines and
//! changes, and loses none.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    durable,
    source::{file, journal, kmsg},
};

const NAME: &str = "memory.json";
/// The tracker's own limit, and some room for positions.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What is remembered.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Memory {
    /// How far the kernel's log was handed on.
    pub(super) kernel: Option<kmsg::Position>,
    /// How far the journal was.
    pub(super) journal: Option<journal::Position>,
    /// How far each file was.
    pub(super) files: Option<file::Position>,
    /// The tracker's own text.
    pub(super) tracker: Option<String>,
}

/// Where it is kept.
#[derive(Debug)]
pub(super) struct MemoryFile {
    path: PathBuf,
    written: Vec<u8>,
}

impl MemoryFile {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join(NAME), written: Vec::new() }
    }

    /// What was remembered; nothing, where nothing was or where it can't be read, and then why.
    pub(super) fn read(&self) -> (Memory, Option<String>) {
        let complain = |why: String| {
            (Memory::default(), Some(format!("{}: {why}; starting without memory", self.path.display())))
        };
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Memory::default(), None),
            Err(error) => return complain(error.to_string()),
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return complain(format!("{} bytes are more than {MAX_BYTES}", metadata.len()));
            }
            Ok(_) => {}
        }
        match fs::read(&self.path).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(memory)) => (memory, None),
            Ok(Err(error)) => complain(error.to_string()),
            Err(error) => complain(error.to_string()),
        }
    }

    /// Replaces it, if there is anything new.
    pub(super) fn write(&mut self, memory: &Memory) -> io::Result<()> {
        let bytes = serde_json::to_vec(memory)?;
        if bytes == self.written {
            return Ok(());
        }
        durable::replace(&self.path, &bytes)?;
        self.written = bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_broken_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = MemoryFile::in_folder(folder.path());
        let (memory, complaint) = file.read();
        assert!(memory.tracker.is_none() && complaint.is_none());
        file.write(&Memory { tracker: Some("text".into()), ..Memory::default() }).expect("written");
        assert_eq!(file.read().0.tracker.as_deref(), Some("text"));
        fs::write(folder.path().join(NAME), b"{\"tracker\":").expect("written");
        let (memory, complaint) = file.read();
        assert!(memory.tracker.is_none());
        assert!(complaint.expect("a complaint").contains("starting without memory"));
    }

    #[test]
    fn nothing_new_is_not_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = MemoryFile::in_folder(folder.path());
        let memory = Memory { tracker: Some("text".into()), ..Memory::default() };
        file.write(&memory).expect("written");
        fs::remove_file(folder.path().join(NAME)).expect("removed");
        file.write(&memory).expect("nothing to do");
        assert!(!folder.path().join(NAME).exists());
    }
}
