//! Parsers of command-line values and files that several commands share.

use std::path::PathBuf;

use jiff::SignedDuration;

/// A duration that is not negative, like `24h` or `90m`.
pub fn duration(text: &str) -> Result<SignedDuration, String> {
    text.parse::<SignedDuration>()
        .ok()
        .filter(|duration| !duration.is_negative())
        .ok_or_else(|| "not a duration like 24h or 90m".to_owned())
}

/// The file that a flag names, else the first of this name in the given directories.
pub(crate) fn file_or_beside(flag: Option<&PathBuf>, paths: &[PathBuf], name: &str) -> Option<PathBuf> {
    flag.cloned().or_else(|| paths.iter().map(|path| path.join(name)).find(|path| path.is_file()))
}
