"""The examples are valid and match the functions: the events that they publish, and the permissions that drain needs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from samcli.yamlhelper import yaml_parse

from template import ROOT

EXAMPLES = ROOT / "infra" / "examples"
RULES = {
    name: one["Properties"]
    for name, one in yaml_parse((EXAMPLES / "notify.yaml").read_text())["Resources"].items()
    if one["Type"] == "AWS::Events::Rule"
}


def test_cfn_lint_finds_nothing_in_the_rules():
    command = [Path(sys.executable).parent / "cfn-lint", EXAMPLES / "notify.yaml"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.fixture(scope="module")
def published(observed) -> dict:
    """The steps of the events that were published, by their detail-type."""
    return {event["DetailType"]: json.loads(event["Detail"])["step"] for event in observed.aws.events}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_matches_kinds_of_events_that_are_published(name, observed, published):
    pattern = RULES[name]["EventPattern"]
    assert pattern["source"] == ["nodemend"]
    assert {event["Source"] for event in observed.aws.events} == {"nodemend"}
    assert set(pattern.get("detail-type", [])) <= set(published)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_sends_fields_that_every_event_has(name, observed):
    details = [json.loads(event["Detail"]) for event in observed.aws.events]
    transformer = RULES[name]["Targets"][0]["InputTransformer"]
    for path in transformer["InputPathsMap"].values():
        assert path == "$.detail-type" or all(path.removeprefix("$.detail.") in detail for detail in details)
    template = transformer["InputTemplate"]
    template = template["Fn::Sub"].replace("${SlackChannel}", "C0123456789") if isinstance(template, dict) else template
    used = set(re.findall(r"<(\w+)>", template))
    assert used == set(transformer["InputPathsMap"])
    # As EventBridge fills it in: with quotes if the variable is a whole value, without quotes inside a string.
    awkward = 'nvme0n1: "I/O error"'
    filled = re.sub(r'": <(\w+)>', lambda _: f'": {json.dumps(awkward)}', template)
    filled = re.sub(r"<(\w+)>", "x", filled)
    if name == "SlackMessages":
        message = json.loads(filled)
        assert message["channel"] == "C0123456789"
        assert message["blocks"][1]["text"]["text"] == awkward
    else:
        assert all(line.startswith('"') and line.endswith('"') for line in filled.strip().splitlines())


def test_the_readme_lists_each_kind_of_event_and_its_step(published):
    text = (ROOT / "infra" / "README.md").read_text()
    table = text.split("<!-- events: held to the code by tests/infra -->")[1].split("<!-- end of events -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    assert {kind: step for kind, step, _ in rows} == published


# ---- the permissions of drain in Kubernetes

def test_drain_may_make_in_the_cluster_the_requests_that_it_makes_and_no_others(observed):
    role, binding = yaml.safe_load_all((EXAMPLES / "drain-rbac.yaml").read_text())
    for one in (role, binding):
        kubernetes_validate.validate(one, "1.31", strict=True)
    allowed = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert allowed == set(observed.api_server.requests)
    assert {group for rule in role["rules"] for group in rule["apiGroups"]} == {""}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["name"]) == ("Group", "nodemend-drain")
    assert f"--kubernetes-groups {subject['name']} " in (ROOT / "infra" / "README.md").read_text()
