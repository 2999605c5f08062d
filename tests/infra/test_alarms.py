"""Alarms and dashboard show metrics that the functions emit, and each alarm has its page."""

import json
import re

import pytest

import filter_pattern
from observed import OTHER
from scenario import HALTED_THERE, HELD
from template import CLUSTER, ROOT, deployed, of_type

RUNBOOK = ROOT / "infra" / "RUNBOOK.md"
ALARMS = {name: alarm["Properties"] for name, alarm in of_type(deployed()["Resources"], "AWS::CloudWatch::Alarm").items()}
# Metrics that AWS's services have of their own, with the dimensions that they have them by.
OF_SERVICES = {
    ("AWS/Lambda", "Errors"): {"FunctionName"},
    ("AWS/Lambda", "Invocations"): {"FunctionName"},
    ("AWS/Lambda", "Duration"): {"FunctionName"},
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): {"QueueName"},
    ("AWS/SQS", "ApproximateNumberOfMessagesNotVisible"): {"QueueName"},
    ("AWS/Logs", "DeliveryErrors"): {"LogGroupName", "DestinationType", "FilterName"},
}


FILTERS = {name: one["Properties"] for name, one in of_type(deployed()["Resources"], "AWS::Logs::MetricFilter").items()}


@pytest.fixture(scope="module")
def emitted(observed) -> dict:
    """The sets of dimensions of each metric in our namespace, as the functions logged them, or as a filter counts them."""
    found = {}
    for line in (line for lines in observed.logs.values() for line in lines):
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
            assert directive["Namespace"] == "nodemend"
            for metric in directive["Metrics"]:
                assert metric["Name"] in line, "a metric has its value beside it"
                found.setdefault(metric["Name"], []).extend(map(set, directive["Dimensions"]))
    for name, filter_ in FILTERS.items():
        (metric,) = filter_["MetricTransformations"]
        for line in matched(observed, name):
            # Without the field there would be no value for the dimension, and no metric.
            keys = {dimension["Key"]: dimension["Value"].removeprefix("$.") for dimension in metric["Dimensions"]}
            assert all(line.get(field) for field in keys.values())
            found.setdefault(metric["MetricName"], []).append(set(keys))
    return found


def matched(observed, name: str) -> list:
    """The lines of a function's log that a metric filter counts."""
    group = FILTERS[name]["LogGroupName"]
    resources = deployed()["Resources"]
    (function,) = [
        program for program in observed.logs
        if resources[f"{program.title()}Function"]["Properties"]["LoggingConfig"]["LogGroup"] == group
    ]
    return [line for line in observed.logs[function] if filter_pattern.matches(FILTERS[name]["FilterPattern"], line)]


@pytest.mark.parametrize("alarm", sorted(ALARMS))
def test_an_alarm_watches_a_metric_that_is_emitted(alarm, emitted):
    properties = ALARMS[alarm]
    metric = (properties["Namespace"], properties["MetricName"])
    dimensions = {dimension["Name"]: dimension["Value"] for dimension in properties.get("Dimensions", [])}
    known = emitted[metric[1]] if metric[0] == "nodemend" else [OF_SERVICES[metric]]
    assert set(dimensions) in known
    assert dimensions.get("cluster", CLUSTER) == CLUSTER
    assert properties["TreatMissingData"] in ("notBreaching", "breaching"), "an alarm without data is in no state that anybody is notified of"


@pytest.mark.parametrize("alarm", sorted(ALARMS))
def test_an_alarm_notifies_somebody_and_names_its_page(alarm):
    properties = ALARMS[alarm]
    assert properties["AlarmName"] == f"nodemend-{CLUSTER}-{alarm}"
    assert properties["AlarmDescription"].endswith(f" RUNBOOK.md, {alarm}.")
    assert properties["AlarmActions"] == properties["OKActions"] == ["arn:aws:sns:eu-west-1:111122223333:AlarmTopic"]


def pages() -> dict:
    return dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.M | re.S))


def test_every_alarm_has_its_page_and_every_page_its_alarm():
    assert set(pages()) == set(ALARMS)


def headings(page: str) -> list:
    return re.findall(r"^\*\*([^*]+)\*\*", page, re.M)


@pytest.mark.parametrize("alarm", sorted(ALARMS))
def test_each_page_has_the_same_three_parts_and_commands_to_type(alarm):
    page = pages()[alarm]
    assert len(headings(page)) == 3
    assert headings(page) == headings(next(iter(pages().values())))
    assert re.search(r"```sh\n.+?\n```", page, re.S)


def test_the_dashboard_shows_only_what_is_emitted(emitted):
    body = json.loads(deployed()["Resources"]["Dashboard"]["Properties"]["DashboardBody"])
    shown = [metric for widget in body["widgets"] for metric in widget["properties"].get("metrics", [])]
    assert len(shown) > 20
    for namespace, name, *rest in shown:
        dimensions = {key for key, _ in zip(rest[::2], rest[1::2]) if isinstance(key, str)}
        assert dimensions in (emitted[name] if namespace == "nodemend" else [OF_SERVICES[namespace, name]]), name
    alarms = [arn.rsplit(":", 1)[1] for widget in body["widgets"] for arn in widget["properties"].get("alarms", [])]
    assert sorted(alarms) == sorted(ALARMS)


# ---- what is counted from log lines


def test_a_halted_group_is_counted_and_one_that_an_operator_holds_is_not(observed):
    counted = {line["instanceId"] for line in matched(observed, "GroupHaltedFilter")}
    blocked = {line["instanceId"] for line in observed.logs["repair"] if line.get("step") == "blocked"}
    assert {HELD, HALTED_THERE} <= blocked
    assert HALTED_THERE in counted and HELD not in counted


def test_the_guards_that_halt_a_group_are_guards(observed):
    named = {value for _, value in filter_pattern.compared(FILTERS["GroupHaltedFilter"]["FilterPattern"], "guards")}
    assert len(named) == 2
    assert named <= {guard["guard"] for guard in observed.explained["guards"]}


def test_silent_agents_are_counted_by_their_cluster(observed):
    silent = matched(observed, "AgentSilentFilter")
    assert {line["cluster"] for line in silent} == {OTHER}
