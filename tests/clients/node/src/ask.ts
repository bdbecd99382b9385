// Asks ALİM and prints the answer while it is made: node ask.js 127.0.0.1:50051 "Nə vaxt suvarım?"

import type { ServiceError } from "@grpc/grpc-js";
import { connect, failureOf } from "./caller.js";
import { StreamRequest, type StreamResponse } from "./gen/alim/v1/graph_service.js";

const [target = "127.0.0.1:50051", message = "Salam"] = process.argv.slice(2);
const alim = connect(target);
try {
  const events = alim.stream(StreamRequest.fromPartial({ message }), { deadline: Date.now() + 60_000 });
  for await (const { event } of events as AsyncIterable<StreamResponse>) {
    if (event?.$case === "token") process.stdout.write(event.value.text);
  }
  process.stdout.write("\n");
} catch (error) {
  console.error(failureOf(error as ServiceError));
  process.exitCode = 1;
} finally {
  alim.close();
}
