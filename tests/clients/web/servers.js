// The servers under test: real processes on ports that the system chose, each stopped by its own id.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createInterface } from "node:readline";

export const KEY = "dev-api-key-change-in-production";
const { ALIM_BRIDGE_BIN, REFERENCE, PYTHON } = process.env;

const children = new Set();
process.once("exit", () => children.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

function start(command, words, options) {
  const child = spawn(command, words, { stdio: ["ignore", "pipe", "pipe"], ...options });
  children.add(child);
  child.once("exit", () => children.delete(child));
  return child;
}

/** The first line of an output that `pick` makes something of; the rest is read and let go. */
function told(stream, pick) {
  const lines = createInterface({ input: stream });
  return new Promise((found, failed) => {
    lines.on("line", (line) => {
      const picked = pick(line);
      if (picked) found(picked);
    });
    lines.on("close", () => failed(new Error("it ended without telling where it listens")));
  });
}

const address = (line) => line.match(/listening on (?:http:\/\/)?(\S+)$/)?.[1];

async function stop(child) {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill("SIGTERM");
    await once(child, "exit");
  }
  return child.exitCode ?? child.signalCode;
}

/** The reference upstream: real FastAPI, which tells what it has seen. */
export async function startReference() {
  const child = start(PYTHON, ["-m", "app", "--port", "0"], { cwd: REFERENCE, stdio: ["ignore", "pipe", "ignore"] });
  const url = `http://${await told(child.stdout, address)}`;
  const calls = async () => (await fetch(`${url}/calls`)).json();
  return {
    url,
    calls,
    async posts() {
      const counted = Object.entries((await calls()).requests);
      return counted.filter(([route]) => route.startsWith("POST ")).reduce((sum, [, n]) => sum + n, 0);
    },
    stop: () => stop(child),
  };
}

/** The binary's own ALİM, for tests that need no real one. */
export async function startEmulator() {
  const child = start(ALIM_BRIDGE_BIN, ["emulate", "--listen", "127.0.0.1:0", "--token-delay", "5ms", "--log", "off"]);
  child.stderr.resume();
  return { url: `http://${await told(child.stdout, address)}`, stop: () => stop(child) };
}

/** Calls a bridge with the command's own client: its exit code, and a way to stop it. */
export function call(bridge, words, key) {
  const env = { ...process.env, ALIM_ADDRESS: bridge.url, ALIM_CALLER_KEY: key };
  const child = start(ALIM_BRIDGE_BIN, words, { env, stdio: ["ignore", "ignore", "ignore"] });
  const ended = once(child, "exit").then(([code]) => code);
  return { ended, stop: () => stop(child) };
}

/** A bridge before this upstream, with these settings too, named as in the environment without the prefix. */
export async function startBridge(upstream, settings) {
  const all = {
    LISTEN: "127.0.0.1:0",
    ADMIN_LISTEN: "127.0.0.1:0",
    UPSTREAM_URL: `${upstream.url}/api/v1`,
    UPSTREAM_API_KEY: KEY,
    LOG_FORMAT: "json",
    ...settings,
  };
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("ALIM_BRIDGE_"));
  const named = Object.entries(all).map(([name, value]) => [`ALIM_BRIDGE_${name}`, value]);
  const env = Object.fromEntries([...inherited, ...named]);
  const child = start(ALIM_BRIDGE_BIN, ["serve"], { env });
  const [listens, admin] = await Promise.all([
    told(child.stdout, address),
    told(child.stderr, (line) => JSON.parse(line).admin),
  ]);
  return {
    url: `${settings.TLS_CERT_FILE ? "https" : "http"}://${listens}`,
    admin: `http://${admin}`,
    /** The value of a metric, with its labels as they are written. */
    async metric(name) {
      const text = await (await fetch(`http://${admin}/metrics`)).text();
      const line = text.split("\n").find((line) => line.startsWith(`${name} `));
      assert(line, `no ${name} in\n${text}`);
      return Number(line.split(" ").at(-1));
    },
    stop: () => stop(child),
  };
}

const KINDS = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8" };

/** Serves the page; `localhost` and `127.0.0.1` are two origins of it. */
export async function startPages(folder) {
  const server = createServer(async (request, response) => {
    const name = request.url === "/page.js" ? "page.js" : "index.html";
    response.setHeader("content-type", KINDS[name.split(".")[1]]);
    response.end(await readFile(`${folder}/${name}`));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  return {
    listed: `http://127.0.0.1:${port}`,
    other: `http://localhost:${port}`,
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
