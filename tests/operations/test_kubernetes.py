"""The rendered manifests: valid, and fitting to the bridge that they run."""

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from conftest import BIN, DEPLOY, Bridge, rules, running, serving

VERSION = "1.37"
CRDS = Path(os.environ["CRDS"])
OVERLAYS = ["production", "trial", "tls", "quota"]
COMPONENTS = ["tls", "quota", "gateway"]
WITH_COMPONENT = "resources: [{base}]\ncomponents: [{component}]\n"


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """What kustomize makes of the base or an overlay; `tls`, `quota` and `gateway` are the base with that component, for no overlay here has it."""
    folder = DEPLOY / "kubernetes" / (overlay if overlay == "base" else f"overlays/{overlay}")
    if overlay in COMPONENTS:
        folder = Path(os.environ["SCRATCH"]) / overlay
        folder.mkdir(parents=True, exist_ok=True)
        paths = {"base": "base", "component": f"components/{overlay}"}
        paths = {name: os.path.relpath(DEPLOY / "kubernetes" / path, folder) for name, path in paths.items()}
        (folder / "kustomization.yaml").write_text(WITH_COMPONENT.format(**paths))
    made = subprocess.run(["kustomize", "build", str(folder)], capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, "")
    return list(yaml.safe_load_all(made.stdout))


