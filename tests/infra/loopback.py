"""AWS on the loopback interface: answers the programs, and records each request that they send.

Requests to DynamoDB are forwarded to an emulator; all others are answered from a few instances, groups and clusters. The
access key identifies the program, and the access key of a session the account in which the program assumed a role. An
operation that is not supported here is a problem that fails the tests: it is added when a program needs it, never ignored.
"""

import http.client
import json
import re
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from functools import cache
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

import botocore.session

from iam import Request
from server import Server
from template import ACCOUNT, PARTITION, REGION, of_type, synthesized

# IAM checks each part of a transaction as the operation that it represents.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html
PARTS = {"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}
ZONES = {"eu-west-1a": "euw1-az1", "eu-west-1b": "euw1-az2", "eu-west-1c": "euw1-az3"}
AUDIT_STREAM = "kube-apiserver-audit-0123"
# In the access key of a session, this separates the program's own key and the account.
SESSION = "-in-"


# A control plane's log group to which nothing was written for a long time.
SILENT_LOG = "/aws/eks/test/cluster"
# The error of each operation that a test can have refused.
REFUSALS = {
    "DescribeAutoScalingInstances": ("ValidationError", "refused by the test"),
    "RecordLifecycleActionHeartbeat": ("ValidationError", "No active Lifecycle Action found with instance ID"),
    "PutEvents": ("AccessDeniedException", "refused by the test"),
    "FilterLogEvents": ("ThrottlingException", "Rate exceeded"),
}


@dataclass
class Group:
    """An Auto Scaling group: its tags, the zones of its instances, and the account that it is in."""

    tags: dict
    instances: dict
    account: str = ACCOUNT


@dataclass
class ReceivedRequest:
    """One request, as it was received."""

    program: str
    account: str
    service: str
    operation: str
    # The fields of a form, the members of a JSON body, or the parts of a path by the names of their members.
    fields: dict


@dataclass
class Recorded:
    """One request as IAM checks it. `operation` is the one that the program sent: the parts of a transaction have other actions."""

    program: str
    account: str
    operation: str
    request: Request


class Refused(Exception):
    """An error response of the service."""

    def __init__(self, status: int, code: str, message: str = ""):
        self.status, self.code, self.message = status, code, message


@cache
def model(service: str):
    return botocore.session.get_session().get_service_model(service)


@cache
def paths(service: str) -> list:
    """The operations of a service with a path for each: method, pattern of the path, and name."""
    found = []
    for name in model(service).operation_names:
        of_operation = model(service).operation_model(name).http
        pattern = re.sub(r"\\\{(\w+)(?:\\\+)?\\\}", r"(?P<\1>[^/]+)", re.escape(of_operation["requestUri"].split("?")[0]))
        found.append((of_operation["method"], re.compile(pattern), name))
    return found


@cache
def partition_keys() -> dict:
    """The partition key of each table and of each index, from the template."""
    found = {}
    for name, table in of_type(synthesized()["Resources"], "AWS::DynamoDB::Table").items():
        found[name, None] = table["Properties"]["KeySchema"][0]["AttributeName"]
        for index in table["Properties"].get("GlobalSecondaryIndexes", []):
            found[name, index["IndexName"]] = index["KeySchema"][0]["AttributeName"]
    return found


def arn(service: str, resource: str) -> str:
    return f"arn:{PARTITION}:{service}:{REGION}:{ACCOUNT}:{resource}"


def xml(value) -> str:
    """Nested dictionaries and lists as XML elements. A list is a pair: the name of its elements, and its items."""
    if isinstance(value, dict):
        return "".join(f"<{name}>{xml(inner)}</{name}>" for name, inner in value.items() if inner is not None)
    if isinstance(value, tuple):
        name, items = value
        return "".join(f"<{name}>{xml(item)}</{name}>" for item in items)
    return escape(str(value))


class Aws:
    """AWS, for all programs."""

    def __init__(self, dynamodb: str, groups: dict):
        self.dynamodb, self.groups = dynamodb, groups
        # EKS's description of each cluster. A cluster that is not in here does not exist.
        self.clusters = {}
        self.log_streams = set()
        # All requests, the same as IAM checks them, and the events that were put on a bus.
        self.received, self.records, self.events, self.problems = [], [], [], []
        # For each operation: how many more answers are lost after it took effect, and how many more requests are refused.
        self.to_lose, self.to_refuse = Counter(), Counter()
        # Lines that are in a log group and that no subscription delivered.
        self.undelivered = {}
        # The instances whose system status check fails.
        self.impaired = ()
        self.lock = threading.Lock()
        self.server = Server(self.answer)
        self.endpoint = self.server.endpoint

    def answer(self, method: str, path: str, headers: dict, body: bytes):
        """Status, headers and body; nothing if the answer is lost."""
        try:
            received = read(method, path, headers, body)
            with self.lock:
                self.received.append(received)
                self.records += [
                    Recorded(received.program, received.account, f"{received.service}:{received.operation}", request)
                    for request in self.iam_requests(received)
                ]
            answer = self.forward(headers, body) if received.service == "dynamodb" else self.reply(received)
            with self.lock:
                if self.to_lose[received.operation] > 0:
                    self.to_lose[received.operation] -= 1
                    return None
            return answer
        except Exception as error:  # noqa: BLE001: any error fails a test, by `problems`.
            self.problems.append(f"{method} {path} {body[:400]!r}: {error!r}")
            return 400, {}, b"{}"

    def forward(self, headers: dict, body: bytes):
        host = urlsplit(self.dynamodb)
        connection = http.client.HTTPConnection(host.hostname, host.port, timeout=30)
        sent = {name: headers[name] for name in ("content-type", "x-amz-target")}
        sent["authorization"] = f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/dynamodb/aws4_request, SignedHeaders=host, Signature=0"
        connection.request("POST", "/", body, sent)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kept = {name: answer.headers[name] for name in ("content-type", "x-amzn-errortype") if name in answer.headers}
        return answer.status, kept, content

    def reply(self, received: ReceivedRequest):
        request_id = str(uuid.uuid4())
        protocol = model(received.service).metadata["protocol"]
        try:
            if self.to_refuse[received.operation] > 0:
                self.to_refuse[received.operation] -= 1
                raise Refused(400, *REFUSALS[received.operation])
            content = getattr(self, f"{received.service.replace('-', '_')}_{received.operation}")(received, request_id)
            status, headers = 200, {"x-amzn-requestid": request_id}
        except Refused as refused:
            status, headers = refused.status, {"x-amzn-requestid": request_id, "x-amzn-errortype": refused.code}
            content = {"message": refused.message}
        if protocol == "query" and status != 200:
            error = {"Error": {"Type": "Sender", "Code": headers["x-amzn-errortype"], "Message": content["message"]}}
            text = f"<ErrorResponse>{xml({**error, 'RequestId': request_id})}</ErrorResponse>"
        elif protocol in ("query", "ec2"):
            assert status == 200, "errors of EC2 are not supported yet"
            namespace = model(received.service).metadata.get("xmlNamespace", "http://ec2.amazonaws.com/doc/2016-11-15/")
            if protocol == "query":
                content = {f"{received.operation}Result": content, "ResponseMetadata": {"RequestId": request_id}}
            text = f'<{received.operation}Response xmlns="{namespace}">{xml(content)}</{received.operation}Response>'
        else:
            text = json.dumps(content)
        return status, headers, text.encode()

    # ---- what IAM checks

    def iam_requests(self, received: ReceivedRequest) -> list:
        fields, action = received.fields, f"{received.service}:{received.operation}"
        match received.service:
            case "dynamodb" if received.operation == "TransactWriteItems":
                parts = [(PARTS[kind], part) for one in fields["TransactItems"] for kind, part in one.items()]
                return [self.of_item(operation, part) for operation, part in parts]
            case "dynamodb":
                return [self.of_item(received.operation, fields)]
            case "events":
                return [
                    Request(action, arn("events", f"event-bus/{entry.get('EventBusName', 'default')}"), {"events:source": entry["Source"]})
                    for entry in fields["Entries"]
                ]
            case "logs" if "logStreamName" in fields:
                name = f"log-group:{fields['logGroupName']}:log-stream:{fields['logStreamName']}"
                return [Request(action, arn("logs", name))]
            case "logs":
                return [Request(action, arn("logs", f"log-group:{fields['logGroupName']}:*"))]
            case "autoscaling" if not received.operation.startswith("Describe"):
                name = fields.get("AutoScalingGroupName") or self.group_of(fields["InstanceId"])
                resource = arn("autoscaling", f"autoScalingGroup:c0ffee00:autoScalingGroupName/{name}")
                return [Request(action, resource, tagged("autoscaling", self.groups[name].tags))]
            case "ec2" if not received.operation.startswith("Describe"):
                instance = fields.get("InstanceId") or fields["InstanceId.1"]
                tags = self.groups[self.group_of(instance)].tags
                return [Request(action, arn("ec2", f"instance/{instance}"), tagged("ec2", tags))]
            case "eks" if received.operation == "DescribeNodegroup":
                return [Request(action, arn("eks", f"nodegroup/{fields['name']}/{fields['nodegroupName']}/1ac2f3e4"))]
            case "eks":
                return [Request(action, arn("eks", f"cluster/{fields['name']}"))]
            case "sts" if received.operation == "AssumeRole":
                return [Request(action, fields["RoleArn"])]
            case "autoscaling" | "ec2" | "arc-zonal-shift" | "sts":
                return [Request(action, "*")]
        raise ValueError(f"what IAM checks for {action} is not supported here")

    @staticmethod
    def of_item(operation: str, fields: dict) -> Request:
        table, index = fields["TableName"], fields.get("IndexName")
        resource = arn("dynamodb", f"table/{table}" + (f"/index/{index}" if index else ""))
        name = partition_keys()[table, index]
        if operation == "Scan":
            return Request(f"dynamodb:{operation}", resource)
        if operation == "Query":
            left, right = re.search(r"([#\w]+) = (:\w+)", fields["KeyConditionExpression"]).groups()
            assert fields.get("ExpressionAttributeNames", {}).get(left, left) == name
            key = fields["ExpressionAttributeValues"][right]
        else:
            key = (fields.get("Key") or fields["Item"])[name]
        return Request(f"dynamodb:{operation}", resource, {"dynamodb:LeadingKeys": [key["S"]]})

    def group_of(self, instance: str) -> str:
        return next(name for name, group in self.groups.items() if instance in group.instances)

    # ---- what is answered

    def sts_GetCallerIdentity(self, received, _):
        # With its role, which the template names after the function.
        return {"Arn": f"arn:{PARTITION}:sts::{ACCOUNT}:assumed-role/{received.program.title()}Role/x", "UserId": "AROA:x", "Account": ACCOUNT}

    def sts_AssumeRole(self, received, _):
        account, name = re.fullmatch(r"arn:aws:iam::(\d{12}):role/(.+)", received.fields["RoleArn"]).groups()
        return {
            "AssumedRoleUser": {"Arn": f"arn:{PARTITION}:sts::{account}:assumed-role/{name}/x", "AssumedRoleId": "AROA:x"},
            "Credentials": {
                "AccessKeyId": f"{received.program}{SESSION}{account}", "SecretAccessKey": "secret", "SessionToken": "token",
                "Expiration": "2099-01-01T00:00:00Z",
            },
        }

    def of_account(self, received) -> dict:
        return {name: group for name, group in self.groups.items() if group.account == received.account}

    def autoscaling_DescribeAutoScalingInstances(self, received, _):
        wanted = {value for name, value in received.fields.items() if name.startswith("InstanceIds.member.")}
        found = [
            {**self.member(instance, zone), "AutoScalingGroupName": name}
            for name, group in self.of_account(received).items()
            for instance, zone in group.instances.items()
            if instance in wanted
        ]
        return {"AutoScalingInstances": ("member", found)}

    def autoscaling_DescribeAutoScalingGroups(self, received, _):
        wanted = {value for name, value in received.fields.items() if name.startswith("AutoScalingGroupNames.member.")}
        found = [
            {
                "AutoScalingGroupName": name,
                "Instances": ("member", [self.member(instance, zone) for instance, zone in group.instances.items()]),
                "SuspendedProcesses": "",
                "Tags": ("member", [{"Key": key, "Value": value} for key, value in group.tags.items()]),
            }
            for name, group in self.of_account(received).items()
            if name in wanted
        ]
        return {"AutoScalingGroups": ("member", found)}

    @staticmethod
    def member(instance: str, zone: str) -> dict:
        return {
            "InstanceId": instance, "AvailabilityZone": zone, "LifecycleState": "InService", "HealthStatus": "Healthy",
            "ProtectedFromScaleIn": "false",
        }

    def autoscaling_TerminateInstanceInAutoScalingGroup(self, received, request_id):
        instance = received.fields["InstanceId"]
        return {
            "Activity": {
                "ActivityId": request_id, "AutoScalingGroupName": self.group_of(instance), "StatusCode": "InProgress",
                "Description": f"Terminating EC2 instance: {instance}", "Cause": "a user request", "Progress": "0",
                "StartTime": "2026-01-01T00:00:00.000Z", "Details": "{}",
            }
        }

    def autoscaling_RecordLifecycleActionHeartbeat(self, *_):
        return {}

    def autoscaling_CompleteLifecycleAction(self, *_):
        return {}

    def ec2_DescribeInstances(self, received, _):
        filters = {received.fields[name]: name.removesuffix("Name") for name in received.fields if re.fullmatch(r"Filter\.\d+\.Name", name)}
        ids = filters.get("instance-id")
        wanted = {value for name, value in received.fields.items() if ids and name.startswith(f"{ids}Value.")}
        instances = [
            {
                "instanceId": instance,
                "privateDnsName": node_of(instance),
                "instanceState": {"name": "running"},
                "placement": {"availabilityZone": zone},
            }
            for group in self.of_account(received).values()
            for instance, zone in group.instances.items()
            if not ids or instance in wanted
        ]
        return {"reservationSet": ("item", [{"instancesSet": ("item", instances)}])}

    def ec2_DescribeInstanceStatus(self, received, _):
        passed = {"status": "ok"}
        if received.fields["Filter.1.Name"] != "instance-id":
            failed = {"status": "impaired", "details": ("item", [{"name": "reachability", "status": "failed"}])}
            failing = self.impaired if received.fields["Filter.1.Name"] == "system-status.status" else ()
            return {"instanceStatusSet": ("item", [{"instanceId": one, "systemStatus": failed, "instanceStatus": passed} for one in failing])}
        ids = [value for name, value in received.fields.items() if name.startswith("Filter.1.Value.")]
        checks = [{"instanceId": instance, "systemStatus": passed, "instanceStatus": passed} for instance in ids]
        return {"instanceStatusSet": ("item", checks)}

    def ec2_DescribeAvailabilityZones(self, *_):
        return {"availabilityZoneInfo": ("item", [{"zoneName": name, "zoneId": known} for name, known in ZONES.items()])}

    def ec2_RebootInstances(self, _, request_id):
        return {"requestId": request_id, "return": "true"}

    def ec2_GetConsoleOutput(self, received, request_id):
        return {"requestId": request_id, "instanceId": received.fields["InstanceId"], "output": ""}

    def eks_DescribeCluster(self, received, _):
        if received.fields["name"] not in self.clusters:
            raise Refused(404, "ResourceNotFoundException")
        name = received.fields["name"]
        known = {"name": name, "arn": arn("eks", f"cluster/{name}"), "zonalShiftConfig": {"enabled": True}}
        return {"cluster": {**known, **self.clusters[name]}}

    def eks_ListNodegroups(self, *_):
        return {"nodegroups": ["workers"]}

    def eks_DescribeNodegroup(self, received, _):
        owned = [{"name": name} for name in self.of_account(received) if name.startswith("eks-")]
        return {
            "nodegroup": {
                "nodegroupName": received.fields["nodegroupName"], "clusterName": received.fields["name"],
                "resources": {"autoScalingGroups": owned}, "nodeRepairConfig": {"enabled": False},
            }
        }

    def arc_zonal_shift_GetManagedResource(self, received, _):
        shift = {"appliedStatus": "APPLIED", "awayFrom": ZONES["eu-west-1c"], "startTime": 1_735_394_773}
        return {
            "arn": received.fields["resourceIdentifier"], "name": "x", "appliedWeights": {}, "zonalShifts": [],
            "autoshifts": [shift], "zonalAutoshiftStatus": "ENABLED",
        }

    def events_PutEvents(self, received, _):
        with self.lock:
            self.events += received.fields["Entries"]
        return {"FailedEntryCount": 0, "Entries": [{"EventId": str(uuid.uuid4())} for _ in received.fields["Entries"]]}

    def logs_PutLogEvents(self, received, _):
        if received.fields["logStreamName"] not in self.log_streams:
            raise Refused(400, "ResourceNotFoundException")
        return {}

    def logs_CreateLogStream(self, received, _):
        self.log_streams.add(received.fields["logStreamName"])
        return {}

    def logs_FilterLogEvents(self, received, _):
        # An API server writes to its audit stream continuously, and agents report. No line after a fault contradicts it.
        fields = received.fields
        stream = fields.get("logStreamNames", [fields.get("logStreamNamePrefix", "")])[0]
        at = int(time.time() * 1000)
        if "limit" in fields:
            # In the other cluster, no stream has recent lines.
            silent = "filterPattern" in fields or ("logStreamNamePrefix" in fields and fields["logGroupName"] == SILENT_LOG)
            lines = [] if silent else ["{}"]
        else:
            lines = self.undelivered.get(fields["logGroupName"], []) if "filterPattern" in fields else []
        event = lambda line: {"eventId": "1", "logStreamName": stream, "timestamp": at, "ingestionTime": at, "message": line}
        return {"events": [event(line) for line in lines]}

    def logs_DescribeLogStreams(self, *_):
        return {"logStreams": [{"logStreamName": AUDIT_STREAM, "creationTime": int(time.time() * 1000)}]}


def read(method: str, path: str, headers: dict, body: bytes) -> ReceivedRequest:
    # AWS4-HMAC-SHA256 Credential=<key>/<day>/<region>/<service>/aws4_request, …
    key, _, region, service, _ = re.search(r"Credential=([^,]+)", headers["authorization"])[1].split("/")
    assert region == REGION
    program, _, account = key.partition(SESSION)
    if "x-amz-target" in headers:
        operation, fields = headers["x-amz-target"].rsplit(".", 1)[1], json.loads(body)
    elif headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True))
        operation = fields["Action"]
    else:
        raw = urlsplit(path).path
        operation, found = next(
            (name, found) for of, pattern, name in paths(service) if of == method and (found := pattern.fullmatch(raw))
        )
        fields = {name: unquote(value) for name, value in found.groupdict().items()}
    return ReceivedRequest(program, account or ACCOUNT, service, operation, fields)


def tagged(service: str, tags: dict) -> dict:
    return {f"{service}:ResourceTag/{key}": value for key, value in tags.items()}


def node_of(instance: str) -> str:
    """The name of an instance's node: its private DNS name."""
    return f"{instance}.eu-west-1.compute.internal"
