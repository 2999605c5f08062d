"""A further cluster, in this account or another: both stacks match the deployment and each other, and allow no more."""

import json
import os
import re
import shutil
import subprocess

import pytest

from iam import Request, allows
from template import ACCOUNT, PARTITION, REGION, ROOT, beside, deployed, document, exports, listed, of_type
from test_cdk import CDK, installed, run as run_in_cdk  # noqa: F401: a fixture
from observed import OTHER, OTHER_ACCOUNT
from scenario import REPLACED_IN_OTHER
from test_permissions import INSTANCE, sent
from test_template import run

INFRA = ROOT / "infra"
DEPLOYMENT = "nodemend-prod"
FILES = ["cluster.yaml", "member.yaml"]


def hub(account=""):
    return beside("cluster.yaml", DeploymentStack=DEPLOYMENT, ClusterName=OTHER, Account=account)


def member(deployment_account="999900001111", **given):
    lines = f"arn:{PARTITION}:logs:{REGION}:{deployment_account}:destination:nodemend-{OTHER}"
    given = {"LogDestinationArn": lines, **given}
    return beside("member.yaml", DeploymentStack=DEPLOYMENT, ClusterName=OTHER, DeploymentAccount=deployment_account, **given)


def statements_for(resources, role):
    """The statements that the policies of a stack add to a role of the deployment."""
    added = [
        policy["Properties"]
        for policy in of_type(resources, "AWS::IAM::ManagedPolicy").values()
        if role in policy["Properties"].get("Roles", [])
    ]
    return [statement for policy in added for statement in document(policy["PolicyDocument"])["Statement"]]


def of_role(resources, role):
    properties = resources[role]["Properties"]
    return [one for policy in properties["Policies"] for one in document(policy["PolicyDocument"])["Statement"]]


def keyed(action, table, key):
    arn = f"arn:{PARTITION}:dynamodb:{REGION}:{ACCOUNT}:table/{table}"
    return Request(f"dynamodb:{action}", arn, {"dynamodb:LeadingKeys": [key]})


@pytest.mark.parametrize("file", FILES)
def test_cfn_lint_finds_nothing(file):
    found = run("cfn-lint", INFRA / file)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("file", FILES)
def test_checkov_finds_only_what_is_explained(file, tmp_path):
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = ["checkov", "--file", INFRA / file, "--framework", "cloudformation", "--skip-download", "--output", "json", "--quiet"]
    results = json.loads(run(*command, env=environment).stdout)
    assert [(check["resource"], check["check_id"]) for check in results["results"]["failed_checks"]] == []
    assert results["summary"]["passed"] > 5


def test_the_deployment_exports_what_the_stack_of_a_cluster_imports():
    text = (INFRA / "cluster.yaml").read_text()
    wanted = {name.replace("${DeploymentStack}", DEPLOYMENT) for name in re.findall(r'"Fn::Sub": "([^"]+)"', text)}
    assert wanted == set(exports(deployed()["Outputs"]))


@pytest.mark.parametrize("filter_", ["NodesSubscription", "ControlPlaneSubscription"])
def test_the_filters_are_those_of_the_deployment(filter_):
    pattern = member()["Resources"][filter_]["Properties"]["FilterPattern"]
    assert pattern == deployed()["Resources"][filter_]["Properties"]["FilterPattern"]


@pytest.mark.parametrize(
    "rule", ["ApiCalls", "GroupEvents", "InstanceStates", "SpotInterruptions", "SpotNotices", "HealthNotices"]
)
def test_the_rules_are_those_of_the_deployment_and_forward_to_it(rule):
    properties = member()["Resources"][rule]["Properties"]
    assert properties["EventPattern"] == deployed()["Resources"][rule]["Properties"]["EventPattern"]
    (target,) = properties["Targets"]
    assert target["Arn"] == f"arn:{PARTITION}:events:{REGION}:999900001111:event-bus/default"
    assert target["RoleArn"].endswith("/ForwardRole")


