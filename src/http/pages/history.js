// Charts of the last five minutes with a common time axis; outages are shaded.

import { el, setAttribute, setText, svg } from "./dom.js";
import { count, decimal, duration, niceCeiling, rate, timeOfDay } from "./format.js";
import { SECONDS } from "./series.js";
import { term } from "./terms.js";

const HEIGHT = 60;
// Name in the series, term, title, format, and the smallest end of the axis.
const CHARTS = [
  ["operations", "operations", "Operations per second", rate, 1],
  ["inUse", "in-use", "Connections in use", decimal, 1],
  ["waiting", "waiting", "Waiting operations", decimal, 1],
  ["batchSize", "batchSize", "Mean batch size", decimal, 2],
  ["p99", "wait", "Wait time, p99", duration, 1],
  ["refused", "refused", "Refused per second", rate, 1],
];

// The end of an axis is a round number: "20.0" is written "20".
const shortened = (text) => text.replace(/\.0(?=\D|$)/, "");

const SPANS = [60, 120, SECONDS];
const AXES = { 60: ["−1 min", "−30 s"], 120: ["−2 min", "−1 min"], [SECONDS]: ["−5 min", "−2.5 min"] };

export class History {
  #root = document.getElementById("charts");
  #range = document.getElementById("history-time");
  #when = document.getElementById("history-when");
  #charts = [];
  #series = null;
  #max = 0;
  #hover = -1;
  // Seconds that are visible: fewer while the page has observed less, so that the charts are not almost empty.
  #span = SPANS[0];

  constructor() {
    for (const [name, key, title, format, least] of CHARTS) {
      const value = el("strong", "chart-value", "–");
      const top = el("span", "chart-top note");
      const down = svg("path", { class: "span-down" });
      const recovering = svg("path", { class: "span-recovering" });
      const limit = svg("path", { class: "chart-limit" });
      const area = svg("path", { class: "chart-area" });
      const line = svg("path", { class: "chart-line" });
      const cursor = svg("path", { class: "chart-cursor" });
      const grid = svg("path", { class: "chart-grid" });
      const drawing = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, grid, down, recovering, area, line, limit, cursor);
      const head = el("div", "chart-head", term(key, title), value);
      const plot = el("div", "chart-plot", drawing, top);
      const ends = [el("span"), el("span")];
      const axis = el("div", "chart-axis note", ...ends, el("span", null, "now"));
      axis.setAttribute("aria-hidden", "true");
      this.#root.append(el("div", `chart chart-${name}`, head, plot, axis));
      this.#charts.push({ name, format, least, value, top, down, recovering, limit, area, line, cursor, drawing, grid, ends });
    }
    this.#zoom(SPANS[0]);
    this.#range.addEventListener("input", () => this.#select(SECONDS - 1 + Number(this.#range.value)));
    this.#root.addEventListener("pointermove", (event) => {
      const plot = event.target instanceof Element ? event.target.closest(".chart-plot") : null;
      if (!plot || event.pointerType === "touch") return;
      const box = plot.getBoundingClientRect();
      this.#select(Math.max(0, Math.min(SECONDS - 1, SECONDS - this.#span + Math.floor(((event.clientX - box.left) / box.width) * this.#span))));
    });
    this.#root.addEventListener("pointerleave", () => this.#select(SECONDS - 1));
  }

  #zoom(span) {
    this.#span = span;
    const start = SECONDS - span;
    const lines = [1, 2, 3, 4].map((part) => `M${start + (part * span) / 5} 0V${HEIGHT}`).join("");
    for (const { drawing, grid, ends } of this.#charts) {
      setAttribute(drawing, "viewBox", `${start} 0 ${span} ${HEIGHT}`);
      setAttribute(grid, "d", `${lines}M${start} ${HEIGHT / 2}H${SECONDS}`);
      for (let i = 0; i < ends.length; i++) setText(ends[i], AXES[span][i]);
    }
    this.#range.min = String(1 - span);
  }

  // The last second is not a selection: the values follow the stream.
  #select(index) {
    this.#hover = index >= SECONDS - 1 ? -1 : index;
    this.#range.value = String(index - SECONDS + 1);
    this.#values();
  }

  #values() {
    if (!this.#series) return;
    const index = this.#hover < 0 ? SECONDS - 1 : this.#hover;
    const back = SECONDS - 1 - index;
    const when = this.#hover < 0 ? "now" : `${timeOfDay(this.#series.time(index))}, ${back} s ago`;
    setText(this.#when, when);
    setAttribute(this.#range, "aria-valuetext", when);
    for (const chart of this.#charts) {
      setText(chart.value, chart.format(this.#series.value(chart.name, index)));
      setAttribute(chart.cursor, "d", this.#hover < 0 ? "" : `M${index + 0.5} 0V${HEIGHT}`);
    }
  }

  // Called once a second.
  draw(series, frame) {
    this.#series = series;
    this.#max = frame.limits.max;
    let first = 0;
    while (first < SECONDS - 1 && Number.isNaN(series.value("inUse", first))) first++;
    const span = SPANS.find((one) => one >= SECONDS - first) ?? SECONDS;
    if (span !== this.#span) this.#zoom(span);
    const down = series.spans("down", HEIGHT);
    const recovering = series.spans("recovering", HEIGHT);
    for (const chart of this.#charts) {
      setAttribute(chart.down, "d", down);
      setAttribute(chart.recovering, "d", recovering);
      this.#plot(chart, series);
    }
    this.#values();
  }

  #plot(chart, series) {
    let top = chart.least;
    for (let i = 0; i < SECONDS; i++) {
      const value = series.value(chart.name, i);
      if (value > top) top = value;
    }
    const end = chart.name === "inUse" ? Math.max(this.#max, top) : niceCeiling(top);
    const y = (value) => (HEIGHT - 1 - (value / end) * (HEIGHT - 3)).toFixed(1);
    let line = "";
    let area = "";
    let start = -1;
    // Seconds that were not observed interrupt the line.
    for (let i = 0; i <= SECONDS; i++) {
      const value = i < SECONDS ? series.value(chart.name, i) : NaN;
      if (Number.isNaN(value)) {
        if (start >= 0) {
          area += `L${i - 0.5} ${HEIGHT}L${start + 0.5} ${HEIGHT}Z`;
          if (i - start === 1) line += "h0.1";
        }
        start = -1;
        continue;
      }
      const point = `${i + 0.5} ${y(value)}`;
      line += `${start < 0 ? "M" : "L"}${point}`;
      area += `${start < 0 ? "M" : "L"}${point}`;
      if (start < 0) start = i;
    }
    setAttribute(chart.line, "d", line);
    setAttribute(chart.area, "d", area);
    setAttribute(chart.limit, "d", chart.name === "inUse" ? `M0 ${y(this.#max)}H${SECONDS}` : "");
    setText(chart.top, chart.name === "inUse" ? `max ${count(this.#max)}` : shortened(chart.format(end)));
  }
}
