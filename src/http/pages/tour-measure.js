// Measures one variant of a step: applies its settings, waits until the figures settle, and records them.
import { loadFigures } from "./comparison.js";
import { duration, rate as number } from "./format.js";

// The load of a frame covers its last second: frames after 2 s cover only what happened after the first second.
export const ignoreMs = 1000;
export const recordMs = 2500;
const windowMs = 1000;

// The rows of the results. `use` and `wait` come from the pool's histograms, the others from the frames.
export const figures = {
  perSecond: { label: "Operations per second", format: number },
  failedPerSecond: { label: "Refused per second", format: number },
  p50Ms: { label: "Latency, p50", format: duration },
  p99Ms: { label: "Latency, p99", format: duration },
  waitP50: { label: "Wait time in the queue, p50", format: duration },
  useP50: { label: "Use time, p50", format: duration },
  waiting: { label: "Waiting (mean)", format: number },
  inUse: { label: "In use (mean)", format: number },
  openedPerSecond: { label: "Connections opened per second", format: number },
  batchSize: { label: "Operations per batch", format: (value) => (Number.isFinite(value) ? number(value) : "no batches") },
};

export const mean = (values) => {
  const known = values.filter(Number.isFinite);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : NaN;
};

// Resolves after `ms`, or rejects when `signal` is aborted.
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal.addEventListener("abort", abort, { once: true });
  });
}

// Collects the frames of both streams with their time of arrival, until `stop` is called.
export function collect(client) {
  const frames = { demo: [], pool: [] };
  const stop = new AbortController();
  for (const name of ["demo", "pool"]) {
    client.addEventListener(name, (event) => frames[name].push({ at: performance.now(), data: event.detail }), { signal: stop.signal });
  }
  return { frames, stop: () => stop.abort() };
}

// A percentile of what a histogram gained between two frames.
function percentile(upper, first, last, share) {
  const counts = last.map((count, index) => Math.max(0, count - (first[index] ?? 0)));
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return NaN;
  let seen = 0;
  for (let index = 0; index < counts.length; index++) {
    seen += counts[index];
    // The geometric middle of a bucket is the best guess: the bounds grow by a constant factor.
    if (seen >= total * share) return upper[index] === null ? upper[index - 1] : index ? Math.sqrt(upper[index] * upper[index - 1]) : upper[index];
  }
  return NaN;
}

// The figures of the frames from `from` on.
export function evaluate(frames, from, to = Infinity) {
  const inside = (frame) => frame.at >= from && frame.at <= to;
  const pool = frames.pool.filter(inside);
  // The frames of the first second still include what happened before.
  const demo = frames.demo.filter((frame) => frame.at >= from + windowMs && frame.at <= to);
  if (!demo.length || pool.length < 2) return null;
  const result = { settings: demo.at(-1).data.settings };
  for (const key of ["perSecond", "failedPerSecond", "p50Ms", "p99Ms"]) {
    result[key] = mean(demo.map((frame) => loadFigures(frame.data.load)[key]));
  }
  result.waiting = mean(pool.map((frame) => frame.data.waiting));
  result.inUse = mean(pool.map((frame) => frame.data.inUse));
  const [first, last] = [pool[0], pool.at(-1)];
  const gained = (name) => Math.max(0, last.data.counters[name] - first.data.counters[name]);
  result.openedPerSecond = gained("opened") / ((last.at - first.at) / 1000);
  result.batchSize = gained("batches") ? gained("batched") / gained("batches") : NaN;
  const { upperMs } = last.data.histograms;
  for (const name of ["wait", "use"]) {
    result[`${name}P50`] = percentile(upperMs, first.data.histograms[name], last.data.histograms[name], 0.5);
  }
  return result;
}

const sameSettings = (settings, wanted) => Object.entries(wanted).every(([field, value]) => settings[field] === value);

// Throws if figures are missing, or if another page has changed the settings during the run.
function check(result, wanted) {
  if (!result) throw new Error("Too few figures have arrived. They stop while this page is hidden, or while the service cannot be reached. Run the step again.");
  if (!sameSettings(result.settings, wanted)) throw new Error("Another page has changed the settings during the run. Run the step again.");
  return result;
}

// Applies the settings and records their figures.
export async function measure(client, settings, signal) {
  await client.patch(settings);
  const started = performance.now();
  const collection = collect(client);
  try {
    await pause(ignoreMs + recordMs, signal);
  } finally {
    collection.stop();
  }
  return check(evaluate(collection.frames, started + ignoreMs), settings);
}

// Stops the database for some seconds and records what happens before, during and after.
export async function measureOutage(client, settings, seconds, signal, report) {
  await client.patch(settings);
  const collection = collect(client);
  const { frames } = collection;
  const until = async (condition, limitMs) => {
    const limit = performance.now() + limitMs;
    while (performance.now() < limit && !condition()) await pause(50, signal);
    return condition() ? performance.now() : NaN;
  };
  const state = () => client.pool?.state;
  try {
    const started = performance.now();
    await pause(ignoreMs + 1300, signal);
    const before = check(evaluate(frames, started + ignoreMs), settings);
    report("The database has stopped responding.");
    await client.outage(seconds);
    const stopped = performance.now();
    const ends = stopped + seconds * 1000;
    const down = await until(() => state() === "down", seconds * 1000);
    let cause;
    if (Number.isFinite(down)) {
      cause = client.pool.cause;
      report("The pool reports down.");
    }
    // The last frame of the outage arrives shortly before its end.
    await pause(Math.max(0, ends - 100 - performance.now()), signal);
    const seen = Number.isFinite(down) ? down : stopped;
    // The operations that waited when the pool reported down are refused after pool.outage_wait (250 ms).
    const during = evaluate(frames, Math.max(seen + 500, ends - 3000), ends) ?? evaluate(frames, stopped + 1000, ends);
    await pause(Math.max(0, ends - performance.now()), signal);
    const up = await until(() => state() === "up", 6000);
    report("Recording the recovery.");
    await pause(ignoreMs + 1300, signal);
    const after = check(evaluate(frames, performance.now() - 1300 - 250), settings);
    return { before, during, after, cause, detectedMs: down - stopped, recoveredMs: up - ends, seconds };
  } finally {
    collection.stop();
  }
}
