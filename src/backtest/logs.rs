//! Turns log groups on AWS into a part of the history, page by page.

use super::{BacktestError, Options, files::File, read::Reading, shape::Asked};

/// Reads the log groups that were asked for.
pub(super) fn add(
    options: &Options,
    _asked: Asked,
    read: Reading,
    files: Vec<File>,
) -> Result<(Reading, Vec<File>), BacktestError> {
    match options.log_group.first() {
        None => Ok((read, files)),
        Some(group) => Err(BacktestError::LogGroup { group: group.clone(), why: "not yet".to_owned() }),
    }
}
