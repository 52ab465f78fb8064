// Looks for memory leaks of the dashboard: keeps the page of the demo open for a long time, collects the garbage each minute, and
// prints what is left. Started by hand: USERS_API=FILE node dashboard_soak.mjs [MINUTES], 30 minutes unless given.
import { setTimeout as sleep } from "node:timers/promises";
import { live, openBrowser, openPage } from "./dashboard/browser.mjs";
import { faults, run } from "./dashboard/report.mjs";
import { endAll, startService, temporaryFolder } from "./dashboard/services.mjs";

const minutes = Number(process.argv[2] ?? 30);
// Samples of each third of the run are compared: with fewer, one unusual sample would decide.
const LEAST_MINUTES = 6;
const HEAP_FACTOR = 1.1;
// Rows and cells come and go with the load; a leak adds some in each frame, four times a second.
const TOLERANCE = 50;

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

async function measure(session) {
  // Twice: objects with finalizers are freed by the second collection.
  for (let i = 0; i < 2; i++) await session.send("HeapProfiler.collectGarbage");
  const { metrics } = await session.send("Performance.getMetrics");
  const value = Object.fromEntries(metrics.map((metric) => [metric.name, metric.value]));
  return { heap: value.JSHeapUsedSize, nodes: value.Nodes, listeners: value.JSEventListeners };
}

async function soak(test) {
  const browser = await openBrowser();
  const { url } = await startService("demo", {}, temporaryFolder("soak-"));
  const page = await openPage(browser, test, `${url}/dashboard`);
  await live(page);
  const session = await browser.newCDPSession(page);
  await session.send("Performance.enable");
  const samples = [];
  console.log("minute  heap (KiB)  nodes  listeners");
  for (let minute = 1; minute <= minutes; minute++) {
    await sleep(60_000);
    const sample = await measure(session);
    samples.push(sample);
    console.log(`${String(minute).padStart(6)}  ${String(Math.round(sample.heap / 1024)).padStart(10)}  ${String(sample.nodes).padStart(5)}  ${String(sample.listeners).padStart(9)}`);
    test.check((await page.locator("body").getAttribute("data-stream")) === "live", `minute ${minute}: no frames arrive`);
  }
  const third = Math.floor(samples.length / 3);
  const part = (name, from, to) => median(samples.slice(from, to).map((sample) => sample[name]));
  for (const [name, isTooMuch] of [
    ["heap", (before, after) => after > before * HEAP_FACTOR],
    ["nodes", (before, after) => after > before + TOLERANCE],
    ["listeners", (before, after) => after > before],
  ]) {
    const [before, after] = [part(name, third, samples.length - third), part(name, samples.length - third, samples.length)];
    test.check(!isTooMuch(before, after), `the median of ${name} has grown from ${before} to ${after}`);
    console.log(`median of ${name}: ${before} in the second third, ${after} in the last`);
  }
}

if (minutes >= LEAST_MINUTES) {
  try {
    await run("soak", soak);
  } finally {
    await endAll();
  }
} else {
  faults.push(`soak: at least ${LEAST_MINUTES} minutes are needed, not ${process.argv[2]}`);
}
for (const fault of faults) console.log(`dashboard_soak: ${fault}`);
process.exitCode ||= faults.length ? 1 : 0;
