// The guided tour: one card that shows the steps, runs them, and restores the settings afterwards.
import { errorText } from "./lab-client.js";
import { duration, rate as number } from "./format.js";
import { element, setText } from "./lab-dom.js";
import { approximately, conclude, summarize } from "./tour-conclusions.js";
import { figures, ignoreMs, measure, measureOutage, recordMs } from "./tour-measure.js";
import { steps, summary } from "./tour-steps.js";

const settleMs = ignoreMs + recordMs;
// Detection and recovery take about so long in addition to the outage and the two recordings.
const outageExtraMs = 5500;

export class Tour {
  #index = -1;
  #results = {};
  #controller = null;
  #before = null;

  // `onopen(open)` is called when the tour is started or left, `onrun(running)` when a step starts or ends.
  constructor(client, { onopen, onrun }) {
    Object.assign(this, { client, onopen, onrun });
    this.failed = element("p", { role: "status", class: "lab-error" });
    this.start = element("button", { type: "button", class: "button lab-primary", disabled: true, onclick: () => this.#open() }, "Start the guided tour");
    this.invitation = element("div", { class: "lab-invitation" }, this.start,
      element("p", { class: "note" }, "Six steps, under three minutes. Each compares figures that are measured on this machine."));
    this.status = element("p", { role: "status", class: "lab-run-status" });
    this.meter = element("progress", { max: 1, value: 0, hidden: true, "aria-label": "Progress of the run" });
    this.now = element("p", { class: "note lab-now" });
    this.body = element("div");
    this.table = element("div", { class: "lab-figures" });
    // Only the conclusion is announced: a table that is read out in one go helps little.
    this.conclusion = element("p", { class: "lab-conclusion", "aria-live": "polite" });
    this.learned = element("div");
    this.outcome = element("div", { class: "lab-outcome" }, this.table, element("div", {}, this.conclusion, this.learned));
    this.title = element("h3", { tabIndex: -1 });
    this.position = element("p", { class: "lab-position" });
    this.dots = element("ol", { class: "lab-dots", "aria-hidden": "true" }, [...steps, summary].map(() => element("li")));
    this.run = element("button", { type: "button", class: "button lab-primary", onclick: () => (this.#controller ? this.#cancel() : this.#run()) }, "Run");
    this.previous = element("button", { type: "button", class: "button", onclick: () => this.#show(this.#index - 1) }, "Previous");
    this.next = element("button", { type: "button", class: "button", onclick: () => this.#show(this.#index + 1) }, "Next");
    this.exit = element("button", { type: "button", class: "button", onclick: () => this.#close() }, "Exit");
    this.action = element("div", { class: "lab-run" }, this.run, this.status, this.meter, this.now);
    this.card = element("div", { class: "lab-tour", role: "group", "aria-label": "Guided tour", hidden: true },
      element("div", { class: "lab-tour-head" }, this.position, this.dots),
      this.title, this.body, this.action, this.outcome,
      element("div", { class: "lab-tour-foot" }, this.previous, this.next, this.exit));
    this.node = element("div", {}, this.invitation, this.card, this.failed);
    this.card.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#controller) {
        event.preventDefault();
        this.#cancel();
      }
    });
    client.addEventListener("demo", () => this.#live());
    // The page is left while a step runs: other pages must not keep the settings of the tour.
    addEventListener("pagehide", () => {
      if (this.#controller) this.client.patch(this.#before, { keepalive: true }).catch(() => {});
    });
  }

  // The demo has sent its settings: the tour can be started.
  enable() {
    this.start.disabled = false;
  }

  async #open() {
    // The settings of a tour that was left just now may still be in force.
    await this.#running;
    if (!this.client.demo || !this.card.hidden) return;
    this.#before = { ...this.client.demo.settings };
    this.invitation.hidden = true;
    this.card.hidden = false;
    this.onopen(true);
    setText(this.failed, "");
    this.#show(0);
  }

  #close() {
    this.#cancel();
    this.card.hidden = true;
    this.invitation.hidden = false;
    this.#index = -1;
    this.onopen(false);
    this.start.focus();
    this.#running = this.#running.then(() => this.#restore());
  }

  #cancel() {
    this.#controller?.abort(new DOMException("cancelled", "AbortError"));
  }

  #running = Promise.resolve();

  async #restore() {
    try {
      await this.client.patch(this.#before);
    } catch (error) {
      setText(this.failed, `The settings from before the tour could not be restored: ${errorText(error)}`);
    }
  }

  async #show(index) {
    this.#cancel();
    this.#index = index;
    const step = steps[index];
    setText(this.position, step ? `Step ${index + 1} of ${steps.length}` : summary.title);
    [...this.dots.children].forEach((dot, i) => {
      dot.className = i === index ? "current" : i < index ? "past" : "";
    });
    setText(this.title, step ? step.title : "What the settings do");
    this.body.replaceChildren(element("p", {}, step ? step.text : summary.text));
    this.action.hidden = !step;
    this.previous.disabled = index === 0;
    this.next.hidden = !step;
    setText(this.next, index === steps.length - 1 ? "Summary" : "Next");
    setText(this.exit, step ? "Exit" : "Finish");
    setText(this.status, "");
    setText(this.now, "");
    this.#clear();
    if (!step) this.#summary();
    else if (this.#results[step.id]) this.#result(step);
    this.#button();
    this.title.focus({ preventScroll: true });
    this.card.scrollIntoView({ block: "nearest" });
  }

  #button() {
    const step = steps[this.#index];
    if (!step) return;
    const seconds = Math.ceil((step.outageSeconds ? step.outageSeconds * 1000 + outageExtraMs : step.variants.length * settleMs) / 1000);
    const done = Boolean(this.#results[step.id]) && !this.#controller;
    this.run.classList.toggle("lab-primary", !done);
    this.next.classList.toggle("lab-primary", done);
    setText(this.run, this.#controller ? "Cancel" : this.#results[step.id] ? `Run again (${seconds} s)` : `Run (${seconds} s)`);
  }

  #run() {
    this.#running = this.#running.then(() => this.#execute(steps[this.#index]));
  }

  async #execute(step) {
    if (!step) return;
    this.#results[step.id] = undefined;
    const { signal } = (this.#controller = new AbortController());
    this.onrun(true);
    this.#button();
    this.#clear();
    const total = step.outageSeconds ? step.outageSeconds * 1000 + outageExtraMs : step.variants.length * settleMs;
    const started = performance.now();
    const ticker = setInterval(() => {
      this.meter.value = Math.min(1, (performance.now() - started) / total);
    }, 100);
    this.meter.value = 0;
    this.meter.hidden = false;
    let message = "";
    let results = null;
    try {
      if (step.outageSeconds) {
        setText(this.status, "Recording before the outage.");
        results = await measureOutage(this.client, step.variants[0].settings, step.outageSeconds, signal, (text) => setText(this.status, text));
      } else {
        results = [];
        for (const [index, variant] of step.variants.entries()) {
          setText(this.status, `Measuring ${index + 1} of ${step.variants.length}: ${variant.label}.`);
          results.push(await measure(this.client, variant.settings, signal));
        }
      }
    } catch (error) {
      results = null;
      message = signal.aborted ? "The run was cancelled; the settings are restored." : error.problem || error.status ? errorText(error) : error.message;
    } finally {
      clearInterval(ticker);
      this.meter.hidden = true;
      setText(this.status, "Restoring the settings.");
      try {
        if (step.outageSeconds && !results) await this.client.outage(0);
        await this.client.patch(this.#before);
      } catch (error) {
        message = `The settings could not be restored: ${errorText(error)}`;
      }
      this.#controller = null;
      this.onrun(false);
    }
    if (results) this.#results[step.id] = results;
    if (steps[this.#index] !== step) return;
    setText(this.status, message);
    setText(this.now, "");
    if (results) this.#result(step);
    this.#button();
  }

  #clear() {
    this.table.replaceChildren();
    this.learned.replaceChildren();
    setText(this.conclusion, "");
  }

  // What happens now, while a step runs. Not announced: it changes four times a second.
  #live() {
    if (!this.#controller) return;
    const { load } = this.client.demo;
    const pool = this.client.pool;
    const parts = [`${number(load.perSecond)} operations per second`, `${number(load.failedPerSecond)} refused per second`];
    if (pool) parts.push(`${pool.inUse} in use`, `${pool.waiting} waiting`, `state ${pool.state}`);
    setText(this.now, `Now: ${parts.join(" · ")}`);
  }

  #result(step) {
    const results = this.#results[step.id];
    const columns = step.outageSeconds
      ? [["Before", results.before], ["During the outage", results.during], ["After", results.after]]
      : step.variants.map((variant, index) => [variant.label, results[index]]);
    const head = element("tr", {}, element("th", { scope: "col" }, "Figure"), columns.map(([label]) => element("th", { scope: "col" }, label)));
    const lines = step.figures.map((key) => element("tr", {},
      element("th", { scope: "row" }, figures[key].label),
      columns.map(([, result]) => element("td", {}, result ? figures[key].format(result[key]) : "–"))));
    const facts = step.outageSeconds && element("p", { class: "lab-facts" },
      `Reported down after ${approximately(results.detectedMs)}, up again ${approximately(results.recoveredMs)} after the end of the outage (frames arrive every 0.25 s).`);
    this.table.replaceChildren(
      element("table", { class: "lab-table" }, element("caption", {}, "Measured on this machine. p50: half of the operations take at most this long; p99: 99 % of them."), element("thead", {}, head), element("tbody", {}, lines)),
      ...(facts ? [facts] : []));
    setText(this.conclusion, conclude(step, results));
    this.learned.replaceChildren(
      element("dl", { class: "lab-terms" }, step.terms.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)])),
      element("p", {}, element("a", { href: `docs/POOL.md#${step.link[1]}` }, step.link[0])),
    );
  }

  #summary() {
    const lines = summarize(this.#results).flatMap(({ term, text, measured, step }) => {
      const position = steps.findIndex((entry) => entry.id === step) + 1;
      const figure = measured || (step ? `Not measured yet: run step ${position}.` : `Not measured: the idle timeout of this pool is ${this.#idle()}.`);
      return [element("dt", {}, term), element("dd", {}, text, element("span", { class: "note" }, figure))];
    });
    this.body.append(element("dl", { class: "lab-summary" }, lines),
      element("p", {}, element("a", { href: "docs/POOL.md#settings" }, "All settings, with what is too low and too high")));
  }

  #idle() {
    const ms = this.client.pool?.limits.idleMs;
    return ms === undefined ? "not known" : ms === 0 ? "off" : ms >= 60000 ? `${number(ms / 60000)} minutes` : duration(ms);
  }
}
