"""Evaluates infra/template.yaml as CloudFormation would: with SAM's transform applied and the parameters filled in."""

import json
import os
import re
from functools import cache
from pathlib import Path

from samcli.yamlhelper import yaml_parse
from samtranslator.translator.transform import transform

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "infra" / "template.yaml"
PARTITION, REGION, ACCOUNT, CLUSTER = "aws", "eu-west-1", "111122223333", "prod"
# SAM reads the region from its environment, and calls no AWS service.
os.environ["AWS_DEFAULT_REGION"] = REGION
PSEUDO = {
    "AWS::Partition": PARTITION,
    "AWS::Region": REGION,
    "AWS::AccountId": ACCOUNT,
    "AWS::StackName": "nodemend-prod",
    "AWS::NoValue": None,
}


@cache
def _written() -> str:
    return json.dumps(yaml_parse(TEMPLATE.read_text()))


def written() -> dict:
    """The template as it is written; a new copy for each caller."""
    return json.loads(_written())


@cache
def _synthesized() -> str:
    template = written()
    # SAM does the same when it validates: `sam deploy` uploads the code to a bucket.
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    return json.dumps(transform(template, {"ClusterName": CLUSTER}, None))


def synthesized() -> dict:
    """The template after SAM's transform: without SAM's own resource types."""
    return json.loads(_synthesized())


def parameters(**given: str) -> dict:
    defaults = {name: p["Default"] for name, p in written()["Parameters"].items() if "Default" in p}
    return {"ClusterName": CLUSTER, **defaults, **given}


def deployed(**given: str) -> dict:
    """Resources and outputs, with everything filled in that is known before a deployment."""
    template = synthesized()
    return Resolver(template, parameters(**given)).resolve()


class Resolver:
    """Evaluates the intrinsic functions that the template uses, and no others."""

    def __init__(self, template: dict, given: dict, imported: dict | None = None):
        self.template, self.given, self.imported = template, given, imported or {}
        self.conditions = {}
        for name in template.get("Conditions", {}):
            self.condition(name)

    def condition(self, name):
        if name not in self.conditions:
            self.conditions[name] = self.value(self.template["Conditions"][name])
        return self.conditions[name]

    def resolve(self) -> dict:
        resources = {
            name: self.value({key: value for key, value in resource.items() if key != "Condition"})
            for name, resource in self.template["Resources"].items()
            if self.conditions.get(resource.get("Condition"), True)
        }
        outputs = {
            name: self.value(output)
            for name, output in self.template["Outputs"].items()
            if self.conditions.get(output.get("Condition"), True)
        }
        return {"Resources": resources, "Outputs": outputs}

    def value(self, node):
        if isinstance(node, list):
            return [value for value in map(self.value, node) if value is not None]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((function, argument),) = node.items()
            if function == "Ref" or function.startswith("Fn::") or function == "Condition" and isinstance(argument, str):
                return self.call(function, argument)
        return {key: value for key, value in ((k, self.value(v)) for k, v in node.items()) if value is not None}

    def call(self, function, argument):
        match function:
            case "Ref":
                return self.ref(argument)
            case "Fn::GetAtt":
                return self.attribute(*(argument.split(".", 1) if isinstance(argument, str) else argument))
            case "Fn::Sub":
                return re.sub(r"\$\{([^!}][^}]*)\}", lambda found: self.name(found[1]), argument)
            case "Fn::If":
                condition, then, otherwise = argument
                return self.value(then if self.conditions[condition] else otherwise)
            case "Fn::Equals":
                left, right = map(self.value, argument)
                return left == right
            case "Fn::Not":
                return not self.value(argument[0])
            case "Fn::And":
                return all(self.value(one) for one in argument)
            case "Fn::Or":
                return any(self.value(one) for one in argument)
            case "Condition":
                return self.condition(argument)
            case "Fn::Split":
                delimiter, text = map(self.value, argument)
                return text.split(delimiter)
            case "Fn::Select":
                index, values = argument[0], self.value(argument[1])
                return values[int(index)]
            case "Fn::ImportValue":
                return self.imported[self.value(argument)]
            case _:
                raise ValueError(f"{function} is not supported here")

    def name(self, name):
        return str(self.attribute(*name.split(".", 1)) if "." in name else self.ref(name))

    def ref(self, name):
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self.given:
            return self.given[name]
        resource = self.template["Resources"][name]
        match resource["Type"]:
            case "AWS::Logs::LogGroup":
                return self.value(resource["Properties"].get("LogGroupName", f"/stack/{name}"))
            case "AWS::SNS::Topic" | "AWS::IAM::ManagedPolicy":
                return self.attribute(name, "Arn")
            case _:
                return name

    def attribute(self, name, attribute):
        if attribute != "Arn":
            return f"{name}.{attribute}"
        scope = f"{REGION}:{ACCOUNT}"
        match self.template["Resources"][name]["Type"]:
            case "AWS::DynamoDB::Table":
                return f"arn:{PARTITION}:dynamodb:{scope}:table/{name}"
            case "AWS::Logs::LogGroup":
                return f"arn:{PARTITION}:logs:{scope}:log-group:{self.ref(name)}:*"
            case "AWS::IAM::Role":
                return f"arn:{PARTITION}:iam::{ACCOUNT}:role/{name}"
            case "AWS::IAM::ManagedPolicy":
                return f"arn:{PARTITION}:iam::{ACCOUNT}:policy/{name}"
            case "AWS::Lambda::Function":
                return f"arn:{PARTITION}:lambda:{scope}:function:{name}"
            case "AWS::SQS::Queue":
                return f"arn:{PARTITION}:sqs:{scope}:{name}"
            case "AWS::SNS::Topic":
                return f"arn:{PARTITION}:sns:{scope}:{name}"
            case "AWS::Kinesis::Stream":
                return f"arn:{PARTITION}:kinesis:{scope}:stream/{name}"
            case "AWS::Logs::Destination":
                destination = self.value(self.template["Resources"][name]["Properties"]["DestinationName"])
                return f"arn:{PARTITION}:logs:{scope}:destination:{destination}"
            case "AWS::Events::Rule":
                return f"arn:{PARTITION}:events:{scope}:rule/{name}"
            case "AWS::CloudWatch::Alarm":
                return f"arn:{PARTITION}:cloudwatch:{scope}:alarm:{name}"
            case other:
                raise ValueError(f"the ARN of a {other} is not supported here")


