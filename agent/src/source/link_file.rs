//! Finds systemd's `MACAddressPolicy` for pod interfaces, from its `.link` files.
//!
//! By systemd.link(5), the first file by name that matches the interface applies, in whatever directory it is,
//! together with the drop-ins in the directory with its name and `.d`. A file in an earlier directory hides those
//! with the same name in later ones. An empty file, or a link to /dev/null, masks them.

use std::{collections::BTreeMap, io, path::Path};

use regex::Regex;

use super::host;

const DIRECTORIES: [&str; 4] = [
    "/etc/systemd/network",
    "/run/systemd/network",
    "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network",
];
/// The directory of systemd's own files: if it is not visible, the policy is unknown.
const OWN: &str = DIRECTORIES[3];
const MAX_FILE: u64 = 64 * 1024;

/// The properties of an interface that files match.
#[derive(Debug, Clone, Copy)]
pub struct LinkInterface<'a> {
    /// The name that the kernel assigned.
    pub name: &'a str,
    /// The driver; for a virtual interface also its kind.
    pub driver: &'a str,
}

/// The settings that apply to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPolicy {
    /// The path of the file that applies.
    pub file: String,
    /// The file's `MACAddressPolicy`; without one, addresses are not changed.
    pub mac_address: Option<String>,
}

/// Why the policy is unknown.
#[derive(Debug, thiserror::Error)]
pub enum LinkFileError {
    #[error("failed to read {path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    /// A file matches by a property that is not evaluated.
    #[error("{file} matches by {key}")]
    Match {
        file: String,
        /// The key in the `[Match]` section.
        key: String,
    },
}

/// The settings of a file and its drop-ins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct LinkSettings {
    matches: BTreeMap<String, Vec<String>>,
    mac_address: Option<String>,
}

/// The policy of an interface; `None` if no file matches it.
pub fn policy(root: &Path, interface: LinkInterface<'_>) -> Result<Option<LinkPolicy>, LinkFileError> {
    host::names(root, OWN).map_err(|source| LinkFileError::Read { path: OWN.to_owned(), source })?;
    for (name, path) in files(root, &DIRECTORIES.map(str::to_owned), ".link")? {
        let mut settings = LinkSettings::default();
        if is_masked(root, &path) {
            continue;
        }
        let text = read(root, &path)?;
        if text.is_empty() {
            continue;
        }
        settings.take(&text);
        let directories = DIRECTORIES.map(|directory| format!("{directory}/{name}.d"));
        for (_, path) in files(root, &directories, ".conf")? {
            if !is_masked(root, &path) {
                settings.take(&read(root, &path)?);
            }
        }
        match settings.is_for(interface) {
            Ok(true) => return Ok(Some(LinkPolicy { file: path, mac_address: settings.mac_address })),
            Ok(false) => {}
            Err(key) => return Err(LinkFileError::Match { file: path, key }),
        }
    }
    Ok(None)
}

/// The files with this ending in several directories, by name. Of files with the same name, the one in the earliest
/// directory.
fn files(root: &Path, directories: &[String], end: &str) -> Result<BTreeMap<String, String>, LinkFileError> {
    let mut files = BTreeMap::new();
    for directory in directories {
        let names = match host::names(root, directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(LinkFileError::Read { path: directory.clone(), source }),
        };
        for name in names.into_iter().filter(|name| name.ends_with(end)) {
            let path = format!("{directory}/{name}");
            files.entry(name).or_insert(path);
        }
    }
    Ok(files)
}

fn is_masked(root: &Path, path: &str) -> bool {
    std::fs::read_link(root.join(path.trim_start_matches('/')))
        .is_ok_and(|target| target == Path::new("/dev/null"))
}

fn read(root: &Path, path: &str) -> Result<String, LinkFileError> {
    host::text(root, path, MAX_FILE).map_err(|source| LinkFileError::Read { path: path.to_owned(), source })
}

impl LinkFileError {
    /// The error with its source, as a clause.
    pub fn clause(&self) -> String {
        match self {
            Self::Read { source, .. } => format!("{self}: {source}"),
            Self::Match { .. } => self.to_string(),
        }
    }
}

