#!/usr/bin/env python3
"""Writes the events.jsonl of constructed incidents, and the payloads in lambda/, from the records in templates/.

It substitutes IDs, names, times and identities, and keeps every other field as captured. Run it after changing this
file, and commit what it writes: `python3 events/generate.py`. Recorded incidents are not generated.
"""
import base64
import copy
import gzip
import json
import pathlib
from datetime import datetime, timedelta, timezone

HERE = pathlib.Path(__file__).parent
CLUSTER = "prod"
GROUP = "eks-main-3ac1f0aa-0000-1111-2222-333344445555"
ACCOUNT = "123456789012"
DAY = datetime(2026, 8, 20, tzinfo=timezone.utc)


def template(name):
    return json.loads((HERE / "templates" / f"{name}.json").read_text())


def at(clock):
    """A time on the day of the incidents, from HH:MM:SS or HH:MM:SS.ffffff; hours from 24 are on the next day."""
    hours, minutes, seconds = clock.split(":")
    return DAY + timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))


def later(clock, seconds):
    moment = at(clock) + timedelta(seconds=seconds)
    hours = (moment - DAY) // timedelta(hours=1)
    return f"{hours:02}:{moment:%M:%S.%f}"


def rfc(clock, digits=3):
    moment = at(clock)
    if digits == 0:
        return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06}"[: 20 + digits] + "Z"


def uuid(*parts):
    import hashlib

    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