def test_the_roles_have_the_names_that_the_functions_use():
    functions = deployed()["Resources"]
    names = {role: member()["Resources"][role]["Properties"]["RoleName"] for role in ("RepairRole", "ReconcileRole", "ConfirmRole")}
    environment = functions["ReconcileFunction"]["Properties"]["Environment"]["Variables"]
    assert environment["NODEMEND_MEMBER_ROLE"] == names["ReconcileRole"]
    environment = functions["RepairFunction"]["Properties"]["Environment"]["Variables"]
    assert environment["NODEMEND_MEMBER_ROLE"] == names["RepairRole"]
    environment = functions["ConfirmFunction"]["Properties"]["Environment"]["Variables"]
    assert environment["NODEMEND_MEMBER_ROLE"] == names["ConfirmRole"]
    assert environment["NODEMEND_REPAIR_MEMBER_ROLE"] == names["RepairRole"]


@pytest.mark.parametrize("program", ["repair", "reconcile", "confirm"])
def test_a_function_assumes_the_role_that_the_member_stack_creates(program, observed):
    name = member()["Resources"][f"{program.title()}Role"]["Properties"]["RoleName"]
    assumed = {one.request.resource for one in sent(observed, program) if one.operation == "sts:AssumeRole"}
    assert assumed == {f"arn:{PARTITION}:iam::{OTHER_ACCOUNT}:role/{name}"}


def test_our_calls_in_the_member_account_are_known_by_the_repair_functions_role(observed):
    name = member()["Resources"]["RepairRole"]["Properties"]["RoleName"]
    (confirmed,) = [line for line in observed.logs["confirm"] if line.get("step") == "confirmed" and line["cluster"] == OTHER]
    caller = observed.call_of(REPLACED_IN_OTHER)["userIdentity"]["arn"]
    assert f":assumed-role/{name}/" in caller


@pytest.mark.parametrize("role", ["RepairRole", "ReconcileRole", "ConfirmRole"])
def test_only_the_deployments_own_functions_may_assume_the_roles(role):
    (trust,) = document(member()["Resources"][role]["Properties"]["AssumeRolePolicyDocument"])["Statement"]
    assert trust["Principal"] == {"AWS": f"arn:{PARTITION}:iam::999900001111:root"}
    (wanted,) = trust["Condition"].values()
    assert wanted == {"aws:PrincipalArn": f"arn:{PARTITION}:iam::999900001111:role/{DEPLOYMENT}-{role}-*"}
    granted = statements_for(hub(OTHER_ACCOUNT)["Resources"], role)
    for name, allowed in ((role, True), ("RepairRole" if role == "ConfirmRole" else "ConfirmRole", False)):
        arn = f"arn:{PARTITION}:iam::{OTHER_ACCOUNT}:role/{member()['Resources'][name]['Properties']['RoleName']}"
        assert allows(granted, Request("sts:AssumeRole", arn)) == allowed
    assert not allows(granted, Request("sts:AssumeRole", f"arn:{PARTITION}:iam::{ACCOUNT}:role/Admin"))


def moved(request, tag=True):
    """The same request about the other cluster."""
    resource = request.resource.replace("cluster/prod", f"cluster/{OTHER}").replace("nodegroup/prod", f"nodegroup/{OTHER}")
    context = {key.replace("/prod", f"/{OTHER}") if tag else key: value for key, value in request.context.items()}
    return Request(request.action, resource, context)


@pytest.mark.parametrize("program", ["repair", "reconcile", "confirm"])
def test_in_the_member_account_each_function_may_make_the_requests_that_it_made_and_no_others(program, observed):
    statements = of_role(member()["Resources"], f"{program.title()}Role")
    requested = [one.request for one in sent(observed, program, OTHER_ACCOUNT)]
    assert {str(request) for request in requested if not allows(statements, request)} == set()
    allowed = {action for one in statements for action in listed(one["Action"])}
    assert allowed == {request.action for request in requested}
    # A request that a tag limits is limited to the tag of the cluster.
    for request in requested:
        if request.context:
            owner = f"kubernetes.io/cluster/{OTHER}"
            others = {key.replace(owner, "kubernetes.io/cluster/prod"): value for key, value in request.context.items()}
            assert not allows(statements, Request(request.action, request.resource, others)), "another cluster's groups"
            assert not allows(statements, Request(request.action, request.resource))


