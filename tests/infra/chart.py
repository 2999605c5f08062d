"""Turns infra/chart into manifests, as Helm does. As a program it writes infra/manifests."""

import helm_python as helm
import yaml

from template import ROOT

CHART = ROOT / "infra" / "chart"
MANIFESTS = ROOT / "infra" / "manifests"
NAMESPACE = "nodemend"

# Users of the plain manifests set the cluster's name by hand, or with kustomize.
PLAIN = {"clusterName": "CLUSTER_NAME"}


def texts(values: dict) -> dict:
    """The text of each rendered file, by its name without directories."""
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name="nodemend", namespace=NAMESPACE)
    return {path.rsplit("/", 1)[1]: text for path, text in rendered.items() if path.endswith(".yaml") and text.strip()}


def objects(values: dict) -> dict:
    """Each rendered object, by its kind."""
    found = [yaml.safe_load(text) for text in texts(values).values()]
    return {one["kind"]: one for one in found if one}


def manifests() -> dict:
    """What infra/manifests must contain: file names and texts."""
    written = {
        "namespace.yaml": "\n".join(
            [
                "apiVersion: v1",
                "kind: Namespace",
                "metadata:",
                f"  name: {NAMESPACE}",
                "  labels:",
                "    # The agent reads the node's devices, processes and network.",
                "    pod-security.kubernetes.io/enforce: privileged",
                "",
            ]
        )
    }
    for name, text in texts(PLAIN).items():
        lines = [line.rstrip() for line in text.strip().splitlines() if "managed-by: Helm" not in line]
        written[name] = "\n".join(lines) + "\n"
    names = ["namespace.yaml", *sorted(set(written) - {"namespace.yaml"})]
    resources = "\n".join(f"  - {name}" for name in names)
    written["kustomization.yaml"] = f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources}\n"
    return written


if __name__ == "__main__":
    MANIFESTS.mkdir(exist_ok=True)
    for name, text in manifests().items():
        (MANIFESTS / name).write_text("# Rendered from infra/chart by tests/infra/chart.py; change it there.\n" + text)
