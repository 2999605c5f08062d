"""Incidents in which somebody ends an instance: each end says whose act it was.

Their right calls, and whose acts are foreign, are tables in tests/incidents.rs and tests/whose_act.rs.
"""
from incidents_40_58 import in_order
from records import Node, beats, fleet, later, replaced, rfc


def execution_of_our_own_call():
    node, new = Node(0), Node(1)
    return in_order([
        node.heartbeat("09:58:00"), node.not_ready("10:00:00"), *beats(node, "10:03:00", "10:28:00"), node.call("10:30:00"),
        node.executed("10:30:22"), *replaced(new, node, "10:30:00", "10:33:10", "10:35:40"),
    ])


def shrunk(policy, alarm, clock):
    """The cause of a scale-in, from its first sentence on. `terminated` puts "At <time> instance i-…" before it."""
    return (
        f"was considered. At {rfc(clock, 0)} a monitor alarm {alarm} in state ALARM triggered policy {policy} changing the desired "
        f"capacity from 3 to 2.  At {rfc(clock, 0)} an instance was taken out of service in response to a difference between "
        "desired and actual capacity, shrinking the capacity from 3 to 2."
    )


def scale_ins():
    """A scaling policy, an instance refresh and the cluster autoscaler each take a node away. All are healthy."""
    by_policy, refreshed, by_autoscaler = nodes = fleet(3)
    events = [event for node in nodes for event in (node.heartbeat("09:58:00"), node.ready("09:58:30"))]
    agent = "aws-sdk-go/1.48.7 (go1.22.2; linux; amd64) cluster-autoscaler/v1.31.1"
    first = by_policy.terminated("10:12:00", "10:00:00", shrunk("shrink", "low-cpu", "09:59:55"))
    first["detail"]["Cause"] = first["detail"]["Cause"].split("was considered. ")[1]
    return in_order(events + [
        # A drain holds the first one: CloudTrail's event comes before that of the activity.
        by_policy.executed("10:05:00"), first,
        refreshed.executed("10:20:00"),
        refreshed.terminated("10:21:30", "10:20:00", "was taken out of service in response to an instance refresh."),
        by_autoscaler.call_by("prod-cluster-autoscaler", "1787212800000000000", "10:40:00", agent, shrinks=True),
        by_autoscaler.terminated("10:42:30", "10:40:00"),
        *(beat for node, end in zip(nodes, ("10:00:00", "10:18:00", "10:38:00")) for beat in beats(node, "10:00:00", end)),
    ])


def node_group_update():
    """EKS drains and terminates one node after another; each is NotReady while it shuts down."""
    nodes, events = fleet(3), []
    for node in nodes:
        began = later("10:00:00", 420 * node.number)
        events += [
            node.heartbeat("09:58:00"), node.ready("09:58:30"), node.call_by_eks(began), node.not_ready(later(began, 10)),
            node.terminated(later(began, 100), began),
        ]
    return in_order(events)


def spot_interruption():
    node = Node(0)
    ended = "was taken out of service in response to an EC2 health check indicating it has been terminated or stopped."
    evicted = node.announced("eventbridge-spot-bid-evicted", "10:02:00")
    evicted["detail"] |= {"eventTime": rfc("10:02:00", 0), "recipientAccountId": evicted["account"]}
    return in_order([
        node.heartbeat("09:58:00"), node.ready("09:58:30"),
        node.announced("eventbridge-ec2-rebalance-recommendation", "09:59:00"),
        node.announced("eventbridge-ec2-spot-interruption-warning", "10:00:00"), node.not_ready("10:02:05"),
        node.terminated("10:03:30", "10:02:40", ended), evicted,
    ])


def retirement_is_announced():
    """AWS Health announces the retirement of a healthy node, twice: an event of the node, and no repair."""
    node = Node(0)
    notice = "eventbridge-health-instance-retirement"
    return in_order([
        *beats(node, "09:55:00", "10:40:00"), node.ready("09:58:30"), node.announced(notice, "10:00:00"),
        node.announced(notice, "10:10:00"),
    ])


INCIDENTS = {
    "70-execution-of-our-own-call": execution_of_our_own_call,
    "71-scale-ins": scale_ins,
    "72-node-group-update": node_group_update,
    "73-spot-interruption": spot_interruption,
    "74-retirement-is-announced": retirement_is_announced,
}
