// The sentences that conclude each step and the summary. Each is computed from the figures, and is true for any outcome.
import { duration, rate as number } from "./format.js";
import { times } from "./lab-dom.js";

// A short run on a busy machine varies by some percent: smaller differences are not an effect.
const threshold = 1.2;

const perSecond = (value) => `${number(value)} operations per second`;

// A time that is known only as precisely as the frames arrive.
export const approximately = (ms) => (!Number.isFinite(ms) ? "–" : ms < 250 ? "less than 0.3 s" : `about ${(ms / 1000).toFixed(1)} s`);

// Chooses the text for "b is larger", "about the same" and "b is smaller".
function outcome(a, b, { more, same, less }) {
  if (!(a > 0 && b > 0)) return "A figure is missing, so there is nothing to compare.";
  const factor = b / a;
  if (factor >= threshold) return more(times(factor));
  return factor <= 1 / threshold ? less(times(factor)) : same(times(factor));
}

const again = "Other load on the machine can cause this; run the step again.";

function pool([a, b]) {
  const latency = `p50 ${duration(b.p50Ms)} instead of ${duration(a.p50Ms)}`;
  const opened = `it opens ${number(b.openedPerSecond)} connections per second, without it ${number(a.openedPerSecond)}`;
  return outcome(a.perSecond, b.perSecond, {
    more: (n) => `With the pool, the same clients complete ${n} times as many operations (${latency}): ${opened}.`,
    same: () => `On this machine the difference is small (${latency}), probably because opening a connection to this database costs little compared with the rest; over a network, with TLS and a password check, it costs more. With the pool, ${opened}.`,
    less: (n) => `In this run the pool completes ${n} times fewer operations (${latency}); ${opened}. ${again}`,
  });
}

function small([a, b]) {
  const wait = `the median wait is ${duration(b.waitP50)} instead of ${duration(a.waitP50)}, the use time ${duration(b.useP50)} instead of ${duration(a.useP50)}`;
  return outcome(a.perSecond, b.perSecond, {
    more: (n) => `Ten connections complete ${n} times as many operations as one; ${wait}.`,
    same: () => `On this machine the difference is small, so something other than the number of connections limits the throughput, probably the processor; ${wait}.`,
    less: (n) => `In this run, ten connections complete ${n} times fewer operations than one, probably because they compete for the processor; ${wait}.`,
  });
}

function large([a, b]) {
  const rates = `${number(b.perSecond)} per second instead of ${number(a.perSecond)}`;
  const throughput = outcome(a.perSecond, b.perSecond, {
    more: (n) => `Here max 100 completes ${n} times as many operations (${rates}): four connections were not enough for this machine.`,
    same: () => `25 times the connections complete about as many operations (${rates}).`,
    less: (n) => `25 times the connections complete ${n} times fewer operations (${rates}), probably because they compete for the processors.`,
  });
  const use = outcome(a.useP50, b.useP50, {
    more: (n) => `Each operation holds its connection ${n} times as long (${duration(b.useP50)} instead of ${duration(a.useP50)}): it waits in the database instead of in the queue.`,
    same: () => `The use time hardly changes (${duration(a.useP50)} and ${duration(b.useP50)}), probably because the processors limit how many operations run at the same time: ${number(b.inUse)} of 100 connections are in use on average.`,
    less: (n) => `The use time is ${n} times shorter in this run (${duration(b.useP50)} instead of ${duration(a.useP50)}). ${again}`,
  });
  return `${throughput} ${use}`;
}

function queue([long, short, acquire]) {
  if (!(short.failedPerSecond > long.failedPerSecond + 0.5 && short.p50Ms < long.p50Ms / threshold)) {
    return `On this machine the expected effect is absent: with queue limit 10, ${number(short.failedPerSecond)} operations per second are refused and the others take ${duration(short.p50Ms)}, with limit 1000 it is ${number(long.failedPerSecond)} and ${duration(long.p50Ms)}. This can happen if the clients are too slow to fill the queue; ${number(long.waiting)} operations wait on average.`;
  }
  const limited = acquire.p99Ms < long.p99Ms / threshold
    ? `an acquire timeout of 100 ms lowers the p99 to ${duration(acquire.p99Ms)} and refuses ${number(acquire.failedPerSecond)} per second`
    : `an acquire timeout of 100 ms makes little difference here (p99 ${duration(acquire.p99Ms)})`;
  const rates = [long, short, acquire].map((result) => result.perSecond);
  const capacity = Math.max(...rates) / Math.min(...rates) < threshold
    ? "All complete about as many operations: a queue adds no capacity, it only decides who waits and who is refused."
    : `They complete ${rates.map(number).join(", ")} operations per second; the clients pause after a refusal, so the connection can be idle.`;
  return `The short queue refuses ${number(short.failedPerSecond)} operations per second, and the others take ${duration(short.p50Ms)} instead of ${duration(long.p50Ms)}; ${limited}. ${capacity}`;
}

