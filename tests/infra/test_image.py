"""The agent's image: what can be tested without building it."""

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from programs import PROGRAMS, read_only_data
from template import ROOT

DOCKERFILE = ROOT / "agent" / "Dockerfile"
TEXT = DOCKERFILE.read_text()


def test_hadolint_finds_nothing_that_is_not_explained():
    found = subprocess.run([Path(sys.executable).parent / "hadolint", DOCKERFILE], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    lines = TEXT.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("# hadolint ignore"):
            assert lines[number - 1].startswith("# "), f"{line}: give the reason in the line before"


def test_all_stages_have_the_c_library_of_one_debian():
    numbers = {"bookworm": "12", "trixie": "13", "forky": "14"}
    bases = re.findall(r"^FROM (\S+)", TEXT, re.M)
    assert len(bases) == 3
    releases = {numbers[name] for base in bases[:2] for name in numbers if name in base}
    assert releases == {re.search(r"debian(\d+)", bases[2])[1]}


def test_the_compiler_has_the_version_that_the_code_requires():
    wanted = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    assert f"FROM rust:{wanted}-" in TEXT


def test_the_agent_finds_its_tools_where_the_image_has_them():
    constants = read_only_data(PROGRAMS["agent"])
    assert b"/usr/sbin" in constants and "/image/usr/sbin" in TEXT
    tools = set(re.findall(r"ip6?tables-legacy-save", TEXT))
    assert tools and {one.decode() for one in re.findall(rb"ip6?tables-legacy-save", constants)} == tools


def sent(path: str) -> bool:
    """Whether a file is in the build context: the last rule that matches the file or one of its directories counts."""
    kept = True
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!").replace("**/", "*")
        parts = [path, *(str(directory) for directory in Path(path).parents if str(directory) != ".")]
        if any(fnmatch.fnmatchcase(part, pattern) or fnmatch.fnmatchcase(part, pattern.removeprefix("*")) for part in parts):
            kept = rule.startswith("!")
    return kept


def test_the_build_context_has_what_cargo_needs_and_no_more(tmp_path):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    given = [path for path in tracked if sent(path) and (ROOT / path).is_file()]
    assert not [path for path in given if path.startswith((".git", "events/", "infra/", "tests/infra/", "tests/fuzz/"))]
    assert not sent("target/debug/nodemend-agent") and not sent(".venv/bin/python")
    for path in given:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    # Cargo reads every manifest and finds every target; nothing is compiled.
    read = subprocess.run(
        ["cargo", "tree", "--locked", "--offline", "--package", "nodemend-agent", "--depth", "1"],
        cwd=tmp_path, capture_output=True, text=True,
    )
    assert read.returncode == 0, read.stderr
    assert "nodemend-domain" in read.stdout
