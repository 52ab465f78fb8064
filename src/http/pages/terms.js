// Explains a term on hover, focus and touch, in one pattern for the whole page.

import { el } from "./dom.js";
import { GLOSSARY } from "./glossary.js";

const ID = "term-tip";
const CLOSE_DELAY_MS = 250;

let tip = null;
let current = null;
let timer = 0;

// A word with an explanation. It is a button, so that keyboards and touch screens reach it.
export function term(name, text) {
  const button = el("button", "term", text);
  button.type = "button";
  button.dataset.term = name;
  return button;
}

function open(button) {
  clearTimeout(timer);
  if (current === button) return;
  close();
  const entry = GLOSSARY[button.dataset.term];
  if (!entry) return;
  current = button;
  const [title, text, link, label] = entry;
  const more = el("a", null, label ?? "Documentation of the pool");
  more.href = link;
  tip.replaceChildren(el("strong", null, title), el("span", null, text), more);
  button.setAttribute("aria-expanded", "true");
  button.setAttribute("aria-describedby", ID);
  // The explanation follows its term in the document, so that Tab leads to its link. A heading keeps its name.
  (button.closest("h2, h3") ?? button).after(tip);
  tip.hidden = false;
  place(button);
}

// Layout is read only while an explanation is open.
function place(button) {
  const from = button.getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(from.left, document.documentElement.clientWidth - size.width - 8));
  const below = from.bottom + 6;
  const top = below + size.height > innerHeight - 8 && from.top > size.height + 14 ? from.top - size.height - 6 : below;
  tip.style.left = `${Math.round(left)}px`;
  tip.style.top = `${Math.round(top)}px`;
}

function close() {
  clearTimeout(timer);
  if (!current) return;
  current.removeAttribute("aria-expanded");
  current.removeAttribute("aria-describedby");
  current = null;
  tip.hidden = true;
}

function closeSoon() {
  clearTimeout(timer);
  // A short delay, so that the pointer can move from the term to the link.
  timer = setTimeout(() => {
    const focused = document.activeElement;
    if (focused !== current && !tip.contains(focused)) close();
  }, CLOSE_DELAY_MS);
}

const termOf = (target) => (target instanceof Element ? target.closest(".term") : null);

// Listeners are on the document: terms that are added later work too, and none is registered twice.
export function startTerms() {
  if (tip) return;
  tip = el("span", "tip");
  tip.id = ID;
  tip.setAttribute("role", "note");
  tip.hidden = true;
  document.body.append(tip);
  let wasOpen = null;
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    const button = termOf(event.target);
    if (button) open(button);
    else if (tip.contains(event.target)) clearTimeout(timer);
    else if (current) closeSoon();
  });
  document.addEventListener("focusin", (event) => {
    const button = termOf(event.target);
    if (button) open(button);
    else if (!tip.contains(event.target)) close();
  });
  document.addEventListener("pointerdown", (event) => {
    wasOpen = event.pointerType === "touch" ? current : null;
    if (current && !termOf(event.target) && !tip.contains(event.target)) close();
  });
  document.addEventListener("click", (event) => {
    const button = termOf(event.target);
    if (!button) return;
    if (button === wasOpen) close();
    else open(button);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !current) return;
    const button = current;
    if (tip.contains(document.activeElement)) button.focus();
    close();
  });
  // Focus can scroll the page after it has opened an explanation, therefore it moves with its term.
  addEventListener("scroll", () => {
    if (!current) return;
    const box = current.getBoundingClientRect();
    if (box.bottom < 0 || box.top > innerHeight) close();
    else place(current);
  }, { passive: true });
}
