// Opens pages in Chromium, watches what they do wrong, looks at them with axe-core, and takes screenshots.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";
import { atEnd, temporaryFolder } from "./services.mjs";

const flags = [
  "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
  "disable-background-networking", "disable-component-update", "disable-sync",
];
export const SIZES = { wide: { width: 1440, height: 1000 }, phone: { width: 390, height: 844 } };
const NARROW = { width: 360, height: 780 };
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"];
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const screenshots = resolve("screenshots");

export async function openBrowser() {
  mkdirSync(screenshots, { recursive: true });
  // A temporary home, so that all files of the browser can be removed.
  const home = temporaryFolder("browser-");
  const browser = await chromium.launchPersistentContext(join(home, "profile"), {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: flags.map((flag) => `--${flag}`),
    viewport: SIZES.wide,
    colorScheme: "light",
    // services.mjs ends the browser, in order.
    handleSIGINT: false,
    handleSIGTERM: false,
    env: { ...process.env, HOME: home, XDG_CACHE_HOME: home, XDG_CONFIG_HOME: home },
  });
  atEnd(() => browser.close());
  return browser;
}

/**
 * Opens a page. Errors, failed requests and requests to other origins are faults of the test, unless a pattern of `intended`
 * allows what the test does on purpose. `secrets` must not be in a URL.
 */
export async function openPage(browser, test, url, { intended = [], secrets = [] } = {}) {
  const page = await browser.newPage();
  page.setDefaultTimeout(30_000);
  const fault = (text) => intended.some((pattern) => pattern.test(text)) || test.fault(text);
  const { origin } = new URL(url);
  const isLocal = (asked) => asked.startsWith(`${origin}/`) || /^(data|blob):/.test(asked);
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) fault(`the page's console: ${message.text()} ${message.location().url}`);
  });
  page.on("pageerror", (error) => fault(`an error in the page: ${error.message}`));
  page.on("requestfailed", (request) => {
    const { errorText } = request.failure();
    // The page closes its streams on purpose, for example when the key changes.
    if (errorText === "net::ERR_ABORTED" && /\/live$/.test(request.url())) return;
    fault(`a request fails: ${request.method()} ${request.url()}: ${errorText}`);
  });
  page.on("request", (request) => {
    const asked = request.url();
    if (!isLocal(asked)) fault(`the page asks ${asked}`);
    for (const secret of secrets) if (asked.includes(secret)) test.fault(`a key is in the URL ${asked.replace(secret, "…")}`);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) fault(`${response.request().method()} ${response.url()} is answered with ${response.status()}`);
  });
  await page.goto(url);
  return page;
}

/** Waits until frames arrive. */
export async function live(page) {
  await page.locator('body[data-stream="live"]').waitFor();
  // The first frame is drawn.
  await page.locator("#cells .cell").first().waitFor();
}

/** Saves the whole page in both sizes, so that a person can look at it. */
export async function shoot(page, name) {
  for (const [size, viewport] of Object.entries(SIZES)) {
    await page.setViewportSize(viewport);
    await page.screenshot({ path: join(screenshots, `${name}-${size}.png`), fullPage: true });
  }
  await page.setViewportSize(SIZES.wide);
}

async function checkWidth(test, page, what) {
  const [content, width] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  test.check(content <= width, `${what} scrolls horizontally: ${content} px of content in ${width} px`);
}

/** Looks at the page with axe-core in both sizes, light and dark; it must not scroll horizontally. */
export async function audit(test, page, name) {
  // Injected through the debugger, which the policy of the page does not restrict.
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(axe);
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of ["light", "dark"]) {
      const what = `${name}, ${size}, ${colorScheme}`;
      await page.setViewportSize(viewport);
      await page.emulateMedia({ colorScheme });
      const violations = await page.evaluate(async (values) => {
        const result = await globalThis.axe.run(document, { runOnly: values, resultTypes: ["violations"] });
        return result.violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ target, any }) => `${target} ${any[0]?.message ?? ""}`).join(" | ")}`);
      }, TAGS);
      for (const violation of violations) test.fault(`${what}: axe ${violation}`);
      await checkWidth(test, page, what);
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize(NARROW);
  await checkWidth(test, page, `${name}, ${NARROW.width} px`);
  await page.setViewportSize(SIZES.wide);
}

/** Moves the focus with the Tab key until it is on the element. */
export async function tabTo(page, locator, what) {
  await locator.waitFor();
  for (let presses = 0; presses < 120; presses++) {
    if (await locator.evaluate((node) => node === document.activeElement)) return;
    await page.keyboard.press("Tab");
  }
  throw new Error(`the Tab key does not lead to ${what}`);
}
