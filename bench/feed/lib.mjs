// Servers in temporary folders, requests, and figures of /proc. Everything that is started here is stopped at exit.
import { execFileSync, spawn } from "node:child_process";
import { chmodSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { Agent, request } from "node:http";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const children = new Set();
const folders = new Set();
process.on("exit", () => {
  for (const child of children) child.kill(child.signal);
  folders.forEach(remove);
});
for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]]) process.on(signal, () => process.exit(code));

export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), "bench-feed-"));
  folders.add(folder);
  chmodSync(folder, 0o711); // PostgreSQL runs as another user
  return folder;
}

export function remove(folder) {
  // A server that was signalled a moment ago can still create files.
  rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  folders.delete(folder);
}

/** Starts a server. `signal` is how it is stopped; its output goes to a file that `until` reports from. */
export function run(name, folder, command, args, { signal = "SIGKILL", ...options } = {}) {
  const log = join(folder, `${name}.log`);
  const file = openSync(log, "a");
  const child = spawn(command, args, { cwd: folder, stdio: ["ignore", file, file], ...options });
  Object.assign(child, { signal, log, isRunning: true });
  children.add(child);
  child.exited = new Promise((done) => {
    for (const event of ["exit", "error"]) child.once(event, done);
  }).then(() => {
    child.isRunning = false;
    children.delete(child);
  });
  child.end = (how = signal) => (child.kill(how), child.exited);
  return child;
}

/** Waits until `check` is true. With a server, fails as soon as the server ends. */
export async function until(check, what, { child, seconds = 30, interval = 20 } = {}) {
  const end = performance.now() + seconds * 1000;
  while (!(await check())) {
    if (performance.now() > end || child?.isRunning === false) {
      const output = child ? `\n${readFileSync(child.log, "utf8").slice(-2000)}` : "";
      throw new Error(`${what}: not within ${seconds} s${output}`);
    }
    await sleep(interval);
  }
}

