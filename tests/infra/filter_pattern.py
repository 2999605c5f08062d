"""Evaluates the metric filters of the template: comparisons of fields with strings and numbers, joined by && and ||.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntaxForMetricFilters.html
"""

import re

from iam import like

TOKEN = re.compile(r'\s*(?:(?P<mark>&&|\|\||[(){}])|\$\.(?P<field>\w+)(?P<each>\[\*\])?\s*=\s*(?:"(?P<value>[^"]*)"|(?P<number>\d+)))')


def tokens(pattern: str) -> list:
    found, at = [], 0
    while pattern[at:].strip():
        token = TOKEN.match(pattern, at)
        if not token:
            raise ValueError(f"not supported here: {pattern[at:]}")
        found.append(token)
        at = token.end()
    return found


def matches(pattern: str, line: dict) -> bool:
    """Whether a filter counts a line."""
    rest = tokens(pattern)

    def one() -> bool:
        token = rest.pop(0)
        if token["mark"] in ("(", "{"):
            found = either()
            assert rest.pop(0)["mark"] == {"(": ")", "{": "}"}[token["mark"]]
            return found
        value = line.get(token["field"])
        values = value if token["each"] and isinstance(value, list) else [value]
        if token["number"] is not None:
            return any(not isinstance(one, (bool, str)) and one == int(token["number"]) for one in values)
        return any(isinstance(one, str) and like(token["value"], one) for one in values)

    def both() -> bool:
        found = one()
        while rest and rest[0]["mark"] == "&&":
            rest.pop(0)
            found = one() and found
        return found

    def either() -> bool:
        found = both()
        while rest and rest[0]["mark"] == "||":
            rest.pop(0)
            found = both() or found
        return found

    found = one()
    assert not rest
    return found


def compared(pattern: str, field: str) -> list:
    """A field's comparisons: the field, and the value that it is compared with."""
    return [(token["field"], token["value"]) for token in tokens(pattern) if token["field"] == field]
