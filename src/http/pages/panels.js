// The figures at the top and the cards below the charts: advice, bulk permits, feed, limits and counters.

import { el, setAttribute, setHidden, setScale, setText } from "./dom.js";
import { count, decimal, duration, percent, rate, setting } from "./format.js";
import { term } from "./terms.js";

const FIGURES = [
  ["operations", "Operations per second"],
  ["in-use", "Connections in use"],
  ["waiting", "Waiting"],
  ["batchSize", "Mean batch size"],
  ["wait", "Wait p99, 1–2 min"],
  ["refused", "Refused per second"],
];
const REFUSED = ["refusedBusy", "refusedDown", "refusedClosing", "timedOut"];
const onOff = (value) => (value ? "on" : "off");
const LIMITS = [
  ["max", "pool.max", (value) => count(value)],
  ["min", "pool.min", (value) => count(value)],
  ["acquireMs", "pool.acquire", (value) => setting(value, "unlimited")],
  ["queueLimit", "pool.queue_limit", (value) => (value === 0 ? "unlimited" : count(value))],
  ["waitSetting", "pool.wait", onOff, "wait"],
  ["batch", "pool.batch", onOff],
  ["batchMax", "pool.batch_max", (value) => count(value)],
  ["bulkShare", "pool.bulk_share", (value) => percent(value / 100)],
  ["idleMs", "pool.idle", (value) => setting(value, "never")],
  ["lifetimeMs", "pool.lifetime", (value) => setting(value, "never")],
  ["statementTimeoutMs", "pool.statement_timeout", (value) => setting(value, "server's limit")],
];
// Groups of counters: title, then name, text and, if it differs, the term.
const COUNTERS = [
  ["Operations", ["operations", "operations"], ["failed", "failed"], ["batches", "batches"], ["batched", "batched"], ["slowHolds", "slow holds"]],
  ["Refused", ["refusedBusy", "busy"], ["timedOut", "timed out"], ["refusedDown", "down"], ["refusedClosing", "closing"]],
  ["Retried", ["retriedConflicts", "conflicts"], ["retriedReads", "reads"], ["retriedTransactions", "transactions"]],
  ["Connections", ["opened", "opened"], ["dialsFailed", "failed connection attempts"], ["closedIdle", "closed: idle"], ["closedLifetime", "closed: lifetime"], ["closedReplaced", "closed: replaced"],
    ["closedBroken", "closed: broken"], ["closedSessionChanged", "closed: session"], ["stranded", "stranded", "strandedCount"]],
];

export class Panels {
  #figures = new Map();
  #limits = new Map();
  #counters = new Map();
  #advice = list("advice", [["busy", "busy"], ["suggestedMax", "suggested pool.max"], ["serverMaxConnections", "server's limit"], ["instancesThatFit", "instances that fit"]]);
  #bulk = list("bulk", [["bulk", "permits taken"], ["bulkWaiting", "waiting for a permit"], ["bulkShare", "share of connections and time"]]);
  #feed = list("feed", [["broker", "broker"], ["feed", "changes"], ["subscribers", "subscribers"], ["position", "position"]]);
  #sentence = document.getElementById("advice-sentence");
  #bulkFill = document.getElementById("bulk-fill");
  #feedCard = document.getElementById("feed").closest(".card");

  constructor() {
    const figures = document.getElementById("figures");
    for (const [key, text] of FIGURES) {
      const value = document.createTextNode("–");
      const unit = el("small");
      const node = el("div", "figure", el("dt", null, term(key, text)), el("dd", null, value, unit));
      figures.append(node);
      this.#figures.set(key, { value, unit, node });
    }
    const limits = document.getElementById("limits");
    for (const [key, text, format, member] of LIMITS) {
      const value = el("dd");
      limits.append(el("div", null, el("dt", null, term(key, text)), value));
      this.#limits.set(member ?? key, { value, format });
    }
    const counters = document.getElementById("counters");
    for (const [title, ...rows] of COUNTERS) {
      const head = el("th", null, title);
      const total = el("th", "number", "total");
      const perSecond = el("th", "number", "per s");
      for (const cell of [head, total, perSecond]) cell.scope = "col";
      const body = el("tbody");
      for (const [name, text, key] of rows) {
        const label = el("th", null, term(key ?? name, text));
        label.scope = "row";
        const row = el("tr", null, label, el("td", "number"), el("td", "number note"));
        body.append(row);
        this.#counters.set(name, row.children);
      }
      counters.append(el("table", "rows", el("thead", null, el("tr", null, head, total, perSecond)), body));
    }
  }

