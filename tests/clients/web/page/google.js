// The same question by Google's gRPC-Web client, in the format that its generated code has unless told otherwise: text.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { base64Decode } from "@bufbuild/protobuf/wire";
import { ConnectError } from "@connectrpc/connect";
import grpcWeb from "grpc-web";
import { StreamRequestSchema, StreamResponseSchema } from "../gen/alim/v1/graph_service_pb.js";
import { StatusSchema } from "../gen/google/rpc/error_details_pb.js";

const METHOD = "/alim.v1.GraphService/Stream";

/** The messages of the answer; its failure in connect's words. */
export async function* askByGoogle(bridge, question) {
  const events = new grpcWeb.GrpcWebClientBase({ format: "text" }).serverStreaming(
    bridge + METHOD,
    create(StreamRequestSchema, question),
    {},
    new grpcWeb.MethodDescriptor(
      METHOD,
      grpcWeb.MethodType.SERVER_STREAMING,
      Object,
      Object,
      (request) => toBinary(StreamRequestSchema, request),
      (bytes) => fromBinary(StreamResponseSchema, bytes),
    ),
  );
  const messages = new ReadableStream({
    start(queue) {
      events.on("data", (message) => queue.enqueue(message));
      events.on("end", () => queue.close());
      events.on("error", (error) => queue.error(connectError(error)));
    },
  });
  const reader = messages.getReader();
  for (let next; !(next = await reader.read()).done; ) yield next.value;
}

function connectError({ code, message, metadata }) {
  const error = new ConnectError(message, code, metadata);
  const status = fromBinary(StatusSchema, base64Decode(metadata["grpc-status-details-bin"]));
  error.details = status.details.map(({ typeUrl, value }) => ({ type: typeUrl.split("/")[1], value }));
  return error;
}
