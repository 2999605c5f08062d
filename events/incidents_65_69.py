"""Incidents in which a node was forgotten, or in which nodes counted that should not.

Their right calls are a table in tests/incidents.rs.
"""
import json

from incidents_40_58 import groups, in_order
from records import ACCOUNT, GROUP, beats, fleet, later, replaced, uuid

REPAIRED = "mode: repair\nnodeRepairConfig: {enabled: true}\n"


def deleted_by(node, clock, user):
    """A controller deletes the Node object."""
    record = node.deleted_by_cloud_controller(clock)
    record["user"] = {"username": user, "groups": ["system:authenticated"]}
    record["auditID"] = uuid("audit", "deletion", node.number, clock)
    return record


def node_deleted_by_eks_though_it_runs():
    """EKS deletes the Node object of an instance that stays in service, and whose agent goes on to report."""
    nodes = fleet(10)
    events = [node.ready(later("09:00:00", node.number)) for node in nodes]
    events += beats(nodes[0], "09:50:00", "11:00:00")
    events.append(deleted_by(nodes[0], "10:00:00", "eks:node-manager"))
    return {"events.jsonl": in_order(events), "policy.yaml": REPAIRED, "fleet.json": groups(**{GROUP: nodes})}


def node_of_a_reused_name_deleted():
    """A new instance has the name of one that is gone: the cloud controller deletes the old Node, which is its only one."""
    old, *others = fleet(4)
    new = fleet(5)[4]
    new.name = old.name
    deletion = deleted_by(old, "09:04:00", "eks:cloud-controller-manager")
    registration = old.registers("07:59:00")
    registration["responseObject"]["metadata"]["uid"] = deletion["responseStatus"]["details"]["uid"]
    events = [registration, *(node.ready(later("08:00:00", node.number)) for node in (old, *others))]
    events += [old.terminated("08:30:00", "08:29:00", "was taken out of service in response to an EC2 health check indicating it has been terminated or stopped.")]
    events += [new.launched("08:31:00"), new.kubelet("08:33:00"), *beats(new, "08:34:00", "10:30:00")]
    # It was Ready on the Node of the old one.
    events += [new.ready("08:33:10"), deletion]
    return {"events.jsonl": in_order(events), "policy.yaml": REPAIRED, "fleet.json": groups(**{GROUP: [*others, new]})}


def nodes_that_their_group_never_repairs():
    """Five of ten nodes have a fault that their own group never repairs; the sixth is lost."""
    nodes = fleet(10)
    rule = (
        f"groups:\n- name: {GROUP}\n  nodeRepairConfig:\n    enabled: true\n    nodeRepairConfigOverrides:\n"
        "    - {nodeMonitoringCondition: NetworkingReady, nodeUnhealthyReason: InterfaceNotUp, "
        "minRepairWaitTimeMins: 30, repairAction: NoAction}\n"
    )
    events = [node.ready(later("08:00:00", node.number)) for node in nodes]
    events += [
        node.bad("09:00:00", "NetworkingReady", "09:00:00", "InterfaceNotUp", "eth1 is down, on purpose")
        for node in nodes[:5]
    ]
    events.append(nodes[5].unknown("10:00:00"))
    files = {"events.jsonl": in_order(events), "policy.yaml": REPAIRED + "silence: {agentSilentAfter: null}\n" + rule}
    return files | {"fleet.json": groups(**{GROUP: nodes})}


def two_of_ten_on_standby():
    """Two instances on standby are not ready, and one in service is: it is the only one that counts."""
    nodes = fleet(10)
    described = json.loads(groups(**{GROUP: nodes}))
    described["AutoScalingGroups"][0]["DesiredCapacity"] = 10
    for instance in described["AutoScalingGroups"][0]["Instances"][8:]:
        instance["LifecycleState"] = "Standby"
    events = [node.ready(later("08:00:00", node.number)) for node in nodes]
    events += [node.not_ready(later("08:30:00", node.number)) for node in nodes[8:]] + [nodes[0].not_ready("09:00:00")]
    # Only an agent's report names the cluster.
    events.append(nodes[0].heartbeat("07:59:00"))
    policy = REPAIRED + "silence: {agentSilentAfter: null}\n"
    fleet_json = json.dumps(described, indent=1) + "\n"
    return {"events.jsonl": in_order(events), "policy.yaml": policy, "fleet.json": fleet_json}


def slot_free_when_ready():
    """The first replacement is Ready after four minutes, and CloudTrail's event of its call never arrives."""
    nodes, new = fleet(10), fleet(11)[10]
    events = [node.ready(later("08:00:00", node.number)) for node in nodes]
    events += [node.not_ready(later("09:00:00", node.number)) for node in nodes[1:3]]
    events += replaced(new, nodes[1], "09:30:00", "09:31:00", "09:33:30")
    return {"events.jsonl": in_order(events), "policy.yaml": REPAIRED, "fleet.json": groups(**{GROUP: nodes})}


def events_of_another_account():
    """Another account reports the end of an instance with the id of one of ours, which is not ready later."""
    nodes = fleet(4)
    events = [node.ready(later("08:00:00", node.number)) for node in nodes]
    for ended in (nodes[0].state_change("09:00:00", "terminated"), nodes[0].terminated("09:00:05", "08:59:00")):
        events.append(ended | {"account": "999999999999"})
    events.append(nodes[0].not_ready("10:00:00"))
    # Only an agent's report names the cluster.
    events.append(nodes[1].heartbeat("07:59:00"))
    policy = REPAIRED + "silence: {agentSilentAfter: null}\n" + f'account: "{ACCOUNT}"\n'
    return {"events.jsonl": in_order(events), "policy.yaml": policy, "fleet.json": groups(**{GROUP: nodes})}


INCIDENTS = {
    "80-events-of-another-account": events_of_another_account,
    "65-node-deleted-by-eks-though-it-runs": node_deleted_by_eks_though_it_runs,
    "66-node-of-a-reused-name-deleted": node_of_a_reused_name_deleted,
    "67-nodes-that-their-group-never-repairs": nodes_that_their_group_never_repairs,
    "68-two-of-ten-on-standby": two_of_ten_on_standby,
    "69-slot-free-when-the-replacement-is-ready": slot_free_when_ready,
}
