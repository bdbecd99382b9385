"""The Helm chart: what it renders is what kustomize renders, but for the differences that are listed here.

A difference is reported as a path in the manifests: `kubernetes` is what deploy/kubernetes has there, `helm` what the chart has. Mend the
chart, or the manifests, until they agree.
"""

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from conftest import BIN, DEPLOY, ROOT, running, serving
from test_kubernetes import CRDS, VERSION, closed, custom_schema, rendered

CHART = DEPLOY / "helm/alim-bridge"
GATEWAY = Path(os.environ["GATEWAY_CRDS"])

# The values that make of the chart what kustomize makes of an overlay, or of the base with one component.
SAME: dict[str, dict[str, Any]] = {
    "base": {},
    "production": {
        "image": {"repository": "registry.example/alim-bridge"},
        "secrets": {"callers": "alim-bridge-callers"},
        "autoscaling": {"enabled": True},
        "monitoring": {"serviceMonitor": True, "rules": True, "dashboard": True},
    },
    "tls": {"tls": {"secret": "alim-bridge-tls", "clientCaSecret": "alim-bridge-client-ca"}},
    "gateway": {"gateway": {"parentRefs": [{"name": "gateway", "namespace": "gateways"}], "hostnames": ["alim-bridge.example"]}},
}

# What a chart has by Helm's custom and a kustomization has not.
HELM_LABELS = {"helm.sh/chart", "app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"}
# What kustomize alone makes: `helm --create-namespace` makes a namespace, and no chart writes its name.
KUSTOMIZE_KINDS = {"Namespace"}


def helm(*arguments: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    command = ["helm", *arguments, *(["--values", "-"] if values is not None else [])]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, timeout=60)


def charted(values: dict[str, Any], release: str = "alim-bridge") -> list[dict[str, Any]]:
    """What the chart renders with the values."""
    made = helm("template", release, str(CHART), "--namespace", "alim-bridge", values=values)
    assert made.returncode == 0, made.stderr
    return [found for found in yaml.safe_load_all(made.stdout) if found]


def normal(made: dict[str, Any]) -> dict[str, Any]:
    """The object without the differences that are meant."""
    made = copy.deepcopy(made)
    made["metadata"].pop("namespace", None)
    made["metadata"].setdefault("labels", {}).setdefault("app.kubernetes.io/name", "alim-bridge")  # kustomize labels the base alone
    spec = made.get("spec", {})
    if made["kind"] == "ConfigMap":
        made["metadata"]["name"] = unhashed(made["metadata"]["name"])
    if made["kind"] == "Service" and spec.get("type") == "ClusterIP":  # the default, which the chart writes out
        del spec["type"]
    if made["kind"] == "Deployment":
        template = spec["template"]
        template["metadata"].pop("annotations", None)  # the checksum of the settings, in place of the hash in the ConfigMap's name
        for source in template["spec"]["containers"][0]["envFrom"]:
            source["configMapRef"]["name"] = unhashed(source["configMapRef"]["name"])
    if made["kind"] == "ConfigMap" and "dashboard.json" in made["data"]:
        made["data"]["dashboard.json"] = json.loads(made["data"]["dashboard.json"])
    return without_helm(made)


def unhashed(name: str) -> str:
    return re.sub(r"^(alim-bridge)-[a-z0-9]{10}$", r"\1", name)


def without_helm(value: Any) -> Any:
    """The value without Helm's labels, in metadata and in selectors."""
    if isinstance(value, list):
        return [without_helm(part) for part in value]
    if isinstance(value, dict):
        return {key: without_helm(part) for key, part in value.items() if key not in HELM_LABELS}
    return value


def differences(kubernetes: Any, chart: Any, path: str) -> list[str]:
    """Each place where the two differ, as a line."""
    if isinstance(kubernetes, dict) and isinstance(chart, dict):
        keys = sorted(kubernetes.keys() | chart.keys())
        pairs = [(kubernetes.get(key, "(absent)"), chart.get(key, "(absent)"), f"{path}.{key}") for key in keys]
    elif named(kubernetes) and named(chart):  # volumes, variables, ports: their order means nothing
        return differences({part["name"]: part for part in kubernetes}, {part["name"]: part for part in chart}, path)
    elif isinstance(kubernetes, list) and isinstance(chart, list) and len(kubernetes) == len(chart):
        pairs = [(one, other, f"{path}[{place}]") for place, (one, other) in enumerate(zip(kubernetes, chart, strict=True))]
    elif kubernetes == chart and type(kubernetes) is type(chart):
        return []
    else:
        return [f"{path}\n    kubernetes: {json.dumps(kubernetes)}\n    helm:       {json.dumps(chart)}"]
    return [line for pair in pairs for line in differences(*pair)]