class Node:
    """One node, with the records that its agent, its kubelet, the control plane and AWS would write about it."""

    def __init__(self, number=0, zone="us-east-1a"):
        self.zone = zone
        # Number 0 is the node in the captured records.
        self.name = f"ip-10-0-{10 + number // 60}-{170 + number % 60}.ec2.internal"
        self.instance = f"i-08736224042c4e{number:03x}" if number else "i-08736224042c4ee75"
        self.boot = uuid("boot", number, 1)
        self.boots = 1
        self.number = number
        self.seq = 0
        self.skew = 0.0

    def reboot(self):
        self.boots += 1
        self.boot = uuid("boot", self.number, self.boots)
        self.seq = 0

    # The agent's reports.

    def timestamp(self, clock):
        return rfc(later(clock, self.skew))

    def report(self, kind, clock, **fields):
        self.seq += 1
        head = {
            "v": 1, "kind": kind, "cluster": CLUSTER, "node": self.name, "instanceId": self.instance,
            "zone": self.zone, "bootId": self.boot, "seq": self.seq, "at": self.timestamp(clock),
        }
        return head | fields | {"agent": "0.1.0"}

    def finding(self, reason, since, last, message, severity="Condition", count=1):
        return {
            "reason": reason, "severity": severity, "since": self.timestamp(since), "last": self.timestamp(last),
            "count": count, "message": message,
        }

    def event(self, clock, condition, reason, message):
        found = self.finding(reason, clock, clock, message, "Event")
        return self.report("event", clock, condition=condition, findings=[found])

    def condition(self, clock, condition, status, since, findings=(), sound=None):
        fields = {"condition": condition, "status": status, "since": self.timestamp(since)}
        if sound is not None:
            fields["soundSecs"] = sound
        if findings:
            fields["findings"] = list(findings)
        return self.report("condition", clock, **fields)

    def bad(self, clock, condition, since, reason, message, sound=None):
        found = self.finding(reason, since, clock, message)
        return self.condition(clock, condition, "False", since, [found], sound)

    def heartbeat(self, clock, since="09:00:00", **bad):
        states = []
        for name in ("KernelReady", "NetworkingReady", "StorageReady", "ContainerRuntimeReady", "AcceleratedHardwareReady"):
            states.append({"condition": name, "status": "True", "since": self.timestamp(since)} | bad.get(name, {}))
        return self.report("heartbeat", clock, conditions=states)

    # The control-plane audit log.

    def audited(self, name, clock, body=None):
        record = template(name)
        text = json.dumps(record)
        for old, new in (
            ("ip-10-0-10-170.ec2.internal", self.name), ("ip-192-168-37-22.eu-west-1.compute.internal", self.name),
            ("i-08736224042c4ee75", self.instance), ("3c2f687e-27bd-4642-bee9-8503552bada0", self.boot),
            ("us-east-1a", self.zone), ("2026-08-20T10:00:44.014671Z", rfc(later(clock, -0.006967), 6)),
            ("2026-08-20T10:00:44.021638Z", rfc(clock, 6)), ("2026-08-20T10:00:44Z", rfc(clock, 0)),
            ("2022-03-25T07:26:55.355378Z", rfc(clock, 6)),
            ("2026-08-20T09:58:51Z", rfc(later(clock, -113), 0)), ("2026-08-20T10:00:43Z", rfc(later(clock, -1), 0)),
        ):
            text = text.replace(old, new)
        record = json.loads(text)
        if "auditID" in record:
            record["auditID"] = uuid("audit", name, self.number, clock)
        if body:
            body(record)
        return record

    def unknown(self, clock):
        return self.audited("eks-audit-node-controller-update-NodeStatusUnknown", clock)

    def not_ready(self, clock, message="container runtime is down"):
        def body(record):
            for condition in record["requestObject"]["status"]["conditions"]:
                if condition["type"] == "Ready":
                    condition["message"] = message
        return self.audited("eks-audit-kubelet-patch-nodestatus-ready-false", clock, body)

    def ready(self, clock, new_boot=False):
        def body(record):
            for condition in record["requestObject"]["status"]["conditions"]:
                if condition["type"] == "Ready":
                    condition |= {
                        "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
                    }
            if new_boot:
                record["requestObject"]["status"]["nodeInfo"] = {"bootID": self.boot}
        return self.audited("eks-audit-kubelet-patch-nodestatus-ready-false", clock, body)

    def kubelet(self, clock):
        return self.audited("eks-audit-kubelet-patch-nodestatus-heartbeat-only", clock)

    def registers(self, clock):
        return self.audited("eks-audit-kubelet-create-node-registration", clock)

    def deleted_by_hand(self, clock):
        return self.audited("eks-audit-kubectl-delete-node", clock)

    def deleted_by_cloud_controller(self, clock):
        return self.audited("eks-audit-ccm-delete-node-instance-gone", clock)

    # Auto Scaling, EC2 and CloudTrail.

    def launched(self, clock):
        event = template("eventbridge-asg-launch-successful")
        event |= {"id": uuid("launch", self.number), "account": ACCOUNT, "region": "us-east-1", "time": rfc(clock, 0)}
        activity = uuid("launch activity", self.number)
        event["detail"] |= {
            "Description": f"Launching a new EC2 instance: {self.instance}", "AutoScalingGroupName": GROUP,
            "ActivityId": activity, "RequestId": activity, "EC2InstanceId": self.instance,
            "StartTime": rfc(later(clock, -32)), "EndTime": rfc(clock),
            "Details": {"Availability Zone": self.zone, "Subnet ID": "subnet-7c77841a"},
            "Cause": f"At {rfc(later(clock, -34), 0)} an instance was launched in response to an unhealthy instance needing to be replaced.",
        }
        return event

    def terminated(self, clock, called, cause="was taken out of service in response to a user request."):
        event = template("eventbridge-asg-terminate-successful")
        event |= {"id": uuid("terminated", self.number), "time": rfc(clock, 0)}
        activity = uuid("activity", self.instance)
        event["resources"] = [event["resources"][0], f"arn:aws:ec2:us-east-1:{ACCOUNT}:instance/{self.instance}"]
        event["detail"] |= {
            "Description": f"Terminating EC2 instance: {self.instance}", "ActivityId": activity, "RequestId": activity,
            "EC2InstanceId": self.instance, "StartTime": rfc(called), "EndTime": rfc(clock),
            "Details": {"Subnet ID": "subnet-7c77841a", "Availability Zone": self.zone},
            "Cause": f"At {rfc(called, 0)} instance {self.instance} {cause}",
        }
        return event

    def state_change(self, clock, state):
        event = template("eventbridge-nth-ec2-state-change-event")
        event |= {"account": ACCOUNT, "time": rfc(clock, 0), "resources": [f"arn:aws:ec2:us-east-1:{ACCOUNT}:instance/{self.instance}"]}
        event["detail"] = {"instance-id": self.instance, "state": state}
        return event

    def call_record(self, clock):
        """The recorded event of a replacement by EKS, with this node's IDs and the repair function's identity."""
        record = template("cloudtrail-terminate-by-eks-node-repair")
        record["userIdentity"] = us(clock)
        moment = at(clock)
        activity = record["responseElements"]["activity"]
        hour = f"{(moment.hour + 11) % 12 + 1}"
        activity |= {
            "activityId": uuid("activity", self.instance), "autoScalingGroupName": GROUP,
            "description": f"Terminating EC2 instance: {self.instance}",
            "cause": f"At {rfc(clock, 0)} instance {self.instance} was taken out of service in response to a user request.",
            "startTime": f"{moment:%b} {moment.day}, {moment:%Y}, {hour}:{moment:%M:%S %p}",
            "details": json.dumps({"Subnet ID": "subnet-7c77841a", "Availability Zone": self.zone}, separators=(",", ":")),
        }
        return record | {
            "eventTime": rfc(clock, 0), "awsRegion": "us-east-1", "sourceIPAddress": "203.0.113.10",
            "userAgent": "aws-sdk-rust/1.3.8 os/linux lang/rust/1.95.0 exec-env/AWS_Lambda_provided.al2023",
            "requestParameters": {"instanceId": self.instance, "shouldDecrementDesiredCapacity": False},
            "requestID": uuid("request", self.instance, clock), "eventID": uuid("event", self.instance, clock),
            "recipientAccountId": ACCOUNT,
        }

    def call(self, clock):
        return envelope(self.call_record(clock), clock)

    def throttled_call(self, clock):
        record = template("cloudtrail-terminate-throttled")
        record |= {
            "userIdentity": us(clock), "eventTime": rfc(clock, 0),
            "requestID": uuid("request", self.instance, clock), "eventID": uuid("event", self.instance, clock),
        }
        return envelope(record, clock)

    def reboot_call(self, clock):
        record = template("cloudtrail-reboot-success")
        request = uuid("request", self.instance, clock)
        record |= {
            "userIdentity": us(clock), "eventTime": rfc(clock, 0), "requestID": request,
            "eventID": uuid("event", self.instance, clock),
            "requestParameters": {"instancesSet": {"items": [{"instanceId": self.instance}]}},
            "responseElements": {"requestId": request, "_return": True},
        }
        return envelope(record, clock)

    def call_by_eks(self, clock):
        record = copy.deepcopy(template("cloudtrail-terminate-by-eks-node-repair"))
        text = json.dumps(record).replace("xxxxxxxxxxxx", ACCOUNT).replace("i-0ab76e62066c9730c", self.instance)
        text = text.replace("2024-12-28T14:06:13Z", rfc(clock, 0)).replace("ap-northeast-1d", self.zone)
        text = text.replace("ap-northeast-1", "us-east-1")
        text = text.replace("eks-ng-1-86ca0689-78c9-a180-dc93-a98a44d722f9", GROUP)
        return envelope(json.loads(text), clock)


