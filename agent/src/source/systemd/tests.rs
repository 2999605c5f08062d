use super::*;

#[test]
fn a_name_is_escaped_as_systemd_does() {
    for (name, path) in [
        ("kubelet.service", "kubelet_2eservice"),
        ("aws-network-policy-agent.service", "aws_2dnetwork_2dpolicy_2dagent_2eservice"),
        ("getty@tty1.service", "getty_40tty1_2eservice"),
        ("9p.service", "_39p_2eservice"),
    ] {
        assert_eq!(path_of(name), format!("/org/freedesktop/systemd1/unit/{path}"));
    }
}