def named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) and "name" in part for part in value)


@pytest.mark.parametrize("form", SAME)
def test_the_chart_renders_what_kustomize_renders(form: str) -> None:
    kustomized = {(made["kind"], normal(made)["metadata"]["name"]): normal(made) for made in rendered(form)}
    kustomized = {key: made for key, made in kustomized.items() if key[0] not in KUSTOMIZE_KINDS}
    chart = {(made["kind"], made["metadata"]["name"]): normal(made) for made in charted(SAME[form])}
    found = [
        line
        for kind, name in sorted(kustomized.keys() | chart.keys())
        for line in differences(kustomized.get((kind, name), "(absent)"), chart.get((kind, name), "(absent)"), f"{kind} {name}")
    ]
    if found:
        pytest.fail(f"deploy/kubernetes ({form}) and deploy/helm differ:\n" + "\n".join(found), pytrace=False)


def test_a_difference_would_be_found() -> None:
    (deployment,) = [made for made in charted({}) if made["kind"] == "Deployment"]
    other = copy.deepcopy(deployment)
    other["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False
    (line,) = differences(normal(deployment), normal(other), "Deployment")
    assert line.startswith("Deployment.spec.template.spec.containers.alim-bridge.securityContext.readOnlyRootFilesystem\n")
    other["spec"]["replicas"] = "2"
    assert len(differences(normal(deployment), normal(other), "Deployment")) == 2


# All that the chart can render at once.
ALL: dict[str, Any] = {
    **SAME["production"],
    **SAME["tls"],
    **SAME["gateway"],
    "image": {"repository": "registry.example/alim-bridge", "digest": "sha256:" + "0" * 64, "pullPolicy": "IfNotPresent"},
    "imagePullSecrets": [{"name": "registry"}],
    "secrets": {"callers": "alim-bridge-callers", "adminToken": "admin"},
    "settings": {"UPSTREAM_QUOTA": "30/min", "MAX_CALLS": 1000000, "ACCESS_LOG": False, "UPSTREAM_CA_FILE": "/etc/alim/ca.crt"},
    "env": [{"name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": {"secretKeyRef": {"name": "otel", "key": "headers"}}}],
    "serviceAccount": {"name": "calls", "annotations": {"example/role": "calls"}},
    "service": {"type": "LoadBalancer", "annotations": {"example/internal": "true"}},
    "podDisruptionBudget": {"maxUnavailable": "25%"},
    "networkPolicy": {
        "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": "grpc"}]}],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "ratelimit"}}}], "ports": [{"port": 8081}]}],
    },
    "podAnnotations": {"linkerd.io/inject": "enabled"},
    "podLabels": {"team": "field"},
    "priorityClassName": "serving",
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "serving", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
    ],
    "volumes": [{"name": "alim-ca", "configMap": {"name": "alim-ca"}}],
    "volumeMounts": [{"name": "alim-ca", "mountPath": "/etc/alim"}],
}


@pytest.mark.parametrize("values", [{}, ALL, {"secrets": {"upstream": ""}, "serviceAccount": {"create": False}}], ids=["defaults", "all", "few"])
def test_every_object_of_the_chart_is_valid(values: dict[str, Any]) -> None:
    for made in charted(values, release="calls"):
        if made["kind"] == "GRPCRoute":
            jsonschema.validate(made, gateway_schema(made))
        elif "monitoring.coreos.com" in made["apiVersion"]:
            jsonschema.validate(made, custom_schema(made))
        else:
            kubernetes_validate.validate(made, VERSION, strict=True)


def gateway_schema(made: dict[str, Any]) -> dict[str, Any]:
    definition = yaml.safe_load((GATEWAY / f"gateway.networking.k8s.io_{made['kind'].lower()}s.yaml").read_text())["spec"]
    (schema,) = [known["schema"]["openAPIV3Schema"] for known in definition["versions"] if known["name"] == "v1"]
    return closed(schema)


def test_the_route_of_the_component_is_valid_and_reaches_the_service() -> None:
    (route,) = [made for made in rendered("gateway") if made["kind"] == "GRPCRoute"]
    jsonschema.validate(route, gateway_schema(route))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(route | {"spec": route["spec"] | {"timeouts": {}}}, gateway_schema(route))
    (rule,) = route["spec"]["rules"]
    services = {(made["metadata"]["name"], made["spec"]["ports"][0]["port"]) for made in rendered("gateway") if made["kind"] == "Service"}
    assert {(backend["name"], backend["port"]) for backend in rule["backendRefs"]} <= services
    protos = "".join(path.read_text() for path in (ROOT / "proto/alim/v1").glob("*.proto"))
    served = {f"alim.v1.{name}" for name in re.findall(r"^service (\w+)", protos, re.MULTILINE)}
    assert {match["method"]["service"] for match in rule["matches"]} == served | {"grpc.health.v1.Health"}


