// Tests the dashboard, the lab of the demo, and the other pages in Chromium, with real services and a real outage of PostgreSQL.
// Screenshots of each situation are kept in the folder screenshots. Arguments: the names of the tests to run; all without.
import { testAccessibility, testDemoAccessibility } from "./dashboard/accessibility.mjs";
import { openBrowser } from "./dashboard/browser.mjs";
import { testKey } from "./dashboard/key.mjs";
import { testLab } from "./dashboard/lab.mjs";
import { testOutage } from "./dashboard/outage.mjs";
import { faults, run } from "./dashboard/report.mjs";
import { endAll, startService, temporaryFolder } from "./dashboard/services.mjs";
import { testTour } from "./dashboard/tour.mjs";

const selected = process.argv.slice(2);
let folder;
let browser;

const tests = {
  tour: async (test) => testTour(test, browser, (await startService("demo", {}, folder)).url),
  lab: async (test) => testLab(test, browser, (await startService("demo", {}, folder)).url),
  outage: (test) => testOutage(test, browser, folder),
  key: (test) => testKey(test, browser, folder),
  pages: (test) => testAccessibility(test, browser, folder),
  "demo pages": (test) => testDemoAccessibility(test, browser),
};
// The tests of a line run one after another, the lines side by side: the tour waits most of the time.
const lines = [["tour"], ["lab"], ["outage", "key", "pages", "demo pages"]];

try {
  folder = temporaryFolder("dashboard-");
  browser = await openBrowser();
  await Promise.all(
    lines.map(async (names) => {
      for (const name of names.filter((one) => selected.length === 0 || selected.includes(one))) await run(name, tests[name]);
    }),
  );
} finally {
  await endAll();
}
for (const fault of faults) console.log(`dashboard: ${fault}`);
process.exitCode ||= faults.length ? 1 : 0;
