"""What people ask for: flapping nodes repaired, a group that opts out, a node that is held or left alone.

Their right calls are a table in tests/incidents.rs.
"""
import copy
import json

from incidents_40_58 import groups, in_order
from records import GROUP, Node, fleet, later

# The control plane's lines don't name the cluster, which is `replay` then.
PROD, REPLAY = "kubernetes.io/cluster/prod", "kubernetes.io/cluster/replay"
REPAIR = "mode: repair\nnodeRepairConfig: {enabled: true}\n"


def flapping_promoted():
    """Not ready for five minutes of each ten: the fourth time in an hour begins the grace period."""
    nodes = fleet(4)
    events = [node.ready(later("08:00:20", node.number)) for node in nodes]
    for cycle in range(12):
        clock = later("09:00:00", 600 * cycle)
        events += [nodes[0].not_ready(clock), nodes[0].ready(later(clock, 300))]
    policy = REPAIR + "promotions:\n- {reason: KubeletNotReady, count: 4, window: 1h}\n"
    return {"events.jsonl": in_order(events), "policy.yaml": policy}


def opt_out_tag_false():
    """Three groups with the opt-out tag: false, empty and enabled."""
    nodes = fleet(12)
    events = [node.ready(later("08:00:20", node.number)) for node in nodes]
    events += [node.not_ready("09:00:00") for node in (nodes[0], nodes[4], nodes[8])]
    described = json.loads(groups(says_false=nodes[:4], says_nothing=nodes[4:8], says_enabled=nodes[8:]))
    for group, value in zip(described["AutoScalingGroups"], ("false", "", "enabled"), strict=True):
        group["Tags"].append({"Key": "nodemend/repair", "Value": value})
    return {
        "events.jsonl": in_order(events),
        "policy.yaml": REPAIR,
        "fleet.json": json.dumps(described, indent=1).replace(PROD, REPLAY) + "\n",
    }


def join_timeout_off():
    """An instance takes three minutes to join, and nobody counts that as a failure: another node is replaced on time."""
    new, *nodes = fleet(4)
    events = [node.ready(later("08:00:20", node.number)) for node in nodes]
    events += [nodes[0].not_ready("08:40:00"), new.launched("09:00:00"), new.registers("09:02:00"), new.ready("09:03:00")]
    return {"events.jsonl": in_order(events), "policy.yaml": REPAIR + "joinTimeout: 0s\n"}


def patched(node, clock, user, patch, number):
    """A person writes the Node object itself, as kubectl annotate and kubectl cordon do."""
    record = copy.deepcopy(node.ready(clock))
    record["auditID"] = record["auditID"][:-2] + f"{number:02}"
    record["userAgent"] = "kubectl/v1.33.1 (linux/amd64) kubernetes/8adc0f0"
    record["user"] = {"username": user, "groups": ["system:authenticated"]}
    record["objectRef"].pop("subresource", None)
    record["requestURI"] = f"/api/v1/nodes/{node.name}?fieldManager=kubectl"
    record["requestObject"] = patch
    record.pop("responseObject", None)
    return record


def annotation(text):
    return {"metadata": {"annotations": {"nodemend.io/hold": text}}}


def held_by_an_annotation():
    """Alice holds two nodes: one until twenty past ten, one with an end that cannot be read. One of the holds is taken off."""
    nodes = fleet(20)
    events = [node.ready(later("08:00:20", node.number)) for node in nodes]
    events += [node.not_ready("09:00:00") for node in nodes[:3]]
    events += [
        patched(nodes[0], "09:10:00", "alice", annotation("2026-08-20T10:20:00Z core dump"), 1),
        patched(nodes[1], "09:10:00", "alice", annotation("until I am done"), 2),
        patched(nodes[2], "09:10:00", "alice", annotation("2026-08-20T12:00:00Z test"), 3),
        patched(nodes[2], "09:20:00", "alice", annotation(None), 4),
    ]
    # Not to be the concern of this incident: how many at once.
    policy = REPAIR + "outage: {gradual: false}\n"
    return {"events.jsonl": in_order(events), "policy.yaml": policy, "fleet.json": groups(**{GROUP: nodes}).replace(PROD, REPLAY)}


def cordoned_left_alone():
    """Two nodes are not ready; Bob has cordoned one, and uncordons it at 10:00."""
    nodes = fleet(20)
    events = [node.ready(later("08:00:20", node.number)) for node in nodes]
    events += [node.not_ready("09:00:00") for node in nodes[:2]]
    events += [
        patched(nodes[0], "09:10:00", "bob", {"spec": {"unschedulable": True}}, 1),
        patched(nodes[0], "10:00:00", "bob", {"spec": {"unschedulable": None}}, 2),
    ]
    policy = REPAIR + "respectCordon: true\noutage: {gradual: false}\n"
    return {"events.jsonl": in_order(events), "policy.yaml": policy, "fleet.json": groups(**{GROUP: nodes}).replace(PROD, REPLAY)}


INCIDENTS = {
    "75-flapping-promoted": flapping_promoted,
    "76-opt-out-tag-false": opt_out_tag_false,
    "77-join-timeout-off": join_timeout_off,
    "78-held-by-an-annotation": held_by_an_annotation,
    "79-cordoned-left-alone": cordoned_left_alone,
}
