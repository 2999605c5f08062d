"""The template is sound by itself, and says what the code says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from template import CLUSTER, ROOT, TEMPLATE, deployed, of_type, synthesized, written

FUNCTIONS = ROOT / "functions"
DYNAMODB = FUNCTIONS / "adapters" / "src" / "store" / "dynamodb"
BIN = Path(sys.executable).parent


def run(*command, **how):
    return subprocess.run([str(BIN / command[0]), *map(str, command[1:])], capture_output=True, text=True, **how)


def test_cfn_lint_finds_nothing():
    found = run("cfn-lint", TEMPLATE)
    assert found.returncode == 0, found.stdout


def test_sam_finds_it_valid(tmp_path):
    environment = {"SAM_CLI_TELEMETRY": "0", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    found = run("sam", "validate", "--lint", "--template", TEMPLATE, "--region", "eu-west-1", env=environment)
    assert found.returncode == 0, found.stdout + found.stderr


def test_checkov_finds_what_is_explained_beside_it_and_nothing_else(tmp_path):
    template, explained = synthesized(), set()
    for name, resource in written()["Resources"].items():
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
            assert len(skip["comment"]) > 20, f"{name}: {skip['id']}"
            explained.add((name, skip["id"]))
    # Without the skips it looks at everything: one that nothing needs any more is found, too.
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
    assert results["summary"]["passed"] > 30, "it looked at the resources"


# ---- what the code says


def constant(name: str, source: str) -> str:
    """The value of a Rust constant of text, `concat!` or not."""
    found = re.search(rf'const {name}: &str = (?:concat!\()?((?:\s*r?#?"(?:[^"]|"(?!#|,|;))*"#?,?)+)', source)
    assert found, name
    parts = re.findall(r'r#"(.*?)"#|"((?:[^"\\]|\\.)*)"', found[1], re.DOTALL)
    return "".join(raw or plain for raw, plain in parts)


@pytest.mark.parametrize(
    ("name", "filter_"), [("AGENT", "NodesSubscription"), ("CONTROL_PLANE", "ControlPlaneSubscription")]
)
def test_a_filter_has_the_pattern_that_the_code_tests(name, filter_):
    source = (FUNCTIONS / "adapters" / "src" / "filter_pattern" / "our_patterns.rs").read_text()
    pattern = deployed()["Resources"][filter_]["Properties"]["FilterPattern"]
    assert pattern == constant(name, source)
    assert len(pattern) <= 1024


def test_intake_knows_both_log_groups():
    source = (FUNCTIONS / "domain" / "src" / "log_source.rs").read_text()
    assert 'between("/nodemend/", "/nodes")' in source
    assert 'between("/aws/eks/", "/cluster")' in source
    resources = deployed()["Resources"]
    groups = {name: resource["Properties"]["LogGroupName"] for name, resource in
              of_type(resources, "AWS::Logs::SubscriptionFilter").items()}
    assert groups == {
        "NodesSubscription": f"/nodemend/{CLUSTER}/nodes",
        "ControlPlaneSubscription": f"/aws/eks/{CLUSTER}/cluster",
    }


def test_the_control_planes_log_can_be_left_out():
    resources = deployed(ControlPlaneLogs="disabled")["Resources"]
    assert not {"ControlPlaneSubscription", "IntakeFromControlPlane"} & set(resources)


def item_constants() -> dict:
    return dict(re.findall(r'const (\w+): &str = "([^"]*)";', (DYNAMODB / "item.rs").read_text()))


def schema_in_code() -> dict:
    """What tables.rs makes for tests and local stacks."""
    names = item_constants()
    source = (DYNAMODB / "tables.rs").read_text()
    state, audit = source.split("let audit = ")
    kinds = {"text.clone()": "S", "ScalarAttributeType::S": "S", "ScalarAttributeType::N": "N"}
    attributes = lambda text: {names[name]: kinds[kind] for name, kind in re.findall(r"attribute\(item::(\w+), ([\w:.()]+?)\)\?", text)}
    indexes = {
        names[index]: ([names[partition], names[sort]], [names[key] for key in re.findall(r"non_key_attributes\(item::(\w+)\)", rest)])
        for index, partition, sort, rest in re.findall(
            r"index\(\s*item::(\w+),\s*\[item::(\w+), item::(\w+)\],(.*?)\)\?\)", state, re.DOTALL
        )
    }
    (expiry,) = re.findall(r"attribute_name\(item::(\w+)\)", state)
    keys = [names[name] for name in re.search(r"set_key_schema\(Some\(schema\(\[item::(\w+), item::(\w+)\]\)", source).groups()]
    return {
        "StateTable": {"attributes": attributes(state), "keys": keys, "indexes": indexes, "expiry": names[expiry]},
        "AuditTable": {"attributes": attributes(audit.split("let named")[0]), "keys": keys, "indexes": {}, "expiry": None},
    }


@pytest.mark.parametrize("table", ["StateTable", "AuditTable"])
def test_a_table_is_as_the_store_makes_it(table):
    properties = deployed()["Resources"][table]["Properties"]
    keys = lambda schema: [element["AttributeName"] for element in schema]
    found = {
        "attributes": {one["AttributeName"]: one["AttributeType"] for one in properties["AttributeDefinitions"]},
        "keys": keys(properties["KeySchema"]),
        "indexes": {
            index["IndexName"]: (keys(index["KeySchema"]), index["Projection"].get("NonKeyAttributes", []))
            for index in properties.get("GlobalSecondaryIndexes", [])
        },
        "expiry": properties.get("TimeToLiveSpecification", {}).get("AttributeName"),
    }
    assert found == schema_in_code()[table]
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert properties["SSESpecification"]["SSEEnabled"] is True
    assert properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True


def test_the_trail_outlives_its_stack_and_never_expires():
    table = deployed()["Resources"]["AuditTable"]
    assert table["DeletionPolicy"] == table["UpdateReplacePolicy"] == "Retain"
    assert table["Properties"]["DeletionProtectionEnabled"] is True
    assert "TimeToLiveSpecification" not in table["Properties"]


@pytest.mark.parametrize("function", ["Intake", "Repair", "Audit", "Drain"])
def test_a_function_has_the_environment_that_its_main_reads(function):
    environment = (FUNCTIONS / "adapters" / "src" / "config" / "environment.rs").read_text()
    names = dict(re.findall(r'pub const (\w+): &str = "(NODEMEND_\w+)";', environment))
    main = (FUNCTIONS / function.lower() / "src" / "main.rs").read_text()
    read = {names["STATE_TABLE"], names["AUDIT_TABLE"]} if "Tables::of(" in main else set()
    read |= {names["REPAIR_ROLE"]} if ".repairer(" in main else set()
    if ".members(" in main:
        # Who makes the calls itself needs no other name for who makes them.
        read |= {names["MEMBER_ROLE"]} | ({names["REPAIR_MEMBER_ROLE"]} if ".repairer(" in main else set())
    read |= {names["EVENT_BUS"]} if ".event_bus(" in main else set()
    drain = {names["CLUSTER"], names["DRAIN_HOOK"], names["DRAIN_MINUTES"]}
    read |= drain if ".drain()" in main else set()
    resources = deployed()["Resources"]
    found = resources[f"{function}Function"]["Properties"]["Environment"]["Variables"]
    assert set(found) == read
    assert found["NODEMEND_STATE_TABLE"] == "StateTable"
    assert found.get("NODEMEND_REPAIR_ROLE", "arn:aws:iam::111122223333:role/RepairRole").endswith(":role/RepairRole")


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
@pytest.mark.parametrize("function", ["Intake", "Repair", "Audit", "Drain"])
def test_a_function_is_built_from_its_crate_for_either_processor(function, architecture):
    properties = deployed(Architecture=architecture)["Resources"][f"{function}Function"]["Properties"]
    assert properties["Architectures"] == [architecture]
    assert properties["Runtime"] == "provided.al2023"
    metadata = written()["Resources"][f"{function}Function"]["Metadata"]
    assert metadata["BuildMethod"] == "rust-cargolambda"
    manifest = (FUNCTIONS / function.lower() / "Cargo.toml").read_text()
    assert f'name = "{metadata["BuildProperties"]["Binary"]}"\npath = "src/main.rs"' in manifest


def seconds(name: str, file: str) -> int:
    return int(re.search(rf"const {name}: \w+ = \w+::from_secs\((\d+)\);", (FUNCTIONS / file).read_text())[1])


def test_a_sweep_that_begins_late_has_time_for_its_calls_and_no_more_than_its_lease():
    timeout = deployed()["Resources"]["RepairFunction"]["Properties"]["Timeout"]
    waits, call = seconds("TURN", "repair/src/main.rs"), seconds("PATIENCE", "adapters/src/cloud/aws.rs")
    console = seconds("CONSOLE_TIMEOUT", "adapters/src/cloud/aws/instance.rs")
    one_read = seconds("OPERATION_TIMEOUT", "adapters/src/aws.rs")
    # What is still being told when it ends: the time to tell, and a put that began in it. Were all as slow as they may be,
    # some would not be told; the call is made and written down by then.
    tells = seconds("TIME_TO_TELL", "repair/src/main.rs") + seconds("PATIENCE", "adapters/src/notify/eventbridge.rs")
    assert timeout >= waits + max(call + console + 3 * one_read, tells)
    assert timeout <= seconds("LEASE", "domain/src/repair.rs")


def test_at_most_two_sweeps_run_at_once():
    function = lambda **given: deployed(**given)["Resources"]["RepairFunction"]["Properties"]
    assert function()["ReservedConcurrentExecutions"] == 2
    assert "ReservedConcurrentExecutions" not in function(ReserveConcurrency="disabled")
    rule = deployed()["Resources"]["EveryMinute"]["Properties"]
    assert rule["ScheduleExpression"] == "rate(1 minute)" and rule["State"] == "ENABLED"


# ---- what audit hears


def patterns(target: str = "audit") -> list:
    """What a function is told of."""
    rules = [rule["Properties"] for rule in of_type(deployed()["Resources"], "AWS::Events::Rule").values()]
    return [rule["EventPattern"] for rule in rules if "EventPattern" in rule and rule["Targets"][0]["Id"] == target]


def matches(pattern, event) -> bool:
    """EventBridge's exact matching, which is all that our rules use."""
    return all(
        matches(wanted, event.get(key, {})) if isinstance(wanted, dict) else event.get(key) in wanted
        for key, wanted in pattern.items()
    )


