"""TLS on both sides of the bridge: what sslyze finds on its port, with each kind of certificate and with mutual TLS, and which
upstreams the bridge refuses to trust. The admin port has no TLS.

sslyze has no levels: what Mozilla's checker calls an issue is a finding, and so is each attack that it can test. http_headers is
left out, for gRPC has no HSTS.
"""

import os
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from calls import invoke
from certificates import Authority
from cryptography.hazmat.primitives.asymmetric import rsa
from processes import Bridge, free_port
from results import Suite
from sslyze import (
    ClientAuthenticationCredentials,
    RobotScanResultEnum,
    ScanCommand,
    ScanCommandsExtraArguments,
    Scanner,
    ServerNetworkConfiguration,
    ServerNetworkLocation,
    ServerScanRequest,
)
from sslyze.mozilla_tls_profile.tls_config_checker import (
    MozillaTlsConfiguration,
    ServerNotCompliantWithTlsConfiguration,
    TlsConfigurationEnum,
    check_server_against_tls_configuration,
)
from sslyze.plugins.certificate_info.implementation import CertificateInfoExtraArgument
from sslyze.plugins.session_resumption.implementation import TlsResumptionSupportEnum

from alim.v1.graph_service_pb2_grpc import GraphServiceStub

WORK = Path(os.environ["CONFORMANCE_WORK"]) / "tls"
NOWHERE = SimpleNamespace(url="http://127.0.0.1:9")
COMMANDS = set(ScanCommand) - {ScanCommand.HTTP_HEADERS}
REFUSED = {"SSLv2": "ssl_2_0", "SSLv3": "ssl_3_0", "TLS 1.0": "tls_1_0", "TLS 1.1": "tls_1_1"}
ACCEPTED = {"TLS 1.2": "tls_1_2", "TLS 1.3": "tls_1_3"}
REPLY = b'{"response": "yes", "thread_id": "01a20443-d4c5-7483-899c-61f7c3ac97e9", "model": "none"}'


@contextmanager
def bridge(upstream: Any, **settings: object) -> Iterator[Bridge]:
    started = Bridge(upstream, **{name: str(value) for name, value in ({"ACCESS_LOG": "off"} | settings).items()})
    try:
        yield started
    finally:
        started.kill()


def scan(address: str, authority: Authority, identity: ClientAuthenticationCredentials | None) -> Any:
    host, port = address.split(":")
    configuration = ServerNetworkConfiguration("localhost", tls_client_auth_credentials=identity)
    trust = ScanCommandsExtraArguments(certificate_info=CertificateInfoExtraArgument(custom_ca_file=authority.file))
    request = ServerScanRequest(
        server_location=ServerNetworkLocation(host, int(port), ip_address=host),
        network_configuration=configuration,
        scan_commands=COMMANDS,
        scan_commands_extra_arguments=trust,
    )
    scanner = Scanner()
    scanner.queue_scans([request])
    (result,) = scanner.get_results()
    assert result.scan_result, f"no scan: {result.connectivity_error_trace}"
    return result


def expect(holds: object, found: object) -> str:
    assert holds, str(found)
    return str(found)


def versions(found: Callable[[str], Any]) -> Iterator[tuple[str, Callable[[], str]]]:
    def names(version: str) -> list[str]:
        return [it.cipher_suite.name for it in found(f"{version}_cipher_suites").accepted_cipher_suites]

    for name, version in REFUSED.items():
        yield f"{name} is refused", lambda version=version: expect(not names(version), names(version) or "no cipher suite accepted")
    for name, version in ACCEPTED.items():
        yield f"{name} is accepted", lambda version=version: expect(names(version), " ".join(names(version)))