def us(clock):
    """The repair function's identity: a role that Lambda assumed."""
    identity = template("cloudtrail-reboot-success")["userIdentity"]
    text = json.dumps(identity).replace("node-repair-executor-role", "nodemend-repair")
    text = text.replace("node-repair-executor", "nodemend-repair")
    identity = json.loads(text)
    identity["sessionContext"]["attributes"]["creationDate"] = rfc(later(clock, -1_800), 0)
    return identity


def envelope(record, clock):
    return {
        "version": "0", "id": uuid("eventbridge", record["eventID"]), "detail-type": "AWS API Call via CloudTrail",
        "source": f"aws.{record['eventSource'].split('.')[0]}", "account": ACCOUNT, "time": rfc(clock, 0),
        "region": "us-east-1", "resources": [], "detail": record,
    }


def delivered(report, written, arrived):
    """A report as `aws logs filter-log-events` prints it, with the times of writing and of arrival."""
    millis = lambda clock: int(at(clock).timestamp() * 1000)
    return {
        "logStreamName": report["instanceId"], "timestamp": millis(written), "ingestionTime": millis(arrived),
        "message": json.dumps(report, separators=(",", ":")), "eventId": uuid("log event", report["seq"], arrived),
    }


def replaced(new, old, called, end, registered):
    """The end of the old instance, and the launch and registration of its replacement."""
    return [
        old.terminated(end, called), new.launched(later(end, 40)), new.registers(registered),
        new.ready(later(registered, 31)), new.heartbeat(later(registered, 45), since=registered),
    ]


