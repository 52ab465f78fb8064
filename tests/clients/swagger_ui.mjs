// Executes every operation in Swagger UI (/swagger/) in a browser, with the examples of the page; only ids are typed.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { resolve } from "node:path";
import { chromium } from "playwright-core";

const url = process.env.USERS_API_URL;
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const flags = [
  "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
  "disable-background-networking", "disable-component-update", "disable-sync",
];
// Headers and parameters without input must not be sent.
const conditions = ["if-match", "if-none-match", "idempotency-key"];
const filters = ["before", "email", "name", "q", "createdAfter", "createdBefore", "ids", "fields", "cursor", "count"];

// A temporary home, so that all files of the browser can be removed.
const home = mkdtempSync(resolve("browser-"));
const browser = await chromium.launchPersistentContext(`${home}/profile`, {
  executablePath,
  args: flags.map((flag) => `--${flag}`),
  env: { ...process.env, HOME: home, XDG_CACHE_HOME: home, XDG_CONFIG_HOME: home },
});
const faults = [];
const check = (holds, fault) => holds || faults.push(fault);

/** Executes an operation with the page's examples; returns the response that is shown and the request that was sent. */
async function execute(page, operation, { id, body, accept } = {}) {
  const block = page.locator(`.opblock[id$="-${operation}"]`);
  const control = block.locator(".opblock-summary-control");
  await control.click();
  const button = block.locator(".try-out__btn").first();
  await button.waitFor();
  // The button says "Cancel" if "Try it out" is enabled by default.
  if ((await button.innerText()).trim() === "Try it out") await button.click();
  const clear = block.locator(".btn-clear");
  if (await clear.count()) await clear.click();
  if (id) await block.locator('tr[data-param-name="id"] input').fill(id);
  if (body) await block.locator(".opblock-section-request-body .content-type").selectOption(body);
  if (accept) await block.locator(".responses-wrapper .content-type").first().selectOption(accept);
  const area = block.locator("textarea.body-param__text");
  const text = (await area.count()) ? await area.inputValue() : undefined;
  const asked = page.waitForRequest((request) => request.resourceType() === "fetch");
  await block.locator("button.execute").click();
  const request = await asked;
  const status = block.locator(".live-responses-table tbody .response-col_status", { hasText: /\d{3}/ }).first();
  const shown = Number.parseInt(await status.innerText(), 10);
  const answer = shown === 304 ? "" : await (await request.response()).text();
  check(shown >= 200 && shown < 300, `${operation}: the page shows ${shown}: ${answer.slice(0, 300)}`);
  // Headers that the browser adds, such as the ETag of a cached response, are not included here.
  const headers = request.headers();
  for (const name of conditions) check(!(name in headers), `${operation}: ${name} is sent without input: ${headers[name]}`);
  for (const [name, value] of new URL(request.url()).searchParams) {
    check(!filters.includes(name), `${operation}: ${name} is sent without input: ${value}`);
  }
  // The page is slow if many operations are expanded.
  await control.click();
  return { text, answer, sent: request.postData(), type: headers["content-type"], accept: headers["accept"] };
}

try {
  const page = browser.pages()[0] ?? (await browser.newPage());
  page.setDefaultTimeout(10_000);
  page.on("console", (message) => check(message.type() !== "error", `the page's console: ${message.text()}`));
  page.on("pageerror", (error) => faults.push(`an error in the page: ${error.message}`));
  const local = (asked) => asked.startsWith(`${url}/`) || /^(data|blob):/.test(asked);
  page.on("request", (request) => check(local(request.url()), `the page asks ${request.url()}`));
  const body = readFileSync("openapi.json", "utf8");
  if (process.env.OPENAPI) await page.route("**/openapi.json", (route) => route.fulfill({ body, contentType: "application/json" }));
  await page.goto(`${url}/swagger/`);
  await page.locator(".opblock").first().waitFor();
  check((await page.title()) !== "", "the page has no title");
  check((await page.locator(".info .title").innerText()).includes("users-api"), "the page does not say what it is about");
  check((await page.locator(".topbar").count()) === 0, "the page has a bar to ask for other documents");

  const items = Object.values(JSON.parse(body).paths).flatMap((path) => Object.values(path));
  const operations = items.flatMap((item) => item.operationId ?? []);
  await page.locator(".auth-wrapper .authorize").click();
  const dialog = page.locator(".dialog-ux");
  await dialog.locator("input").first().fill(process.env.USERS_API_KEY);
  await dialog.locator("button.authorize").click();
  await dialog.locator(".btn-done").click();
  const done = new Set();
  const run = async (id, options) => {
    done.add(id);
    try {
      return await execute(page, id, options);
    } catch (error) {
      faults.push(`${id}: ${error.message}`);
      return { answer: "{}" };
    }
  };

  const user = JSON.parse((await run("createUser")).answer).id;
  for (const id of ["listUsers", "exportUsers"]) await run(id);
  // A page cannot open a WebSocket by a request.
  done.add("openWebSocket");
  // A stream without an end: the page would wait for it.
  done.add("poolLive");
  for (const id of ["getUser", "replaceUser", "patchUser", "sendMessage", "getUserPresence", "deleteUser", "getUserHistory"]) await run(id, { id: user });
  const key = JSON.parse((await run("createKey")).answer).id;
  for (const id of ["rotateKey", "revokeKey"]) await run(id, { id: key });
  for (const type of ["application/x-ndjson", "text/csv"]) {
    const bulk = await run("writeUsers", { body: type });
    check(bulk.type === type, `writeUsers: the rows are sent as ${bulk.type}`);
    check(bulk.sent === bulk.text, `writeUsers: ${bulk.text} is sent as ${bulk.sent}`);
    // The second has the same rows as the first.
    check(/^\{"line":\d+,"outcome":"created"|"code":"email-taken"/.test(bulk.answer), `writeUsers: ${bulk.answer}`);
  }
  const csv = await run("exportUsers", { accept: "text/csv" });
  check(csv.accept === "text/csv" && csv.answer.startsWith("id,name,"), `exportUsers: ${csv.answer} for ${csv.accept}`);
  for (const id of operations) if (!done.has(id)) await run(id);
} finally {
  await browser.close();
  rmSync(home, { recursive: true, force: true });
}
for (const fault of faults) console.log(`swagger_ui: ${fault}`);
process.exitCode = faults.length ? 1 : 0;
