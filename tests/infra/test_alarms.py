"""Alarms and dashboard show metrics that the functions emit, each alarm notifies one topic, and each has its page."""

import fnmatch
import json
import re
import tomllib

import pytest

import filter_pattern
from observed import OTHER, OTHER_ACCOUNT
from programs import environment
from scenario import HALTED_IN_OTHER, HELD
from template import ACCOUNT, CLUSTER, PARTITION, REGION, ROOT, beside, deployed, exports, of_type
from test_further_cluster import DEPLOYMENT, hub, member

RUNBOOK = ROOT / "infra" / "RUNBOOK.md"
TABLE = ROOT / "docs" / "alarms.md"
REPOSITORY = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["repository"]
PAGE, TICKET = (f"arn:{PARTITION}:sns:{REGION}:{ACCOUNT}:{name}" for name in ("AlarmTopic", "TicketTopic"))
# A topic that exists already.
GIVEN = f"arn:{PARTITION}:sns:{REGION}:{ACCOUNT}:on-call"


def alarms(resources: dict) -> dict:
    return {name: alarm["Properties"] for name, alarm in of_type(resources, "AWS::CloudWatch::Alarm").items()}


ALARMS = alarms(deployed()["Resources"])
# Of the deployment and its own cluster; of a further cluster in the deployment's account; of that cluster in its own account.
STACKS = {
    "template.yaml": (CLUSTER, ALARMS), "cluster.yaml": (OTHER, alarms(hub(OTHER_ACCOUNT)["Resources"])),
    "member.yaml": (OTHER, alarms(member()["Resources"])),
}
EVERY = [(file, cluster, name, alarm) for file, (cluster, found) in STACKS.items() for name, alarm in found.items()]
each_alarm = pytest.mark.parametrize(("file", "cluster", "name", "alarm"), EVERY, ids=[f"{file}-{name}" for file, _, name, _ in EVERY])
# Metrics of AWS's services, with their dimensions.
OF_SERVICES = {
    ("AWS/Lambda", "Errors"): {"FunctionName"},
    ("AWS/Lambda", "Invocations"): {"FunctionName"},
    ("AWS/Lambda", "Duration"): {"FunctionName"},
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): {"QueueName"},
    ("AWS/SQS", "ApproximateNumberOfMessagesNotVisible"): {"QueueName"},
    ("AWS/Logs", "DeliveryErrors"): {"LogGroupName", "DestinationType", "FilterName"},
    ("AWS/Events", "Invocations"): {"RuleName"},
    ("AWS/Events", "FailedInvocations"): {"RuleName"},
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
                assert metric["Name"] in line, "a metric without a value"
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


def by_name(dimensions: list) -> dict:
    return {dimension["Name"]: dimension["Value"] for dimension in dimensions}


def watched(alarm: dict) -> list:
    """The metrics that an alarm watches: namespace, name and dimensions. A dimension without a value in a query has none."""
    if "MetricName" in alarm:
        return [(alarm["Namespace"], alarm["MetricName"], by_name(alarm.get("Dimensions", [])))]
    found = [
        (one["MetricStat"]["Metric"]["Namespace"], one["MetricStat"]["Metric"]["MetricName"], by_name(one["MetricStat"]["Metric"]["Dimensions"]))
        for one in alarm["Metrics"] if "MetricStat" in one
    ]
    queries = [one["Expression"] for one in alarm["Metrics"] if "SELECT" in one.get("Expression", "")]
    for query in queries:
        read = re.fullmatch(r'SELECT SUM\((\w+)\) FROM SCHEMA\("([^"]+)", ([\w, ]+)\) WHERE (.+)', query)
        given = dict(re.findall(r"(\w+) = '([^']+)'", read[4]))
        found.append((read[2], read[1], {name: given.get(name) for name in read[3].split(", ")}))
    return found


