// The cases of a caller in TypeScript on Node.

import assert from "node:assert/strict";
import { once } from "node:events";
import { type ClientReadableStream, credentials, type ServiceError } from "@grpc/grpc-js";
import { connect, failureOf, options } from "./caller.js";
import { InvokeRequest, StreamRequest, type StreamResponse } from "./gen/alim/v1/graph_service.js";
import { CreateThreadRequest, type Thread, ThreadServiceClient } from "./gen/alim/v1/thread_service.js";
import { HealthCheckResponse_ServingStatus, HealthClient } from "./gen/health/v1/health.js";
import { Call, mustFail, run, skip, surroundings, unary } from "./report.js";

const address = surroundings("ALIM_ADDRESS");
const alim = connect(address);

// Both kinds of call, read to their end.
const kinds = [
  (call: Call, deadline?: number): Promise<unknown> => call.invoke(alim, deadline),
  (call: Call, deadline?: number): Promise<unknown> => call.read(alim, deadline),
];

await run("invoke", async () => {
  const reply = await new Call().invoke(alim);
  assert.ok(reply.response);
  assert.ok(reply.threadId);
});

await run("stream", async () => {
  const events = await new Call().read(alim);
  const tokens = events.flatMap(({ event }) => (event?.$case === "token" ? [event.value.text] : []));
  assert.equal(tokens.join(""), (await new Call().invoke(alim)).response);
  const last = events.at(-1)?.event;
  assert.equal(last?.$case === "done" && last.value.tokenCount, BigInt(tokens.length));
});

await run("deadline", async () => {
  for (const kind of kinds) {
    const call = new Call("silent");
    const failure = await kind(call, Date.now() + 1000).then(() => assert.fail("it did not fail"), failureOf);
    assert.equal(failure.code, "DEADLINE_EXCEEDED");
    await call.mustBeClosed();
  }
});

/** Reads a node, does that, and reads on to the failure. */
async function nodeThenFailure(call: Call, act: (events: ClientReadableStream<StreamResponse>) => void = () => {}) {
  const events = call.stream(alim);
  const kinds: unknown[] = [];
  events.on("data", ({ event }: StreamResponse) => {
    kinds.push(event?.$case);
    act(events);
  });
  const [error] = (await once(events, "error")) as [ServiceError];
  assert.deepEqual(kinds, ["node"]);
  return failureOf(error);
}

await run("cancel", async () => {
  const call = new Call("held");
  assert.equal((await nodeThenFailure(call, (events) => events.cancel())).code, "CANCELLED");
  await call.mustBeClosed();
});

await run("details", async () => {
  const request = InvokeRequest.fromPartial({ message: "", threadId: "../x" });
  const failure = await mustFail(unary((done) => alim.invoke(request, done)), "INVALID_ARGUMENT", "INVALID_REQUEST");
  assert.deepEqual(failure.fields, ["message", "thread_id"]);
});

await run("retry-info", async () => {
  for (const kind of kinds) {
    const call = new Call("rate_limited");
    const failure = await mustFail(kind(call), "RESOURCE_EXHAUSTED", "UPSTREAM_RATE_LIMITED");
    assert.equal(failure.retryAfterMs, 1000);
    await call.mustBeSent(1);
  }
});

await run("health", async () => {
  const health = new HealthClient(address, credentials.createInsecure());
  for (const service of ["", "alim.v1.GraphService"]) {
    const told = await unary<{ status: number }>((done) => health.check({ service }, done));
    assert.equal(told.status, HealthCheckResponse_ServingStatus.SERVING);
  }
  health.close();
});

await run("retry", async () => {
  for (const kind of kinds) {
    const call = new Call("unavailable_1", "unavailable_1");
    await kind(call);
    await call.mustBeSent(3);
  }
});

await run("no-retry", async () => {
  for (const kind of kinds) {
    const failed = new Call("failed");
    await mustFail(kind(failed), "INTERNAL", "UPSTREAM_FAILED");
    await failed.mustBeSent(1);
    const reset = new Call("reset");
    await mustFail(kind(reset), "UNAVAILABLE", "UPSTREAM_INTERRUPTED");
    await reset.mustBeSent(1);
  }
});

await run("no-retry-after-event", async () => {
  const call = new Call("cut");
  assert.equal((await nodeThenFailure(call)).code, "UNAVAILABLE");
  await call.mustBeSent(1);
});

// ALİM is paid a second time only where Retry-After asked for it, and within the caller's deadline.
await run("paid-runs", async () => {
  for (const kind of kinds) {
    for (const meets of ["unavailable", "unavailable_0", "unavailable_past", "unavailable_30"]) {
      const once = new Call(meets);
      await mustFail(kind(once, Date.now() + 10_000), "UNAVAILABLE", "UPSTREAM_UNAVAILABLE");
      await once.mustBeSent(1);
    }
    const twice = new Call("unavailable_1");
    await kind(twice, Date.now() + 10_000);
    await twice.mustBeSent(2);
  }
});

// What one bridge can't do, the policy's next attempt finds at the other.
async function allAreSentOnce(bad: string) {
  const both = connect(`ipv4:${bad},${address}`, { "grpc.default_authority": "alim-bridge" });
  for (let i = 0; i < 20; i++) {
    const call = new Call();
    await call.invoke(both);
    await call.mustBeSent(1);
  }
  both.close();
}

await run("balance", () => allAreSentOnce(surroundings("ALIM_UNREACHING_ADDRESS")));
await run("full-bridge", () => allAreSentOnce(surroundings("ALIM_FULL_ADDRESS")));

await run("thread", async () => {
  const threads = new ThreadServiceClient(address, credentials.createInsecure(), options);
  const call = new Call("unavailable_1");
  const wanted = CreateThreadRequest.fromPartial({ thread: { metadata: call.context } });
  const { threadId } = await unary<Thread>((done) => threads.createThread(wanted, call.metadata, done));
  await call.mustBeSent(2);

  const question = StreamRequest.fromPartial({ message: "Bəs sabah?", threadId });
  const events: StreamResponse[] = await alim.stream(question).toArray();
  assert.equal(events.at(-1)?.event?.$case, "done");

  const found = await unary<Thread>((done) => threads.getThread({ threadId }, done));
  assert.deepEqual(found.metadata?.witness, call.context.witness); // ALİM may add words of its own
  await unary((done) => threads.deleteThread({ threadId }, done));
  await mustFail(unary((done) => threads.getThread({ threadId }, done)), "NOT_FOUND", "UPSTREAM_NOT_FOUND");

  const started = StreamRequest.fromPartial({ message: "Salam!", startThread: true });
  const last = ((await alim.stream(started).toArray()) as StreamResponse[]).at(-1)?.event;
  assert(last?.$case === "done");
  const named = await unary<Thread>((done) => threads.getThread({ threadId: last.value.threadId }, done));
  assert.equal(named.threadId, last.value.threadId);
  threads.close();
});

skip("drain", "grpc-js has no client-side health checks");
alim.close();