def exports(outputs: dict) -> dict:
    """What other stacks can import, by name."""
    return {output["Export"]["Name"]: output["Value"] for output in outputs.values() if "Export" in output}


def beside(file: str, **given: str) -> dict:
    """One of the plain templates in the directory of template.yaml, deployed with the exports of template.yaml."""
    template = yaml_parse((TEMPLATE.parent / file).read_text())
    defaults = {name: p["Default"] for name, p in template["Parameters"].items() if "Default" in p}
    return Resolver(json.loads(json.dumps(template)), {**defaults, **given}, exports(deployed()["Outputs"])).resolve()


def of_type(resources: dict, kind: str) -> dict:
    return {name: resource for name, resource in resources.items() if resource["Type"] == kind}


def document(policy) -> dict:
    """A policy document, from either of its two forms."""
    return json.loads(policy) if isinstance(policy, str) else policy


def policies(resources: dict) -> dict:
    """The statements of each role, and of each managed policy that is attached to no role, by logical ID."""
    managed = {
        f"arn:{PARTITION}:iam::{ACCOUNT}:policy/{name}": (name, document(policy["Properties"]["PolicyDocument"])["Statement"])
        for name, policy in of_type(resources, "AWS::IAM::ManagedPolicy").items()
    }
    found, attached = {}, set()
    for name, role in of_type(resources, "AWS::IAM::Role").items():
        found[name] = []
        for policy in role["Properties"].get("Policies", []):
            found[name] += document(policy["PolicyDocument"])["Statement"]
        for arn in role["Properties"].get("ManagedPolicyArns", []):
            found[name] += managed[arn][1]
            attached.add(arn)
    return found | {name: statements for arn, (name, statements) in managed.items() if arn not in attached}


def listed(value) -> list:
    return value if isinstance(value, list) else [value]
