// Resident memory of a process for each subscriber that is connected and idle.
import { setTimeout as sleep } from "node:timers/promises";
import { residentKiB, subscribe } from "../lib.mjs";

export const title = ({ connections }) => `Memory: ${connections} idle subscribers of one process`;

export async function measure(system, { connections, settle }) {
  // Everything that the first connections and writes load is not counted.
  const first = await subscribe(system, 20);
  const pid = system.servicePids[system.reader];
  await sleep(settle * 1000);
  const before = residentKiB(pid);
  const subscribers = await subscribe(system, connections);
  await sleep(settle * 1000);
  const after = residentKiB(pid);
  first.close();
  subscribers.close();
  const perConnection = (after - before) / connections;
  return { "": { "KiB per connection": perConnection, "MiB before": before / 1024, "MiB with all": after / 1024 } };
}
