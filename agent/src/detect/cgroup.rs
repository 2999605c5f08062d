//! Turns the path of a cgroup into the pod that it belongs to.
//!
//! With systemd as driver the kubelet writes a pod's UID with underscores
//! (`kubepods-burstable-pod1a2b_….slice`), without it plainly (`/kubepods/burstable/pod1a2b-…`); a static pod has
//! the 32 digits of its configuration's hash.

/// The UID of the pod, with hyphens; none for what is no pod's.
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
