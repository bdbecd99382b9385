"use strict";
// Reads /status every two seconds. All text goes through textContent. Rows and buttons are kept across refreshes, so the
// keyboard's focus stays where it is. The token, if one is needed, is kept in this variable alone.
const REFRESH_MILLIS = 2000;
const MAX_ROWS = 200;
const STATES = {
  reads_message: "reads its message",
  queued: "waits for quota",
  waits_for_upstream: "waits for ALİM",
  streams: "streams",
  waits_for_caller: "caller does not read",
  ends: "ends",
};
let token = "";
let status = null;
let paused = false;
let timer = 0;

const find = (id) => document.getElementById(id);

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

const number = new Intl.NumberFormat("en");
const count = (value) => number.format(value);

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (value >= 1024 && power < units.length - 1) [value, power] = [value / 1024, power + 1];
  return `${value < 10 && power > 0 ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.01) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(1)} s`;
  const [days, hours, minutes] = [Math.floor(value / 86400), Math.floor(value / 3600) % 24, Math.floor(value / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min ${Math.floor(value % 60)} s`;
}

const clock = (millis) => new Date(millis).toISOString().slice(11, 19);
const nobody = (call) => call.caller ?? call.peer ?? "unknown";

// Tables: a column has a title, the text of its cell, and perhaps a class. `key` identifies a row over refreshes.
function table(id, columns, key, empty) {
  const element = find(id);
  const head = columns.map(({ title, kind }) => make("th", { textContent: title, className: kind ?? "", scope: "col" }));
  const body = make("tbody");
  element.append(make("thead", {}, make("tr", {}, ...head)), body);
  setRoles(element);
  const rows = new Map();
  return (items) => {
    const focused = document.activeElement;
    const wanted = new Map(items.map((item) => [String(key(item)), item]));
    for (const [name, row] of rows) {
      if (wanted.has(name)) continue;
      row.remove();
      rows.delete(name);
    }
    let index = 0;
    for (const [name, item] of wanted) {
      if (!rows.has(name)) rows.set(name, newRow(columns, item));
      const row = rows.get(name);
      columns.forEach((column, at) => column.fill(row.cells[at], item));
      if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
      index += 1;
    }
    while (body.children.length > Math.max(index, 0)) body.lastChild.remove();
    if (index === 0) {
      body.append(make("tr", {}, make("td", { className: "empty", colSpan: columns.length, textContent: empty })));
    }
    keepFocus(focused, element);
  };
}

function newRow(columns) {
  const row = make("tr");
  for (const { title, kind } of columns) {
    const cell = make("td", { className: kind ?? "" });
    cell.dataset.label = title;
    cell.setAttribute("role", "cell");
    row.append(cell);
  }
  row.setAttribute("role", "row");
  return row;
}

// On a phone the tables are laid out as blocks, and browsers then drop their roles.
function setRoles(element) {
  element.setAttribute("role", "table");
  element.tHead.setAttribute("role", "rowgroup");
  element.tBodies[0].setAttribute("role", "rowgroup");
  element.tHead.rows[0].setAttribute("role", "row");
  for (const cell of element.tHead.rows[0].cells) cell.setAttribute("role", "columnheader");
}

// A moved row loses the focus, and a removed one leaves it nowhere.
function keepFocus(focused, element) {
  if (!focused || focused === document.body || focused === document.activeElement) return;
  if (focused.isConnected) focused.focus({ preventScroll: true });
  else element.closest("section").querySelector("h2[tabindex]")?.focus({ preventScroll: true });
}

const plain = (title, text, kind) => ({ title, kind, fill: (cell, item) => setText(cell, text(item)) });

const badges = (title, pick, kind) => ({
  title,
  kind,
  fill(cell, item) {
    const wanted = pick(item);
    const key = wanted.map(({ text, kind }) => `${kind} ${text}`).join("\n");
    if (cell.dataset.key === key) return;
    cell.dataset.key = key;
    cell.replaceChildren(...wanted.map(({ text, kind }) => make("span", { className: `badge ${kind}`, textContent: text })));
  },
});

const cancelColumn = {
  title: "Action",
  fill(cell, call) {
    if (cell.firstChild) return;
    const button = make("button", { type: "button", textContent: "Cancel" });
    button.setAttribute("aria-label", `Cancel call ${call.id}, ${call.method} of ${nobody(call)}`);
    button.addEventListener("click", () => askToCancel(call));
    cell.append(button);
  },
};

const stateKind = { waits_for_caller: "bad", queued: "warn", ends: "warn", streams: "good" };
const showOpen = table(
  "open",
  [
    plain("Call", (call) => String(call.id), "number"),
    plain("Age", (call) => seconds(call.ageSeconds), "number"),
    plain("Method", (call) => call.method),
    plain("Caller", nobody),
    badges("State", (call) => [{ text: STATES[call.state] ?? call.state, kind: stateKind[call.state] ?? "" }]),
    plain("Tokens", (call) => count(call.tokens), "number"),
    plain("Memory", (call) => bytes(call.heldBytes), "number"),
    plain("Request id", (call) => call.requestId, "id"),
    cancelColumn,
  ],
  (call) => call.id,
  "No call is open.",
);

const showFailed = table(
  "failed",
  [
    plain("Ended (UTC)", (call) => clock(call.endedAt)),
    plain("Method", (call) => call.method),
    plain("Caller", nobody),
    badges("Reason", (call) => [{ text: call.reason, kind: "bad" }], "wide"),
    plain("Code", (call) => call.code),
    plain("Duration", (call) => seconds(call.durationSeconds), "number"),
    plain("Request id", (call) => call.requestId, "id"),
  ],
  (call) => `${call.endedAt} ${call.requestId} ${call.peer} ${call.reason} ${call.durationSeconds}`,
  "No call has failed.",
);

const showMethods = table(
  "methods",
  [
    plain("Method", (method) => method.method),
    plain("Started", (method) => count(method.started), "number"),
    badges("Ended, by code", (method) =>
      method.codes.map(({ name, count: calls }) => ({ text: `${name} ${count(calls)}`, kind: name === "OK" ? "good" : "bad" })),
    ),
  ],
  (method) => method.method,
  "No call yet.",
);

const showReasons = table(
  "reasons",
  [plain("Reason", (failure) => failure.name), plain("Calls", (failure) => count(failure.count), "number")],
  (failure) => failure.name,
  "No call has failed.",
);

const showCallers = table(
  "callers",
  [
    plain("Caller", (caller) => caller.name),
    plain("Open calls", (caller) => (caller.maxOpenCalls === null ? count(caller.openCalls) : `${caller.openCalls} of ${caller.maxOpenCalls}`), "number"),
    plain("Rate limit", (caller) => caller.rate ?? "none"),
    plain("Weight", (caller) => count(caller.weight), "number"),
    plain("Upstream key", (caller) => (caller.hasOwnKey ? "its own" : "shared")),
    plain("Started", (caller) => count(caller.started), "number"),
    plain("Failed", (caller) => count(caller.failed), "number"),
    plain("Tokens", (caller) => count(caller.tokens), "number"),
  ],
  (caller) => caller.name,
  "The callers file lists nobody.",
);

const showQuota = table(
  "quota",
  [
    plain("Upstream key", (key) => key.name),
    plain("Left now", (key) => count(key.remaining), "number"),
    plain("Requests sent", (key) => count(key.requests), "number"),
  ],
  (key) => key.name,
  "No key has sent a request.",
);

const showSettings = table(
  "settings",
  [plain("Setting", (setting) => setting.name), plain("Value", (setting) => setting.value || "–")],
  (setting) => setting.name,
  "No settings are known.",
);

function setBadges() {
  const { upstream, draining, uptimeSeconds } = status;
  const health = { true: ["ALİM is reachable", "good"], false: ["ALİM is not healthy", "bad"] };
  const [text, kind] = health[upstream.reachable] ?? ["ALİM: not known yet", "warn"];
  const all = [[text, kind], [`up ${seconds(uptimeSeconds)}`, ""]];
  if (draining) all.push(["draining", "bad"]);
  find("state").replaceChildren(...all.map(([text, kind]) => make("span", { className: `badge ${kind}`, textContent: text })));
}

const tiles = new Map();
function tile(name, value, detail, used) {
  if (!tiles.has(name)) {
    const parts = { value: make("span"), detail: make("small"), meter: make("meter", { hidden: true }) };
    parts.meter.setAttribute("aria-label", name);
    find("overview").append(make("div", {}, make("dt", { textContent: name }), make("dd", {}, parts.value, parts.detail, parts.meter)));
    tiles.set(name, parts);
  }
  const parts = tiles.get(name);
  setText(parts.value, value);
  setText(parts.detail, detail);
  if (!used) return;
  const { meter } = parts;
  Object.assign(meter, { hidden: false, max: used.limit, high: used.limit * 0.8, optimum: 0, value: used.used });
}

function showOverview() {
  const { limits, upstream, firstToken, interToken, quota } = status;
  tile("Open calls", count(limits.calls.used), `of ${count(limits.calls.limit)}`, limits.calls);
  tile("Connections", count(limits.connections.used), `of ${count(limits.connections.limit)}`, limits.connections);
  tile("Held by calls", bytes(limits.bufferedBytes.used), `of ${bytes(limits.bufferedBytes.limit)}`, limits.bufferedBytes);
  tile("First token", seconds(firstToken.p50Seconds), `median; p99 ${seconds(firstToken.p99Seconds)}; ${count(firstToken.count)} streams`);
  tile("Between tokens", seconds(interToken.p50Seconds), `median; p99 ${seconds(interToken.p99Seconds)}; ${count(status.tokens)} tokens`);
  const started = status.methods.reduce((sum, method) => sum + method.started, 0);
  const failed = status.failures.reduce((sum, failure) => sum + failure.count, 0);
  tile("Calls since the start", count(started), `${count(failed)} failed`);
  tile("Quota for ALİM", quota ? `${quota.waiting} waiting` : "off", quota ? `${count(quota.limit)} requests in each window` : "UPSTREAM_QUOTA");
  const left = upstream.rateLimitRemaining;
  tile("ALİM's own limit", left === null ? "–" : `${count(left)} left`, "as ALİM reported for the bridge's key");
  const health = { true: "reachable", false: "not healthy" };
  tile("ALİM", health[upstream.reachable] ?? "not known yet", upstream.fault ?? upstream.url);
}

function openCalls() {
  const words = find("open-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (call) => `${call.id} ${call.method} ${call.caller ?? ""} ${call.peer ?? ""} ${call.requestId} ${STATES[call.state]}`.toLowerCase();
  const calls = status.openCalls.calls.filter((call) => words.every((word) => text(call).includes(word)));
  const order = { tokens: (call) => -call.tokens, memory: (call) => -call.heldBytes }[find("open-order").value];
  if (order) calls.sort((one, other) => order(one) - order(other));
  const shown = calls.slice(0, MAX_ROWS);
  const { total } = status.openCalls;
  setText(find("open-count"), shown.length === total ? `${count(total)}` : `${count(shown.length)} of ${count(total)} are shown`);
  showOpen(shown);
}

function show() {
  setText(find("version"), status.version);
  setBadges();
  showOverview();
  openCalls();
  showFailed(status.lastFailures);
  showMethods(status.methods.filter((method) => method.started > 0));
  showReasons(status.failures);
  find("callers").hidden = status.callers === null;
  find("callers-none").hidden = status.callers !== null;
  showCallers(status.callers ?? []);
  find("quota").hidden = status.quota === null;
  find("quota-none").hidden = status.quota !== null;
  showQuota(status.quota?.keys ?? []);
  setText(find("log"), status.log ?? "the log is not set up");
  showSettings(status.settings);
}

function note(text, isBad = false) {
  find("note").className = isBad ? "bad" : "";
  setText(find("note"), text);
}

async function send(method, path) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { method, headers, cache: "no-store", credentials: "omit" });
  if (response.ok) return response.json();
  const text = (await response.text()).trim();
  throw Object.assign(new Error(text || `HTTP ${response.status}`), { status: response.status });
}

function askForToken() {
  const wasOpen = !find("login").hidden;
  find("main").hidden = true;
  find("login").hidden = false;
  find("pause").hidden = true;
  note(token ? "This token is wrong." : "", true);
  token = "";
  if (!wasOpen || document.activeElement === document.body) find("token").focus();
}

async function refresh() {
  clearTimeout(timer);
  try {
    status = await send("GET", "/status");
    if (!find("login").hidden) note("");
    find("login").hidden = true;
    find("main").hidden = false;
    find("pause").hidden = false;
    if (find("note").dataset.lost) note("The bridge answers again.");
    delete find("note").dataset.lost;
    show();
  } catch (error) {
    if (error.status === 401) return askForToken();
    find("note").dataset.lost = "yes";
    note(error.status ? error.message : "The bridge does not answer.", true);
  }
  clearTimeout(timer);
  if (!paused && !document.hidden) timer = setTimeout(refresh, REFRESH_MILLIS);
}

async function act(method, path, done) {
  try {
    note(done(await send(method, path)));
  } catch (error) {
    note(error.message, true);
  }
  await refresh();
}

let chosen = null;
function askToCancel(call) {
  chosen = call;
  setText(find("confirm-text"), `Call ${call.id}: ${call.method} of ${nobody(call)}, request ${call.requestId}.`);
  find("confirm").showModal();
}

find("confirm-no").addEventListener("click", () => find("confirm").close());
find("confirm-yes").addEventListener("click", () => {
  find("confirm").close();
  act("POST", `/calls/${chosen.id}/cancel`, () => `Call ${chosen.id} is cancelled.`);
});
find("log-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const filter = encodeURIComponent(find("log-filter").value);
  act("PUT", `/log?filter=${filter}`, ({ log }) => `The log's filter is ${log}.`);
});
find("log-reset").addEventListener("click", () => act("PUT", "/log", ({ log }) => `The log's filter is ${log}.`));
find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value;
  find("token").value = "";
  refresh();
});
find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", String(paused));
  note(paused ? "Paused." : "");
  refresh();
});
find("open-filter").addEventListener("input", () => status && openCalls());
find("open-order").addEventListener("change", () => status && openCalls());
document.addEventListener("visibilitychange", () => document.hidden || refresh());
refresh();
