"""Makes the records of constructed incidents from those in templates/: what agents, kubelets, the control plane and AWS
would write about a node.

It substitutes IDs, names, times and identities, and keeps every other field as captured.
"""
import copy
import json
import pathlib
from datetime import datetime, timedelta, timezone

HERE = pathlib.Path(__file__).parent
CLUSTER = "prod"
GROUP = "eks-main-3ac1f0aa-0000-1111-2222-333344445555"
ACCOUNT = "123456789012"
AUDIT_STREAM = "kube-apiserver-audit-0123456789abcdef0123456789abcdef"
DAY = datetime(2026, 8, 20, tzinfo=timezone.utc)
XID_79 = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1204, name=python, GPU has fallen off the bus."
XID_95 = "NVRM: Xid (PCI:0000:3b:00): 95, pid=1204, name=python, Uncontained ECC error"


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
        # The publisher of this record left these fields out. The subscription's filter pattern needs them.
        def body(record):
            record |= {
                "level": "Request", "stage": "ResponseComplete", "requestURI": f"/api/v1/nodes/{self.name}",
                "stageTimestamp": rfc(clock, 6),
            }
        return self.audited("eks-audit-kubectl-delete-node", clock, body)

    def status_patch(self, clock, user, conditions):
        """A write of this node's status by somebody else than its kubelet."""
        def body(record):
            record["user"] = {"username": user, "groups": ["system:authenticated"]}
            record["requestObject"] = {"status": {"conditions": conditions}}
        return self.audited("eks-audit-kubelet-patch-nodestatus-ready-false", clock, body)

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

    def call_by(self, role, session, clock, agent, shrinks=False):
        """The same call by somebody else, who assumed this role."""
        record = self.call_record(clock)
        record["userIdentity"] = {
            "type": "AssumedRole", "principalId": f"AROAIDPPEZS35WEXAMPLE:{session}",
            "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{session}", "accountId": ACCOUNT,
            "sessionContext": {"sessionIssuer": {
                "type": "Role", "principalId": "AROAIDPPEZS35WEXAMPLE", "arn": f"arn:aws:iam::{ACCOUNT}:role/{role}",
                "accountId": ACCOUNT, "userName": role,
            }},
        }
        record["userAgent"] = agent
        record["requestParameters"]["shouldDecrementDesiredCapacity"] = shrinks
        record["requestID"] = uuid("request", role, self.instance, clock)
        return envelope(record, clock)

    def executed(self, clock):
        """EC2's event of the TerminateInstances by which Auto Scaling carries an activity out."""
        role, service = "AWSServiceRoleForAutoScaling", "autoscaling.amazonaws.com"
        request = uuid("execution", self.instance)
        state = lambda code, name: {"code": code, "name": name}
        return envelope({
            "eventVersion": "1.11",
            "userIdentity": {
                "type": "AssumedRole", "principalId": "AROA3WHGPEZ7SJ2CW55C9:AutoScaling",
                "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/AutoScaling", "accountId": ACCOUNT,
                "sessionContext": {"sessionIssuer": {
                    "type": "Role", "principalId": "AROA3WHGPEZ7SJ2CW55C9",
                    "arn": f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/{service}/{role}",
                    "accountId": ACCOUNT, "userName": role,
                }},
                "invokedBy": service,
            },
            "eventTime": rfc(clock, 0), "eventSource": "ec2.amazonaws.com", "eventName": "TerminateInstances",
            "awsRegion": "us-east-1", "sourceIPAddress": service, "userAgent": service,
            "requestParameters": {"instancesSet": {"items": [{"instanceId": self.instance}]}},
            "responseElements": {"requestId": request, "instancesSet": {"items": [{
                "instanceId": self.instance, "currentState": state(32, "shutting-down"), "previousState": state(16, "running"),
            }]}},
            "requestID": request, "eventID": uuid("execution event", self.instance), "readOnly": False,
            "eventType": "AwsApiCall", "managementEvent": True, "recipientAccountId": ACCOUNT, "eventCategory": "Management",
        }, clock)

    def announced(self, name, clock):
        """An event in which EC2 or AWS Health announces something about this instance."""
        text = json.dumps(template(name)).replace("i-08736224042c4ee75", self.instance)
        return json.loads(text) | {"id": uuid(name, self.instance), "account": ACCOUNT, "time": rfc(clock, 0)}

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


def delivered(record, written, arrived):
    """A report or audit event as `aws logs filter-log-events` prints it, with the times of writing and of arrival."""
    millis = lambda clock: int(at(clock).timestamp() * 1000)
    stream, number = record.get("instanceId", AUDIT_STREAM), record.get("seq", record.get("auditID"))
    return {
        "logStreamName": stream, "timestamp": millis(written), "ingestionTime": millis(arrived),
        "message": json.dumps(record, separators=(",", ":")), "eventId": uuid("log event", number, arrived),
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


def fleet(count):
    """Nodes in three zones."""
    zones = ("us-east-1a", "us-east-1b", "us-east-1c")
    return [Node(number, zones[number % 3]) for number in range(count)]
