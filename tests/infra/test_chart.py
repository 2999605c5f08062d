"""The chart renders valid Kubernetes objects, and the agent finds in its container what its code reads."""

import http.client
import json
import re
import socket
import subprocess
import time

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from chart import CHART, MANIFESTS, manifests, objects
from programs import PROGRAMS, built
from template import ROOT, deployed, parameters

ROLE = "arn:aws:iam::111122223333:role/nodemend-prod-AgentRole"
RULES = "rules:\n- reason: FuseDeadlock\n  condition: StorageReady\n  severity: Event\n  source: kmsg\n  pattern: 'fuse.*blocked'\n"
VALUES = {
    "default": {},
    "irsa": {"serviceAccount": {"roleArn": ROLE}, "region": "eu-west-1"},
    "pod-identity": {"serviceAccount": {"create": False, "name": "nodemend-agent"}},
    "rules": {"rules": {"ours.yaml": RULES, "npd.json": '{"rules": []}'}},
    "stdout": {"sink": "stdout"},
    "unprivileged": {"privileged": False},
    "cluster-access": {"clusterAccess": True},
    "everything": {
        "image": {"digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "logGroup": "/nodemend/prod/nodes",
        "settings": {"heartbeat": "1m", "without": ["dns"], "excludeInterfaces": ["docker.*"], "spoolMib": 16},
        "hostFiles": ["/var/lib/kubelet/kubeconfig"],
        "nodeSelector": {"team": "data"},
        "podAnnotations": {"a": "b"},
        "port": 19102,
    },
}
# The oldest version that the chart supports, one that is in use, and the second newest that has schemas.
KUBERNETES = ["1.25", "1.31", "1.36"]


def rendered(name: str) -> dict:
    return objects({"clusterName": "prod", **VALUES[name]})


def container(name: str) -> dict:
    return rendered(name)["DaemonSet"]["spec"]["template"]["spec"]["containers"][0]


def pod(name: str) -> dict:
    return rendered(name)["DaemonSet"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", VALUES)
def test_helm_lint_finds_nothing(name):
    report = helm.lint(str(CHART), {"clusterName": "prod", **VALUES[name]}, strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] >= 2] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", VALUES)
def test_kubernetes_accepts_it(name, version):
    found = rendered(name)
    assert {"ConfigMap", "DaemonSet"} <= set(found)
    for one in found.values():
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "clusterName"),
        ({"clusterName": ""}, "clusterName"),
        ({"clusterName": "prod", "clustername": "x"}, "clustername"),
        ({"clusterName": "prod", "sink": "syslog"}, "sink"),
        ({"clusterName": "prod", "settings": {"cluster": "other"}}, "cluster"),
        ({"clusterName": "prod", "settings": {"heartbeats": "1m"}}, "heartbeats"),
        ({"clusterName": "prod", "rules": {"agent.yaml": "x"}}, "rules"),
        ({"clusterName": "prod", "rules": {"../x.yaml": "x"}}, "x.yaml"),
        ({"clusterName": "prod", "serviceAccount": {"roleArn": "nodemend"}}, "roleArn"),
        ({"clusterName": "prod", "image": {"digest": "latest"}}, "digest"),
        ({"clusterName": "prod", "hostFiles": ["etc/x"]}, "hostFiles"),
    ],
)
def test_wrong_values_are_refused_by_name(values, named):
    with pytest.raises(helm.HelmError, match=named):
        objects(values)


def test_the_plain_manifests_are_the_chart_rendered():
    found = {file.name: file.read_text().split("\n", 1)[1] for file in MANIFESTS.iterdir()}
    assert found == manifests(), "to write them: .venv/bin/python tests/infra/chart.py"
    for name in set(found) - {"kustomization.yaml"}:
        kubernetes_validate.validate(yaml.safe_load(found[name]), KUBERNETES[-1], strict=True)


# ---- what the agent is given


@pytest.mark.parametrize("name", VALUES)
def test_it_runs_on_every_node_with_the_highest_priority(name):
    spec = pod(name)
    assert spec["tolerations"] == [{"operator": "Exists"}], "every taint"
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["hostNetwork"] is True
    assert spec["automountServiceAccountToken"] is False


