"""Incidents in which a repair would be wrong, or in which something hides the one node that needs it.

Their right calls are a table in tests/incidents.rs.
"""
import copy
import json

from records import GROUP, Node, XID_79, at, beats, delivered, fleet, later, rfc

FORK_FAILED = "cgroup: fork rejected by pids controller in /kubepods.slice"


def groups(**members):
    """fleet.json: what describe-auto-scaling-groups would print of these groups."""
    described = [
        {
            "AutoScalingGroupName": name,
            "Instances": [
                {"InstanceId": node.instance, "AvailabilityZone": node.zone, "LifecycleState": "InService"}
                for node in nodes
            ],
            "SuspendedProcesses": [],
            "Tags": [{"Key": "kubernetes.io/cluster/prod", "Value": "owned"}],
        }
        for name, nodes in members.items()
    ]
    return json.dumps({"AutoScalingGroups": described}, indent=1) + "\n"


def in_order(events):
    """Events by their time: of writing, of an audit event's stage, or of EventBridge."""
    written = lambda event: event.get("at") or event.get("stageTimestamp") or event["time"]
    return sorted(events, key=written)


def late_lines_of_healthy_nodes():
    """NotReady and Ready are delivered 40 minutes late, or two hours late by a redrive; both nodes are healthy."""
    late, redriven = Node(0), Node(1)
    lines = []
    for node in (late, redriven):
        clock = "09:55:00"
        while at(clock) <= at("12:35:00"):
            lines.append((clock, delivered(node.heartbeat(clock), clock, later(clock, 1))))
            clock = later(clock, 600)
    for node, change, written, arrived in (
        (late, Node.not_ready, "10:00:00", "10:40:10"), (late, Node.ready, "10:05:00", "10:40:40"),
        (redriven, Node.not_ready, "10:01:00", "12:00:00"), (redriven, Node.ready, "10:04:00", "12:00:20"),
    ):
        lines.append((arrived, delivered(change(node, written), written, arrived)))
    return [line for _, line in sorted(lines, key=lambda line: line[0])]


def lost_recovery():
    """Ready is in the log group, and no subscription delivered it."""
    node = Node(1)
    lost = delivered(node.ready("10:00:40"), "10:00:40", "10:00:40")
    events = [*beats(node, "09:50:00", "10:55:00"), node.not_ready("10:00:00"), node.kubelet("09:56:00")]
    events += [node.kubelet(later("10:01:00", 300 * number)) for number in range(11)]
    return {"events.jsonl": in_order(events), "undelivered.jsonl": [lost]}


def false_report(node, clock, **fields):
    return node.bad(clock, "KernelReady", clock, "ForkFailedOutOfPIDs", FORK_FAILED) | fields


def since_1970(node, clock):
    report = false_report(node, clock, since="1970-01-01T00:00:00.000Z")
    report["findings"][0]["since"] = report["since"]
    return report


def ten_healthy_nodes(*reports):
    """Ten nodes that report that they are healthy before and after a false report."""
    nodes = fleet(10)
    events = [node.heartbeat(clock) for clock in ("10:00:00", "10:10:00") for node in nodes]
    lines = [delivered(event, event["at"][11:19], event["at"][11:19]) for event in events]
    for number, written, report in reports:
        lines.append(delivered(report(nodes[number], written), written, later(written, 1)))
    for clock in ("10:15:00", "10:30:00"):
        lines += [delivered(node.heartbeat(clock), clock, clock) for node in nodes]
    return lines


def reports_with_false_times():
    future = lambda node, clock: false_report(node, clock, at="2100-01-01T00:00:00.000Z")
    return ten_healthy_nodes((3, "10:10:30", since_1970), (5, "10:11:30", future))


def since_in_1970_on_most_nodes():
    return ten_healthy_nodes(*((number, f"10:10:{28 + number}", since_1970) for number in range(2, 10)))


def false_reports_one_node_after_another():
    """Every two minutes another node reports a fault of 1970, and is healthy again a minute later."""
    nodes = fleet(10)
    events = [node.heartbeat(later("10:08:00", node.number)) for node in nodes]
    for number, node in enumerate(nodes):
        clock = later("10:10:30", 120 * number)
        events += [since_1970(node, clock), node.heartbeat(later(clock, 60))]
    for clock in ("10:30:00", "10:40:00", "10:50:00", "11:00:00"):
        events += [node.heartbeat(later(clock, node.number)) for node in nodes]
    return events


def two_nodes_unknown_while_their_agents_report():
    nodes = fleet(2)
    events = [event for node in nodes for event in beats(node, later("09:45:00", node.number), "10:45:00")]
    events += [node.unknown(later("10:00:00", node.number)) for node in nodes]
    events += [node.ready(later("10:31:00", node.number)) for node in nodes]
    return in_order(events)


