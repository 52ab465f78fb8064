// The lab of the demo mode: controls, the comparison before/after a change, and the guided tour.
import { Comparison } from "./comparison.js";
import { DemoClient, errorText } from "./lab-client.js";
import { Controls, groups } from "./lab-controls.js";
import { element, setText } from "./lab-dom.js";
import { Tour } from "./tour.js";

const labels = new Map(groups.flatMap((group) => group.controls).map((spec) => [spec.field, spec.label]));

function addStyle() {
  const url = new URL("lab.css", import.meta.url).href;
  if ([...document.querySelectorAll("link[rel=stylesheet]")].some((link) => link.href === url)) return;
  document.head.append(element("link", { rel: "stylesheet", href: url }));
}

const shown = (value) => (value === true ? "on" : value === false ? "off" : String(value));

// "max 10 → 1, min 2 → 1"
function describe(before, after) {
  return Object.keys(after)
    .filter((field) => before[field] !== after[field])
    .map((field) => `${labels.get(field) ?? field} ${shown(before[field])} → ${shown(after[field])}`)
    .join(", ");
}

// Builds the lab in `section`. `pool` emits `frame` events with the frames of `pool/live`.
export function startLab(section, { pool }) {
  addStyle();
  const client = new DemoClient(pool);
  const comparison = new Comparison();
  const status = element("p", { class: "note lab-status", role: "status" });
  const simulation = element("p", { class: "note lab-simulation" });
  const lost = element("p", { class: "lab-error", role: "status" });
  const tourPlace = element("div");
  let settings = null;
  let touring = false;
  // Settings that this page has changed: a frame that shows them is not a change by another page.
  let own = 0;

  const controls = new Controls((changes) => client.patch(changes));
  controls.disabled = true;
  controls.addEventListener("send", (event) => {
    own = performance.now();
    setText(status, "");
    const after = { ...settings, ...event.detail };
    const text = describe(settings, after);
    if (text) comparison.mark(Object.keys(event.detail)[0], text);
  });
  controls.addEventListener("refused", (event) => {
    const { control, error } = event.detail;
    const before = settings[control.spec.field];
    control.fail(`${errorText(error, control.spec.field)} – the value stays ${shown(before)}.`);
    setText(status, `${control.spec.label}: the change is refused.`);
    comparison.clear("The last change was refused; nothing has changed.");
  });

  client.addEventListener("demo", (event) => {
    const demo = event.detail;
    if (settings && !touring && !controls.busy && performance.now() - own > 1000) {
      const text = describe(settings, demo.settings);
      if (text) {
        controls.clearErrors();
        comparison.mark("other", `${text} (changed by another page)`);
      }
    }
    if (!settings) {
      controls.disabled = false;
      for (const button of buttons) button.disabled = false;
      tour.enable();
    }
    settings = demo.settings;
    controls.sync(demo);
    comparison.frame(demo.load);
    const running = [];
    if (demo.outageMs > 0) running.push(`the database does not respond for another ${Math.ceil(demo.outageMs / 1000)} s`);
    if (demo.slowStatementMs > 0) running.push(`a slow statement holds a connection for another ${Math.ceil(demo.slowStatementMs / 1000)} s`);
    setText(simulation, running.length ? `Simulated now: ${running.join("; ")}.` : "");
  });

  let silence = 0;
  client.stream.addEventListener("state", (event) => {
    if (event.detail === "open" || document.hidden) {
      clearTimeout(silence);
      silence = 0;
      setText(lost, "");
    } else if (!silence) {
      // The state changes with each attempt to connect: only the first one starts the time.
      silence = setTimeout(() => setText(lost, "The demo does not respond. The figures are old. Connecting again …"), 2500);
    }
  });

  async function act(key, text, action) {
    own = performance.now();
    comparison.mark(key, text);
    try {
      await action();
      setText(status, "");
    } catch (error) {
      setText(status, `${text}: ${errorText(error)}`);
    }
  }

  function reset() {
    controls.clearErrors();
    act("reset", "Reset to the defaults", async () => {
      await client.outage(0);
      await client.patch(client.demo.defaults);
    });
  }

  const button = (text, onclick) => element("button", { type: "button", class: "button", disabled: true, onclick }, text);
  const buttons = [
    button("The database stops for 5 s", () => act("outage", "The database stops for 5 s (simulated)", () => client.outage(5))),
    button("A slow statement holds a connection for 5 s", () => act("slow", "A slow statement holds a connection for 5 s (simulated)", () => client.slowStatement(5))),
    button("Reset", reset),
  ];

  const tour = new Tour(client, {
    // One thing at a time: the card and the pool's figures stay close together.
    onopen(open) {
      details.open = !open;
    },
    // Changes by the user would spoil a measurement: the controls are locked while a step runs.
    onrun(running) {
      touring = running;
      controls.disabled = running;
      for (const item of buttons) item.disabled = running;
      lock.hidden = !running;
      own = performance.now();
      comparison.clear(running ? "The tour changes the settings." : "Change a setting: its effect appears here within two seconds.");
      if (running) controls.clearErrors();
    },
  });
  tourPlace.append(tour.node);

  const lock = element("p", { class: "note", hidden: true }, "The controls are locked while a step of the tour runs.");
  const about = element("p", {}, "Change a setting and see what it does. The clients run inside the process and call the service layer directly, without HTTP; all figures are of this machine.");
  const legend = element("p", { class: "note lab-legend" }, element("span", { class: "badge" }, "simulated"),
    " The clients, the latency of the database, the outage and the slow statement are simulated. Everything above them is real: queue, timeouts, health checks and batching.");

  const heading = section.querySelector("h2") ?? section.appendChild(element("h2", {}, "Lab"));
  heading.id ||= "lab-title";
  section.classList.add("card");
  section.setAttribute("aria-labelledby", heading.id);
  const details = element("details", { class: "lab-details", open: true }, element("summary", {}, "Controls"),
    element("div", { class: "lab-columns" },
      element("div", { class: "lab-controls" }, controls.fieldsets, lock),
      element("div", { class: "lab-side" },
        element("div", { class: "lab-effect" }, element("h3", {}, "Effect of the last change"), comparison.node),
        element("div", { class: "lab-events" }, element("h3", {}, "Events ", element("span", { class: "badge" }, "simulated")),
          element("div", { class: "lab-buttons" }, buttons), simulation, status))));
  section.append(about, legend, lost, tourPlace, details);
  return { client, tour };
}
