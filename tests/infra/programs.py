"""The programs as `cargo test --workspace --all-features` builds them."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path

from template import ROOT, deployed

BUILT = ROOT / "target" / "debug"
# The logical ID of each function in the template.
FUNCTIONS = {
    "intake": "IntakeFunction", "repair": "RepairFunction", "reconcile": "ReconcileFunction", "confirm": "ConfirmFunction",
    "drain": "DrainFunction",
}
PROGRAMS = {name: f"nodemend-{name}" for name in FUNCTIONS} | {"agent": "nodemend-agent", "operators": "nodemend"}


def built(program: str) -> Path:
    return BUILT / program


@cache
def read_only_data(program: str) -> bytes:
    """The linked program's constants. The linker omits what nothing can reach, so the name of an operation is among them
    only if the program can send it."""
    with tempfile.NamedTemporaryFile() as section:
        command = ["objcopy", "--output-target", "binary", "--only-section", ".rodata", built(program), section.name]
        subprocess.run(command, check=True, capture_output=True)
        return Path(section.name).read_bytes()


def environment(function: str) -> dict:
    """The environment that the template gives to a function."""
    variables = deployed()["Resources"][FUNCTIONS[function]]["Properties"]["Environment"]["Variables"]
    return {name: str(value) for name, value in variables.items()}