def instances_that_are_no_nodes():
    """A group of proxies has the cluster's tag, and none of its instances has ever registered."""
    nodes, proxies = fleet(3), [Node(50), Node(51)]
    events = [node.ready(later("09:31:00", node.number)) for node in nodes]
    events += [event for node in nodes for event in beats(node, later("09:30:00", node.number), "11:00:00")]
    for number, proxy in enumerate(proxies):
        launch = proxy.launched(later("10:00:00", number))
        launch["detail"]["AutoScalingGroupName"] = "egress-proxies"
        events.append(launch)
    return {"events.jsonl": in_order(events), "fleet.json": groups(**{GROUP: nodes})}


def forged_boot_id(*more):
    """A report with an invented boot ID and a time in 2100; then the node reboots, and its GPU fails."""
    node = Node(2)
    lines = [(clock, node.heartbeat(clock)) for clock in ("09:50:00", "09:55:00", "10:00:00")]
    forged = node.heartbeat("10:01:00") | {
        "bootId": "ffffffff-ffff-4fff-8fff-ffffffffffff", "at": "2100-01-01T00:00:00.000Z",
    }
    lines.append(("10:01:00", forged))
    node.reboot()
    lines += [(clock, event(node, clock)) for clock, event in more]
    for number in range(12):
        clock = later("10:06:00", 300 * number)
        lines.append((clock, node.bad(clock, "AcceleratedHardwareReady", "10:06:00", "NvidiaXID79Error", XID_79)))
    return [delivered(record, clock, later(clock, 1) if record is forged else clock) for clock, record in lines]


def forged_boot_id_with_control_plane():
    return forged_boot_id(("10:05:00", lambda node, clock: node.ready(clock, new_boot=True)))


def silent_agents_hide_no_fault():
    """Twelve agents have been silent for two hours when the GPU of another node fails."""
    nodes = fleet(20)
    events = [node.heartbeat(later(clock, node.number)) for clock in ("09:50:00", "10:00:00") for node in nodes]
    for number in range(1, 11):
        events += [node.heartbeat(later("10:00:00", 900 * number + node.number)) for node in nodes[12:]]
    broken = nodes[15]
    fault = [broken.bad(later("12:00:00", 240 * number), "AcceleratedHardwareReady", "12:00:00", "NvidiaXID79Error", XID_79) for number in range(6)]
    events = [event for event in events if event["node"] != broken.name or event["at"] < rfc("12:00:00")]
    return in_order(events + fault)


def all_nodes_unknown():
    nodes = fleet(4)
    events = [event for node in nodes for event in beats(node, later("09:45:00", node.number), "10:04:00")]
    events += [node.unknown(later("10:05:00", node.number)) for node in nodes]
    policy = 'mode: repair\nnodeRepairConfig: {enabled: true}\nmaintenanceWindows:\n- {start: "10:40", end: "12:00"}\n'
    return {"events.jsonl": in_order(events), "policy.yaml": policy}


class OtherNode(Node):
    """A node that no Auto Scaling group has: of Fargate, hybrid, or of EKS Auto Mode."""

    def __init__(self, number, name, provider_id, session):
        super().__init__(number)
        self.name, self.provider_id, self.session = name, provider_id, session

    def audited(self, name, clock, body=None):
        record = super().audited(name, clock, body)
        text = json.dumps(record).replace(f"aws:///{self.zone}/{self.instance}", self.provider_id)
        return json.loads(text.replace(self.instance, self.session))


def nodes_of_no_group():
    """Three nodes that no group has become Unknown. A node of the group is not ready, and is replaced."""
    nodes = fleet(6)
    others = [
        OtherNode(40, "fargate-ip-10-0-9-9.ec2.internal", "aws:///us-east-1a/0f1e2d3c4b-0123456789abcdef0123456789abcdef/fargate-ip-10-0-9-9.ec2.internal", "fargate"),
        OtherNode(41, "mi-0aaaabbbbccccdddd", "eks-hybrid:///us-east-1/prod/mi-0aaaabbbbccccdddd", "mi-0aaaabbbbccccdddd"),
        OtherNode(42, "i-0bbbbccccddddeeee", "aws:///us-east-1b/i-0bbbbccccddddeeee", "i-0bbbbccccddddeeee"),
    ]
    # Bare audit events name no cluster, and reports do.
    events = [nodes[5].heartbeat("08:00:00")]
    events += [node.ready(later("08:00:00", node.number)) for node in nodes]
    for number, node in enumerate(others):
        start = later("08:03:00", 20 * number)
        events += [node.registers(start), node.ready(later(start, 30)), node.unknown(later(start, 300))]
    events.append(nodes[2].not_ready("08:10:00"))
    return {"events.jsonl": in_order(events), "fleet.json": groups(**{GROUP: nodes})}


def every_node_of_small_groups():
    nodes = fleet(9)
    events = [nodes[8].heartbeat("08:00:00")]
    events += [node.ready(later("08:00:10", node.number)) for node in nodes]
    events += [node.not_ready(later("08:10:00", 7 * node.number)) for node in nodes]
    return {"events.jsonl": in_order(events), "fleet.json": groups(web=nodes[:3], api=nodes[3:6], batch=nodes[6:])}


