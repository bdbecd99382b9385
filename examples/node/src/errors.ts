// The failure of a call to ALİM, as an Error with all that the bridge says about it.

import { type Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { BadRequest, ErrorInfo, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";

/** A call that did not end with OK. Its `cause` is grpc-js' own error. */
export class AlimError extends Error {
  override readonly name = "AlimError";
  readonly code: status;
  /** Stable, such as UPSTREAM_RATE_LIMITED. Empty if the library ended the call by itself. */
  reason = "";
  /** The fields of the request that are not valid, each with what is wrong. */
  fields = new Map<string, string>();
  /** If it is set, ask again after this time. */
  retryAfterMs?: number;
  /** Whether ALİM may have seen the question. Undefined if unknown: treat it as true. */
  sent?: boolean;
  /** How many events a stream had delivered. */
  eventsDelivered?: number;
  /** Look for it in the bridge's log. */
  requestId?: string;

  constructor(cause: ServiceError) {
    super(cause.details, { cause });
    this.code = cause.code;
  }
}

/** An AlimError for an error of grpc-js. Any other error, such as a TypeError, is returned as it is. */
export function alimErrorOf(error: unknown, headers?: Metadata): unknown {
  if (!isServiceError(error)) return error;
  const failure = new AlimError(error);
  // A stream that had begun says its id at the start, any other call at its end.
  const [requestId] = [...error.metadata.get("x-request-id"), ...(headers?.get("x-request-id") ?? [])];
  failure.requestId = requestId?.toString();
  const [packed] = error.metadata.get("grpc-status-details-bin");
  const details = packed instanceof Buffer ? Status.decode(packed).details : [];
  for (const { typeUrl, value } of details) {
    switch (typeUrl.split("/").pop()) {
      case "google.rpc.ErrorInfo": {
        const info = ErrorInfo.decode(value);
        if (info.domain !== "alim-bridge") break;
        const { sent, eventsDelivered } = info.metadata;
        failure.reason = info.reason;
        if (sent !== undefined) failure.sent = sent === "true";
        if (eventsDelivered !== undefined) failure.eventsDelivered = Number(eventsDelivered);
        break;
      }
      case "google.rpc.BadRequest":
        for (const { field, description } of BadRequest.decode(value).fieldViolations) {
          failure.fields.set(field, description);
        }
        break;
      case "google.rpc.RetryInfo": {
        const delay = RetryInfo.decode(value).retryDelay;
        if (delay) failure.retryAfterMs = Number(delay.seconds) * 1000 + delay.nanos / 1e6;
      }
    }
  }
  return failure;
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && typeof error.code === "number" && "metadata" in error;
}
