"""A scenario in which every program runs once: faults, repairs, their confirmation, drains, and an operator's commands.

It must use each permission of each role and each metric that an alarm or the dashboard shows: the tests fail for what it
leaves out.
"""

import json

from lambda_host import Failed
from loopback import AUDIT_STREAM, Group, node_of
from observed import OTHER, OTHER_ACCOUNT, Observed, cloud_trail_event, now, wait_for
from programs import environment
from template import ACCOUNT, CLUSTER, PARTITION, ROOT, deployed

POLICY = """
mode: repair
nodeRepairConfig:
  enabled: true
  maxUnhealthyNodeThresholdCount: 100
  nodeRepairConfigOverrides:
  - {nodeMonitoringCondition: KernelReady, nodeUnhealthyReason: ForkFailedOutOfPIDs, minRepairWaitTimeMins: 1, repairAction: Reboot}
  - {nodeMonitoringCondition: AcceleratedHardwareReady, nodeUnhealthyReason: NvidiaXID79Error, minRepairWaitTimeMins: 1, repairAction: Replace}
  - {nodeMonitoringCondition: Ready, nodeUnhealthyReason: KubeletNotReady, minRepairWaitTimeMins: 1, repairAction: Replace}
# Reports are delivered at once in this scenario.
settlingTime: 0s
silence: {agentSilentAfter: null}
outage: {gradual: false, maxUnhealthy: 100}
# Half of the few nodes are unhealthy.
zones: {minUnhealthy: 100}
# Longer than the scenario: an invocation waits for cases that are due within a minute.
recoveryHold: 6h
"""
# In the other cluster CloudTrail is late, and agents are silent as soon as they have reported.
OTHER_POLICY = POLICY.replace("agentSilentAfter: null", "agentSilentAfter: 1s") + f"account: '{OTHER_ACCOUNT}'\nconfirmationTimeout: 1s\n"
# Groups that EKS manages.
GPU, GPU_IN_OTHER = "eks-gpu-1ac2f3e4", "eks-gpu-other-1ac2f3e4"
FAULT = ("AcceleratedHardwareReady", "NvidiaXID79Error")
FAULT_FOR_REBOOT = ("KernelReady", "ForkFailedOutOfPIDs")


def instance(number: int) -> str:
    return f"i-{number:017x}"


# The instances that something happens to. All others are healthy.
REPLACED, REBOOTED, UNANSWERED, OF_EKS, HELD, FOREIGN, DRAINED, RECOVERED, UNVERIFIED, NOT_READY = map(instance, range(1, 11))
NEW, MISSED = instance(20), instance(25)
REPLACED_IN_OTHER, REBOOTED_IN_OTHER, OF_EKS_IN_OTHER, HALTED_IN_OTHER, NOT_READY_IN_OTHER, DUE_IN_OTHER = map(instance, range(30, 36))


def groups() -> dict:
    zones = ("eu-west-1a", "eu-west-1b")
    some = lambda *ids: {one: zones[number % 2] for number, one in enumerate(ids)}
    owned = {f"kubernetes.io/cluster/{CLUSTER}": "owned", "Name": "worker"}
    owned_by_other = {f"kubernetes.io/cluster/{OTHER}": "owned"}
    healthy = [instance(number) for number in range(100, 106)]
    healthy_in_other = [instance(number) for number in range(200, 204)]
    return {
        "workers": Group(owned, some(REPLACED, REBOOTED, UNANSWERED, HELD, FOREIGN, DRAINED, RECOVERED, UNVERIFIED, NOT_READY, NEW, *healthy)),
        # Managed by EKS, and the tag of its node group was removed: the cluster's node groups are described in EKS.
        GPU: Group({**owned, "eks:cluster-name": CLUSTER}, some(OF_EKS, instance(110), instance(111))),
        # Of a cluster of the same account that nodemend does not serve.
        "eks-other-1ac2f3e4": Group({"eks:cluster-name": "other"}, some(instance(120))),
        "workers-other": Group(
            owned_by_other, some(REPLACED_IN_OTHER, REBOOTED_IN_OTHER, HALTED_IN_OTHER, NOT_READY_IN_OTHER, *healthy_in_other), OTHER_ACCOUNT
        ),
        GPU_IN_OTHER: Group({**owned_by_other, "eks:cluster-name": OTHER}, some(OF_EKS_IN_OTHER, instance(211)), OTHER_ACCOUNT),
    }