function outage({ before, during, after, cause, detectedMs, recoveredMs, seconds }) {
  const detected = Number.isFinite(detectedMs)
    ? `The pool reports down after ${approximately(detectedMs)}${cause?.detail ? ` (“${cause.detail}”)` : ""}`
    : `The pool did not report down within ${seconds} s, which can happen if a connection still responds or another page ends the outage`;
  const refused = during && during.failedPerSecond >= 0.5
    ? `then it refuses ${number(during.failedPerSecond)} operations per second${during.waiting < 1 ? " immediately, without letting them wait" : `, while ${number(during.waiting)} wait`}`
    : "no operation was refused in the recorded part of the outage";
  if (!Number.isFinite(detectedMs)) return `${detected}; ${refused}. After the outage it completes ${number(after.perSecond)} operations per second (before: ${number(before.perSecond)}).`;
  const back = Number.isFinite(recoveredMs)
    ? `Without a restart it is up again ${approximately(recoveredMs)} after the database responds, and completes ${number(after.perSecond)} operations per second (before: ${number(before.perSecond)}).`
    : "It was not up again within 6 s after the outage.";
  return `${detected}; ${refused}. ${back}`;
}

function batch([a, b]) {
  const size = Number.isFinite(b.batchSize) ? `a batch serves ${number(b.batchSize)} operations on average` : "no batch was formed";
  return outcome(a.perSecond, b.perSecond, {
    more: (n) => `With batching, two connections complete ${n} times as many operations; ${size}.`,
    same: () => `On this machine the difference is small; ${size}. Batches form only while operations wait: if the queue is short, there is little to share.`,
    less: (n) => `In this run, batching completes ${n} times fewer operations; ${size}. ${again}`,
  });
}

const conclusions = { pool, small, large, queue, batch };

// The concluding sentences of a step. `results` has one entry per variant; the outage step has one object.
export function conclude(step, results) {
  if (step.outageSeconds) return outage(results);
  const empty = results.findIndex((result) => !(result.perSecond > 0));
  if (empty >= 0) return `No operation was completed with “${step.variants[empty].label}”, so there is nothing to compare. ${again}`;
  return conclusions[step.id](results);
}

// The lines of the summary: term, meaning, and what was measured (null: the step has not been run).
export function summarize(results) {
  const { pool: first, small: second, large: third, queue: fourth } = results;
  return [
    {
      term: "max", step: "small",
      text: "The most connections that the pool opens. Too low: operations wait. Too high: they compete inside the database.",
      measured: second && `max 1: ${perSecond(second[0].perSecond)}; max 10: ${number(second[1].perSecond)}.${third ? ` At full load, max 4: ${number(third[0].perSecond)}; max 100: ${number(third[1].perSecond)}.` : ""}`,
    },
    {
      term: "min", step: "pool",
      text: "So many connections stay open when idle, so that the first operations need not wait for new ones.",
      measured: first && `Connections opened per second: ${number(first[0].openedPerSecond)} without a pool, ${number(first[1].openedPerSecond)} with it.`,
    },
    {
      term: "acquire timeout", step: "queue",
      text: "The longest wait for a connection. An operation that would wait longer is refused.",
      measured: fourth && `5 s: p99 ${duration(fourth[0].p99Ms)}, ${number(fourth[0].failedPerSecond)} refused per second; 100 ms: p99 ${duration(fourth[2].p99Ms)}, ${number(fourth[2].failedPerSecond)} refused per second.`,
    },
    {
      term: "idle timeout", step: null,
      text: "A connection above min that is not used for this long is closed, so that the server does not hold connections for nothing.",
      measured: null,
    },
    {
      term: "queue", step: "queue",
      text: "Where operations wait, in the order of their arrival. The queue limit is how many may wait; more are refused immediately.",
      measured: fourth && `Limit 1000: ${number(fourth[0].waiting)} wait, p50 ${duration(fourth[0].p50Ms)}; limit 10: ${number(fourth[1].waiting)} wait, p50 ${duration(fourth[1].p50Ms)}, ${number(fourth[1].failedPerSecond)} refused per second.`,
    },
  ];
}