def test_a_role_is_set_by_annotation_or_by_the_service_accounts_name():
    irsa, own = rendered("irsa"), rendered("default")
    assert irsa["ServiceAccount"]["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": ROLE}
    environment = {one["name"]: one.get("value") for one in container("irsa")["env"]}
    assert environment["AWS_EC2_METADATA_DISABLED"] == "true"
    assert environment["AWS_REGION"] == "eu-west-1"
    assert "annotations" not in own["ServiceAccount"]["metadata"]
    assert {one["name"] for one in container("default")["env"]} == {"NODE_NAME"}
    assert "ServiceAccount" not in rendered("pod-identity")
    # The template gives its role to the same names.
    assert own["ServiceAccount"]["metadata"]["name"] == parameters()["AgentServiceAccount"]
    assert own["ServiceAccount"]["metadata"]["namespace"] == parameters()["AgentNamespace"]
    for name in ("default", "pod-identity"):
        assert pod(name)["serviceAccountName"] == parameters()["AgentServiceAccount"]


@pytest.mark.parametrize("name", VALUES)
def test_probes_connect_to_the_address_where_the_agent_listens(name):
    settings = yaml.safe_load(rendered(name)["ConfigMap"]["data"]["agent.yaml"])
    for probe in ("livenessProbe", "readinessProbe"):
        http_get = container(name)[probe]["httpGet"]
        assert f"{http_get['host']}:{http_get['port']}" == settings["listen"]


def test_the_agent_answers_the_probes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    boot_id = tmp_path / "proc" / "sys" / "kernel" / "random" / "boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("3e5696ab-eba1-4b55-bf1c-9a80963b1cab\n")
    log = tmp_path / "log"
    command = [
        built(PROGRAMS["agent"]), "run", "--cluster", "prod", "--node", "a", "--instance-id", "i-0ab76e62066c9730c", "--no-imds",
        "--root", tmp_path, "--state-dir", tmp_path / "spool", "--sink", "stdout", "--listen", f"127.0.0.1:{port}",
    ]
    with log.open("w") as out:
        agent = subprocess.Popen(command, env={"HOME": str(tmp_path)}, stdout=out, stderr=out)
    try:
        for probe in ("livenessProbe", "readinessProbe"):
            path, deadline = container("default")[probe]["httpGet"]["path"], time.monotonic() + 30
            while status(port, path) != 200:
                assert agent.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        assert status(port, "/other") == 404
    finally:
        agent.terminate()
        agent.wait(20)


