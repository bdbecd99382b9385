"""Reads kube-score's findings: a check passes only with its best grade, for each object in all that render it.

`production` is what is shipped: the overlay, and the base with each component that production does not have. A CPU limit is a
case of its own, `cpu-limit`, so that an exception for it hides nothing else about resources. What kube-score skips is no case.
"""

import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

from results import Suite

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
WORK = Path(os.environ["CONFORMANCE_WORK"]) / "kube_score"
VERSION = "v1.37"
OPTIONAL = ["container-seccomp-profile", "container-ports-check"]  # the others ask for limits that are equal to requests
BEST_GRADE = 10


def with_component(component: str) -> Path:
    """A folder that renders the base with that component."""
    folder = WORK / component
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: os.path.relpath(KUBERNETES / path, folder) for name, path in (("base", "base"), ("component", f"components/{component}"))}
    (folder / "kustomization.yaml").write_text("resources: [{base}]\ncomponents: [{component}]\n".format(**paths))
    return folder


def rendered() -> dict[str, list[Path]]:
    """Every folder to render. A component that no overlay has is rendered on the base, and no folder is left out."""
    overlays = {folder.name: folder for folder in (KUBERNETES / "overlays").iterdir()}
    written = "".join((folder / "kustomization.yaml").read_text() for folder in overlays.values())
    components = [it.name for it in (KUBERNETES / "components").iterdir() if f"components/{it.name}\n" not in written]
    folders = {name: [folder] for name, folder in overlays.items()}
    folders["production"] += [with_component(component) for component in sorted(components)]
    return folders


def score(manifests: str, *options: str) -> list[dict[str, Any]]:
    optional = [word for name in OPTIONAL for word in ("--enable-optional-test", name)]
    command = [os.environ["KUBE_SCORE_BIN"], "score", "--kubernetes-version", VERSION, "-o", "json", *optional, *options, "-"]
    ended = subprocess.run(command, input=manifests, capture_output=True, text=True)
    assert ended.returncode in (0, 1) and ended.stdout, ended.stderr
    return json.loads(ended.stdout)


def findings(manifests: str) -> list[tuple[str, dict[str, Any]]]:
    """Each object's name and a check of it."""
    checks = []
    for made in score(manifests, "--ignore-container-cpu-limit"):
        checks += [(f"{made['type_meta']['kind']}/{made['object_meta']['name']} {it['check']['id']}", it) for it in made["checks"]]
    for made in score(manifests):
        name = f"{made['type_meta']['kind']}/{made['object_meta']['name']} cpu-limit"
        checks += [(name, it) for it in made["checks"] if it["check"]["id"] == "container-resources"]
    return checks


def main() -> None:
    suite = Suite("kube_score")
    for name, folders in rendered().items():
        cases: dict[str, list[str]] = defaultdict(list)
        for folder in folders:
            made = subprocess.run([os.environ["KUSTOMIZE_BIN"], "build", str(folder)], capture_output=True, text=True, check=True)
            for case, check in findings(made.stdout):
                if check["skipped"]:
                    continue
                is_best = check["grade"] >= BEST_GRADE
                comments = "; ".join(f"{it['path']} {it['summary']}".strip() for it in check["comments"] or [])
                cases[case] += [] if is_best else [f"{folder.name}: grade {check['grade']}, {comments}"]
        for case, faults in sorted(cases.items()):
            suite.report(f"{name} {case}", "failed" if faults else "passed", " | ".join(faults))


if __name__ == "__main__":
    main()
