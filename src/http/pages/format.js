// Formats numbers, durations, rates and times for people.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const oneDigit = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const twoDigits = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const NONE = "–";

export function count(value) {
  return Number.isFinite(value) ? whole.format(value) : NONE;
}

// At most three significant digits up to 1,000, so that a column of figures keeps its width.
export function decimal(value) {
  if (!Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.995) return twoDigits.format(value);
  return size < 99.95 ? oneDigit.format(value) : whole.format(value);
}

export function rate(perSecond) {
  if (!Number.isFinite(perSecond)) return NONE;
  return perSecond === 0 || perSecond >= 10 ? whole.format(perSecond) : oneDigit.format(perSecond);
}

export function duration(ms) {
  if (!Number.isFinite(ms)) return NONE;
  if (ms === 0) return "0 ms";
  if (ms < 0.995) return `${twoDigits.format(ms)} ms`;
  if (ms < 9.95) return `${oneDigit.format(ms)} ms`;
  if (ms < 999.5) return `${whole.format(ms)} ms`;
  if (ms < 9950) return `${oneDigit.format(ms / 1000)} s`;
  return age(ms);
}

// A duration that grows while it is shown: no fractions below a second, because they change in every frame.
export function age(ms) {
  if (!Number.isFinite(ms)) return NONE;
  if (ms < 1000) return `${whole.format(ms)} ms`;
  if (ms < 9950) return `${oneDigit.format(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 10 && seconds % 60) return `${minutes} min ${seconds % 60} s`;
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
}

// The value of a setting: 0 has a special meaning.
export function setting(ms, zero) {
  return ms === 0 ? zero : age(ms);
}

export function percent(share) {
  return Number.isFinite(share) ? `${Math.round(share * 100)} %` : NONE;
}

export function timeOfDay(ms) {
  return clock.format(ms);
}

// The next of 1, 2, 5, 10, 20, 50, ...: the end of an axis.
export function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value) + 1e-9);
  for (const step of [1, 2, 5, 10]) if (step * power >= value * 0.9999) return step * power;
  return 10 * power;
}
