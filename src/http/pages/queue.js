// The queue: waiting operations that move towards the connections, its limit, and the operations that are refused.

import { el, setAttribute, setHidden, setScale, setText } from "./dom.js";
import { age, count, niceCeiling, rate } from "./format.js";
import { term } from "./terms.js";

const MARKS = 30;
const WAITERS = 3;
const REASONS = [
  ["refusedBusy", "busy"],
  ["timedOut", "timed out"],
  ["refusedDown", "down"],
  ["refusedClosing", "closing"],
];

export class Queue {
  #summary = document.getElementById("queue-summary");
  #lane = document.getElementById("lane-marks");
  #post = document.getElementById("lane-limit");
  #scale = document.getElementById("lane-scale");
  #fill = document.getElementById("queue-fill");
  #limit = document.getElementById("queue-limit");
  #marks = [];
  #waiters = [];
  #reasons = new Map();
  #motion = null;
  #shown = 0;
  #peak = 0;

  constructor() {
    for (let i = 0; i < MARKS; i++) {
      const mark = el("span", "lane-mark");
      this.#lane.append(mark);
      this.#marks.push(mark);
    }
    // One endless animation moves the marks by one pitch. Only its speed changes, so nothing jumps.
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.#motion = this.#lane.animate([{ transform: "translateX(0)" }, { transform: `translateX(${100 / MARKS}%)` }], { duration: 1000, iterations: Infinity });
      this.#motion.pause();
    }
    const waiters = document.getElementById("waiters");
    for (let i = 0; i < WAITERS; i++) {
      const row = el("tr", null, el("td"), el("td", "note request"), el("td", "number"));
      waiters.append(row);
      this.#waiters.push(row.children);
    }
    const refusals = document.getElementById("refusals");
    for (const [name, text] of REASONS) {
      const perSecond = el("td", "number");
      const total = el("td", "number note");
      const bar = el("span", "bar-fill");
      const head = el("th", null, term(name, text));
      head.scope = "row";
      const track = el("td", "bar-cell", el("span", "bar", bar));
      const row = el("tr", null, head, track, perSecond, total);
      refusals.append(row);
      this.#reasons.set(name, { row, bar, perSecond, total });
    }
  }

  update(frame, recent) {
    const { waiting, limits } = frame;
    this.#drawLane(waiting, limits, recent);
    // The same mean as the figure at the top of the page.
    setText(this.#summary, `${count(Math.round(recent.mean("waiting", 1)))} waiting`);
    const unlimited = limits.queueLimit === 0;
    setText(this.#limit, !limits.wait ? "pool.wait is off: no operation waits" : unlimited ? "unlimited" : count(limits.queueLimit));
    const share = unlimited || limits.queueLimit < 1 ? 0 : waiting / limits.queueLimit;
    setScale(this.#fill, "X", waiting > 0 && !unlimited ? Math.max(0.01, share) : 0);
    setAttribute(this.#fill, "data-level", share >= 0.9 ? "bad" : share >= 0.5 ? "warn" : "ok");
    this.#drawRefusals(frame, recent);
  }

  drawWaiters(frame) {
    for (let i = 0; i < WAITERS; i++) {
      const waiter = frame.waiting > 0 ? frame.longestWaiters[i] : undefined;
      const [operation, request, time] = this.#waiters[i];
      setText(operation, waiter?.operation ?? (i === 0 ? "no operation waits" : "\u00a0"));
      setText(request, waiter?.request ?? "");
      setAttribute(operation.parentNode, "data-empty", waiter ? null : "true");
      setText(time, waiter ? age(waiter.forMs) : "");
    }
  }

  #drawLane(waiting, limits, recent) {
    // The scale follows a slowly falling peak, so that it does not change with each frame.
    this.#peak = Math.max(waiting, this.#peak * 0.98);
    const per = this.#peak <= MARKS ? 1 : niceCeiling(this.#peak / MARKS);
    const marks = Math.min(MARKS, Math.ceil(waiting / per));
    if (marks !== this.#shown) {
      const [from, to] = marks > this.#shown ? [this.#shown, marks] : [marks, this.#shown];
      for (let i = from; i < to; i++) this.#marks[i].classList.toggle("waits", marks > this.#shown);
      this.#shown = marks;
      setAttribute(this.#lane.parentNode, "data-filled", marks > 0 ? "true" : null);
    }
    setText(this.#scale, per === 1 ? "A mark is one operation." : `A mark is ${count(per)} operations.`);
    const limit = limits.queueLimit / per;
    const visible = limits.queueLimit > 0 && limit < MARKS;
    setHidden(this.#post, !visible);
    if (visible) {
      const right = `${(limit * 100) / MARKS}%`;
      if (this.#post.style.right !== right) this.#post.style.right = right;
    }
    if (!this.#motion) return;
    const served = recent.rate("operations", 1) || 0;
    const speed = marks > 0 ? Math.min(4, served / per) : 0;
    if (speed > 0.05) {
      // Steps, because each change of the rate restarts the timing in the compositor.
      const step = Math.max(0.25, Math.round(speed * 2) / 2);
      if (this.#motion.playbackRate !== step) this.#motion.updatePlaybackRate(step);
      if (this.#motion.playState !== "running") this.#motion.play();
    } else if (this.#motion.playState === "running") this.#motion.pause();
  }

  #drawRefusals(frame, recent) {
    let sum = 0;
    for (const [name] of REASONS) sum += recent.rate(name, 1) || 0;
    for (const [name, { row, bar, perSecond, total }] of this.#reasons) {
      const value = recent.rate(name, 1);
      setText(perSecond, `${rate(value)} /s`);
      setText(total, count(frame.counters[name]));
      setScale(bar, "X", sum > 0 ? value / sum : 0);
      setAttribute(row, "data-active", value > 0 ? "true" : null);
    }
  }
}
