//! Finds settings in containerd's configuration that a later version removes.
//!
//! containerd has a call that reports deprecations, which not every version has. Its configuration file works with
//! every version, and before containerd is restarted with it.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::not_checkable;
use crate::{
    finding::FindingChange,
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
};

const DEPRECATED: &str = "DeprecatedContainerdConfiguration";
const FILE: &str = "etc/containerd/config.toml";
/// All settings with their defaults take a tenth of this.
const MAX_BYTES: u64 = 256 * 1024;
const INTERVAL: Duration = Duration::from_secs(60 * 60);

pub(super) struct Configuration {
    root: PathBuf,
    latch: ConditionLatch,
}

impl Configuration {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }
}

impl Probe for Configuration {
    fn name(&self) -> &'static str {
        "containerd-configuration"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[DEPRECATED]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let path = self.root.join(FILE);
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text));
        read.map_err(|error| {
            if error.kind() == ErrorKind::NotFound {
                not_checkable(format!("containerd has no configuration at {}", path.display()))
            } else {
                not_checkable(format!("{} cannot be read: {error}", path.display()))
            }
        })?;
        let found = deprecated(&String::from_utf8_lossy(&text));
        let problem = (!found.is_empty()).then(|| {
            let found: Vec<&str> = found.into_iter().collect();
            format!("{} has settings that containerd removes: {}", path.display(), found.join(", "))
        });
        Ok(self.latch.update(vec![Evaluation::new(DEPRECATED, problem)], now))
    }
}

/// The deprecated settings in a configuration.
fn deprecated(text: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    let mut table = Vec::new();
    // The end of the current multi-line string, whose lines are not settings.
    let mut within: Option<&str> = None;
    for line in text.lines() {
        if let Some(end) = within {
            within = (!line.contains(end)).then_some(end);
            continue;
        }
        let line = without_comment(line).trim();
        if let Some(header) = line.strip_prefix('[') {
            table = segments(header.trim_matches(['[', ']']));
            continue;
        }
        let Some((key, value)) = assignment(line) else { continue };
        let value = value.trim();
        within = ["\"\"\"", "'''"].into_iter().find(|quotes| value.matches(quotes).count() % 2 == 1);
        let mut path: Vec<&str> = table.clone();
        path.extend(segments(key));
        found.extend(evaluate(&path, value.trim_matches(['"', '\''])));
    }
    found
}

/// The name of a deprecated setting. `containerd config default` writes all settings with their defaults into a new
/// file, so an empty or disabled one is not in use.
///
/// <https://github.com/containerd/containerd/blob/main/RELEASES.md#deprecated-config-properties>
fn evaluate(path: &[&str], value: &str) -> Option<&'static str> {
    if matches!(value, "" | "false" | "[]" | "{}" | "0") {
        return None;
    }
    match path {
        ["version"] => (value == "1").then_some("version = 1"),
        ["plugins", "io.containerd.runtime.v1.linux" | "linux", ..] => {
            Some("the runtime io.containerd.runtime.v1.linux")
        }
        ["plugins", "io.containerd.snapshotter.v1.aufs" | "aufs", ..] => Some("the snapshotter aufs"),
        [
            "plugins",
            "cri"
            | "io.containerd.grpc.v1.cri"
            | "io.containerd.cri.v1.runtime"
            | "io.containerd.cri.v1.images",
            setting @ ..,
        ] => match setting {
            ["systemd_cgroup"] => Some("systemd_cgroup"),
            ["registry", "mirrors", ..] => Some("registry.mirrors"),
            ["registry", "configs", ..] => Some("registry.configs"),
            ["registry", "auths", ..] => Some("registry.auths"),
            ["containerd", "untrusted_workload_runtime", ..] => Some("untrusted_workload_runtime"),
            ["containerd", "default_runtime", ..] => Some("default_runtime"),
            ["containerd", "runtimes", _, "runtime_type"]
                if matches!(value, "io.containerd.runtime.v1.linux" | "io.containerd.runc.v1") =>
            {
                Some("a runtime_type of version 1")
            }
            ["containerd", "runtimes", _, "runtime_engine"] => Some("runtime_engine"),
            ["containerd", "runtimes", _, "runtime_root"] => Some("runtime_root"),
            ["containerd", "runtimes", _, "options", "CriuPath"] => Some("CriuPath"),
            _ => None,
        },
        _ => None,
    }
}

fn without_comment(line: &str) -> &str {
    let end = outside_quotes(line).find(|(_, c)| *c == '#').map_or(line.len(), |(at, _)| at);
    &line[..end]
}

/// Splits a line into key and value.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (at, _) = outside_quotes(line).find(|(_, c)| *c == '=')?;
    Some((&line[..at], &line[at + 1..]))
}

/// The parts of a dotted key: `plugins."io.containerd.grpc.v1.cri".registry` has three.
fn segments(key: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    let mut start = 0;
    for (at, _) in outside_quotes(key).filter(|(_, c)| *c == '.') {
        segments.push(&key[start..at]);
        start = at + 1;
    }
    segments.push(&key[start..]);
    segments.into_iter().map(|segment| segment.trim().trim_matches(['"', '\''])).collect()
}

