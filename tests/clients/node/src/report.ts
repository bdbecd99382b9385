// Runs cases, prints a line for each, and asks the witness what came of the calls.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { Metadata, type ServiceError } from "@grpc/grpc-js";
import { type Failure, failureOf } from "./caller.js";
import {
  type GraphServiceClient,
  InvokeRequest,
  type InvokeResponse,
  StreamRequest,
  type StreamResponse,
} from "./gen/alim/v1/graph_service.js";

const message = "Fermada susuzluq var, nə edim?";

export function surroundings(name: string): string {
  return process.env[name] ?? assert.fail(`${name} is not set`);
}

/** A call that the witness knows by its id, whose attempts meet what is planned for them. */
export class Call {
  readonly id = randomUUID();
  readonly metadata = new Metadata();
  readonly context: { witness: string[] };

  constructor(...meets: string[]) {
    this.context = { witness: meets };
    this.metadata.set("x-request-id", this.id);
  }

  private get fields() {
    return { message, scenarioContext: this.context };
  }

  invoke(alim: GraphServiceClient, deadline = Date.now() + 60_000): Promise<InvokeResponse> {
    return unary((done) => alim.invoke(InvokeRequest.fromPartial(this.fields), this.metadata, { deadline }, done));
  }

  stream(alim: GraphServiceClient, deadline = Date.now() + 60_000) {
    return alim.stream(StreamRequest.fromPartial(this.fields), this.metadata, { deadline });
  }

  async read(alim: GraphServiceClient, deadline?: number): Promise<StreamResponse[]> {
    return await this.stream(alim, deadline).toArray();
  }

  async mustBeSent(times: number) {
    assert.equal((await this.ask("seen")).posts, times);
  }

  /** Waits until the bridge has hung up. */
  async mustBeClosed() {
    assert.equal((await this.ask("closed")).closed, 1);
  }

  private async ask(question: string): Promise<{ posts: number; closed: number }> {
    const reply = await fetch(`${surroundings("ALIM_WITNESS")}/${question}/${this.id}`);
    return (await reply.json()) as { posts: number; closed: number };
  }
}

export function unary<T>(call: (done: (error: ServiceError | null, reply: T) => void) => unknown): Promise<T> {
  return new Promise((resolve, reject) => call((error, reply) => (error ? reject(error) : resolve(reply))));
}

export async function mustFail(answer: Promise<unknown>, code: string, reason?: string): Promise<Failure> {
  const failure = await answer.then(() => assert.fail("it did not fail"), failureOf);
  assert.equal(failure.code, code);
  assert.equal(failure.reason, reason);
  return failure;
}

export async function run(name: string, body: () => Promise<void>) {
  try {
    await body();
    console.log(`ok\t${name}`);
  } catch (error) {
    console.log(`failed\t${name}\t${String((error as Error).stack).replaceAll("\n", " | ")}`);
  }
}

export function skip(name: string, why: string) {
  console.log(`skipped\t${name}\t${why}`);
}
