"""`sam build` finds each function's crate and uses what cargo-lambda builds. Nothing is compiled: that would take minutes."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import programs
from programs import PROGRAMS
from template import ROOT

BINARIES = {function: PROGRAMS[name] for name, function in programs.FUNCTIONS.items()}

# Replaces cargo-lambda: records its arguments, and writes a file where cargo-lambda would.
STAND_IN = """#!/bin/sh
echo "$PWD $*" >> "$CALLS"
for argument; do binary=$argument; done
mkdir -p "target/lambda/$binary" && echo "$binary" > "target/lambda/$binary/bootstrap"
"""


@pytest.mark.parametrize(("architecture", "flag"), [("arm64", ["--arm64"]), ("x86_64", [])])
def test_every_function_is_built_from_the_workspace_and_found(architecture, flag, tmp_path):
    workspace, tools, out, calls = (tmp_path / name for name in ("workspace", "tools", "out", "calls"))
    (workspace / "infra").mkdir(parents=True)
    tools.mkdir()
    shutil.copy(ROOT / "Cargo.toml", workspace)
    shutil.copy(ROOT / "infra" / "template.yaml", workspace / "infra")
    (tools / "cargo-lambda").write_text(STAND_IN)
    (tools / "cargo-lambda").chmod(0o755)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}", "HOME": os.environ["HOME"], "CALLS": str(calls),
        "SAM_CLI_TELEMETRY": "0", "__SAM_CLI_APP_DIR": str(tmp_path / "sam"),
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    command = [Path(sys.executable).parent / "sam", "build", "--template", "infra/template.yaml", "--build-dir", out]
    command += ["--parameter-overrides", f"ClusterName=prod Architecture={architecture}"]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for function, binary in BINARIES.items():
        assert (out / function / "bootstrap").read_text().strip() == binary
    called = sorted(line.split(" ", 1) for line in calls.read_text().splitlines())
    assert called == sorted([str(workspace), " ".join(["lambda build --release", *flag, "--bin", binary])] for binary in BINARIES.values())


def test_cargo_lambda_is_called_to_build_what_only_lambda_needs():
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
    assert manifest["metadata"]["lambda"]["build"]["features"] == ["lambda"]
    for binary in BINARIES.values():
        directory = f"functions/{binary.removeprefix('nodemend-')}"
        assert directory in manifest["default-members"], "--bin finds only binaries of these members"
        package = tomllib.loads((ROOT / directory / "Cargo.toml").read_text())
        wanted = {"name": binary, "path": "src/main.rs", "required-features": ["lambda"]}
        assert any(wanted.items() <= one.items() for one in package["bin"])
