//! Turns paths into the files to read, in the order in which replay would read them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::BacktestError;
use crate::replay::input;

/// One file of history.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// As it lies on the disk.
    pub(super) bytes: u64,
    /// The log stream that its folder is named after, in an export to S3.
    pub(super) stream: Option<String>,
}

/// What there is to read.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What may tell of a node.
    pub(super) files: Vec<File>,
    /// How many exported streams are plain text of the control plane's other parts.
    pub(super) other_streams: usize,
}

/// Finds the files under paths.
pub(super) fn find(paths: &[PathBuf]) -> Result<Found, BacktestError> {
    let mut found = Found::default();
    for path in paths {
        let mut files = Vec::new();
        if path.is_dir() {
            collect(path, &mut files)?;
            files.sort();
        } else {
            files.push(path.clone());
        }
        for path in files {
            let bytes = fs::metadata(&path).map_err(|source| failed(&path, source))?.len();
            let stream = exported_stream(&path);
            if stream.as_deref().is_some_and(input::is_plain_text) {
                found.other_streams += 1;
                continue;
            }
            found.files.push(File { path, bytes, stream });
        }
    }
    Ok(found)
}

fn failed(path: &Path, source: std::io::Error) -> BacktestError {
    BacktestError::Read { path: path.to_owned(), source }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), BacktestError> {
    for entry in fs::read_dir(folder).map_err(|source| failed(folder, source))? {
        let path = entry.map_err(|source| failed(folder, source))?.path();
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

/// An export writes `TASK/STREAM/000000.gz`, with the slashes of the stream's name as dashes.
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
    fn the_folder_of_an_export_names_its_stream() {
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
