"""The first constructed incidents: one fault or one guard each."""
from records import Node, XID_79, XID_95, beats, delivered, fleet, later, replaced, rfc


def incident_01():
    node, new = Node(0), Node(1)
    rule = "-A OUTPUT -d 169.254.169.254/32 -p tcp -j DROP"
    return [
        node.heartbeat("09:55:00"), node.kubelet("09:57:12"), node.heartbeat("10:00:00"),
        node.event("10:02:11", "NetworkingReady", "UnexpectedRejectRule", f"filter/OUTPUT: {rule}"),
        node.event("10:02:11", "NetworkingReady", "MetadataServiceBlocked", f"the instance metadata service is unreachable: filter/OUTPUT: {rule}"),
        node.heartbeat("10:05:00"), node.kubelet("10:07:12"), node.heartbeat("10:10:00"),
        node.unknown("10:15:44.021638"), node.call("10:45:44"),
        *replaced(new, node, "10:45:44", "10:48:30", "10:50:10"),
    ]


def incident_02():
    node = Node(0)
    down = lambda clock: node.bad(clock, "NetworkingReady", "10:02:30", "InterfaceNotUp", "eth1 is down", 7_200)
    return [
        node.heartbeat("10:00:00"), down("10:03:00"), down("10:08:00"),
        node.condition("10:09:30", "NetworkingReady", "True", "10:09:30"),
        *beats(node, "10:10:00", "10:45:00", NetworkingReady={"since": rfc("10:09:30")}),
    ]


def incident_03():
    """Ready flaps every four minutes and is True for one minute each time: shorter than the recovery hold."""
    node, new = Node(0), Node(1)
    events = [node.ready("09:58:00")]
    for minute in range(0, 30, 4):
        events += [node.not_ready(later("10:00:00", minute * 60)), node.ready(later("10:00:00", minute * 60 + 180))]
    return events + [node.call("10:30:00"), *replaced(new, node, "10:30:00", "10:33:10", "10:35:40")]


def incident_04():
    node, new = Node(0), Node(1)
    return [
        node.heartbeat("09:58:00"), node.ready("09:58:30"), node.deleted_by_hand("10:00:00.355378"),
        *beats(node, "10:03:00", "10:28:00"), node.call("10:30:00"),
        *replaced(new, node, "10:30:00", "10:33:10", "10:35:40"),
    ]


def incident_05():
    node = Node(0)
    return [
        node.heartbeat("09:58:00"), node.ready("09:58:30"), node.unknown("10:00:44.021638"),
        node.state_change("10:01:10", "terminated"), node.deleted_by_cloud_controller("10:01:20.021638"),
    ]


def incident_06():
    node, new = Node(0), Node(1)
    xid = lambda clock: node.bad(clock, "AcceleratedHardwareReady", "10:00:00", "NvidiaXID79Error", XID_79)
    return [
        node.heartbeat("09:58:00"), xid("10:00:00.250"), xid("10:05:00"), node.call("10:10:00"),
        *replaced(new, node, "10:10:00", "10:13:00", "10:15:30"),
    ]


def rebooting(node):
    xid = lambda clock: node.bad(clock, "AcceleratedHardwareReady", "10:00:00", "NvidiaXID95Error", XID_95)
    events = [
        node.heartbeat("09:58:00"), node.ready("09:58:30"), xid("10:00:00.250"), xid("10:05:00"),
        node.reboot_call("10:10:00"), node.unknown("10:11:20.5"),
    ]
    node.reboot()
    return events + [node.ready("10:13:05.2", new_boot=True)]


def incident_07():
    node = Node(0)
    return rebooting(node) + [
        node.heartbeat("10:13:20", since="10:13:15"), node.heartbeat("10:18:20", since="10:13:15"),
        node.heartbeat("10:23:20", since="10:13:15"),
    ]


def incident_08():
    node, new = Node(0), Node(1)
    events = rebooting(node)
    again = lambda clock: node.bad(clock, "AcceleratedHardwareReady", "10:14:02", "NvidiaXID95Error", XID_95, 47)
    return events + [
        node.heartbeat("10:13:20", since="10:13:15"), again("10:14:02.250"), again("10:19:00"), again("10:24:00"),
        node.call("10:25:00"), *replaced(new, node, "10:25:00", "10:28:00", "10:30:40"),
    ]


def incident_09():
    nodes = fleet(30)
    events = [node.heartbeat(later("09:58:00", node.number)) for node in nodes]
    # Three in two zones each and one in the third: no zone appears impaired.
    bad = [nodes[number] for number in (0, 1, 3, 4, 5, 6, 7)]
    events += [node.not_ready(later("10:00:00", 7 * place)) for place, node in enumerate(bad)]
    events += [node.heartbeat(later("10:12:00", node.number)) for node in nodes]
    events += [node.heartbeat(later("10:26:00", node.number)) for node in nodes]
    events += [node.ready(later("10:40:00", 11 * place)) for place, node in enumerate(bad[3:])]
    events += [node.heartbeat(later("10:40:00", node.number)) for node in nodes]
    for place, node in enumerate(bad[:3]):
        # Once the recovery of enough of the others has held for two minutes.
        called, new = later("10:42:00", 7 * place), Node(100 + place, node.zone)
        events.append(node.call(called))
        events += replaced(new, node, called, later("10:46:00", place), later("10:48:30", 9 * place))
    return events


