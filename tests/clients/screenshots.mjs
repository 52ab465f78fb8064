// Takes the pictures of the documentation from the real page: each shows a situation that a service is really in.
// scripts/screenshots runs it. Arguments: the folder of the pictures, and which to take: demo, postgres; all without.
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { live, openBrowser, openPage } from "./dashboard/browser.mjs";
import { faults, run } from "./dashboard/report.mjs";
import { atEnd, endAll, startPostgres, startService, temporaryFolder } from "./dashboard/services.mjs";

const [target, ...selected] = process.argv.slice(2);
const VIEW = { width: 1200, height: 1000 };
// Without the database's own limits nothing but the situation itself is refused.
const SERVE = { USERS_API__AUTH__MODE: "off", USERS_API__POOL__BATCH: "false" };

/** Requests without pauses, from several clients. */
function traffic(url, clients, method = "GET") {
  let running = true;
  const client = async () => {
    for (let number = 0; running; number++) {
      const body = method === "POST" ? JSON.stringify({ name: "Ann", email: `ann-${process.hrtime.bigint()}@example.com` }) : undefined;
      const headers = body ? { "content-type": "application/json" } : {};
      await fetch(`${url}/users`, { method, body, headers }).then((response) => response.arrayBuffer(), () => {});
      await sleep(5);
    }
  };
  const all = Array.from({ length: clients }, client);
  const stop = () => ((running = false), Promise.all(all));
  atEnd(stop);
  return stop;
}

/** Saves the part of the page from the health to the connections. */
async function shoot(page, name) {
  await page.setViewportSize(VIEW);
  await page.evaluate(() => {
    // The controls of the demo are not a part of the situation.
    document.getElementById("lab").hidden = true;
    window.scrollTo(0, 0);
  });
  const box = async (selector) => page.locator(selector).boundingBox();
  const [first, last] = [await box("#health"), await box(".flow")];
  const clip = { x: 0, y: Math.max(0, first.y - 12), width: VIEW.width, height: last.y + last.height - first.y + 24 };
  await page.screenshot({ path: join(target, `${name}.png`), clip, fullPage: true });
  console.log(`screenshots: ${name}`);
}

async function put(url, path, method, body) {
  const response = await fetch(`${url}/${path}`, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${method} ${path}: ${await response.text()}`);
}

const shows = (page, selector, pattern) => page.locator(selector).filter({ hasText: pattern }).first().waitFor();

async function ofDemo(test) {
  const { url } = await startService("demo", {}, folder);
  const page = await openPage(browser, test, `${url}/dashboard`);
  await live(page);
  const set = (settings) => put(url, "demo", "PATCH", settings);
  await set({ clients: 40, latencyMs: 2, writePercent: 2 });
  await sleep(12_000);
  await shoot(page, "dashboard");

  await set({ max: 2, min: 2, batch: false, clients: 200, latencyMs: 5, queueLimit: 100, writePercent: 0 });
  await sleep(6000);
  await shoot(page, "pool-too-small");

  await set({ max: 10, min: 2, clients: 24, latencyMs: 1, queueLimit: 1000 });
  for (let number = 0; number < 10; number++) await put(url, "demo/slow-statement", "POST", { seconds: 30 });
  await shows(page, "#holders", /demo\.slow_statement/);
  await sleep(6000);
  await shoot(page, "pool-blocked");
  await page.close();
}

async function onPostgres(test) {
  const postgres = await startPostgres();
  await postgres.sql("CREATE ROLE app LOGIN CONNECTION LIMIT 4");
  await postgres.sql("CREATE DATABASE app OWNER app");
  const database = postgres.url.replace("postgres@", "app@").replace(/postgres$/, "app");
  const { url } = await startService("serve", { DATABASE_URL: database, ...SERVE }, folder);
  const page = await openPage(browser, test, `${url}/dashboard`, { intended: [/./] });
  await live(page);
  let stop = traffic(url, 40);
  await shows(page, "#health", /Shortage/);
  await sleep(6000);
  await shoot(page, "pool-shortage");
  await stop();

  await postgres.sql("ALTER ROLE app CONNECTION LIMIT -1");
  await postgres.sql("ALTER DATABASE app SET default_transaction_read_only = on");
  await postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'");
  const stopReads = traffic(url, 6);
  stop = traffic(url, 2, "POST");
  await shows(page, "#health", /Impairment/);
  await sleep(4000);
  await shoot(page, "pool-impaired");
  await stop();

  await postgres.stop();
  await shows(page, "#health", /Down/);
  await sleep(4000);
  await shoot(page, "pool-down");
  await stopReads();
}

let folder;
let browser;
try {
  folder = temporaryFolder("screenshots-");
  browser = await openBrowser();
  for (const [name, take] of Object.entries({ demo: ofDemo, postgres: onPostgres })) {
    if (selected.length === 0 || selected.includes(name)) await run(name, take);
  }
} finally {
  await endAll();
}
for (const fault of faults) console.log(`screenshots: ${fault}`);
process.exitCode ||= faults.length ? 1 : 0;
