// The lab of the demo: every control changes its setting on the server, refusals are explained, and the events happen.
import { live, openPage, shoot } from "./browser.mjs";
import { until } from "./report.mjs";

const numbers = { max: 4, min: 3, queueLimit: 50, acquireMs: 700, clients: 12, writePercent: 25, latencyMs: 3 };
const switches = ["batch", "connectionPerRequest"];

/** Access to the demo that does not use the page. */
export function demoOf(url) {
  const send = async (method, path, body) => {
    const response = await fetch(`${url}/${path}`, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.json();
  };
  const document = async () => (await fetch(`${url}/demo`)).json();
  return {
    document,
    setting: async (field) => (await document()).settings[field],
    patch: (settings) => send("PATCH", "demo", settings),
    outage: (seconds) => send("PUT", "demo/outage", { seconds }),
  };
}

/** Whether two documents have the same members, in any order. */
export const same = (a, b) => JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort());

const word = (value) => (value === true ? "on" : value === false ? "off" : String(value));
const cell = (page, column) => page.locator(".lab-comparison tbody tr").first().locator("td").nth(column);

async function compares(test, page, demo, change) {
  await test.eventually(async () => `the effect of "${change}" is shown as "${await page.locator(".lab-change").innerText()}"`,
    async () => (await page.locator(".lab-change").innerText()).includes(change));
  const shown = async () => [await cell(page, 0).innerText(), await cell(page, 1).innerText(), await cell(page, 2).innerText()];
  await test.eventually(async () => `the figures before and after "${change}" are ${(await shown()).join(", ")}`, async () => {
    const [before, now, difference] = await shown();
    return /[1-9]/.test(before) && /[1-9]/.test(now) && /same|▲|▼/.test(difference);
  });
  // The clients continue with any of the settings, if not as fast as before. Those that run already may still end.
  const completed = async () => (await demo.document()).load.total;
  const before = await completed();
  await test.eventually(`after "${change}" no operation is completed`, async () => (await completed()) > before + 50);
}

async function changeNumber(test, page, demo, field, value) {
  const input = page.locator(`#lab-${field}`);
  const label = (await page.locator(`label[for="lab-${field}"]`).innerText()).replace(/ \(.*\)$/, "");
  const before = await demo.setting(field);
  await input.fill(String(value));
  await input.press("Enter");
  await test.eventually(async () => `${field}: the server has ${await demo.setting(field)} after ${value} was typed`, async () => (await demo.setting(field)) === value);
  await compares(test, page, demo, `${label} ${before} → ${value}`);
  await page.locator(`input[type="range"][aria-labelledby="lab-${field}-label"]`).press("ArrowLeft");
  await test.eventually(`${field}: the server does not receive the value of the slider`, async () => (await demo.setting(field)) < value);
  await test.eventually(`${field}: the slider does not change the number beside it`, async () => Number(await input.inputValue()) === (await demo.setting(field)));
}

async function changeSwitch(test, page, demo, field) {
  const input = page.locator(`#lab-${field}`);
  const label = await page.locator(`label[for="lab-${field}"]`).innerText();
  const before = await demo.setting(field);
  await input.press("Space");
  await test.eventually(`${field}: the server does not receive the change`, async () => (await demo.setting(field)) === !before);
  await compares(test, page, demo, `${label} ${word(before)} → ${word(!before)}`);
  test.check((await input.isChecked()) === !before, `${field}: the switch does not show its new state`);
}

async function explains(test, page, field, pattern) {
  const input = page.locator(`#lab-${field}`);
  const error = page.locator(`#lab-${field}-error`);
  await test.eventually(async () => `${field}: the refusal is explained as "${await error.textContent()}"`,
    async () => (await error.isVisible()) && pattern.test(await error.innerText()));
  test.check((await input.getAttribute("aria-invalid")) === "true", `${field}: a refused value is not marked as invalid`);
  test.check((await input.getAttribute("aria-describedby"))?.includes(`lab-${field}-error`), `${field}: the message does not describe the control`);
}

async function refusals(test, page, demo, intended) {
  await demo.patch({ max: 2, min: 2 });
  await test.need("the page does not show a change of the server", async () => (await page.locator("#lab-max").inputValue()) === "2");
  const patches = [];
  page.on("request", (request) => request.method() === "PATCH" && patches.push(request.postData()));
  // The service refuses a value that its other settings exclude.
  intended.push(/PATCH .*\/demo is answered with 422|status of 422/);
  await page.locator("#lab-min").fill("5");
  await page.locator("#lab-min").press("Enter");
  await explains(test, page, "min", /at most|max/);
  test.check((await demo.setting("min")) === 2, "min: a refused value is in force");
  test.check(patches.length === 1, `min: ${patches.length} requests were sent for a refused value`);
  await shoot(page, "lab-refused");
  // The page refuses a value that is out of range for any other setting.
  await page.locator("#lab-max").fill("999");
  await page.locator("#lab-max").press("Enter");
  await explains(test, page, "max", /from 1 to 200/);
  test.check(patches.length === 1, "max: a value that is out of range is sent");
  await page.locator("#lab-max").blur();
  await test.eventually("max: a refused value stays in its control", async () => (await page.locator("#lab-max").inputValue()) === "2");
  // Two changes in one request: the refused one must not take the other with it.
  await page.evaluate(() => {
    for (const [field, value] of [["min", 5], ["clients", 9]]) {
      const input = document.getElementById(`lab-${field}`);
      input.value = value;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    }
  });
  await explains(test, page, "min", /at most|max/);
  await test.eventually("clients: a change is lost because another one in the same request is refused", async () => (await demo.setting("clients")) === 9, 10_000);
  test.check(!(await page.locator("#lab-clients-error").isVisible()), "clients: an error is shown that is about min");
}