def incident_10():
    nodes = fleet(12)
    events = [node.heartbeat(later("09:58:00", node.number)) for node in nodes]
    events += [node.unknown(later("10:00:00", node.number)) for node in nodes if node.zone == "us-east-1b"]
    for clock in ("10:12:00", "10:26:00", "10:40:00", "10:54:00"):
        events += [node.heartbeat(later(clock, node.number)) for node in nodes if node.zone != "us-east-1b" or clock > "10:50"]
    events += [node.ready(later("10:50:00", node.number)) for node in nodes if node.zone == "us-east-1b"]
    return events


def incident_11():
    nodes = fleet(10)
    unhealthy = nodes[4]
    events = [node.heartbeat(later("10:00:00", 3 * node.number)) for node in nodes]
    down = lambda clock, sound=7_200: unhealthy.bad(clock, "NetworkingReady", "10:02:00", "InterfaceNotUp", "eth1 is down", sound)
    events += [down("10:02:30")]
    events += [node.heartbeat(later("10:05:00", 3 * node.number)) for node in nodes if node is not unhealthy]
    # No reports until 10:50: the subscription filter is disabled. The unhealthy node recovered at 10:20.
    back = lambda node: {"NetworkingReady": {"since": rfc("10:20:00")}} if node is unhealthy else {}
    events += [node.heartbeat(later("10:50:00", 3 * node.number), **back(node)) for node in nodes]
    events += [node.heartbeat(later("10:55:00", 3 * node.number), **back(node)) for node in nodes]
    return events


def incident_12():
    """Reports from before a reboot arrive 20 minutes late, twice and out of order."""
    node = Node(0)
    before = node.heartbeat("10:00:00")
    down = node.bad("10:03:00", "NetworkingReady", "10:02:30", "InterfaceNotUp", "eth1 is down", 7_200)
    still = node.bad("10:04:00", "NetworkingReady", "10:02:30", "InterfaceNotUp", "eth1 is down", 7_200)
    node.reboot()
    after = [node.heartbeat("10:10:00", since="10:09:50"), node.heartbeat("10:15:00", since="10:09:50")]
    clocks = [later("10:20:00", 300 * number) for number in range(7)]
    last = [(node.heartbeat(clock, since="10:09:50"), clock) for clock in clocks]
    return [
        delivered(before, "10:00:00", "10:00:01"),
        delivered(after[0], "10:10:00", "10:10:01"), delivered(after[1], "10:15:00", "10:15:01"),
        delivered(still, "10:04:00", "10:24:00"), delivered(down, "10:03:00", "10:24:01"),
        delivered(down, "10:03:00", "10:24:02"), delivered(still, "10:04:00", "10:24:03"),
        *(delivered(report, written, later(written, 1)) for report, written in last),
    ]


def incident_13():
    node = Node(0)
    return [
        node.heartbeat("09:58:00"), node.ready("09:58:30"), node.not_ready("10:00:00"),
        *beats(node, "10:03:00", "10:08:00"), node.call_by("Admin", "alice", "10:12:13", "aws-cli/2.17.0"),
        node.terminated("10:15:30", "10:12:13"),
    ]


def incident_14():
    node, new = Node(0), Node(1)
    return [node.heartbeat("09:58:00"), node.not_ready("10:00:00"), *beats(node, "10:03:00", "10:28:00"), *replaced(new, node, "10:30:00", "10:33:10", "10:35:40")]


def incident_15():
    node, new = Node(0), Node(1)
    return [
        node.heartbeat("09:58:00"), node.not_ready("10:00:00"), *beats(node, "10:03:00", "10:28:00"),
        node.throttled_call("10:30:00"), node.call("10:30:15"), *replaced(new, node, "10:30:15", "10:33:10", "10:35:40"),
    ]


def incident_16():
    node, new = Node(0), Node(1)
    return [
        node.heartbeat("09:58:00"), node.not_ready("10:00:00"), *beats(node, "10:03:00", "10:58:00"),
        node.call("11:00:00"), *replaced(new, node, "11:00:00", "11:03:10", "11:05:40"),
    ]


INCIDENTS = {
    "01-metadata-service-blocked": incident_01,
    "02-transient-interface-loss": incident_02,
    "03-flapping": incident_03,
    "04-node-deleted-by-hand": incident_04,
    "05-instance-gone": incident_05,
    "06-xid-79-replace": incident_06,
    "07-xid-95-reboot-cures": incident_07,
    "08-xid-95-reboot-fails": incident_08,
    "09-threshold-halts-then-resumes": incident_09,
    "10-one-zone-dark": incident_10,
    "11-log-pipeline-suspect": incident_11,
    "12-stale-reports-after-reboot": incident_12,
    "13-foreign-termination": incident_13,
    "14-no-cloudtrail-event": incident_14,
    "15-throttled-then-accepted": incident_15,
    "16-held-by-an-operator": incident_16,
}
