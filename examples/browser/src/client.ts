// Calls the bridge from a page. Browsers know no service config, so this file brings retries that obey the bridge's pushback.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { AlimError, alimErrorOf } from "./errors";
import {
  GraphService,
  type InvokeRequestSchema,
  type InvokeResponse,
  type StreamRequestSchema,
  type StreamResponse,
} from "./gen/alim/v1/graph_service_pb";
import { ThreadService } from "./gen/alim/v1/thread_service_pb";

/** What goes with one call. */
export interface Call {
  requestId: string;
  /** From here to the end of the answer, with all attempts. */
  timeoutMs: number;
}

export class Alim {
  private readonly graph;
  private readonly threads;

  /** `key` is sent as `authorization: Bearer`. Give each user a key of their own: what is in a page, its user can read. */
  constructor(baseUrl: string, key?: string) {
    const bearer: Interceptor = (next) => (request) => {
      if (key) request.header.set("authorization", `Bearer ${key}`);
      return next(request);
    };
    const transport = createGrpcWebTransport({ baseUrl, interceptors: [bearer] });
    this.graph = createClient(GraphService, transport);
    this.threads = createClient(ThreadService, transport);
  }

  invoke(question: MessageInitShape<typeof InvokeRequestSchema>, call: Call): Promise<InvokeResponse> {
    return retrying(call, (options) => this.graph.invoke(question, options));
  }

  /** Leaving the loop over the events by `break`, `return` or `throw` cancels the call. */
  async *stream(
    question: MessageInitShape<typeof StreamRequestSchema>,
    call: Call,
  ): AsyncGenerator<StreamResponse, void> {
    const leaving = new AbortController();
    let headers: Headers | undefined;
    const onHeader = (received: Headers) => {
      headers = received;
    };
    try {
      // Until its first event has come, a stream may be tried again.
      const [events, first] = await retrying(call, async (options) => {
        const stream = this.graph.stream(question, { ...options, onHeader, signal: leaving.signal });
        const events = stream[Symbol.asyncIterator]();
        return [events, await events.next()] as const;
      });
      for (let next = first; !next.done; next = await events.next()) yield next.value;
    } catch (error) {
      throw alimErrorOf(error, headers);
    } finally {
      leaving.abort();
    }
  }

  async deleteThread(threadId: string, call: Call): Promise<void> {
    await retrying(call, (options) => this.threads.deleteThread({ threadId }, options));
  }
}

const ATTEMPTS = 4;

/** Makes attempts until one succeeds, none may follow, or the next would begin past the deadline. */
async function retrying<Reply>(
  { requestId, timeoutMs }: Call,
  attempt: (options: { timeoutMs: number; headers: HeadersInit }) => Promise<Reply>,
): Promise<Reply> {
  const deadline = Date.now() + timeoutMs;
  for (let attempts = 1; ; attempts++) {
    try {
      const headers = { "x-request-id": requestId };
      return await attempt({ timeoutMs: Math.max(deadline - Date.now(), 1), headers });
    } catch (error) {
      const failure = alimErrorOf(error);
      const wait = failure instanceof AlimError ? waitAfter(failure, attempts) : undefined;
      if (wait === undefined || Date.now() + wait >= deadline) throw error instanceof AlimError ? error : failure;
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

/** How long to wait before the next attempt; undefined where there must be none. */
function waitAfter(failure: AlimError, attempts: number): number | undefined {
  if (attempts >= ATTEMPTS || failure.code !== Code.Unavailable) return undefined;
  if (failure.pushbackMs !== undefined) return failure.pushbackMs < 0 ? undefined : failure.pushbackMs;
  // Connect says UNAVAILABLE also where the bridge never answered, and where a connection broke: the call may have run then.
  if (failure.sent !== false) return undefined;
  return Math.min(300 * 3 ** (attempts - 1), 3000) * (0.8 + 0.4 * Math.random());
}
