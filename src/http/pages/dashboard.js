// The entry of the dashboard: connects the stream of the pool with the parts of the page.

import { clearKey, getKey, keys, setKey } from "./api.js";
import { Connections } from "./connections.js";
import { setAttribute, setHidden, setText } from "./dom.js";
import { count } from "./format.js";
import { Health } from "./health.js";
import { Histogram } from "./histogram.js";
import { History } from "./history.js";
import { Panels } from "./panels.js";
import { Queue } from "./queue.js";
import { Recent } from "./recent.js";
import { Series } from "./series.js";
import { LiveStream } from "./stream.js";
import { startTerms } from "./terms.js";

const recent = new Recent();
const series = new Series();
const health = new Health();
const connections = new Connections();
const queue = new Queue();
const histograms = [new Histogram("wait", document.getElementById("wait")), new Histogram("use", document.getElementById("use"))];
const history = new History();
const panels = new Panels();
const poolStream = new LiveStream("pool/live", "pool");

const byId = (id) => document.getElementById(id);
const stateBadge = byId("stream-state");
const keyForm = byId("key-form");
const keyInput = byId("key");

let frame = null;
let time = 0;
let renders = 0;
let secondChanged = false;
let scheduled = false;
let labStarted = false;
let silence = 0;
// Whether the last key that was entered is not accepted.
let rejected = false;

function render() {
  scheduled = false;
  if (!frame) return;
  const start = performance.now();
  health.update(frame, time);
  connections.update(frame);
  queue.update(frame, recent);
  // Pictures move with every frame. Figures and tables that change that often cannot be read.
  if (renders % 2 === 0) {
    panels.drawFigures(frame, recent);
    for (const histogram of histograms) histogram.update(frame, recent);
  }
  if (renders % 4 === 0) {
    connections.drawHolders(frame);
    queue.drawWaiters(frame);
    panels.drawTables(frame, recent);
  }
  renders += 1;
  if (secondChanged) {
    secondChanged = false;
    health.drawPast(series);
    history.draw(series, frame);
  }
  setText(byId("service"), frame.name);
  setText(byId("engine"), frame.engine + (frame.pooler ? `, pooler in ${frame.pooler} mode` : ""));
  setText(byId("viewers"), count(frame.viewers));
  setHidden(byId("viewers-item"), false);
  // Visible in the profiler of the browser; check.mjs reads it.
  performance.measure("render", { start, end: performance.now() });
  performance.clearMeasures("render");
}

async function startLab() {
  labStarted = true;
  const section = byId("lab");
  try {
    const lab = await import("./lab.js");
    lab.startLab(section, { pool: poolStream });
    section.hidden = false;
  } catch (error) {
    // The rest of the page works without the controls of the demo.
    console.warn("the controls of the demo cannot be shown", error);
  }
}

function stopSilence() {
  clearTimeout(silence);
  silence = 0;
}

poolStream.addEventListener("frame", ({ detail }) => {
  frame = detail;
  time = recent.push(frame);
  if (series.push(frame, time, recent)) secondChanged = true;
  health.track(frame, time);
  stopSilence();
  setHidden(keyForm, true);
  setAttribute(document.body, "data-stream", "live");
  if (frame.demo && !labStarted) startLab();
  // Several frames may arrive at once after the page was busy: only the last one is drawn.
  if (!scheduled) {
    scheduled = true;
    requestAnimationFrame(render);
  }
});

const STREAM_TEXT = { connecting: "connecting", open: "live", closed: "reconnecting" };

poolStream.addEventListener("state", ({ detail }) => {
  const keyMissing = !keyForm.hidden && detail === "closed";
  setText(stateBadge, document.hidden ? "paused" : keyMissing ? "key required" : STREAM_TEXT[detail]);
  setAttribute(stateBadge, "data-state", detail);
  setHidden(byId("forget-key"), getKey() === null);
  if (document.hidden || keyMissing) stopSilence();
  // The timer continues through failed attempts; only a frame, a pause or a missing key ends it.
  if (detail === "open" || document.hidden || keyMissing || silence !== 0) return;
  // A reconnection takes 1 to 2 seconds. Only a longer one is worth an alarm.
  silence = setTimeout(() => {
    if (frame) setAttribute(document.body, "data-stream", "lost");
    health.disconnected(`The service does not respond.${frame ? " The values below are old." : ""} Connecting again …`);
  }, frame ? 2500 : 1500);
});

poolStream.addEventListener("unauthorized", ({ detail }) => {
  const hadKey = getKey() !== null;
  if (hadKey || !rejected) setText(byId("key-problem"), detail.problem?.detail ?? detail.message);
  if (hadKey && detail.status === 401) {
    rejected = true;
    // Not kept: it would be refused again.
    clearKey();
  }
  const title = detail.status === 403 ? "This key lacks the scope ops:read" : rejected ? "This key is not accepted" : "An API key is required";
  setText(byId("key-title"), title);
  keyForm.hidden = false;
  health.disconnected("An API key is required.");
  setAttribute(document.body, "data-stream", "key");
  keyInput.focus();
});

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const key = keyInput.value.trim();
  keyInput.value = "";
  if (key === "") return;
  rejected = false;
  setKey(key);
});
byId("forget-key").addEventListener("click", () => clearKey());
keys.addEventListener("change", () => setHidden(byId("forget-key"), getKey() === null));

startTerms();
poolStream.start();