/// The characters of a line outside of quotes.
fn outside_quotes(line: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote = None;
    let mut escaped = false;
    line.char_indices().filter(move |(_, c)| {
        let outside = quote.is_none();
        match quote {
            None if matches!(c, '"' | '\'') => quote = Some(*c),
            Some('"') if escaped => escaped = false,
            Some('"') if *c == '\\' => escaped = true,
            Some(open) if open == *c => quote = None,
            _ => {}
        }
        outside
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::proptest;

    use super::*;

    /// The configuration that nodeadm writes on Amazon Linux 2023.
    const NODEADM: &str = r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "/run/containerd/containerd.sock"

[plugins.'io.containerd.cri.v1.images']
discard_unpacked_layers = true

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "localhost/kubernetes/pause"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d:/etc/docker/certs.d"

[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "nvidia"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia.options]
BinaryName = "/usr/bin/nvidia-container-runtime"
SystemdCgroup = true
"#;

    /// A part of `containerd config default` of 1.7: deprecated settings are present, but not in use.
    const DEFAULTS: &str = r#"version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    systemd_cgroup = false
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      [plugins."io.containerd.grpc.v1.cri".containerd.default_runtime]
        base_runtime_spec = ""
        container_annotations = []
        privileged_without_host_devices = false
        runtime_engine = ""
        runtime_root = ""
        runtime_type = ""
        [plugins."io.containerd.grpc.v1.cri".containerd.default_runtime.options]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
        runtime_engine = ""
        runtime_type = "io.containerd.runc.v2"
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
          CriuImagePath = ""
          CriuPath = ""
          CriuWorkPath = ""
          IoGid = 0
      [plugins."io.containerd.grpc.v1.cri".containerd.untrusted_workload_runtime]
        runtime_type = ""
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = ""
      [plugins."io.containerd.grpc.v1.cri".registry.auths]
      [plugins."io.containerd.grpc.v1.cri".registry.configs]
      [plugins."io.containerd.grpc.v1.cri".registry.mirrors]
  [plugins."io.containerd.runtime.v1.linux"]
    no_shim = false
    runtime_root = ""
"#;

    #[test]
    fn a_current_configuration_has_nothing_deprecated() {
        for text in [NODEADM, DEFAULTS, "", "imports = ['/etc/containerd/conf.d/*.toml']\n"] {
            assert!(deprecated(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn each_deprecated_setting_is_found() {
        let cri = "[plugins.\"io.containerd.grpc.v1.cri\"";
        for (text, expected) in [
            ("version = 1".to_owned(), "version = 1"),
            ("[plugins.cri]\n  systemd_cgroup = true # old\n".to_owned(), "systemd_cgroup"),
            (format!("{cri}]\nsystemd_cgroup=true"), "systemd_cgroup"),
            (
                format!("{cri}.registry.mirrors.\"docker.io\"]\n  endpoint = [\"https://mirror.example\"]"),
                "registry.mirrors",
            ),
            (
                format!("{cri}.registry]\nmirrors.\"docker.io\".endpoint = [\"https://mirror.example\"]"),
                "registry.mirrors",
            ),
            (format!("{cri}.registry]\nmirrors = {{ a = {{}} }}"), "registry.mirrors"),
            (
                "[plugins.'io.containerd.cri.v1.images'.registry.configs.\"r.example\".tls]\nca_file = \"/ca\"".to_owned(),
                "registry.configs",
            ),
            (format!("{cri}.registry.auths.\"https://r.example\"]\nusername = \"u\""), "registry.auths"),
            (
                format!("{cri}.containerd.untrusted_workload_runtime]\nruntime_type = \"io.containerd.runc.v2\""),
                "untrusted_workload_runtime",
            ),
            (
                format!("{cri}.containerd.default_runtime]\nruntime_type = \"io.containerd.runc.v2\""),
                "default_runtime",
            ),
            (
                format!("{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runtime.v1.linux\""),
                "a runtime_type of version 1",
            ),
            (format!("{cri}.containerd.runtimes.a]\nruntime_engine = '/usr/bin/a'"), "runtime_engine"),
            (format!("{cri}.containerd.runtimes.a]\nruntime_root = '/a'"), "runtime_root"),
            (format!("{cri}.containerd.runtimes.a.options]\nCriuPath = '/usr/sbin/criu'"), "CriuPath"),
            (
                "[plugins.\"io.containerd.runtime.v1.linux\"]\nruntime = \"runc\"".to_owned(),
                "the runtime io.containerd.runtime.v1.linux",
            ),
        ] {
            assert_eq!(deprecated(&text).into_iter().collect::<Vec<_>>(), [expected], "{text}");
        }
    }

    #[test]
    fn similar_settings_are_not_deprecated() {
        for text in [
            "#version = 1",
            "version = 10",
            "[other]\nversion = 1",
            "[plugins.cri]\n# systemd_cgroup = true",
            "[plugins.other]\nsystemd_cgroup = true",
            "note = \"\"\"\nversion = 1\n[plugins.cri]\nsystemd_cgroup = true\n\"\"\"\n",
            "note = \"[plugins.cri] # \\\" systemd_cgroup = true\"",
            "[plugins.cri.containerd.runtimes.default_runtime]\nruntime_type = \"io.containerd.runc.v2\"",
            "[plugins.cri.registry.headers]\nmirrors = [\"x\"]",
        ] {
            assert!(deprecated(text).is_empty(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_an_end(text in r#"([\[\]a-z."'=\\# \n]|plugins|cri|version|é){0,200}"#) {
            let _ = deprecated(&text);
        }
    }

    #[test]
    fn a_removed_setting_is_cleared() {
        let root = tempfile::tempdir().expect("a directory");
        let mut probe = Configuration::new(root.path());
        probe.read(Timestamp::UNIX_EPOCH).expect_err("no configuration");
        let path = root.path().join(FILE);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, "version = 1\n[plugins.cri]\nsystemd_cgroup = true\n").expect("a file");
        let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        let [FindingChange::Raised(finding)] = &changes[..] else { panic!("{changes:?}") };
        assert!(finding.message.ends_with("removes: systemd_cgroup, version = 1"), "{}", finding.message);
        fs::write(&path, NODEADM).expect("a file");
        let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        assert!(matches!(&changes[..], [FindingChange::Cleared { .. }]), "{changes:?}");
    }
}
