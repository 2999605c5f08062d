"""The functions that call the Kubernetes API run in a VPC if the template is given one. The others never do."""

import re

import pytest

from iam import Request, allows
from template import ACCOUNT, PARTITION, REGION, ROOT, Resolver, deployed, listed, of_type, parameters, policies, synthesized, written

GIVEN = {"VpcSubnetIds": "subnet-0a1b,subnet-2c3d", "VpcSecurityGroupIds": "sg-4e5f"}
IN_VPC = ["Drain", "Reconcile", "Repair"]
CONNECTS = ["CreateNetworkInterface", "DeleteNetworkInterface", "DescribeNetworkInterfaces", "DescribeSubnets"]


def functions(**given) -> dict:
    return of_type(deployed(**given)["Resources"], "AWS::Lambda::Function")


def test_without_parameters_no_function_runs_in_a_vpc_and_no_role_may_connect_one():
    assert not [name for name, function in functions().items() if "VpcConfig" in function["Properties"]]
    for name, statements in policies(deployed()["Resources"]).items():
        for action in CONNECTS:
            assert not allows(statements, Request(f"ec2:{action}", "*")), name


def test_the_functions_that_call_the_kubernetes_api_run_in_the_vpc_and_the_others_do_not():
    found = {name: one["Properties"]["VpcConfig"] for name, one in functions(**GIVEN).items() if "VpcConfig" in one["Properties"]}
    assert sorted(found) == [f"{name}Function" for name in IN_VPC]
    for config in found.values():
        assert config == {"SubnetIds": ["subnet-0a1b", "subnet-2c3d"], "SecurityGroupIds": ["sg-4e5f"]}


@pytest.mark.parametrize("action", CONNECTS)
def test_lambda_may_connect_them_and_their_code_may_not(action):
    code = f"arn:{PARTITION}:lambda:{REGION}:{ACCOUNT}:function:nodemend-prod-RepairFunction-1"
    roles = policies(deployed(**GIVEN)["Resources"])
    for role, statements in roles.items():
        assert allows(statements, Request(f"ec2:{action}", "*")) == (role.removesuffix("Role") in IN_VPC), role
        assert not allows(statements, Request(f"ec2:{action}", "*", {"lambda:SourceFunctionArn": code})), role
        # The code itself has the same permissions in EC2 as without a VPC.
        reads = Request("ec2:DescribeInstances", "*", {"lambda:SourceFunctionArn": code})
        assert allows(statements, reads) == allows(policies(deployed()["Resources"])[role], reads), role


@pytest.mark.parametrize("parameter", GIVEN)
def test_a_list_of_ids_is_accepted_and_anything_else_refused(parameter):
    pattern = re.compile(written()["Parameters"][parameter]["AllowedPattern"])
    for text, accepted in [("", True), (GIVEN[parameter], True), (GIVEN[parameter] + ",", False), ("vpc-1", False), ("a b", False)]:
        assert bool(pattern.fullmatch(text)) == accepted, text


@pytest.mark.parametrize(
    ("names", "accepted"), [([], True), (["VpcSubnetIds"], False), (["VpcSecurityGroupIds"], False), (list(GIVEN), True)]
)
def test_subnets_and_security_groups_are_given_together(names, accepted):
    (rule,) = synthesized()["Rules"].values()
    (assertion,) = rule["Assertions"]
    resolver = Resolver(synthesized(), parameters(**{name: GIVEN[name] for name in names}))
    assert resolver.value(assertion["Assert"]) == accepted


def test_the_readme_lists_an_endpoint_for_each_service_that_these_functions_call():
    resources = deployed(**GIVEN, ClusterAccess="enabled")["Resources"]
    roles = policies(resources)
    actions = {action for name in IN_VPC for one in roles[f"{name}Role"] for action in listed(one["Action"])}
    # Lambda itself writes to the dead-letter queues. Each function calls sts:GetCallerIdentity, which needs no permission.
    services = {action.split(":")[0] for action in actions} - {"sqs"} | {"sts"}
    text = (ROOT / "infra" / "README.md").read_text()
    section = text.split("### A private endpoint")[1].split("\n## ")[0]
    assert set(re.findall(r"`com\.amazonaws\.<region>\.([a-z0-9-]+)`", section)) == services
