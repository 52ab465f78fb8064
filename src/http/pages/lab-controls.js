// The controls of the lab: each shows a setting of the server and reports the user's changes.
import { element } from "./lab-dom.js";

// All controls, by group. `kind` is "number" unless given.
export const groups = [
  {
    title: "Settings of the pool",
    controls: [
      { field: "max", label: "max", hint: "Maximum number of connections. With batching, few are enough: turn it off to see the effect. mysql2: connectionLimit. Sequelize: max." },
      { field: "min", label: "min", hint: "Connections that stay open when idle; at most max. Sequelize: min." },
      { field: "queueLimit", label: "Queue limit", hint: "Maximum number of waiting operations; 0: unlimited. mysql2: queueLimit." },
      { field: "acquireMs", label: "Acquire timeout", unit: "ms", hint: "Longest wait for a connection. Sequelize: acquire." },
      { field: "batch", label: "Batching", kind: "switch", hint: "Concurrent operations of the same kind share statements." },
      { field: "connectionPerRequest", label: "A connection per request", kind: "switch", hint: "Every operation opens a connection and closes it afterwards, as code without a pool does." },
    ],
  },
  {
    title: "Load and database",
    controls: [
      { field: "clients", label: "Clients", simulated: true, hint: "Each runs one operation at a time, and pauses 5 ms after it. A refused client pauses longer." },
      { field: "writePercent", label: "Share of writes", unit: "%", hint: "The other operations are reads." },
      { field: "latencyMs", label: "Latency", unit: "ms", simulated: true, hint: "Of the database: the pool waits this long before each round trip." },
    ],
  },
];

// After a change, frames that the server sent before it may still arrive: they must not reset the control.
const holdMs = 1500;
const typingMs = 500;

// Values for a slider: fine steps for small values, coarse ones for large values.
function stopsOf(low, high) {
  if (high - low <= 100) return Array.from({ length: high - low + 1 }, (_, i) => low + i);
  const stops = new Set([low, high]);
  for (let power = 1; power <= high; power *= 10) {
    for (const digit of power === 1 ? [1, 2, 3, 4, 5, 6, 7, 8, 9] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]) stops.add(digit * power);
  }
  return [...stops].filter((stop) => stop >= low && stop <= high).sort((a, b) => a - b);
}

class Control extends EventTarget {
  value = undefined;
  heldUntil = 0;
  pending = false;

  constructor(spec) {
    super();
    this.spec = spec;
    const id = `lab-${spec.field}`;
    this.id = id;
    this.error = element("p", { id: `${id}-error`, class: "lab-error", hidden: true });
    this.hint = element("p", { id: `${id}-hint`, class: "note" }, spec.hint);
    this.label = element("label", { id: `${id}-label`, for: id }, spec.unit ? `${spec.label} (${spec.unit})` : spec.label);
    this.heading = element("div", { class: "lab-label" }, this.label, spec.simulated && element("span", { class: "badge" }, "simulated"));
  }

  get inputs() {
    return this.number ? [this.number, this.range] : [this.checkbox];
  }

  // Shows the server's value, unless the user is changing this control.
  sync(value) {
    this.value = value;
    if (!this.pending && performance.now() >= this.heldUntil && !this.typing) this.show(value);
  }

  changed(value) {
    this.pending = true;
    this.heldUntil = performance.now() + holdMs;
    this.fail("");
    this.dispatchEvent(new CustomEvent("change", { detail: value }));
  }

  // The request for the last change has ended.
  settled() {
    this.pending = false;
    this.heldUntil = performance.now() + 600;
  }

  fail(message) {
    this.error.textContent = message;
    this.error.hidden = !message;
    for (const input of this.inputs) {
      if (message) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
      input.setAttribute("aria-describedby", message ? `${this.id}-error ${this.id}-hint` : `${this.id}-hint`);
    }
  }
}

class NumberControl extends Control {
  typing = false;

  constructor(spec) {
    super(spec);
    this.number = element("input", {
      id: this.id, type: "number", step: "1", inputMode: "numeric",
      oninput: () => this.#typed(typingMs),
      onchange: () => this.#typed(0),
      onblur: () => {
        this.typing = false;
        this.sync(this.value);
      },
    });
    this.range = element("input", {
      type: "range", min: "0", step: "1", "aria-labelledby": `${this.id}-label`,
      oninput: () => {
        const value = this.stops[Number(this.range.value)];
        this.typing = false;
        this.show(value);
        this.changed(value);
      },
    });
    this.node = element("div", { class: "lab-control" }, this.heading, element("div", { class: "lab-inputs" }, this.range, this.number), this.error, this.hint);
    this.fail("");
    this.allow(0, 100);
  }

