// The frames of the last ten seconds, and the differences between their counters and histograms.

const CAPACITY = 48;
const SPAN_MS = 10_500;
// Frames arrive every 250 ms. After a longer pause a rate would average over a time that was not observed.
const GAP_MS = 2000;

export class Recent {
  #entries = [];
  // Counters of the last frame minus those of the one before it; null at the start, after a gap and after a restart.
  delta = null;

  push(frame) {
    const time = Date.parse(frame.time) || Date.now();
    const last = this.#entries.at(-1);
    if (last) {
      const restarted = frame.counters.operations < last.counters.operations || frame.counters.opened < last.counters.opened;
      if (restarted || time - last.time > GAP_MS || time <= last.time) this.#entries.length = 0;
    }
    const previous = this.#entries.at(-1);
    this.#entries.push({ time, counters: frame.counters, histograms: frame.histograms, inUse: frame.inUse, waiting: frame.waiting });
    while (this.#entries.length > CAPACITY || time - this.#entries[0].time > SPAN_MS) this.#entries.shift();
    this.delta = previous ? { seconds: (time - previous.time) / 1000, from: previous.counters, to: frame.counters } : null;
    return time;
  }

  // The frame about `seconds` before the last one, or the oldest one.
  #before(seconds) {
    const last = this.#entries.at(-1);
    const limit = last.time - seconds * 1000 - 50;
    return this.#entries.find((entry) => entry.time >= limit);
  }

  // Seconds that the differences below cover.
  span(seconds) {
    return this.#entries.length < 2 ? 0 : (this.#entries.at(-1).time - this.#before(seconds).time) / 1000;
  }

  difference(name, seconds) {
    if (this.#entries.length < 2) return NaN;
    return Math.max(0, (this.#entries.at(-1).counters[name] ?? 0) - (this.#before(seconds).counters[name] ?? 0));
  }

  rate(name, seconds) {
    return this.difference(name, seconds) / this.span(seconds);
  }

  // The mean of "inUse" or "waiting".
  mean(name, seconds) {
    const limit = this.#entries.at(-1).time - seconds * 1000 + 50;
    let sum = 0;
    let frames = 0;
    for (let i = this.#entries.length - 1; i >= 0 && this.#entries[i].time >= limit; i--, frames++) sum += this.#entries[i][name];
    return sum / frames;
  }

  // Operations per bucket in the last seconds, into an array that the caller reuses. Returns their number.
  buckets(kind, seconds, into) {
    into.fill(0);
    if (this.#entries.length < 2) return 0;
    const to = this.#entries.at(-1).histograms[kind];
    const from = this.#before(seconds).histograms[kind];
    let total = 0;
    for (let i = 0; i < to.length && i < into.length; i++) {
      into[i] = Math.max(0, to[i] - (from[i] ?? 0));
      total += into[i];
    }
    return total;
  }
}

// The value below which the given share of the operations lies, interpolated within its bucket on a log scale.
export function quantile(upperMs, buckets, total, share) {
  if (total === 0) return NaN;
  let rest = share * total;
  for (let i = 0; i < buckets.length; i++) {
    if (buckets[i] > 0 && rest <= buckets[i]) {
      const lower = i > 0 ? upperMs[i - 1] : upperMs[0] / 2 ** 0.25;
      const upper = upperMs[i] ?? lower * 2;
      return lower * (upper / lower) ** (rest / buckets[i]);
    }
    rest -= buckets[i];
  }
  return NaN;
}
