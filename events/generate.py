#!/usr/bin/env python3
"""Writes the files of constructed incidents, and the payloads in lambda/. Recorded incidents are not generated.

Run it after changing an incident, and commit what it writes: `python3 events/generate.py`.
"""
import base64
import gzip
import json
import pathlib

import incidents_01_16
import incidents_40_58
import incidents_65_69
import incidents_70_74
import incidents_75_79
from records import ACCOUNT, Node, at, rfc, template, uuid

HERE = pathlib.Path(__file__).parent
INCIDENTS = (
    incidents_01_16.INCIDENTS
    | incidents_40_58.INCIDENTS
    | incidents_65_69.INCIDENTS
    | incidents_70_74.INCIDENTS
    | incidents_75_79.INCIDENTS
)


def json_lines(records):
    return "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)


def subscription(group, stream, lines):
    """The payload of a CloudWatch Logs subscription: JSON, compressed by gzip, in base64."""
    moment = int(at("10:00:00").timestamp() * 1000)
    data = {
        "messageType": "DATA_MESSAGE", "owner": ACCOUNT, "logGroup": group, "logStream": stream,
        "subscriptionFilters": ["nodemend"],
        "logEvents": [
            {"id": f"{number:056}", "timestamp": moment, "message": json.dumps(line, separators=(",", ":"))}
            for number, line in enumerate(lines)
        ],
    }
    packed = gzip.compress(json.dumps(data, separators=(",", ":")).encode(), mtime=0)
    return {"awslogs": {"data": base64.b64encode(packed).decode()}}


def payloads():
    """A payload for each function, about the cluster and group of `nodemend up`."""
    node, new = Node(0), Node(1)
    report = node.bad(
        "10:00:00", "AcceleratedHardwareReady", "10:00:00", "NvidiaXID79Error",
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=1204, name=python, GPU has fallen off the bus.",
    )
    launch = template("eventbridge-asg-launch-successful")
    launch["detail"] |= {"AutoScalingGroupName": "local-nodes", "EC2InstanceId": new.instance}
    schedule = {
        "version": "0", "id": uuid("schedule"), "detail-type": "Scheduled Event", "source": "aws.events",
        "account": ACCOUNT, "time": rfc("10:00:00", 0), "region": "us-east-1", "resources": [], "detail": {},
    }
    return {
        "intake": subscription("/nodemend/local/nodes", node.instance, [report | {"cluster": "local"}]),
        "repair": schedule,
        "confirm": launch,
    }


def main():
    (HERE / "lambda").mkdir(exist_ok=True)
    for name, payload in payloads().items():
        (HERE / "lambda" / f"{name}.json").write_text(json.dumps(payload, indent=2) + "\n")
    for name, incident in INCIDENTS.items():
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        made = incident()
        # Either the events alone, or the text of each file by its name.
        files = made if isinstance(made, dict) else {"events.jsonl": made}
        for file, content in files.items():
            (folder / file).write_text(content if isinstance(content, str) else json_lines(content))


if __name__ == "__main__":
    main()