def halt_until_a_recovery_has_held():
    """Three of ten are not ready, one too many. An hour later one of them recovers."""
    nodes = fleet(10)
    events = [node.ready(later("08:00:00", node.number)) for node in nodes]
    events += [node.not_ready("09:00:00") for node in nodes[:3]]
    return events + [nodes[2].ready("10:00:00")]


def conditions_taken_off_a_node():
    """A condition is removed by a strategic merge patch, and all conditions of a node are set to null."""
    nodes = fleet(4)
    events = [node.ready(later("08:00:00", node.number)) for node in nodes]
    detector = "system:serviceaccount:kube-system:node-problem-detector"
    deadlock = {
        "type": "KernelReady", "status": "False", "reason": "KernelDeadlock", "message": "task blocked for more than 120 s",
        "lastHeartbeatTime": "2026-08-20T09:00:00Z", "lastTransitionTime": "2026-08-20T09:00:00Z",
    }
    return events + [
        nodes[0].status_patch("09:00:00", detector, [deadlock]),
        nodes[2].status_patch("09:00:02", "kubernetes-admin", None),
        nodes[0].status_patch("09:10:00", "kubernetes-admin", [{"$patch": "delete", "type": "KernelReady"}]),
    ]


def six_of_ten_flap():
    """Each is not ready for 56 of 168 seconds, so that two of ten are at any time."""
    nodes = fleet(10)
    events = [node.ready(later("08:00:00", node.number)) for node in nodes]
    for number, node in enumerate(nodes[:6]):
        for cycle in range(12):
            clock = later("09:00:00", 28 * number + 168 * cycle)
            events += [node.not_ready(clock), node.ready(later(clock, 56))]
    policy = "mode: repair\nnodeRepairConfig: {enabled: true}\nzones: {minUnhealthy: 9}\n"
    return {"events.jsonl": in_order(events), "policy.yaml": policy}


def impaired_zone_ready_for_a_minute():
    """Three of five nodes of a zone are not ready, and one of them is Ready for a minute."""
    zones = ["us-east-1a"] * 5 + ["us-east-1b"] * 8 + ["us-east-1c"] * 7
    nodes = [Node(number, zone) for number, zone in enumerate(zones)]
    # A registration names the zone.
    events = [nodes[4].heartbeat("07:59:00"), *(node.registers(later("07:59:30", node.number)) for node in nodes[:3])]
    events += [node.ready(later("08:00:00", node.number)) for node in nodes]
    events += [node.not_ready(later("09:00:00", node.number)) for node in nodes[:3]]
    events += [nodes[1].ready("10:00:20"), nodes[1].not_ready("10:01:25")]
    policy = "mode: repair\nnodeRepairConfig: {enabled: true, maxUnhealthyNodeThresholdPercentage: 100}\n"
    return {"events.jsonl": events, "policy.yaml": policy, "fleet.json": groups(**{GROUP: nodes})}


def instance_under_a_new_name():
    """The kubelet of an instance registers under another name; the old Node object becomes Unknown."""
    nodes = fleet(4)
    events = [nodes[0].registers("08:00:00"), *(node.ready(later("08:00:20", node.number)) for node in nodes)]
    renamed = copy.copy(nodes[0])
    renamed.name = "ip-10-0-99-99.ec2.internal"
    return [*events, renamed.registers("09:00:00"), renamed.ready("09:00:20"), nodes[0].unknown("09:01:00")]


def outage_ends_node_by_node():
    nodes = fleet(10)
    events = [node.ready(later("08:00:00", node.number)) for node in nodes]
    events += [node.unknown(later("09:00:00", node.number)) for node in nodes[:7]]
    return events + [node.ready(later("10:00:10", 30 * node.number)) for node in nodes[:7]]


INCIDENTS = {
    "40-late-lines-of-healthy-nodes": late_lines_of_healthy_nodes,
    "41-lost-recovery": lost_recovery,
    "42-reports-with-false-times": reports_with_false_times,
    "43-since-in-1970-on-most-nodes": since_in_1970_on_most_nodes,
    "44-false-reports-one-node-after-another": false_reports_one_node_after_another,
    "45-two-nodes-unknown-while-their-agents-report": two_nodes_unknown_while_their_agents_report,
    "46-instances-that-are-no-nodes": instances_that_are_no_nodes,
    "47-forged-boot-id": forged_boot_id,
    "48-forged-boot-id-with-control-plane": forged_boot_id_with_control_plane,
    "49-silent-agents-hide-no-fault": silent_agents_hide_no_fault,
    "50-all-nodes-unknown": all_nodes_unknown,
    "51-nodes-of-no-group": nodes_of_no_group,
    "52-every-node-of-small-groups": every_node_of_small_groups,
    "53-halt-until-a-recovery-has-held": halt_until_a_recovery_has_held,
    "54-conditions-taken-off-a-node": conditions_taken_off_a_node,
    "55-six-of-ten-flap": six_of_ten_flap,
    "56-impaired-zone-ready-for-a-minute": impaired_zone_ready_for_a_minute,
    "57-instance-under-a-new-name": instance_under_a_new_name,
    "58-outage-ends-node-by-node": outage_ends_node_by_node,
}
