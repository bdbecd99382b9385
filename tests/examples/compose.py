"""Runs the services of the Compose example as processes, since there is no container daemon here.

It takes each service's command, environment and secrets from `docker-compose config`, and replaces only addresses and the
paths of secrets. It does not test what only a container has: the user, the read-only root, the health checks.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import servers

SECRET = re.compile(r"/run/secrets/(\w+)")
QUIET = {"ALIM_BRIDGE_LOG": "error", "ALIM_BRIDGE_ACCESS_LOG": "off"}
LISTEN = {"ALIM_BRIDGE_LISTEN": "127.0.0.1:0", "ALIM_BRIDGE_ADMIN_LISTEN": "off"}


def project(folder: Path, docker_compose: str, environment: dict[str, str]) -> dict[str, Any]:
    command = [docker_compose, "--profile", "ask", "config", "--format", "json"]
    options = {"cwd": folder, "env": environment, "timeout": 60}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout)


def ask(folder: Path, docker_compose: str) -> str:
    """Starts the emulator and the bridge. Returns what the service `ask` prints."""
    environment = {name: value for name, value in servers.OURS.items() if not name.startswith("ALIM_")}
    config = project(folder, docker_compose, environment)
    services, secrets = config["services"], config["secrets"]
    for name, service in services.items():
        given = {secret["source"] for secret in service.get("secrets", [])}
        used = set(SECRET.findall(json.dumps([service.get(it) for it in ("command", "entrypoint", "environment")])))
        assert given == used, f"{name} is given {given} and uses {used}"

    def local(text: str, *addresses: tuple[str, str]) -> str:
        for name, address in addresses:
            text = text.replace(name, address)
        return SECRET.sub(lambda found: secrets[found[1]]["file"], text)

    emulate = [local(word, ("0.0.0.0:8000", "127.0.0.1:0")) for word in services["emulator"]["command"]]
    with servers.started([servers.BIN, *emulate, "--token-delay", "1ms", "--log", "warn"], env=environment) as (url, _):
        upstream = ("http://emulator:8000", url)
        settings = {name: local(value, upstream) for name, value in services["bridge"]["environment"].items()}
        with servers.started([servers.BIN, "serve"], env=environment | settings | LISTEN | QUIET) as (address, _):
            service = services["ask"]
            _, *words = [local(word, ("bridge:50051", address)) for word in service["entrypoint"] + service["command"]]
            asked = subprocess.run([servers.BIN, *words], env=environment, capture_output=True, text=True, timeout=60)
    assert asked.returncode == 0, f"ask ended with {asked.returncode}: {asked.stderr}"
    return asked.stdout
