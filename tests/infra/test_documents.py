"""What the documents tell people to type can be typed."""

import re
import shlex
import subprocess

import botocore.session
import pytest
from botocore import xform_name

from programs import PROGRAMS, built
from template import ROOT, synthesized

DOCUMENTS = [ROOT / "infra" / name for name in ("README.md", "RUNBOOK.md")] + sorted((ROOT / "docs").glob("*.md"))
# Options of the command aws itself.
GLOBAL = {"query", "output", "region", "profile", "max-items"}
# Commands of its own, which are no operations of a service.
OWN = {
    ("logs", "tail"): {"since", "filter-pattern", "follow"},
    ("cloudformation", "deploy"): {"stack-name", "template-file", "capabilities", "parameter-overrides"},
}


def blocks() -> list:
    return [block for file in DOCUMENTS for block in re.findall(r"```sh\n(.*?)```", file.read_text(), re.S)]


def simple_commands(line: str) -> list:
    """The commands of a line, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|{}<>")
    lexer.whitespace_split = True
    found = [[]]
    for word in lexer:
        if set(word) <= set("();&|{}"):
            found.append([])
        else:
            found[-1].append(word)
    return found


def commands(program: str) -> list:
    """Each call of a program in the documents, as words. What stands in $() is a command of its own, and a word here."""
    found = []
    for block in blocks():
        text = re.sub(r"\\\n\s*", " ", block)
        inner = re.findall(r"\$\(([^()]*)\)", text)
        text = re.sub(r"\$\([^()]*\)", "X", text)
        for line in [*text.splitlines(), *inner]:
            for words in simple_commands(line):
                while words and re.match(r"^[A-Z_]+=", words[0]):
                    words.pop(0)
                if words and words[0] == program:
                    found.append(words[1:])
    return found


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.splitlines()[0][:40])
def test_a_shell_reads_it(block):
    read = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


@pytest.mark.parametrize("words", commands("aws"), ids=lambda words: " ".join(words[:2]))
def test_aws_has_such_a_command_with_such_options(words):
    service, command, *rest = words
    options = {word.removeprefix("--").split("=")[0] for word in rest if word.startswith("--")} - GLOBAL
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


def helps(words: list) -> str:
    """What the command says of a subcommand; nothing where it has none such."""
    output = subprocess.run([built(PROGRAMS["operators"]), *words, "--help"], capture_output=True, text=True, timeout=30)
    return output.stdout if output.returncode == 0 else ""


@pytest.mark.parametrize("words", commands("nodemend"), ids=" ".join)
def test_nodemend_has_such_a_command_with_such_options(words):
    of_two = words[0] in ("policy", "audit")
    text = helps(words[: 1 + of_two])
    assert text, words
    for option in [word for word in words if word.startswith("--")]:
        assert re.search(rf"{option}\b", text), option


def test_what_is_asked_of_the_stack_is_in_it():
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
