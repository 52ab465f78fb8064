// The texts and the presets of the guided tour.

// Reads only and no batching: each step changes one thing, so that its effect is not hidden by another.
const base = {
  max: 10, min: 2, queueLimit: 1000, acquireMs: 5000, batch: false, clients: 16, writePercent: 0, latencyMs: 2, connectionPerRequest: false,
};

// `figures` are the rows of the results; tour-measure.js explains them. `variants` run one after another.
export const steps = [
  {
    id: "pool",
    title: "Why a pool",
    text: "Opening a connection takes several round trips and work on the server. A pool keeps connections open and lends one to each operation. This step compares both: a connection per request, then a pool with max 10.",
    variants: [
      { label: "Connection per request", settings: { ...base, connectionPerRequest: true } },
      { label: "Pool", settings: base },
    ],
    figures: ["perSecond", "p50Ms", "p99Ms", "openedPerSecond"],
    terms: [["min", "so many connections stay open when they are idle (Sequelize: min)."], ["idle timeout", "a connection above min that is not used for this long is closed (mysql2: idleTimeout, Sequelize: idle)."]],
    link: ["How a pool opens and reuses connections", "how-it-works"],
  },
  {
    id: "small",
    title: "A pool that is too small",
    text: "With max 1, one operation uses the connection and all others wait in the queue, although the database has capacity to spare. 32 clients use a database with 2 ms latency, first with max 1, then with max 10.",
    variants: [
      { label: "max 1", settings: { ...base, clients: 32, max: 1, min: 1 } },
      { label: "max 10", settings: { ...base, clients: 32 } },
    ],
    figures: ["perSecond", "p50Ms", "waitP50", "useP50", "waiting"],
    terms: [["max", "the most connections that the pool opens (mysql2: connectionLimit). Too low: operations wait while the database is idle."]],
    link: ["How to size the pool", "how-to-size-it"],
  },
  {
    id: "large",
    title: "A pool that is too large",
    text: "A database executes only as many statements at the same time as it has processors, plus those that wait for disks. Here 200 clients use a database without latency, first with max 4, then with max 100. Watch the use time: how long an operation holds its connection.",
    variants: [
      { label: "max 4", settings: { ...base, clients: 200, latencyMs: 0, max: 4 } },
      { label: "max 100", settings: { ...base, clients: 200, latencyMs: 0, max: 100 } },
    ],
    figures: ["perSecond", "p50Ms", "waitP50", "useP50", "inUse"],
    terms: [["max", "too high: operations wait inside the database instead of in the queue, and nothing gets faster."]],
    link: ["What is too low and too high for each setting", "settings"],
  },
  {
    id: "queue",
    title: "The queue",
    text: "100 clients send more operations than one connection with 5 ms latency can serve. A long queue lets all of them wait; a short queue refuses those that find it full. A short acquire timeout refuses those that would wait too long.",
    variants: [
      { label: "Queue limit 1000", settings: { ...base, clients: 100, max: 1, min: 1, latencyMs: 5 } },
      { label: "Queue limit 10", settings: { ...base, clients: 100, max: 1, min: 1, latencyMs: 5, queueLimit: 10 } },
      { label: "Acquire timeout 100 ms", settings: { ...base, clients: 100, max: 1, min: 1, latencyMs: 5, acquireMs: 100 } },
    ],
    figures: ["perSecond", "failedPerSecond", "waiting", "p50Ms", "p99Ms"],
    terms: [["queue limit", "how many operations may wait (mysql2: queueLimit); more are refused immediately."], ["acquire timeout", "how long an operation may wait for a connection (Sequelize: acquire). An operation that would wait longer is refused on arrival."]],
    link: ["The queue in the documentation", "how-it-works"],
  },
  {
    id: "outage",
    title: "An outage",
    text: "The database stops responding for 5 s, with 40 clients and max 10. The pool notices that no response arrives, reports down with the cause, and refuses operations instead of letting them wait. When the database is back, the pool recovers automatically.",
    variants: [{ label: "Outage", settings: { ...base, clients: 40, latencyMs: 1 } }],
    outageSeconds: 5,
    figures: ["perSecond", "failedPerSecond", "waiting", "inUse"],
    terms: [["down", "the database does not respond; operations are refused with the cause."], ["recovering", "connections are opened again, without a restart."]],
    link: ["Health: up, down, recovering", "health-up-down-recovering"],
  },
  {
    id: "batch",
    title: "Batching",
    text: "With batching, concurrent operations of the same kind share one statement, and therefore one round trip. 64 clients use max 2 with 2 ms latency, first without batching, then with it.",
    variants: [
      { label: "Batching off", settings: { ...base, clients: 64, max: 2 } },
      { label: "Batching on", settings: { ...base, clients: 64, max: 2, batch: true } },
    ],
    figures: ["perSecond", "p50Ms", "waiting", "batchSize"],
    terms: [["batch", "several waiting operations that are served by one statement. Nothing waits for a timer."]],
    link: ["Batching in the documentation", "batching"],
  },
];

export const summary = {
  title: "Summary",
  text: "Each setting in one line, with the figures that this tour has measured on this machine.",
};
