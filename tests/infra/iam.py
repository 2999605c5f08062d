"""Decides what a policy allows, as IAM does: nothing that no statement allows, and nothing that one denies.

Only the condition operators that the template uses are supported; any other is an error, never a pass.
"""

import re
from dataclasses import dataclass, field

from template import listed


@dataclass
class Request:
    """One request to AWS, with what a policy can check."""

    action: str
    resource: str
    context: dict = field(default_factory=dict)

    def __str__(self):
        context = f" {self.context}" if self.context else ""
        return f"{self.action} on {self.resource}{context}"


def allows(statements: list, request: Request) -> bool:
    effects = {statement["Effect"] for statement in statements if _applies(statement, request)}
    return "Allow" in effects and "Deny" not in effects


def like(pattern: str, text: str) -> bool:
    parts = ["." if part == "?" else ".*" if part == "*" else re.escape(part) for part in re.split(r"([*?])", pattern)]
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def _applies(statement: dict, request: Request) -> bool:
    unknown = set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}
    if unknown:
        raise ValueError(f"{unknown} is not supported here")
    actions, resources = listed(statement["Action"]), listed(statement["Resource"])
    return (
        any(like(action.lower(), request.action.lower()) for action in actions)
        and any(like(resource, request.resource) for resource in resources)
        and all(
            _holds(operator, key, listed(wanted), request.context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _holds(operator: str, key: str, wanted: list, context: dict) -> bool:
    kind, _, operator = operator.rpartition(":")
    compare = {"StringEquals": str.__eq__, "StringLike": _like, "ArnLike": _like}[operator]
    # Names of condition keys are not case-sensitive. The key of a tag, which is part of such a name, is.
    values = next((listed(value) for name, value in context.items() if _is_same_key(name, key)), None)
    matches = [any(compare(value, one) for one in wanted) for value in values or []]
    match kind:
        # True if the request does not have the key: such a condition does not limit requests without it.
        case "ForAllValues":
            return all(matches)
        case "":
            return len(matches) == 1 and matches[0]
        case _:
            raise ValueError(f"{kind} is not supported here")


def _like(value: str, pattern: str) -> bool:
    return like(pattern, value)


def _is_same_key(one: str, other: str) -> bool:
    (name, _, tag), (other_name, _, other_tag) = one.partition("/"), other.partition("/")
    return name.lower() == other_name.lower() and tag == other_tag
