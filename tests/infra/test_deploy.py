"""The template deploys to a local emulator of AWS's APIs, and the deployed functions work."""

import base64
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
import yaml
from botocore.config import Config

from emulator import emulator
from programs import FUNCTIONS, PROGRAMS, built
from template import CLUSTER, REGION, ROOT, deployed, of_type, synthesized, written

STACK = "nodemend-local"
ACCOUNT = "000000000000"
# Resource types that the local stack does not support.
UNKNOWN = {"AWS::EKS::PodIdentityAssociation", "AWS::EKS::AccessEntry"}
GIVEN = {"ControlPlaneLogs": "disabled"}

@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with emulator(tmp_path_factory.mktemp("stack")) as address:
        yield address


def sources(directory: Path) -> dict:
    """A directory of code for each function: the built program, without debug information."""
    found = {}
    for name, function in FUNCTIONS.items():
        found[function] = directory / name
        found[function].mkdir()
        subprocess.run(["objcopy", "--strip-all", built(PROGRAMS[name]), found[function] / "bootstrap"], check=True)
    return found


@pytest.fixture(scope="module")
def stack(local, tmp_path_factory):
    """The stack, deployed with the command that the README shows."""
    directory = tmp_path_factory.mktemp("deploy")
    template = written()
    template["Resources"] = {name: one for name, one in template["Resources"].items() if one["Type"] not in UNKNOWN}
    for function, code in sources(directory).items():
        template["Resources"][function]["Properties"]["CodeUri"] = str(code)
    # The endpoint is the only setting that the local stack adds.
    template["Globals"]["Function"]["Environment"]["Variables"]["AWS_ENDPOINT_URL"] = local
    file = directory / "template.yaml"
    file.write_text(yaml.safe_dump(template, sort_keys=False))
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(directory), "AWS_ENDPOINT_URL": local, "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION, "SAM_CLI_TELEMETRY": "0",
    }
    command = [
        Path(sys.executable).parent / "sam", "deploy", "--template", file, "--stack-name", STACK, "--resolve-s3",
        "--capabilities", "CAPABILITY_IAM", "--no-progressbar",
        "--parameter-overrides", f"ClusterName={CLUSTER}", *[f"{name}={value}" for name, value in GIVEN.items()],
    ]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def aws(local, stack):
    config = Config(retries={"total_max_attempts": 1}, read_timeout=90)
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION)
    return lambda service: session.client(service, endpoint_url=local, config=config)


def resources(aws) -> dict:
    pages = aws("cloudformation").get_paginator("list_stack_resources").paginate(StackName=STACK)
    return {one["LogicalResourceId"]: one for page in pages for one in page["StackResourceSummaries"]}


def physical(aws, name: str) -> str:
    return resources(aws)[name]["PhysicalResourceId"]


def test_every_resource_is_created(aws, stack):
    assert "Successfully created/updated stack" in stack
    expected = {name for name, one in deployed(**GIVEN)["Resources"].items() if one["Type"] not in UNKNOWN}
    found = resources(aws)
    assert set(found) == expected
    assert {one["ResourceStatus"] for one in found.values()} == {"CREATE_COMPLETE"}


def test_the_call_is_allowed_for_groups_with_the_clusters_tag(aws):
    arn = physical(aws, "RepairCalls")
    attached = aws("iam").list_attached_role_policies(RoleName=physical(aws, "RepairRole"))["AttachedPolicies"]
    assert [policy["PolicyArn"] for policy in attached] == [arn]
    version = aws("iam").get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document = aws("iam").get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    document = json.loads(document) if isinstance(document, str) else document
    (replace, _) = document["Statement"]
    assert replace["Condition"] == {"StringEquals": {f"autoscaling:ResourceTag/kubernetes.io/cluster/{CLUSTER}": "owned"}}


def test_alarms_and_subscription_exist(aws):
    alarms = aws("cloudwatch").describe_alarms(AlarmNamePrefix=f"nodemend-{CLUSTER}-")["MetricAlarms"]
    assert len(alarms) == len(of_type(synthesized()["Resources"], "AWS::CloudWatch::Alarm"))
    (filter_,) = aws("logs").describe_subscription_filters(logGroupName=f"/nodemend/{CLUSTER}/nodes")["subscriptionFilters"]
    assert filter_["destinationArn"].endswith(physical(aws, "IntakeFunction"))


# ---- the deployed functions

NOW = "2026-08-20T09:55:00.000Z"


