// A page that asks ALİM. Its query says what to ask: `bridge`, `method`, `message`, `context` (JSON), `timeout` in
// milliseconds and `key`; and by which `client`: connect's, or google's with its text format. It shows each token as
// it comes, with the time in `data-at`; its end is `data-state`.
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { askByGoogle } from "./google.js";
import { GraphService } from "../gen/alim/v1/graph_service_pb.js";
import { BadRequestSchema, ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.js";

const query = new URLSearchParams(location.search);
const element = (id) => document.getElementById(id);
const bridge = query.get("bridge");
const client = createClient(GraphService, createGrpcWebTransport({ baseUrl: bridge }));
const stopping = new AbortController();
element("stop").onclick = () => stopping.abort();

const question = {
  message: query.get("message") ?? "",
  userId: "fermer-7",
  scenarioContext: JSON.parse(query.get("context") ?? "{}"),
};
const options = {
  signal: stopping.signal,
  timeoutMs: query.has("timeout") ? Number(query.get("timeout")) : undefined,
  headers: query.has("key") ? { authorization: `Bearer ${query.get("key")}` } : {},
  onHeader: (headers) => (document.body.dataset.requestId = headers.get("x-request-id") ?? ""),
};

function type(text) {
  const token = document.createElement("span");
  token.dataset.at = performance.now();
  token.textContent = text;
  element("answer").append(token);
}

const isGoogle = query.get("client") === "google";
const ask = () => (isGoogle ? askByGoogle(bridge, question) : client.stream(question, options));

async function stream() {
  for await (const { event } of ask()) {
    document.body.dataset.state = "streaming";
    if (event.case === "node") element("note").textContent += `${event.value.name} → `;
    if (event.case === "token") type(event.value.text);
    if (event.case === "done") element("note").textContent += `${event.value.tokenCount} tokens`;
  }
}

async function invoke() {
  type((await client.invoke(question, options)).response);
}

function show(failure) {
  const error = ConnectError.from(failure);
  const [info] = error.findDetails(ErrorInfoSchema);
  const [invalid] = error.findDetails(BadRequestSchema);
  document.body.dataset.code = Code[error.code];
  document.body.dataset.reason = info?.reason ?? "";
  document.body.dataset.metadata = JSON.stringify(info?.metadata ?? {});
  document.body.dataset.fields = (invalid?.fieldViolations ?? []).map((violation) => violation.field).join();
  document.body.dataset.pushback = error.metadata.get("grpc-retry-pushback-ms") ?? "";
  element("failure").textContent = error.message;
}

element("question").textContent = question.message;
const started = performance.now();
try {
  await (query.get("method") === "Invoke" ? invoke() : stream());
  document.body.dataset.state = "done";
} catch (failure) {
  show(failure);
  document.body.dataset.state = "failed";
}
document.body.dataset.took = performance.now() - started;