impl LinkSettings {
    /// Adds the settings of a file.
    fn take(&mut self, text: &str) {
        let text = text.replace("\\\n", " ");
        let mut section = "";
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name;
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim(), value.trim());
            match (section, key) {
                ("Match", key) => {
                    let values = self.matches.entry(key.to_owned()).or_default();
                    // An empty value resets the key.
                    if value.is_empty() {
                        values.clear();
                    }
                    values.extend(value.split_whitespace().map(str::to_owned));
                }
                ("Link", "MACAddressPolicy") => match value {
                    "" => self.mac_address = None,
                    "none" | "persistent" | "random" => self.mac_address = Some(value.to_owned()),
                    // An invalid value is ignored, as in systemd.
                    _ => {}
                },
                _ => {}
            }
        }
    }

    /// Whether the settings match an interface; an error with the key if it depends on a property that is not
    /// evaluated.
    fn is_for(&self, interface: LinkInterface<'_>) -> Result<bool, String> {
        let mut unknown = None;
        let mut any = false;
        for (key, patterns) in self.matches.iter().filter(|(_, patterns)| !patterns.is_empty()) {
            any = true;
            let subject = match key.as_str() {
                "OriginalName" => interface.name,
                "Driver" | "Kind" => interface.driver,
                "Type" => "ether",
                // A pod's interface is on no bus, and its MAC address is generated.
                "Path" | "PermanentMACAddress" | "MACAddress" => "",
                key => {
                    unknown = unknown.or(Some(key.to_owned()));
                    continue;
                }
            };
            if !matches_any(patterns, subject).ok_or_else(|| key.clone())? {
                return Ok(false);
            }
        }
        match unknown {
            Some(key) => Err(key),
            // A file without matches is ignored.
            None => Ok(any),
        }
    }
}

/// Whether a text matches one of the patterns, or none of them if the first starts with `!`; `None` if a pattern is
/// invalid.
fn matches_any(patterns: &[String], text: &str) -> Option<bool> {
    let mut inverted = false;
    let mut found = false;
    for (index, pattern) in patterns.iter().enumerate() {
        let pattern = match pattern.strip_prefix('!') {
            Some(rest) if index == 0 => {
                inverted = true;
                rest
            }
            _ => pattern,
        };
        found |= shell_pattern(pattern)?.is_match(text);
    }
    Some(found != inverted)
}

