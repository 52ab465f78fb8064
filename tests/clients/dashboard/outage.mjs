// A real PostgreSQL is stopped and started again while the dashboard shows a service that uses it.
import { setTimeout as sleep } from "node:timers/promises";
import { live, openPage, shoot } from "./browser.mjs";
import { atEnd, startPostgres, startService } from "./services.mjs";

/** Requests that are sent until `stop`; `statuses` counts the responses. */
function traffic(url) {
  const statuses = {};
  let running = true;
  const client = async () => {
    while (running) {
      const status = await fetch(`${url}/users`).then(async (response) => (await response.arrayBuffer(), response.status), () => "failed");
      statuses[status] = (statuses[status] ?? 0) + 1;
      // A steady load of some requests per second is enough, and leaves the machine to the other tests.
      await sleep(100);
    }
  };
  const clients = [client(), client(), client()];
  return { statuses, stop: () => ((running = false), Promise.all(clients)) };
}

export async function testOutage(test, browser, folder) {
  const postgres = await startPostgres();
  const { url } = await startService("serve", { DATABASE_URL: postgres.url, USERS_API__AUTH__MODE: "off", USERS_API__LIMITS__BURST: "100000" }, folder);
  const page = await openPage(browser, test, `${url}/dashboard`);
  await live(page);
  const requests = traffic(url);
  atEnd(requests.stop);
  const health = page.locator("#health");
  const state = () => health.getAttribute("data-state");
  // States that last for less than a poll of the test are recorded by the page.
  await health.evaluate((node) => {
    globalThis.states = [node.dataset.state];
    new MutationObserver(() => globalThis.states.at(-1) !== node.dataset.state && globalThis.states.push(node.dataset.state)).observe(node, { attributeFilter: ["data-state"] });
  });

  test.check((await page.locator("#engine").innerText()).includes("PostgreSQL"), `the engine is ${await page.locator("#engine").innerText()}`);
  test.check(await page.locator("#lab").isHidden(), "the lab is shown without the demo");
  await test.need(async () => `before the outage: the health is ${await state()}`, async () => (await state()) === "up");
  await test.need("before the outage: no request is served", () => requests.statuses[200] > 5);
  await test.eventually("before the outage: the page shows no operations", async () => /[1-9]/.test(await page.locator("#figures").innerText()));
  await shoot(page, "serve-up");

  await postgres.stop();
  const refusedBefore = requests.statuses[503] ?? 0;
  await test.need(async () => `the server is stopped: the health is ${await state()}`, async () => (await state()) === "down");
  const cause = await page.locator("#health .health-sentence").innerText();
  const kind = page.locator("#health .health-line code.badge");
  test.check(/\S{3}/.test(cause) && !/^The database does not respond\.$/.test(cause), `the server is stopped: the cause is "${cause}"`);
  test.check((await kind.isVisible()) && /^[a-z-]+$/.test(await kind.innerText()), `the server is stopped: the kind of the cause is ${await kind.textContent()}`);
  test.check((await page.title()).startsWith("Down"), `the server is stopped: the title is ${await page.title()}`);
  await test.eventually("the server is stopped: requests are not refused", () => requests.statuses[503] > refusedBefore);
  await test.eventually(async () => `the server is stopped: the refusals are ${await page.locator("#refusals").innerText()}`, async () => {
    const row = page.locator("#refusals tr").filter({ has: page.locator('.term[data-term="refusedDown"]') });
    return (await row.getAttribute("data-active")) === "true" && /[1-9]/.test(await row.locator("td").last().innerText());
  });
  await test.eventually("the server is stopped: the health does not show since when", async () => /outage since \d\d:\d\d:\d\d/.test(await health.innerText()));
  const drawn = async (selector) => /^M\d/.test((await page.locator(selector).first().getAttribute("d")) ?? "");
  await test.eventually("the server is stopped: the time line of the health does not show it", () => drawn(".health-timeline .span-down"));
  await shoot(page, "serve-down");

  await postgres.start();
  await test.need(async () => `the server is started again: the health is ${await state()}`, async () => (await state()) === "up");
  const states = await page.evaluate(() => globalThis.states.join(" "));
  test.check(/^up (recovering )?down (down |recovering )*up$/.test(states), `the states are ${states}`);
  await test.eventually("after the outage: the health does not show it", async () => /last outage \d\d:\d\d:\d\d for \d/.test(await health.innerText()));
  await test.eventually("after the outage: the time line of the health does not show it", () => drawn(".health-timeline .span-down"));
  await test.eventually("after the outage: the charts do not show it", () => drawn("#charts .span-down"));
  const served = requests.statuses[200];
  await test.eventually("after the outage: no request is served", () => requests.statuses[200] > served + 5);
  await test.eventually("after the outage: requests are still counted as refused", async () => (await page.locator('#refusals tr[data-active="true"]').count()) === 0);
  await shoot(page, "serve-after");
  await requests.stop();
  test.check(!("failed" in requests.statuses), `${requests.statuses.failed} requests got no response`);
  await page.close();
}
