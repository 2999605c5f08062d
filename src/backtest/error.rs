//! Why a backtest stopped.

use std::io;

use crate::{file::FileError, replay::ReplayError};

/// Why a backtest stopped.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A policy or its name is invalid.
    #[error("--policy {policy}: {why}")]
    Policy {
        policy: String,
        /// The field and what is wrong with it.
        why: String,
    },
    /// The time range is empty.
    #[error("--until: must be later than --since")]
    EmptyRange,
    /// More files than a `u32` can number.
    #[error("failed to read the history: more than 4294967295 files")]
    TooManyFiles,
    /// The history cannot be kept in a temporary file, or read from it.
    #[error("failed to use a temporary file")]
    TemporaryFile(#[source] io::Error),
    /// Standard output or standard error cannot be written.
    #[error("failed to write the output")]
    Output(#[source] io::Error),
    /// The HTML page cannot be rendered.
    #[error("failed to render the HTML page")]
    Page(#[from] askama::Error),
    /// The handlers failed, or a file of groups is invalid.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The handlers or their in-memory store failed, which is a bug.
    #[error("failed to continue the backtest: {0} (a bug in nodemend)")]
    Bug(String),
    /// A log group is not readable.
    #[cfg(feature = "aws")]
    #[error("failed to read log group {group}: {why}")]
    LogGroup { group: String, why: String },
}

impl BacktestError {
    /// Whether the command line or a file that it names is at fault, for exit code 64.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::File(_) | Self::Policy { .. } | Self::EmptyRange => true,
            Self::Replay(error) => error.is_usage(),
            _ => false,
        }
    }
}