  allow(low, high) {
    if (this.low === low && this.high === high) return;
    Object.assign(this, { low, high, stops: stopsOf(low, high) });
    this.number.min = String(low);
    this.number.max = String(high);
    this.range.max = String(this.stops.length - 1);
    if (this.value !== undefined) this.show(this.value);
  }

  show(value) {
    if (this.number.value !== String(value)) this.number.value = String(value);
    const index = this.stops.findLastIndex((stop) => stop <= value);
    this.range.value = String(Math.max(0, index));
    this.range.setAttribute("aria-valuetext", this.spec.unit ? `${value} ${this.spec.unit}` : String(value));
  }

  #typed(delay) {
    clearTimeout(this.timer);
    this.typing = true;
    this.timer = setTimeout(() => {
      const value = this.number.valueAsNumber;
      if (!Number.isInteger(value) || value < this.low || value > this.high) {
        this.fail(`must be a whole number from ${this.low} to ${this.high}`);
        return;
      }
      this.fail("");
      this.typing = false;
      if (value === this.value && !this.pending) return;
      this.show(value);
      this.changed(value);
    }, delay);
  }
}

class SwitchControl extends Control {
  constructor(spec) {
    super(spec);
    this.checkbox = element("input", { id: this.id, type: "checkbox", role: "switch", onchange: () => this.changed(this.checkbox.checked) });
    this.heading.prepend(this.checkbox);
    this.node = element("div", { class: "lab-control" }, this.heading, this.error, this.hint);
    this.fail("");
  }

  show(value) {
    this.checkbox.checked = value;
  }
}

// All controls of the lab. Sends changes with `send(settings)`, debounced; the latest value of each setting wins.
export class Controls extends EventTarget {
  controls = new Map();
  #waiting = {};
  #sending = false;
  #timer;
  // min is to be sent only because max is lowered below it.
  #minFollows = false;

  constructor(send) {
    super();
    this.send = send;
    this.fieldsets = groups.map((group) => {
      const items = group.controls.map((spec) => {
        const control = spec.kind === "switch" ? new SwitchControl(spec) : new NumberControl(spec);
        control.addEventListener("change", (event) => this.#change(control, event.detail));
        this.controls.set(spec.field, control);
        return control.node;
      });
      return element("fieldset", { class: "lab-group" }, element("legend", {}, group.title), element("div", { class: "lab-grid" }, items));
    });
  }

  // Shows the settings of a document of the demo.
  sync(document) {
    this.settings = document.settings;
    for (const [field, control] of this.controls) {
      const range = document.allowed?.[field];
      if (range) control.allow?.(...range);
      control.sync(document.settings[field]);
    }
  }

  set disabled(disabled) {
    for (const fieldset of this.fieldsets) fieldset.disabled = disabled;
  }

  get busy() {
    return this.#sending || Object.keys(this.#waiting).length > 0;
  }

  clearErrors() {
    for (const control of this.controls.values()) {
      control.fail("");
      control.heldUntil = 0;
    }
  }

  #change(control, value) {
    const { field } = control.spec;
    // Any change can make an earlier error pointless, for example a higher max.
    for (const other of this.controls.values()) if (other !== control) other.fail("");
    this.#waiting[field] = value;
    if (field === "min") this.#minFollows = false;
    // The server refuses min > max. Lowering max takes min with it, so that max can be lowered in one step.
    if (field === "max" && this.settings && value < this.settings.min) {
      this.#waiting.min = value;
      this.#minFollows = true;
    } else if (field === "max" && this.#minFollows) {
      delete this.#waiting.min;
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#flush(), 150);
  }

  async #flush() {
    if (this.#sending) return;
    const settings = this.#waiting;
    const fields = Object.keys(settings);
    if (!fields.length) return;
    this.#waiting = {};
    this.#minFollows = false;
    this.#sending = true;
    this.dispatchEvent(new CustomEvent("send", { detail: settings }));
    try {
      await this.send(settings);
    } catch (error) {
      const refused = error.problem?.errors?.map((entry) => entry.pointer?.slice(1)) ?? [];
      const known = refused.filter((field) => fields.includes(field));
      for (const field of known.length ? known : fields) {
        // A newer value of the same field is about to be sent: its answer counts.
        if (!(field in this.#waiting)) this.dispatchEvent(new CustomEvent("refused", { detail: { control: this.controls.get(field), error } }));
      }
      if (known.length) {
        for (const field of fields) if (!known.includes(field) && !(field in this.#waiting)) this.#waiting[field] = settings[field];
      }
    } finally {
      this.#sending = false;
      for (const field of fields) if (!(field in this.#waiting)) this.controls.get(field).settled();
    }
    this.#flush();
  }
}
