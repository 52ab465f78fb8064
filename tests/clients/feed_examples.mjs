// Runs the clients of examples/feed, in Chromium too, while the service is killed, restarted and stopped, and compares their
// copies with the users at the end of each phase.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSocket } from "node:net";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { chromium } from "playwright-core";

const examples = resolve("feed");
const folder = mkdtempSync(resolve("feed-"));
const flags = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"];
const children = [];
const faults = [];

const freePort = () =>
  new Promise((done) => {
    const server = createSocket().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
const page = createServer((request, response) => {
  response.setHeader("content-type", "text/html; charset=utf-8");
  response.end(request.url.startsWith("/browser.html") ? readFileSync(`${examples}/browser.html`) : "");
}).listen(0, "127.0.0.1");
await once(page, "listening");
const origin = `http://127.0.0.1:${page.address().port}`;
const [port, otherPort] = [await freePort(), await freePort()];
const [url, other] = [port, otherPort].map((number) => `http://127.0.0.1:${number}`);

function start(command, args, env) {
  const child = spawn(command, args, { cwd: folder, env: { ...process.env, ...env } });
  child.exited = new Promise((done) => child.on("exit", (code, signal) => done(code ?? signal)));
  children.push(child);
  return child;
}

async function serve(number) {
  const child = start(process.env.USERS_API, ["serve", "--host", "127.0.0.1", "--port", number], {
    DATABASE_URL: "sqlite://users.db?mode=rwc",
    USERS_API__CORS__ORIGINS: origin,
    USERS_API__AUTH__MODE: "off",
  });
  child.stdout.resume();
  child.stderr.resume();
  for (let tries = 0; tries < 100; tries++) {
    if (await fetch(`http://127.0.0.1:${number}/health/ready`).then((it) => it.ok, () => false)) return child;
    await sleep(100);
  }
  throw new Error("the service does not start");
}

const stop = (child, signal) => (child.kill(signal), child.exited);

let count = 0;
const ids = [];
async function call(base, method, path, body) {
  const type = method === "PATCH" ? "application/merge-patch+json" : "application/json";
  const response = await fetch(base + path, { method, body: body && JSON.stringify(body), headers: body ? { "content-type": type } : {} });
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
  return response.status === 204 ? undefined : response.json();
}

/** Creates, changes and deletes users. Some are deleted at once. */
async function change(base, number) {
  for (let i = 0; i < number; i++) {
    const kind = ids.length < 5 ? 0 : i % 10;
    if (kind < 5) {
      const user = await call(base, "POST", "/users", { name: `<b>Ünï ${++count}`, email: `user${count}@example.com` });
      if (kind === 4) await call(base, "DELETE", `/users/${user.id}`);
      else ids.push(user.id);
    } else if (kind < 8) await call(base, "PATCH", `/users/${ids[(i * 7) % ids.length]}`, { name: `Changed ${++count}` });
    else await call(base, "DELETE", `/users/${ids.splice((i * 3) % ids.length, 1)[0]}`);
  }
}

async function all() {
  const text = await (await fetch(`${url}/users/export`, { headers: { accept: "application/x-ndjson" } })).text();
  return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

/** A client on the command line. An added line lets it print its copy at a signal. */
function commandLine(command, name, [line, added]) {
  const text = readFileSync(`${examples}/${name}`, "utf8");
  if (!text.includes(line)) throw new Error(`${name} has no line ${line}`);
  // Beside the original, so that it finds its packages.
  const file = `${examples}/observed-${name}`;
  writeFileSync(file, text.replace(line, `${line}\n${added}`));
  const child = start(command, [file], { USERS_API_URL: url, USERS_API_KEY: "" });
  let rest = "";
  let done;
  child.stderr.resume();
  child.stdout.on("data", (data) => {
    const lines = (rest + data).split("\n");
    rest = lines.pop();
    for (const copy of lines.filter((it) => it.startsWith("COPY "))) done?.(JSON.parse(copy.slice(5)));
  });
  const copy = () => new Promise((resolved) => ((done = resolved), child.kill("SIGUSR2")));
  return { name, child, copy: async () => (await copy()).map(({ id, name, email, version }) => [id, name, email, `${version}`]) };
}

async function inBrowser(browser, name, query) {
  const tab = await browser.newPage();
  tab.on("pageerror", (error) => faults.push(`${name}: an error in the page: ${error.message}`));
  await tab.goto(`${origin}/browser.html?api=${url}${query}`);
  const rows = () => [...document.querySelectorAll("tbody tr")].map((row) => [row.id, ...[...row.cells].map((cell) => cell.textContent)]);
  return { name, copy: () => tab.evaluate(rows) };
}

async function compare(phase, clients) {
  const expected = (await all()).map(({ id, name, email, version }) => [id, name, email, `${version}`]).sort();
  for (const { name, copy } of clients) {
    let isEqual = false;
    for (let tries = 0; !isEqual && tries < 150; tries++) {
      isEqual = JSON.stringify((await copy()).sort()) === JSON.stringify(expected);
      if (!isEqual) await sleep(200);
    }
    if (!isEqual) faults.push(`${phase}: the copy of ${name} differs from the ${expected.length} users`);
  }
}

const browser = await chromium.launchPersistentContext(`${folder}/profile`, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: flags.map((flag) => `--${flag}`),
  env: { ...process.env, HOME: folder, XDG_CACHE_HOME: folder, XDG_CONFIG_HOME: folder },
});
try {
  let service = await serve(port);
  await change(url, 100);
  const node = ["let users, position;", 'process.on("SIGUSR2", () => console.log("COPY " + JSON.stringify([...users.values()])));'];
  const python = ["users, position = {}, None", 'signal.signal(signal.SIGUSR2, lambda *_: print("COPY " + json.dumps(list(users.values())), flush=True))'];
  const clients = [
    commandLine("node", "node.mjs", node),
    commandLine("python", "python.py", python),
    await inBrowser(browser, "EventSource", ""),
    await inBrowser(browser, "WebSocket", "&ws"),
  ];
  await change(url, 50);
  await sleep(1500);
  await compare("start", clients);
  for (const signal of ["SIGKILL", "SIGTERM"]) {
    const changing = change(url, 1000).catch(() => {});
    await sleep(300);
    const exit = await stop(service, signal);
    if (signal === "SIGTERM" && exit !== 0) faults.push(`the service exited with ${exit}`);
    await changing;
    // Another process writes while the process of the clients is down.
    const second = await serve(otherPort);
    await change(other, 100);
    service = await serve(port);
    await change(other, 20);
    await change(url, 20);
    await compare(signal, clients);
    await stop(second, "SIGTERM");
  }
  for (const { name, child } of clients.filter((client) => client.child)) {
    child.kill("SIGINT");
    const exit = await Promise.race([child.exited, sleep(5000, "nothing", { ref: false })]);
    if (exit !== 0) faults.push(`${name}: SIGINT: ${exit}`);
  }
} finally {
  await browser.close();
  page.close();
  for (const child of children.filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null)) await stop(child, "SIGKILL");
  rmSync(folder, { recursive: true, force: true });
}
for (const fault of faults) console.log(`feed_examples: ${fault}`);
process.exitCode = faults.length ? 1 : 0;
