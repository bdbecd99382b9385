// What a program in TypeScript needs to ask ALİM, beside the stubs that ts-proto makes from the .proto.

import { readFileSync } from "node:fs";
import { type ClientOptions, credentials, type ServiceError, status } from "@grpc/grpc-js";
import { GraphServiceClient } from "./gen/alim/v1/graph_service.js";
import { BadRequest, ErrorInfo, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";

// Published beside the .proto: balancing, timeouts, and retries of what can't have run.
const serviceConfig = readFileSync(new URL("./gen/alim/v1/service_config.json", import.meta.url), "utf8");

export const options: ClientOptions = { "grpc.service_config": serviceConfig };

export function connect(target: string, more: ClientOptions = {}): GraphServiceClient {
  return new GraphServiceClient(target, credentials.createInsecure(), { ...options, ...more });
}

/** What a status says, in its details too. */
export interface Failure {
  code: string;
  message: string;
  /** Stable: docs/errors.md lists them. */
  reason?: string;
  /** Of the request, that break a rule. */
  fields?: string[];
  retryAfterMs?: number;
}

export function failureOf(error: ServiceError): Failure {
  const failure: Failure = { code: status[error.code], message: error.details };
  const [packed] = error.metadata.get("grpc-status-details-bin");
  const details = packed ? Status.decode(packed as Buffer).details : [];
  for (const { typeUrl, value } of details) {
    switch (typeUrl.split("/").pop()) {
      case "google.rpc.ErrorInfo":
        failure.reason = ErrorInfo.decode(value).reason;
        break;
      case "google.rpc.BadRequest":
        failure.fields = BadRequest.decode(value).fieldViolations.map((violation) => violation.field);
        break;
      case "google.rpc.RetryInfo": {
        const delay = RetryInfo.decode(value).retryDelay;
        failure.retryAfterMs = Number(delay?.seconds ?? 0n) * 1000 + (delay?.nanos ?? 0) / 1e6;
      }
    }
  }
  return failure;
}
