// The admin page in a real browser, while calls go on: its figures, its controls, its layout, and what it must not do.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { after, before, describe, test } from "node:test";
import { chromium } from "playwright-core";
import { call, startBridge, startEmulator } from "./servers.js";

const { CHROMIUM, SHOTS, IMAGES } = process.env;
const TOKEN = "a-token-of-32-characters-for-test";
const CALLERS = ["orders", "fields", "advice"];
const keyOf = (caller) => `key-of-${caller}`;
const CANCELLED = 64 + 1;

let browser, emulator, bridge, folder;
const open = [];

const slow = (fault) => JSON.stringify({ emulator_fault: fault, emulator_tokens: Array(900).fill("söz ") });

/** Waits until the bridge reports what is expected. */
async function statusWhen(expected) {
  for (const deadline = Date.now() + 20_000; ; ) {
    const status = await (await fetch(`${bridge.admin}/status`)).json();
    if (expected(status)) return status;
    assert(Date.now() < deadline, JSON.stringify([status.openCalls, status.lastFailures], null, 1));
  }
}

/** Finished, failed, open and silent calls of three callers. */
async function makeCalls() {
  // Not rate_limited: the quota would then hold back the calls that follow.
  const failing = ["agent_failed", "unavailable", "truncated"];
  const faults = failing.map((fault) => ["stream", "Salam", "--scenario-context", JSON.stringify({ emulator_fault: fault })]);
  for (const caller of CALLERS) {
    for (const words of [["invoke", "Salam"], ["stream", "Salam"], ["stream", "Salam"], ["invoke", ""], ...faults]) {
      await call(bridge, words, keyOf(caller)).ended;
    }
  }
  await call(bridge, ["invoke", "Salam"], "a key that nobody has").ended;
  for (const [index, fault] of ["slow", "slow", "slow", "silent", "slow", "silent"].entries()) {
    const words = ["stream", "Salam", "--scenario-context", slow(fault)];
    open.push(call(bridge, words, keyOf(CALLERS[index % CALLERS.length])));
    await statusWhen(({ openCalls }) => openCalls.total === open.length);
  }
  await statusWhen(({ openCalls }) => openCalls.calls[4].tokens >= 2 && openCalls.calls.length === open.length);
}

before(async () => {
  folder = await mkdtemp(`${tmpdir()}/admin-`);
  const hash = (caller) => createHash("sha256").update(keyOf(caller)).digest("hex");
  const entries = CALLERS.map((caller) => `[[caller]]\nname = "${caller}"\nkey_sha256 = ["${hash(caller)}"]\n`);
  await writeFile(`${folder}/callers.toml`, `${entries.join("")}max_open_calls = 8\nrate = "60/min"\nweight = 2\n`);
  await writeFile(`${folder}/token`, TOKEN);
  [browser, emulator] = await Promise.all([
    chromium.launch({ executablePath: CHROMIUM, headless: true, args: ["--no-sandbox", "--disable-gpu"] }),
    startEmulator(),
  ]);
  bridge = await startBridge(emulator, { CALLERS_FILE: `${folder}/callers.toml`, UPSTREAM_QUOTA: "60/min" });
  await makeCalls();
});
after(async () => {
  await browser?.close();
  await Promise.all(open.map((caller) => caller.stop()));
  await bridge?.stop();
  await emulator?.stop();
  await rm(folder, { recursive: true });
});

