// Opens clients of the bridge, and makes calls that fail with an AlimError.

import { readFileSync } from "node:fs";
import {
  type ChannelCredentials,
  type ClientOptions,
  type ClientReadableStream,
  credentials,
  Metadata,
  type ServiceError,
} from "@grpc/grpc-js";
import { alimErrorOf } from "./errors.js";

// Published with the contract: it balances, sets deadlines, and retries what the bridge does not forbid.
const serviceConfig = readFileSync(new URL("./service_config.json", import.meta.url), "utf8");

export const options: ClientOptions = {
  "grpc.service_config": serviceConfig,
  // Finds out within 30 s that the bridge's machine is gone, while a call is open.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
};

/** Without `caFile` it is plain HTTP/2. `key` is sent as `authorization: Bearer`, over TLS alone. */
export function credentialsFor(caFile?: string, key?: string): ChannelCredentials {
  if (!caFile) {
    if (key) throw new Error("a key needs TLS: set caFile too");
    return credentials.createInsecure();
  }
  const tls = credentials.createSsl(readFileSync(caFile));
  if (!key) return tls;
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${key}`);
  return credentials.combineChannelCredentials(
    tls,
    credentials.createFromMetadataGenerator((_, done) => done(null, metadata)),
  );
}

/** Makes a unary call: `await call((done) => alim.invoke(request, metadata, { deadline }, done))`. */
export function call<Reply>(
  start: (done: (error: ServiceError | null, reply: Reply) => void) => unknown,
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    start((error, reply) => (error ? reject(alimErrorOf(error)) : resolve(reply)));
  });
}

/**
 * Reads a stream: `for await (const event of read(alim.stream(...)))`.
 *
 * Leaving the loop by `break`, `return` or `throw` cancels the call. A plain `for await` over grpc-js' stream does not: ALİM
 * would go on to the deadline, and you would pay for it.
 */
export async function* read<Event>(events: ClientReadableStream<Event>): AsyncGenerator<Event, void> {
  let headers: Metadata | undefined;
  events.on("metadata", (received) => {
    headers = received;
  });
  try {
    for await (const event of events) yield event as Event;
  } catch (error) {
    throw alimErrorOf(error, headers);
  } finally {
    events.cancel();
  }
}
