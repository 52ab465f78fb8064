// Creates DOM elements, for the lab and the tour.
import { count } from "./format.js";

// Creates an element. Properties with a dash (and "role", "for") become attributes; strings become text nodes, never HTML.
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name.includes("-") || ["role", "for", "list", "scope", "colspan"].includes(name)) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

// Sets text only when it differs, so that live regions and selections are not disturbed four times a second.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A factor of at least 1, as text.
export function times(factor) {
  const rate = factor < 1 ? 1 / factor : factor;
  return rate >= 10 ? count(rate) : rate.toFixed(1);
}