/** Opens the page; what it sends elsewhere or complains of fails the test that closes it. */
async function show(url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const [foreign, complaints] = [[], []];
  page.on("request", (request) => {
    if (!request.url().startsWith(`${url}/`) && request.url() !== "data:,") foreign.push(request.url());
  });
  page.on("console", (message) => message.type() !== "log" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  await options.prepare?.(page);
  await page.goto(`${url}/`);
  return {
    page,
    async close(expected = []) {
      assert.deepEqual(foreign, []);
      const unexpected = complaints.filter((text) => !expected.some((part) => text.includes(part)));
      assert.deepEqual(unexpected, []);
      await context.close();
    },
  };
}

const cells = (page, table) =>
  page.$$eval(`#${table} tbody tr`, (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.ariaLabel || document.activeElement.tagName);
const isShown = (page) => page.waitForSelector("#open tbody button");

describe("the admin page", { timeout: 120_000 }, () => {
  test("shows the real figures of calls that go on", async () => {
    const { page, close } = await show(bridge.admin);
    await isShown(page);
    const status = await (await fetch(`${bridge.admin}/status`)).json();
    const rows = await cells(page, "open");
    assert.deepEqual(
      rows.map(([id, , method, caller, state]) => [id, method, caller, state]),
      status.openCalls.calls.map(({ id, method, caller, state }) => [
        String(id),
        method,
        caller,
        { streams: "streams", waits_for_upstream: "waits for ALİM" }[state],
      ]),
    );
    assert.equal(rows.length, open.length);
    const tokens = Number(rows[0][5]);
    assert(tokens >= 2, rows[0]);
    await page.waitForFunction((tokens) => Number(document.querySelector("#open tbody td:nth-child(6)").textContent) > tokens, tokens);

    const started = await bridge.metric(
      'grpc_server_started_total{grpc_method="Stream",grpc_service="alim.v1.GraphService",grpc_type="server_stream"}',
    );
    const stream = (await cells(page, "methods")).find(([method]) => method === "Stream");
    assert.equal(stream[1], String(started));
    const failures = new Map(await cells(page, "reasons"));
    for (const reason of ["UPSTREAM_STREAM_FAILED", "INVALID_REQUEST"]) {
      const count = await bridge.metric(`alim_bridge_failures_total{reason="${reason}"}`);
      assert.equal(failures.get(reason), String(count), reason);
    }
    const callers = await cells(page, "callers");
    assert.deepEqual(callers.map(([name, openCalls]) => [name, openCalls]), [["orders", "2"], ["fields", "2"], ["advice", "2 of 8"]]);
    const failed = await cells(page, "failed");
    assert.equal(failed.length, status.lastFailures.length);
    assert(failed.some(([, , caller, reason]) => caller === "orders" && reason === "UPSTREAM_STREAM_TRUNCATED"), failed);
    assert.match(await page.textContent("#overview"), /Open calls\s*6\s*of 4,096/);
    assert.match(await page.textContent("#state"), /ALİM is reachable/);
    await page.click("summary");
    const settings = new Map(await cells(page, "settings"));
    assert.equal(settings.get("UPSTREAM_QUOTA"), "60/min");
    const text = await page.textContent("body");
    for (const secret of ["Salam", "söz", "dev-api-key", "key-of-"]) assert(!text.includes(secret), secret);
    await close();
  });

  for (const colorScheme of ["light", "dark"]) {
    for (const width of [360, 1280]) {
      test(`fits ${width} pixels, ${colorScheme}`, async () => {
        const { page, close } = await show(bridge.admin, { colorScheme, viewport: { width, height: 900 } });
        await isShown(page);
        await page.screenshot({ path: `${SHOTS}/admin-${colorScheme}-${width}.png`, fullPage: true });
        if (IMAGES && width === 1280) {
          await page.setViewportSize({ width, height: 1060 });
          await page.screenshot({ path: `${IMAGES}/admin-${colorScheme}.png` });
        }
        await page.click("summary");
        const [scrollWidth, clientWidth] = await page.evaluate(() => [
          document.documentElement.scrollWidth,
          document.documentElement.clientWidth,
        ]);
        assert(scrollWidth <= clientWidth, `${scrollWidth} > ${clientWidth}`);
        const outside = await page.$$eval("main *", (all) =>
          all
            .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
            .filter((one) => !one.closest(".cards thead")) // clipped: it is for screen readers
            .map((one) => one.outerHTML.slice(0, 80)),
        );
        assert.deepEqual(outside, []);
        const back = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        assert.equal(back, colorScheme === "light" ? "rgb(245, 246, 244)" : "rgb(18, 22, 19)");
        await close();
      });
    }
  }

  test("the keyboard reaches the controls, and the focus stays over refreshes", async () => {
    const { page, close } = await show(bridge.admin);
    await isShown(page);
    const reached = [];
    for (let count = 0; count < 20 && reached.at(-1) !== "log-reset"; count++) {
      await page.keyboard.press("Tab");
      reached.push(await focused(page));
    }
    const rows = await cells(page, "open");
    const buttons = rows.map(([id, , method, caller]) => `Cancel call ${id}, ${method} of ${caller}`);
    assert.deepEqual(reached.slice(0, 9), ["pause", "open-filter", "open-order", ...buttons]);
    assert.deepEqual(reached.slice(9, 12), ["log-filter", "BUTTON", "log-reset"]);
    await page.focus(`[aria-label="${buttons[2]}"]`);
    for (let count = 0; count < 2; count++) await page.waitForResponse((response) => response.url().endsWith("/status"));
    assert.equal(await focused(page), buttons[2]);
    const rowOf = async (button) => (await page.$$eval("#open tbody button", (all) => all.map((one) => one.ariaLabel))).indexOf(button);
    await page.focus(`[aria-label="${buttons[4]}"]`);
    await page.evaluate(() => {
      const order = document.getElementById("open-order");
      order.value = "tokens";
      order.dispatchEvent(new Event("change"));
    });
    assert.equal(await rowOf(buttons[4]), 3, "the silent call before it has no tokens");
    assert.equal(await focused(page), buttons[4]);
    await close();
  });

  test("tables have captions and headings, and only one region is live", async () => {
    const { page, close } = await show(bridge.admin);
    await isShown(page);
    const tables = await page.$$eval("table", (all) => all.map((table) => [table.caption?.textContent.length > 0, table.tHead.rows[0].cells.length > 1]));
    assert.equal(tables.length, 7);
    assert(tables.flat().every(Boolean), tables);
    assert.equal(await page.locator("[role=status], [aria-live]").count(), 1);
    assert.equal(await page.textContent("#note"), "", "nothing is announced over refreshes");
    for (const [role, name] of [
      ["searchbox", "Filter"],
      ["combobox", "Order"],
      ["textbox", "Level of the bridge's own lines"],
    ]) {
      await page.getByRole(role, { name }).waitFor();
    }
    await page.getByRole("table", { name: "Calls to ALİM that have not ended" }).waitFor();
    await close();
  });

  test("a call is found and cancelled by keyboard alone", async () => {
    const { page, close } = await show(bridge.admin);
    await isShown(page);
    await page.focus("#open-filter");
    await page.keyboard.type("advice streams");
    await page.waitForFunction(() => document.querySelectorAll("#open tbody button").length === 1);
    const [[id]] = await cells(page, "open");
    assert.match(await page.textContent("#open-count"), /^1 of 6 are shown$/);
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    const button = await focused(page);
    assert.match(button, new RegExp(`^Cancel call ${id}, Stream of advice$`));
    await page.keyboard.press("Enter");
    assert.equal(await focused(page), "confirm-no");
    await page.keyboard.press("Escape");
    assert.equal(await focused(page), button, "the dialog gives it back");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.waitForFunction((id) => document.getElementById("note").textContent === `Call ${id} is cancelled.`, id);
    assert.equal(await open[2].ended, CANCELLED);
    await page.waitForFunction(() => document.activeElement.id === "open-title", undefined, { timeout: 10_000 });
    const [newest] = await cells(page, "failed");
    assert.deepEqual([newest[2], newest[3], newest[4]], ["advice", "OPERATOR_CANCELLED", "Canceled"]);
    await close();
  });

  test("the log's level changes, and a filter for another library is explained", async () => {
    const { page, close } = await show(bridge.admin);
    await isShown(page);
    const noted = (text) => page.waitForFunction((text) => document.getElementById("note").textContent.startsWith(text), text);
    assert.equal(await page.textContent("#log"), "info");
    await page.focus("#log-filter");
    await page.keyboard.press("Enter");
    await noted("The log's filter is alim_bridge=debug,info.");
    await page.waitForFunction(() => document.getElementById("log").textContent === "alim_bridge=debug,info");
    await page.fill("#log-filter", "h2=trace");
    await page.keyboard.press("Enter");
    await noted("part 1 must concern alim_bridge");
    await page.click("#log-reset");
    await noted("The log's filter is info.");
    await close(["400 (Bad Request)"]);
  });

  test("text from callers is shown as text", async () => {
    const hostile = `<img src=x onerror="document.title='run'"><script>document.title='run'</script>`;
    const disguise = (value) => {
      if (typeof value === "string") return hostile;
      if (Array.isArray(value)) return value.map(disguise);
      if (value === null || typeof value !== "object") return value;
      return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, disguise(inner)]));
    };
    const prepare = (page) =>
      page.route("**/status", async (route) => {
        const response = await route.fetch();
        await route.fulfill({ response, json: disguise(await response.json()) });
      });
    const { page, close } = await show(bridge.admin, { prepare });
    await isShown(page);
    assert((await page.textContent("#open")).includes(hostile));
    assert.equal(await page.locator("img").count(), 0);
    assert.equal(await page.locator("script").count(), 1);
    assert.equal(await page.title(), "alim-bridge");
    await close();
  });

  test("the policy stops a script that is not the page's own", async () => {
    const { page, close } = await show(bridge.admin);
    await isShown(page);
    await page.evaluate(() => {
      const script = document.createElement("script");
      script.textContent = "document.title = 'run'";
      document.body.append(script);
    });
    assert.equal(await page.title(), "alim-bridge");
    await close(["Content Security Policy"]);
  });

  test("with a token the page asks for it, and keeps it nowhere", async (t) => {
    const guarded = await startBridge(emulator, { ADMIN_TOKEN_FILE: `${folder}/token` });
    t.after(() => guarded.stop());
    const { page, close } = await show(guarded.admin);
    await page.waitForSelector("#login:not([hidden])");
    assert.equal(await focused(page), "token");
    assert.equal(await page.isVisible("#main"), false);
    await page.keyboard.type("wrong");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.getElementById("note").textContent === "This token is wrong.");
    await page.fill("#token", TOKEN);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#main:not([hidden])");
    assert.equal(await page.textContent("#note"), "");
    const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, location.href.includes("token")]);
    assert.deepEqual(kept, [0, 0, "", false]);
    await page.screenshot({ path: `${SHOTS}/admin-with-token.png` });
    await page.reload();
    await page.waitForSelector("#login:not([hidden])");
    await close(["401 (Unauthorized)"]);
  });

  test("a bridge that is gone is announced once, and its return too", async () => {
    const { page, close } = await show(bridge.admin);
    await isShown(page);
    await page.route("**/status", (route) => route.abort());
    await page.waitForFunction(() => document.getElementById("note").textContent === "The bridge does not answer.");
    await page.unroute("**/status");
    await page.waitForFunction(() => document.getElementById("note").textContent === "The bridge answers again.");
    await close(["net::ERR_FAILED"]);
  });
});