@each_alarm
def test_an_alarm_watches_a_metric_that_is_emitted(file, cluster, name, alarm, emitted):
    assert watched(alarm)
    for namespace, metric, dimensions in watched(alarm):
        known = emitted[metric] if namespace == "nodemend" else [OF_SERVICES[namespace, metric]]
        assert set(dimensions) in known
        assert dimensions.get("cluster", cluster) == cluster
    assert alarm["TreatMissingData"] in ("notBreaching", "breaching"), "nobody is notified of missing data"


# ---- the topic that an alarm notifies, and its description


@each_alarm
def test_an_alarm_notifies_one_topic_the_one_of_the_table(file, cluster, name, alarm):
    assert alarm["AlarmName"] == f"nodemend-{cluster}-{name}"
    assert alarm["AlarmActions"] == alarm["OKActions"] == [{"page": PAGE, "ticket": TICKET}[table()[name]["Topic"]]]


@each_alarm
def test_the_description_of_an_alarm_is_plain_sentences_and_the_address_of_its_page(file, cluster, name, alarm):
    *words, url = alarm["AlarmDescription"].split()
    assert re.fullmatch(r"(\w[^.]+\.){1,2}", " ".join(words).replace(". ", ".")), words
    page, anchor = url.split("#")
    assert page == f"{REPOSITORY}/blob/main/infra/RUNBOOK.md"
    # GitHub's anchor of a heading of one word.
    assert anchor in {heading.lower() for heading in pages()} and anchor == name.lower()
    assert len(alarm["AlarmDescription"]) <= 1024


def test_given_topics_are_used_and_none_is_created_instead():
    resources = deployed(PageTopicArn=GIVEN, AlarmEmail="a@example.com")["Resources"]
    notified = {name: alarm["AlarmActions"] for name, alarm in alarms(resources).items()}
    assert notified == {name: [GIVEN] if alarm["AlarmActions"] == [PAGE] else [TICKET] for name, alarm in ALARMS.items()}
    assert set(of_type(resources, "AWS::SNS::Topic")) == {"TicketTopic"}
    # The stack does not change a given topic: neither its subscriptions nor its policy.
    assert [one["Properties"]["TopicArn"] for one in of_type(resources, "AWS::SNS::Subscription").values()] == [TICKET]
    assert [one["Properties"]["Topics"] for one in of_type(resources, "AWS::SNS::TopicPolicy").values()] == [[TICKET]]
    # Further clusters import either, by the same name.
    exported = exports(deployed(PageTopicArn=GIVEN)["Outputs"])
    assert (exported["nodemend-prod-PageTopicArn"], exported["nodemend-prod-TicketTopicArn"]) == (GIVEN, TICKET)
    # One topic for all alarms, as in earlier versions.
    resources = deployed(TicketTopicArn=PAGE, AlarmEmail="a@example.com")["Resources"]
    assert {topic for alarm in alarms(resources).values() for topic in alarm["AlarmActions"]} == {PAGE}
    assert set(of_type(resources, "AWS::SNS::Subscription")) == {"AlarmSubscription"}


def test_an_update_keeps_the_topic_that_a_deployment_has_and_its_subscriptions():
    resources = deployed(AlarmEmail="a@example.com")["Resources"]
    # With another logical id, or a name, CloudFormation would make another topic and delete this one.
    assert resources["AlarmTopic"]["Properties"] == {"DisplayName": f"nodemend {CLUSTER}"}
    assert resources["AlarmSubscription"]["Properties"] == {"TopicArn": PAGE, "Protocol": "email", "Endpoint": "a@example.com"}
    assert resources["TicketSubscription"]["Properties"] == {"TopicArn": TICKET, "Protocol": "email", "Endpoint": "a@example.com"}
    assert deployed()["Outputs"]["AlarmTopic"]["Value"] == PAGE
    assert not of_type(deployed()["Resources"], "AWS::SNS::Subscription")