export const freePort = () =>
  new Promise((done) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

const agent = new Agent({ keepAlive: true, maxSockets: 64 });

/** Sends a request and returns the body of a successful response. Writes of all systems use it. */
export const call = (url, { method = "GET", headers = {}, body } = {}) =>
  new Promise((resolve, reject) => {
    const text = body && JSON.stringify(body);
    const type = text ? { "content-type": "application/json", "content-length": Buffer.byteLength(text) } : {};
    request(url, { method, agent, headers: { ...headers, ...type }, timeout: 5000 }, (response) => {
      let received = "";
      response.setEncoding("utf8").on("data", (data) => (received += data)).on("error", reject);
      response.on("end", () => {
        if (response.statusCode < 300) resolve(received && JSON.parse(received));
        else reject(new Error(`${method} ${url}: ${response.statusCode} ${received}`));
      });
    })
      .on("timeout", function () { this.destroy(new Error("timeout")); })
      .on("error", reject)
      .end(text);
  });

/** Redis, in the configuration that is best for Socket.IO: its stream survives the death of the server. */
export class Redis {
  async start(folder) {
    this.port ??= await freePort();
    const args = `--port ${this.port} --bind 127.0.0.1 --dir ${folder} --save --appendonly yes`.split(" ");
    args.splice(args.indexOf("--save") + 1, 0, "");
    this.child = run("redis", folder, "redis-server", args);
    await until(() => this.ping(), "redis-server", this);
  }

  ping() {
    return new Promise((done) => {
      const socket = connect(this.port, "127.0.0.1", () => socket.write("PING\r\n"));
      socket.once("data", (data) => (done(`${data}`.startsWith("+PONG")), socket.destroy()));
      socket.on("error", () => done(false));
    });
  }
}

export const postgresBin = join("/usr/lib/postgresql", readdirSync("/usr/lib/postgresql").sort().at(-1), "bin");

/** PostgreSQL with its default settings, so that commits are durable. */
export async function postgres(folder) {
  // It refuses to run as root.
  const id = (flag) => Number(execFileSync("id", [flag, "postgres"]));
  const owner = process.getuid() === 0 ? { uid: id("-u"), gid: id("-g") } : {};
  const home = join(folder, "postgres");
  execFileSync("mkdir", ["-m", "700", home]);
  if (owner.uid) execFileSync("chown", [`${owner.uid}:${owner.gid}`, home]);
  const data = join(home, "data");
  const initdb = ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
  execFileSync(join(postgresBin, "initdb"), initdb, { ...owner, cwd: home, stdio: ["ignore", "ignore", "inherit"] });
  const port = await freePort();
  const args = ["-D", data, "-p", port, "-clisten_addresses=127.0.0.1", `-cunix_socket_directories=${home}`];
  const options = { ...owner, cwd: home, signal: "SIGQUIT" };
  const child = run("postgres", folder, join(postgresBin, "postgres"), args.map(String), options);
  const probe = () => spawn(join(postgresBin, "pg_isready"), ["-h", "127.0.0.1", "-p", `${port}`, "-t", "1"]);
  const isReady = () => new Promise((done) => probe().on("exit", (code) => done(code === 0)));
  await until(isReady, "postgres", { child });
  return { child, url: `postgres://postgres@127.0.0.1:${port}/postgres` };
}

/** Forwards connections to a port. `cut` resets all of them at both ends. */
export async function proxy(port) {
  const sockets = new Set();
  const server = createServer((client) => {
    const upstream = connect(port, "127.0.0.1");
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("error", () => {}).on("close", () => {
        sockets.delete(socket);
        [client, upstream].forEach((it) => it.destroy());
      });
    }
    client.pipe(upstream).pipe(client);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const cut = () => [...sockets].forEach((socket) => socket.resetAndDestroy());
  return { url: `http://127.0.0.1:${server.address().port}`, cut, close: () => (server.close(), cut()) };
}

let last = 0;
/** A value that no write of this run has had. */
export const nextValue = () => `Value ${++last}`;

/** Writes now and then until every subscriber has received something, so that all caches and readers are in use. */
export const warmUp = (system, haveAllReceived) =>
  until(async () => (await system.write(nextValue()), await sleep(200), haveAllReceived()), "first receipts");

/** Opens simple subscribers at the process that does not write. */
export async function subscribe(system, number, onValue = () => {}) {
  const counts = new Array(number).fill(0);
  const clients = [];
  const open = (_, index) => system.open(system.url(system.reader), (value) => (counts[index]++, onValue(value)));
  while (clients.length < number) {
    const next = counts.slice(clients.length, clients.length + 50).map((it, index) => open(it, clients.length + index));
    clients.push(...(await Promise.all(next)));
  }
  await warmUp(system, () => counts.every(Boolean));
  await sleep(300); // for the receipts of the last of these writes
  return { close: () => clients.forEach((client) => client.close()) };
}

/** Starts writes at a rate, whether or not earlier ones have ended, until `isOver`; then waits for all of them. */
export async function writeSteadily(system, rate, isOver, writes) {
  const begin = performance.now();
  const pending = [];
  for (let i = 0; !isOver(); i++) {
    await sleep(Math.max(0, begin + (i * 1000) / rate - performance.now()));
    const value = nextValue();
    const write = { begun: performance.now(), received: [] };
    writes.set(value, write);
    const failed = (error) => (write.error = error.message);
    pending.push(system.write(value).then(() => (write.acknowledged = performance.now()), failed));
  }
  await Promise.all(pending);
}

const tick = Number(execFileSync("getconf", ["CLK_TCK"]));

/** CPU seconds of a process with all its threads, and of its children: PostgreSQL has one per connection. */
export function cpuSeconds(pid) {
  // The name of the program, in parentheses, can contain spaces.
  const fields = (id) => readFileSync(`/proc/${id}/stat`, "utf8").split(") ").at(-1).split(" ");
  const spent = (id) => fields(id).slice(11, 15).reduce((sum, it) => sum + Number(it), 0);
  const kids = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean);
  return [pid, ...kids].reduce((sum, id) => sum + spent(id), 0) / tick;
}

export const residentKiB = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]);

export const percentile = (numbers, share) => {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
};
export const sum = (numbers) => numbers.reduce((total, it) => total + it, 0);
