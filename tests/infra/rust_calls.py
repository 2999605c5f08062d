"""Turns the Rust source into the AWS calls that each program makes.

No compiler is asked: a call of the SDK's is a method without arguments that has the name of one of the service's own
operations, as botocore's models list them. Which program makes it follows from which functions call each other by name,
from the methods of the two ports (`store.…`, `cloud.…`) that the program uses.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import botocore.session

from template import ROOT

ADAPTERS = ROOT / "functions" / "adapters" / "src"
# The SDK's crates, as botocore calls their services, and as IAM does.
SERVICES = {
    "aws-sdk-arczonalshift": ("arc-zonal-shift", "arc-zonal-shift"),
    "aws-sdk-autoscaling": ("autoscaling", "autoscaling"),
    "aws-sdk-cloudwatchlogs": ("logs", "logs"),
    "aws-sdk-dynamodb": ("dynamodb", "dynamodb"),
    "aws-sdk-eks": ("eks", "eks"),
    "aws-sdk-eventbridge": ("events", "events"),
    "aws-sdk-sts": ("sts", "sts"),
}
# Services that we call without their crates, by methods that are named as the SDK would name them.
OWN_CLIENTS = [("ec2", "ec2")]


# As a program calls the port, what stands behind it, and where.
PORTS = [
    ("store", "DynamoStore", "store/dynamodb"),
    ("cloud", "AwsCloud", "cloud/aws"),
    ("hooks", "AwsHooks", "cloud/aws"),
    ("kubernetes", "EksCluster", "kubernetes/eks"),
]


@dataclass(frozen=True)
class Function:
    file: Path
    name: str
    body: str


def crates() -> set:
    """The SDK's crates that any of our manifests names."""
    manifests = [ROOT / "Cargo.toml", *ROOT.glob("*/Cargo.toml"), *ROOT.glob("functions/*/Cargo.toml")]
    return {name for manifest in manifests for name in re.findall(r"^(aws-sdk-[a-z0-9]+)\b", manifest.read_text(), re.M)}


@cache
def operations() -> dict:
    """`put_item` → `dynamodb:PutItem`, of all services that we use."""
    session, found = botocore.session.get_session(), {}
    for service, prefix in [*SERVICES.values(), *OWN_CLIENTS]:
        for operation in session.get_service_model(service).operation_names:
            # Where a service numbers its APIs: nobody here uses those.
            snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", operation).lower()
            found.setdefault(snake, set()).add(f"{prefix}:{operation}")
    return found


def code(file: Path) -> str:
    """A file without its comments, its texts and its tests."""
    text = file.read_text()
    text = re.sub(r'r#*".*?"#*|"(?:\\.|[^"\\])*"', '""', re.sub(r"//[^\n]*", "", text), flags=re.DOTALL)
    text = re.sub(r"'(?:\\.|[^'\\])'", "' '", text)
    return re.split(r"#\[cfg\(test\)\]\s*(?:pub\s+)?mod \w+ \{", text)[0]


def functions(file: Path) -> list:
    text, found = code(file), []
    for start in re.finditer(r"\bfn (\w+)", text):
        opening = text.find("{", start.end())
        semicolon = text.find(";", start.end())
        if opening < 0 or 0 <= semicolon < opening and ")" in text[start.end() : semicolon]:
            continue
        depth, end = 0, opening
        for end in range(opening, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                break
        found.append(Function(file, start[1], text[opening : end + 1]))
    return found


def sdk_calls(body: str) -> set:
    names = re.findall(r"\.\s*([a-z][a-z0-9_]*)\s*\(\s*\)", body)
    return {call for name in names for call in operations().get(name, ())}


def _callees(function: Function, known: list) -> list:
    """The functions of the same folder that it names."""
    body = function.body
    own = set(re.findall(r"\b(?:self(?:\s*\.\s*clone\(\))?\s*\.|Self::)\s*(\w+)\s*\(", body))
    free = set(re.findall(r"(?<![.\w:])(\w+)\s*\(", body))
    of_module = set(re.findall(r"\b(\w+)::(\w+)\s*\(", body))
    return [
        other
        for other in known
        if other.name in own or other.name in free or (other.file.stem, other.name) in of_module
    ]


def _reached(roots: list, known: list) -> set:
    seen, waiting, calls = set(), list(roots), set()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        calls |= sdk_calls(function.body)
        waiting += _callees(function, known)
    return calls


def _folder(module: str) -> list:
    files = [ADAPTERS / f"{module}.rs", *sorted((ADAPTERS / module).glob("*.rs"))]
    assert files[0].is_file()
    return [function for file in files for function in functions(file)]


def _calls_through_ports(files: list) -> set:
    """The AWS calls of those of the ports' methods that these files use."""
    sources = "".join(code(file) for file in files)
    calls = set().union(*(sdk_calls(code(file)) for file in files))
    # Who names the bus puts events on it, by way of a herald that no regular expression follows.
    if re.search(r"\bEventBridge::connect\(", sources):
        calls |= sdk_calls(code(ADAPTERS / "notify" / "eventbridge.rs"))
    for port, kind, module in PORTS:
        known = _folder(module)
        used = set(re.findall(rf"\b{port}\s*\.\s*(\w+)\s*\(", sources)) - {"clone"}
        used |= set(re.findall(rf"\b{kind}::(\w+)\(", sources))
        front = [function for function in known if function.file == ADAPTERS / f"{module}.rs"]
        roots = []
        for name in sorted(used):
            named = [function for function in front if function.name == name]
            named = named or [function for function in known if function.name == name]
            assert named, f"{name} of the {port} is nowhere in {module}"
            roots += named
        calls |= _reached(roots, known)
    return calls


def calls_of_function(name: str) -> set:
    """The AWS calls that one of the Lambda functions makes."""
    return _calls_through_ports(sorted((ROOT / "functions" / name / "src").glob("*.rs")))


def calls_of_agent() -> set:
    return {call for file in sorted((ROOT / "agent" / "src").rglob("*.rs")) for call in sdk_calls(code(file))}


def in_memory(file: Path) -> bool:
    """What of the command runs over the memory side of each port. A backtest's history alone may come from AWS."""
    return {"replay", "replay.rs", "backtest", "backtest.rs"} & set(file.parts) != set() and file.name != "logs.rs"


def calls_of_operators() -> set:
    """Those of the command, which asks the repairer for explanations and for nothing else."""
    command = sorted((ROOT / "src").rglob("*.rs"))
    asked = set(re.findall(r"\brepairer\s*\.\s*(\w+)\s*\(", "".join(code(file) for file in (ROOT / "src" / "operate").glob("*.rs"))))
    assert asked == {"explain"}
    explains = [ROOT / "functions" / "repair" / "src" / f"{module}.rs" for module in ("explain", "here", "view")]
    return _calls_through_ports([*(file for file in command if not in_memory(file)), *explains])


def calls_anywhere() -> set:
    """All calls of the SDK in the whole repository, tests left out."""
    files = [*(ROOT / "src").rglob("*.rs"), *(ROOT / "agent" / "src").rglob("*.rs")]
    files += (ROOT / "functions").glob("*/src/**/*.rs")
    return {call for file in files for call in sdk_calls(code(file))}


def kinds_in_transactions() -> set:
    """`put`, `update`, `delete`, `condition_check`: those that the store builds transactions of."""
    sources = "".join(code(file) for file in (ADAPTERS / "store").rglob("*.rs"))
    return set(re.findall(r"TransactWriteItem::builder\(\)\s*\.(\w+)\(", sources))
