// Starts services and a PostgreSQL server for the tests, and ends everything, also after a failure or a signal.
import { execFile, execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { until } from "./report.mjs";

const binary = process.env.USERS_API;
const ends = [];
let isEnding = false;

/** Registers what undoes a start. The last start is undone first; a start after a signal is undone at once. */
export function atEnd(undo) {
  if (isEnding) (async () => undo())().catch(() => {});
  else ends.push(undo);
}

export async function endAll() {
  isEnding = true;
  for (let undo; (undo = ends.pop()); ) {
    try {
      await undo();
    } catch (error) {
      console.log(`dashboard: at the end: ${error.message}`);
      process.exitCode = 1;
    }
  }
}

const exitAfter = (code) => () => endAll().finally(() => process.exit(code));
process.once("SIGINT", exitAfter(130));
process.once("SIGTERM", exitAfter(143));
// Without this, an error outside of a test would leave servers behind.
process.once("uncaughtException", (error) => {
  console.log(`dashboard: ${error.stack}`);
  exitAfter(1)();
});

/** A folder for the files of a run; removed at the end. */
export function temporaryFolder(prefix, parent = resolve(".")) {
  const folder = mkdtempSync(join(parent, prefix));
  // The browser may still write while it ends.
  atEnd(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 }));
  return folder;
}

function stop(child, signal) {
  if (child.exitCode === null && child.signalCode === null) child.kill(signal);
  return child.exited;
}

/** Starts `users-api demo` or `users-api serve` on a free port; resolves when it listens. */
export async function startService(command, env, cwd) {
  const child = spawn(binary, [command, "--host", "127.0.0.1", "--port", "0"], {
    cwd,
    env: { ...process.env, USERS_API__LOG__FORMAT: "json", ...env },
  });
  child.exited = new Promise((done) => child.on("exit", (code, signal) => done(code ?? signal)));
  atEnd(async () => {
    await Promise.race([stop(child, "SIGTERM"), new Promise((done) => setTimeout(done, 5000).unref())]);
    await stop(child, "SIGKILL");
  });
  let log = "";
  let url;
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (data) => {
      if (url) return;
      log += data;
      const [, address] = /"listening","address":"([^"]+)"/.exec(log) ?? /http:\/\/([\d.]+:\d+)\/dashboard/.exec(log) ?? [];
      if (address) url = `http://${address}`;
    });
  }
  await until(() => url || child.exitCode !== null);
  if (!url) throw new Error(`users-api ${command} does not start: ${log}`);
  return { url, stop: () => stop(child, "SIGTERM") };
}

/** Runs a command of the binary and returns what it prints. */
export async function command(args, env, cwd) {
  const { stdout } = await promisify(execFile)(binary, args, { cwd, env: { ...process.env, ...env } });
  return stdout.trim();
}

const freePort = () =>
  new Promise((done) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

/** The folder of the programs of the newest PostgreSQL. */
function programs() {
  const root = "/usr/lib/postgresql";
  const versions = existsSync(root) ? readdirSync(root).filter((name) => existsSync(join(root, name, "bin/initdb"))) : [];
  const newest = versions.sort((a, b) => a - b).at(-1);
  return newest ? join(root, newest, "bin") : "";
}

/** A private PostgreSQL server. Its socket is inside of its folder, so that it meets no other server. */
export async function startPostgres() {
  // Not below the working directory: the user postgres may not enter that one, and the path of a socket must be short.
  const folder = temporaryFolder("dashboard-", tmpdir());
  const data = join(folder, "data");
  const isRoot = process.getuid() === 0;
  if (isRoot) execFileSync("chown", ["postgres", folder]);
  const bin = programs();
  const execute = promisify(execFile);
  const pg = (program, ...args) => {
    const line = [bin ? join(bin, program) : program, ...args];
    // The server refuses to run as root.
    return isRoot ? execute("runuser", ["-u", "postgres", "--", ...line], { cwd: folder }) : execute(line[0], args, { cwd: folder });
  };
  await pg("initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync");
  const port = await freePort();
  const options = `-p ${port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=${folder} -c fsync=off`;
  const start = () => pg("pg_ctl", "start", "-D", data, "-w", "-t", "60", "-l", join(folder, "log"), "-o", options);
  const stopNow = () => pg("pg_ctl", "stop", "-D", data, "-w", "-t", "60", "-m", "immediate");
  atEnd(async () => {
    if (existsSync(join(data, "postmaster.pid"))) await stopNow();
  });
  await start().catch((error) => {
    const log = join(folder, "log");
    throw new Error(`PostgreSQL does not start: ${existsSync(log) ? readFileSync(log, "utf8") : error.message}`);
  });
  const sql = (text) => pg("psql", "-q", "-h", "127.0.0.1", "-p", String(port), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", text);
  return { url: `postgres://postgres@127.0.0.1:${port}/postgres`, start, stop: stopNow, sql };
}
