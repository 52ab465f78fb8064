// The connections: a cell for each place below pool.max, in which a connection stays as long as it is open.

import { el, setAttribute, setHidden, setScale, setText } from "./dom.js";
import { age, count, percent } from "./format.js";
import { term } from "./terms.js";

const CELLS = 200;
const HOLDERS = 5;
// A frame shows 1 instant of 250 ms. Operations are often shorter than that, so a cell shows recent use, not the instant.
const MEMORY = 1 - Math.exp(-0.25 / 1);
const STEADY_MS = 250;
const RECENT_MS = 1000;
const GLYPHS = { free: "", idle: "○", "in-use": "●", opening: "+", closing: "×", validating: "?", stranded: "!" };
const LEGEND = [
  ["in-use", "in use", "inUse"],
  ["idle", "idle", "idle"],
  ["opening", "opening", "opening"],
  ["validating", "validating", "validating"],
  ["closing", "closing", "closing"],
  ["stranded", "stranded", "stranded"],
  ["free", "free", "free"],
];

export class Connections {
  #grid = document.getElementById("cells");
  #summary = document.getElementById("connections-summary");
  #note = document.getElementById("connections-note");
  #cells = [];
  // What each place holds: the id of a connection, or 0. `passing` is a count without an id: opening, closing, validating.
  #slots = [];
  #slotOf = new Map();
  #seen = new Set();
  #legend = new Map();
  #holders = [];
  #recent = [];

  constructor() {
    const legend = document.getElementById("connections-legend");
    for (const [state, text] of LEGEND) {
      const mark = el("span", "mark", GLYPHS[state]);
      mark.dataset.state = state;
      mark.setAttribute("aria-hidden", "true");
      const value = el("strong", null, "0");
      const item = el("li", null, mark, term(state, text), value);
      legend.append(item);
      this.#legend.set(state, { item, value });
    }
    const table = document.getElementById("holders");
    for (let i = 0; i < HOLDERS; i++) table.append(this.#row());
  }

  #row() {
    const row = el("tr", null, el("td"), el("td", "note request"), el("td", "number"));
    this.#holders.push(row.children);
    return row;
  }