@pytest.mark.parametrize("file", ["template.yaml", "member.yaml"])
def test_only_alarms_of_their_clusters_may_publish_to_the_topics(file):
    resources = (deployed() if file == "template.yaml" else member())["Resources"]
    created = {f"arn:{PARTITION}:sns:{REGION}:{ACCOUNT}:{name}" for name in of_type(resources, "AWS::SNS::Topic")}
    found = [one["Properties"] for one in of_type(resources, "AWS::SNS::TopicPolicy").values()]
    assert {topic for policy in found for topic in policy["Topics"]} == created
    arn = f"arn:{PARTITION}:cloudwatch:{REGION}:{ACCOUNT}:alarm:nodemend-%s-CallMissing"
    for policy in found:
        allow, deny = policy["PolicyDocument"]["Statement"]
        assert (allow["Principal"], allow["Action"]) == ({"Service": "cloudwatch.amazonaws.com"}, "sns:Publish")
        assert allow["Condition"]["StringEquals"] == {"aws:SourceAccount": ACCOUNT}
        pattern = allow["Condition"]["ArnLike"]["aws:SourceArn"]
        assert fnmatch.fnmatchcase(arn % OTHER, pattern)
        assert fnmatch.fnmatchcase(arn % CLUSTER, pattern) == (file == "template.yaml")
        assert not fnmatch.fnmatchcase(arn.replace("alarm:nodemend", "alarm:other") % OTHER, pattern)
        assert deny["Effect"] == "Deny"


# ---- further clusters


def of_cluster(cluster: str, found: dict) -> dict:
    """The alarms on metrics of one cluster."""
    return {name: alarm for name, alarm in found.items() if ("cluster", cluster) in [*watched(alarm)[0][2].items()]}


@pytest.mark.parametrize("account", ["", OTHER_ACCOUNT])
def test_a_further_cluster_has_the_alarms_of_the_deployments_own(account):
    own = of_cluster(CLUSTER, ALARMS)
    # Only the nodes of the deployment's own cluster are drained.
    assert environment("drain")["NODEMEND_CLUSTER"] == CLUSTER
    del own["DrainsIncomplete"]
    others = alarms(hub(account)["Resources"])
    stopped = others.pop("ReconcileRunsStopped")
    renamed = json.dumps(own).replace(f'"nodemend-{CLUSTER}-', f'"nodemend-{OTHER}-').replace(f'"Value": "{CLUSTER}"', f'"Value": "{OTHER}"')
    assert others == json.loads(renamed) and len(others) > 10
    # One function runs for every cluster: the rule of a cluster shows whether it runs for that one.
    assert watched(stopped) == [("AWS/Events", "Invocations", {"RuleName": "EveryFiveMinutes"})]
    of_metric = ("AlarmName", "Namespace", "MetricName", "Dimensions")
    same = lambda alarm: {key: value for key, value in alarm.items() if key not in of_metric}
    assert same(stopped) == same(ALARMS["ReconcileRunsStopped"])


def test_a_further_cluster_may_have_topics_and_thresholds_of_its_own():
    given = {"DeploymentStack": DEPLOYMENT, "ClusterName": OTHER}
    found = alarms(beside("cluster.yaml", **given, PageTopicArn=GIVEN, RepairsAnHour="9", SilentAgents="7")["Resources"])
    assert {topic for alarm in found.values() for topic in alarm["AlarmActions"]} == {GIVEN, TICKET}
    assert (found["RepairsCalled"]["Threshold"], found["AgentsSilent"]["Threshold"]) == ("9", "7")
    found = alarms(beside("cluster.yaml", **given, TicketTopicArn=GIVEN)["Resources"])
    assert {topic for alarm in found.values() for topic in alarm["AlarmActions"]} == {GIVEN, PAGE}


@pytest.mark.parametrize("account", [ACCOUNT, "999900001111"])
def test_the_delivery_of_a_clusters_logs_is_watched_in_its_account(account):
    resources = member(account, TicketTopicArn=GIVEN)["Resources"]
    found = alarms(resources)
    assert {topic for alarm in found.values() for topic in alarm["AlarmActions"]} == {GIVEN}
    assert not of_type(resources, "AWS::SNS::Topic")
    subscribed = {
        (one["Properties"]["LogGroupName"], one["Properties"]["FilterName"])
        for one in of_type(resources, "AWS::Logs::SubscriptionFilter").values()
    }
    seen = [one for alarm in found.values() for one in watched(alarm)]
    assert {(of["LogGroupName"], of["FilterName"]) for _, metric, of in seen if metric == "DeliveryErrors"} == subscribed
    # Every rule that forwards.
    rules = {of["RuleName"] for _, metric, of in seen if metric == "FailedInvocations"}
    assert rules == set(of_type(resources, "AWS::Events::Rule")) and bool(rules) == (account != ACCOUNT)