/** Waits until each of the conditions has held at some time. They are read side by side, because an event lasts for 5 s only. */
async function sees(test, what, conditions) {
  const missing = new Set(Object.keys(conditions));
  await until(async () => {
    for (const name of missing) if (await conditions[name]()) missing.delete(name);
    return missing.size === 0;
  });
  for (const name of missing) test.fault(`${what}: ${name}`);
}

async function events(test, page, demo) {
  const health = page.locator("#health");
  const state = () => health.getAttribute("data-state");
  const cause = () => page.locator("#health .health-sentence").innerText();
  const note = page.locator(".lab-simulation");

  await page.getByRole("button", { name: "A slow statement" }).click();
  await sees(test, "a slow statement", {
    "the server has none": async () => (await demo.document()).slowStatementMs > 0,
    "it is not among the longest holders": async () => (await page.locator("#holders").innerText()).includes("demo.slow_statement"),
    "no connection is in use by it": async () => (await page.locator('#cells .cell[data-state="in-use"] .cell-name', { hasText: "demo.slow_statement" }).count()) === 1,
    "the lab does not show that it is simulated": async () => /slow statement/.test(await note.innerText()),
  });
  await shoot(page, "lab-slow-statement");
  await test.eventually("a slow statement: it does not end", async () => !(await page.locator("#holders").innerText()).includes("demo.slow_statement"));

  await page.getByRole("button", { name: "The database stops" }).click();
  await sees(test, "an outage", {
    "the server has none": async () => (await demo.document()).outageMs > 0,
    "the lab does not show that it is simulated": async () => /database does not respond/.test(await note.innerText()),
    "the health is not down": async () => (await state()) === "down",
    "the cause is not shown": async () => /did not respond|no response/.test(await cause()),
    "the kind of the cause is not silent": async () => (await page.locator("#health .health-line code.badge:visible").allInnerTexts()).includes("silent"),
    "it is not announced": async () => /Down: silent, \S/.test(await page.locator("#announcer").textContent()),
  });
  await test.eventually(async () => `after the outage: the health is ${await state()}`, async () => (await state()) === "up");
  await test.eventually("after the outage: the history does not show it", async () => /^M/.test((await page.locator(".health-timeline .span-down").getAttribute("d")) ?? ""));

  // A longer one, which only Reset ends.
  await demo.patch({ max: 7, batch: false });
  await demo.outage(30);
  await test.eventually("a second outage: the health is not down", async () => (await state()) === "down");
  await test.eventually("a second outage: no operation is refused", async () => (await page.locator('#refusals tr[data-active="true"] .term[data-term="refusedDown"]').count()) === 1);
  await shoot(page, "lab-outage");
  await page.getByRole("button", { name: "Reset" }).click();
  await test.eventually("Reset does not end the outage", async () => (await demo.document()).outageMs === 0);
  await test.eventually(async () => `after Reset: the health is ${await state()}`, async () => (await state()) === "up");
  await test.eventually("Reset does not restore the defaults", async () => {
    const { settings, defaults } = await demo.document();
    return same(settings, defaults);
  });
  const { defaults } = await demo.document();
  for (const field of Object.keys(numbers)) {
    await test.eventually(`Reset: ${field} shows another value`, async () => (await page.locator(`#lab-${field}`).inputValue()) === String(defaults[field]));
  }
}

export async function testLab(test, browser, url) {
  const demo = demoOf(url);
  const intended = [];
  const page = await openPage(browser, test, `${url}/dashboard`, { intended });
  await live(page);
  const settings = Object.keys((await demo.document()).settings).sort();
  test.check(String(settings) === String([...Object.keys(numbers), ...switches].sort()), `the settings of the demo are ${settings}`);
  await page.locator("#lab-max:enabled").waitFor();
  await test.need("the simulated clients do nothing", async () => /[1-9]/.test(await cell(page, 1).innerText()));
  await shoot(page, "lab");
  for (const [field, value] of Object.entries(numbers)) await changeNumber(test, page, demo, field, value);
  for (const field of switches) await changeSwitch(test, page, demo, field);
  await shoot(page, "lab-changed");
  await demo.patch((await demo.document()).defaults);
  await demo.patch({ clients: 11 });
  await test.eventually("a change by another page is not shown", async () => /changed by another page/.test(await page.locator(".lab-change").innerText()));
  await refusals(test, page, demo, intended);
  await events(test, page, demo);
  await page.close();
}
