//! Finds the files to read, in the order of a replay.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::error::BacktestError;
use crate::{file::FileError, replay::input};

/// One file of history.
#[derive(Debug, Clone)]
pub(super) struct HistoryFile {
    pub(super) path: PathBuf,
    /// Its size on disk, compressed or not.
    pub(super) bytes: u64,
    /// The log stream, where the file is part of an export to S3.
    pub(super) stream: Option<String>,
}

/// The files under the given paths.
#[derive(Debug, Default)]
pub(super) struct FoundFiles {
    pub(super) files: Vec<HistoryFile>,
    /// Exported streams of control-plane components without audit events.
    pub(super) skipped_streams: usize,
}

/// Finds the files under paths.
pub(super) fn find(paths: &[PathBuf]) -> Result<FoundFiles, BacktestError> {
    let mut found = FoundFiles::default();
    for path in paths {
        let mut files = Vec::new();
        if path.is_dir() {
            collect(path, &mut files)?;
            files.sort();
        } else {
            files.push(path.clone());
        }
        for path in files {
            let bytes = fs::metadata(&path).map_err(FileError::reading(&path))?.len();
            let stream = exported_stream(&path);
            if stream.as_deref().is_some_and(input::is_component_log) {
                found.skipped_streams += 1;
                continue;
            }
            found.files.push(HistoryFile { path, bytes, stream });
        }
    }
    Ok(found)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), BacktestError> {
    let failed = FileError::reading(directory);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            collect(&path, files)?;
        } else if name != "fleet.json"
            && [".json", ".jsonl", ".log", ".gz"].iter().any(|suffix| name.ends_with(suffix))
        {
            files.push(path);
        }
    }
    Ok(())
}

/// An export to S3 has files `TASK/STREAM/000000.gz`; slashes in the stream's name are dashes.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/S3Export.html>
fn exported_stream(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gz")?;
    let numbered = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    if !numbered {
        return None;
    }
    path.parent()?.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_directory_of_an_export() {
        for (path, stream) in [
            ("task/i-08736224042c4ee75/000000.gz", Some("i-08736224042c4ee75")),
            ("task/kube-apiserver-audit-0a1b/000012.gz", Some("kube-apiserver-audit-0a1b")),
            ("task/i-08736224042c4ee75/audit.gz", None),
            ("audit.json", None),
        ] {
            assert_eq!(exported_stream(Path::new(path)).as_deref(), stream, "{path}");
        }
    }
}
