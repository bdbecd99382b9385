"""Adds to the contract what Envoy's reverse transcoder asks for: `descriptors.py PROTO_FOLDER OUT`.

Only Invoke is mapped: the transcoder answers unary calls. The contract itself bears no HTTP annotations, so they are
put into the descriptor set here.
"""

import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from grpc_tools import protoc


def main(protos: str, out: str) -> None:
    contract = "alim/v1/graph_service.proto"
    well_known = str(Path(grpc_tools.__file__).parent / "_proto")
    with tempfile.NamedTemporaryFile() as plain:
        arguments = ["protoc", f"-I{protos}", f"-I{well_known}", "--include_imports", f"-o{plain.name}", contract]
        if protoc.main(arguments) != 0:
            sys.exit("descriptors: protoc failed")
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(plain.name).read_bytes())
    (service,) = (service for file in files.file if file.name == contract for service in file.service)
    (invoke,) = (method for method in service.method if method.name == "Invoke")
    rule = invoke.options.Extensions[annotations_pb2.http]
    rule.post = "/api/v1/graph/invoke"
    rule.body = "*"
    Path(out).write_bytes(files.SerializeToString())


main(*sys.argv[1:])
