"""The dashboard against Grafana's own types, and what makes it importable anywhere."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from conftest import DEPLOY, ROOT, dashboard

SCRATCH = Path(os.environ["SCRATCH"])
TYPES = {"row": "Row", "stat": "Stat", "timeseries": "TimeSeries"}


def faults(board: dict[str, Any]) -> str:
    """What TypeScript says against the dashboard as a value of Grafana's types."""
    lines = ["import type { Board, Row, Stat, TimeSeries } from './dashboard';"]
    lines.append(f"export const board: Board = {json.dumps(board | {'panels': []})};")
    for panel in board["panels"]:
        lines.append(f"export const panel{panel['id']}: {TYPES[panel['type']]} = {json.dumps(panel)};")
    shutil.copy(Path(__file__).with_name("dashboard.ts"), SCRATCH / "npm")
    (SCRATCH / "npm/board.ts").write_text("\n".join(lines))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"]
    compiler = ["node_modules/.bin/tsc", *options, "board.ts"]
    return subprocess.run(compiler, cwd=SCRATCH / "npm", capture_output=True, text=True).stdout


def test_it_is_what_grafanas_schema_says_a_dashboard_is() -> None:
    assert faults(dashboard()) == ""


def test_a_field_that_grafana_does_not_know_would_be_found() -> None:
    wrong = dashboard()
    wrong["panels"][-1]["fieldConfig"]["defaults"]["custom"]["drawStyle"] = "lines"
    wrong["panels"][1]["options"]["colourMode"] = "value"
    found = faults(wrong)
    assert '"lines"' in found and "colourMode" in found


def test_it_can_be_imported_anywhere() -> None:
    """No id of one Grafana's database, and no data source but the one that is chosen."""
    board = dashboard()
    assert (board["id"], board["uid"]) == (None, "alim-bridge")
    used = set(re.findall(r'"uid": "([^"]*)"', (DEPLOY / "grafana/dashboard.json").read_text()))
    assert used == {"alim-bridge", "${datasource}"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_every_panel_has_a_place_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_compose_brings_the_bridge_alone_and_the_observers_when_asked() -> None:
    def services(*options: str) -> set[str]:
        command = ["docker-compose", *options, "config", "--services"]
        return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())

    assert services() == {"bridge", "emulator"}
    assert services("--profile", "shared") == {"bridge", "emulator", "shared-bridge", "ratelimit", "redis"}
    assert services("--profile", "observe") == {"bridge", "emulator", "prometheus", "grafana"}


def test_grafana_has_no_administrator_whom_anybody_could_be() -> None:
    command = ["docker-compose", "--profile", "observe", "config", "--format", "json"]
    config = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    settings = config["services"]["grafana"]["environment"]
    assert settings["GF_AUTH_BASIC_ENABLED"] == "false"
    assert settings["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_the_bridge_of_compose_has_a_limit_of_memory_that_it_can_find() -> None:
    command = ["docker-compose", "config", "--format", "json"]
    config = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert int(config["services"]["bridge"]["mem_limit"]) == 512 << 20


def test_what_compose_mounts_is_there() -> None:
    command = ["docker-compose", "--profile", "observe", "--profile", "shared", "config", "--format", "json"]
    config = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    mounts = [mount for service in config["services"].values() for mount in service.get("volumes") or []]
    sources = [Path(mount["source"]) for mount in mounts if mount["type"] == "bind"]
    assert len(sources) == 4 and all(source.exists() for source in sources), sources
