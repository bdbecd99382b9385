// What a page in a real browser sees of the bridge, over HTTP/1.1 and, with TLS, over HTTP/2.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { chromium } from "playwright-core";
import { startBridge, startPages, startReference } from "./servers.js";

const { CHROMIUM, CERT, CERT_KEY, SHOTS } = process.env;
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const QUESTION = "Fermada susuzluq var, nə edim?";
const TYPED = ["Suvarma ", "üçün ", "ən yaxşı ", "vaxt ", "səhər tezdəndir 🌱"];

let browser, reference, pages;
before(async () => {
  browser = await chromium.launch({ executablePath: CHROMIUM, headless: true, args: FLAGS });
  reference = await startReference();
  pages = await startPages("page");
});
after(async () => {
  await browser?.close();
  await pages?.stop();
  await reference?.stop();
});

/** Opens the page with this question, in a profile of its own. */
async function open(bridge, query, origin = pages.listed) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 900, height: 520 } });
  const page = await context.newPage();
  const protocols = [];
  const wire = await context.newCDPSession(page);
  await wire.send("Network.enable");
  wire.on("Network.responseReceived", ({ response }) => {
    if (response.url.startsWith(bridge.url)) protocols.push(response.protocol);
  });
  const console = [];
  page.on("console", (message) => console.push(message.text()));
  const { context: scenario, ...rest } = { message: QUESTION, ...query };
  const all = new URLSearchParams({ bridge: bridge.url, ...rest, context: JSON.stringify(scenario ?? {}) });
  await page.goto(`${origin}/?${all}`);
  return { page, protocols, console, close: () => context.close() };
}

async function state(page, expected) {
  await page.waitForFunction((expected) => document.body.dataset.state === expected, expected, { timeout: 20_000 });
  return page.evaluate(() => ({ ...document.body.dataset }));
}

const answer = (page) => page.locator("#answer").textContent();
const firstToken = (page) => page.waitForSelector("#answer span", { timeout: 10_000 });

/** Waits until this many tokens are there, and sees that the others are still to come. */
async function typing(page, tokens, count) {
  await page.waitForFunction((count) => document.querySelectorAll("#answer span").length >= count, count);
  const [soFar, text] = [await answer(page), tokens.join("")];
  assert(text.startsWith(soFar) && soFar.length < text.length, soFar);
}

async function eventually(holds) {
  for (const deadline = Date.now() + 10_000; !(await holds()); await sleep(10)) {
    assert(Date.now() < deadline, `within 10 s it did not become true: ${holds}`);
  }
}

/** Waits until the upstream has seen `count` more calls closed before their end than `before`. */
const upstreamClosed = (before, count = 1) =>
  eventually(async () => (await reference.calls()).closed_by_peer === before.closed_by_peer + count);

