"""The template is valid, and the programs work with the settings that it gives them."""

import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from iam import Request, allows
from lambda_host import Function
from loopback import Aws
from programs import FUNCTIONS, PROGRAMS, built, environment
from template import ACCOUNT, CLUSTER, PARTITION, REGION, ROOT, TEMPLATE, deployed, of_type, policies, synthesized, written

SOURCES = ROOT / "functions"
BIN = Path(sys.executable).parent


def run(*command, **how):
    return subprocess.run([str(BIN / command[0]), *map(str, command[1:])], capture_output=True, text=True, **how)


def test_cfn_lint_finds_nothing():
    found = run("cfn-lint", TEMPLATE)
    assert found.returncode == 0, found.stdout


def test_sam_validates_it(tmp_path):
    environment = {"SAM_CLI_TELEMETRY": "0", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    found = run("sam", "validate", "--lint", "--template", TEMPLATE, "--region", "eu-west-1", env=environment)
    assert found.returncode == 0, found.stdout + found.stderr


def test_checkov_finds_only_what_is_explained(tmp_path):
    template, explained = synthesized(), set()
    for name, resource in written()["Resources"].items():
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
            assert len(skip["comment"]) > 20, f"{name}: {skip['id']}"
            explained.add((name, skip["id"]))
    # Without the skips it checks everything: a skip that is no longer needed is found, too.
    for resource in template["Resources"].values():
        resource.get("Metadata", {}).pop("checkov", None)
    file = tmp_path / "template.json"
    file.write_text(json.dumps(template))
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    found = run(
        "checkov", "--file", file, "--framework", "cloudformation", "--skip-download", "--output", "json", "--quiet",
        env=environment,
    )
    results = json.loads(found.stdout)
    failed = {(check["resource"].split(".")[1], check["check_id"]) for check in results["results"]["failed_checks"]}
    assert failed == explained
    assert results["summary"]["passed"] > 30, "it must have checked the resources"


# ---- the subscriptions


@pytest.mark.parametrize("filter_", ["NodesSubscription", "ControlPlaneSubscription"])
def test_a_subscription_has_the_pattern_that_a_backtest_reads_the_log_with(filter_, observed):
    properties = deployed()["Resources"][filter_]["Properties"]
    received = [one.fields for one in observed.requests("FilterLogEvents") if one.program == "operators"]
    read_with = {fields["logGroupName"]: fields["filterPattern"] for fields in received}
    assert properties["FilterPattern"] == read_with[properties["LogGroupName"]]
    assert len(properties["FilterPattern"]) <= 1024


def test_intake_reads_both_log_groups(observed):
    resources = deployed()["Resources"]
    groups = {name: resource["Properties"]["LogGroupName"] for name, resource in
              of_type(resources, "AWS::Logs::SubscriptionFilter").items()}
    assert groups == {
        "NodesSubscription": f"/nodemend/{CLUSTER}/nodes",
        "ControlPlaneSubscription": f"/aws/eks/{CLUSTER}/cluster",
    }
    counted = lambda metric: sum(line.get(metric, 0) for line in observed.logs["intake"] if line.get("cluster") == CLUSTER)
    assert counted("Reports") > 0 and counted("Observations") > 0


def test_the_control_planes_log_can_be_left_out():
    resources = deployed(ControlPlaneLogs="disabled")["Resources"]
    assert not {"ControlPlaneSubscription", "IntakeFromControlPlane"} & set(resources)


# ---- the cluster's API server


def test_access_to_the_cluster_is_optional():
    resources = deployed(ClusterAccess="enabled")["Resources"]
    for function in ("Repair", "Reconcile"):
        assert environment(function.lower())["NODEMEND_CLUSTER_ACCESS"] == ""
        assert f"{function}AccessEntry" not in deployed()["Resources"]
        variables = resources[f"{function}Function"]["Properties"]["Environment"]["Variables"]
        assert variables["NODEMEND_CLUSTER_ACCESS"] == "*"
        entry = resources[f"{function}AccessEntry"]["Properties"]
        assert (entry["ClusterName"], entry["PrincipalArn"]) == (CLUSTER, resources[f"{function}Function"]["Properties"]["Role"])
        # Its permissions come only from the RBAC of the Kubernetes group.
        assert "AccessPolicies" not in entry and entry["KubernetesGroups"] == ["nodemend-read"]
    # The endpoint is read from EKS.
    describe = Request("eks:DescribeCluster", f"arn:{PARTITION}:eks:{REGION}:{ACCOUNT}:cluster/{CLUSTER}")
    assert allows(policies(resources)["ReconcileRole"], describe) and not allows(policies(deployed()["Resources"])["ReconcileRole"], describe)


@pytest.mark.parametrize("logs", ["enabled", "disabled"])
def test_reconcile_runs_every_five_minutes_and_knows_its_cluster_and_whether_the_audit_log_is_read(logs):
    rule = deployed(ControlPlaneLogs=logs)["Resources"]["EveryFiveMinutes"]["Properties"]
    assert rule["ScheduleExpression"] == "rate(5 minutes)" and rule["State"] == "ENABLED"
    assert json.loads(rule["Targets"][0]["Input"]) == {"cluster": CLUSTER, "controlPlaneLogs": logs}


# ---- the tables


@pytest.mark.parametrize("table", sorted(of_type(synthesized()["Resources"], "AWS::DynamoDB::Table")))
def test_the_store_writes_the_keys_that_a_table_has(table, observed):
    properties = deployed()["Resources"][table]["Properties"]
    types = {one["AttributeName"]: one["AttributeType"] for one in properties["AttributeDefinitions"]}
    keys = [element["AttributeName"] for element in properties["KeySchema"]]
    items = observed.tables[table]
    assert items and all(set(keys) <= set(item) for item in items)
    assert {(name, kind) for item in items for name in types if name in item for kind in item[name]} == set(types.items())
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert properties["SSESpecification"]["SSEEnabled"] is True
    assert properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True


INDEXES = {
    index["IndexName"]: index
    for table in of_type(synthesized()["Resources"], "AWS::DynamoDB::Table").values()
    for index in table["Properties"].get("GlobalSecondaryIndexes", [])
}


@pytest.mark.parametrize("name", sorted(INDEXES))
def test_an_index_is_queried_and_has_what_the_store_writes_for_it(name, observed):
    assert any(one.request.resource.endswith(f"/index/{name}") for one in observed.aws.records)
    index = INDEXES[name]
    keys = {element["AttributeName"] for element in index["KeySchema"]}
    held = [item for items in observed.tables.values() for item in items if keys <= set(item)]
    # All attributes beside the keys are projected, except those that are read by the key of the item.
    assert held
    for attribute in index["Projection"].get("NonKeyAttributes", []):
        assert any(attribute in item for item in held), attribute


def test_closed_cases_expire_by_the_attribute_that_the_table_names(observed):
    (name,) = {
        table["Properties"]["TimeToLiveSpecification"]["AttributeName"]
        for table in of_type(deployed()["Resources"], "AWS::DynamoDB::Table").values()
        if "TimeToLiveSpecification" in table["Properties"]
    }
    expiring = [item for item in observed.tables["StateTable"] if name in item]
    # Of a closed case: its own item, the name of its node, and the ID of its instance.
    assert {item["sk"]["S"] for item in expiring} >= {"case", "node", "instance"}
    # Long after the age up to which CloudWatch Logs accepts events.
    assert all(float(item[name]["N"]) > time.time() + 14 * 24 * 3600 for item in expiring)


def test_the_audit_log_is_retained_without_its_stack_and_never_expires():
    table = deployed()["Resources"]["AuditLogTable"]
    assert table["DeletionPolicy"] == table["UpdateReplacePolicy"] == "Retain"
    assert table["Properties"]["DeletionProtectionEnabled"] is True
    assert "TimeToLiveSpecification" not in table["Properties"]


# ---- the functions


@pytest.fixture(scope="module")
def endpoint():
    """A loopback AWS that answers only GetCallerIdentity."""
    aws = Aws("http://127.0.0.1:9", {})
    yield aws.endpoint
    aws.server.close()


def refuses(function: str, variable: str, value: str, endpoint: str, directory: Path) -> bool:
    """Whether a function with this value in its environment exits at once, with an error that names the variable."""
    credentials = {
        "AWS_REGION": REGION, "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": function, "AWS_SECRET_ACCESS_KEY": "x",
        "HOME": str(directory),
    }
    log = directory / "log"
    log.write_text("")
    started = Function(built(PROGRAMS[function]), {**credentials, **environment(function), variable: value}, log, [])
    try:
        return started.process.wait(5) != 0 and variable in log.read_text()
    except subprocess.TimeoutExpired:
        return False
    finally:
        started.end()


@pytest.mark.parametrize(("function", "variable"), [(function, name) for function in FUNCTIONS for name in environment(function)])
def test_a_function_reads_each_variable_of_its_environment(function, variable, endpoint, tmp_path):
    # A required variable, or one that must be valid if it is set.
    assert refuses(function, variable, "", endpoint, tmp_path) or refuses(function, variable, "a b", endpoint, tmp_path)


def test_each_function_gets_the_names_of_the_resources_that_it_uses():
    resources = deployed()["Resources"]
    for function in FUNCTIONS:
        assert environment(function)["NODEMEND_STATE_TABLE"] == "StateTable"
    assert environment("confirm")["NODEMEND_REPAIR_ROLE"] == resources["RepairFunction"]["Properties"]["Role"]


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
@pytest.mark.parametrize("function", ["Intake", "Repair", "Reconcile", "Confirm", "Drain"])
def test_a_function_is_built_from_its_crate_for_each_architecture(function, architecture):
    properties = deployed(Architecture=architecture)["Resources"][f"{function}Function"]["Properties"]
    assert properties["Architectures"] == [architecture]
    assert properties["Runtime"] == "provided.al2023"
    metadata = written()["Resources"][f"{function}Function"]["Metadata"]
    assert metadata["BuildMethod"] == "rust-cargolambda"
    manifest = tomllib.loads((ROOT / "functions" / function.lower() / "Cargo.toml").read_text())
    assert metadata["BuildProperties"]["Binary"] in [one["name"] for one in manifest["bin"]]


def constant(name: str, *parts: str) -> int:
    """A limit of the functions, from the one source file that declares it and has these parts in its path.

    These limits are read from the source because no run shows them: a measured run takes less time than the limits allow,
    and the timeouts of the template must cover the worst case. No program prints its limits either."""
    declared = re.compile(rf"const {name}: \w+ = (?:\w+::from_secs\()?(\d+)\)?;")
    files = [file for file in SOURCES.rglob("*.rs") if all(part in str(file.relative_to(SOURCES)) for part in parts)]
    (found,) = {int(found[1]) for file in files if (found := declared.search(file.read_text()))}
    return found


def test_a_repair_run_that_starts_late_has_time_for_its_calls_and_ends_within_its_lease():
    timeout = deployed()["Resources"]["RepairFunction"]["Properties"]["Timeout"]
    waits, call, console = constant("RUN_LENGTH", "repair/src"), constant("CALL_TIMEOUT", "cloud"), constant("CONSOLE_TIMEOUT")
    one_read = constant("OPERATION_TIMEOUT", "sdk.rs")
    # At its end it publishes events: the time for that, and for a put that began within it. If all puts took the longest
    # time, some events would not be published; the call is made and recorded by then.
    publishes = constant("PUBLISH_TIMEOUT", "repair/src") + constant("TIMEOUT", "eventbridge")
    assert timeout >= waits + max(call + console + 3 * one_read, publishes)
    assert timeout <= constant("LEASE", "domain/src")


def test_at_most_two_repair_runs_are_concurrent():
    function = lambda **given: deployed(**given)["Resources"]["RepairFunction"]["Properties"]
    assert function()["ReservedConcurrentExecutions"] == 2
    assert "ReservedConcurrentExecutions" not in function(ReserveConcurrency="disabled")
    rule = deployed()["Resources"]["EveryMinute"]["Properties"]
    assert rule["ScheduleExpression"] == "rate(1 minute)" and rule["State"] == "ENABLED"


# ---- the events that confirm receives


def patterns(target: str = "confirm") -> list:
    """The event patterns of a function."""
    rules = [rule["Properties"] for rule in of_type(deployed()["Resources"], "AWS::Events::Rule").values()]
    return [rule["EventPattern"] for rule in rules if "EventPattern" in rule and rule["Targets"][0]["Id"] == target]


def matches(pattern, event) -> bool:
    """EventBridge's exact matching: our rules use nothing else."""
    return all(
        matches(wanted, event.get(key, {})) if isinstance(wanted, dict) else event.get(key) in wanted
        for key, wanted in pattern.items()
    )


def test_confirm_receives_every_kind_of_event_that_it_reads_and_no_other(observed):
    assert {kind for pattern in patterns() for kind in pattern["detail-type"]} == observed.kinds_read["confirm"]
    assert {state for pattern in patterns() for state in pattern.get("detail", {}).get("state", [])} == observed.states_read


def test_confirm_receives_our_calls_and_those_that_stop_or_move_an_instance(observed):
    (calls,) = [pattern for pattern in patterns() if pattern["detail-type"] == ["AWS API Call via CloudTrail"]]
    ours = {(one.operation, f"{one.service}.amazonaws.com") for one in observed.calls()}
    wanted = observed.calls_read | ours
    assert set(calls["detail"]["eventName"]) == {name for name, _ in wanted}
    assert set(calls["detail"]["eventSource"]) == {source for _, source in wanted}


def test_of_service_events_confirm_receives_only_spot_interruptions():
    (events,) = [pattern for pattern in patterns() if pattern["detail-type"] == ["AWS Service Event via CloudTrail"]]
    assert events["detail"] == {"eventSource": ["ec2.amazonaws.com"], "eventName": ["BidEvictedEvent"]}


def test_of_aws_health_events_confirm_receives_only_scheduled_changes_of_ec2():
    event = json.loads((ROOT / "events" / "templates" / "eventbridge-health-instance-retirement.json").read_text())
    assert any(matches(pattern, event) for pattern in patterns())
    for field, other in (("service", "RDS"), ("eventTypeCategory", "issue")):
        changed = {**event, "detail": {**event["detail"], field: other}}
        assert not any(matches(pattern, changed) for pattern in patterns())


def captured() -> dict:
    """Events as EventBridge delivers them, by the names of their files. The other files of the directory are log lines."""
    found = {}
    for file in sorted((ROOT / "events" / "templates").glob("*.json")):
        event = json.loads(file.read_text())
        if file.stem.startswith("cloudtrail-"):
            source = event["eventSource"].replace(".amazonaws.com", "")
            found[file.stem] = {"source": f"aws.{source}", "detail-type": "AWS API Call via CloudTrail", "detail": event}
        elif "detail-type" in event:
            found[file.stem] = event
    return found


@pytest.mark.parametrize("name", captured())
def test_captured_events_reach_confirm(name):
    event = captured()[name]
    ends = event["detail"].get("state", "terminated") in ("shutting-down", "terminated")
    assert any(matches(pattern, event) for pattern in patterns()) == ends


def test_every_rule_may_invoke_its_function_and_undelivered_events_of_confirm_and_drain_go_to_a_queue():
    resources = deployed()["Resources"]
    allowed = {
        (permission["Properties"]["FunctionName"], permission["Properties"]["SourceArn"])
        for permission in of_type(resources, "AWS::Lambda::Permission").values()
    }
    statements = resources["DeadLetterPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    accepted = {one["Resource"]: one["Condition"]["ArnEquals"]["aws:SourceArn"] for one in statements if one["Effect"] == "Allow"}
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        arn = f"arn:aws:events:eu-west-1:111122223333:rule/{name}"
        (target,) = rule["Properties"]["Targets"]
        assert (target["Arn"].rsplit(":", 1)[1], arn) in allowed
        if "DeadLetterConfig" in target:
            assert target["DeadLetterConfig"]["Arn"].endswith(f":{target['Id'].capitalize()}DeadLetterQueue")
            assert arn in accepted[target["DeadLetterConfig"]["Arn"]]
        else:
            assert target["Id"] in ("repair", "reconcile")


def test_an_event_for_which_a_function_fails_goes_to_a_queue():
    resources = deployed()["Resources"]
    for name in ("Intake", "Confirm", "Drain"):
        target = resources[f"{name}Function"]["Properties"]["DeadLetterConfig"]["TargetArn"]
        queue = "IntakeRetryQueue" if name == "Intake" else f"{name}DeadLetterQueue"
        assert target == f"arn:aws:sqs:eu-west-1:111122223333:{queue}"
        assert resources[f"{name}DeadLetterQueue"]["Properties"]["MessageRetentionPeriod"] == 14 * 24 * 3600


def test_a_failed_payload_is_redriven_to_intake_before_a_grace_period_ends():
    resources = deployed()["Resources"]
    queue = resources["IntakeRetryQueue"]["Properties"]
    mapping = resources["IntakeFromRetries"]["Properties"]
    assert mapping["EventSourceArn"].endswith(":IntakeRetryQueue")
    # The function returns the items that failed; without this setting Lambda would take the answer for success.
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    # AWS recommends six times the timeout; and there are at least two retries within the grace period of Ready.
    assert queue["VisibilityTimeout"] == 6 * resources["IntakeFunction"]["Properties"]["Timeout"] <= 30 * 60 / 2
    redrive = queue["RedrivePolicy"]
    assert redrive["deadLetterTargetArn"].endswith(":IntakeDeadLetterQueue")
    # An outage of an hour loses nothing; a longer one raises an alarm.
    assert redrive["maxReceiveCount"] * queue["VisibilityTimeout"] >= 3600


# ---- the events that drain receives, and how long a drain may take


def test_drain_receives_terminations_that_wait_for_its_own_hooks_and_nothing_else(observed):
    (pattern,) = patterns("drain")
    (kind,) = pattern["detail-type"]
    assert observed.kinds_read["drain"] == {kind}
    held = {"source": "aws.autoscaling", "detail-type": kind, "detail": {"LifecycleHookName": "nodemend-drain"}}
    assert matches(pattern, held)
    # In its managed node groups, EKS has its own lifecycle hook and drains the nodes itself.
    assert not matches(pattern, {**held, "detail": {"LifecycleHookName": "Terminate-LC-Hook"}})
    environment = deployed()["Resources"]["DrainFunction"]["Properties"]["Environment"]["Variables"]
    assert [environment["NODEMEND_DRAIN_HOOK"]] == pattern["detail"]["LifecycleHookName"]


@pytest.mark.parametrize(("more", "refused"), [(0, False), (1, True)])
def test_the_longest_drain_of_the_template_is_that_of_the_function(more, refused, endpoint, tmp_path):
    most = written()["Parameters"]["DrainMinutes"]["MaxValue"]
    assert refuses("drain", "NODEMEND_DRAIN_MINUTES", str(most + more), endpoint, tmp_path) == refused


def test_the_longest_drain_and_its_completion_fit_into_an_invocation():
    most = written()["Parameters"]["DrainMinutes"]["MaxValue"]
    timeout = deployed()["Resources"]["DrainFunction"]["Properties"]["Timeout"]
    tries, pause, one_call = constant("MAX_COMPLETIONS", "drain/src"), constant("FIRST_BACKOFF", "drain/src"), constant("OPERATION_TIMEOUT", "sdk.rs")
    last_request = constant("REQUEST_TIMEOUT", "kubernetes")
    assert timeout >= most * 60 + last_request + tries * one_call + pause * (2 ** (tries - 1) - 1)
    # The timeout of a hook is at least 30 s: one heartbeat may fail.
    assert constant("HEARTBEAT", "drain/src") <= 15


# ---- events of our own


def test_without_a_bus_no_role_may_put_events():
    for name in ("IntakeRole", "RepairRole", "ReconcileRole", "ConfirmRole"):
        document = deployed(EventBus="")["Resources"][name]["Properties"]["Policies"][0]["PolicyDocument"]
        assert not [one for one in document["Statement"] if "events:PutEvents" in one["Action"]]


def test_the_policy_of_a_new_deployment_enables_repair_in_observe_mode():
    file = ROOT / "infra" / "policy.yaml"
    checked = subprocess.run([built(PROGRAMS["operators"]), "policy", "check", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    policy = yaml.safe_load(file.read_text())
    assert policy["mode"] == "observe" and policy["nodeRepairConfig"]["enabled"] is True
