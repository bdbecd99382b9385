// The failure of a call to ALİM, as an Error with all that the bridge says about it.

import { type Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb";

/** A call that did not end with OK. Its `cause` is connect's own error. */
export class AlimError extends Error {
  override readonly name = "AlimError";
  readonly code: Code;
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
  /** The bridge's word to retry policies, in milliseconds. Negative: do not repeat the call. Undefined: it does not say. */
  pushbackMs?: number;

  constructor(cause: ConnectError, headers?: Headers) {
    super(cause.rawMessage, { cause });
    this.code = cause.code;
    // A stream that had begun says its id at the start, any other call at its end.
    this.requestId = cause.metadata.get("x-request-id") ?? headers?.get("x-request-id") ?? undefined;
    const pushback = cause.metadata.get("grpc-retry-pushback-ms");
    if (pushback !== null) this.pushbackMs = /^\d+$/.test(pushback) ? Number(pushback) : -1;
    this.read(cause);
  }

  private read(cause: ConnectError) {
    const info = cause.findDetails(ErrorInfoSchema).find((info) => info.domain === "alim-bridge");
    if (info) {
      const { sent, eventsDelivered } = info.metadata;
      this.reason = info.reason;
      if (sent !== undefined) this.sent = sent === "true";
      if (eventsDelivered !== undefined) this.eventsDelivered = Number(eventsDelivered);
    }
    for (const { fieldViolations } of cause.findDetails(BadRequestSchema)) {
      for (const { field, description } of fieldViolations) this.fields.set(field, description);
    }
    const delay = cause.findDetails(RetryInfoSchema)[0]?.retryDelay;
    if (delay) this.retryAfterMs = Number(delay.seconds) * 1000 + delay.nanos / 1e6;
  }
}

/** An AlimError for an error of connect. Any other error, such as a TypeError, is returned as it is. */
export function alimErrorOf(error: unknown, headers?: Headers): unknown {
  return error instanceof ConnectError ? new AlimError(error, headers) : error;
}