def test_the_delivery_of_the_deployments_own_logs_is_watched():
    subscribed = {
        (one["Properties"]["LogGroupName"], one["Properties"]["FilterName"])
        for one in of_type(deployed()["Resources"], "AWS::Logs::SubscriptionFilter").values()
    }
    seen = [one for alarm in ALARMS.values() for one in watched(alarm)]
    assert {(of["LogGroupName"], of["FilterName"]) for _, metric, of in seen if metric == "DeliveryErrors"} == subscribed


# ---- the pages and the table


def pages() -> dict:
    return dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.M | re.S))


def test_every_alarm_has_its_page_and_every_page_its_alarm():
    assert set(pages()) == {name for _, _, name, _ in EVERY}


def table() -> dict:
    """The rows of the table of alarms, by alarm."""
    lines = [line.strip("|").split("|") for line in TABLE.read_text().splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    found = [dict(zip(head, row, strict=True)) for row in rows]
    return {re.fullmatch(r"\[(\w+)\]\(.+\)", row["Alarm"])[1]: row for row in found}


def test_the_table_has_every_alarm_with_its_page_and_its_stacks():
    stacks = {}
    for file, _, name, _ in EVERY:
        stacks.setdefault(name, []).append(file)
    assert {name: row["In"] for name, row in table().items()} == {name: ", ".join(files) for name, files in stacks.items()}
    for name, row in table().items():
        assert row["Alarm"] == f"[{name}](../infra/RUNBOOK.md#{name.lower()})"
        assert all(len(cell) > 2 for cell in row.values()), name


def test_the_table_has_the_same_order_as_the_template():
    assert [name for name in table() if name in ALARMS] == list(ALARMS)


def headings(page: str) -> list:
    return re.findall(r"^\*\*([^*]+)\*\*", page, re.M)


@pytest.mark.parametrize("alarm", sorted(ALARMS))
def test_each_page_has_the_same_three_parts_and_commands(alarm):
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
    assert {HELD, HALTED_IN_OTHER} <= blocked
    assert HALTED_IN_OTHER in counted and HELD not in counted


@pytest.mark.parametrize("name", ["GroupHaltedFilter", "RepairsUnverifiedFilter"])
def test_a_blocked_repair_that_the_policy_does_not_ask_for_is_not_counted(name, observed):
    lines = matched(observed, name)
    assert lines
    for line in lines:
        # A function omits the field if the policy does not ask for the repair.
        unwanted = {field: value for field, value in line.items() if field != "Blocked"}
        assert unwanted["step"] == "blocked" and not filter_pattern.matches(FILTERS[name]["FilterPattern"], unwanted)


def test_the_guards_that_halt_a_group_are_guards(observed):
    named = {value for _, value in filter_pattern.compared(FILTERS["GroupHaltedFilter"]["FilterPattern"], "guards")}
    assert len(named) == 2
    assert named <= {guard["guard"] for guard in observed.explained["guards"]}


def test_silent_agents_are_counted_by_their_cluster(observed):
    silent = matched(observed, "AgentSilentFilter")
    assert {line["cluster"] for line in silent} == {OTHER}


def test_an_instance_that_returns_to_a_warm_pool_is_counted_if_it_was_terminated_for_a_fault(observed):
    assert {line["instanceId"] for line in matched(observed, "ReturnedToWarmPoolFilter")} == {HELD}


def test_the_cases_of_a_cluster_whose_policy_was_removed_are_counted(observed):
    counted = {line["cluster"]: line["CasesWithoutPolicy"] for line in observed.logs["repair"] if "CasesWithoutPolicy" in line}
    assert set(counted) == {OTHER} and counted[OTHER] >= 1
