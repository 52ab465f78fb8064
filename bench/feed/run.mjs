// Compares the live feed with Socket.IO and PocketBase. Prints tables and writes all figures to a file.
//   USERS_API=FILE node run.mjs [--quick] [--only SCENARIOS] [--systems NAMES] [--rounds N] ... RESULTS.json
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { percentile, postgresBin } from "./lib.mjs";
import * as fanOut from "./scenarios/fan-out.mjs";
import * as latency from "./scenarios/latency.mjs";
import * as losses from "./scenarios/losses.mjs";
import * as memory from "./scenarios/memory.mjs";
import { PocketBase, binary as pocketBase } from "./systems/pocketbase.mjs";
import { SocketIo } from "./systems/socket-io.mjs";
import { UsersApi, binary as usersApi } from "./systems/users-api.mjs";

const scenarios = { latency, "fan-out": fanOut, memory, losses };
const systems = {
  "users-api": () => new UsersApi(),
  "users-api-none": () => new UsersApi("none"),
  "socket-io": () => new SocketIo(),
  pocketbase: () => new PocketBase(),
};
// Of a full and of a quick run.
const numbers = {
  rounds: [3, 1],
  seconds: [20, 1],
  rate: [50, 50],
  subscribers: [500, 50],
  writes: [100, 20],
  connections: [2000, 100],
  clients: [20, 5],
  cuts: [3, 1],
  quiet: [6, 2],
  settle: [2, 0.5],
};

const text = { type: "string" };
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: "boolean", default: false },
    only: { ...text, default: Object.keys(scenarios).join() },
    systems: { ...text, default: Object.keys(systems).join() },
    ...Object.fromEntries(Object.keys(numbers).map((name) => [name, text])),
  },
});
const chosen = (name, [full, quick]) => Number(values[name] ?? (values.quick ? quick : full));
const options = Object.fromEntries(Object.entries(numbers).map(([name, both]) => [name, chosen(name, both)]));
const [file] = positionals;
if (!file || Object.values(options).some((it) => !(it > 0))) throw new Error("run.mjs needs a file for the results");

const version = (name) => JSON.parse(readFileSync(new URL("package.json", import.meta.url))).dependencies[name];
const programs = [usersApi, pocketBase, join(postgresBin, "postgres"), "redis-server"];
const first = (command, ...args) => execFileSync(command, args, { encoding: "utf8" }).split("\n")[0];
const results = {
  date: new Date().toISOString(),
  machine: `${cpus().length} × ${cpus()[0].model}`,
  versions: {
    node: process.version,
    "socket.io": version("socket.io"),
    "redis-streams-adapter": version("@socket.io/redis-streams-adapter"),
    ...Object.fromEntries(programs.map((program) => [basename(program), first(program, "--version")])),
  },
  options,
  scenarios: {},
  errors: [],
};
const format = (number) => {
  if (!Number.isFinite(number)) return "–";
  const digits = Number.isInteger(number) || Math.abs(number) >= 100 ? 0 : Math.abs(number) >= 1 ? 1 : 3;
  return number.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits });
};

/** The medians over the rounds, a line for each system and case. */
function table(measurements) {
  const rows = new Map();
  for (const { system, figures } of measurements) {
    for (const [part, row] of Object.entries(figures)) {
      const name = [system, part].filter(Boolean).join(": ");
      rows.set(name, [...(rows.get(name) ?? []), row]);
    }
  }
  const columns = Object.keys([...rows.values()][0]?.[0] ?? {});
  const median = (all, column) => percentile(all.map((row) => row[column]), 0.5);
  const cells = [...rows].map(([name, all]) => [name, ...columns.map((column) => format(median(all, column)))]);
  const lines = [["", ...columns], ["---", ...columns.map(() => "---:")], ...cells];
  return lines.map((line) => `| ${line.join(" | ")} |`).join("\n");
}

for (const name of values.only.split(",")) {
  const { measure, title, rounds = options.rounds, isTimed = true } = scenarios[name];
  // Without a broker only the latency differs.
  const names = values.systems.split(",").filter((it) => name === "latency" || it !== "users-api-none");
  const measurements = (results.scenarios[name] = []);
  const report = () => {
    // In the order of the systems, whichever ended first.
    const place = ({ key, round }) => round * names.length + names.indexOf(key);
    measurements.sort((a, b) => place(a) - place(b));
    writeFileSync(file, `${JSON.stringify(results, null, 2)}\n`);
  };
  const once = async (key, round) => {
    const system = systems[key]();
    try {
      await system.start();
      measurements.push({ key, system: system.name, round, figures: await measure(system, options) });
    } catch (error) {
      console.error(`${name}: ${system.name}: ${error.stack}`);
      results.errors.push(`${name}: ${system.name}: ${error.message}`);
    } finally {
      await system.stop();
      report();
    }
  };
  for (let round = 0; round < rounds; round++) {
    // One system at a time, in an order that changes from round to round.
    const order = names.map((_, index) => names[(index + round) % names.length]);
    if (values.quick && !isTimed) await Promise.all(order.map((key) => once(key, round)));
    else for (const key of order) await once(key, round);
  }
  console.log(`\n### ${title(options)}\n\n${table(measurements)}`);
}
process.exit(results.errors.length ? 1 : 0);