  update(frame) {
    const { max } = frame.limits;
    const aggregate = max > CELLS;
    if (aggregate) this.#drawAggregate(frame, max);
    else this.#drawCells(frame, max);
    setAttribute(this.#grid, "data-size", max <= 24 ? "large" : max <= 60 ? "medium" : "small");
    const columns = String(columnsFor(max));
    if (this.#grid.dataset.columns !== columns) {
      this.#grid.dataset.columns = columns;
      this.#grid.style.setProperty("--columns", columns);
    }
    this.#drawLegend(frame, max);
    setText(this.#summary, `${count(frame.total)} of ${count(max)} open`);
  }

  drawHolders(frame) {
    for (let i = 0; i < HOLDERS; i++) {
      const holder = frame.longestHolders[i];
      const [operation, request, time] = this.#holders[i];
      setText(operation, holder?.operation ?? (i === 0 && frame.inUse === 0 ? "no connection is in use" : "\u00a0"));
      setText(request, holder?.request ?? "");
      setAttribute(operation.parentNode, "data-empty", holder ? null : "true");
      setText(time, holder ? age(holder.forMs) : "");
    }
  }

  // Numbers that change four times a second cannot be read: means of the last second for lasting states,
  // and the maximum of the last second for states that are shorter than that.
  #drawLegend(frame, max) {
    const free = Math.max(0, max - frame.total - frame.opening);
    this.#recent.push({ ...frame, free, connections: null, histograms: null });
    if (this.#recent.length > 4) this.#recent.shift();
    for (const [state, , member] of LEGEND) {
      let sum = 0;
      let top = 0;
      for (const one of this.#recent) {
        sum += one[member];
        top = Math.max(top, one[member]);
      }
      const lasting = state === "in-use" || state === "idle" || state === "free";
      const { item, value } = this.#legend.get(state);
      setText(value, count(lasting ? Math.round(sum / this.#recent.length) : top));
      setAttribute(item, "data-alarm", state === "stranded" && top > 0 ? "true" : null);
      setAttribute(item, "data-empty", top === 0 ? "true" : null);
    }
  }

  #resize(length) {
    while (this.#cells.length < length) {
      const fill = el("span", "cell-fill");
      const glyph = el("span", "cell-glyph");
      const name = el("span", "cell-name");
      const meta = el("span", "cell-meta");
      const id = el("span", "cell-id");
      const node = el("div", "cell", fill, glyph, name, meta, id);
      this.#grid.append(node);
      this.#cells.push({ node, fill, glyph, name, meta, id });
    }
    // Surplus cells are hidden, not removed: a reload may need them again.
    for (let i = 0; i < this.#cells.length; i++) setHidden(this.#cells[i].node, i >= length);
  }

  #drawCells(frame, max) {
    setText(this.#note, "The fill of a cell is the share of the last two seconds in which its connection was in use.");
    const slots = this.#slots;
    this.#seen.clear();
    for (const connection of frame.connections) this.#seen.add(connection.id);
    for (const [id, i] of this.#slotOf) {
      if (this.#seen.has(id)) continue;
      this.#slotOf.delete(id);
      slots[i] = { id: 0, passing: "left", use: 0, operation: "" };
    }
    for (const connection of frame.connections) {
      const i = this.#slotOf.get(connection.id);
      if (i === undefined) this.#assign(connection.id, max);
      else if (i >= max) this.#moveDown(connection.id, i, max);
    }
    this.#pass(frame, max);
    this.#resize(Math.max(max, slots.length));
    for (let i = 0; i < this.#cells.length; i++) if (slots[i]?.id === 0 || !slots[i]) this.#drawPassing(i, slots[i]?.passing ?? "", max);
    for (const connection of frame.connections) this.#drawConnection(connection, this.#slotOf.get(connection.id), max);
    // A probe may exceed pool.max; its place disappears with it.
    while (slots.length > max && slots.at(-1).id === 0 && slots.at(-1).passing === "") slots.pop();
  }

  #place(i) {
    while (this.#slots.length <= i) this.#slots.push({ id: 0, passing: "", use: 0, operation: "" });
    return this.#slots[i];
  }

  // A new connection takes the place of one that was being opened, or was pinged, if there is one.
  #assign(id, max) {
    let found = -1;
    for (let i = 0; i < Math.max(max, this.#slots.length); i++) {
      const slot = this.#place(i);
      if (slot.id !== 0) continue;
      if (slot.passing === "opening") {
        found = i;
        break;
      }
      if (found < 0) found = i;
    }
    if (found < 0) found = this.#slots.length;
    Object.assign(this.#place(found), { id, passing: "", use: 0, operation: "" });
    this.#slotOf.set(id, found);
  }

  // After pool.max was lowered, connections move into the places that are left.
  #moveDown(id, from, max) {
    const to = this.#slots.findIndex((slot, i) => i < max && slot.id === 0);
    if (to < 0) return;
    this.#slots[to] = this.#slots[from];
    this.#slots[from] = { id: 0, passing: "", use: 0, operation: "" };
    this.#slotOf.set(id, to);
  }

  // Distributes the counts over the free places. A place keeps what it shows while the count allows it.
  #pass(frame, max) {
    const left = { opening: frame.opening, closing: frame.closing, validating: frame.validating };
    const free = [];
    for (let i = 0; i < Math.max(max, this.#slots.length); i++) {
      const slot = this.#place(i);
      if (slot.id !== 0) continue;
      if (left[slot.passing] > 0) left[slot.passing] -= 1;
      else free.push(slot);
    }
    // Connections close or are pinged where one has just left the list.
    free.sort((a, b) => (b.passing === "left") - (a.passing === "left"));
    for (const state of ["closing", "validating", "opening"]) {
      for (; left[state] > 0; left[state] -= 1) (free.shift() ?? this.#place(this.#slots.length)).passing = state;
    }
    for (const slot of free) slot.passing = "";
  }

  #drawPassing(i, passing, max) {
    const cell = this.#cells[i];
    const state = passing === "" || passing === "left" ? "free" : passing;
    setAttribute(cell.node, "data-state", state);
    setAttribute(cell.node, "data-extra", i >= max ? "true" : null);
    setText(cell.glyph, GLYPHS[state]);
    setText(cell.name, state);
    setText(cell.meta, "");
    setText(cell.id, "");
    setScale(cell.fill, "X", 0);
    setAttribute(cell.node, "title", null);
  }

  #drawConnection(connection, i, max) {
    const cell = this.#cells[i];
    const slot = this.#slots[i];
    const held = connection.state !== "idle";
    slot.use += ((held ? 1 : 0) - slot.use) * MEMORY;
    if (held) slot.operation = connection.operation;
    const short = held ? connection.forMs < STEADY_MS : connection.forMs < RECENT_MS && slot.use >= 0.05;
    const state = short && connection.state !== "stranded" ? "in-use" : connection.state;
    setAttribute(cell.node, "data-state", state);
    setAttribute(cell.node, "data-short", short ? "true" : null);
    setAttribute(cell.node, "data-extra", i >= max ? "true" : null);
    setText(cell.glyph, GLYPHS[state]);
    if (short) {
      setText(cell.name, slot.operation || "in use");
      setText(cell.meta, slot.use < 0.05 ? "< 5 %" : percent(Math.round(slot.use * 20) / 20));
    } else {
      setText(cell.name, held ? connection.operation : "idle");
      setText(cell.meta, age(connection.forMs < 10_000 ? Math.floor(connection.forMs / 500) * 500 || connection.forMs : connection.forMs));
    }
    setText(cell.id, `#${connection.id}`);
    setScale(cell.fill, "X", held && !short ? 1 : slot.use);
    setAttribute(cell.node, "title", `connection ${connection.id}${connection.request ? `, request ${connection.request}` : ""}`);
  }

  // More places than cells: each cell stands for several, sorted by state.
  #drawAggregate(frame, max) {
    const per = Math.ceil(max / CELLS);
    const cells = Math.ceil(max / per);
    this.#slotOf.clear();
    this.#slots.length = 0;
    this.#resize(cells);
    setText(this.#note, `A cell stands for ${per} connections, sorted by state.`);
    let i = 0;
    const draw = (state, amount) => {
      for (let rest = amount; rest > 0 && i < cells; rest -= per, i++) {
        const cell = this.#cells[i];
        setAttribute(cell.node, "data-state", state);
        setAttribute(cell.node, "title", null);
        setText(cell.glyph, GLYPHS[state]);
        setText(cell.name, "");
        setText(cell.meta, "");
        setScale(cell.fill, "X", state === "free" ? 0 : Math.min(1, rest / per));
      }
    };
    draw("stranded", frame.stranded);
    draw("in-use", Math.max(0, frame.inUse - frame.stranded));
    for (const state of ["opening", "validating", "closing", "idle"]) draw(state, frame[state]);
    draw("free", Infinity);
  }
}

// Rows of equal length where possible, at most six large cells in a row.
function columnsFor(max) {
  return Math.max(Math.min(3, max), Math.ceil(max / Math.ceil(max / 6)));
}
