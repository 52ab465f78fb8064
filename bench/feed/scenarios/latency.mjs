// How long after its write a value arrives at two subscribers of the other process.
import { percentile, subscribe, sum, until, writeSteadily } from "../lib.mjs";

export const title = ({ rate, seconds }) => `Latency between processes: ${rate} writes/s for ${seconds} s`;

export async function measure(system, { rate, seconds }) {
  const writes = new Map();
  const subscribers = await subscribe(system, 2, (value) => writes.get(value)?.received.push(performance.now()));
  const end = performance.now() + seconds * 1000;
  await writeSteadily(system, rate, () => performance.now() > end, writes);
  const acknowledged = [...writes.values()].filter((write) => write.acknowledged);
  const receipts = () => sum(acknowledged.map((write) => write.received.length));
  // The receipts that are missing are reported, not an error.
  await until(() => receipts() >= 2 * acknowledged.length, "receipts", { seconds: 5 }).catch(() => {});
  subscribers.close();
  const since = (of) => acknowledged.flatMap((write) => write.received.map((at) => at - of(write)));
  const fromResponse = since((write) => write.acknowledged);
  const fromStart = since((write) => write.begun);
  const responses = acknowledged.map((write) => write.acknowledged - write.begun);
  return {
    "": {
      "response p50, ms": percentile(responses, 0.5),
      "response p99, ms": percentile(responses, 0.99),
      "response to receipt p50, ms": percentile(fromResponse, 0.5),
      "response to receipt p99, ms": percentile(fromResponse, 0.99),
      "start to receipt p50, ms": percentile(fromStart, 0.5),
      "start to receipt p99, ms": percentile(fromStart, 0.99),
      writes: acknowledged.length,
      "failed writes": writes.size - acknowledged.length,
      "missing receipts": 2 * acknowledged.length - fromStart.length,
    },
  };
}