def observe(observed: Observed):
    observed.make_tables()
    apply(observed, POLICY, CLUSTER)
    # An operator's IAM policy allows one cluster: another operator applies this policy.
    apply(observed, OTHER_POLICY, OTHER, who="others")
    nodes_fail(observed)
    repairs_are_made(observed)
    aws_reports_them(observed)
    terminations_are_drained(observed)
    an_operator_works(observed)
    report_as_the_agent(observed)
    other_events_arrive(observed)
    cases_are_reconciled(observed)
    a_policy_is_removed(observed)


def cases_are_reconciled(observed: Observed):
    # A line that is never delivered is nevertheless in the log group.
    logged_by_the_control_plane(observed, MISSED, "eks-audit-kubelet-patch-nodestatus-ready-false", delivered=False)
    observed.aws.impaired = (MISSED,)
    for cluster in (CLUSTER, OTHER):
        observed.invoke("reconcile", {"cluster": cluster, "controlPlaneLogs": "enabled"})


def a_policy_is_removed(observed: Observed):
    # The case is due at once, and evaluated only after its policy is gone: nothing can be decided for it any more.
    observed.unhealthy(DUE_IN_OTHER, *FAULT, OTHER)
    observed.remove_policy(OTHER)
    observed.invoke("repair", {})


def apply(observed: Observed, policy: str, cluster: str, who: str = "operators"):
    file = observed.directory / "policy.yaml"
    file.write_text(policy)
    observed.command(f"policy apply {file} --cluster {cluster}", who=who)


def nodes_fail(observed: Observed):
    # Nothing is known of the instance that is drained later: its name is described in EC2.
    unknown = (FAULT[0], FAULT_FOR_REBOOT[0])
    for of in (REPLACED, REBOOTED, UNANSWERED, OF_EKS, HELD, FOREIGN, RECOVERED, UNVERIFIED):
        observed.healthy(of, unknown=unknown)
    for of in (REPLACED_IN_OTHER, REBOOTED_IN_OTHER, OF_EKS_IN_OTHER, HALTED_IN_OTHER):
        observed.healthy(of, OTHER, unknown=unknown)
    # Only the control plane reports these: they are verified in its log group.
    logged_by_the_control_plane(observed, NOT_READY, "eks-audit-kubelet-patch-nodestatus-ready-false", ago=120)
    logged_by_the_control_plane(observed, NOT_READY_IN_OTHER, "eks-audit-kubelet-patch-nodestatus-ready-false", ago=120, cluster=OTHER)
    for of in (REPLACED, OF_EKS):
        observed.unhealthy(of, *FAULT)
    for of in (REPLACED_IN_OTHER, OF_EKS_IN_OTHER):
        observed.unhealthy(of, *FAULT, OTHER)
    observed.unhealthy(REBOOTED, *FAULT_FOR_REBOOT)
    observed.unhealthy(REBOOTED_IN_OTHER, *FAULT_FOR_REBOOT, OTHER)
    observed.unhealthy(RECOVERED, *FAULT, ago=10)
    observed.healthy(RECOVERED, ago=5)
    # A line that cannot be read, one of a cluster that is not served, and one of an unknown node.
    group = deployed()["Resources"]["NodesSubscription"]["Properties"]["LogGroupName"]
    observed.delivered(group, REPLACED, [{"v": 1}])
    observed.healthy(instance(130), "unknown")
    logged_by_the_control_plane(observed, instance(131), "eks-audit-kubelet-patch-nodestatus-ready-false")
    # Events that the event bus refuses.
    observed.aws.to_refuse["PutEvents"] = 10
    observed.unhealthy(FOREIGN, "NetworkingReady", "InterfaceNotUp", ago=10)
    observed.aws.to_refuse.clear()


