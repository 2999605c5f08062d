//! Files that the operator names on the command line, and the error of one that cannot be used.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Why a file or directory that the operator named cannot be used. It is a usage error: exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is missing, or not readable.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file or directory, as the operator named it.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
    /// It cannot be created, or the disk is full.
    #[error("failed to write {}", path.display())]
    Write {
        /// The file or directory, as the operator named it.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
}

impl FileError {
    /// Adds the path to an error of reading, for `map_err`.
    pub(crate) fn reading(path: &Path) -> impl Copy + Fn(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    /// Adds the path to an error of writing, for `map_err`.
    pub(crate) fn writing(path: &Path) -> impl Copy + Fn(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

/// The whole text of a file, such as a policy.
pub(crate) fn read_text(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(FileError::reading(path))
}

/// Creates a file, or truncates it. Call it before the work, so that a path that cannot be written fails first.
pub(crate) fn create(path: &Path) -> Result<fs::File, FileError> {
    fs::File::create(path).map_err(FileError::writing(path))
}