def attacks(found: Callable[[str], Any]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each finding that sslyze can make, as a case."""
    simple = {
        "no compression (CRIME)": lambda: not found("tls_compression").supports_compression,
        "no early data, which can be replayed": lambda: not found("tls_1_3_early_data").supports_early_data,
        "no CCS injection": lambda: not found("openssl_ccs_injection").is_vulnerable_to_ccs_injection,
        "no Heartbleed": lambda: not found("heartbleed").is_vulnerable_to_heartbleed,
        "no renegotiation by clients": lambda: not found("session_renegotiation").is_vulnerable_to_client_renegotiation_dos,
        "renegotiation is secure": lambda: found("session_renegotiation").supports_secure_renegotiation,
        "fallback SCSV stops a downgrade": lambda: found("tls_fallback_scsv").supports_fallback_scsv,
        "extended master secret": lambda: found("tls_extended_master_secret").supports_ems_extension,
    }
    for name, holds in simple.items():
        yield name, lambda holds=holds: expect(holds(), "as it should be" if holds() else "vulnerable")
    harmless = {RobotScanResultEnum.NOT_VULNERABLE_NO_ORACLE, RobotScanResultEnum.NOT_VULNERABLE_RSA_NOT_SUPPORTED}
    yield "no ROBOT", lambda: expect(found("robot").robot_result in harmless, found("robot").robot_result.value)
    yield "sessions resume in TLS 1.2, always or never", lambda: expect_resumption(found("session_resumption"))
    yield "curves are modern", lambda: expect_curves(found("elliptic_curves"))


def expect_resumption(found: Any) -> str:
    kinds = {"ids": found.session_id_resumption_result, "tickets": found.tls_ticket_resumption_result}
    whole = {TlsResumptionSupportEnum.FULLY_SUPPORTED, TlsResumptionSupportEnum.NOT_SUPPORTED}
    return expect(set(kinds.values()) <= whole, ", ".join(f"{name}: {kind.value}" for name, kind in kinds.items()))


def expect_curves(found: Any) -> str:
    names = {curve.name for curve in found.supported_curves}
    return expect(names and names <= {"X25519", "secp256r1", "secp384r1"}, " ".join(sorted(names)))


def expect_profile(result: Any) -> str:
    profile = MozillaTlsConfiguration.get(TlsConfigurationEnum.MOZILLA_INTERMEDIATE)
    try:
        check_server_against_tls_configuration(result, profile)
    except ServerNotCompliantWithTlsConfiguration as error:
        raise AssertionError(str(error.issues)) from None
    return "no issue"


def chosen_protocol(address: str, authority: Authority, offered: list[str]) -> str | None:
    host, port = address.split(":")
    trust = ssl.create_default_context(cafile=str(authority.file))
    trust.set_alpn_protocols(offered)
    with socket.create_connection((host, int(port)), timeout=10) as plain, trust.wrap_socket(plain, server_hostname="localhost") as secure:
        return secure.selected_alpn_protocol()


def expect_no_protocol(address: str, authority: Authority) -> str:
    try:
        chosen = chosen_protocol(address, authority, ["spdy/3"])
    except ssl.SSLError as error:
        return expect("no_application_protocol" in str(error).lower().replace(" ", "_"), error)
    raise AssertionError(f"chose {chosen}")


def check_listener(suite: Suite) -> None:
    authority = Authority(WORK / "bridge")
    caller = authority.certificate("caller")
    identity = ClientAuthenticationCredentials(*caller)
    strong = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kinds: dict[str, tuple[tuple[Path, Path], dict[str, object]]] = {
        "ECDSA": (authority.certificate("ecdsa"), {}),
        "RSA": (authority.certificate("rsa", key=strong), {}),
        "mutual": (authority.certificate("ecdsa"), {"TLS_CLIENT_CA_FILE": authority.file}),
    }
    for kind, ((cert, key), more) in kinds.items():
        with bridge(NOWHERE, TLS_CERT_FILE=cert, TLS_KEY_FILE=key, **more) as served:
            result = scan(served.address, authority, identity if more else None)

            def found(command: str, result: Any = result) -> Any:
                attempt = getattr(result.scan_result, command)
                assert attempt.result is not None, f"{command} did not run: {attempt.error_reason}"
                return attempt.result

            for name, body in [*versions(found), *attacks(found)]:
                suite.check(f"{kind}: {name}", body)
            suite.check(f"{kind}: Mozilla's intermediate profile", lambda: expect_profile(result))
            if not more:
                both = ["http/1.1", "h2"]
                suite.check(f"{kind}: ALPN chooses h2", lambda: expect(chosen_protocol(served.address, authority, both) == "h2", "h2"))
                suite.check(f"{kind}: ALPN without a known protocol is refused", lambda: expect_no_protocol(served.address, authority))


class TlsUpstream:
    """ALİM behind TLS of any kind. It keeps what it was sent and which protocol was agreed on."""

    def __init__(self, cert: Path, key: Path, **versions: ssl.TLSVersion) -> None:
        self.requests: list[str | None] = []
        seen = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                seen.append(self.connection.selected_alpn_protocol())
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(REPLY)))
                self.end_headers()
                self.wfile.write(REPLY)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")
        for name, version in versions.items():
            setattr(context, name, version)
        context.load_cert_chain(cert, key)
        context.set_alpn_protocols(["h2", "http/1.1"])
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def readiness(admin: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{admin}/readyz", timeout=10) as reply:
            return reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


def expect_refusal(upstream: TlsUpstream, authority: Authority, cause: str) -> str:
    """Nothing is sent, the caller learns so, and /readyz says why."""
    try:
        admin = f"127.0.0.1:{free_port()}"
        with bridge(upstream, UPSTREAM_CA_FILE=authority.file, ADMIN_LISTEN=admin, LOG="off") as started:
            with grpc.insecure_channel(started.address) as channel:
                ended = invoke(GraphServiceStub(channel), "Salam")
            said = readiness(admin)
    finally:
        upstream.stop()
    assert (ended.code, ended.reason, ended.metadata.get("sent")) == ("UNAVAILABLE", "UPSTREAM_UNREACHABLE", "false"), str(ended)
    assert not upstream.requests, "it was sent all the same"
    return expect(cause in said, said)


def expect_trust(upstream: TlsUpstream, authority: Authority) -> str:
    try:
        with bridge(upstream, UPSTREAM_CA_FILE=authority.file) as started, grpc.insecure_channel(started.address) as channel:
            ended = invoke(GraphServiceStub(channel), "Salam")
    finally:
        upstream.stop()
    assert ended.text == "yes", str(ended)
    assert len(upstream.requests) == 1 and upstream.requests[0] in (None, "http/1.1"), str(upstream.requests)
    return f"by ALPN: {upstream.requests[0]}"


def check_upstream(suite: Suite) -> None:
    authority, other = Authority(WORK / "alim"), Authority(WORK / "other")
    good, tls = authority.certificate("good"), ssl.TLSVersion
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    refused: dict[str, tuple[TlsUpstream, str]] = {
        "an expired certificate": (TlsUpstream(*authority.certificate("expired", days=-1)), "expired"),
        "a certificate of another host": (TlsUpstream(*authority.certificate("elsewhere", "elsewhere.example")), "not valid for name"),
        "an unknown authority": (TlsUpstream(*other.certificate("unknown")), "UnknownIssuer"),
        "a certificate that signed itself": (TlsUpstream(*other.self_signed("alone")), "UnknownIssuer"),
        "a key of 1024 bits": (TlsUpstream(*authority.certificate("weak", key=weak)), "peer"),
        "TLS 1.1 and nothing newer": (TlsUpstream(*good, minimum_version=tls.TLSv1, maximum_version=tls.TLSv1_1), "ProtocolVersion"),
    }
    for name, (upstream, cause) in refused.items():
        suite.check(f"upstream, {name} is refused", lambda: expect_refusal(upstream, authority, cause))
    for name, version in (("TLS 1.2", tls.TLSv1_2), ("TLS 1.3", tls.TLSv1_3)):
        upstream = TlsUpstream(*good, minimum_version=version, maximum_version=version)
        suite.check(f"upstream, {name} is accepted, with HTTP/1.1", lambda: expect_trust(upstream, authority))


if __name__ == "__main__":
    conformance = Suite("tls")
    check_listener(conformance)
    check_upstream(conformance)
