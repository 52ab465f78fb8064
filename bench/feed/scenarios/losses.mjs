// What subscribers that reconnect by themselves do not receive, or receive twice, after a fault during steady writes.
import { setTimeout as sleep } from "node:timers/promises";
import { proxy, sum, until, warmUp, writeSteadily } from "../lib.mjs";

export const title = ({ clients, rate }) => `Losses: ${clients} subscribers, ${rate} writes/s`;
// A sum over one run, with its own number of faults.
export const rounds = 1;
/** Counts do not depend on the speed, so a quick run measures all systems at the same time. */
export const isTimed = false;

async function during(system, { clients: number, rate, quiet }, fault) {
  // Clients connect through it in all cases, so that their connections can be cut in the same way.
  const forward = await proxy(system.nodes[system.reader].port);
  const received = Array.from({ length: number }, () => new Map());
  let latest;
  const clients = received.map((values) =>
    system.connect(forward.url, (value) => {
      values.set(value, (values.get(value) ?? 0) + 1);
      latest = performance.now();
    }),
  );
  const allConnected = () => clients.every((client) => client.connected);
  await until(allConnected, "connections");
  // Socket.IO can recover a connection only after its first event.
  await warmUp(system, () => received.every((values) => values.size > 0));

  const writes = new Map();
  let isOver = false;
  const writing = writeSteadily(system, rate, () => isOver, writes);
  await sleep(1000);
  await fault({ cut: forward.cut, reconnected: () => sleep(500).then(() => until(allConnected, "reconnections")) });
  await sleep(1000);
  isOver = true;
  await writing;
  const values = [...writes.keys()].filter((value) => writes.get(value).acknowledged);
  const missing = () => received.map((it) => values.filter((value) => !it.has(value)).length);
  // Something that is only late is not lost: waits for it until nothing has arrived for a while.
  const stopped = performance.now();
  const isQuiet = () => performance.now() - Math.max(stopped, latest) > quiet * 1000;
  await until(() => sum(missing()) === 0 || (allConnected() && isQuiet()), "end of the receipts", { seconds: 120 });
  await sleep(500); // for duplicates
  const lost = missing();
  const extra = (it) => sum(values.map((value) => Math.max(0, (it.get(value) ?? 0) - 1)));
  const duplicates = sum(received.map(extra));
  for (const client of clients) await client.close();
  forward.close();
  return {
    "acknowledged writes": values.length,
    "failed writes": writes.size - values.length,
    "received by a subscriber, least": values.length - Math.max(...lost),
    most: values.length - Math.min(...lost),
    lost: sum(lost),
    "of all deliveries": values.length * number,
    duplicates,
    resyncs: sum(clients.map((client) => client.resyncs ?? 0)),
  };
}

export async function measure(system, options) {
  const results = {};
  results[`${options.cuts} × all connections cut`] = await during(system, options, async ({ cut, reconnected }) => {
    for (let i = 0; i < options.cuts; i++) {
      cut();
      await reconnected();
      await sleep(500);
    }
  });
  results["process of the subscribers killed"] = await during(system, options, async ({ reconnected }) => {
    await system.kill(system.reader);
    await sleep(500);
    await system.restart(system.reader);
    await reconnected();
  });
  if (system.processes > 1) {
    results["process of the writer killed"] = await during(system, options, async ({ reconnected }) => {
      await system.kill(0);
      await sleep(500);
      await system.restart(0);
      await reconnected();
    });
  }
  if (system.broker) {
    results["broker killed"] = await during(system, options, async ({ reconnected }) => {
      await system.broker.child.end("SIGKILL");
      await sleep(1000);
      await system.broker.start(system.folder);
      await sleep(2500); // its clients connect again within two seconds
      await reconnected();
    });
  }
  return results;
}
