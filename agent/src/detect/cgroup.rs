//! Extracts the pod UID from a cgroup path.
//!
//! With the systemd cgroup driver the kubelet writes a pod's UID with underscores
//! (`kubepods-burstable-pod1a2b_….slice`), with cgroupfs it writes it unchanged (`/kubepods/burstable/pod1a2b-…`). A
//! static pod's UID is the 32 hexadecimal digits of its configuration's hash.

/// The pod's UID, with hyphens; `None` for a cgroup that belongs to no pod.
pub(crate) fn pod(path: &str) -> Option<String> {
    if !path.contains("kubepods") {
        return None;
    }
    path.split('/').find_map(|part| {
        let name = part.strip_suffix(".slice").unwrap_or(part);
        let uid = &name[name.rfind("pod")? + "pod".len()..];
        let is_uid = matches!(uid.len(), 32 | 36)
            && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
        is_uid.then(|| uid.replace('_', "-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_found_under_either_driver_and_nowhere_else() {
        let uid = "968a06fb-9ab9-4819-8caf-0392ddff3d9b";
        for (path, expected) in [
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod968a06fb_9ab9_4819_8caf_0392ddff3d9b.slice/cri-containerd-0f32.scope",
                Some(uid),
            ),
            ("/kubepods/burstable/pod968a06fb-9ab9-4819-8caf-0392ddff3d9b/0f32", Some(uid)),
            ("/kubepods.slice/kubepods-pod968a06fb_9ab9_4819_8caf_0392ddff3d9b.slice", Some(uid)),
            ("/kubepods/pod00112233445566778899aabbccddeeff", Some("00112233445566778899aabbccddeeff")),
            ("/kubepods.slice/kubepods-burstable.slice", None),
            ("/system.slice/podman.service", None),
            ("/machine.slice/pod968a06fb-9ab9-4819-8caf-0392ddff3d9b", None),
            ("/kubepods/pod", None),
            ("", None),
        ] {
            assert_eq!(pod(path).as_deref(), expected, "{path}");
        }
    }
}