def one(overlay: str, kind: str, name: str = "alim-bridge") -> dict[str, Any]:
    found = [made for made in rendered(overlay) if made["kind"] == kind and made["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def pod(overlay: str) -> dict[str, Any]:
    return one(overlay, "Deployment")["spec"]["template"]["spec"]


def container(overlay: str) -> dict[str, Any]:
    (only,) = pod(overlay)["containers"]
    return only


def settings(overlay: str) -> dict[str, str]:
    """The environment of the bridge's container."""
    name = container(overlay)["envFrom"][0]["configMapRef"]["name"]
    return one(overlay, "ConfigMap", name)["data"]


def seconds(setting: str) -> int:
    return int(re.fullmatch(r"(\d+)s", setting).group(1))


def closed(schema: Any) -> Any:
    """The schema with every object closed to fields that it does not name, as a strict server has it."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(part) for key, part in schema.items()}
    if isinstance(schema.get("pattern"), str):
        made["pattern"] = schema["pattern"].replace("^(?i)", "(?i)^")  # Go lets flags stand anywhere, Python in front
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not is_open:
        made["additionalProperties"] = False
    return made


def custom_schema(made: dict[str, Any]) -> dict[str, Any]:
    (path,) = CRDS.glob(f"*_{made['kind'].lower()}s.yaml")
    definition = yaml.safe_load(path.read_text())["spec"]
    version = made["apiVersion"].removeprefix(f"{definition['group']}/")
    (schema,) = [known["schema"]["openAPIV3Schema"] for known in definition["versions"] if known["name"] == version]
    return closed(schema)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_valid_and_has_no_field_that_its_schema_does_not_know(overlay: str) -> None:
    for made in rendered(overlay):
        if "monitoring.coreos.com" in made["apiVersion"]:
            jsonschema.validate(made, custom_schema(made))
        else:
            kubernetes_validate.validate(made, VERSION, strict=True)


def test_an_unknown_field_would_be_found() -> None:
    wrong = one("production", "ServiceMonitor") | {}
    wrong["spec"] = wrong["spec"] | {"joblabel": "x"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, custom_schema(wrong))
    wrong = one("production", "PodDisruptionBudget") | {"spec": {"maxUnavailible": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@pytest.mark.parametrize("overlay", ["production", "trial", "quota"])
def test_the_bridge_starts_with_the_settings_of_the_config_map(overlay: str, tmp_path: Path) -> None:
    """The real binary reads them; only the ports and the key's place are this machine's."""
    (tmp_path / "key").write_text("some-key")
    subprocess.run([BIN, "callers", "add", tmp_path / "callers.toml", "orders"], check=True, capture_output=True)
    here = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--upstream-api-key-file", str(tmp_path / "key")]
    if "ALIM_BRIDGE_CALLERS_FILE" in settings(overlay):
        here += ["--callers-file", str(tmp_path / "callers.toml")]
    with running([BIN, *container(overlay)["args"], *here], serving, env=settings(overlay)):
        pass


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_within_70_percent_of_the_memory_limit_as_many_calls_can_be_open_as_may_be(overlay: str) -> None:
    limit = int(re.fullmatch(r"(\d+)Mi", container(overlay)["resources"]["limits"]["memory"]).group(1)) << 20
    here = ["--listen", "127.0.0.1:0", "--admin-listen", "off", "--log-format", "json", "--memory-limit", f"{limit // 10 * 7}B"]
    env = {"ALIM_BRIDGE_UPSTREAM_API_KEY": "some-key"}
    with running([BIN, "serve", *here], admitted, env=env) as (_, calls):
        assert calls == settings(overlay).get("ALIM_BRIDGE_MAX_CALLS", "4096")


def admitted(line: str) -> str | None:
    return str(json.loads(line)["admitted_calls"]) if '"message":"serving"' in line else None


def test_production_and_tls_are_closed_as_they_are_shipped() -> None:
    assert "ALIM_BRIDGE_CALLERS_FILE" in settings("production")
    assert "ALIM_BRIDGE_TLS_CLIENT_CA_FILE" in settings("tls")
    volumes = [volume["secret"] for overlay in ("production", "tls") for volume in pod(overlay)["volumes"]]
    assert not any(volume.get("optional") for volume in volumes), "without its Secret a pod must not start"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_listens_where_the_ports_and_probes_are(overlay: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(overlay)["ports"]}
    listens = {name: settings(overlay)[f"ALIM_BRIDGE_{key}"] for name, key in (("grpc", "LISTEN"), ("admin", "ADMIN_LISTEN"))}
    assert listens == {name: f"[::]:{port}" for name, port in ports.items()}, "an IPv6-only pod has no IPv4 address"
    probes = [container(overlay)[f"{when}Probe"] for when in ("startup", "readiness", "liveness")]
    if overlay == "tls":
        assert [(probe["httpGet"]["port"], "grpc" in probe) for probe in probes] == [("admin", False)] * 3
    else:
        assert [probe["grpc"] for probe in probes] == [{"port": ports["grpc"]}] * 3, 'only "" ignores ALİM'


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_drain_fits_into_the_grace_period_with_room_to_spare(overlay: str) -> None:
    drain = sum(seconds(settings(overlay)[f"ALIM_BRIDGE_DRAIN_{part}"]) for part in ("DELAY", "TIMEOUT"))
    assert pod(overlay)["terminationGracePeriodSeconds"] >= drain + 5


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_runs_without_rights(overlay: str) -> None:
    for made in rendered(overlay):
        if made["kind"] != "Deployment":
            continue
        spec = made["spec"]["template"]["spec"]
        assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
        context = spec["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"], context["runAsGroup"]) == (True, 65532, 65532)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for run in spec["containers"]:
            rights = run["securityContext"]
            assert (rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"]) == (False, True)
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert set(run["resources"]) == {"requests", "limits"}
            assert set(run["resources"]["limits"]) == {"memory", "ephemeral-storage"}, "a CPU limit makes streams stutter"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_files_that_settings_name_are_mounted_as_folders_that_follow_changes(overlay: str) -> None:
    mounts = {mount["mountPath"]: mount for mount in container(overlay)["volumeMounts"]}
    named = [value for key, value in settings(overlay).items() if key.endswith("_FILE")]
    assert {str(Path(path).parent) for path in named} == set(mounts)
    assert not any("subPath" in mount for mount in mounts.values())
    volumes = {volume["name"]: volume["secret"]["defaultMode"] for volume in pod(overlay)["volumes"]}
    assert set(volumes.values()) == {0o440}
    assert "fsGroup" in pod(overlay)["securityContext"], "or 65532 could not read them"


def test_selectors_of_others_are_left_as_they_were_written() -> None:
    """kustomize's labels can reach into a NetworkPolicy's peers."""
    allowed = one("production", "NetworkPolicy")["spec"]
    peers = [peer.get("podSelector", {}).get("matchLabels") for rule in allowed["egress"] for peer in rule["to"]]
    assert peers == [{"k8s-app": "kube-dns"}, {"app.kubernetes.io/name": "alim"}, None]
    assert [port["port"] for rule in allowed["egress"] for port in rule["ports"]] == [53, 53, 8000, 4317]
    assert [rule["ports"][0]["port"] for rule in allowed["ingress"]] == ["grpc", "admin"]


def test_the_quota_passes_from_the_bridges_to_redis_and_nothing_else_does() -> None:
    """Who may ask whom, and where: each way stands at both of its ends."""
    ways = {}
    for name in ("alim-bridge", "ratelimit", "redis"):
        policy = one("quota", "NetworkPolicy", name)["spec"]
        assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": name}
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        ways[name] = [reached(rule.get("from"), rule) for rule in policy["ingress"]], [reached(rule["to"], rule) for rule in policy["egress"]]
    assert ways["alim-bridge"][1][3:] == [("ratelimit", [8081])]
    assert ways["ratelimit"] == ([("alim-bridge", ["grpc"])], [("kube-dns", [53, 53]), ("redis", [6379])])
    assert ways["redis"] == ([("ratelimit", ["redis"])], [])
    ports = {name: one("quota", "Deployment", name)["spec"]["template"]["spec"]["containers"][0]["ports"][0] for name in ("ratelimit", "redis")}
    assert {name: (port["name"], port["containerPort"]) for name, port in ports.items()} == {"ratelimit": ("grpc", 8081), "redis": ("redis", 6379)}
    assert settings("quota")["ALIM_BRIDGE_QUOTA_SERVICE"] == "http://ratelimit:8081"
    assert one("quota", "Service", "ratelimit")["spec"]["ports"][0]["port"] == 8081


def reached(peers: list[dict[str, Any]], rule: dict[str, Any]) -> tuple[str, list[int | str]]:
    (peer,) = peers
    (label,) = peer.get("podSelector", {"matchLabels": {"": ""}})["matchLabels"].values()
    return label, [port["port"] for port in rule["ports"]]


def test_the_quota_of_the_bridges_is_the_limit_of_the_service() -> None:
    volumes = one("quota", "Deployment", "ratelimit")["spec"]["template"]["spec"]["volumes"]
    limits = one("quota", "ConfigMap", volumes[0]["configMap"]["name"])["data"]
    (service, others) = yaml.safe_load(limits["alim-bridge.yaml"])["descriptors"]
    assert (service["value"], "value" in others) == ("service", False)
    rate = service["rate_limit"]
    assert settings("quota")["ALIM_BRIDGE_UPSTREAM_QUOTA"] == f"{rate['requests_per_unit']}/{rate['unit'][:3]}"
    assert one("quota", "Deployment")["spec"]["replicas"] == int(settings("quota")["ALIM_BRIDGE_QUOTA_REPLICAS"])


def test_what_selects_pods_selects_the_bridges() -> None:
    labels = one("production", "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [made["spec"]["selector"] for made in rendered("production") if made["kind"] == "Service"]
    budget, policy = one("production", "PodDisruptionBudget"), one("production", "NetworkPolicy")
    selectors += [budget["spec"]["selector"]["matchLabels"], policy["spec"]["podSelector"]["matchLabels"]]
    selectors += [spread["labelSelector"]["matchLabels"] for spread in pod("production")["topologySpreadConstraints"]]
    assert len(selectors) == 7
    assert all(selector and selector.items() <= labels for selector in selectors)


def test_services_say_http2_without_tls_and_one_finds_every_pod() -> None:
    for name in ("alim-bridge", "alim-bridge-headless"):
        (port,) = one("production", "Service", name)["spec"]["ports"]
        assert (port["port"], port["targetPort"], port["appProtocol"]) == (50051, "grpc", "kubernetes.io/h2c")
        assert one("tls", "Service", name)["spec"]["ports"][0]["appProtocol"] == "https"
    assert one("production", "Service", "alim-bridge-headless")["spec"]["clusterIP"] == "None"


def test_prometheus_finds_the_admin_port_under_the_job_that_the_rules_ask_for() -> None:
    monitor = one("production", "ServiceMonitor")["spec"]
    service = one("production", "Service", "alim-bridge-admin")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "alim-bridge"
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_prometheus_operator_takes_what_bears_the_release_of_its_stack() -> None:
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert one("production", kind)["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_the_trial_runs_one_image_with_a_tag() -> None:
    pods = [made["spec"]["template"]["spec"] for made in rendered("trial") if made["kind"] == "Deployment"]
    images = [run["image"] for pod in pods for run in pod["containers"]]
    assert images == ["alim-bridge:0.1.0"] * 2


def test_the_autoscaler_reads_a_metric_that_there_is_and_owns_the_count(bridge: Bridge) -> None:
    (metric,) = one("production", "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert f"\n{metric['pods']['metric']['name']} " in bridge.metrics()
    assert "replicas" not in one("production", "Deployment")["spec"]
