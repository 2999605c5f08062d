"""The commands in the documents exist, with their options."""

import re
import shlex
import subprocess

import botocore.session
import pytest
from botocore import xform_name

from programs import PROGRAMS, built
from template import ROOT, synthesized

DOCUMENTS = [ROOT / "infra" / name for name in ("README.md", "RUNBOOK.md")] + sorted((ROOT / "docs").glob("*.md"))
# Global options of the AWS CLI.
GLOBAL = {"query", "output", "region", "profile", "max-items"}
# Commands of the AWS CLI that are not operations of a service.
OWN = {
    ("logs", "tail"): {"since", "filter-pattern", "follow"},
    ("cloudformation", "deploy"): {"stack-name", "template-file", "capabilities", "parameter-overrides"},
}


def blocks() -> list:
    return [block for file in DOCUMENTS for block in re.findall(r"```sh\n(.*?)```", file.read_text(), re.S)]


def simple_commands(line: str) -> list:
    """The commands of a line, each as a list of its arguments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|{}<>")
    lexer.whitespace_split = True
    found = [[]]
    for argument in lexer:
        if set(argument) <= set("();&|{}"):
            found.append([])
        else:
            found[-1].append(argument)
    return found


def commands(program: str) -> list:
    """Each call of a program in the documents, as a list of arguments. A $() is a command of its own, and one argument here."""
    found = []
    for block in blocks():
        text = re.sub(r"\\\n\s*", " ", block)
        inner = re.findall(r"\$\(([^()]*)\)", text)
        text = re.sub(r"\$\([^()]*\)", "X", text)
        for line in [*text.splitlines(), *inner]:
            for arguments in simple_commands(line):
                while arguments and re.match(r"^[A-Z_]+=", arguments[0]):
                    arguments.pop(0)
                if arguments and arguments[0] == program:
                    found.append(arguments[1:])
    return found


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.splitlines()[0][:40])
def test_a_shell_can_parse_it(block):
    read = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


@pytest.mark.parametrize("arguments", commands("aws"), ids=lambda arguments: " ".join(arguments[:2]))
def test_the_aws_cli_has_the_command_with_its_options(arguments):
    service, command, *rest = arguments
    options = {one.removeprefix("--").split("=")[0] for one in rest if one.startswith("--")} - GLOBAL
    if (service, command) in OWN:
        assert options <= OWN[service, command]
        return
    model = botocore.session.get_session().get_service_model(service)
    operations = {xform_name(name, "-"): name for name in model.operation_names}
    assert command in operations
    members = model.operation_model(operations[command]).input_shape.members
    known = {xform_name(name, "-") for name in members}
    switches = {f"no-{xform_name(name, '-')}" for name, shape in members.items() if shape.type_name == "boolean"}
    assert options <= known | switches


def help_of(arguments: list) -> str:
    """The help of a subcommand; empty if there is no such subcommand."""
    output = subprocess.run([built(PROGRAMS["operators"]), *arguments, "--help"], capture_output=True, text=True, timeout=30)
    return output.stdout if output.returncode == 0 else ""


@pytest.mark.parametrize("arguments", commands("nodemend"), ids=" ".join)
def test_nodemend_has_the_command_with_its_options(arguments):
    has_subcommand = arguments[0] in ("policy", "audit")
    text = help_of(arguments[: 1 + has_subcommand])
    assert text, arguments
    for option in [one for one in arguments if one.startswith("--")]:
        assert re.search(rf"{option}\b", text), option


def test_the_stack_has_the_resources_that_the_documents_name():
    names = {name for block in blocks() for name in re.findall(r"\$\(of (\w+)\)", block)}
    assert len(names) > 8
    assert names <= set(synthesized()["Resources"])


def test_the_parameters_of_the_readme_are_the_templates():
    text = (ROOT / "infra" / "README.md").read_text()
    table = text.split("## Parameters")[1].split("##")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ") and "Parameter |" not in line]
    documented = {}
    for names, defaults, _ in rows:
        names, defaults = names.strip().split(", "), defaults.strip().split(", ")
        documented |= dict(zip(names, defaults))
    expected = {name: str(one.get("Default", "")) for name, one in synthesized()["Parameters"].items()}
    assert documented == expected
