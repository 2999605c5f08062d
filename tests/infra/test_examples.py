"""The examples are sound, and say what the code says: which events there are, and what drain asks of Kubernetes."""

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
NOTIFY = (ROOT / "functions" / "adapters" / "src" / "notify.rs").read_text()
KINDS = dict(re.findall(r'Step::(\w+) => Some\("([^"]+)"\)', NOTIFY))
RULES = {
    name: one["Properties"]
    for name, one in yaml_parse((EXAMPLES / "notify.yaml").read_text())["Resources"].items()
    if one["Type"] == "AWS::Events::Rule"
}


def test_cfn_lint_finds_nothing_in_the_rules():
    command = [Path(sys.executable).parent / "cfn-lint", EXAMPLES / "notify.yaml"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", RULES)
def test_a_rule_hears_of_kinds_that_are_told(name):
    pattern = RULES[name]["EventPattern"]
    assert pattern["source"] == ["nodemend"]
    assert len(KINDS) == 10
    assert set(pattern.get("detail-type", [])) <= set(KINDS.values())


@pytest.mark.parametrize("name", RULES)
def test_a_rule_tells_fields_that_an_event_has(name):
    occurrence = (ROOT / "functions" / "domain" / "src" / "occurrence.rs").read_text()
    fields = set(re.findall(r"^    pub (\w+): ", occurrence, re.M))
    transformer = RULES[name]["Targets"][0]["InputTransformer"]
    for path in transformer["InputPathsMap"].values():
        assert path == "$.detail-type" or path.removeprefix("$.detail.") in fields
    template = transformer["InputTemplate"]
    template = template["Fn::Sub"].replace("${SlackChannel}", "C0123456789") if isinstance(template, dict) else template
    used = set(re.findall(r"<(\w+)>", template))
    assert used == set(transformer["InputPathsMap"])
    # As EventBridge fills it in: with quotes where the variable stands for itself, without inside a text.
    awkward = 'nvme0n1: "I/O error"'
    filled = re.sub(r'": <(\w+)>', lambda _: f'": {json.dumps(awkward)}', template)
    filled = re.sub(r"<(\w+)>", "x", filled)
    if name == "SlackMessages":
        message = json.loads(filled)
        assert message["channel"] == "C0123456789"
        assert message["blocks"][1]["text"]["text"] == awkward
    else:
        assert all(line.startswith('"') and line.endswith('"') for line in filled.strip().splitlines())


def test_the_readme_says_each_kind_of_event_and_its_step():
    text = (ROOT / "infra" / "README.md").read_text()
    table = text.split("<!-- events: held to the code by tests/infra -->")[1].split("<!-- end of events -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    steps = dict(re.findall(r'Self::(\w+) => "(\w+)"', (ROOT / "functions" / "domain" / "src" / "occurrence.rs").read_text()))
    assert [(kind, step) for kind, step, _ in rows] == [(kind, steps[step]) for step, kind in KINDS.items()]


# ---- what drain asks of Kubernetes

VERBS = {"POST": "create", "PATCH": "patch"}


def asked() -> set:
    """Resource and verb of every request that the code makes."""
    source = (ROOT / "functions" / "adapters" / "src" / "kubernetes" / "eks.rs").read_text()
    found = set()
    for body in re.split(r"\basync fn ", source.split("impl<K: Clock> Kubernetes for")[1])[1:]:
        methods, paths = set(re.findall(r"Method::(\w+)", body)), re.findall(r'"(/api[^"]+)"', body)
        assert len(methods) == len(paths) == 1, body
        (method,), (path,) = methods, paths
        path = path.split("?")[0].strip("/").split("/")[2:]
        path = path[2:] if path[0] == "namespaces" else path
        of_one = len(path) > 1
        resource = "/".join([path[0], *path[2:]])
        found.add((resource, VERBS.get(method) or ("get" if of_one else "list")))
    return found


def test_drain_may_do_in_the_cluster_what_it_asks_for_and_nothing_else():
    role, binding = yaml.safe_load_all((EXAMPLES / "drain-rbac.yaml").read_text())
    for one in (role, binding):
        kubernetes_validate.validate(one, "1.31", strict=True)
    allowed = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert allowed == asked() == {("nodes", "get"), ("nodes", "patch"), ("pods", "list"), ("pods/eviction", "create")}
    assert {group for rule in role["rules"] for group in rule["apiGroups"]} == {""}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["name"]) == ("Group", "nodemend-drain")
    assert f"--kubernetes-groups {subject['name']} " in (ROOT / "infra" / "README.md").read_text()
