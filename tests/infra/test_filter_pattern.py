"""The evaluator with which the metric filters are tested decides as CloudWatch Logs does, for the patterns in use."""

import pytest

import filter_pattern


@pytest.mark.parametrize(
    ("pattern", "line", "counted"),
    [
        ('{ $.step = "blocked" }', {"step": "blocked"}, True),
        ('{ $.step = "blocked" }', {"step": "called"}, False),
        ('{ $.step = "blocked" }', {}, False),
        ('{ $.step = "block*" }', {"step": "blocked"}, True),
        ('{ $.step = "1" }', {"step": 1}, False),
        ("{ $.Blocked = 1 }", {"Blocked": 1}, True),
        ("{ $.Blocked = 1 }", {"Blocked": 2}, False),
        ("{ $.Blocked = 1 }", {}, False),
        ("{ $.Blocked = 1 }", {"Blocked": "1"}, False),
        ('{ $.guards[*] = "B" }', {"guards": ["A", "B"]}, True),
        ('{ $.guards[*] = "B" }', {"guards": ["A"]}, False),
        ('{ $.guards[*] = "B" }', {"guards": []}, False),
        # Without a wildcard, an array does not equal a string.
        ('{ $.guards = "A" }', {"guards": ["A"]}, False),
        ('{ ($.a = "1") && (($.b = "1") || ($.b = "2")) }', {"a": "1", "b": "2"}, True),
        ('{ ($.a = "1") && (($.b = "1") || ($.b = "2")) }', {"a": "2", "b": "2"}, False),
        ('{ ($.a = "1") && (($.b = "1") || ($.b = "2")) }', {"a": "1", "b": "3"}, False),
        # `&&` binds before `||`.
        ('{ $.a = "1" || $.b = "1" && $.c = "1" }', {"a": "1"}, True),
        ('{ $.b = "1" && $.c = "1" || $.a = "1" }', {"b": "1"}, False),
    ],
)
def test_it_counts_what_cloudwatch_logs_counts(pattern, line, counted):
    assert filter_pattern.matches(pattern, line) == counted


@pytest.mark.parametrize("pattern", ["{ $.a != \"1\" }", "{ $.a > 1 }", "{ $.a.b = \"1\" }", "ERROR", "{ $.a = \"1\""])
def test_an_unsupported_pattern_is_an_error_and_never_a_match(pattern):
    with pytest.raises((ValueError, IndexError)):
        filter_pattern.matches(pattern, {"a": "1"})
