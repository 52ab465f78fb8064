// Histograms of wait time and use time of the last ten seconds, on a log scale.

import { el, setScale, setText } from "./dom.js";
import { count, duration } from "./format.js";
import { quantile } from "./recent.js";
import { term } from "./terms.js";

const SECONDS = 10;
// Bars: one for each factor of 2, from 16 µs (and less) to 16.8 s, and one for what is longer.
const FIRST_MS = 0.016;
const BARS = 22;
// The bars after which the axis has a label.
const TICKS = [[0, "16 µs"], [6, "1 ms"], [10, "16 ms"], [14, "0.26 s"], [18, "4.2 s"]];

export class Histogram {
  #kind;
  #buckets = new Float64Array(128);
  #sums = new Float64Array(BARS);
  #fills = [];
  #markers = {};
  #values = {};
  #summary;
  #label;
  #drawing;

  constructor(kind, root) {
    this.#kind = kind;
    this.#summary = root.querySelector("[data-part=summary]");
    const figures = el("dl", "pair");
    for (const [name, text] of [["p50", "p50"], ["p99", "p99"]]) {
      this.#values[name] = el("dd", null, "–");
      figures.append(el("div", null, el("dt", null, term(name, text)), this.#values[name]));
    }
    const bars = el("div", "bars");
    for (let i = 0; i < BARS; i++) {
      const fill = el("span", "bars-fill");
      bars.append(el("span", "bars-slot", fill));
      this.#fills.push(fill);
    }
    for (const name of ["p50", "p99"]) {
      const marker = el("span", `marker marker-${name}`, el("span", "marker-label", name));
      bars.append(marker);
      marker.hidden = true;
      this.#markers[name] = marker;
    }
    const axis = el("div", "axis");
    for (const [bar, text] of TICKS) {
      const tick = el("span", "tick", text);
      tick.style.left = `${((bar + 1) * 100) / BARS}%`;
      axis.append(tick);
    }
    this.#drawing = el("div", "histogram", bars, axis);
    this.#drawing.setAttribute("aria-hidden", "true");
    root.append(figures, this.#drawing);
  }

  update(frame, recent) {
    const { upperMs } = frame.histograms;
    const total = recent.buckets(this.#kind, SECONDS, this.#buckets);
    this.#sums.fill(0);
    for (let i = 0; i < upperMs.length; i++) if (this.#buckets[i] > 0) this.#sums[bar(upperMs[i])] += this.#buckets[i];
    let top = 0;
    for (const sum of this.#sums) top = Math.max(top, sum);
    for (let i = 0; i < BARS; i++) {
      const share = top > 0 ? this.#sums[i] / top : 0;
      // A rare bucket is visible too: the slow operations are in it.
      setScale(this.#fills[i], "Y", share > 0 ? Math.max(0.02, share) : 0);
    }
    const seconds = Math.round(recent.span(SECONDS));
    setText(this.#summary, `${count(total)} operations in ${seconds} s`);
    for (const [name, share] of [["p50", 0.5], ["p99", 0.99]]) {
      const value = quantile(upperMs, this.#buckets, total, share);
      setText(this.#values[name], duration(value));
      const marker = this.#markers[name];
      if (marker.hidden !== Number.isNaN(value)) marker.hidden = Number.isNaN(value);
      if (Number.isNaN(value)) continue;
      const at = Math.min(1, Math.max(0, (Math.log2(value / FIRST_MS) + 1) / BARS));
      const left = `${(Math.round(at * 500) / 5).toFixed(1)}%`;
      if (marker.style.left !== left) marker.style.left = left;
    }
  }
}

// The bounds are rounded, hence the small tolerance.
function bar(upper) {
  return upper === null ? BARS - 1 : Math.max(0, Math.min(BARS - 1, Math.ceil(Math.log2(upper / FIRST_MS) - 0.02)));
}