  drawTables(frame, recent) {
    for (const [name, { value, format }] of this.#limits) setText(value, format(frame.limits[name]));
    for (const [name, [, total, perSecond]] of this.#counters) {
      setText(total, count(frame.counters[name]));
      setText(perSecond, rate(recent.rate(name, 10)));
    }
    const { advice, bulk, feed } = frame;
    setText(this.#sentence, advice.sentence);
    this.#advice({ busy: decimal(advice.busy), suggestedMax: count(advice.suggestedMax), serverMaxConnections: optional(advice.serverMaxConnections), instancesThatFit: optional(advice.instancesThatFit) });
    this.#bulk({ bulk: `${count(bulk.taken)} of ${count(bulk.places)}`, bulkWaiting: count(bulk.waiting), bulkShare: percent(frame.limits.bulkShare / 100) });
    setScale(this.#bulkFill, "X", bulk.places > 0 ? bulk.taken / bulk.places : 0);
    setHidden(this.#feedCard, !feed);
    if (!feed) return;
    const changes = feed.broker === "none" ? "found by polling" : feed.connected ? "reported by the broker" : "found by polling, broker not connected";
    this.#feed({ broker: feed.broker, feed: changes, subscribers: count(feed.subscribers), position: feed.position ?? null });
    setAttribute(this.#feedCard, "data-level", feed.broker !== "none" && !feed.connected ? "warn" : null);
  }

  drawFigures(frame, recent) {
    const { wait, limits } = frame;
    const batches = recent.difference("batches", 10);
    const size = batches > 0 ? recent.difference("batched", 10) / batches : NaN;
    let refused = 0;
    for (const name of REFUSED) refused += recent.rate(name, 1);
    this.#figure("operations", rate(recent.rate("operations", 1)), "");
    // Means of the last second, because digits that change four times a second cannot be read.
    this.#figure("in-use", count(Math.round(recent.mean("inUse", 1))), ` of ${count(limits.max)}`, frame.stranded > 0 ? "bad" : null);
    this.#figure("waiting", count(Math.round(recent.mean("waiting", 1))), limits.queueLimit > 0 ? ` of ${count(limits.queueLimit)}` : "", frame.waiting > 0 && frame.waiting >= limits.queueLimit * 0.5 ? "warn" : null);
    this.#figure("batchSize", limits.batch ? decimal(size) : "–", limits.batch ? "" : " batching is off");
    this.#figure("wait", wait.count > 0 ? duration(wait.p99) : "–", "");
    this.#figure("refused", rate(refused), "", refused > 0 ? "bad" : null);
  }

  #figure(key, text, unit, level = null) {
    const figure = this.#figures.get(key);
    if (figure.value.data !== text) figure.value.data = text;
    setText(figure.unit, unit);
    setAttribute(figure.node, "data-level", level);
  }
}

const optional = (value) => (value === undefined ? null : count(value));

// A list of terms and values; returns a function that writes the values. A row without a value is hidden.
function list(id, rows) {
  const root = document.getElementById(id);
  const values = new Map();
  for (const [key, text] of rows) {
    const value = el("dd");
    const row = el("div", null, el("dt", null, term(key, text)), value);
    root.append(row);
    values.set(key, { row, value });
  }
  return (entries) => {
    for (const [key, { row, value }] of values) {
      setHidden(row, entries[key] === null);
      if (entries[key] !== null) setText(value, entries[key]);
    }
  };
}