def repairs_are_made(observed: Observed):
    # First AWS refuses, and all cases stay due.
    observed.aws.to_refuse["DescribeAutoScalingInstances"] = 100
    repair = observed.function("repair")
    repair.begin({})
    wait_for(lambda: any("failure" in line for line in repair.lines()), repair)
    observed.aws.to_refuse.clear()
    try:
        repair.finish()
    except Failed:
        pass
    observed.invoke("repair", {})
    # A replacement joins, and so do instances that replace none.
    del observed.aws.groups["workers"].instances[REPLACED]
    for group, of in (("workers", NEW), (GPU, instance(21)), ("eks-other-1ac2f3e4", instance(22))):
        observed.launched(group, of)
    for group, of in (("workers-other", instance(23)), (GPU_IN_OTHER, instance(24))):
        observed.launched(group, of, OTHER_ACCOUNT)
    logged_by_the_control_plane(observed, NEW, "eks-audit-kubelet-create-node-registration")
    logged_by_the_control_plane(observed, NEW, "eks-audit-kubelet-patch-nodestatus-ready-false", ready="True")
    observed.healthy(NEW)
    observed.invoke("repair", {})
    # One more call, whose answer is lost.
    observed.unhealthy(UNANSWERED, *FAULT)
    observed.aws.to_lose["TerminateInstanceInAutoScalingGroup"] = 1
    observed.invoke("repair", {})


def aws_reports_them(observed: Observed):
    for of, account in ((REPLACED, ACCOUNT), (REPLACED_IN_OTHER, OTHER_ACCOUNT)):
        observed.called(cloud_trail_event(observed.call_of(of)), account)
    other = cloud_trail_event(observed.call_of(OF_EKS))
    observed.called({**other, "requestParameters": {**other["requestParameters"], "shouldDecrementDesiredCapacity": True}})
    (reboot,) = [one for one in observed.audit_log(REBOOTED) if one["eventName"] == "RebootInstances"]
    observed.called(cloud_trail_event(reboot))
    # The call whose request ID is unknown, because its answer was lost.
    call = json.loads(json.dumps(cloud_trail_event(observed.call_of(REPLACED))).replace(REPLACED, UNANSWERED))
    observed.called({**call, "requestID": "11111111-2222-3333-4444-555555555555", "eventTime": now()})
    # Another user terminates a node: its case is closed, and what each function writes to it from then on expires.
    observed.called({**json.loads(json.dumps(call).replace(UNANSWERED, FOREIGN)), "requestID": "2", "userIdentity": OTHER_USER})
    del observed.aws.groups["workers"].instances[FOREIGN]
    observed.invoke("repair", {})
    for of in (REPLACED, FOREIGN):
        detail = {"instance-id": of, "state": "terminated"}
        observed.happened("confirm", "aws.ec2", "EC2 Instance State-change Notification", detail)
    # CloudTrail delivers late: a case that is already closed is written once more.
    observed.called({**json.loads(json.dumps(call).replace(UNANSWERED, REPLACED)), "requestID": "3", "userIdentity": OTHER_USER})
    logged_by_the_control_plane(observed, FOREIGN, "eks-audit-ccm-delete-node-instance-gone")
    observed.invoke("repair", {})


OTHER_USER = {
    "type": "IAMUser", "principalId": "AIDA", "arn": f"arn:{PARTITION}:iam::{ACCOUNT}:user/alice", "accountId": ACCOUNT,
    "userName": "alice",
}


