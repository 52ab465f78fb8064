// Collects the faults of the tests. A test continues after a fault, so that one run shows all of them.
import { setTimeout as sleep } from "node:timers/promises";

export const faults = [];

// A busy machine may need long for anything. Only a condition that never holds is a fault.
const LIMIT_MS = 30_000;

/** Waits until the condition returns something truthy, and returns that; otherwise the last value, after the limit. */
export async function until(condition, limit = LIMIT_MS) {
  const end = performance.now() + limit;
  for (;;) {
    const value = await condition();
    if (value || performance.now() > end) return value;
    await sleep(50);
  }
}

/** The checks of one test. A fault is a text, or a function that makes it when the check has failed. */
export class Test {
  constructor(name) {
    this.name = name;
  }

  fault(text) {
    faults.push(`${this.name}: ${text}`);
  }

  check(holds, fault) {
    if (!holds) this.fault(typeof fault === "function" ? fault() : fault);
    return holds;
  }

  async eventually(fault, condition, limit) {
    const value = await until(condition, limit);
    if (!value) this.fault(typeof fault === "function" ? await fault() : fault);
    return value;
  }

  /** Like `eventually`, for what the rest of the test needs. */
  async need(what, condition, limit) {
    const value = await until(condition, limit);
    if (!value) throw new Error(typeof what === "function" ? await what() : what);
    return value;
  }
}

/** Runs a test; an error of it is one of its faults. */
export async function run(name, body) {
  const test = new Test(name);
  try {
    await body(test);
  } catch (error) {
    // The call log of the browser driver has many lines.
    test.fault(error.message.split("\n")[0]);
  }
}
