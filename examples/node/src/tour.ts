// Asks ALİM in every way that a service needs: whole, typed, in a thread, with a deadline, cancelled, failing.

import { randomUUID } from "node:crypto";
import { Metadata, status } from "@grpc/grpc-js";
import { call, credentialsFor, options, read } from "./client.js";
import { AlimError } from "./errors.js";
import { GraphServiceClient, InvokeRequest, type InvokeResponse, StreamRequest } from "./gen/alim/v1/graph_service.js";
import { ThreadServiceClient } from "./gen/alim/v1/thread_service.js";

const target = process.env.ALIM_ADDRESS ?? "127.0.0.1:50051";
const secrets = credentialsFor(process.env.ALIM_CA_FILE, process.env.ALIM_CALLER_KEY);
const alim = new GraphServiceClient(target, secrets, options);
// Clients to one target with the same options share connections.
const threads = new ThreadServiceClient(target, secrets, options);

/** The metadata that names a call in the logs. In a service, pass on the id of the request that you serve. */
function requestId(name: string): Metadata {
  const metadata = new Metadata();
  metadata.set("x-request-id", `${randomUUID()}-${name}`);
  return metadata;
}

function within(seconds: number): { deadline: number } {
  return { deadline: Date.now() + seconds * 1000 };
}

function ask(question: Partial<InvokeRequest>, name: string, seconds: number) {
  const request = InvokeRequest.fromPartial(question);
  return call<InvokeResponse>((done) => alim.invoke(request, requestId(name), within(seconds), done));
}

function stream(question: Partial<StreamRequest>, name: string, seconds: number) {
  return read(alim.stream(StreamRequest.fromPartial(question), requestId(name), within(seconds)));
}

async function invoke() {
  console.log("== A whole answer");
  const reply = await ask({ message: "Nə vaxt suvarım?" }, "invoke", 60);
  console.log(reply.response);
  console.log(`model: ${reply.model}`);
}

/** Prints the answer while it is made; gives the thread that it belongs to. */
async function typeAnswer(question: Partial<StreamRequest>): Promise<string> {
  let threadId = "";
  for await (const { event } of stream(question, "stream", 60)) {
    switch (event?.$case) {
      case "token":
        process.stdout.write(event.value.text);
        break;
      case "done":
        process.stdout.write(`\n${event.value.tokenCount} tokens\n`);
        threadId = event.value.threadId;
    }
  }
  return threadId;
}

async function conversation() {
  console.log("== A conversation, typed");
  const threadId = await typeAnswer({ message: "Nə vaxt suvarım?", startThread: true });
  const again = await typeAnswer({ message: "Bəs sabah?", threadId });
  console.log(threadId && again === threadId ? "in the same thread" : "in another thread");
  await call((done) => threads.deleteThread({ threadId }, requestId("delete"), within(10), done));
}

/** What a call fails with; any other error goes on. */
async function failureOf(answer: Promise<unknown>): Promise<AlimError> {
  try {
    await answer;
  } catch (error) {
    if (error instanceof AlimError) return error;
    throw error;
  }
  throw new Error("the call did not fail");
}

function show(failure: AlimError) {
  console.log(status[failure.code], failure.reason);
  for (const [name, fault] of failure.fields) console.log(`  ${name}: ${fault}`);
  if (failure.retryAfterMs !== undefined) console.log(`  retry after: ${failure.retryAfterMs / 1000} s`);
  console.log(`  sent: ${failure.sent}`);
  if (failure.eventsDelivered !== undefined) console.log(`  events delivered: ${failure.eventsDelivered}`);
  console.log(`  request id: ${failure.requestId}`);
}

async function drain(events: AsyncIterable<unknown>) {
  for await (const _ of events);
}

async function failures() {
  console.log("== A question that is not valid");
  show(await failureOf(ask({ message: "", threadId: "x" }, "invalid", 10)));

  // The embedded ALİM fails on request.
  console.log("== A stream that fails on its way");
  const failing = { message: "Salam", scenarioContext: { emulator_fault: "agent_failed" } };
  show(await failureOf(drain(stream(failing, "failing", 10))));

  console.log("== Too many questions");
  const limited = { message: "Salam", scenarioContext: { emulator_fault: "rate_limited" } };
  show(await failureOf(ask(limited, "limited", 1.5)));
}

const slow = { message: "Salam", scenarioContext: { emulator_fault: "slow" } };

async function deadline() {
  console.log("== A deadline that passes");
  const failure = await failureOf(drain(stream(slow, "deadline", 0.5)));
  console.log(status[failure.code]);
}

async function cancel() {
  console.log("== A stream that is cancelled");
  for await (const _ of stream(slow, "cancel", 60)) {
    console.log("left after the first event");
    break; // `read` cancels the call.
  }
}

async function retry() {
  console.log("== A call that is retried");
  const reply = await ask({ message: "Salam" }, "retry", 60);
  console.log(reply.response ? "answered" : "empty");
}

try {
  await invoke();
  await conversation();
  await failures();
  await deadline();
  await cancel();
  await retry();
} finally {
  alim.close();
  threads.close();
}
