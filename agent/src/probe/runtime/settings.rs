//! Reads single settings of the kubelet's configuration.
//!
//! The file is JSON or YAML, and its layout depends on the distribution. Only two settings are needed, so they are
//! found by name.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// A configuration has a few pages.
const MAX_BYTES: u64 = 256 * 1024;

/// The paths on Amazon Linux 2023 and 2, on Bottlerocket, and with kubeadm.
const FILES: [&str; 4] = [
    "etc/kubernetes/kubelet/config.json",
    "etc/kubernetes/kubelet/kubelet-config.json",
    "etc/kubernetes/kubelet/config",
    "var/lib/kubelet/config.yaml",
];

/// Whether this node has a kubelet.
pub(super) fn has_kubelet(root: &Path) -> bool {
    root.join("var/lib/kubelet").is_dir()
}

/// The port of the kubelet's health endpoint, if the configuration sets it; 0 turns the endpoint off.
pub(super) fn healthz_port(root: &Path) -> Option<u16> {
    texts(root).find_map(|text| setting(&text, "healthzPort")?.parse().ok())
}

/// The container runtime's socket, if the configuration sets it.
pub(super) fn runtime_socket(root: &Path) -> Option<PathBuf> {
    texts(root).find_map(|text| {
        let endpoint = setting(&text, "containerRuntimeEndpoint")?;
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint).strip_prefix('/')?;
        // `/var/run` is a symbolic link on the host, which would lead out of a root that is mounted elsewhere.
        let path =
            path.strip_prefix("var/run/").map_or_else(|| path.to_owned(), |rest| format!("run/{rest}"));
        Some(root.join(path))
    })
}

fn texts(root: &Path) -> impl Iterator<Item = String> {
    FILES.into_iter().filter_map(move |file| {
        let mut text = Vec::new();
        File::open(root.join(file)).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    })
}

/// The value of a key, in JSON or YAML.
fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let is_quote = |c: char| c == '"' || c == '\'';
    for (at, _) in text.match_indices(key) {
        let before = &text[text[..at].rfind('\n').map_or(0, |newline| newline + 1)..at];
        let starts = before
            .chars()
            .next_back()
            .is_none_or(|c| is_quote(c) || c.is_whitespace() || c == '{' || c == ',');
        let rest = text[at + key.len()..].trim_start_matches(is_quote).trim_start_matches(' ');
        let Some(rest) = rest.strip_prefix(':').filter(|_| starts && !before.contains('#')) else { continue };
        let value = rest.trim_start_matches([' ', '\t']).trim_start_matches(is_quote);
        let end = value
            .find(|c: char| is_quote(c) || c.is_whitespace() || matches!(c, ',' | '}'))
            .unwrap_or(value.len());
        if end > 0 {
            return Some(&value[..end]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn settings_are_found_in_json_and_in_yaml() {
        let key = "containerRuntimeEndpoint";
        let socket = Some("unix:///run/containerd/containerd.sock");
        for text in [
            "{\n    \"kind\": \"KubeletConfiguration\",\n    \"containerRuntimeEndpoint\": \"unix:///run/containerd/containerd.sock\",\n    \"a\": 1\n}",
            r#"{"containerRuntimeEndpoint":"unix:///run/containerd/containerd.sock"}"#,
            r#"{"a":1,"containerRuntimeEndpoint" : "unix:///run/containerd/containerd.sock","healthzPort":0}"#,
            "kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n",
            "containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock' # ours\r\n",
            "# containerRuntimeEndpoint: unix:///old\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock",
        ] {
            assert_eq!(setting(text, key), socket, "{text}");
        }
        for text in [
            "",
            "containerRuntimeEndpoint",
            "containerRuntimeEndpoint:",
            "containerRuntimeEndpoint: \"\"\nimageServiceEndpoint: x",
            "#containerRuntimeEndpoint: unix:///run/x",
            "myContainerRuntimeEndpoint: unix:///run/x",
            "notcontainerRuntimeEndpoint: unix:///run/x",
            "containerRuntimeEndpoints: unix:///run/x",
        ] {
            assert_eq!(setting(text, key), None, "{text}");
        }
    }

    #[test]
    fn a_socket_lies_under_the_root_even_where_the_host_has_a_link() {
        let root = tempfile::tempdir().expect("a directory");
        let file = root.path().join(FILES[0]);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        for (endpoint, path) in [
            ("unix:///run/containerd/containerd.sock", Some("run/containerd/containerd.sock")),
            ("/var/run/crio/crio.sock", Some("run/crio/crio.sock")),
            ("npipe:////./pipe/containerd", None),
        ] {
            fs::write(
                &file,
                format!("{{\"containerRuntimeEndpoint\": \"{endpoint}\", \"healthzPort\": 10300}}"),
            )
            .expect("a file");
            assert_eq!(runtime_socket(root.path()), path.map(|path| root.path().join(path)), "{endpoint}");
            assert_eq!(healthz_port(root.path()), Some(10_300));
        }
    }
}
