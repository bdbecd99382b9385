"""Opens asyncio channels to the bridge."""

from pathlib import Path

import grpc
from alim.v1 import graph_service_pb2

# Published with the contract: it balances, sets deadlines, and retries what the bridge does not forbid.
SERVICE_CONFIG = Path(graph_service_pb2.__file__).with_name("service_config.json").read_text()
OPTIONS = [
    ("grpc.service_config", SERVICE_CONFIG),
    # Finds out within 30 s that the bridge's machine is gone, while a call is open.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


def connect(target: str, ca_file: str = "", key: str = "") -> grpc.aio.Channel:
    """Opens a channel; in production to a name such as "dns:///alim-bridge:50051".

    Without `ca_file` it is plain HTTP/2. `key` is sent as `authorization: Bearer`, over TLS alone.
    """
    if not ca_file:
        if key:
            raise ValueError("a key needs TLS: set ca_file too")
        return grpc.aio.insecure_channel(target, OPTIONS)
    credentials = grpc.ssl_channel_credentials(Path(ca_file).read_bytes())
    if key:
        bearer = grpc.access_token_call_credentials(key)
        credentials = grpc.composite_channel_credentials(credentials, bearer)
    return grpc.aio.secure_channel(target, credentials, OPTIONS)
