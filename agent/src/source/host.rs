//! Reads the node's files in bounded amounts, below the root where they are mounted.
//!
//! An absolute symbolic link on the node, such as many an `/etc/resolv.conf`, must be resolved below that root.
//! Otherwise the agent would read a file of its own image.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags, openat2};

/// The maximum number of names that are listed of a directory.
const MAX_NAMES: usize = 64 * 1024;

/// Reads a file; an error if it is longer than `limit` bytes.
pub fn read(root: &Path, path: &str, limit: u64) -> io::Result<Vec<u8>> {
    // Opening a pipe in place of the file must not block.
    let file = open(root, path, OFlags::NONBLOCK)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes")));
    }
    Ok(bytes)
}

/// Reads a file as text; invalid UTF-8 is replaced.
pub fn text(root: &Path, path: &str, limit: u64) -> io::Result<String> {
    let bytes = read(root, path, limit)?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// The names in a directory, unsorted.
pub fn names(root: &Path, path: &str) -> io::Result<Vec<String>> {
    let directory = Dir::read_from(open(root, path, OFlags::DIRECTORY)?)?;
    let mut names = Vec::new();
    for entry in directory.take(MAX_NAMES) {
        match entry?.file_name().to_str() {
            Ok(".." | ".") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

fn open(root: &Path, path: &str, flags: OFlags) -> io::Result<File> {
    let directory = openat2(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::empty(),
    )?;
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat2(directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_link_from_the_nodes_root_stays_beneath_it() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        fs::create_dir_all(root.join("run/resolve")).expect("a directory");
        fs::create_dir(root.join("etc")).expect("a directory");
        fs::write(root.join("run/resolve/stub"), "the node's").expect("a file");
        symlink("/run/resolve/stub", root.join("etc/resolv.conf")).expect("a link");
        symlink("../../../../../../run/resolve/stub", root.join("etc/above")).expect("a link");
        symlink("/run/resolve", root.join("etc/directory")).expect("a link");
        assert_eq!(text(root, "/etc/resolv.conf", 100).expect("a text"), "the node's");
        assert_eq!(text(root, "etc/above", 100).expect("a text"), "the node's");
        assert_eq!(names(root, "/etc/directory").expect("names"), ["stub"]);
    }

    #[test]
    fn a_file_that_is_too_long_not_regular_or_missing_is_an_error() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        fs::write(root.join("long"), [0xff; 101]).expect("a file");
        let kind = |path: &str, limit| read(root, path, limit).expect_err("no bytes").kind();
        assert_eq!(kind("long", 100), io::ErrorKind::FileTooLarge);
        assert_eq!(text(root, "long", 101).expect("a text").chars().count(), 101);
        assert_eq!(kind("short", 100), io::ErrorKind::NotFound);
        assert_eq!(kind("/", 100), io::ErrorKind::InvalidInput);
        assert!(names(root, "long").is_err());
    }
}
