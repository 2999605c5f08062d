"""The construct compiles, synthesizes exactly the template, and has no unexplained finding."""

import json
import os
import re
import shutil
import subprocess

import pytest

import programs
from programs import PROGRAMS
from template import ROOT, written

CDK = ROOT / "infra" / "cdk"
FUNCTIONS = {function: PROGRAMS[name] for name, function in programs.FUNCTIONS.items()}

pytestmark = pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed, and nodemend is built without it")


def run(*command, **how):
    done = subprocess.run(command, cwd=CDK, capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def installed():
    installed_lock, lock = CDK / "node_modules" / ".pins", CDK / "package-lock.json"
    if not installed_lock.is_file() or installed_lock.read_bytes() != lock.read_bytes():
        run("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
        shutil.copy(lock, installed_lock)


@pytest.fixture(scope="module")
def synthesized(installed, tmp_path_factory):
    functions, out = tmp_path_factory.mktemp("functions"), tmp_path_factory.mktemp("out")
    for name in FUNCTIONS.values():
        (functions / name).mkdir()
        (functions / name / "bootstrap").write_text(name)
    environment = {**os.environ, "CI": "true", "CDK_DISABLE_CLI_TELEMETRY": "true"}
    command = ["npx", "cdk", "synth", "--quiet", "--output", out, "--context", "cluster=test", "--context", f"functions={functions}"]
    run(*command, env=environment)
    return out


def test_it_compiles(installed):
    run("npx", "tsc", "--noEmit")


def test_what_it_uses_is_pinned():
    package = json.loads((CDK / "package.json").read_text())
    versions = {**package["dependencies"], **package["devDependencies"]}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values())
    assert versions["aws-cdk-lib"].startswith("2.") and versions["typescript"].startswith("5.")


def evaluated(source: str):
    """The JSON that a TypeScript program prints, which imports the constructs as ./lib/…"""
    return json.loads(run("npx", "tsx", "--eval", source).stdout)


def property_of(parameter: str) -> str:
    return parameter[0].lower() + parameter[1:]


def other_value(parameter: dict):
    """A property that is not the parameter's default, and the default that the construct must set for it."""
    match parameter:
        case {"AllowedValues": ["enabled", "disabled"], "Default": "disabled"}:
            return True, "enabled"
        case {"AllowedValues": ["enabled", "disabled"]}:
            return False, "disabled"
        case {"ConstraintDescription": text} if "separated by commas" in text:
            return ["one", "other"], "one,other"
        case {"Type": "Number", "Default": default}:
            return default + 1, default + 1
        case {"AllowedValues": values, "Default": default}:
            value = next(value for value in values if value != default)
            return value, value
        case _:
            return "other", "other"


def test_every_parameter_is_a_property_of_the_construct(tmp_path, installed):
    parameters = written()["Parameters"]
    values = {name: other_value(parameter) for name, parameter in parameters.items()}
    for binary in FUNCTIONS.values():
        (tmp_path / binary).mkdir()
        (tmp_path / binary / "bootstrap").touch()
    properties = {property_of(name): given for name, (given, _) in values.items()} | {"functions": str(tmp_path)}
    defaults = evaluated(f"""
        import {{ App, Stack }} from "aws-cdk-lib";
        import {{ NodeRepair }} from "./lib/node-repair";
        const stack = new Stack(new App(), "Stack");
        const {{ template }} = new NodeRepair(stack, "NodeRepair", {json.dumps(properties)});
        const parameters = {json.dumps(list(parameters))}.map((name) => [name, template.getParameter(name).default]);
        console.log(JSON.stringify(Object.fromEntries(parameters)));
    """)
    assert defaults == {name: expected for name, (_, expected) in values.items()}


def test_it_synthesizes_the_template_with_the_code(synthesized):
    template = json.loads((synthesized / "nodemend-test.template.json").read_text())
    expected = written()
    assert template["Parameters"].pop("ClusterName")["Default"] == "test"
    expected["Parameters"].pop("ClusterName")
    # CDK adds this parameter to every app.
    template["Parameters"].pop("BootstrapVersion")
    for name, parameter in template["Parameters"].items():
        assert parameter["Default"] == expected["Parameters"][name]["Default"], name
    assert template["Globals"] == expected["Globals"]
    assert template["Transform"] == expected["Transform"]
    resources = {name: one for name, one in template["Resources"].items() if one["Type"] != "AWS::CDK::Metadata"}
    for name, binary in FUNCTIONS.items():
        code = resources[name]["Properties"].pop("CodeUri")
        assert set(code) == {"Bucket", "Key"}
        assert expected["Resources"][name]["Metadata"]["BuildProperties"]["Binary"] == binary
    for one in [*resources.values(), *expected["Resources"].values()]:
        one.pop("Metadata", None)
    assert plain(resources) == plain(expected["Resources"])
    assert {name: output["Value"] for name, output in plain(template["Outputs"]).items()} == {
        name: output["Value"] for name, output in plain(expected["Outputs"]).items()
    }


def plain(node):
    """The same value in one notation: the two sides use different notations for some values."""
    if isinstance(node, list):
        return [plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    if len(node) == 1 and isinstance(node.get("Fn::GetAtt"), str):
        return {"Fn::GetAtt": node["Fn::GetAtt"].split(".", 1)}
    return {key: [plain(value)] if key == "DependsOn" and isinstance(value, str) else plain(value) for key, value in node.items()}


def test_every_finding_is_explained_and_every_explanation_is_needed(synthesized):
    report = json.loads((synthesized / "validation-report.json").read_text())
    plugins = {plugin["pluginName"]: plugin for plugin in report["pluginReports"]}
    assert "AwsSolutions" in plugins
    assert [violation for plugin in plugins.values() for violation in plugin["violations"]] == []
    found = {
        (construct["constructPath"].rsplit("/", 1)[1], violation["acknowledgedId"])
        for plugin in plugins.values()
        for violation in plugin["suppressedViolations"]
        for construct in violation["violatingConstructs"]
    }
    explained = evaluated("""
        import { FINDINGS } from "./lib/findings";
        console.log(JSON.stringify(FINDINGS));
    """)
    assert found == {(resource, finding) for resource, finding, _ in explained}
