//! Turns log groups on AWS into a part of the history, page by page.

use super::{BacktestError, Options, files::File, read::Reading, shape::Asked};

/// Reads the log groups that were asked for.
pub(super) fn add(
    options: &Options,
    _asked: Asked,
    _files: &mut Vec<File>,
    _read: &mut Reading,
) -> Result<(), BacktestError> {
    match options.log_group.first() {
        None => Ok(()),
        Some(group) => Err(BacktestError::LogGroup { group: group.clone(), why: "not yet".to_owned() }),
    }
}
