// Accessibility of the built site: axe-core on pages in headless Chromium, light and dark.
//
//   npm install --no-save --prefix docs axe-core playwright-core
//   node docs/axe.mjs docs/_build/html docs/index notebooks/00_start_here …
//
// Prints one JSON line for each violation, and one for each request to a network; fails where there is one.
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const { AXE_MODULES = import.meta.dirname, CHROMIUM = "/usr/bin/chromium" } = process.env;
const require = createRequire(resolve(AXE_MODULES, "axe.mjs"));
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core");
const [site, ...pages] = process.argv.slice(2);

let bad = 0;
const complain = (what) => (bad++, console.log(JSON.stringify(what)));
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
for (const mode of ["light", "dark"]) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: "reduce" });
  await context.addInitScript((m) => (localStorage.mode = localStorage.theme = m), mode);
  await context.route(/^https?:/, (route) => (complain({ network: route.request().url() }), route.abort()));
  for (const name of pages) {
    const page = await context.newPage();
    await page.goto(pathToFileURL(resolve(site, `${name}.html`)).href);
    await page.evaluate(() => window.MathJax?.startup?.promise);
    await page.addScriptTag({ path: axe });
    const { violations } = await page.evaluate(() => window.axe.run({ resultTypes: ["violations"] }));
    for (const { id, help, nodes } of violations)
      complain({ name, mode, id, help, count: nodes.length, first: nodes[0].target, html: nodes[0].html.slice(0, 200) });
    await page.close();
  }
  await context.close();
}
await browser.close();
process.exit(bad ? 1 : 0);