def test_audit_hears_of_every_kind_of_event_that_it_reads_and_of_no_other():
    source = (FUNCTIONS / "audit" / "src" / "event.rs").read_text()
    arms = source.split("match detail_type.as_str()")[1].split("#[cfg(test)]")[0]
    read = set(re.findall(r'^\s*\|?\s*"((?:AWS|EC2) [^"]+)"', arms, re.M))
    states = set(re.findall(r'"(shutting-down|terminated|stopping|stopped|pending|running)"', arms))
    heard = {kind for pattern in patterns() for kind in pattern["detail-type"]}
    assert heard == read
    assert {state for pattern in patterns() for state in pattern.get("detail", {}).get("state", [])} == states


def test_audit_hears_of_the_calls_that_end_a_node_or_are_ours():
    source = (FUNCTIONS / "domain" / "src" / "trail" / "event.rs").read_text()
    ours = (FUNCTIONS / "domain" / "src" / "trail" / "call.rs").read_text()
    (calls,) = [pattern for pattern in patterns() if pattern["detail-type"] == ["AWS API Call via CloudTrail"]]
    ends = source.split("pub fn is_termination")[1].split("\n    }")[0]
    wanted = set(re.findall(r'"([A-Z]\w+)"', ends)) | set(re.findall(r'"((?:Terminate|Reboot)\w+)"', ours))
    assert set(calls["detail"]["eventName"]) == wanted
    assert set(calls["detail"]["eventSource"]) == set(re.findall(r'"(\w+\.amazonaws\.com)"', ends))


