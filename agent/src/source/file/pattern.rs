//! Expands a path with wildcards.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use super::FileError;

/// The maximum number of files that match one pattern: a node runs 110 pods by default and at most 737.
const MATCHES: usize = 1024;

/// A path on the node. In a component, `*` matches any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    parts: Vec<String>,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, FileError> {
        let invalid = || FileError::Pattern(text.to_owned());
        let mut components = Path::new(text).components();
        if components.next() != Some(Component::RootDir) {
            return Err(invalid());
        }
        let parts = components
            .map(|component| match component {
                Component::Normal(part) => part.to_str().map(str::to_owned),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .filter(|parts| !parts.is_empty())
            .ok_or_else(invalid)?;
        Ok(Self { parts })
    }

    /// The matching paths on the node, sorted. A directory that cannot be listed has no matches.
    pub(super) fn expand(&self, root: &Path) -> Vec<String> {
        let mut paths = vec![String::new()];
        for part in &self.parts {
            if !part.contains('*') {
                for path in &mut paths {
                    path.push('/');
                    path.push_str(part);
                }
                continue;
            }
            let mut next = Vec::new();
            for path in &paths {
                let Ok(entries) = fs::read_dir(beneath(root, path)) else { continue };
                for entry in entries.flatten() {
                    if let Some(name) = entry.file_name().to_str()
                        && matches(part, name)
                    {
                        next.push(format!("{path}/{name}"));
                    }
                }
            }
            next.sort_unstable();
            next.truncate(MATCHES);
            paths = next;
        }
        paths
    }
}

/// A path on the node, below `root`.
pub(super) fn beneath(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Whether `name` matches `part`. Each `*` matches as little as possible; without other wildcards that finds a match
/// if there is one, and backtracks at most to the last `*`.
fn matches(part: &str, name: &str) -> bool {
    let mut pieces = part.split('*');
    let Some(rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut rest = rest;
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_within_one_part() {
        for (part, name, expected) in [
            ("kube-system_aws-node-*", "kube-system_aws-node-x7k2p_1234", true),
            ("kube-system_aws-node-*", "kube-system_aws-node-", true),
            ("kube-system_aws-node-*", "kube-system_kube-proxy-1", false),
            ("*.log", "0.log", true),
            ("*.log", "0.log.20240501-100000", false),
            ("*.log", "log", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
            ("*", "", true),
            ("plain", "plain", true),
            ("plain", "plainer", false),
        ] {
            assert_eq!(matches(part, name), expected, "{part} {name}");
        }
    }

    #[test]
    fn a_pattern_starts_at_the_root_and_does_not_climb() {
        for text in ["var/log/x.log", "/var/../etc/shadow", "", "/"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_names_what_is_there_and_a_plain_path_always_names_itself() {
        let root = tempfile::tempdir().expect("a directory");
        for pod in ["kube-system_aws-node-a_1", "kube-system_aws-node-b_2", "default_web_3"] {
            let directory = root.path().join("var/log/pods").join(pod).join("aws-node");
            fs::create_dir_all(&directory).expect("a directory");
            fs::write(directory.join("0.log"), "").expect("a file");
            fs::write(directory.join("0.log.20240501-100000.gz"), "").expect("a file");
        }
        let pattern = Pattern::new("/var/log/pods/kube-system_aws-node-*/aws-node/*.log").expect("a pattern");
        assert_eq!(
            pattern.expand(root.path()),
            [
                "/var/log/pods/kube-system_aws-node-a_1/aws-node/0.log",
                "/var/log/pods/kube-system_aws-node-b_2/aws-node/0.log",
            ]
        );
        let plain = Pattern::new("/var/log/not-there.log").expect("a pattern");
        assert_eq!(plain.expand(root.path()), ["/var/log/not-there.log"]);
    }
}