def logged_by_the_control_plane(
    observed: Observed, of: str, template: str, ready: str = "", ago: int = 0, cluster: str = CLUSTER, delivered: bool = True
):
    """An event of the control-plane audit log, about this node."""
    text = (ROOT / "events" / "templates" / f"{template}.json").read_text()
    name = json.loads(text)["objectRef"]["name"]
    event = json.loads(text.replace(name, node_of(of)).replace("i-08736224042c4ee75", of))
    event |= {"stageTimestamp": now(ago), "requestReceivedTimestamp": now(ago)}
    if ready:
        for condition in event["requestObject"]["status"]["conditions"]:
            if condition["type"] == "Ready":
                condition |= {"status": ready, "reason": "KubeletReady", "message": "ready"}
    group = deployed()["Resources"]["ControlPlaneSubscription"]["Properties"]["LogGroupName"]
    account = ACCOUNT if cluster == CLUSTER else OTHER_ACCOUNT
    group = group.replace(CLUSTER, cluster)
    if delivered:
        observed.delivered(group, AUDIT_STREAM, [event], account)
    else:
        observed.aws.undelivered.setdefault(group, []).append(json.dumps(event))


def held(observed: Observed, of: str, ago: int = 0):
    """A termination that waits for our lifecycle hook."""
    detail = {
        "LifecycleActionToken": "token", "AutoScalingGroupName": "workers",
        "LifecycleHookName": environment("drain")["NODEMEND_DRAIN_HOOK"],
        "EC2InstanceId": of, "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
    }
    return observed.happened("drain", "aws.autoscaling", "EC2 Instance-terminate Lifecycle Action", detail, ago=ago)


def terminations_are_drained(observed: Observed):
    held(observed, DRAINED)
    # Its timeout had passed before the event arrived.
    observed.api_server.evicted = False
    held(observed, RECOVERED, ago=3600)
    # One instance never had a node. The termination of another one ended without us.
    held(observed, instance(140))
    observed.aws.to_refuse["RecordLifecycleActionHeartbeat"] = 1
    held(observed, DRAINED)


# Kinds of events that Auto Scaling, EC2, CloudTrail and AWS Health have.
# https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/automating_with_eventbridge.html
KINDS = (
    "AWS API Call via CloudTrail", "AWS Service Event via CloudTrail", "EC2 Instance Launch Successful",
    "EC2 Instance Launch Unsuccessful", "EC2 Instance Terminate Successful", "EC2 Instance Terminate Unsuccessful",
    "EC2 Instance-launch Lifecycle Action", "EC2 Instance-terminate Lifecycle Action", "EC2 Instance Rebalance Recommendation",
    "EC2 Instance State-change Notification", "EC2 Spot Instance Interruption Warning", "EBS Volume Notification", "AWS Health Event",
)
STATES = ("pending", "running", "stopping", "stopped", "shutting-down", "terminated")
# Calls by another user that stop or move an instance, and the service of each.
CALLS = {
    "TerminateInstanceInAutoScalingGroup": "autoscaling", "DetachInstances": "autoscaling", "EnterStandby": "autoscaling",
    "ExitStandby": "autoscaling",
    "TerminateInstances": "ec2", "StopInstances": "ec2", "StartInstances": "ec2", "RebootInstances": "ec2",
}


def other_events_arrive(observed: Observed):
    """Finds which events the functions read: for those an empty detail is an error, and all others are ignored."""
    for function in ("confirm", "drain"):
        for kind in KINDS:
            try:
                observed.happened(function, "aws.ec2", kind, {})
            except Failed:
                observed.kinds_read[function].add(kind)
    for number, state in enumerate(STATES):
        # Each about another instance: nothing more is recorded of one that is gone.
        of = instance(300 + number)
        observed.healthy(of)
        detail = {"instance-id": of, "state": state}
        if observed.happened("confirm", "aws.ec2", "EC2 Instance State-change Notification", detail)["relevant"]:
            observed.states_read.add(state)
    call = cloud_trail_event(observed.call_of(REPLACED))
    for number, (name, service) in enumerate(CALLS.items()):
        of = instance(310 + number)
        observed.healthy(of)
        event = {
            **json.loads(json.dumps(call).replace(REPLACED, of)), "requestID": str(number), "userIdentity": OTHER_USER,
            "eventName": name, "eventSource": f"{service}.amazonaws.com", "responseElements": None,
        }
        if service == "ec2":
            event["requestParameters"] = {"instancesSet": {"items": [{"instanceId": of}]}}
        elif name != "TerminateInstanceInAutoScalingGroup":
            event["requestParameters"] = {"instanceIds": [of]}
        if observed.called(event)["relevant"]:
            observed.calls_read.add((name, event["eventSource"]))