def status(port: int, path: str) -> int:
    """The status code of the answer; 0 while the agent does not listen."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except ConnectionError:
        return 0
    finally:
        connection.close()


def test_nothing_of_the_container_or_the_node_can_be_written_but_the_spool():
    for name in VALUES:
        assert container(name)["securityContext"]["readOnlyRootFilesystem"] is True
        writable = [mount["name"] for mount in container(name)["volumeMounts"] if not mount.get("readOnly")]
        assert writable == ["state"]


def test_without_privileges_only_what_is_named_is_left():
    context = container("unprivileged")["securityContext"]
    assert context["privileged"] is False and context["allowPrivilegeEscalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    values = (CHART / "values.yaml").read_text().split("\ncapabilities:\n")[1].split("\n\n")[0]
    lines = [line.strip() for line in values.splitlines()]
    names = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    assert context["capabilities"]["add"] == names
    explained = [line for line in lines if line.startswith("#")]
    assert len(explained) == len(names), "a comment with its reason must precede each"


def test_settings_of_the_schema_are_those_of_the_agent():
    shown = subprocess.run([built(PROGRAMS["agent"]), "run", "--help"], capture_output=True, text=True, check=True).stdout
    flags = set(re.findall(r"^\s+(?:-\w, )?--([a-z-]+)", shown, re.M)) - {"help", "version", "config"}
    # Every setting has one name, as a flag and as a field of the file.
    known = {re.sub(r"-(\w)", lambda found: found[1].upper(), flag) for flag in flags}
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    # Those that the chart sets, and those that differ on each node.
    of_the_chart = {"cluster", "sink", "logGroup", "root", "stateDir", "listen", "rules"}
    of_the_node = {"node", "instanceId"}
    assert set(schema["settings"]["properties"]) == known - of_the_chart - of_the_node


@pytest.mark.parametrize("name", VALUES)
def test_the_agent_accepts_its_settings(name, tmp_path):
    file = tmp_path / "agent.yaml"
    file.write_text(rendered(name)["ConfigMap"]["data"]["agent.yaml"])
    # Every subcommand reads its settings, and this one does nothing more if no reason is given.
    started = subprocess.run([built(PROGRAMS["agent"]), "inject", "--config", file], capture_output=True, text=True, timeout=30)
    assert started.returncode == 0, started.stderr
    file.write_text(file.read_text() + "noSuchSetting: 1\n")
    assert subprocess.run([built(PROGRAMS["agent"]), "inject", "--config", file], capture_output=True, timeout=30).returncode == 64


# ---- what the agent can read of its node

# Paths that the agent reads and the chart does not mount, each with its reason.
NOT_MOUNTED = {
    "/var/lib/kubelet/kubeconfig": "hostFiles, on Amazon Linux 2",
    "/var/lib/kubelet/config.yaml": "of kubeadm, which EKS does not use; hostFiles elsewhere",
    "/var/lib/nodemend": "the default of stateDir, which the chart sets",
    "/var/run/": "a prefix that is replaced with /run",
    "/lib/containerd/": "a part of the names of a pod's mounts",
}


def agent_paths() -> set:
    """Every path on the node that the agent's source names.

    They are read from the source because no run shows them all: which files the agent opens depends on the node's hardware,
    distribution and container runtime, and a path behind a missing directory is never opened at all."""
    found = set()
    for file in (ROOT / "agent" / "src").rglob("*.rs"):
        if file.name in ("tests.rs", "fake.rs", "inject.rs"):
            continue
        text = re.split(r"#\[cfg\(test\)\]\s*(?:pub\s+)?mod \w+", file.read_text())[0]
        text = re.sub(r"//[^\n]*", "", text)
        for path in re.findall(r'"/?((?:proc|sys|dev|run|var|etc|usr|opt|boot|lib|lib64|home|root|mnt|srv)/[^"\s]*)"', text):
            found.add(f"/{path}")
    return found


def test_every_path_that_the_agent_names_is_mounted_or_omitted_for_a_reason():
    mounts = [m["mountPath"].removeprefix("/host") for m in container("default")["volumeMounts"] if m["mountPath"].startswith("/host")]
    paths = agent_paths()
    assert len(paths) > 40
    unseen = {path for path in paths if not any(path == mount or path.startswith(f"{mount}/") for mount in mounts)}
    # The agent only checks that this directory exists, and a mount below it creates it.
    assert "/var/lib/kubelet" in unseen
    assert unseen - {"/var/lib/kubelet"} == set(NOT_MOUNTED)


def test_every_mount_has_its_reason():
    text = (CHART / "templates" / "daemonset.yaml").read_text()
    mounts = text.split("volumeMounts:\n")[1].split("      volumes:")[0].strip().splitlines()
    for before, line in zip(mounts, mounts[1:]):
        if "/host/" in line and "{{" not in line:
            assert before.strip().startswith("#"), line


@pytest.mark.parametrize("name", VALUES)
def test_the_agent_may_not_call_the_api_server(name):
    more = {"ClusterRole", "ClusterRoleBinding"} if name == "cluster-access" else set()
    assert set(rendered(name)) - {"ConfigMap", "DaemonSet", "ServiceAccount"} == more


def test_the_repair_function_may_read_nodes_and_nothing_else():
    found = rendered("cluster-access")
    role, binding = found["ClusterRole"], found["ClusterRoleBinding"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role["metadata"]["name"]}
    (subject,) = binding["subjects"]
    entry = deployed(ClusterAccess="enabled")["Resources"]["RepairAccessEntry"]["Properties"]
    assert (subject["kind"], [subject["name"]]) == ("Group", entry["KubernetesGroups"])
    # The same for clusters without the chart.
    plain = list(yaml.safe_load_all((ROOT / "infra" / "examples" / "read-rbac.yaml").read_text()))
    for one, other in zip(plain, (role, binding), strict=True):
        other["metadata"].pop("labels")
        assert one == other