def captured() -> dict:
    """Events as EventBridge carries them, by the names of their files; the other files there are lines of a log."""
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
def test_captured_events_reach_audit(name):
    event = captured()[name]
    goes = event["detail"].get("state", "terminated") in ("shutting-down", "terminated")
    assert any(matches(pattern, event) for pattern in patterns()) == goes


def test_every_rule_may_invoke_its_function_and_leaves_what_it_can_not_deliver():
    resources = deployed()["Resources"]
    allowed = {
        (permission["Properties"]["FunctionName"], permission["Properties"]["SourceArn"])
        for permission in of_type(resources, "AWS::Lambda::Permission").values()
    }
    statements = resources["DeadLetterPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    takes = {one["Resource"]: one["Condition"]["ArnEquals"]["aws:SourceArn"] for one in statements if one["Effect"] == "Allow"}
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        arn = f"arn:aws:events:eu-west-1:111122223333:rule/{name}"
        (target,) = rule["Properties"]["Targets"]
        assert (target["Arn"].rsplit(":", 1)[1], arn) in allowed
        if "DeadLetterConfig" in target:
            assert target["DeadLetterConfig"]["Arn"].endswith(f":{target['Id'].capitalize()}DeadLetters")
            assert arn in takes[target["DeadLetterConfig"]["Arn"]]
        else:
            assert target["Id"] == "repair"


def test_functions_that_lose_their_event_when_they_fail_leave_it_in_a_queue():
    resources = deployed()["Resources"]
    for name in ("Intake", "Audit", "Drain"):
        target = resources[f"{name}Function"]["Properties"]["DeadLetterConfig"]["TargetArn"]
        queue = "IntakeRetries" if name == "Intake" else f"{name}DeadLetters"
        assert target == f"arn:aws:sqs:eu-west-1:111122223333:{queue}"
        assert resources[f"{name}DeadLetters"]["Properties"]["MessageRetentionPeriod"] == 14 * 24 * 3600


def test_what_intake_gave_up_comes_again_and_is_known_before_a_grace_is_over():
    resources = deployed()["Resources"]
    queue = resources["IntakeRetries"]["Properties"]
    mapping = resources["IntakeAgain"]["Properties"]
    assert mapping["EventSourceArn"].endswith(":IntakeRetries")
    # The function answers with what it could not take in; without this Lambda would take that for success.
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    # Lambda's own advice; and twice at least within the grace of a node that is not ready.
    assert queue["VisibilityTimeout"] == 6 * resources["IntakeFunction"]["Properties"]["Timeout"] <= 30 * 60 / 2
    redrive = queue["RedrivePolicy"]
    assert redrive["deadLetterTargetArn"].endswith(":IntakeDeadLetters")
    # An hour of outage loses nothing; then a person is told.
    assert redrive["maxReceiveCount"] * queue["VisibilityTimeout"] >= 3600


# ---- what drain hears, and how long it may take


def test_drain_hears_of_terminations_that_its_own_hooks_hold_and_of_nothing_else():
    source = (FUNCTIONS / "drain" / "src" / "event.rs").read_text()
    (pattern,) = patterns("drain")
    (kind,) = pattern["detail-type"]
    assert f'detail_type != "{kind}"' in source
    held = {"source": "aws.autoscaling", "detail-type": kind, "detail": {"LifecycleHookName": "nodemend-drain"}}
    assert matches(pattern, held)
    # EKS holds terminations of its managed groups with a hook of its own, and drains there itself.
    assert not matches(pattern, {**held, "detail": {"LifecycleHookName": "Terminate-LC-Hook"}})
    environment = deployed()["Resources"]["DrainFunction"]["Properties"]["Environment"]["Variables"]
    assert [environment["NODEMEND_DRAIN_HOOK"]] == pattern["detail"]["LifecycleHookName"]


def test_the_longest_drain_and_its_completion_fit_into_an_invocation():
    most = written()["Parameters"]["DrainMinutes"]["MaxValue"]
    environment = (FUNCTIONS / "adapters" / "src" / "config" / "environment.rs").read_text()
    assert f"const MAX_DRAIN_MINUTES: i64 = {most};" in environment
    timeout = deployed()["Resources"]["DrainFunction"]["Properties"]["Timeout"]
    tries = int(re.search(r"const COMPLETIONS: u32 = (\d+);", (FUNCTIONS / "drain" / "src" / "lib.rs").read_text())[1])
    pause, one_call = seconds("FIRST_PAUSE", "drain/src/lib.rs"), seconds("OPERATION_TIMEOUT", "adapters/src/aws.rs")
    last_request = seconds("REQUEST_TIMEOUT", "adapters/src/kubernetes/client.rs")
    assert timeout >= most * 60 + last_request + tries * one_call + pause * (2 ** (tries - 1) - 1)
    # A hook's time is 30 s at least: one heartbeat may fail.
    assert seconds("HEARTBEAT", "drain/src/lib.rs") <= 15


# ---- who is told


def test_who_is_told_of_nothing_needs_no_permission_to_tell():
    for name in ("IntakeRole", "RepairRole", "AuditRole"):
        document = deployed(EventBus="")["Resources"][name]["Properties"]["Policies"][0]["PolicyDocument"]
        assert not [one for one in document["Statement"] if "events:PutEvents" in one["Action"]]


def test_the_events_are_of_the_source_that_the_roles_may_put():
    source = (FUNCTIONS / "adapters" / "src" / "notify.rs").read_text()
    assert constant("SOURCE", source) == "nodemend"


COMMAND = ROOT / "target" / "debug" / "nodemend"


@pytest.mark.skipif(not COMMAND.is_file(), reason="the command is not built: cargo build")
def test_the_policy_of_a_new_installation_decides_everything_and_calls_nothing():
    told = subprocess.run([COMMAND, "policy", "check", ROOT / "infra" / "policy.yaml"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    (_, every_group) = told.stdout.splitlines()
    assert re.match(r"every group +observe +enabled ", every_group)
