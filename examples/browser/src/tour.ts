// Asks ALİM in every way that a page needs: whole, typed, in a thread, with a deadline, cancelled, failing.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Alim, type Call } from "./client";
import { AlimError } from "./errors";
import type { StreamRequestSchema } from "./gen/alim/v1/graph_service_pb";

// `?bridge=https://alim.example.az&key=...`
const query = new URLSearchParams(location.search);
const alim = new Alim(query.get("bridge") ?? "http://127.0.0.1:50051", query.get("key") ?? undefined);
const page = document.querySelector("#tour") ?? document.body;

function print(text: string) {
  page.append(text);
}

function call(name: string, seconds: number): Call {
  // Pages have randomUUID over https and on this machine alone.
  return { requestId: `${crypto.randomUUID()}-${name}`, timeoutMs: seconds * 1000 };
}

async function invoke() {
  print("== A whole answer\n");
  const reply = await alim.invoke({ message: "Nə vaxt suvarım?" }, call("invoke", 60));
  print(`${reply.response}\nmodel: ${reply.model}\n`);
}

/** Shows the answer while it is made; gives the thread that it belongs to. */
async function type(question: MessageInitShape<typeof StreamRequestSchema>): Promise<string> {
  let threadId = "";
  for await (const { event } of alim.stream(question, call("stream", 60))) {
    switch (event.case) {
      case "token":
        print(event.value.text);
        break;
      case "done":
        print(`\n${event.value.tokenCount} tokens\n`);
        threadId = event.value.threadId;
    }
  }
  return threadId;
}

async function conversation() {
  print("== A conversation, typed\n");
  const threadId = await type({ message: "Nə vaxt suvarım?", startThread: true });
  const again = await type({ message: "Bəs sabah?", threadId });
  print(threadId && again === threadId ? "in the same thread\n" : "in another thread\n");
  await alim.deleteThread(threadId, call("delete", 10));
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

/** The protocol's name of a code; connect's own is `InvalidArgument`. */
function nameOf(code: Code): string {
  return code === Code.Canceled ? "CANCELLED" : (Code[code] ?? "").replace(/(?<=[a-z])[A-Z]/g, "_$&").toUpperCase();
}

function show(failure: AlimError) {
  print(`${nameOf(failure.code)} ${failure.reason}\n`);
  for (const [name, fault] of failure.fields) print(`  ${name}: ${fault}\n`);
  if (failure.retryAfterMs !== undefined) print(`  retry after: ${failure.retryAfterMs / 1000} s\n`);
  print(`  sent: ${failure.sent}\n`);
  if (failure.eventsDelivered !== undefined) print(`  events delivered: ${failure.eventsDelivered}\n`);
  print(`  request id: ${failure.requestId}\n`);
}

async function drain(events: AsyncIterable<unknown>) {
  for await (const _ of events);
}

async function failures() {
  print("== A question that is not valid\n");
  show(await failureOf(alim.invoke({ message: "", threadId: "x" }, call("invalid", 10))));

  // The embedded ALİM fails on request.
  print("== A stream that fails on its way\n");
  const failing = { message: "Salam", scenarioContext: { emulator_fault: "agent_failed" } };
  show(await failureOf(drain(alim.stream(failing, call("failing", 10)))));

  print("== Too many questions\n");
  const limited = { message: "Salam", scenarioContext: { emulator_fault: "rate_limited" } };
  show(await failureOf(alim.invoke(limited, call("limited", 1.5))));
}

const slow = { message: "Salam", scenarioContext: { emulator_fault: "slow" } };

async function deadline() {
  print("== A deadline that passes\n");
  const failure = await failureOf(drain(alim.stream(slow, call("deadline", 0.5))));
  print(`${nameOf(failure.code)}\n`);
}

async function cancel() {
  print("== A stream that is cancelled\n");
  for await (const _ of alim.stream(slow, call("cancel", 60))) {
    print("left after the first event\n");
    break; // `stream` cancels the call. So does closing the page.
  }
}

async function retry() {
  print("== A call that is retried\n");
  const reply = await alim.invoke({ message: "Salam" }, call("retry", 60));
  print(reply.response ? "answered\n" : "empty\n");
}

try {
  for (const part of [invoke, conversation, failures, deadline, cancel, retry]) await part();
  document.body.dataset.state = "done";
} catch (error) {
  print(`\n${error}\n`);
  document.body.dataset.state = "failed";
}