def test_the_bridge_starts_with_all_settings_of_the_chart(tmp_path: Path) -> None:
    """On and off stay words, and a million is no 1e+06."""
    (settings,) = [made["data"] for made in charted(ALL) if made["kind"] == "ConfigMap" and "ALIM_BRIDGE_LISTEN" in made["data"]]
    assert settings["ALIM_BRIDGE_MAX_CALLS"] == "1000000"
    assert settings["ALIM_BRIDGE_ACCESS_LOG"] == "off"
    env = {name: value for name, value in settings.items() if not name.endswith("_FILE")}
    (tmp_path / "key").write_text("some-key")
    here = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--upstream-api-key-file", str(tmp_path / "key")]
    with running([BIN, "serve", *here], serving, env=env):
        pass


def test_every_file_that_a_setting_names_is_mounted() -> None:
    made = charted(ALL)
    (settings,) = [found["data"] for found in made if found["kind"] == "ConfigMap" and "ALIM_BRIDGE_LISTEN" in found["data"]]
    (pod,) = [found["spec"]["template"]["spec"] for found in made if found["kind"] == "Deployment"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    files = {name: Path(value) for name, value in settings.items() if name.endswith("_FILE")}
    assert len(files) == 7 and {str(path.parent) for path in files.values()} == set(mounts)
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"settings": {"ALIM_BRIDGE_MAX_CALLS": "10"}},
        {"settings": {"UPSTREAM_API_KEY": "secret"}},
        {"env": [{"name": "ALIM_BRIDGE_MAX_CALLS", "value": "10"}]},
        {"tls": {"clientCaSecret": "ca"}},
        {"image": {"digest": "latest"}},
        {"workers": 0},
        {"networkPolicy": {"upstream": {"to": []}}},
    ],
    ids=lambda values: next(iter(values)),
)
def test_wrong_values_are_rejected(values: dict[str, Any]) -> None:
    made = helm("template", "alim-bridge", str(CHART), values=values)
    assert made.returncode != 0
    assert "values don't meet the specifications of the schema" in made.stderr, made.stderr


def test_a_setting_that_is_taken_away_has_the_bridges_own_default() -> None:
    (settings,) = [made["data"] for made in charted({"settings": {"MAX_CONNECTION_AGE": None}}) if made["kind"] == "ConfigMap"]
    assert "ALIM_BRIDGE_MAX_CONNECTION_AGE" not in settings
    assert "ALIM_BRIDGE_DRAIN_DELAY" in settings


def test_the_chart_passes_helms_own_strict_check() -> None:
    for values in ({}, ALL):
        made = helm("lint", "--strict", str(CHART), values=values)
        assert made.returncode == 0, made.stdout + made.stderr


def test_the_notes_warn_of_what_stands_open() -> None:
    open_notes = notes({})
    assert "WARNING: no caller needs a key" in open_notes
    assert "Set settings.UPSTREAM_QUOTA" in open_notes
    closed_notes = notes({"secrets": {"callers": "alim-bridge-callers"}, "settings": {"UPSTREAM_QUOTA": "30/min"}})
    assert "WARNING" not in closed_notes
    assert "create secret generic alim-bridge-callers --from-file=callers.toml" in closed_notes


def notes(values: dict[str, Any]) -> str:
    made = helm("install", "alim-bridge", str(CHART), "--dry-run=client", "--namespace", "alim-bridge", values=values)
    assert made.returncode == 0, made.stderr
    return made.stdout.split("\nNOTES:\n")[1]


def test_the_readme_of_the_chart_has_every_value_with_its_default() -> None:
    table = dict(re.findall(r"^\| `([^`]+)` \| `([^`]*)` \|", (CHART / "README.md").read_text(), re.MULTILINE))
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert table == dict(flat(values)), "the table of deploy/helm/alim-bridge/README.md"


def flat(values: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Every value by its path; maps and lists that users fill stand as one."""
    made = []
    for key, value in values.items():
        whole = f"{path}{key}"
        if isinstance(value, dict) and value and whole not in {"resources", "monitoring.labels"}:
            made += flat(value, f"{whole}.")
        else:
            made.append((whole, value if isinstance(value, str) and value else json.dumps(value)))
    return made