@pytest.mark.parametrize("account", ["", OTHER_ACCOUNT])
@pytest.mark.parametrize("role", ["IntakeRole", "RepairRole", "ReconcileRole", "ConfirmRole"])
def test_in_the_deployments_account_each_function_may_write_for_the_other_cluster_what_it_writes_for_its_own(role, account):
    statements = statements_for(hub(account)["Resources"], role)
    case, group, decided = f"case#{OTHER}#{INSTANCE}", f"group#{OTHER}#workers", f"cluster#{OTHER}"
    assert allows(statements, keyed("PutItem", "StateTable", case))
    assert allows(statements, keyed("PutItem", "StateTable", f"node#{OTHER}#ip-1"))
    assert allows(statements, keyed("PutItem", "StateTable", group)) == (role in ("RepairRole", "ConfirmRole"))
    assert allows(statements, keyed("PutItem", "AuditLogTable", case)) == (role not in ("IntakeRole", "ReconcileRole"))
    assert allows(statements, keyed("PutItem", "StateTable", f"sources#{OTHER}")) == (role == "ReconcileRole")
    assert not allows(statements, keyed("PutItem", "StateTable", decided))
    assert not allows(statements, keyed("PutItem", "StateTable", "case#third#i-1"))
    assert not allows(statements, keyed("UpdateItem", "AuditLogTable", case))
    assert not allows(statements, keyed("DeleteItem", "AuditLogTable", case))


def test_an_operator_of_the_other_cluster_sets_its_policies_and_holds_and_no_others():
    policy = hub()["Resources"]["OperatorPolicy"]["Properties"]
    statements = document(policy["PolicyDocument"])["Statement"]
    for action in ("PutItem", "DeleteItem"):
        assert allows(statements, keyed(action, "StateTable", f"cluster#{OTHER}"))
        assert not allows(statements, keyed(action, "StateTable", "cluster#prod"))
        assert not allows(statements, keyed(action, "StateTable", f"group#{OTHER}#workers"))
    assert not allows(statements, keyed("DeleteItem", "StateTable", f"case#{OTHER}#{INSTANCE}"))


def test_the_repair_role_allows_calls_for_a_further_cluster_of_its_own_account_only(observed):
    tagged = [one.request for one in sent(observed, "repair") if any("ResourceTag/" in key for key in one.request.context)]
    assert {request.action for request in tagged} > {"ec2:RebootInstances"}
    for account, allowed in (("", True), (OTHER_ACCOUNT, False)):
        statements = statements_for(hub(account)["Resources"], "RepairRole")
        for request in tagged:
            assert allows(statements, moved(request)) == allowed
            assert not allows(statements, moved(request, tag=False))


@pytest.mark.parametrize("function", ["Repair", "Reconcile"])
def test_a_cluster_has_an_access_entry_in_the_stack_of_its_account(function):
    def entry(resources):
        return resources.get(f"{function}AccessEntry", {}).get("Properties")

    given = {"DeploymentStack": DEPLOYMENT, "ClusterName": OTHER, "ClusterAccess": "enabled"}
    in_hub = entry(beside("cluster.yaml", Account="", **given)["Resources"])
    in_member = entry(member(ClusterAccess="enabled")["Resources"])
    first = deployed(ClusterAccess="enabled")["Resources"]
    assert in_hub == {**entry(first), "ClusterName": OTHER}
    assert in_member == {**in_hub, "PrincipalArn": f"arn:{PARTITION}:iam::{ACCOUNT}:role/{function}Role"}
    # The stack of the other account has none, and without ClusterAccess there is none.
    assert entry(beside("cluster.yaml", Account=OTHER_ACCOUNT, **given)["Resources"]) is None
    assert entry(member(ACCOUNT, ClusterAccess="enabled", LogDestinationArn="arn:aws:lambda:x:x:function:x")["Resources"]) is None
    assert entry(hub()["Resources"]) is None and entry(member()["Resources"]) is None