def beats(node, start, end, **bad):
    """A heartbeat every five minutes."""
    clock, events = start, []
    while at(clock) <= at(end):
        events.append(node.heartbeat(clock, **bad))
        clock = later(clock, 300)
    return events


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


XID_79 = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1204, name=python, GPU has fallen off the bus."
XID_95 = "NVRM: Xid (PCI:0000:3b:00): 95, pid=1204, name=python, Uncontained ECC error"


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


def fleet(count):
    zones = ("us-east-1a", "us-east-1b", "us-east-1c")
    return [Node(number, zones[number % 3]) for number in range(count)]


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
        *beats(node, "10:03:00", "10:08:00"), node.call_by_eks("10:12:13"), node.terminated("10:15:30", "10:12:13"),
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


def subscription(group, stream, lines):
    """The payload of a CloudWatch Logs subscription: JSON, compressed by gzip, in base64."""
    moment = int(at("10:00:00").timestamp() * 1000)
    data = {
        "messageType": "DATA_MESSAGE", "owner": ACCOUNT, "logGroup": group, "logStream": stream,
        "subscriptionFilters": ["nodemend"],
        "logEvents": [
            {"id": f"{number:056}", "timestamp": moment, "message": json.dumps(line, separators=(",", ":"))}
            for number, line in enumerate(lines)
        ],
    }
    packed = gzip.compress(json.dumps(data, separators=(",", ":")).encode(), mtime=0)
    return {"awslogs": {"data": base64.b64encode(packed).decode()}}


def payloads():
    """A payload for each function, about the cluster and group of `nodemend up`."""
    node, new = Node(0), Node(1)
    report = node.bad(
        "10:00:00", "AcceleratedHardwareReady", "10:00:00", "NvidiaXID79Error",
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=1204, name=python, GPU has fallen off the bus.",
    )
    launch = template("eventbridge-asg-launch-successful")
    launch["detail"] |= {"AutoScalingGroupName": "local-nodes", "EC2InstanceId": new.instance}
    schedule = {
        "version": "0", "id": uuid("schedule"), "detail-type": "Scheduled Event", "source": "aws.events",
        "account": ACCOUNT, "time": rfc("10:00:00", 0), "region": "us-east-1", "resources": [], "detail": {},
    }
    return {
        "intake": subscription("/nodemend/local/nodes", node.instance, [report | {"cluster": "local"}]),
        "repair": schedule,
        "confirm": launch,
    }


def main():
    (HERE / "lambda").mkdir(exist_ok=True)
    for name, payload in payloads().items():
        (HERE / "lambda" / f"{name}.json").write_text(json.dumps(payload, indent=2) + "\n")
    for name, incident in INCIDENTS.items():
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        lines = [json.dumps(event, separators=(",", ":")) for event in incident()]
        (folder / "events.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
