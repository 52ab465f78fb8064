// The guided tour: all steps run with the keyboard only, show figures and a conclusion, and restore the settings.
import { setTimeout as sleep } from "node:timers/promises";
import { live, openPage, shoot, tabTo } from "./browser.mjs";
import { demoOf, same } from "./lab.mjs";

const TERMS = ["max", "min", "acquire timeout", "idle timeout", "queue"];
const STEPS = 6;

/** Reads the settings of the server again and again while the body runs; returns the different ones. */
async function observe(demo, body) {
  const seen = new Set();
  let running = true;
  const reading = (async () => {
    while (running) {
      seen.add(JSON.stringify((await demo.document()).settings));
      await sleep(200);
    }
  })();
  try {
    await body();
  } finally {
    running = false;
    await reading;
  }
  return seen;
}

async function runStep(test, page, demo, number, before) {
  const what = `step ${number}`;
  const card = page.locator(".lab-tour");
  const conclusion = page.locator(".lab-conclusion");
  test.check((await page.locator(".lab-position").innerText()) === `Step ${number} of ${STEPS}`, `${what}: the position is ${await page.locator(".lab-position").innerText()}`);
  test.check(await page.locator(".lab-tour h3").evaluate((node) => node === document.activeElement), `${what}: the focus is not on its title`);
  const run = page.locator(".lab-run button");
  const seen = await observe(demo, async () => {
    await tabTo(page, run, "Run");
    await page.keyboard.press("Enter");
    await test.need(`${what} does not start`, async () => (await run.innerText()) === "Cancel");
    if (number === 1) {
      test.check(await page.locator("#lab-max").isDisabled(), `${what}: the controls are not locked while it runs`);
      await shoot(page, "tour-running");
    }
    // Five seconds per variant; the outage also has to end.
    await test.need(async () => `${what} does not end: ${await page.locator(".lab-run-status").innerText()}`, async () => (await run.innerText()) !== "Cancel", 60_000);
  });
  const text = (await conclusion.innerText()).trim();
  test.check(/^[A-Z25].{30,}\.$/s.test(text) && !/NaN|undefined|Infinity|missing|nothing to compare/.test(text), () => `${what}: the conclusion is "${text}"`);
  test.check(!/NaN|undefined|Infinity/.test(await card.innerText()), `${what}: a figure is not a number`);

  const rows = await page.locator(".lab-tour .lab-table tr").evaluateAll((all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
  const [head, ...figures] = rows;
  test.check(head?.length >= 3, `${what}: the figures have the columns ${head}`);
  test.check(figures.length >= 3, `${what}: ${figures.length} figures are shown`);
  for (const [name, ...values] of figures) {
    test.check(values.length === head.length - 1 && values.every((value) => /\d|no batches/.test(value)), `${what}: ${name}: ${values}`);
  }
  const [rate, ...rates] = figures[0] ?? [];
  const stalled = rates.filter((value, index) => !/[1-9]/.test(value) && head[index + 1] !== "During the outage");
  test.check(rate === "Operations per second" && stalled.length === 0, `${what}: ${rate}: ${rates}`);
  // The outage changes no setting between its parts.
  const variants = number === 5 ? 1 : head.length - 1;
  seen.delete(JSON.stringify(before));
  test.check(seen.size >= variants, `${what}: the server had ${seen.size} other settings while it ran`);
  const { settings, outageMs } = await demo.document();
  test.check(same(settings, before) && outageMs === 0, `${what} leaves the settings ${JSON.stringify(settings)} and an outage of ${outageMs} ms`);
  return Object.fromEntries(figures.map(([name, ...values]) => [name, values.map((value) => Number.parseFloat(value.replace(/,/g, "")))]));
}

export async function testTour(test, browser, url) {
  const demo = demoOf(url);
  await demo.patch({ max: 7, clients: 5, writePercent: 3 });
  const { settings: before } = await demo.document();
  const page = await openPage(browser, test, `${url}/dashboard`);
  await live(page);
  const start = page.getByRole("button", { name: "Start the guided tour" });
  await start.and(page.locator(":enabled")).waitFor();
  await tabTo(page, start, "the start of the tour");
  await page.keyboard.press("Enter");
  for (let number = 1; number <= STEPS; number++) {
    const figures = await runStep(test, page, demo, number, before);
    // What holds on any machine.
    if (number === 4) {
      const refused = figures["Refused per second"];
      test.check(refused?.[1] > 0 && refused[2] > 0, `step 4: a short queue and a short acquire timeout refuse ${refused?.[1]} and ${refused?.[2]} operations per second`);
    }
    if (number === 5) test.check(figures["Refused per second"]?.[1] > 0, "step 5: no operation is refused during the outage");
    if (number === 6) test.check(figures["Operations per batch"]?.[1] > 1, "step 6: no batches are formed");
    await shoot(page, `tour-${number}`);
    await tabTo(page, page.locator(".lab-tour-foot").getByRole("button", { name: number < STEPS ? "Next" : "Summary" }), "the next step");
    await page.keyboard.press("Enter");
  }
  const terms = await page.locator(".lab-summary dt").allInnerTexts();
  test.check(String(terms) === String(TERMS), `the summary names ${terms}`);
  for (const [index, text] of (await page.locator(".lab-summary dd").allInnerTexts()).entries()) {
    test.check(/\d/.test(text) && !/NaN|undefined|not been run|Not measured yet/.test(text), `the summary of ${terms[index]}: ${text}`);
  }
  await shoot(page, "tour-summary");
  await tabTo(page, page.getByRole("button", { name: "Finish" }), "Finish");
  await page.keyboard.press("Enter");
  await test.eventually("the tour does not end", async () => !(await page.locator(".lab-tour").isVisible()));
  test.check(await start.evaluate((node) => node === document.activeElement), "after the tour, the focus is not on its start");
  const { settings } = await demo.document();
  test.check(same(settings, before), `the tour leaves the settings ${JSON.stringify(settings)}`);
  test.check(await page.locator("#lab-max").isEnabled(), "after the tour, the controls are locked");
  // The tour has lowered pool.max and raised it again. A cell above the maximum is marked; now none is above it.
  await test.eventually(async () => `after the tour, ${await page.locator("#cells .cell[data-extra]:visible").count()} connections are marked as above the maximum`,
    async () => (await page.locator("#cells .cell[data-extra]:visible").count()) === 0, 10_000);
  await page.close();
}
