// The built site in headless Chromium, with all that is folded unfolded: axe-core's rules on a desktop and
// on a phone, contrast in light and in dark mode, and whether a page fits the phone's width.
//
//   npm install --no-save --prefix docs axe-core playwright-core
//   node docs/axe.mjs docs/_build/html docs/index notebooks/00_start_here …
//
// Prints one JSON line for each violation, and for each request to a network; exits with 1 where there is one.
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const { AXE_MODULES = import.meta.dirname, CHROMIUM = "/usr/bin/chromium" } = process.env;
const require = createRequire(resolve(AXE_MODULES, "axe.mjs"));
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core");
const [site, ...names] = process.argv.slice(2);

let bad = 0;
const complain = (what) => (bad++, console.log(JSON.stringify(what)));
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: "reduce" });
await context.addInitScript(() => (localStorage.mode = localStorage.theme = "light"));
await context.route(/^https?:/, (route) => (complain({ network: route.request().url() }), route.abort()));

async function run(page, name, mode, options) {
  const found = await page.evaluate((o) => window.axe.run({ resultTypes: ["violations"], ...o }), options);
  for (const { id, help, nodes } of found.violations)
    complain({ name, mode, id, help, count: nodes.length, first: nodes[0].target, html: nodes[0].html.slice(0, 200) });
}

for (const name of names) {
  const page = await context.newPage();
  page.setDefaultTimeout(300_000);
  await page.goto(pathToFileURL(resolve(site, `${name}.html`)).href);
  await page.evaluate(() => window.MathJax?.startup?.promise.then(() => null));
  await page.evaluate(() => document.querySelectorAll("article details").forEach((fold) => (fold.open = true)));
  await page.addScriptTag({ path: axe });
  await run(page, name, "light", {});
  await page.evaluate(() => (document.documentElement.dataset.theme = "dark"));
  await run(page, name, "dark", { runOnly: ["color-contrast"] });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.waitForTimeout(500); // until the theme has seen what can be scrolled now
  await run(page, name, "phone", { rules: { "color-contrast": { enabled: false } } });
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  if (width > 390) complain({ name, width, help: "wider than a phone" });
  await page.close();
}
await browser.close();
process.exit(bad ? 1 : 0);