for (const [protocol, settings] of [
  ["http/1.1", {}],
  ["h2", { TLS_CERT_FILE: CERT, TLS_KEY_FILE: CERT_KEY }],
]) {
  describe(`over ${protocol}`, { timeout: 300_000 }, () => {
    let bridge;
    before(async () => {
      bridge = await startBridge(reference, { GRPC_WEB: pages.listed, ...settings });
    });
    after(async () => assert.equal(await bridge?.stop(), 0));

    test("tokens appear one by one while they are being typed", async (t) => {
      const { page, protocols, close } = await open(bridge, { context: { tokens: TYPED, fault: "slow" } });
      await typing(page, TYPED, 3);
      await page.screenshot({ path: `${SHOTS}/typing-${protocol.replace("/", "-")}.png` });
      await state(page, "done");
      assert.equal(await answer(page), TYPED.join(""));
      // A model's last token is often empty, and comes with the one before.
      const times = await page.$$eval("#answer span", (tokens) =>
        tokens.filter((token) => token.textContent !== "").map((token) => Number(token.dataset.at)),
      );
      const gaps = times.slice(1).map((time, index) => time - times[index]);
      t.diagnostic(`milliseconds between tokens that leave ALİM 1 s apart: ${gaps.map(Math.round).join(", ")}`);
      assert(gaps.every((gap) => gap > 500), `${gaps}`);
      assert.equal(protocols.at(-1), protocol);
      await close();
    });

    test("Invoke shows the whole answer, and the page can read its request id", async () => {
      const { page, protocols, close } = await open(bridge, { method: "Invoke" });
      const { requestId } = await state(page, "done");
      assert.match(await answer(page), /^Salam, fermer!\n/);
      assert.match(requestId, /^[0-9a-f-]{36}$/);
      assert.equal((await reference.calls()).last_body.message, QUESTION);
      assert.equal((await reference.calls()).last_headers["x-request-id"], requestId);
      assert.equal(protocols.at(-1), protocol);
      await close();
    });

    test("a stream's text arrives exactly", async () => {
      const tokens = ["\n", "a\n\nb", "  iki", "\n- maddə", "ə🌱", "e\u0301"];
      const { page, close } = await open(bridge, { context: { tokens } });
      await state(page, "done");
      assert.equal(await answer(page), tokens.join(""));
      await close();
    });

    for (const [name, query, expected] of [
      [
        "an invalid field by its name",
        { message: "" },
        { code: "InvalidArgument", reason: "INVALID_REQUEST", fields: "message", metadata: { sent: "false" } },
      ],
      [
        "a refusal of the upstream, with when to try again",
        { context: { fault: "rate_limited" } },
        {
          code: "ResourceExhausted",
          reason: "UPSTREAM_RATE_LIMITED",
          metadata: { sent: "true", httpStatus: "429" },
          pushback: "1000",
        },
      ],
      [
        "a failure in the middle of the text",
        { context: { fault: "agent_failed" } },
        {
          code: "Internal",
          reason: "UPSTREAM_STREAM_FAILED",
          metadata: { sent: "true", eventsDelivered: "3", httpStatus: "200" },
          pushback: "-1",
        },
      ],
    ]) {
      for (const method of name.includes("middle") ? ["Stream"] : ["Invoke", "Stream"]) {
        test(`${method} shows ${name}`, async () => {
          const { page, close } = await open(bridge, { method, ...query });
          const told = await state(page, "failed");
          assert.deepEqual({ ...expected, metadata: JSON.parse(told.metadata) }, expected);
          for (const name of ["code", "reason", "fields", "pushback"]) {
            assert.equal(told[name], expected[name] ?? "", name);
          }
          await close();
        });
      }
    }

    test("google's client, which reads base64, types too and shows the reason", async () => {
      const tokens = TYPED.slice(0, 3);
      const asked = await open(bridge, { client: "google", context: { tokens, fault: "slow" } });
      await typing(asked.page, tokens, 1);
      await state(asked.page, "done");
      assert.equal(await answer(asked.page), tokens.join(""));
      for (const [query, reason] of [
        [{ message: "" }, "INVALID_REQUEST"],
        [{ context: { fault: "agent_failed" } }, "UPSTREAM_STREAM_FAILED"],
      ]) {
        const failing = await open(bridge, { client: "google", ...query });
        assert.equal((await state(failing.page, "failed")).reason, reason);
        await failing.close();
      }
      await asked.close();
    });

    test("a deadline ends the call for the page and for the upstream", async () => {
      const before = await reference.calls();
      for (const method of ["Invoke", "Stream"]) {
        const { page, close } = await open(bridge, { method, timeout: 500, context: { fault: "silent" } });
        const { code, took } = await state(page, "failed");
        assert.equal(code, "DeadlineExceeded");
        assert(took > 400, took);
        await close();
      }
      await upstreamClosed(before, 2);
    });

    for (const [name, leave] of [
      ["closing the page", ({ page }) => page.close()],
      ["going to another page", ({ page }) => page.goto("about:blank")],
      ["the page's own stop", ({ page }) => page.click("#stop")],
    ]) {
      test(`${name} closes the upstream call`, async () => {
        const before = await reference.calls();
        const cancelled = await bridge.metric("alim_bridge_caller_cancelled_total");
        const opened = await open(bridge, { context: { tokens: TYPED, fault: "slow" } });
        await firstToken(opened.page);
        assert.equal(await bridge.metric("alim_bridge_open_calls"), 1);
        await leave(opened);
        await upstreamClosed(before);
        await eventually(async () => (await bridge.metric("alim_bridge_open_calls")) === 0);
        assert.equal(await bridge.metric("alim_bridge_caller_cancelled_total"), cancelled + 1);
        await opened.close();
      });
    }

    test("a page of another origin is refused by the browser, and nothing reaches the upstream", async () => {
      const before = await reference.posts();
      for (const method of ["Invoke", "Stream"]) {
        const { page, console, close } = await open(bridge, { method }, pages.other);
        const { code, reason } = await state(page, "failed");
        assert.deepEqual([code, reason], ["Unknown", ""]);
        const told = console.join("\n");
        assert.match(told, /blocked by CORS policy: Response to preflight request doesn't pass/);
        await close();
      }
      assert.equal(await reference.posts(), before);
    });

    test("what a page can send without asking first reaches nobody", async () => {
      const { page, close } = await open(bridge, { method: "Invoke" }, pages.other);
      await state(page, "failed");
      const before = await reference.posts();
      const url = `${bridge.url}/alim.v1.GraphService/Invoke`;
      const sent = await page.evaluate(async (url) => {
        const body = new Uint8Array([0, 0, 0, 0, 3, 10, 1, 97]); // message "a"
        const answer = await fetch(url, { method: "POST", mode: "no-cors", body });
        return answer.type;
      }, url);
      assert.equal(sent, "opaque"); // it was answered, though the page may not see how
      assert.equal(await reference.posts(), before);
      await close();
    });

    test("a drain ends a page's stream with its reason", async () => {
      const before = await reference.calls();
      const draining = await startBridge(reference, { GRPC_WEB: pages.listed, DRAIN_TIMEOUT: "300ms", ...settings });
      const { page, close } = await open(draining, { context: { tokens: TYPED, fault: "slow" } });
      await firstToken(page);
      assert.equal(await draining.stop(), 1); // it had to cut
      const { code, reason } = await state(page, "failed");
      assert.deepEqual([code, reason], ["Unavailable", "BRIDGE_DRAINING"]);
      await upstreamClosed(before);
      await close();
    });
  });
}

test("over HTTP/2 a page types twenty answers at once", { timeout: 60_000 }, async () => {
  const settings = { GRPC_WEB: pages.listed, TLS_CERT_FILE: CERT, TLS_KEY_FILE: CERT_KEY, MAX_CONNECTIONS: "2" };
  const bridge = await startBridge(reference, settings);
  const { page, close } = await open(bridge, { context: { tokens: TYPED, fault: "slow" } });
  await page.evaluate((url) => {
    for (let count = 1; count < 20; count++) {
      const frame = document.createElement("iframe");
      frame.src = url;
      document.body.append(frame);
    }
  }, page.url());
  await eventually(async () => (await bridge.metric("alim_bridge_open_calls")) === 20);
  await close();
  assert.equal(await bridge.stop(), 0);
});