@pytest.mark.parametrize("account", ["", OTHER_ACCOUNT])
def test_reconcile_runs_for_the_cluster_and_reads_it_with_the_role_of_its_account(account):
    resources = hub(account)["Resources"]
    (target,) = resources["EveryFiveMinutes"]["Properties"]["Targets"]
    assert json.loads(target["Input"]) == {"cluster": OTHER, "controlPlaneLogs": "enabled"}
    assert target["Arn"] == deployed()["Resources"]["EveryFiveMinutes"]["Properties"]["Targets"][0]["Arn"]
    permission = resources["ReconcileEveryFiveMinutes"]["Properties"]
    assert (permission["FunctionName"], permission["SourceArn"].rsplit("/", 1)[1]) == (target["Arn"], "EveryFiveMinutes")
    arn = f"arn:{PARTITION}:logs:{REGION}:{ACCOUNT}:log-group:/aws/eks/{OTHER}/cluster:*"
    assert allows(statements_for(resources, "ReconcileRole"), Request("logs:FilterLogEvents", arn)) == (account == "")


def test_lines_of_another_account_come_through_a_stream_for_that_account_only():
    resources = hub(OTHER_ACCOUNT)["Resources"]
    destination = resources["LogDestination"]["Properties"]
    (statement,) = document(destination["DestinationPolicy"])["Statement"]
    assert statement["Principal"] == {"AWS": OTHER_ACCOUNT} and statement["Action"] == "logs:PutSubscriptionFilter"
    arn = hub(OTHER_ACCOUNT)["Outputs"]["LogDestinationArn"]["Value"]
    assert statement["Resource"] == arn == f"arn:{PARTITION}:logs:{REGION}:{ACCOUNT}:destination:nodemend-{OTHER}"
    mapping = resources["IntakeFromStream"]["Properties"]
    # The function returns the items that failed; without this setting Lambda would take the answer for success.
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    given_up = mapping["DestinationConfig"]["OnFailure"]["Destination"]
    assert given_up.endswith(":IntakeDeadLetterQueue")
    assert allows(statements_for(resources, "IntakeRole"), Request("kinesis:GetRecords", mapping["EventSourceArn"]))
    assert allows(statements_for(resources, "IntakeRole"), Request("sqs:SendMessage", given_up))


def test_in_the_same_account_there_is_no_stream_no_role_and_no_forwarding():
    arn = deployed()["Outputs"]["IntakeFunction"]["Value"]
    resources = member(ACCOUNT, LogDestinationArn=arn)["Resources"]
    assert not {"RepairRole", "ReconcileRole", "ConfirmRole", "ForwardRole", "ApiCalls"} & set(resources)
    assert resources["NodesSubscription"]["Properties"]["DestinationArn"] == arn
    assert resources["IntakeFromNodes"]["Properties"]["FunctionName"] == arn.split(":")[-1]
    assert "Lines" not in hub()["Resources"] and "LogDestinationArn" not in hub()["Outputs"]
    assert "IntakeFromNodes" not in member()["Resources"]


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed, and nodemend is built without it")
def test_the_constructs_synthesize_the_templates_and_have_no_unexplained_finding(installed, tmp_path):  # noqa: F811
    environment = {**os.environ, "CI": "true", "CDK_DISABLE_CLI_TELEMETRY": "true"}
    given = {"cluster": OTHER, "account": OTHER_ACCOUNT, "deploymentStack": DEPLOYMENT, "deploymentAccount": ACCOUNT}
    context = [argument for name, value in given.items() for argument in ("--context", f"{name}={value}")]
    run_in_cdk("npx", "cdk", "synth", "--quiet", "--all", "--app", "npx tsx bin/accounts.ts", "--output", tmp_path, *context, env=environment)
    for stack, file in ((f"{DEPLOYMENT}-{OTHER}", "cluster.yaml"), (f"nodemend-member-{OTHER}", "member.yaml")):
        made = json.loads((tmp_path / f"{stack}.template.json").read_text())["Resources"]
        names = {name for name, one in made.items() if one["Type"] != "AWS::CDK::Metadata"}
        assert names == set(re.findall(r"^  (\w+):\n    Type: AWS", (INFRA / file).read_text(), re.M))
    report = json.loads((tmp_path / "validation-report.json").read_text())
    plugins = {plugin["pluginName"]: plugin for plugin in report["pluginReports"]}
    assert "AwsSolutions" in plugins
    assert [violation["ruleName"] for plugin in plugins.values() for violation in plugin["violations"]] == []
    explained = sum(len(violation["violatingConstructs"]) for plugin in plugins.values() for violation in plugin["suppressedViolations"])
    source = (CDK / "lib" / "findings.ts").read_text()
    assert explained == source.split("const OF_CLUSTER")[1].count("\n  [")
