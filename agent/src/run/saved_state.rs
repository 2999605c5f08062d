//! Stores the state that survives a restart, in one small file that is replaced atomically.
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

const NAME: &str = "state.json";
/// The tracker's own limit, and some room for positions.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The state that survives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SavedState {
    /// The position in the kernel log.
    pub(super) kernel: Option<kmsg::KmsgPosition>,
    /// The position in the journal.
    pub(super) journal: Option<journal::JournalPosition>,
    /// The position in each log file.
    pub(super) files: Option<file::FilePosition>,
    /// The tracker's encoded state.
    pub(super) tracker: Option<String>,
}

/// The file of the state.
#[derive(Debug)]
pub(super) struct SavedStateFile {
    path: PathBuf,
    written: Vec<u8>,
}

impl SavedStateFile {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self { path: directory.join(NAME), written: Vec::new() }
    }

    /// Reads the state. Without a file it is empty; with an unreadable one it is empty and the error is returned.
    pub(super) fn read(&self) -> (SavedState, Option<String>) {
        let failed = |why: String| {
            (
                SavedState::default(),
                Some(format!("{}: {why}; starting without saved state", self.path.display())),
            )
        };
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (SavedState::default(), None),
            Err(error) => return failed(error.to_string()),
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return failed(format!("{} bytes exceed the limit of {MAX_BYTES}", metadata.len()));
            }
            Ok(_) => {}
        }
        match fs::read(&self.path).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(saved_state)) => (saved_state, None),
            Ok(Err(error)) => failed(error.to_string()),
            Err(error) => failed(error.to_string()),
        }
    }

    /// Replaces the file if the state changed.
    pub(super) fn write(&mut self, saved_state: &SavedState) -> io::Result<()> {
        let bytes = serde_json::to_vec(saved_state)?;
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
    fn saved_state_is_read_and_a_broken_file_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut file = SavedStateFile::in_directory(directory.path());
        let (saved_state, problem) = file.read();
        assert!(saved_state.tracker.is_none() && problem.is_none());
        file.write(&SavedState { tracker: Some("text".into()), ..SavedState::default() }).expect("written");
        assert_eq!(file.read().0.tracker.as_deref(), Some("text"));
        fs::write(directory.path().join(NAME), b"{\"tracker\":").expect("written");
        let (saved_state, problem) = file.read();
        assert!(saved_state.tracker.is_none());
        assert!(problem.expect("a complaint").contains("starting without saved state"));
    }

    #[test]
    fn nothing_new_is_not_written_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut file = SavedStateFile::in_directory(directory.path());
        let saved_state = SavedState { tracker: Some("text".into()), ..SavedState::default() };
        file.write(&saved_state).expect("written");
        fs::remove_file(directory.path().join(NAME)).expect("removed");
        file.write(&saved_state).expect("nothing to do");
        assert!(!directory.path().join(NAME).exists());
    }
}
