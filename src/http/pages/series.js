// The last five minutes in one-second steps, in ring buffers of fixed size.

import { quantile } from "./recent.js";

export const SECONDS = 300;
export const STATES = ["none", "up", "recovering", "draining", "closed", "down"];
const REFUSED = ["refusedBusy", "refusedDown", "refusedClosing", "timedOut"];
const FIELDS = ["frames", "seconds", "operations", "batches", "batched", "refused", "inUse", "waiting", "p99"];

export class Series {
  // One more than shown: the last second is still being filled.
  #size = SECONDS + 1;
  #columns = Object.fromEntries(FIELDS.map((name) => [name, new Float64Array(this.#size)]));
  #states = new Uint8Array(this.#size);
  #scratch = new Float64Array(128);
  // The second that is being filled, since 1970.
  second = 0;

  // Returns true if a second is complete, so that charts change once a second.
  push(frame, time, recent) {
    const second = Math.floor(time / 1000);
    const advanced = second !== this.second;
    if (second < this.second || second - this.second > SECONDS) this.#clear(second - this.#size + 1, second);
    else if (advanced) this.#clear(this.second + 1, second);
    this.second = second;
    const i = second % this.#size;
    const columns = this.#columns;
    columns.frames[i] += 1;
    columns.inUse[i] += frame.inUse;
    columns.waiting[i] += frame.waiting;
    const { delta } = recent;
    if (delta) {
      const change = (name) => Math.max(0, (delta.to[name] ?? 0) - (delta.from[name] ?? 0));
      columns.seconds[i] += delta.seconds;
      columns.operations[i] += change("operations");
      columns.batches[i] += change("batches");
      columns.batched[i] += change("batched");
      for (const name of REFUSED) columns.refused[i] += change(name);
      const total = recent.buckets("wait", 1, this.#scratch);
      columns.p99[i] = quantile(frame.histograms.upperMs, this.#scratch, total, 0.99) || 0;
    }
    // The worst state of a second counts, so that a short outage is visible.
    this.#states[i] = Math.max(this.#states[i], STATES.indexOf(frame.state));
    return advanced;
  }

  #clear(from, to) {
    for (let second = from; second <= to; second++) {
      const i = ((second % this.#size) + this.#size) % this.#size;
      for (const name of FIELDS) this.#columns[name][i] = 0;
      this.#states[i] = 0;
    }
  }

  // `index` 0 is the oldest complete second, SECONDS - 1 the latest. NaN: not observed, or no batch in this second.
  value(name, index) {
    const i = this.#index(index);
    const columns = this.#columns;
    if (columns.frames[i] === 0) return NaN;
    switch (name) {
      case "inUse":
      case "waiting":
        return columns[name][i] / columns.frames[i];
      case "batchSize":
        return columns.batches[i] > 0 ? columns.batched[i] / columns.batches[i] : NaN;
      case "p99":
        return columns.seconds[i] > 0 ? columns.p99[i] : NaN;
      default:
        return columns.seconds[i] > 0 ? columns[name][i] / columns.seconds[i] : NaN;
    }
  }

  state(index) {
    return STATES[this.#states[this.#index(index)]];
  }

  // Milliseconds since 1970.
  time(index) {
    return (this.second - SECONDS + index) * 1000;
  }

  #index(index) {
    return (this.second - SECONDS + index) % this.#size;
  }

  // Rectangles of the seconds in this state, as the path of a drawing that is SECONDS wide.
  spans(state, height) {
    let path = "";
    for (let index = 0, start = -1; index <= SECONDS; index++) {
      const inside = index < SECONDS && this.state(index) === state;
      if (inside && start < 0) start = index;
      if (!inside && start >= 0) {
        path += `M${start} 0H${index}V${height}H${start}Z`;
        start = -1;
      }
    }
    return path;
  }
}
