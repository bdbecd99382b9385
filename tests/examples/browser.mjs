// Opens the page of the browser example in Chromium. Prints how it ended, its text and the number of changes to it, as JSON.
// Usage: node browser.mjs URL PLAYWRIGHT. CHROMIUM names the browser.
import { createRequire } from "node:module";

const [url, playwright] = process.argv.slice(2);
const { chromium } = createRequire(import.meta.url)(playwright);
const args = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
try {
  // The certificate's authority is not the browser's.
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  await page.addInitScript(() => {
    globalThis.steps = 0;
    document.addEventListener("DOMContentLoaded", () => {
      const observer = new MutationObserver(() => globalThis.steps++);
      observer.observe(document.querySelector("#tour"), { childList: true });
    });
  });
  await page.goto(url);
  await page.waitForFunction(() => document.body.dataset.state, undefined, { timeout: 60_000 });
  const seen = () => [document.body.dataset.state, document.querySelector("#tour").textContent, globalThis.steps];
  const [state, text, steps] = await page.evaluate(seen);
  console.log(JSON.stringify({ state, text, steps }));
} finally {
  await browser.close();
}
