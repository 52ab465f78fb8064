// The table that compares the figures before a change with those of now.
import { duration, rate as number } from "./format.js";
import { element, setText, times } from "./lab-dom.js";

const rows = [
  { key: "perSecond", label: "Operations per second", format: number, better: "more" },
  { key: "failedPerSecond", label: "Failed per second", format: number, better: "less" },
  { key: "p50Ms", label: "Latency, p50", format: duration, better: "less" },
  { key: "p99Ms", label: "Latency, p99", format: duration, better: "less" },
];

const beforeMs = 2000;
// `load` covers the last second, so figures of only the new settings are complete one second after the change.
const settleMs = 1250;

// What changed between two figures: the text, and whether it is better.
export function difference(before, now, better) {
  if (!Number.isFinite(before) || !Number.isFinite(now)) return { text: "–", verdict: "" };
  const low = 0.005;
  if (before < low && now < low) return { text: "same", verdict: "" };
  const higher = now > before;
  const verdict = higher === (better === "more") ? "better" : "worse";
  if (before < low) return { text: "▲ from 0", verdict };
  if (now < low) return { text: "▼ to 0", verdict };
  const factor = now / before;
  if (factor > 0.95 && factor < 1.05) return { text: "same", verdict: "" };
  return { text: `${higher ? "▲ ×" : "▼ ÷"} ${times(factor)}`, verdict };
}

// Percentiles of no operation are not zero: they do not exist.
export function loadFigures(load) {
  const some = load.perSecond > 0;
  return { perSecond: load.perSecond, failedPerSecond: load.failedPerSecond, p50Ms: some ? load.p50Ms : NaN, p99Ms: some ? load.p99Ms : NaN };
}

// The mean of each figure over several samples, ignoring samples without it.
export function meanFigures(samples) {
  const result = {};
  for (const { key } of rows) {
    const values = samples.map((sample) => sample[key]).filter(Number.isFinite);
    result[key] = values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : NaN;
  }
  return result;
}

export class Comparison {
  #history = [];
  #before = null;
  #key = "";
  #markedAt = 0;
  #announced = true;

  constructor() {
    this.title = element("p", { class: "lab-change" }, "Change a setting: its effect appears here within two seconds.");
    this.state = element("p", { class: "note" });
    this.live = element("p", { class: "visually-hidden", role: "status" });
    const head = ["Figure", "Before", "Now", "Difference"].map((text) => element("th", { scope: "col" }, text));
    this.cells = rows.map((row) => {
      const cells = { before: element("td", {}, "–"), now: element("td", {}, "–"), change: element("td", {}, "–") };
      cells.row = element("tr", {}, element("th", { scope: "row" }, row.label), cells.before, cells.now, cells.change);
      return cells;
    });
    const caption = element("caption", { class: "visually-hidden" }, "Figures before the last change and now");
    const table = element("table", { class: "lab-table" }, caption, element("thead", {}, element("tr", {}, head)), element("tbody", {}, this.cells.map((cells) => cells.row)));
    this.node = element("div", { class: "lab-comparison" }, this.title, table, this.state,
      element("p", { class: "note lab-percentiles" }, "p50: half of the operations take at most this long; p99: 99 % of them."), this.live);
  }

  // Shows the load of a document of the demo.
  frame(load) {
    const now = performance.now();
    const figures = loadFigures(load);
    this.#history.push({ at: now, ...figures });
    while (this.#history[0].at < now - 5000) this.#history.shift();
    const settled = now - this.#markedAt >= settleMs;
    rows.forEach((row, index) => {
      const cells = this.cells[index];
      setText(cells.now, row.format(figures[row.key]));
      if (!this.#before) return;
      const { text, verdict } = difference(this.#before[row.key], figures[row.key], row.better);
      setText(cells.change, settled ? text : "…");
      cells.change.className = settled ? verdict : "";
    });
    if (!this.#before) return;
    setText(this.state, settled ? "Before: mean of the 2 s before the change. Now: the last second." : "Measuring …");
    if (settled && !this.#announced) {
      this.#announced = true;
      this.live.textContent = `${this.title.textContent}: ${rows.map((row, i) => `${row.label} ${this.cells[i].before.textContent}, now ${this.cells[i].now.textContent}`).join("; ")}.`;
    }
  }

  // Takes the figures before a change. Moving the same control again within 3 s is the same change.
  mark(key, text) {
    const now = performance.now();
    const same = key === this.#key && now - this.#markedAt < 3000;
    if (!same) {
      const samples = this.#history.filter((sample) => sample.at >= now - beforeMs);
      this.#before = meanFigures(samples);
      rows.forEach((row, index) => setText(this.cells[index].before, row.format(this.#before[row.key])));
    }
    this.#key = key;
    this.#markedAt = now;
    this.#announced = false;
    setText(this.title, text);
  }

  // Forgets the last change, for example while the tour changes the settings.
  clear(text) {
    this.#before = null;
    this.#key = "";
    this.#announced = true;
    setText(this.title, text);
    setText(this.state, "");
    for (const cells of this.cells) {
      setText(cells.before, "–");
      setText(cells.change, "–");
      cells.change.className = "";
    }
  }
}
