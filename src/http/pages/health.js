// The health band: the state of the database with its true cause, warnings, and the outages of the last five minutes.

import { el, setAttribute, setHidden, setText, svg } from "./dom.js";
import { age, timeOfDay } from "./format.js";
import { SECONDS } from "./series.js";
import { term } from "./terms.js";

const WORDS = { up: "Up", recovering: "Recovering", down: "Down", draining: "Draining", closed: "Closed" };
const HOST_WORDS = { untried: "not tried", up: "up", "read-only": "read-only", down: "down" };
const ICONS = { up: "✓", recovering: "↻", down: "✕", draining: "↓", closed: "■", none: "…" };
const MEANING = {
  up: "The database responds.",
  recovering: "The database responds again. Connections are being opened.",
  down: "The database does not respond.",
  draining: "Running operations finish. New ones are refused.",
  closed: "The pool is closed.",
};

// One of several hosts of the database URL.
function describeHost({ host, state, cause, connections }) {
  const used = connections ? `, ${connections} ${connections === 1 ? "connection" : "connections"}` : "";
  return `${host} ${HOST_WORDS[state] ?? state}${cause ? ` (${cause.detail})` : ""}${used}`;
}

export class Health {
  #root = document.getElementById("health");
  #announcer = document.getElementById("announcer");
  #icon = el("span", "health-icon");
  #word = term("health", "");
  #sentence = el("span", "health-sentence");
  #kind = el("code", "badge");
  #duration = el("span", "health-duration");
  #phase = el("span", "badge");
  #warnings = { shortage: this.#warning("shortage", "Shortage"), impairment: this.#warning("impairment", "Impairment") };
  #hosts = { text: el("span"), node: null };
  #spans = {};
  #outageText = el("span", "health-outage");
  #outage = null;
  #announced = "";

  constructor() {
    this.#icon.setAttribute("aria-hidden", "true");
    const line = el("p", "health-line", this.#icon, this.#word, this.#phase, this.#sentence, this.#kind, this.#duration);
    const drawing = svg("svg", { viewBox: `0 0 ${SECONDS} 10`, preserveAspectRatio: "none", class: "health-timeline", role: "img", "aria-label": "States of the last five minutes" });
    for (const state of ["up", "recovering", "draining", "closed", "down"]) {
      this.#spans[state] = svg("path", { class: `span-${state}` });
      drawing.append(this.#spans[state]);
    }
    const axis = el("p", "note health-axis", el("span", null, "−5 min"), this.#outageText, el("span", null, "now"));
    this.#hosts.node = el("p", "health-warning", term("hosts", "Hosts"), this.#hosts.text);
    this.#hosts.node.hidden = true;
    const main = el("div", "health-main", line, this.#warnings.shortage.node, this.#warnings.impairment.node, this.#hosts.node);
    this.#root.append(main, el("div", "health-past", drawing, axis));
    this.disconnected("Connecting to the service …");
  }

  #warning(name, label) {
    const kind = el("code", "badge");
    const detail = el("span");
    const duration = el("span", "health-duration");
    const mark = el("span", "health-mark", "!");
    mark.setAttribute("aria-hidden", "true");
    const node = el("p", "health-warning", mark, term(name, label), kind, detail, duration);
    node.hidden = true;
    return { node, kind, detail, duration };
  }

  // Without frames, the last known state may be outdated.
  disconnected(sentence) {
    setAttribute(this.#root, "data-state", "none");
    setText(this.#icon, ICONS.none);
    setText(this.#word, "No data");
    setText(this.#sentence, sentence);
    for (const node of [this.#kind, this.#duration, this.#phase]) setHidden(node, true);
    for (const warning of Object.values(this.#warnings)) setHidden(warning.node, true);
    setHidden(this.#hosts.node, true);
    this.#announce(`No data. ${sentence}`);
  }

  update(frame, time) {
    const { state, cause } = frame;
    const up = state === "up";
    setAttribute(this.#root, "data-state", state);
    setText(this.#icon, ICONS[state] ?? "?");
    setText(this.#word, WORDS[state] ?? state);
    setAttribute(this.#word, "data-term", state);
    setText(this.#sentence, cause ? cause.detail : (MEANING[state] ?? ""));
    setHidden(this.#kind, !cause);
    setHidden(this.#duration, !cause);
    if (cause) {
      setText(this.#kind, cause.kind);
      setText(this.#duration, `for ${age(cause.forMs)}`);
    }
    const serving = frame.phase === "serving";
    setHidden(this.#phase, serving);
    if (!serving) setText(this.#phase, `phase: ${frame.phase}`);
    for (const [name, warning] of Object.entries(this.#warnings)) {
      const value = frame[name];
      setHidden(warning.node, !value);
      if (!value) continue;
      setText(warning.kind, value.kind);
      setText(warning.detail, value.detail);
      setText(warning.duration, `for ${age(value.forMs)}`);
    }
    setHidden(this.#hosts.node, !frame.hosts);
    if (frame.hosts) setText(this.#hosts.text, frame.hosts.map(describeHost).join(" · "));
    this.#drawOutage(time);
    this.#announce(
      [
        `Database ${WORDS[state] ?? state}${cause ? `: ${cause.kind}, ${cause.detail}` : ""}.`,
        serving ? "" : `Phase ${frame.phase}.`,
        frame.shortage ? `Shortage: ${frame.shortage.kind}.` : "",
        frame.impairment ? `Impairment: ${frame.impairment.kind}.` : "",
      ].filter(Boolean).join(" "),
    );
    const title = `${up && serving ? "" : `${WORDS[state] ?? state} – `}${frame.name} – Connection pool`;
    if (document.title !== title) document.title = title;
  }

  // Screen readers hear a change, never the durations that change in each frame.
  #announce(text) {
    if (text === this.#announced) return;
    this.#announced = text;
    setText(this.#announcer, text);
  }

  // Called for every frame, also for those that are not drawn: an outage can be shorter than that.
  track({ state, cause }, time) {
    if (state !== "down") {
      if (this.#outage) this.#outage.end ??= time;
      return;
    }
    if (!this.#outage || this.#outage.end !== null) this.#outage = { start: time - (cause?.forMs ?? 0), end: null };
  }

  #drawOutage(time) {
    if (!this.#outage) return;
    const { start, end } = this.#outage;
    const length = age(Math.max(0, (end ?? time) - start));
    setText(this.#outageText, `${end === null ? "outage since" : "last outage"} ${timeOfDay(start)}${end === null ? "" : ` for ${length}`}`);
  }

  drawPast(series) {
    for (const [state, path] of Object.entries(this.#spans)) setAttribute(path, "d", series.spans(state, 10));
  }
}
