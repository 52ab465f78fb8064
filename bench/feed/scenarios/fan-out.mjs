// What it costs to send each write to many subscribers of the other process.
import { cpuSeconds, nextValue, subscribe, sum, until } from "../lib.mjs";

export const title = ({ subscribers, writes }) =>
  `Fan-out: ${writes} writes one after another to ${subscribers} subscribers`;

export async function measure(system, { subscribers: number, writes }) {
  const values = new Set();
  let receipts = 0;
  let end;
  const subscribers = await subscribe(system, number, (value) => {
    if (!values.has(value)) return;
    receipts++;
    end = performance.now();
  });
  const spent = () => [system.servicePids, system.otherPids].map((pids) => sum(pids.map(cpuSeconds)));
  const [before, own, begin] = [spent(), process.cpuUsage(), performance.now()];
  for (let i = 0; i < writes; i++) {
    const value = nextValue();
    values.add(value);
    await system.write(value);
  }
  const expected = number * writes;
  // The receipts that are missing are reported, not an error.
  const isOver = () => receipts >= expected || performance.now() - end > 5000;
  await until(isOver, "receipts", { seconds: 120 }).catch(() => {});
  const { user, system: kernel } = process.cpuUsage(own);
  const [service, others] = spent().map((it, index) => it - before[index]);
  subscribers.close();
  const perThousand = (seconds) => (seconds * 1e6) / receipts;
  return {
    "": {
      "receipts/s": (receipts * 1000) / (end - begin),
      "CPU of the service, ms per 1,000 receipts": perThousand(service),
      "of database and broker": perThousand(others),
      "of the load generator": perThousand((user + kernel) / 1e6),
      receipts,
      "missing receipts": expected - receipts,
    },
  };
}
