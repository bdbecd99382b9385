"""What the suites share: results, tools of Go, certificates, and the processes under test."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WORK = Path(os.environ["CONFORMANCE_WORK"])
BIN = Path(os.environ["CONFORMANCE_BIN"])
BRIDGE = os.environ["ALIM_BRIDGE_BIN"]
LONG = os.environ.get("CONFORMANCE_LONG") == "1"
CONFORMANCE = "connectrpc.com/conformance@v1.0.7"


class Results:
    """The lines of one suite."""

    def __init__(self, suite: str) -> None:
        self.suite, self.path = suite, Path(sys.argv[1])

    def add(self, case: str, outcome: str, detail: str = "") -> None:
        fields = [" ".join(text.split()) for text in (case, outcome, detail)]
        with self.path.open("a") as results:
            results.write("\t".join([self.suite, *fields]) + "\n")
        if outcome == "failed":
            print(f"failed   {fields[0]}: {fields[2]}", flush=True)


def go_install(package: str) -> Path:
    """Installs a command of Go at the version that the package names, unless it is here."""
    module, version = package.split("@")
    tool = BIN / Path(module).name
    marker = BIN / f".{tool.name}"
    if not tool.exists() or not marker.exists() or marker.read_text() != version:
        subprocess.run(["go", "install", package], check=True, timeout=600)
        marker.write_text(version)
    return tool


def conformance_server() -> Path:
    """Builds `server`, with the protos of Connect's conformance suite."""
    module = subprocess.run(
        ["go", "mod", "download", "-json", CONFORMANCE], check=True, capture_output=True, text=True, cwd=WORK, timeout=300
    )
    folder = next(line.split('"')[3] for line in module.stdout.splitlines() if '"Dir"' in line)
    target = Path(os.environ["CARGO_TARGET_DIR"])
    command = ["cargo", "build", "--quiet", "--locked"]
    env = os.environ | {"CONFORMANCE_PROTOS": f"{folder}/proto"}
    subprocess.run(command, check=True, cwd=ROOT / "tests/conformance/server", env=env, timeout=900)
    return target / "debug/alim-bridge-conformance"


def certificates() -> Path:
    """A folder with an authority, a certificate for 127.0.0.1 and one for a caller. They are made once a run of a suite."""
    folder = WORK / "certificates"
    folder.mkdir(exist_ok=True)

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], check=True, cwd=folder, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    ca = ["-x509", "-subj", "/CN=Test authority", "-addext", "keyUsage=critical,keyCertSign"]
    openssl("req", *key, *ca, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    for name, extensions in [
        ("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth"),
        ("caller", "subjectAltName=DNS:caller.test\nextendedKeyUsage=clientAuth"),
    ]:
        (folder / f"{name}.ext").write_text(extensions + "\n")
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.ext"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem", "-days", "2")
    return folder


def tls(folder: Path, mutual: bool = False) -> dict[str, str]:
    """The settings of TLS, or of mutual TLS."""
    settings = {"TLS_CERT_FILE": str(folder / "server.pem"), "TLS_KEY_FILE": str(folder / "server.key")}
    return settings | ({"TLS_CLIENT_CA_FILE": str(folder / "ca.pem")} if mutual else {})


@contextmanager
def serving(command: list[str], **settings: str):
    """Runs a server with these settings of the bridge, and yields its port. At the end it must stop at SIGTERM."""
    defaults = {
        "LISTEN": "127.0.0.1:0",
        "ADMIN_LISTEN": "off",
        "UPSTREAM_API_KEY": "any",
        "UPSTREAM_URL": "http://127.0.0.1:9/api/v1",
        "LOG": "error",
        "ACCESS_LOG": "off",
        "DRAIN_TIMEOUT": "1s",
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("ALIM_BRIDGE_")}
    env |= {f"ALIM_BRIDGE_{name}": value for name, value in (defaults | settings).items()}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if "listening on " not in line:
            raise RuntimeError(f"{command} printed {line!r}")
        yield int(line.rsplit(":", 1)[1])
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def bridge(**settings: str):
    """A bridge, as `serving` yields one."""
    return serving([BRIDGE, "serve"], **settings)
