//! Why a replay, or the handlers that a backtest drives, stopped.

use std::{io, path::PathBuf};

use crate::file::FileError;

/// Why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A policy or a file of groups is invalid.
    #[error("{}: {why}", path.display())]
    Config {
        path: PathBuf,
        /// The field and what is wrong with it.
        why: String,
    },
    /// Standard output or standard error cannot be written.
    #[error("failed to write the output")]
    Output(#[from] io::Error),
    /// The handlers made no progress, which is a bug.
    #[error("failed to make progress at {at}: {why} (a bug in nodemend)")]
    NoProgress {
        /// The virtual time.
        at: String,
        /// The failure, or what stays due.
        why: String,
    },
}

impl ReplayError {
    /// Whether the command line or a file that it names is at fault, for exit code 64.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::File(_) | Self::Config { .. })
    }
}
