"""The files in deploy/ are well-formed, and name metrics, options, keys and files that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from listener.config.settings import Settings
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.web import ANY_PORT, Client

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "pgherald.json").read_text(encoding="utf-8"))
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool")
SUFFIXES = ("", "_bucket", "_sum", "_count")


def promtool(*arguments: object, said: str | None = None) -> None:
    done = subprocess.run(["promtool", *map(str, arguments)], input=said, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def metrics(pgherald: Pgherald, database: Database, mail: MailServer) -> str:
    """As a daemon that has delivered shows them."""
    database.verify(database.add_plan("Lisbon", "ana@example.org"))
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        mail.wait_for(1)
        daemon.wait_event("event_sent")
        return client.get("/metrics").text


def queried() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for expr in re.findall(r"expr: '(.*)'$", ALERTS.read_text(encoding="utf-8"), re.MULTILINE):
        yield ALERTS.name, expr


def test_what_is_queried_is_there(metrics: str) -> None:
    families = dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics, re.MULTILINE))
    there = {
        name + suffix for name, kind in families.items() for suffix in (SUFFIXES if kind == "histogram" else ("",))
    }
    asked = [(where, name) for where, expr in queried() for name in re.findall(r"\b(?:pgherald|process)_\w+", expr)]
    assert len(asked) > 40
    assert [(where, name) for where, name in asked if name not in there] == []


def test_labels_that_are_queried_are_there(metrics: str) -> None:
    labels = {"job", "instance", "le", *re.findall(r'(\w+)="', metrics)}
    for _, expr in queried():
        assert (
            set(re.findall(r'(\w+)=~?"', expr))
            | {name for group in re.findall(r"\b(?:by|on) \(([\w, ]+)\)", expr) for name in group.split(", ")}
            <= labels
        )


@needs_promtool
def test_metrics_as_prometheus_wants_them(metrics: str) -> None:
    promtool("check", "metrics", said=metrics)


@needs_promtool
def test_alerts_ring_when_they_should() -> None:
    promtool("check", "rules", ALERTS)
    promtool("test", "rules", ALERTS.with_suffix(".test.yaml"))


def test_every_alert_is_tested_both_ways_and_has_its_section() -> None:
    names = re.findall(r"alert: (\w+)", ALERTS.read_text(encoding="utf-8"))
    tested = ALERTS.with_suffix(".test.yaml").read_text(encoding="utf-8")
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert len(names) > 8
    for name in names:
        assert f"- name: {name}\n" in tested
        assert f"- name: {name}, not\n" in tested
        assert f"\n### {name}\n" in operations


def test_every_panel_has_a_title_a_unit_and_words() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) > 15
    for panel in panels:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    # No two lie on each other, and none leaves the grid.
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


class TestManifests:
    @pytest.fixture
    def documents(self) -> list[dict[str, Any]]:
        yaml = pytest.importorskip("yaml", reason="make test-deploy brings it")
        return [
            document
            for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
            for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        ]

    def test_fit_the_schemas_of_kubernetes(self, documents: list[dict[str, Any]]) -> None:
        validator = pytest.importorskip("kubernetes_validate", reason="make test-deploy brings it")
        kinds = []
        for document in documents:
            kinds.append(document["kind"])
            if document["apiVersion"].startswith("monitoring.coreos.com"):
                # Not Kubernetes' own.
                assert document["spec"].keys() == {"selector", "endpoints"}
                continue
            for version in ("1.29", "1.33"):
                validator.validate(document, version, strict=True)
        assert set(kinds) == {
            "ConfigMap", "Deployment", "Job", "PodDisruptionBudget", "Secret", "Service", "ServiceMonitor",
        }  # fmt: skip

    def test_pods_are_nobody_and_find_their_parts(self, documents: list[dict[str, Any]]) -> None:
        named = {(document["kind"], document["metadata"]["name"]) for document in documents}
        pods = [document["spec"]["template"] for document in documents if document["kind"] in ("Deployment", "Job")]
        assert len(pods) == 2
        for pod in pods:
            [container] = pod["spec"]["containers"]
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
            for volume in pod["spec"]["volumes"]:
                if "secret" in volume:
                    assert ("Secret", volume["secret"]["secretName"]) in named
                else:
                    assert ("ConfigMap", volume["configMap"]["name"]) in named

    def test_the_deployment(self, documents: list[dict[str, Any]]) -> None:
        [deployment] = [document for document in documents if document["kind"] == "Deployment"]
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert deployment["spec"]["replicas"] == 2
        assert pod["terminationGracePeriodSeconds"] > Settings().delivery.grace
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_compose() -> None:
    yaml = pytest.importorskip("yaml", reason="make test-deploy brings it")
    file = DEPLOY / "compose.yaml"
    services = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]
    assert services.keys() == {"postgres", "mailpit", "django", "install", "pgherald"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= services.keys()
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), source


@pytest.mark.parametrize("file", [file for file in DEPLOY.rglob("*") if file.is_file()], ids=lambda file: file.name)
def test_variables_are_keys(file: Path) -> None:
    known = {
        f"PGHERALD_{section}_{field.alias or name}".upper()
        for section, part in Settings.model_fields.items()
        for name, field in getattr(part.annotation, "model_fields", {}).items()
    }
    named = set(re.findall(r"PGHERALD_[A-Z_]+", file.read_text(encoding="utf-8")))
    assert {name.removesuffix("_FILE") for name in named} <= known | {"PGHERALD_CONFIG"}
