"""Alarms and dashboard watch what somebody emits, and each alarm has its page."""

import json
import re

import pytest

from template import CLUSTER, ROOT, deployed, of_type

TELEMETRY = (ROOT / "functions" / "adapters" / "src" / "telemetry.rs").read_text()
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


def emitted() -> dict:
    """Every metric of ours by name, with the dimensions that it comes with."""
    names = TELEMETRY.split("pub fn name(self)")[1].split("pub fn unit")[0]
    found = {name: {"cluster"} for name in re.findall(r'(?:Step|Self)::\w+ => "(\w+)"', names)}
    # A sweep is of all clusters, and what is of a cluster that nobody knows is of none.
    for source in (ROOT / "functions").glob("*/src/main.rs"):
        for cluster, body in re.findall(r"measured\([^,]+, (\w+), &(\w+)\)", source.read_text()):
            if cluster == "None":
                numbers = re.search(rf"let {body} = \[(.*?)\];", source.read_text(), re.DOTALL)[1]
                for variant in re.findall(r"Metric::(\w+)", numbers):
                    found[variant] = set()
    intake = (ROOT / "functions" / "intake" / "src" / "main.rs").read_text()
    assert "taken.cluster.as_ref().filter(|_| taken.unknown_cluster == 0)" in intake
    found["UnknownCluster"] = set()
    for filter_ in of_type(deployed()["Resources"], "AWS::Logs::MetricFilter").values():
        (metric,) = filter_["Properties"]["MetricTransformations"]
        found[metric["MetricName"]] = {dimension["Key"] for dimension in metric["Dimensions"]}
    return found


def test_the_namespace_is_the_codes():
    assert 'pub const NAMESPACE: &str = "nodemend";' in TELEMETRY
    assert 'const CLUSTER: &str = "cluster";' in TELEMETRY


@pytest.mark.parametrize("alarm", sorted(ALARMS))
def test_an_alarm_watches_a_metric_that_somebody_emits(alarm):
    properties = ALARMS[alarm]
    metric = (properties["Namespace"], properties["MetricName"])
    dimensions = {dimension["Name"]: dimension["Value"] for dimension in properties.get("Dimensions", [])}
    expected = emitted()[metric[1]] if metric[0] == "nodemend" else OF_SERVICES[metric]
    assert set(dimensions) == expected
    assert dimensions.get("cluster", CLUSTER) == CLUSTER
    assert properties["TreatMissingData"] in ("notBreaching", "breaching"), "an alarm that waits for data tells nothing"


@pytest.mark.parametrize("alarm", sorted(ALARMS))
def test_an_alarm_tells_somebody_and_names_its_page(alarm):
    properties = ALARMS[alarm]
    assert properties["AlarmName"] == f"nodemend-{CLUSTER}-{alarm}"
    assert properties["AlarmDescription"].endswith(f" RUNBOOK.md, {alarm}.")
    assert properties["AlarmActions"] == properties["OKActions"] == ["arn:aws:sns:eu-west-1:111122223333:AlarmTopic"]


def pages() -> dict:
    return dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.M | re.S))


def test_every_alarm_has_its_page_and_every_page_its_alarm():
    assert set(pages()) == set(ALARMS)


@pytest.mark.parametrize("alarm", sorted(ALARMS))
def test_a_page_says_what_it_means_what_to_look_at_and_what_to_type(alarm):
    page = pages()[alarm]
    for heading in ("**Means.**", "**Look at.**", "**Type.**"):
        assert heading in page
    assert re.search(r"```sh\n.+?\n```", page, re.S)


def test_the_dashboard_shows_only_what_is_emitted():
    body = json.loads(deployed()["Resources"]["Dashboard"]["Properties"]["DashboardBody"])
    shown = [metric for widget in body["widgets"] for metric in widget["properties"].get("metrics", [])]
    assert len(shown) > 20
    known = emitted()
    for namespace, name, *rest in shown:
        dimensions = {key for key, _ in zip(rest[::2], rest[1::2]) if isinstance(key, str)}
        assert dimensions == (known[name] if namespace == "nodemend" else OF_SERVICES[namespace, name]), name
    alarms = [arn.rsplit(":", 1)[1] for widget in body["widgets"] for arn in widget["properties"].get("alarms", [])]
    assert sorted(alarms) == sorted(ALARMS)


# ---- what is counted from log lines


def sentences(filter_: str) -> list:
    """The texts that a filter looks for, without their wildcards."""
    pattern = deployed()["Resources"][filter_]["Properties"]["FilterPattern"]
    return re.findall(r'\$\.detail = "\*([^"]+)\*"', pattern)


def test_a_halted_group_is_known_by_the_sentences_of_the_guards_that_halt_one():
    source = (ROOT / "functions" / "domain" / "src" / "guard.rs").read_text()
    guards = {name: body for name, body in re.findall(r"^pub fn (\w+)\(.*?\{\n(.*?)^}", source, re.M | re.S)}
    told = {
        sentence: [name for name, body in guards.items() if sentence in re.sub(r"\{[^}]*\}", "7", body)]
        for sentence in sentences("GroupHaltedFilter")
    }
    assert told == {
        "are unhealthy, more than": ["unhealthy_threshold"],
        "did not come up: it rests until": ["replacements_failing"],
    }


def test_the_lines_that_are_counted_have_the_fields_that_are_looked_at():
    occurrence = (ROOT / "functions" / "domain" / "src" / "occurrence.rs").read_text()
    for field in ("step", "detail", "reason", "cluster"):
        assert re.search(rf"^    pub {field}: ", occurrence, re.M)
    assert 'Self::Blocked => "blocked"' in occurrence
    step = (ROOT / "functions" / "repair" / "src" / "step.rs").read_text()
    assert 'told.reason = Some("AgentSilent".to_owned())' in step


@pytest.mark.parametrize(
    ("incident", "filter_", "rings"),
    [
        ("09-threshold-halts-then-resumes", "GroupHaltedFilter", True),
        ("10-one-zone-dark", "GroupHaltedFilter", True),
        ("16-held-by-an-operator", "GroupHaltedFilter", False),
    ],
)
def test_incidents_ring_it_as_they_should(incident, filter_, rings):
    golden = (ROOT / "events" / incident / "expected.txt").read_text()
    assert " blocked " in golden
    # Long lines are broken there.
    story = re.sub(r"[\s│]+", " ", golden)
    assert any(sentence in story for sentence in sentences(filter_)) == rings
