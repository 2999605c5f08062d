"""Runs the programs against a loopback AWS, and keeps what each of them requested, logged and published.

The functions have the environment that the template gives them, and the tables that it defines.
"""

import base64
import datetime
import gzip
import json
import os
import re
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import boto3

from api_server import ApiServer
from lambda_host import Function
from loopback import Aws, node_of
from programs import FUNCTIONS, PROGRAMS, built, environment
from template import ACCOUNT, CLUSTER, PARTITION, REGION, ROOT, deployed, of_type

# Another cluster, in another account.
OTHER, OTHER_ACCOUNT = "test", "444455556666"
STATE = "NODEMEND_STATE_TABLE"


def now(ago: int = 0) -> str:
    at = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=ago)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Observed:
    """What the programs did: `aws.records` has their requests, `aws.events` what they published, `logs` the functions' lines,
    `tables` the items at the end, and `explained` the output of `nodemend explain` for a node whose repair is blocked."""

    def __init__(self, directory: Path, dynamodb: str, groups: dict):
        self.directory = directory
        self.aws = Aws(dynamodb, groups)
        session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION)
        self.client = session.client("dynamodb", endpoint_url=dynamodb)
        self.logs, self.tables, self.explained = {}, {}, {}
        # The kinds of events, the states and the calls that a function does not ignore.
        self.kinds_read, self.states_read, self.calls_read = defaultdict(set), set(), set()
        self.sequence = 0
        self.running = {}
        self.api_server = ApiServer(directory)
        self.aws.clusters[CLUSTER] = {
            "endpoint": self.api_server.endpoint, "certificateAuthority": {"data": self.api_server.authority},
        }
        self.aws.clusters[OTHER] = {}

    # ---- programs

    def credentials(self, program: str) -> dict:
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.directory), "AWS_REGION": REGION, "AWS_ENDPOINT_URL": self.aws.endpoint,
            "AWS_ACCESS_KEY_ID": program, "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
        }

    def function(self, name: str) -> Function:
        if name not in self.running:
            variables, log = {**self.credentials(name), **environment(name)}, self.directory / f"{name}.log"
            self.running[name] = Function(built(PROGRAMS[name]), variables, log, self.aws.problems)
        return self.running[name]

    def invoke(self, name: str, event) -> dict:
        return self.function(name).invoke(event)

    def end(self, name: str):
        """Ends a function's process. The next invocation starts another, which writes to the same log."""
        self.running.pop(name).end()

    def agent(self, *options) -> "Agent":
        return Agent(self.credentials("agent"), self.directory, *options)

    def command(self, line: str, expected=(0,), who: str = "operators") -> str:
        """Runs the operators' command with a deployment's tables."""
        variables = {**self.credentials(who), **environment("repair")}
        arguments = [built(PROGRAMS["operators"]), *line.split()]
        ran = subprocess.run(arguments, env=variables, capture_output=True, text=True, timeout=60)
        assert ran.returncode in expected, f"{line}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def close(self):
        self.tables = {name: self.items(name) for name in of_type(deployed()["Resources"], "AWS::DynamoDB::Table")}
        for name, function in self.running.items():
            function.end()
            self.logs[name] = function.lines()
        self.aws.server.close()
        self.api_server.server.close()

    # ---- tables

    def make_tables(self):
        for name, table in of_type(deployed()["Resources"], "AWS::DynamoDB::Table").items():
            kept = ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode")
            properties = {key: value for key, value in table["Properties"].items() if key in kept}
            self.client.create_table(TableName=name, **properties)

    def items(self, table: str) -> list:
        """All items of a table; after `close`, as they were then."""
        if table in self.tables:
            return self.tables[table]
        pages = self.client.get_paginator("scan").paginate(TableName=table)
        return [item for page in pages for item in page["Items"]]

    def remove_policy(self, cluster: str):
        table = environment("repair")[STATE]
        for item in self.items(table):
            if item["pk"]["S"] == f"cluster#{cluster}" and item["sk"]["S"].startswith("policy"):
                self.client.delete_item(TableName=table, Key={key: item[key] for key in ("pk", "sk")})

    def end_lease(self):
        """Deletes the lease that allows only one invocation to wait: the one item that belongs to no cluster or node."""
        table = environment("repair")[STATE]
        (lease,) = [item for item in self.items(table) if "#" not in item["pk"]["S"]]
        self.client.delete_item(TableName=table, Key={key: lease[key] for key in ("pk", "sk")})

    def audit_log(self, of: str) -> list:
        """The records of an instance, in order."""
        found = [item for item in self.items(audit_table()) if item["pk"]["S"].endswith(f"#{of}") and "line" in item]
        return [json.loads(item["line"]["S"]) for item in sorted(found, key=lambda item: int(item["sk"]["N"]))]

    def calls(self) -> list:
        """The requests that change anything at AWS except our own tables, logs and events: the repair function's calls."""
        return [one for one in self.aws.received if re.match("Terminate|Reboot", one.operation)]

    def calls_for(self, of: str) -> list:
        return [one for one in self.calls() if of in one.fields.values()]

    def requests(self, operation: str) -> list:
        """All requests for one operation."""
        return [one for one in self.aws.received if one.operation == operation]

    def call_of(self, of: str) -> dict:
        """The record of the one call that replaced an instance."""
        (call,) = [one for one in self.audit_log(of) if one["eventName"] == "TerminateInstanceInAutoScalingGroup"]
        return call

    # ---- events

    def delivered(self, group: str, stream: str, lines: list, account: str = ACCOUNT):
        """Log events of an account, as the subscription delivers them to intake."""
        events = []
        for line in lines:
            self.sequence += 1
            events.append({"id": f"{self.sequence:056}", "timestamp": int(time.time() * 1000), "message": json.dumps(line)})
        data = {
            "messageType": "DATA_MESSAGE", "owner": account, "logGroup": group, "logStream": stream,
            "subscriptionFilters": ["nodemend"], "logEvents": events,
        }
        packed = base64.b64encode(gzip.compress(json.dumps(data).encode())).decode()
        return self.invoke("intake", {"awslogs": {"data": packed}})

    def reported(self, of: str, cluster: str = CLUSTER, **body):
        self.sequence += 1
        report = {
            "v": 1, "cluster": cluster, "node": node_of(of), "instanceId": of, "zone": "eu-west-1a",
            "bootId": "3e5696ab-eba1-4b55-bf1c-9a80963b1cab", "seq": self.sequence, "at": now(), "agent": "test", **body,
        }
        group = deployed()["Resources"]["NodesSubscription"]["Properties"]["LogGroupName"]
        account = ACCOUNT if cluster == CLUSTER else OTHER_ACCOUNT
        return self.delivered(group.replace(CLUSTER, cluster), of, [report], account)

    def healthy(self, of: str, cluster: str = CLUSTER, ago: int = 7200, unknown: tuple = ()):
        """A heartbeat without the conditions in `unknown`: if a node was healthy before, a grace period counts from the arrival
        of the first bad report."""
        conditions = ("KernelReady", "NetworkingReady", "StorageReady", "ContainerRuntimeReady", "AcceleratedHardwareReady")
        states = [{"condition": one, "status": "True", "since": now(ago)} for one in conditions if one not in unknown]
        return self.reported(of, cluster, kind="heartbeat", conditions=states)

    def unhealthy(self, of: str, condition: str, reason: str, cluster: str = CLUSTER, ago: int = 7200):
        finding = {"reason": reason, "severity": "Condition", "since": now(ago), "last": now(), "count": 3, "message": "as seen"}
        return self.reported(of, cluster, kind="condition", condition=condition, status="False", since=now(ago), findings=[finding])

    def happened(self, function: str, source: str, kind: str, detail: dict, account: str = ACCOUNT, ago: int = 0) -> dict:
        event = {
            "version": "0", "id": "x", "detail-type": kind, "source": source, "account": account, "time": now(ago),
            "region": REGION, "resources": [], "detail": detail,
        }
        return self.invoke(function, event)

    def called(self, detail: dict, account: str = ACCOUNT):
        return self.happened("confirm", "aws.autoscaling", "AWS API Call via CloudTrail", detail, account)

    def launched(self, into: str, of: str, account: str = ACCOUNT):
        detail = {"AutoScalingGroupName": into, "EC2InstanceId": of, "EndTime": now(), "Details": {"Availability Zone": "eu-west-1a"}}
        return self.happened("confirm", "aws.autoscaling", "EC2 Instance Launch Successful", detail, account)


def audit_table() -> str:
    """The name of the table of audit records: the one that is not the state table."""
    (name,) = set(of_type(deployed()["Resources"], "AWS::DynamoDB::Table")) - {environment("repair")[STATE]}
    return name


def cloud_trail_event(record: dict) -> dict:
    """CloudTrail's event of a call, from our own record of it, which has the same fields."""
    return {name: value for name, value in record.items() if name != "nodemend"}


class Agent:
    """A running agent. Its process and its log are as a function's."""

    def __init__(self, credentials: dict, directory: Path, *options):
        self.log = directory / "agent.log"
        command = [built(PROGRAMS["agent"]), "run", "--cluster", CLUSTER, "--state-dir", directory / "spool", "--listen", "127.0.0.1:0"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*command, "--no-imds", *options], env=credentials, stdout=log, stderr=log)

    def end(self):
        self.process.terminate()
        self.process.wait(20)


def wait_for(condition, program: Function | Agent):
    """Waits until a condition is true, as long as the program runs."""
    deadline = time.monotonic() + 60
    while not condition():
        assert program.process.poll() is None and time.monotonic() < deadline, program.log.read_text()
        time.sleep(0.1)