def apply_policy(aws):
    """What `nodemend policy apply infra/policy.yaml` writes."""
    policy = yaml.safe_load((ROOT / "infra" / "policy.yaml").read_text())
    body = {"version": 1, "by": "test", "at": NOW, "policy": policy}
    item = {"pk": f"cluster#{CLUSTER}", "sk": "policy", "body": json.dumps(body)}
    aws("dynamodb").put_item(
        TableName=physical(aws, "StateTable"),
        Item={**{key: {"S": value} for key, value in item.items()}, "version": {"N": "1"}},
    )


def invoke(aws, function: str, payload: dict) -> dict:
    answer = aws("lambda").invoke(FunctionName=physical(aws, function), Payload=json.dumps(payload).encode())
    body = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, body
    return body


def subscription(lines: list, stream: str) -> dict:
    """The event with which CloudWatch Logs invokes a function."""
    events = [{"id": str(number), "timestamp": 1_787_219_700_000, "message": line} for number, line in enumerate(lines)]
    data = {
        "messageType": "DATA_MESSAGE", "owner": ACCOUNT, "logGroup": f"/nodemend/{CLUSTER}/nodes", "logStream": stream,
        "subscriptionFilters": ["nodemend"], "logEvents": events,
    }
    return {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(data).encode())).decode()}}


def reports() -> tuple:
    text = (ROOT / "events" / "01-metadata-service-blocked" / "events.jsonl").read_text()
    first = text.splitlines()[0]
    return [first], json.loads(first)["instanceId"]


def test_intake_ignores_reports_of_a_cluster_without_policy(aws):
    lines, instance = reports()
    answer = invoke(aws, "IntakeFunction", subscription(lines, instance))
    assert (answer["reports"], answer["unknownCluster"]) == (0, 1)
    apply_policy(aws)
    answer = invoke(aws, "IntakeFunction", subscription(lines, instance))
    assert (answer["reports"], answer["unknownCluster"], answer["rejected"]) == (1, 0, 0)
    key = {"pk": {"S": f"case#{CLUSTER}#{instance}"}, "sk": {"S": "case"}}
    item = aws("dynamodb").get_item(TableName=physical(aws, "StateTable"), Key=key)["Item"]
    assert json.loads(item["body"]["S"])["instanceId"] == instance


def test_a_repair_run_finds_nothing_due(aws):
    assert set(invoke(aws, "RepairFunction", {})) == {"evaluated"}


def test_confirm_ignores_the_termination_of_an_unknown_instance(aws):
    event = json.loads((ROOT / "events" / "templates" / "eventbridge-nth-ec2-state-change-event.json").read_text())
    event["detail"]["state"] = "terminated"
    assert invoke(aws, "ConfirmFunction", event) == {"relevant": False, "steps": 0}


def test_repair_events_are_published_on_the_bus(aws):
    apply_policy(aws)
    queue = aws("sqs").create_queue(QueueName="published")["QueueUrl"]
    arn = aws("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = {"source": ["nodemend"], "detail": {"cluster": [CLUSTER]}}
    aws("events").put_rule(Name="published", EventPattern=json.dumps(pattern), State="ENABLED")
    aws("events").put_targets(Rule="published", Targets=[{"Id": "queue", "Arn": arn}])
    incident = (ROOT / "events" / "06-xid-79-replace" / "events.jsonl").read_text().splitlines()
    instance = "i-00000000000000042"
    report = next(one for one in map(json.loads, incident) if one["kind"] == "condition")
    report |= {"instanceId": instance, "node": "ip-10-0-0-42.ec2.internal"}
    assert invoke(aws, "IntakeFunction", subscription([json.dumps(report)], instance))["reports"] == 1
    deadline, published = time.monotonic() + 30, []
    while not published:
        assert time.monotonic() < deadline, "no event was published"
        found = aws("sqs").receive_message(QueueUrl=queue, WaitTimeSeconds=1, MaxNumberOfMessages=10)
        published = [json.loads(message["Body"]) for message in found.get("Messages", [])]
    assert [(event["source"], event["detail-type"]) for event in published] == [("nodemend", "Node Suspected")]
    assert (published[0]["detail"]["instanceId"], published[0]["detail"]["step"]) == (instance, "suspect")


def test_drain_ignores_terminations_in_other_groups(aws):
    detail = {
        "LifecycleActionToken": "t", "AutoScalingGroupName": "others", "LifecycleHookName": "Terminate-LC-Hook",
        "EC2InstanceId": "i-00000000000000042", "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
    }
    event = {"detail-type": "EC2 Instance-terminate Lifecycle Action", "time": "2026-08-20T09:55:00Z", "detail": detail}
    assert invoke(aws, "DrainFunction", event) == {"relevant": False}
    # A group that does not exist: it is described in Auto Scaling.
    detail["LifecycleHookName"] = "nodemend-drain"
    assert invoke(aws, "DrainFunction", event) == {"relevant": False}