/// Converts a glob(7) pattern to a regular expression.
fn shell_pattern(pattern: &str) -> Option<Regex> {
    let mut expression = String::from(r"^(?s:");
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '[' => {
                let (class, rest) = characters.as_str().split_once(']')?;
                let class =
                    class.strip_prefix('!').map_or_else(|| class.to_owned(), |rest| format!("^{rest}"));
                // Characters with a special meaning in a character class are removed.
                expression.push_str(&format!("[{}]", class.replace(['[', '\\', '&', '~'], "")));
                characters = rest.chars();
            }
            other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push_str(")$");
    regex::RegexBuilder::new(&expression).size_limit(64 * 1024).build().ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const POD: LinkInterface<'_> = LinkInterface { name: "eni0123456789a", driver: "veth" };
    const DEFAULT: &str = "[Match]\nOriginalName=*\n\n[Link]\nNamePolicy=keep kernel database onboard slot path\n\
                           AlternativeNamesPolicy=database onboard slot path\nMACAddressPolicy=persistent\n";

    struct LinkNode(tempfile::TempDir);

    impl LinkNode {
        fn new(files: &[(&str, &str)]) -> Self {
            let node = Self(tempfile::tempdir().expect("a directory"));
            fs::create_dir_all(node.0.path().join("usr/lib/systemd/network")).expect("a directory");
            for (path, text) in files {
                node.write(path, text);
            }
            node
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a file");
        }

        fn policy(&self) -> Result<Option<String>, String> {
            match policy(self.0.path(), POD) {
                Ok(found) => Ok(found.and_then(|found| found.mac_address)),
                Err(error) => Err(error.clause()),
            }
        }
    }

    const USR: &str = "usr/lib/systemd/network/99-default.link";

    #[test]
    fn the_first_file_that_matches_counts_wherever_it_lies() {
        let none = "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=none\n";
        for (files, expected, why) in [
            (&[(USR, DEFAULT)][..], Some("persistent"), "Ubuntu's own"),
            (&[], None, "no file"),
            (&[(USR, DEFAULT), ("etc/systemd/network/99-default.link", none)], Some("none"), "hidden"),
            (&[(USR, DEFAULT), ("usr/lib/systemd/network/10-pods.link", none)], Some("none"), "earlier"),
            (&[(USR, DEFAULT), ("etc/systemd/network/99-x.link", none)], Some("persistent"), "later"),
            (
                &[(USR, DEFAULT), ("etc/systemd/network/10-pods.conf", none)],
                Some("persistent"),
                "no link file",
            ),
            (&[(USR, DEFAULT), ("etc/systemd/network/99-default.link", "")], None, "masked"),
            (&[(USR, "[Link]\nMACAddressPolicy=persistent\n")], None, "matches nothing"),
            (&[(USR, "[Match]\nOriginalName=*\n")], None, "no setting"),
            (
                &[
                    (USR, DEFAULT),
                    ("etc/systemd/network/99-default.link.d/pods.conf", "[Link]\nMACAddressPolicy=none\n"),
                ],
                Some("none"),
                "a drop-in",
            ),
            (
                &[
                    (USR, DEFAULT),
                    ("run/systemd/network/99-default.link.d/10.conf", "[Link]\nMACAddressPolicy=random\n"),
                    ("etc/systemd/network/99-default.link.d/10.conf", "[Link]\nMACAddressPolicy=\n"),
                ],
                None,
                "an empty one, which hides its namesake",
            ),
        ] {
            assert_eq!(LinkNode::new(files).policy(), Ok(expected.map(str::to_owned)), "{why}");
        }
    }

    #[test]
    fn a_link_to_nothing_masks() {
        let node = LinkNode::new(&[(USR, DEFAULT), ("etc/systemd/network/README", "")]);
        symlink("/dev/null", node.0.path().join("etc/systemd/network/99-default.link")).expect("a link");
        assert_eq!(node.policy(), Ok(None));
    }

    #[test]
    fn a_file_matches_as_in_systemd() {
        for (matching, expected) in [
            ("OriginalName=eni*", Ok(true)),
            ("OriginalName=en[a-j]*", Ok(true)),
            ("OriginalName=en[!i]*", Ok(false)),
            ("OriginalName=eth* eni*", Ok(true)),
            ("OriginalName=eni", Ok(false)),
            ("OriginalName=eni???????????", Ok(true)),
            ("OriginalName=!eni*", Ok(false)),
            ("OriginalName=!eth* ens*", Ok(true)),
            ("OriginalName=eth*\nOriginalName=\nOriginalName=eni*", Ok(true)),
            ("Driver=veth", Ok(true)),
            ("Driver=ena", Ok(false)),
            ("Type=ether\nKind=veth", Ok(true)),
            ("Type=wlan", Ok(false)),
            ("Path=pci-*", Ok(false)),
            ("PermanentMACAddress=02:00:00:00:00:01", Ok(false)),
            ("Driver=ena\nVirtualization=kvm", Ok(false)),
            ("OriginalName=*\nVirtualization=kvm", Err("Virtualization")),
            ("MACAddress=02:00:00:00:00:01", Ok(false)),
            ("Property=ID_BUS=usb", Err("Property")),
            ("OriginalName=[", Err("OriginalName")),
            ("# OriginalName=eth*\n; x\nOriginalName = *", Ok(true)),
            ("OriginalName=eth* \\\n eni*", Ok(true)),
            ("", Ok(false)),
            ("OriginalName=", Ok(false)),
        ] {
            let mut settings = LinkSettings::default();
            settings.take(&format!("[Match]\n{matching}\n"));
            assert_eq!(settings.is_for(POD), expected.map_err(str::to_owned), "{matching}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_evaluated_is_an_error() {
        let node = LinkNode::new(&[(USR, "[Match]\nVirtualization=kvm\n")]);
        assert_eq!(node.policy(), Err(format!("/{USR} matches by Virtualization")));
        let node = LinkNode::new(&[(USR, &"x".repeat(70_000))]);
        assert!(node.policy().is_err_and(|why| why.contains("longer than")));
        fs::remove_dir_all(node.0.path().join("usr")).expect("a removed directory");
        assert!(node.policy().is_err(), "systemd's own files are out of sight");
    }

    #[test]
    fn an_invalid_policy_is_ignored() {
        let mut settings = LinkSettings::default();
        settings.take("[Link]\nMACAddressPolicy=persistent\nMACAddressPolicy=sometimes\n[Other]\nMACAddressPolicy=none\n");
        assert_eq!(settings.mac_address.as_deref(), Some("persistent"));
        settings.take("[Link\nMACAddressPolicy=none\n=\n[Link]\n=none\n");
        assert_eq!(settings.mac_address.as_deref(), Some("persistent"));
    }
}