def an_operator_works(observed: Observed):
    of_cluster = f"--cluster {CLUSTER}"
    hold = observed.command(f"hold --node {node_of(HELD)} --for 2h --reason test {of_cluster}").strip()
    observed.unhealthy(HELD, *FAULT)
    # From now on, one unhealthy node exceeds the threshold of the other cluster.
    apply(observed, OTHER_POLICY.replace("Count: 100", "Count: 1"), OTHER, who="others")
    observed.unhealthy(HALTED_IN_OTHER, *FAULT, OTHER)
    # Its log group cannot be read: the fault is not verified.
    observed.unhealthy(UNVERIFIED, *FAULT)
    observed.aws.to_refuse["FilterLogEvents"] = 1000
    # An invocation waits for blocked repairs as long as it can. It is ended before that, and its lease is deleted.
    waiting = observed.function("repair")
    waiting.begin({})
    blocked = lambda: {line["instanceId"] for line in waiting.lines() if line.get("step") == "blocked"}
    wait_for(lambda: blocked() >= {HELD, HALTED_IN_OTHER, UNVERIFIED}, waiting)
    observed.aws.to_refuse.clear()
    observed.command(f"status {of_cluster}", expected=(2,))
    observed.explained = json.loads(observed.command(f"explain {node_of(HELD)} {of_cluster} --format json", expected=(2,)))
    observed.command(f"explain {node_of(OF_EKS)} {of_cluster}", expected=(0, 1, 2))
    observed.end("repair")
    observed.end_lease()
    # A blocked repair continues at once when nothing blocks it any more.
    observed.command(f"release {hold} {of_cluster}")
    apply(observed, OTHER_POLICY, OTHER, who="others")
    observed.invoke("repair", {})
    assert observed.calls_for(HELD) and observed.calls_for(HALTED_IN_OTHER)
    # Its group returns terminated instances to a warm pool.
    detail = {
        "AutoScalingGroupName": "workers", "EC2InstanceId": HELD, "Origin": "AutoScalingGroup", "Destination": "WarmPool",
        "StartTime": now(), "EndTime": now(), "Cause": "", "Details": {"Availability Zone": "eu-west-1a"},
    }
    observed.happened("confirm", "aws.autoscaling", "EC2 Instance Terminate Successful", detail)
    everywhere = observed.command("hold --all --for 1h --reason test").strip()
    observed.command(f"release {everywhere} --all")
    for line in ("policy history", "policy show", "audit list", "audit verify", f"audit show {REPLACED}"):
        observed.command(f"{line} {of_cluster}", expected=(0, 1))
    for group in ("NodesSubscription", "ControlPlaneSubscription"):
        name = deployed()["Resources"][group]["Properties"]["LogGroupName"]
        observed.command(f"backtest --log-group {name} --since {now(3600)}", expected=(0, 1))


def report_as_the_agent(observed: Observed):
    """The agent runs until its first reports have arrived."""
    root = observed.directory / "root"
    boot_id = root / "proc" / "sys" / "kernel" / "random" / "boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("3e5696ab-eba1-4b55-bf1c-9a80963b1cab\n")
    agent = observed.agent("--node", node_of(NEW), "--instance-id", NEW, "--zone", "eu-west-1a", "--root", root)
    # The log stream does not exist at the first request, and the agent creates it.
    sent = lambda: [one for one in observed.aws.records if one.operation == "logs:PutLogEvents"]
    wait_for(lambda: len(sent()) > 1, agent)
    agent.end()
